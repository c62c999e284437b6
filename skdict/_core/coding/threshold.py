"""Codes by soft thresholding of the correlations with the atoms."""

import torch

from ..kernels import linear
from ..kernels.scaling import scaled, unit_factors
from .base import Coder, check_in_range, register
from .codes import SparseCodes


@register("threshold")
class Threshold(Coder):
    """z = max(0, x Dᵀ - α), or with both signs: the Lasso's solution where atoms are orthogonal.

    Rows and atoms are brought to entries of about 1 first, so that no product overflows.
    """

    uses = frozenset({"alpha"})
    linear = True

    def __init__(
        self, atoms, *, alpha=None, n_nonzero_coefs=None, positive=True, tol=1e-4, max_iter=1000
    ):
        self.alpha = 1.0 if alpha is None else float(alpha)
        self.positive = positive
        self.factor = unit_factors(atoms.abs().max())
        self.atoms = atoms * self.factor

    def __call__(self, centred, start=None):
        of_rows = unit_factors(centred.abs().amax(dim=1, keepdim=True))
        correlations = linear(centred * of_rows, self.atoms)
        of_rows, of_atoms = of_rows.double(), self.factor.double()
        bound = scaled(self.alpha, of_rows, of_atoms).to(centred.dtype)
        codes = torch.relu(correlations - bound)
        if not self.positive:
            codes -= torch.relu(-correlations - bound)
        codes = SparseCodes.of(codes)
        values = codes.values.double() / of_atoms / of_rows[codes.support.rows, 0]
        return SparseCodes(codes.support, check_in_range(values.to(centred.dtype), self.name))
