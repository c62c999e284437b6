"""The k largest of each sample."""

import torch

from .base import Architecture
from .registry import register
from .relu import ReLU


@register("topk")
class TopK(Architecture):
    """The k largest pre-activations of each sample (Makhzani and Frey 2013; Gao et al. 2024).

    z = max(0, TopK(p)), no penalty.

    The first half of a fit from scratch trains a `ReLU` with ``alpha``, where every feature that
    fires gets a gradient: one that is never among the k largest gets none, and dies.

    Parameters
    ----------
    k : int, default=None
        Largest number of non-zero entries of a code. None takes the estimator's
        ``n_nonzero_coefs``, or else a tenth of the features.
    """

    first_variant_until = 0.5

    def __init__(self, k=None):
        self.k = k

    def validate(self):
        self._require_k()

    def first_variant(self):
        return ReLU()

    def select(self, scan, state, n_rows):
        return scan(k=self.k)

    def values(self, pre_activations, state, n_rows):
        if pre_activations.dim() == 2:  # dense; a support holds only the largest
            return self.codes(pre_activations, None)
        return torch.relu(pre_activations)

    def codes(self, pre_activations, threshold):
        largest = pre_activations.detach().topk(self.k, dim=1, sorted=False).indices
        mask = torch.zeros_like(pre_activations, dtype=torch.bool).scatter_(1, largest, True)
        return torch.where(mask, torch.relu(pre_activations), 0)
