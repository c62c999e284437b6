"""Orthogonal matching pursuit of a batch (Pati, Rezaiifar and Krishnaprasad 1993)."""

import numpy as np
import torch
import torch.nn.functional as F

from ..kernels import Support
from ..kernels.cpu.threads import map_on_cores
from ..kernels.scaling import unit_factors
from .lasso import (
    BATCH_ELEMENTS,
    MIN_PIVOT,
    gram_fits,
    pieces_of,
    product,
    solve_working_sets,
)

# A correlation that is smaller, as a fraction of the sample's norm times units of rounding, is
# none: the atom has been taken, or depends on those that have.
NO_CORRELATION = 16
# Penalty, of the largest correlation, with which negative codes are done away with.
SMALLEST_ALPHA = 1e-6


class OrthogonalMatchingPursuit:
    """Codes of the rows of x by the atoms that correlate most with what is left of them.

    Atoms are taken one by one; after each the codes of all that have been taken are those that
    fit the sample best, in the sense of least squares, and not negative if ``positive``: an atom
    whose code would be leaves again.

    Parameters
    ----------
    dictionary : tensor of shape (n, d), float32 or float64
    n_nonzero : int
        Atoms of a sample, at most, where a call does not say.
    square_tol : float
        Ends where ‖x - z D‖² is no more.
    positive : bool
    """

    def __init__(self, dictionary, n_nonzero, *, square_tol=0.0, positive=True):
        # atoms of norms of about 1, each by a power of two, and what a correlation then counts
        factors = unit_factors(dictionary.abs().amax(dim=1))
        dictionary = dictionary.contiguous() * factors[:, None]
        norms = torch.linalg.vector_norm(dictionary, dim=1)
        to_one = unit_factors(0.5**0.5 * norms)
        self.dictionary = dictionary = dictionary.mul_(to_one[:, None])
        self.factors = factors = factors.double() * to_one.double()
        factors = factors[norms > 0]
        self.weights = torch.ones_like(self.factors)
        if len(factors):
            self.weights[norms > 0] = factors.min() / factors
        self.are_equal = bool((self.weights == 1).all())
        self.n_nonzero = min(n_nonzero, *dictionary.shape)
        self.square_tol = square_tol
        self.positive = positive
        self.least = NO_CORRELATION * torch.finfo(dictionary.dtype).eps
        self.least *= float(torch.linalg.vector_norm(dictionary, dim=1).max())
        self.one_by_one = gram_fits(dictionary)
        if self.one_by_one:
            self.gram = product(dictionary, dictionary)

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
        n_nonzero = n_nonzero.clamp_max(min(self.dictionary.shape))
        factor = unit_factors(x.abs().amax(dim=1))
        x, factor = x * factor[:, None], factor.double()
        square_tol = self.square_tol * factor * factor
        code = self._code_one_by_one if self.one_by_one else self._code_together
        counts, indices, values = code(x, n_nonzero, square_tol)
        support = Support(F.pad(counts.cumsum(0), (1, 0)), indices, len(self.dictionary))
        values = values.double() * (self.factors[indices] / factor[support.rows])
        return support, values.to(x.dtype)

    def _code_one_by_one(self, x, n_nonzero, square_tol):
        from ..kernels.cpu.compile import call_interruptibly  # Numba takes a moment to import
        from ..kernels.cpu.omp import pursue_rows

        atoms, gram, weights = (
            tensor.numpy() for tensor in (self.dictionary, self.gram, self.weights)
        )

        def code(block):
            piece = x[block]
            first = product(piece, self.dictionary)
            return call_interruptibly(
                pursue_rows,
                piece.numpy(),
                first.numpy(),
                atoms,
                gram,
                weights,
                self.are_equal,
                n_nonzero[block].numpy(),
                square_tol[block].numpy(),
                self.positive,
                self.least,
            )

        found = zip(*map_on_cores(code, pieces_of(len(x), len(atoms))), strict=True)
        return tuple(torch.from_numpy(np.concatenate(part)) for part in found)

    def _code_together(self, x, n_nonzero, square_tol):
        most = int(n_nonzero.max())
        step = max(1, BATCH_ELEMENTS // max(len(self.dictionary), most * x.shape[1]))
        of_rows = (tensor.split(step) for tensor in (x, n_nonzero, square_tol))
        blocks = map(self._code_block, *of_rows)
        return tuple(torch.cat(part) for part in zip(*blocks, strict=True))

    def _code_block(self, x, n_nonzero, square_tol):
        n_components = len(self.dictionary)
        dictionary = F.pad(self.dictionary, (0, 0, 0, 1))  # a last atom, of zeros, fills up
        weights, sample = F.pad(self.weights, (0, 1)), x.double()
        smallest = self.least * torch.linalg.vector_norm(sample, dim=1)
        atoms = torch.full((len(x), 0), n_components, device=x.device)
        codes, residual = sample.new_zeros(len(x), 0), sample
        going = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for _ in range((2 if self.positive else 1) * int(n_nonzero.max())):
            going &= residual.square().sum(dim=1) > square_tol
            going &= (codes != 0).sum(dim=1) < n_nonzero
            score = residual.to(x.dtype) @ dictionary.T
            score = (score if self.positive else score.abs()).scatter_(1, atoms, -1)
            if not self.are_equal:
                score = torch.where(score > smallest[:, None], score * weights, 0)
            score, atom = score.max(dim=1)
            going &= score > (smallest if self.are_equal else 0)
            if not going.any():  # sync
                break
            atom = torch.where(going, atom, n_components)
            atoms = torch.cat([atoms, atom[:, None]], dim=1)
            codes = F.pad(codes, (0, 1))
            of_set = dictionary[atoms].double()
            gram, first = of_set @ of_set.mT, (of_set @ sample[:, :, None])[:, :, 0]
            filler = torch.diag_embed((atoms == n_components).double())
            factor, _ = torch.linalg.cholesky_ex(gram + filler)
            pivot = factor[:, -1, -1].square()
            depends = ~(pivot > MIN_PIVOT * (gram + filler)[:, -1, -1])
            going &= ~depends
            atoms[:, -1] = torch.where(depends, n_components, atoms[:, -1])
            new = torch.cholesky_solve(first[:, :, None], factor)[:, :, 0]
            if self.positive and (new[going] < 0).any():
                alpha = SMALLEST_ALPHA * first.abs().amax(dim=1)
                new = solve_working_sets(gram, first, torch.zeros_like(new), alpha, True)
                new = _least_squares(gram, first, new)
            codes = torch.where(going[:, None], new, codes)
            codes = torch.where(atoms == n_components, 0, codes)
            if self.positive:  # what has left may come back
                atoms = torch.where(codes > 0, atoms, n_components)
            residual = sample - (codes[:, None] @ of_set)[:, 0]
        active = codes != 0
        return active.sum(dim=1), atoms[active], codes[active].to(x.dtype)


def _least_squares(gram, first, codes):
    """Codes (B, m) at the same support without a penalty, where they stay positive."""
    active = codes > 0
    system = torch.where(active[:, :, None] & active[:, None], gram, 0)
    system = system + torch.diag_embed((~active).double())
    right = torch.where(active, first, 0)[:, :, None]
    solved = torch.cholesky_solve(right, torch.linalg.cholesky_ex(system).L)[:, :, 0]
    stays = ((solved > 0) | ~active).all(dim=1, keepdim=True)
    return torch.where(stays, solved * active, codes)
