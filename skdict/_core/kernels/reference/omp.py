"""Orthogonal matching pursuit of many samples at a time: all take their next atom together."""

import torch
import torch.nn.functional as F

from ..tolerances import ALPHA_OF_OMP, MIN_PIVOT
from .working_sets import BATCH_ELEMENTS, solve_working_sets


def omp(dictionary, weights, **settings):
    return PursuitTogether(dictionary, weights, **settings)


class PursuitTogether:
    """Prepared pursuit; parameters and calls as `operations.omp` has them."""

    def __init__(self, dictionary, weights, *, positive, rounding):
        # a last atom, of zeros, fills up the sets
        self.padded = F.pad(dictionary, (0, 0, 0, 1))
        self.weights = weights if weights is None else F.pad(weights, (0, 1))
        self.positive = positive
        self.rounding = rounding

    def __call__(self, x, n_nonzero, square_tol):
        most = int(n_nonzero.max())
        step = max(1, BATCH_ELEMENTS // max(len(self.padded) - 1, most * x.shape[1]))
        of_rows = (tensor.split(step) for tensor in (x, n_nonzero, square_tol))
        blocks = map(self._code_block, *of_rows)
        return tuple(torch.cat(part) for part in zip(*blocks, strict=True))

    def _code_block(self, x, n_nonzero, square_tol):
        nothing = len(self.padded) - 1
        sample = x.double()
        smallest = self.rounding * torch.linalg.vector_norm(sample, dim=1)
        atoms = torch.full((len(x), 0), nothing, device=x.device)
        codes, residual = sample.new_zeros(len(x), 0), sample
        going = torch.ones(len(x), dtype=torch.bool, device=x.device)
        # where codes must not be negative, atoms may leave again
        for _ in range((2 if self.positive else 1) * int(n_nonzero.max())):
            going &= residual.square().sum(dim=1) > square_tol
            going &= (codes != 0).sum(dim=1) < n_nonzero
            atom, there = self._next_atom(residual.to(x.dtype), atoms, smallest)
            going &= there
            if not going.any():  # waits for the device
                break
            atom = torch.where(going, atom, nothing)
            atoms = torch.cat([atoms, atom[:, None]], dim=1)
            of_set = self.padded[atoms].double()  # (B, m, d)
            new, depends = self._fit(sample, of_set, atoms == nothing, going)
            going &= ~depends
            atoms[:, -1] = torch.where(depends, nothing, atoms[:, -1])
            codes = torch.where(going[:, None], new, F.pad(codes, (0, 1)))
            codes = torch.where(atoms == nothing, 0, codes)
            if self.positive:  # what has left may come back
                atoms = torch.where(codes > 0, atoms, nothing)
            residual = sample - (codes[:, None] @ of_set)[:, 0]
        active = codes != 0
        return active.sum(dim=1), atoms[active], codes[active].to(x.dtype)

    def _next_atom(self, residual, atoms, smallest):
        """The atom (B,) of the largest correlation with the residual, and whether there is one."""
        score = residual @ self.padded.T
        score = (score if self.positive else score.abs()).scatter_(1, atoms, -1)
        if self.weights is None:
            score, atom = score.max(dim=1)
            return atom, score > smallest
        score = torch.where(score > smallest[:, None], score * self.weights, 0)
        score, atom = score.max(dim=1)
        return atom, score > 0

    def _fit(self, sample, of_set, is_filler, going):
        """Codes (B, m) of sets (B, m, d) by least squares; whether the last atom depends."""
        gram, first = of_set @ of_set.mT, (of_set @ sample[:, :, None])[:, :, 0]
        system = gram + torch.diag_embed(is_filler.double())
        factor, _ = torch.linalg.cholesky_ex(system)
        depends = ~(factor[:, -1, -1].square() > MIN_PIVOT * system[:, -1, -1])
        codes = torch.cholesky_solve(first[:, :, None], factor)[:, :, 0]
        if self.positive and (codes[going & ~depends] < 0).any():  # waits for the device
            alpha = ALPHA_OF_OMP * first.abs().amax(dim=1)
            codes = solve_working_sets(gram, first, torch.zeros_like(codes), alpha, True)
            codes = _least_squares(gram, first, codes)
        return codes, depends


def _least_squares(gram, first, codes):
    """Codes (B, m) at the same support without a penalty, where they stay positive."""
    active = codes > 0
    system = torch.where(active[:, :, None] & active[:, None], gram, 0)
    system = system + torch.diag_embed((~active).double())
    right = torch.where(active, first, 0)[:, :, None]
    solved = torch.cholesky_solve(right, torch.linalg.cholesky_ex(system).L)[:, :, 0]
    stays = ((solved > 0) | ~active).all(dim=1, keepdim=True)
    return torch.where(stays, solved * active, codes)
