"""Codes by the nearest codeword of each codebook."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..kernels import Support, linear
from ..kernels.scaling import unit_factors
from .codes import SparseCodes


@dataclass
class Codebook:
    """Codebooks, each for what those before it leave over: the encoder of "kmeans".

    Parameters
    ----------
    atoms : tensor of shape (n_components, n_features)
        Directions of the codewords, one codebook after the other.
    norms : tensor of shape (n_components,)
        Their norms: the code of an atom where it is the nearest.
    sizes : list of int
        Number of codewords of each codebook.
    """

    atoms: torch.Tensor
    norms: torch.Tensor
    sizes: list

    def mapped(self, move):
        """The same with ``move(tensor)`` for each of its tensors."""
        return Codebook(move(self.atoms), move(self.norms), self.sizes)

    @property
    def width(self):
        """Most entries that are held for a row: its products with a codebook."""
        return max(self.sizes)

    def __call__(self, centred):
        """Codes of centred rows (B, d): of each codebook the norm of the nearest codeword."""
        found, first, x = [], 0, centred
        for size in self.sizes:
            book = self.atoms[first : first + size]
            norm = self.norms[first : first + size]
            # ‖x - norm u‖² is least where norm (u·x - norm / 2) is largest; nothing may overflow
            relative = norm / norm.max().clamp_min(torch.finfo(x.dtype).tiny)
            unit = unit_factors(torch.maximum(x.abs().amax(dim=1, keepdim=True), norm.max()))
            nearest = (relative * (linear(x * unit, book) - 0.5 * norm * unit)).argmax(dim=1)
            found.append(first + nearest)
            x = x - norm[nearest, None] * book[nearest]
            first += size
        indices = torch.stack(found, dim=1)  # (B, n_codebooks), ascending
        values = self.norms[indices]
        active = values != 0
        indptr = F.pad(active.sum(dim=1).cumsum(0), (1, 0))
        return SparseCodes(Support(indptr, indices[active], len(self.atoms)), values[active])
