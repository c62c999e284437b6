"""What all solvers share."""

# The largest alpha that is trained with, where samples have a norm of about sqrt(n_features): the
# best code of all of them is zero then, and with more it would overflow.
MAX_ALPHA = 1e6


def alpha_in_training(alpha, scale):
    """The coefficient for samples that have been divided by ``scale``."""
    return min(alpha / scale, MAX_ALPHA)
