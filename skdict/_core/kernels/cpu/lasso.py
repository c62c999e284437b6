"""Exact Lasso codes on the CPU: one sample after the other on the Gram matrix, in Numba.

    min over z:   ½‖x - z D‖² + α‖z‖₁,   z ≥ 0 if `positive`

With c = D x and G = D Dᵀ the correlations of the atoms with the residual are q = c - G z; z is
optimal where q_j = α sign(z_j) at its support and |q_j| <= α elsewhere (q_j <= α, if positive).

`code_rows` solves the problem on a working set of atoms, lets those in that violate this most,
and goes on until the duality gap is small. Correlations with all atoms are sums of as many rows
of G as the code has non-zeros, in the precision of the data; everything at the working set is in
float64, and so is the gap that is returned: exact, whatever precision the search was in.
"""

import numpy as np
from numba import types
from numba.extending import overload

from ...coding.lasso import MAX_EXCHANGES, MIN_PIVOT, N_ENTRANTS, SLACK, STALLED
from .compile import compiled
from .select import _append_from, _bound_of_largest

# Sweeps of coordinate descent, at most, before the system at the support is solved exactly.
N_SWEEPS = 10
# Rounds of this; then atoms enter the support one by one.
N_ROUNDS = 3
# The smallest pivot is also no less than so many units of rounding of the Gram matrix.
MIN_PIVOT_UNITS = 64

# reassociation lets sums run in vector registers
vectorised = compiled(error_model="numpy", fastmath={"reassoc", "contract"})


@compiled()
def smallest_pivot(eps):
    return max(MIN_PIVOT, MIN_PIVOT_UNITS * eps)


@vectorised
def _dot(a, b):
    total = 0.0
    for i in range(len(a)):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@vectorised
def _add_multiple(target, factor, row):
    for i in range(len(target)):
        target[i] += factor * row[i]


@vectorised
def _factorise(gram, support, start, n_support, least, factor):
    """Cholesky factor of G_SS, where that of the first ``start`` atoms is known.

    Where an atom depends on those before, its pivot is raised to a fraction ``least`` of the
    diagonal: a Newton step is then long in directions in which only the penalty changes.

    Returns
    -------
    dependent : bool
        Whether there was such an atom.
    """
    dependent = False
    for i in range(start, n_support):
        row = gram[support[i]]
        for j in range(i):
            total = row[support[j]] - _dot(factor[i, :j], factor[j, :j])
            factor[i, j] = total / factor[j, j]
        pivot = row[support[i]] - _dot(factor[i, :i], factor[i, :i])
        smallest = least * row[support[i]]
        dependent |= pivot <= smallest
        factor[i, i] = np.sqrt(max(pivot, smallest))
    return dependent


@vectorised
def _solve(factor, n_support, right, solution):
    """Solve G_SS p = right by its factor."""
    for i in range(n_support):
        solution[i] = (right[i] - _dot(factor[i, :i], solution[:i])) / factor[i, i]
    for i in range(n_support - 1, -1, -1):
        solution[i] /= factor[i, i]
        _add_multiple(solution[:i], -solution[i], factor[i, :i])


@vectorised
def solve_working_set(gram, first, codes, correlations, n_atoms, alpha, positive, least, work):
    """Minimise over the codes of the working set, from those given.

    Sweeps of coordinate descent find the support, about, and the exact solution there is
    approached as far as signs allow; an atom whose code becomes zero on the way leaves. If it is
    not the right support after a few rounds of this, atoms enter it one by one, the one that
    violates optimality most first (Lawson and Hanson). It ends where the objective does not fall.

    Parameters
    ----------
    gram : array of shape (>= n_atoms, >= n_atoms)
    first, codes, correlations : arrays of shape (>= n_atoms,)
        c, z, which are updated, and room for q = c - G z.
    least : float
        A pivot that is smaller, as a fraction of the diagonal, is rounding.
    work : array of shape (>= n_atoms + 4, >= n_atoms)
    """
    support = np.empty(n_atoms, np.int64)
    n_support, entrant, saved = 0, -1, work[3]
    before = _objective(gram, first, codes, correlations, n_atoms, alpha)
    for exchange in range(N_ROUNDS + MAX_EXCHANGES * n_atoms):
        saved[:n_atoms] = codes[:n_atoms]
        if exchange < N_ROUNDS:
            _sweep(gram, codes, correlations, n_atoms, alpha, positive)
            n_support = n_known = 0
            for j in range(n_atoms):
                if codes[j] != 0:
                    support[n_support] = j
                    n_support += 1
        else:
            support[n_support] = entrant
            n_known = n_support
            n_support += 1
        n_support = _solve_at_support(
            gram, codes, correlations, n_atoms, alpha, support, n_support, n_known, least, work
        )
        objective = _objective(gram, first, codes, correlations, n_atoms, alpha)
        if not objective <= before:  # rounding
            codes[:n_atoms] = saved[:n_atoms]
            _objective(gram, first, codes, correlations, n_atoms, alpha)
            break
        if objective == before and exchange >= N_ROUNDS:
            break
        before = objective
        entrant, largest = -1, (1 + SLACK) * alpha
        for j in range(n_atoms):
            size = correlations[j] if positive else abs(correlations[j])
            if size > largest and codes[j] == 0 and gram[j, j] > 0:
                entrant, largest = j, size
        if entrant < 0:
            break


