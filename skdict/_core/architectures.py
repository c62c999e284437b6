"""The variants of the sparse autoencoder: the one file that a new variant touches.

A variant is a class with a docstring that states its equation, registered in `ARCHITECTURES`.
It says which pre-activations are active, what value they take, and what the objective charges
for them; everything else is shared. Its methods see pre-activations as a flat tensor of the
entries at the support or as a dense matrix, whichever is faster at the moment.
"""

import torch


class ReLU:
    """ReLU code under an L1 penalty ("Towards Monosemanticity", Bricken et al. 2023).

    z = max(0, (x - b) W_encᵀ + b_enc), penalty α Σ_j z_j.
    """

    def active(self, pre_activations):
        """Which pre-activations give a non-zero code: a boolean mask."""
        return pre_activations > 0

    def values(self, pre_activations):
        """The code, differentiable in the pre-activations."""
        return torch.relu(pre_activations)

    def penalty(self, values, alpha):
        """What the objective adds to the squared error, summed over the samples given."""
        return alpha * values.sum()


ARCHITECTURES = {"relu": ReLU}
