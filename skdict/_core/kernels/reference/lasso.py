"""Lasso codes of many samples at a time: a working set of atoms for each sample.

In every round all working sets are solved, and one product of all residuals with the dictionary
finds the atoms that violate optimality most, which enter. Samples whose gap is small retire.
"""

import torch
import torch.nn.functional as F

from ..scaling import LARGEST, scaled, unit_factors
from ..tolerances import N_ENTRANTS, STALLED
from .working_sets import BATCH_ELEMENTS, solve_working_sets


def unit_rows(x, alpha, of_atoms):
    factor = unit_factors(x.abs().amax(dim=1))
    x, factor = x * factor[:, None], factor.double()
    alpha = scaled(alpha, factor, factor.new_full((), of_atoms)).clamp_max(LARGEST)
    return x, alpha, of_atoms / factor


def lasso(dictionary, **settings):
    return LassoByWorkingSets(dictionary, **settings)


class LassoByWorkingSets:
    """Prepared Lasso codes; parameters and calls as `operations.lasso` has them.

    ``solve`` does what `solve_working_sets` does.
    """

    def __init__(
        self,
        dictionary,
        *,
        dtype,
        least_alpha,
        positive,
        tol,
        max_iter,
        solve=solve_working_sets,
    ):
        # a last atom, of zeros, fills up the working sets
        self.padded = F.pad(dictionary, (0, 0, 0, 1))
        self.in_double = self.padded.double()
        self.dtype = dtype
        self.least_alpha = least_alpha
        self.positive = positive
        self.tol = tol
        self.max_iter = max_iter
        self.solve = solve

    def __call__(self, x, alpha, of_codes, support, values):
        n_components, n_features = len(self.padded) - 1, self.padded.shape[1]
        step = max(1, BATCH_ELEMENTS // max(n_components, 64 * n_features))
        found = []
        for first in range(0, len(x), step):
            block = x[first : first + step]
            indptr = support.indptr[first : first + len(block) + 1]
            place = torch.arange(int(indptr[0]), int(indptr[-1]), device=x.device)
            row = support.rows[place] - first
            column = place - indptr[row]
            shape = len(block), int(indptr.diff().max())
            atoms = torch.full(shape, n_components, device=x.device)
            codes = torch.zeros(shape, dtype=torch.float64, device=x.device)
            atoms[row, column] = support.indices[place]
            codes[row, column] = values[place]
            of_block = alpha[first : first + step], of_codes[first : first + step]
            found.append(self._code_block(block, *of_block, atoms, codes))
        return tuple(torch.cat(part) for part in zip(*found, strict=True))

    def _code_block(self, x, given_alpha, of_codes, atoms, codes):
        """Code some rows together, from working sets atoms and codes (B, m), float64."""
        largest = self._size(x @ self.padded.T).amax(dim=1)
        alpha = torch.maximum(self.least_alpha * largest.double(), given_alpha)
        gaps = torch.empty(len(x), dtype=torch.float64, device=x.device)
        finished = []  # (samples, atoms, codes) that are done
        left = torch.arange(len(x), device=x.device)
        before = gaps.new_full((len(x),), torch.inf)
        for iteration in range(self.max_iter + 1):
            sample, at = x[left].double(), alpha[left]
            codes, residual, largest_in_set = self._solve(sample, at, of_codes[left], atoms, codes)
            scores = self._size(residual.to(x.dtype) @ self.padded.T).scatter_(1, atoms, -1)
            score, entrants = scores.topk(min(N_ENTRANTS, len(self.padded) - 1), dim=1)
            largest = torch.maximum(largest_in_set, score[:, 0])
            primal, gap = _gap(sample, residual, codes, at, largest)

            last = ~(before - primal > STALLED * sample.square().sum(dim=1))
            last |= iteration == self.max_iter
            before = primal
            # the gap in full precision where this may be the end
            check = ((gap <= 2 * self.tol * primal) | (score[:, 0] <= at) | last).nonzero()[:, 0]
            rows = sample[check], residual[check], codes[check]
            largest = self._size(rows[1] @ self.in_double.T).amax(dim=1)
            primal, gap = _gap(*rows, at[check], largest)
            done = last.clone()
            done[check] |= gap <= self.tol * primal
            certain = done[check]
            of_given = _relative(*_gap(*rows, given_alpha[left[check]], largest))
            gaps[left[check[certain]]] = of_given[certain]
            finished.append((left[done], atoms[done], codes[done]))
            rest = ~done
            left, before = left[rest], before[rest]
            if len(left) == 0:
                break
            violates = score[rest] > at[rest, None]
            atoms, codes = self._enter(atoms[rest], codes[rest], entrants[rest], violates)
        return *self._joined(finished, of_codes), gaps

    def _size(self, correlations):
        return correlations if self.positive else correlations.abs()

    def _solve(self, sample, alpha, of_codes, atoms, codes):
        """Codes of the working sets (b, m), residuals (b, d), largest correlation in each set."""
        of_set = self.padded[atoms].double()  # (b, m, d)
        first = (of_set @ sample[:, :, None])[:, :, 0]
        codes = self.solve(of_set @ of_set.mT, first, codes, alpha, self.positive)
        codes = self._as_returned(codes, of_codes)
        residual = sample - (codes[:, None] @ of_set)[:, 0]
        in_set = self._size((of_set @ residual[:, :, None])[:, :, 0])
        largest = in_set.amax(dim=1) if in_set.shape[1] else residual.new_zeros(len(sample))
        return codes, residual, largest

    def _enter(self, atoms, codes, entrants, violates):
        """Working sets without the atoms whose code is zero, with those that enter."""
        nothing = len(self.padded) - 1
        atoms = torch.where(codes != 0, atoms, nothing)
        entrants = torch.where(violates, entrants, nothing)
        codes = F.pad(codes, (0, entrants.shape[1]))
        atoms, order = torch.cat([atoms, entrants], dim=1).sort(dim=1)
        width = int((atoms < nothing).sum(dim=1).max())  # waits for the device
        return atoms[:, :width], codes.gather(1, order)[:, :width]

    def _joined(self, finished, of_codes):
        """Counts, indices and values of all rows, in their order."""
        samples = torch.cat(
            [rows.repeat_interleave((codes != 0).sum(dim=1)) for rows, _, codes in finished]
        )
        atoms = torch.cat([atoms[codes != 0] for _, atoms, codes in finished])
        codes = torch.cat([codes[codes != 0] for _, _, codes in finished])
        codes = (codes * of_codes[samples]).to(self.dtype)
        counts = torch.bincount(samples, minlength=len(of_codes))
        order = samples.argsort(stable=True)
        return counts, atoms[order], codes[order]

    def _as_returned(self, codes, factor):
        """Codes (b, m) rounded as they will be when multiplied by factor (b,); all finite."""
        largest = torch.finfo(self.dtype).max
        codes = (codes * factor[:, None]).nan_to_num(0.0, largest, -largest)
        codes = codes.clamp(-largest, largest).to(self.dtype).double()
        return torch.where(codes != 0, codes / factor[:, None], 0)


def _relative(objective, gap):
    """A duality gap as a fraction of the objective, 0 where that is 0; a NaN stays NaN."""
    return torch.where(objective == 0, 0, gap.clamp_min(0) / objective)


def _gap(x, residual, codes, alpha, largest):
    """Objective of each row and duality gap at the best dual point along the residual.

    ``largest`` is the largest correlation of any atom with the residual.
    """
    square, along = residual.square().sum(dim=1), (x * residual).sum(dim=1)
    primal = 0.5 * square + alpha * codes.abs().sum(dim=1)
    scale = torch.where(square > 0, along / square, 0).clamp_min(0)
    scale = torch.where(largest * scale > alpha, alpha / largest, scale)
    return primal, primal - (scale * along - 0.5 * scale.square() * square)
