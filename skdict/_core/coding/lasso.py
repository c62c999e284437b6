"""Lasso codes of a batch, each with a bound on how far its objective is from the optimum.

    min over z:   ½‖x - z D‖² + α‖z‖₁,   z >= 0 if `positive`

On the CPU samples are solved one by one on the Gram matrix (`lasso_cpu.code_rows`). On CUDA, and
where the Gram matrix would be too large, many are solved at a time: `Lasso._code_block` lets the
atoms that violate optimality most into each sample's working set, after one product of all
residuals with the dictionary, and retires the samples whose gap is small.

Either way samples and atoms are brought to entries of about 1 first: with x scaled by σ and D by δ
the same problem has the coefficient σδα and the codes zσ / δ.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from ..kernels import Support, cpu_has_bfloat16
from ..kernels.cpu.threads import map_on_cores
from ..kernels.scaling import scaled, unit_factors

# Correlations of a piece: 1 MiB in float32, in the cache of a core.
PIECE_ELEMENTS = 1 << 18
# Larger Gram matrices are not formed: 16,384 atoms in float32.
GRAM_BYTES = 1 << 30
# Correlations, or features of working sets, that are held at a time on a GPU.
BATCH_ELEMENTS = 1 << 24
# Atoms that enter a sample's working set at a time (one by one: or half of its support, if more).
N_ENTRANTS = 16
# Of a sample's largest correlation: with less, steps among atoms that depend on each other get
# too short (MIN_PIVOT).
SMALLEST_ALPHA = {torch.float32: 1e-6, torch.float64: 1e-8}
# Of samples and atoms with entries of about 1: with a larger alpha codes are zeros, and larger
# codes are none to start from.
LARGEST = 1e30
# By this fraction of alpha a correlation may exceed alpha inside a working set.
SLACK = 1e-8
# An objective that falls by less, as a fraction of ‖x‖², falls no more: codes or correlations are
# rounded so far that there is no better one in sight.
STALLED = 1e-15
# A pivot that is smaller, as a fraction of the diagonal: the atom depends on those before.
MIN_PIVOT = 1e-8
# How often the support may change in a working set, per atom.
MAX_EXCHANGES = 5
# In `solve_working_sets`: what counts as zero, and what is added to the diagonal.
ROUNDING = 1e-14
JITTER = 1e-12


class Lasso:
    """Codes of the rows of x that minimise the objective.

    Parameters
    ----------
    dictionary : tensor of shape (n, d), float32 or float64
    alpha : float
        Where it is less than `SMALLEST_ALPHA` times a sample's largest correlation the codes are
        those of that; their gap is that of alpha all the same.
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
        self.factor = factor.double()
        extremes = (torch.where(sizes == 0, 1 / factor, sizes) * self.factor).aminmax()
        smallest, largest = torch.stack(extremes).tolist()
        limits = torch.finfo(dictionary.dtype)
        if smallest < (limits.tiny / limits.eps) ** 0.5:  # squares of these lose digits
            dictionary = dictionary.double()
        # nothing is certain where atoms are nothing beside the largest, or not finite
        lost = smallest < limits.tiny / limits.eps and dictionary.dtype == self.dtype
        self.is_certain = math.isfinite(largest) and not lost
        self.dictionary = dictionary = dictionary.contiguous() * factor
        self.least_alpha = SMALLEST_ALPHA[dictionary.dtype]
        self.alpha = alpha
        self.positive = positive
        self.tol = tol
        self.max_iter = max_iter
        self.one_by_one = gram_fits(dictionary)
        if self.one_by_one:
            self.gram = product(dictionary, dictionary)
            self.correlations = _Correlations(dictionary)
        else:  # a last atom, of zeros, fills up the working sets
            self.padded = F.pad(dictionary, (0, 0, 0, 1))

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
        x = x.to(self.dictionary.dtype)
        factor = unit_factors(x.abs().amax(dim=1))
        x, factor = x * factor[:, None], factor.double()
        of_codes = self.factor / factor
        if start is None:
            none = torch.zeros(len(x) + 1, dtype=torch.int64, device=x.device)
            support = Support(none, none[:0], len(self.dictionary))
            values = torch.empty(0, dtype=torch.float64, device=x.device)
        else:
            support, values = start
            values = values.double() / of_codes[support.rows]
            values = torch.where(values.abs() < LARGEST, values, 0)
        alpha = scaled(self.alpha, factor, self.factor).clamp_max(LARGEST)
        code = self._code_one_by_one if self.one_by_one else self._code_together
        counts, indices, values, gaps = code(x, alpha, of_codes, support, values)
        if not self.is_certain:
            gaps = torch.full_like(gaps, torch.nan)
        indptr = F.pad(counts.cumsum(0), (1, 0))
        return Support(indptr, indices, len(self.dictionary)), values, gaps

    def _code_one_by_one(self, x, alpha, of_codes, support, values):
        from ..kernels.cpu.compile import call_interruptibly  # Numba takes a moment to import
        from ..kernels.cpu.lasso import code_rows

        atoms, gram = self.dictionary.numpy(), self.gram.numpy()
        of_samples = alpha.numpy(), of_codes.numpy()
        indptr, indices, values = (
            tensor.numpy() for tensor in (support.indptr, support.indices, values)
        )

        def code(block):
            piece = x[block]
            first, error = self.correlations(piece)
            entries = slice(indptr[block.start], indptr[block.stop])
            return call_interruptibly(
                code_rows,
                *(tensor.numpy() for tensor in (piece, first, error)),
                atoms,
                gram,
                *(array[block] for array in of_samples),
                torch.empty(1, dtype=self.dtype, device="cpu").numpy(),
                self.least_alpha,
                self.positive,
                self.tol,
                self.max_iter,
                indptr[block.start : block.stop + 1] - entries.start,
                indices[entries],
                values[entries],
            )

        found = zip(*map_on_cores(code, pieces_of(len(x), len(atoms))), strict=True)
        return tuple(torch.from_numpy(np.concatenate(part)) for part in found)

    def _code_together(self, x, alpha, of_codes, support, values):
        n_components, n_features = self.dictionary.shape
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
        """Code some rows together, from working sets atoms and codes (B, m), float64.

        ``of_codes`` is what the codes of a row (B,) are multiplied by in the end.
        """
        dictionary, tol = self.padded, self.tol
        in_double = dictionary.double()
        nothing = len(dictionary) - 1
        size = _same if self.positive else torch.abs
        largest = size(x @ dictionary.T).amax(dim=1)
        alpha = torch.maximum(self.least_alpha * largest.double(), given_alpha)
        gaps = torch.empty(len(x), dtype=torch.float64, device=x.device)
        finished = []  # (samples, atoms, codes) that are done
        left = torch.arange(len(x), device=x.device)
        before = gaps.new_full((len(x),), torch.inf)
        solve = _solve_on_cpu if x.device.type == "cpu" else solve_working_sets
        for iteration in range(self.max_iter + 1):
            of_set, sample = dictionary[atoms].double(), x[left].double()  # (b, m, d), (b, d)
            codes = solve(
                of_set @ of_set.mT,
                (of_set @ sample[:, :, None])[:, :, 0],
                codes,
                alpha[left],
                self.positive,
            )
            codes = self._as_returned(codes, of_codes[left])
            at = alpha[left]
            residual = sample - (codes[:, None] @ of_set)[:, 0]
            scores = size(residual.to(x.dtype) @ dictionary.T).scatter_(1, atoms, -1)
            score, entrants = scores.topk(min(N_ENTRANTS, nothing), dim=1)
            at_set = size((of_set @ residual[:, :, None])[:, :, 0])
            largest = at_set.amax(dim=1) if at_set.shape[1] else residual.new_zeros(len(left))
            primal, gap = _gap(sample, residual, codes, at, torch.maximum(largest, score[:, 0]))

            # in full precision where it may be the end
            last = ~(before - primal > STALLED * sample.square().sum(dim=1))
            last |= iteration == self.max_iter
            before = primal
            check = ((gap <= 2 * tol * primal) | (score[:, 0] <= at) | last).nonzero()[:, 0]
            exact = residual[check]
            largest = size(exact @ in_double.T).amax(dim=1)
            gap[check] = _gap(sample[check], exact, codes[check], at[check], largest)[1]
            done = last.clone()
            done[check] |= gap[check] <= tol * primal[check]
            certain = done[check]
            of_done = check[certain]
            found = _gap(
                sample[of_done],
                exact[certain],
                codes[of_done],
                given_alpha[left[of_done]],
                largest[certain],
            )
            gaps[left[of_done]] = _relative(*found)
            finished.append((left[done], atoms[done], codes[done]))
            rest = ~done
            left, before = left[rest], before[rest]
            if len(left) == 0:
                break
            atoms = torch.where(codes[rest] != 0, atoms[rest], nothing)
            entrants = torch.where(score[rest] > at[rest, None], entrants[rest], nothing)
            codes = F.pad(codes[rest], (0, entrants.shape[1]))
            atoms, order = torch.cat([atoms, entrants], dim=1).sort(dim=1)
            width = int((atoms < nothing).sum(dim=1).max())
            atoms, codes = atoms[:, :width], codes.gather(1, order)[:, :width]

        samples = torch.cat(
            [rows.repeat_interleave((codes != 0).sum(dim=1)) for rows, _, codes in finished]
        )
        atoms = torch.cat([atoms[codes != 0] for _, atoms, codes in finished])
        codes = torch.cat([codes[codes != 0] for _, _, codes in finished])
        codes = (codes * of_codes[samples]).to(self.dtype)
        counts = torch.bincount(samples, minlength=len(x))
        order = samples.argsort(stable=True)
        return counts, atoms[order], codes[order], gaps

    def _as_returned(self, codes, factor):
        """Codes (B, m) that are returned, times factor (B,), in another precision; all finite."""
        largest = torch.finfo(self.dtype).max
        codes = (codes * factor[:, None]).nan_to_num(0.0, largest, -largest)
        codes = codes.clamp(-largest, largest).to(self.dtype).double()
        return torch.where(codes != 0, codes / factor[:, None], 0)