@vectorised
def _objective(gram, first, codes, correlations, n_atoms, alpha):
    """Objective less ½‖x‖²; the correlations are brought up to date."""
    total = 0.0
    for j in range(n_atoms):
        correlations[j] = first[j] - _dot(gram[j, :n_atoms], codes[:n_atoms])
        total += alpha * abs(codes[j]) - 0.5 * codes[j] * (first[j] + correlations[j])
    return total


@vectorised
def _sweep(gram, codes, correlations, n_atoms, alpha, positive):
    """Coordinate descent until the support is stable, or `N_SWEEPS` times over all atoms."""
    for _ in range(N_SWEEPS):
        stable = True
        for j in range(n_atoms):
            diagonal, old = gram[j, j], codes[j]
            if diagonal <= 0:
                continue
            at_zero = correlations[j] + diagonal * old
            new = 0.0
            if at_zero > alpha:
                new = (at_zero - alpha) / diagonal
            elif not positive and at_zero < -alpha:
                new = (at_zero + alpha) / diagonal
            if new != old:
                stable &= (new == 0) == (old == 0)
                codes[j] = new
                _add_multiple(correlations[:n_atoms], old - new, gram[j, :n_atoms])
        if stable:
            break


@vectorised
def _solve_at_support(
    gram, codes, correlations, n_atoms, alpha, support, n_support, n_known, least, work
):
    """Newton steps at the support, as far as signs allow; an atom that becomes zero leaves.

    Of a factor in ``work`` the first ``n_known`` rows are right. An atom whose code is zero has
    the sign of its correlation. Returns the size of the support at the end.
    """
    right, step, sign, factor = work[0], work[1], work[2], work[4:]
    for i in range(n_support):
        j = support[i]
        sign[j] = np.sign(codes[j] if codes[j] != 0 else correlations[j])
    while n_support > 0:
        for i in range(n_support):
            right[i] = correlations[support[i]] - alpha * sign[support[i]]
        _factorise(gram, support, n_known, n_support, least, factor)
        _solve(factor, n_support, right, step)
        length, first = 1.0, -1
        for i in range(n_support):
            code = codes[support[i]]
            if (code + step[i]) * sign[support[i]] <= 0:
                limit = -code / step[i] if code != 0 else 0.0
                if limit < length or first < 0:  # what becomes zero leaves, also at the end
                    length, first = min(limit, 1.0), i
        for i in range(n_support):
            codes[support[i]] += length * step[i]
            _add_multiple(correlations[:n_atoms], -length * step[i], gram[support[i], :n_atoms])
        n_known = n_support
        if first < 0:
            break
        codes[support[first]] = 0.0
        n_known = first
        n_support -= 1
        for i in range(first, n_support):
            support[i] = support[i + 1]
    return n_support


@compiled(error_model="numpy")
def solve_one_by_one(gram, first, codes, alpha, positive):
    """`solve_working_set` for arrays (B, m, m), (B, m), codes (B, m), which change, and (B,)."""
    n_atoms = codes.shape[1]
    work, at_set = np.empty((n_atoms + 4, n_atoms)), np.empty(n_atoms)
    least = smallest_pivot(np.finfo(np.float64).eps)
    for i in range(len(codes)):
        solve_working_set(
            gram[i], first[i], codes[i], at_set, n_atoms, alpha[i], positive, least, work
        )


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


