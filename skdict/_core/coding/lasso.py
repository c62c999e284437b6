"""Lasso codes of a batch, each with a bound on how far its objective is from the optimum.

    min over z:   ½‖x - z D‖² + α‖z‖₁,   z >= 0 if `positive`

Samples and atoms are brought to entries of about 1 first: with x scaled by σ and D by δ the same
problem has the coefficient σδα and the codes zσ / δ. The rest is `kernels.lasso`.
"""

import copy
import math

import torch
import torch.nn.functional as F

from ..kernels import Support, lasso, unit_rows
from ..kernels.scaling import LARGEST, unit_factors
from .base import Coder, register
from .codes import SparseCodes

# The smallest alpha, as a fraction of a sample's largest correlation. With less, steps among atoms
# that depend on each other get too short (`kernels.tolerances.MIN_PIVOT`).
SMALLEST_ALPHA = {torch.float32: 1e-6, torch.float64: 1e-8}


class Lasso:
    """Codes of the rows of x that minimise the objective.

    Parameters
    ----------
    dictionary : tensor of shape (n, d), float32 or float64
    alpha : float
        Raised to `SMALLEST_ALPHA` times a sample's largest correlation where it is less; the gap
        is that of the alpha given.
    positive : bool
    tol : float
        Largest duality gap, as a fraction of the objective.
    max_iter : int
        How often atoms may enter the working set of a sample.
    """

    def __init__(self, dictionary, alpha, *, positive=True, tol=1e-4, max_iter=1000):
        self.dtype = dictionary.dtype
        sizes = dictionary.abs().amax(dim=1)
        factor = unit_factors(sizes.max())
        extremes = (torch.where(sizes == 0, 1 / factor, sizes) * factor).aminmax()
        smallest, largest, self.factor = torch.stack([*extremes, factor]).tolist()
        limits = torch.finfo(dictionary.dtype)
        if smallest < (limits.tiny / limits.eps) ** 0.5:  # squares of these lose digits
            dictionary = dictionary.double()
        # no gap is certain where atoms vanish beside the largest, or are not finite
        lost = smallest < limits.tiny / limits.eps and dictionary.dtype == self.dtype
        self.is_certain = math.isfinite(largest) and not lost
        dictionary = dictionary.contiguous() * factor
        self.n_components = len(dictionary)
        self.alpha = alpha
        self.compute_dtype = dictionary.dtype
        self.code = lasso(
            dictionary,
            dtype=self.dtype,
            least_alpha=SMALLEST_ALPHA[dictionary.dtype],
            positive=positive,
            tol=tol,
            max_iter=max_iter,
        )

    @torch.no_grad()
    def __call__(self, x, start=None):
        """Code the rows of x (B, d).

        Parameters
        ----------
        start : (Support, values) or None
            Codes to start from, without zeros.

        Returns
        -------
        support : Support
        values : tensor of shape (nnz,)
        gaps : tensor of shape (B,), float64
            Duality gap over objective of the codes as they are returned, 0 where both are.
        """
        x = x.to(self.compute_dtype)
        x, alpha, of_codes = unit_rows(x, self.alpha, self.factor)
        if start is None:
            none = torch.zeros(len(x) + 1, dtype=torch.int64, device=x.device)
            support = Support(none, none[:0], self.n_components)
            values = torch.empty(0, dtype=torch.float64, device=x.device)
        else:
            support, values = start
            values = values.double() / of_codes[support.rows]
            values = torch.where(values.abs() < LARGEST, values, 0)
        counts, indices, values, gaps = self.code(x, alpha, of_codes, support, values)
        if not self.is_certain:
            gaps = torch.full_like(gaps, torch.nan)
        indptr = F.pad(counts.cumsum(0), (1, 0))
        return Support(indptr, indices, self.n_components), values, gaps


@register("lasso")
class LassoCoder(Coder):
    """Lasso codes; its Gram matrix is made once."""

    uses = frozenset({"alpha"})

    def __init__(
        self, atoms, *, alpha=None, n_nonzero_coefs=None, positive=True, tol=1e-4, max_iter=1000
    ):
        alpha = 1.0 if alpha is None else float(alpha)
        self.positive = positive
        self.lasso = Lasso(atoms, alpha, positive=positive, tol=tol, max_iter=max_iter)

    def at(self, alpha):
        other = super().at(alpha)
        other.lasso = copy.copy(self.lasso)
        other.lasso.alpha = other.alpha
        return other

    def __call__(self, centred, start=None):
        if start is not None:
            start = Support.of(start.clamp_min(0) if self.positive else start)
        return SparseCodes(*self.lasso(centred, start))
