"""What the architectures that keep k entries of each sample share."""

import torch

from ...coding.selection import SELECTIONS
from .base import Architecture


class Largest(Architecture):
    """Base of those whose codes are the entries that a rule of `coding.selection` keeps.

    Parameters
    ----------
    k : int, default=None
        How many are kept.
    """

    distributed = True

    def __init__(self, k=None):
        self.k = k

    def validate(self):
        self._require_k()

    @property
    def n_largest(self):
        return self.k

    def select(self, scan, state, n_rows):
        return scan(k=self.k, selection=self.selection)

    def values(self, pre_activations, state, n_rows):
        if pre_activations.dim() == 1:  # a support holds only what is kept
            return pre_activations
        keep = SELECTIONS[self.selection]
        kept = keep(pre_activations.detach(), None, self.k) != 0
        return torch.where(kept, pre_activations, 0)
