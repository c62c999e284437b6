"""The variants of the sparse autoencoder: the one file that a new variant touches.

A variant is a class with a docstring that states its equation, registered in `ARCHITECTURES`.
It says which pre-activations are active, what value they take, and what the objective charges
for them; everything else is shared. Its methods see pre-activations as a flat tensor of the
entries at the support or as a dense matrix, whichever is faster at the moment.

- ``parameters`` names the estimator's parameters that the constructor takes;
- ``has_margin`` says that raising pre-activations turns entries on but never off, and that
  `values` gives zero to those which should not have been: `select` may then err on that side.
"""

import torch


class ReLU:
    """ReLU code under an L1 penalty ("Towards Monosemanticity", Bricken et al. 2023).

    z = max(0, (x - b) W_encᵀ + b_enc), penalty α Σ_j z_j.
    """

    parameters = ()
    has_margin = True

    def during(self, progress):
        """The variant that is trained when a fraction ``progress`` of the steps is done."""
        return self

    def active(self, pre_activations):
        """Which pre-activations (B, n_components) give a non-zero code: a boolean mask."""
        return pre_activations > 0

    def values(self, pre_activations):
        """The code, differentiable in the pre-activations."""
        return torch.relu(pre_activations)

    def penalty(self, values, alpha):
        """What the objective adds to the squared error for each entry."""
        return alpha * values


class TopK:
    """The k largest pre-activations of each sample (Makhzani and Frey 2013; Gao et al. 2024).

    z = max(0, TopK((x - b) W_encᵀ + b_enc)), no penalty.

    For the first half of its training it is a `ReLU` under the L1 penalty, where every feature
    that fires gets a gradient: one that is never among the k largest gets none, and dies.

    Parameters
    ----------
    n_nonzero_coefs : int
        k.
    """

    parameters = ("n_nonzero_coefs",)
    has_margin = False

    def __init__(self, n_nonzero_coefs):
        self.n_nonzero_coefs = n_nonzero_coefs

    def during(self, progress):
        return self if progress > 0.5 else ReLU()

    def active(self, pre_activations):
        largest = pre_activations.topk(self.n_nonzero_coefs, dim=1, sorted=False).indices
        mask = torch.zeros_like(pre_activations, dtype=torch.bool)
        return mask.scatter_(1, largest, True)

    def values(self, pre_activations):
        values = torch.relu(pre_activations)
        if values.dim() == 2:  # dense; a support holds none but the largest
            values = values * self.active(pre_activations.detach())
        return values

    def penalty(self, values, alpha):
        return torch.zeros_like(values)


ARCHITECTURES = {"relu": ReLU, "topk": TopK}
