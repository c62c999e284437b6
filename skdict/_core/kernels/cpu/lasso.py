"""Exact Lasso codes on the CPU: one sample after the other on the Gram matrix, in Numba.

    min over z:   ½‖x - z D‖² + α‖z‖₁,   z ≥ 0 if `positive`

With c = D x and G = D Dᵀ the correlations of the atoms with the residual are q = c - G z; z is
optimal where q_j = α sign(z_j) at its support and |q_j| <= α elsewhere (q_j <= α, if positive).

`code_rows` solves the problem on a working set of atoms, adds the atoms that violate these
conditions most, and repeats that until the duality gap is small. Correlations with all atoms are
sums of as many rows of G as the code has non-zeros, in the precision of the data. Everything at
the working set is in float64, and so is the gap that is returned: it is exact in whatever
precision the search was.
"""

import math

import numpy as np
import torch

from ..reference.lasso import LassoByWorkingSets
from ..scaling import LARGEST
from ..tolerances import N_ENTRANTS, STALLED
from .compile import call_interruptibly, compiled
from .gram import gram_fits, in_pieces, product
from .instructions import cpu_has_bfloat16
from .linalg import (
    add_multiple,
    dot,
    largest_size,
    residual_correlations,
    smallest_pivot,
    vectorised,
)
from .products import FEW_ROWS, few_rows_in_bfloat16, linear
from .search import append_from, bound_of_largest, integers_of, largest_key
from .working_set import solve_by_loops, solve_working_set

# The objective is at least 0; rounding may take it below by this fraction of ½‖x‖².
ROUNDED_BELOW = 1e-3


def unit_rows(x, alpha, of_atoms):
    arrays = _unit_rows(x.contiguous().numpy(), alpha, of_atoms)
    return tuple(torch.from_numpy(array) for array in arrays)


def lasso(dictionary, **settings):
    if gram_fits(dictionary):
        return LassoOnGram(dictionary, **settings)
    return LassoByWorkingSets(dictionary, solve=solve_by_loops, **settings)


class LassoOnGram:
    """Prepared Lasso codes; parameters and calls as `operations.lasso` has them."""

    def __init__(self, dictionary, *, dtype, least_alpha, positive, tol, max_iter):
        gram = product(dictionary, dictionary)
        self.arrays = dictionary.numpy(), gram.numpy()
        self.room = torch.empty(1, dtype=dtype, device="cpu").numpy()
        self.settings = least_alpha, positive, tol, max_iter
        self.correlations = Correlations(dictionary)

    def __call__(self, x, alpha, of_codes, support, values):
        of_samples = alpha.numpy(), of_codes.numpy()
        of_start = support.indptr.numpy(), support.indices.numpy(), values.numpy()

        def code(block):
            piece = x[block]
            indptr, indices, values = of_start
            entries = slice(indptr[block.start], indptr[block.stop])
            return call_interruptibly(
                code_rows,
                piece.numpy(),
                *self.correlations(piece),
                *self.arrays,
                *(array[block] for array in of_samples),
                np.empty_like(self.room),
                *self.settings,
                indptr[block.start : block.stop + 1] - entries.start,
                indices[entries],
                values[entries],
            )

        return in_pieces(code, len(x), len(self.arrays[0]))


class Correlations:
    """``x @ dictionary.T`` and a bound on its error for each row, in few bits where that is fast.

    Summing d products in floating point changes x·w by at most d ε ‖x‖ ‖w‖; rounding the operands
    changes it by at most ‖x - x̃‖ ‖w‖ + ‖x̃‖ ‖w - w̃‖.
    """

    def __init__(self, dictionary):
        norm = torch.linalg.vector_norm
        # where torch may use less than float32 for float32, its error is not known
        exact = torch.get_float32_matmul_precision() == "highest"
        low = dictionary.dtype == torch.float32 and cpu_has_bfloat16() and exact
        dtype = torch.bfloat16 if low else dictionary.dtype if exact else torch.float64
        self.dictionary = dictionary.to(dtype)
        self.dtype = dictionary.dtype
        size = float(norm(dictionary, dim=1).max())
        rounding = float(norm(dictionary - self.dictionary, dim=1).max())
        sums_in = torch.float32 if low else dtype
        summing = 2 * dictionary.shape[1] * torch.finfo(sums_in).eps
        self.bounds = size, rounding, summing, torch.finfo(dtype).eps

        self.bits = self.dictionary.view(torch.int16).numpy() if low else None

    def __call__(self, x):
        if self.bits is not None and len(x) <= FEW_ROWS:
            low, products = few_rows_in_bfloat16(x.numpy(), self.bits)
        else:
            low = x.to(self.dictionary.dtype)
            products = linear(low, self.dictionary).to(self.dtype).numpy()
            low = low.to(self.dtype).numpy()
        return products, _errors(x.numpy(), low, products, *self.bounds)


