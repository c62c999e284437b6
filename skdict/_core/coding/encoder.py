"""Codes by a trained encoder, without the dense matrix of pre-activations where that is slower."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F

from ..kernels import Support, encode
from .codes import SparseCodes
from .selection import SELECTIONS


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
    selection : {"positive", "absolute", "signed", "groups"}
        Which entries may be kept. "positive" is the rule above. Of those that other libraries
        use: the ``n_largest`` by absolute value; with whatever sign, by value or above a θ that
        may be negative; the positive maximum of each of ``n_largest`` groups.
    divisor : tensor of shape (n_components,) or None
        What the entries that are kept are divided by.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    threshold: torch.Tensor | None = None
    n_largest: int | None = None
    selection: str = "positive"
    divisor: torch.Tensor | None = None

    def mapped(self, move):
        """The same with ``move(tensor)`` for each of its tensors."""
        parts = vars(self).items()
        return replace(self, **{name: move(part) for name, part in parts if torch.is_tensor(part)})

    def scaled(self, factor, bias):
        """The encoder that gives codes times a factor, in float64 and rounded once.

        Parameters
        ----------
        factor : tensor of shape (n_components,) or None
            None is 1.
        bias : tensor of shape (n_components,), float64
            To be used instead of its own.

        Returns
        -------
        encoder : Encoder
        """
        to, weight, threshold = self.weight.dtype, self.weight, self.threshold
        if factor is not None:
            factor = factor.double()
            weight, bias = (factor[:, None] * weight).to(to), factor * bias
            threshold = None if threshold is None else (factor * threshold).to(to)
        return replace(self, weight=weight, bias=bias.to(to), threshold=threshold)

    @property
    def signed(self):
        """Whether codes may be negative."""
        return self.selection in ("absolute", "signed")

    @property
    def slopes(self):
        """Weight and divisor: where a code is active, it is linear in the centred row."""
        return self.weight, self.divisor

    @property
    def width(self):
        """Most entries that are held for a row."""
        is_sparse = self.n_largest is not None and self.selection == "positive"
        return self.n_largest if is_sparse else len(self.weight)

    @torch.no_grad()
    def __call__(self, centred):
        """Codes of rows (B, n_features) from which the intercept has been subtracted.

        The intercept is subtracted from the data rather than folded into the bias: x may lie far
        from the origin, where float32 would lose the last digits of the product.
        """
        if self.selection == "positive":
            counts, indices, values = self._code(centred)
            indptr = F.pad(counts.cumsum(0), (1, 0))
            codes = SparseCodes(Support(indptr, indices, len(self.weight)), values)
        else:
            select = SELECTIONS[self.selection]
            p = F.linear(centred, self.weight, self.bias)
            codes = SparseCodes.of(select(p, self.threshold, self.n_largest))
        if self.divisor is not None:
            codes.values = codes.values / self.divisor[codes.support.indices]
        return codes

    @cached_property
    def _code(self):
        return encode(self.weight, self.bias, self.n_largest, self.threshold)