@vectorised
def _residual_correlations(correlations, first, gram, atoms, codes, n_atoms):
    """correlations = first - Σ_j codes[j] gram[atoms[j]]: four rows at a time."""
    n = len(first)
    one = first.dtype.type
    correlations[:] = first
    support = np.empty(n_atoms, np.int64)
    n_support = 0
    for j in range(n_atoms):
        if codes[j] != 0:
            support[n_support] = j
            n_support += 1
    i = 0
    while i + 4 <= n_support:
        j0, j1, j2, j3 = support[i], support[i + 1], support[i + 2], support[i + 3]
        z0, z1, z2, z3 = one(codes[j0]), one(codes[j1]), one(codes[j2]), one(codes[j3])
        g0, g1, g2, g3 = gram[atoms[j0]], gram[atoms[j1]], gram[atoms[j2]], gram[atoms[j3]]
        for k in range(n):
            correlations[k] -= (z0 * g0[k] + z1 * g1[k]) + (z2 * g2[k] + z3 * g3[k])
        i += 4
    while i < n_support:
        _add_multiple(correlations, -one(codes[support[i]]), gram[atoms[support[i]]])
        i += 1


@vectorised
def _top(keys):
    top = keys.dtype.type(0)
    for i in range(len(keys)):
        top = max(top, keys[i])
    return top