@compiled(error_model="numpy")
def _unit_rows(x, alpha, of_atoms):
    """As `operations.unit_rows`, on arrays."""
    scaled, one = np.empty_like(x), x.dtype.type
    alphas, of_codes = np.empty(len(x)), np.empty(len(x))
    tiny = np.finfo(x.dtype).tiny
    for i in range(len(x)):
        size = one(largest_size(x[i], x.shape[1]))
        size = min(max(size, tiny), one(1) / tiny) if size > 0 else one(1)
        factor = one(math.ldexp(1.0, -math.frexp(size)[1]))
        for k in range(x.shape[1]):
            scaled[i, k] = x[i, k] * factor
        smaller, larger = min(np.float64(factor), of_atoms), max(np.float64(factor), of_atoms)
        alphas[i] = min(alpha * larger * smaller, LARGEST)
        of_codes[i] = of_atoms / factor
    return scaled, alphas, of_codes


@vectorised
def _errors(x, low, products, size, rounding, summing, eps):
    """Bounds for each row (B,) of the error of ``products``, from operands that were rounded."""
    errors = np.empty(len(x))
    for i in range(len(x)):
        square, square_off = 0.0, 0.0
        for k in range(x.shape[1]):
            off = x[i, k] - low[i, k]
            square += np.float64(x[i, k]) * np.float64(x[i, k])
            square_off += np.float64(off) * np.float64(off)
        norm = np.sqrt(square)
        errors[i] = (np.sqrt(square_off) + summing * norm) * size + 1.01 * norm * rounding
        errors[i] += eps * largest_size(products[i], products.shape[1])
    return errors


@vectorised
def _dual_gap(square_x, square_r, x_r, l1, largest, alpha):
    """Primal objective and duality gap at the dual point s·r, with the best feasible s.

    The dual is max over θ of x·θ - ½‖θ‖² where D θ <= α; ``largest`` is the largest of D r.
    """
    primal = 0.5 * square_r + alpha * l1
    scale = max(0.0, x_r / square_r) if square_r > 0 else 0.0
    if largest * scale > alpha:
        scale = alpha / largest
    return primal, primal - (scale * x_r - 0.5 * scale * scale * square_r)


