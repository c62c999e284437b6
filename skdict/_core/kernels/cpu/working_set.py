"""The Lasso problem of one working set of atoms, in float64."""

import numpy as np

from ..tolerances import MAX_EXCHANGES, SLACK
from .compile import compiled
from .linalg import add_multiple, dot, factorise, smallest_pivot, solve, vectorised

# Sweeps of coordinate descent, at most, before the system at the support is solved exactly.
N_SWEEPS = 10
# Rounds of that; afterwards atoms enter the support one by one.
N_ROUNDS = 3


@vectorised
def solve_working_set(
    gram, first, codes, correlations, n_atoms, alpha, positive, least, lowest, work
):
    """Minimise over the codes of the working set, from those given.

    Sweeps of coordinate descent find about the right support. Newton steps approach the exact
    solution there as far as signs allow; an atom whose code becomes zero on the way leaves. If
    the support is still not right after a few rounds, atoms enter it one by one, the one that
    violates optimality most first (Lawson and Hanson). The end is where the objective no longer
    decreases.

    Parameters
    ----------
    gram : array of shape (>= n_atoms, >= n_atoms)
    first, codes, correlations : arrays of shape (>= n_atoms,)
        c, z, which are updated, and room for q = c - G z.
    least : float
        A pivot that is smaller, as a fraction of the diagonal, is rounding.
    lowest : float
        What the objective less ½‖x‖² cannot be below. A Gram matrix of more atoms than columns
        that was rounded may have negative eigenvalues, along which it falls without end.
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
        if not lowest <= objective <= before:  # rounding
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
        correlations[j] = first[j] - dot(gram[j, :n_atoms], codes[:n_atoms])
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
                add_multiple(correlations[:n_atoms], old - new, gram[j, :n_atoms])
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
        factorise(gram, support, n_known, n_support, least, factor)
        solve(factor, n_support, right, step)
        length, first = 1.0, -1
        for i in range(n_support):
            code = codes[support[i]]
            if (code + step[i]) * sign[support[i]] <= 0:
                limit = -code / step[i] if code != 0 else 0.0
                if limit < length or first < 0:  # what becomes zero leaves, also at the end
                    length, first = min(limit, 1.0), i
        for i in range(n_support):
            codes[support[i]] += length * step[i]
            add_multiple(correlations[:n_atoms], -length * step[i], gram[support[i], :n_atoms])
        n_known = n_support
        if first < 0:
            break
        codes[support[first]] = 0.0
        n_known = first
        n_support -= 1
        for i in range(first, n_support):
            support[i] = support[i + 1]
    return n_support


def solve_by_loops(gram, first, codes, alpha, positive):
    """`reference.working_sets.solve_working_sets`, one working set after the other."""
    codes = codes.clone()
    _solve_each(gram.numpy(), first.numpy(), codes.numpy(), alpha.numpy(), positive)
    return codes


@compiled(error_model="numpy")
def _solve_each(gram, first, codes, alpha, positive):
    """`solve_working_set` for arrays (B, m, m), (B, m), codes (B, m), which change, and (B,)."""
    n_atoms = codes.shape[1]
    work, at_set = np.empty((n_atoms + 4, n_atoms)), np.empty(n_atoms)
    least = smallest_pivot(np.finfo(np.float64).eps)
    for i in range(len(codes)):
        solve_working_set(
            gram[i],
            first[i],
            codes[i],
            at_set,
            n_atoms,
            alpha[i],
            positive,
            least,
            -np.inf,
            work,
        )
