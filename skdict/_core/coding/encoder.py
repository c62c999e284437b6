"""Codes by a trained encoder, without the dense matrix of pre-activations where that is slower."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from ..kernels import Support, cpu_has
from .codes import SparseCodes

# With fewer rows than these it does not pay to round the weight to 8 bits.
MIN_SCANNED_ROWS = 64
MIN_SCANNED_COMPONENTS = 512


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

    def to(self, **to):
        """The same in another dtype or on another device."""
        threshold = None if self.threshold is None else self.threshold.to(**to)
        return Encoder(self.weight.to(**to), self.bias.to(**to), threshold, self.n_largest)

    @torch.no_grad()
    def __call__(self, centred):
        """Codes of rows (B, n_features) from which the intercept has been subtracted.

        The intercept is subtracted from the data rather than folded into the bias: x may lie far
        from the origin, where float32 would lose the last digits of the product.
        """
        found = None
        if self._scans(centred):
            found = self._scan(centred, self.n_largest, self.threshold)
        if found is None:
            found = encode_plainly(centred, self.weight, self.bias, self.n_largest, self.threshold)
        counts, indices, values = found
        indptr = F.pad(counts.cumsum(0), (1, 0))
        return SparseCodes(Support(indptr, indices, len(self.weight)), values)

    def _scans(self, centred):
        return (
            centred.device.type == "cpu"
            and centred.dtype == torch.float32
            and len(centred) >= MIN_SCANNED_ROWS
            and len(self.weight) >= MIN_SCANNED_COMPONENTS
            and (self.n_largest is None or self.threshold is None)
            and cpu_has("vnni")
        )

    @cached_property
    def _scan(self):
        from ..kernels.cpu.encode import Scan  # Numba takes a moment to import

        return Scan(self.weight, self.bias)


def encode_plainly(centred, weight, bias, n_largest=None, threshold=None):
    """Codes from all pre-activations, in torch's operators, for any device.

    Returns
    -------
    counts : tensor of shape (B,), int64
        How many entries each row has.
    indices : tensor of shape (nnz,), int64
    values : tensor of shape (nnz,)
    """
    codes = F.linear(centred, weight, bias)  # (B, n)
    codes = codes.relu_() if threshold is None else torch.where(codes > threshold, codes, 0)
    if n_largest is None:
        active = codes > 0
        return active.sum(dim=1), active.nonzero()[:, 1], codes[active]
    values, indices = codes.topk(n_largest, dim=1, sorted=False)
    indices, order = indices.sort(dim=1)
    values = values.gather(1, order)
    active = values > 0
    return active.sum(dim=1), indices[active], values[active]