def product(left, right):
    """left @ right.T in their precision, even where torch has been told that less will do."""
    if torch.get_float32_matmul_precision() == "highest":
        return left @ right.T
    return (left.double() @ right.double().T).to(left.dtype)


def gram_fits(dictionary):
    """Whether samples are coded one by one, on the Gram matrix."""
    gram_bytes = len(dictionary) ** 2 * dictionary.element_size()
    return dictionary.device.type == "cpu" and gram_bytes <= GRAM_BYTES


def pieces_of(n_rows, n_components):
    """Slices of rows for one core at a time."""
    step = max(1, PIECE_ELEMENTS // n_components)
    return [slice(i, min(i + step, n_rows)) for i in range(0, n_rows, step)]


def _same(values):
    return values


class _Correlations:
    """``x @ dictionary.T`` and a bound on its error for each row, in few bits where that is fast.

    Summing d products in floating point changes x·w by at most d ε ‖x‖ ‖w‖, rounding the operands
    by at most ‖x - x̃‖ ‖w‖ + ‖x̃‖ ‖w - w̃‖.
    """

    def __init__(self, dictionary):
        norm = torch.linalg.vector_norm
        # where torch is told that float32 need not be float32 it says nothing of the error
        exact = torch.get_float32_matmul_precision() == "highest"
        low = dictionary.dtype == torch.float32 and cpu_has_bfloat16() and exact
        dtype = torch.bfloat16 if low else dictionary.dtype if exact else torch.float64
        self.dictionary = dictionary.to(dtype)
        self.dtype = dictionary.dtype
        self.size = norm(dictionary, dim=1).max()
        self.rounding = norm(dictionary - self.dictionary, dim=1).max()
        sums_in = torch.float32 if low else dtype
        self.summing = 2 * dictionary.shape[1] * torch.finfo(sums_in).eps

    def __call__(self, x):
        low = x.to(self.dictionary.dtype)
        products = F.linear(low, self.dictionary).to(self.dtype)
        norm = torch.linalg.vector_norm(x, dim=1)
        error = (torch.linalg.vector_norm(x - low, dim=1) + self.summing * norm) * self.size
        error += 1.01 * norm * self.rounding
        error += torch.finfo(low.dtype).eps * products.abs().amax(dim=1)
        return products, error.double()


def _relative(objective, gap):
    """A duality gap as a fraction of the objective, 0 where that is 0; a NaN stays one."""
    return torch.where(objective == 0, 0, gap.clamp_min(0) / objective)


def _gap(x, residual, codes, alpha, largest):
    """Objective of each row and duality gap at the best dual point along the residual."""
    square, along = residual.square().sum(dim=1), (x * residual).sum(dim=1)
    primal = 0.5 * square + alpha * codes.abs().sum(dim=1)
    scale = torch.where(square > 0, along / square, 0).clamp_min(0)
    scale = torch.where(largest * scale > alpha, alpha / largest, scale)
    return primal, primal - (scale * along - 0.5 * scale.square() * square)


def _solve_on_cpu(gram, first, codes, alpha, positive):
    from ..kernels.cpu.lasso import solve_one_by_one

    codes = codes.clone()
    solve_one_by_one(gram.numpy(), first.numpy(), codes.numpy(), alpha.numpy(), positive)
    return codes


def solve_working_sets(gram, first, codes, alpha, positive):
    """Minimise over the codes of working sets, by an active set for each (Lawson and Hanson).

    Where signs allow the system at the support is solved exactly, and then the atom that violates
    optimality most joins the support; else the codes go as far as signs allow, and what becomes
    zero leaves it.

    Parameters
    ----------
    gram : tensor of shape (B, m, m), float64
    first : tensor of shape (B, m)
        Correlations of the atoms with the samples.
    codes : tensor of shape (B, m)
        To start from.
    alpha : tensor of shape (B,)
    positive : bool

    Returns
    -------
    codes : tensor of shape (B, m)
    """
    if positive:
        codes = codes.clamp_min(0)
    if codes.shape[1] == 0:
        return codes
    diagonal, alpha = gram.diagonal(dim1=1, dim2=2), alpha[:, None]
    sign = codes.sign()
    for _ in range(MAX_EXCHANGES * codes.shape[1]):
        active = sign != 0
        system = torch.where(active[:, :, None] & active[:, None], gram, 0)
        # of atoms that depend on each other
        system = system + torch.diag_embed(torch.where(active, JITTER * diagonal, 1))
        factor = torch.linalg.cholesky_ex(system).L
        right = torch.where(active, first - alpha * sign, 0)
        target = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
        target = torch.where(torch.isfinite(target), target, codes)
        crosses = active & (target * sign <= 0)
        length = torch.where(crosses, codes / (codes - target), 1).nan_to_num(0)
        length = length.amin(dim=1, keepdim=True)
        codes = torch.where(length < 1, codes + length * (target - codes), target)
        leaves = crosses & (codes * sign <= ROUNDING * (codes - target).abs())
        codes = torch.where(leaves | ~active, 0, codes)
        sign = torch.where(leaves, 0, sign)

        correlation = first - (gram @ codes[:, :, None])[:, :, 0]
        size = correlation if positive else correlation.abs()
        size, entrant = torch.where((sign != 0) | (diagonal <= 0), 0, size).max(dim=1)
        joins = (size > (1 + SLACK) * alpha[:, 0]) & ~crosses.any(dim=1)
        rows = joins.nonzero()[:, 0]
        sign[rows, entrant[rows]] = correlation[rows, entrant[rows]].sign()
        if not (joins.any() | crosses.any()):  # sync
            break
    return codes