@compiled(error_model="numpy")
def _find_largest(values, bound, n_wanted, found, spare):
    """Write the positions of the values > bound >= 0 to ``found``; return how many there are.

    If there are many, of about the n_wanted largest of them.
    """
    at_bound = np.empty(1, values.dtype)
    at_bound[0] = bound
    keys, of_found = values.view(integers_of(values)), spare.view(integers_of(values))
    lowest = at_bound.view(integers_of(values))[0] + 1
    if largest_key(keys) < lowest:
        return 0
    n_found = append_from(keys, keys.dtype.type(lowest), found, 0)
    if n_found <= n_wanted + n_wanted // 2:
        return n_found
    for i in range(n_found):
        of_found[i] = keys[found[i]]
    top = np.int64(largest_key(of_found[:n_found])) + 1
    lowest = bound_of_largest(of_found[:n_found], n_wanted, n_wanted // 2, lowest, top)
    n_kept = 0
    for i in range(n_found):
        found[n_kept] = found[i]
        n_kept += of_found[i] >= lowest
    return n_kept


@compiled(error_model="numpy")
def _as_returned(code, factor, room):
    """A code that is returned, times ``factor``, in the precision of ``room`` (1,); finite."""
    limit = np.finfo(room.dtype).max
    room[0] = min(max(code * factor, -limit), limit)
    return room[0] / factor if room[0] != 0 else 0.0


@compiled(error_model="numpy")
def _extend_gram(sub_gram, gram, atoms, n_known, n_atoms):
    """The Gram matrix of the working set, with the atoms that have entered it."""
    if n_atoms > len(sub_gram):
        grown = np.empty((2 * n_atoms, 2 * n_atoms))
        grown[:n_known, :n_known] = sub_gram[:n_known, :n_known]
        sub_gram = grown
    for j in range(n_known, n_atoms):
        row = gram[atoms[j]]
        for k in range(j + 1):
            sub_gram[j, k] = sub_gram[k, j] = row[atoms[k]]
    return sub_gram


@compiled(error_model="numpy")
def _enter_violators(
    q, alpha, n_wanted, x, c, dictionary, gram, positive, atoms, codes, first_at_set, n_atoms,
    found, spare,
):  # fmt: skip
    """Let the atoms that violate optimality most into the working set.

    Their correlations are computed again in float64, so that rounding lets no atom in.

    Returns
    -------
    n_atoms : int
        Size of the working set.
    largest : float
        Largest correlation of an atom that has entered, at least alpha.
    """
    n_known, largest = n_atoms, alpha
    while n_atoms == n_known:  # no atom is looked at twice
        n_found = _find_largest(q, alpha, n_wanted, found, spare)
        if n_found == 0:
            break
        for j in found[:n_found]:
            correlation = dot(x, dictionary[j])
            c[j] = first_at_set[n_atoms] = correlation
            for k in range(n_known):
                correlation -= codes[k] * gram[j, atoms[k]]
            q[j] = correlation if positive else abs(correlation)
            if not q[j] <= alpha:
                largest = max(largest, np.float64(q[j]))
                q[j] = -1
                atoms[n_atoms], codes[n_atoms] = j, 0.0
                n_atoms += 1
    return n_atoms, largest


@compiled(error_model="numpy")
def _round_codes(x, dictionary, atoms, codes, n_known, factor, room, residual):
    """Round the codes as they will be returned; their l1 norm. The residual becomes x - z D."""
    residual[:] = x
    l1 = 0.0
    for j in range(n_known):
        if codes[j] != 0:
            codes[j] = _as_returned(codes[j], factor, room)
            l1 += abs(codes[j])
            add_multiple(residual, -codes[j], dictionary[atoms[j]])
    return l1


@compiled(error_model="numpy")
def _exact_largest(
    q, margin, alpha, x, residual, dictionary, positive, atoms, codes, first_at_set, at_set,
    n_atoms, found, spare,
):  # fmt: skip
    """The largest correlation of any atom with the residual, in float64.

    ``margin`` is the error of q at most: correlations that can be the largest are computed again.
    An atom outside of the working set whose correlation is more than alpha enters it.

    Returns
    -------
    n_atoms : int
    largest : float
    """
    largest = 0.0
    for j in range(n_atoms):
        at_set[j] = dot(residual, dictionary[atoms[j]])
        largest = max(largest, at_set[j] if positive else abs(at_set[j]))
    n_found = _find_largest(q, max(largest - margin, 0.0), len(q), found, spare)
    for j in found[:n_found]:
        correlation = dot(residual, dictionary[j])
        if not positive:
            correlation = abs(correlation)
        largest = max(largest, correlation)
        if correlation > alpha:
            atoms[n_atoms], codes[n_atoms] = j, 0.0
            first_at_set[n_atoms] = dot(x, dictionary[j])
            n_atoms += 1
    return n_atoms, largest


@compiled(error_model="numpy")
def code_rows(
    samples,
    first,
    error,
    dictionary,
    gram,
    given_alpha,
    of_codes,
    room,
    least_alpha,
    positive,
    tol,
    max_iter,
    indptr,
    indices,
    start,
):
    """Lasso codes of some samples.

    Parameters
    ----------
    samples : array of shape (B, d)
    first : array of shape (B, n)
        ``samples @ dictionary.T``, in any precision; overwritten with exact entries where they
        matter.
    error : array of shape (B,)
        Error of ``first``, at most.
    dictionary : array of shape (n, d)
    gram : array of shape (n, n)
    given_alpha : array of shape (B,)
        α of each sample.
    of_codes : array of shape (B,)
        What the codes of each sample are multiplied by in the end.
    room : array of shape (1,)
        Scratch, in the dtype of the codes.
    least_alpha : float
        α is raised to this fraction of a sample's largest correlation.
    positive : bool
    tol : float
        Largest duality gap, as a fraction of the objective.
    max_iter : int
        How often atoms may enter the working set of a sample.
    indptr, indices, start : arrays of shape (B + 1,), (nnz,), (nnz,)
        CSR of the codes to start from.

    Returns
    -------
    counts : array of shape (B,), int64
    indices : array of shape (nnz,), int64
    values : array of shape (nnz,)
    gaps : array of shape (B,)
        Duality gap over the objective; 0 where both are.
    """
    n_samples, n_features = samples.shape
    n = first.shape[1]
    counts, gaps = np.zeros(n_samples, np.int64), np.zeros(n_samples)
    out_indices = np.empty(64 * n_samples, np.int64)
    out_values = np.empty(64 * n_samples, room.dtype)
    end = 0
    # of one sample: q of all atoms, x - z D, and of the working set its atoms, z, c, q and Gram
    # matrix in float64
    q = np.empty(n, first.dtype)
    found, spare = np.empty(n, np.int64), np.empty(n, first.dtype)
    residual = np.empty(n_features)
    atoms, codes = np.empty(n, np.int64), np.empty(n)
    first_at_set, at_set = np.empty(n), np.empty(n)
    sub_gram, work = np.empty((64, 64)), np.empty((68, 64))
    size_2 = largest_size(np.diag(gram), n)
    unit = np.finfo(first.dtype).eps
    least = smallest_pivot(np.finfo(gram.dtype).eps)
    for i in range(n_samples):
        x, c = samples[i], first[i]
        square_x, largest = dot(x, x), 0.0
        for j in range(n):
            largest = max(largest, c[j] if positive else abs(c[j]))
        alpha = max(given_alpha[i], least_alpha * largest)
        lowest = -0.5 * square_x * (1 + ROUNDED_BELOW)
        n_atoms, n_known = 0, 0
        for entry in range(indptr[i], indptr[i + 1]):
            atoms[n_atoms], codes[n_atoms] = indices[entry], start[entry]
            first_at_set[n_atoms] = dot(x, dictionary[indices[entry]])
            n_atoms += 1
        before, l1, square_r, x_r = np.inf, 0.0, 0.0, 0.0
        for iteration in range(max_iter + 1):
            sub_gram = _extend_gram(sub_gram, gram, atoms, n_known, n_atoms)
            if len(work) < len(sub_gram):
                work = np.empty((len(sub_gram) + 4, len(sub_gram)))
            n_known = n_atoms
            solve_working_set(
                sub_gram,
                first_at_set,
                codes,
                at_set,
                n_atoms,
                alpha,
                positive,
                least,
                lowest,
                work,
            )

            residual_correlations(q, c, gram, atoms, codes, n_atoms)
            if not positive:
                for j in range(n):
                    q[j] = abs(q[j])
            z_c, z_q, l1, n_support = 0.0, 0.0, 0.0, 0
            for j in range(n_atoms):
                z_c += codes[j] * first_at_set[j]
                z_q += codes[j] * at_set[j]
                l1 += abs(codes[j])
                n_support += codes[j] != 0
                q[atoms[j]] = -1
            n_wanted = max(N_ENTRANTS, n_support // 2)
            n_atoms, largest = _enter_violators(
                q, alpha, n_wanted, x, c, dictionary, gram, positive, atoms, codes, first_at_set,
                n_atoms, found, spare,
            )  # fmt: skip
            primal, gap = _dual_gap(
                square_x, max(square_x - z_c - z_q, 0.0), square_x - z_c, l1, largest, alpha
            )
            last = iteration == max_iter or not before - primal > STALLED * square_x
            before = primal
            if not (gap <= 0.5 * tol * primal or n_atoms == n_known or last):
                continue

            # the gap in float64, of the codes as they will be returned
            l1 = _round_codes(x, dictionary, atoms, codes, n_known, of_codes[i], room, residual)
            margin = error[i] + unit * size_2 * ((n_features + n_support + 8) * l1)
            margin += unit * np.sqrt(size_2 * square_x) * (n_support + 8)
            n_atoms, largest = _exact_largest(
                q, margin, alpha, x, residual, dictionary, positive, atoms, codes, first_at_set,
                at_set, n_atoms, found, spare,
            )  # fmt: skip
            square_r, x_r = dot(residual, residual), dot(x, residual)
            primal, gap = _dual_gap(square_x, square_r, x_r, l1, largest, alpha)
            if gap <= tol * primal or last:
                break
            for j in range(n_known):
                first_at_set[j] = at_set[j] + dot(sub_gram[j, :n_known], codes[:n_known])

        primal, gap = _dual_gap(square_x, square_r, x_r, l1, largest, given_alpha[i])
        gaps[i] = max(gap, 0.0) / primal if primal != 0 else 0.0
        if end + n_atoms > len(out_indices):
            more = len(out_indices) + n_atoms
            out_indices = np.concatenate((out_indices, np.empty(more, np.int64)))
            out_values = np.concatenate((out_values, np.empty(more, room.dtype)))
        for j in range(n_atoms):
            if codes[j] != 0:
                out_indices[end], out_values[end] = atoms[j], codes[j] * of_codes[i]
                end += 1
                counts[i] += 1
    return counts, out_indices[:end], out_values[:end], gaps
