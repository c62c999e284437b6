"""Orthogonal matching pursuit of a batch (Pati, Rezaiifar and Krishnaprasad 1993)."""

import torch
import torch.nn.functional as F

from ..kernels import Support, omp
from ..kernels.scaling import unit_factors
from .base import Coder, check_in_range, register
from .codes import SparseCodes

# A correlation counts as zero below so many units of rounding, as a fraction of the sample's norm:
# the atom has been taken, or depends on those that have.
NO_CORRELATION = 16


class OrthogonalMatchingPursuit:
    """Codes of the rows of x by the atoms that correlate most with the residual.

    Atoms are taken one by one. After each, the codes of all atoms taken so far are fitted by least
    squares; if ``positive``, by non-negative least squares, and an atom whose code is zero leaves
    again.

    Parameters
    ----------
    dictionary : tensor of shape (n, d), float32 or float64
    n_nonzero : int
        Atoms of a sample, at most, where a call does not give it.
    square_tol : float
        A sample ends where ‖x - z D‖² is at most this.
    positive : bool
    """

    def __init__(self, dictionary, n_nonzero, *, square_tol=0.0, positive=True):
        # powers of two bring the norms of atoms to about 1; weights undo that where correlations
        # of different atoms are compared
        factors = unit_factors(dictionary.abs().amax(dim=1))
        dictionary = dictionary.contiguous() * factors[:, None]
        norms = torch.linalg.vector_norm(dictionary, dim=1)
        to_one = unit_factors(0.5**0.5 * norms)
        dictionary = dictionary.mul_(to_one[:, None])
        self.factors = factors.double() * to_one.double()
        factors = self.factors[norms > 0]
        weights = torch.ones_like(self.factors)
        if len(factors):
            weights[norms > 0] = factors.min() / factors
        self.shape = dictionary.shape
        self.n_nonzero = min(n_nonzero, *self.shape)
        self.square_tol = square_tol
        rounding = NO_CORRELATION * torch.finfo(dictionary.dtype).eps
        rounding *= float(torch.linalg.vector_norm(dictionary, dim=1).max())
        weights = None if (weights == 1).all() else weights
        self.code = omp(dictionary, weights, positive=positive, rounding=rounding)

    @torch.no_grad()
    def __call__(self, x, n_nonzero=None):
        """Code the rows of x (B, d).

        Parameters
        ----------
        n_nonzero : tensor of shape (B,), int64, or None
            Atoms of each sample, at most.

        Returns
        -------
        support : Support
        values : tensor of shape (nnz,)
        """
        if n_nonzero is None:
            n_nonzero = torch.full((len(x),), self.n_nonzero, device=x.device)
        n_nonzero = n_nonzero.clamp_max(min(self.shape))
        factor = unit_factors(x.abs().amax(dim=1))
        x, factor = x * factor[:, None], factor.double()
        square_tol = self.square_tol * factor * factor
        counts, indices, values = self.code(x, n_nonzero, square_tol)
        support = Support(F.pad(counts.cumsum(0), (1, 0)), indices, self.shape[0])
        values = values.double() * (self.factors[indices] / factor[support.rows])
        return support, values.to(x.dtype)


@register("omp")
class OMPCoder(Coder):
    """Codes by orthogonal matching pursuit; its Gram matrix is made once.

    Without ``n_nonzero_coefs`` a code ends where the squared error is no more than ``alpha``, or
    with a tenth of the columns.
    """

    signed = True
    uses = frozenset({"n_nonzero_coefs"})

    def __init__(
        self, atoms, *, alpha=None, n_nonzero_coefs=None, positive=True, tol=1e-4, max_iter=1000
    ):
        n_components, n_features = atoms.shape
        by_error = n_nonzero_coefs is None and alpha is not None
        n_nonzero = n_components if by_error else n_nonzero_coefs or max(n_features // 10, 1)
        self.omp = OrthogonalMatchingPursuit(
            atoms, n_nonzero, square_tol=float(alpha) if by_error else 0.0, positive=positive
        )

    def __call__(self, centred, start=None):
        support, values = self.omp(centred, start)
        return SparseCodes(support, check_in_range(values, self.name))