@compiled(error_model="numpy")
def _find_largest(values, bound, n_wanted, found, spare):
    """Positions of the values > bound >= 0, or of about n_wanted largest; how many there are."""
    at_bound = np.empty(1, values.dtype)
    at_bound[0] = bound
    keys, of_found = values.view(_integers(values)), spare.view(_integers(values))
    lowest = at_bound.view(_integers(values))[0] + 1
    if _top(keys) < lowest:
        return 0
    n_found = _append_from(keys, keys.dtype.type(lowest), found, 0)
    if n_found <= n_wanted + n_wanted // 2:
        return n_found
    for i in range(n_found):
        of_found[i] = keys[found[i]]
    top = np.int64(_top(of_found[:n_found])) + 1
    lowest = _bound_of_largest(of_found[:n_found], n_wanted, n_wanted // 2, lowest, top)
    n_kept = 0
    for i in range(n_found):
        found[n_kept] = found[i]
        n_kept += of_found[i] >= lowest
    return n_kept


def _integers(values):
    """The integers whose order, read from the same bits, is that of positive values."""
    return np.int32 if values.dtype == np.float32 else np.int64


@overload(_integers, inline="always")
def _(values):
    integers = types.int32 if values.dtype == types.float32 else types.int64
    return lambda values: integers


@vectorised
def _largest(values, n):
    largest = 0.0
    for i in range(n):
        largest = max(largest, abs(values[i]))
    return largest


@compiled(error_model="numpy")
def _as_returned(code, factor, room):
    """A code that is returned, times ``factor``, in the precision of ``room`` (1,); finite."""
    limit = np.finfo(room.dtype).max
    room[0] = min(max(code * factor, -limit), limit)
    return room[0] / factor if room[0] != 0 else 0.0


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
        ``samples @ dictionary.T``, in any precision. Entries that matter are put right on the way.
    error : array of shape (B,)
        How far off they are, at most.
    dictionary : array of shape (n, d)
    gram : array of shape (n, n)
    given_alpha : array of shape (B,)
        α of each sample.
    of_codes : array of shape (B,)
        What the codes of each sample are multiplied by in the end.
    room : array of shape (1,)
        Of the dtype of the codes.
    least_alpha : float
        A fraction of the largest correlation. Where that is more than α it takes its place.
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
    # of one sample: q, of all atoms; x - z D; of the working set, in float64, the atoms, z, c, q
    # and the Gram matrix
    q = np.empty(n, first.dtype)
    found, spare = np.empty(n, np.int64), np.empty(n, first.dtype)
    residual = np.empty(n_features)
    atoms, codes = np.empty(n, np.int64), np.empty(n)
    first_at_set, at_set = np.empty(n), np.empty(n)
    sub_gram, work = np.empty((64, 64)), np.empty((68, 64))
    size_2 = _largest(np.diag(gram), n)
    unit = np.finfo(first.dtype).eps
    least = smallest_pivot(np.finfo(gram.dtype).eps)
    for i in range(n_samples):
        x, c = samples[i], first[i]
        square_x, largest = _dot(x, x), 0.0
        for j in range(n):
            largest = max(largest, c[j] if positive else abs(c[j]))
        alpha = max(given_alpha[i], least_alpha * largest)
        n_atoms, n_known = 0, 0
        for entry in range(indptr[i], indptr[i + 1]):
            atoms[n_atoms], codes[n_atoms] = indices[entry], start[entry]
            first_at_set[n_atoms] = _dot(x, dictionary[indices[entry]])
            n_atoms += 1
        before, l1, square_r, x_r = np.inf, 0.0, 0.0, 0.0
        for iteration in range(max_iter + 1):
            # what has entered the working set
            if n_atoms > len(sub_gram):
                grown = np.empty((2 * n_atoms, 2 * n_atoms))
                grown[:n_known, :n_known] = sub_gram[:n_known, :n_known]
                sub_gram, work = grown, np.empty((2 * n_atoms + 4, 2 * n_atoms))
            for j in range(n_known, n_atoms):
                row = gram[atoms[j]]
                for k in range(j + 1):
                    sub_gram[j, k] = sub_gram[k, j] = row[atoms[k]]
            n_known = n_atoms
            solve_working_set(
                sub_gram, first_at_set, codes, at_set, n_atoms, alpha, positive, least, work
            )

            # of all others, those that violate optimality most
            _residual_correlations(q, c, gram, atoms, codes, n_atoms)
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
            largest = alpha
            while n_atoms == n_known:  # no atom is looked at twice
                n_found = _find_largest(q, alpha, max(N_ENTRANTS, n_support // 2), found, spare)
                if n_found == 0:
                    break
                for j in found[:n_found]:
                    correlation = _dot(x, dictionary[j])
                    c[j] = first_at_set[n_atoms] = correlation
                    for k in range(n_known):
                        correlation -= codes[k] * gram[j, atoms[k]]
                    q[j] = correlation if positive else abs(correlation)
                    if not q[j] <= alpha:
                        largest = max(largest, np.float64(q[j]))
                        q[j] = -1
                        atoms[n_atoms], codes[n_atoms] = j, 0.0
                        n_atoms += 1
            primal, gap = _dual_gap(
                square_x, max(square_x - z_c - z_q, 0.0), square_x - z_c, l1, largest, alpha
            )
            last = iteration == max_iter or not before - primal > STALLED * square_x
            before = primal
            if not (gap <= 0.5 * tol * primal or n_atoms == n_known or last):
                continue

            # the codes as they will be returned, and all correlations that can be the largest
            residual[:] = x
            l1 = 0.0
            for j in range(n_known):
                if codes[j] != 0:
                    codes[j] = _as_returned(codes[j], of_codes[i], room)
                    l1 += abs(codes[j])
                    _add_multiple(residual, -codes[j], dictionary[atoms[j]])
            largest = 0.0
            for j in range(n_atoms):
                at_set[j] = _dot(residual, dictionary[atoms[j]])
                largest = max(largest, at_set[j] if positive else abs(at_set[j]))
            margin = error[i] + unit * size_2 * ((n_features + n_support + 8) * l1)
            margin += unit * np.sqrt(size_2 * square_x) * (n_support + 8)
            n_found = _find_largest(q, max(largest - margin, 0.0), n, found, spare)
            for j in found[:n_found]:
                correlation = _dot(residual, dictionary[j])
                if not positive:
                    correlation = abs(correlation)
                largest = max(largest, correlation)
                if correlation > alpha:
                    atoms[n_atoms], codes[n_atoms] = j, 0.0
                    first_at_set[n_atoms] = _dot(x, dictionary[j])
                    n_atoms += 1
            square_r, x_r = _dot(residual, residual), _dot(x, residual)
            primal, gap = _dual_gap(square_x, square_r, x_r, l1, largest, alpha)
            if gap <= tol * primal or last:
                break
            for j in range(n_known):
                first_at_set[j] = at_set[j] + _dot(sub_gram[j, :n_known], codes[:n_known])

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
