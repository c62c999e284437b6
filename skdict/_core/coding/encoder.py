"""Codes by a trained encoder, without the dense matrix of pre-activations where that is slower."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from ..kernels import Support, encode
from .codes import SparseCodes


@dataclass
class Encoder:
    """An encoder in use: z_j = p_j where p_j > θ_j, else 0, with p = (x - b) W_encᵀ + b_enc.

    Parameters
    ----------
    weight : tensor of shape (n_components, n_features)
    bias : tensor of shape (n_components,)
    threshold : tensor of shape (n_components,) or None
        θ ≥ 0; None is zero.
    n_largest : int or None
        Keep only so many of the largest entries of each row.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    threshold: torch.Tensor | None = None
    n_largest: int | None = None

    def mapped(self, move):
        """The same with ``move(tensor)`` for each of its tensors."""
        threshold = None if self.threshold is None else move(self.threshold)
        return Encoder(move(self.weight), move(self.bias), threshold, self.n_largest)

    @property
    def width(self):
        """Most entries that are held for a row."""
        return len(self.weight) if self.n_largest is None else self.n_largest

    @torch.no_grad()
    def __call__(self, centred):
        """Codes of rows (B, n_features) from which the intercept has been subtracted.

        The intercept is subtracted from the data rather than folded into the bias: x may lie far
        from the origin, where float32 would lose the last digits of the product.
        """
        counts, indices, values = self._code(centred)
        indptr = F.pad(counts.cumsum(0), (1, 0))
        return SparseCodes(Support(indptr, indices, len(self.weight)), values)

    @cached_property
    def _code(self):
        return encode(self.weight, self.bias, self.n_largest, self.threshold)
