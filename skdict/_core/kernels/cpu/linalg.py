"""Linear algebra of small systems, and of rows of the Gram matrix, in Numba."""

import numpy as np

from ..tolerances import MIN_PIVOT
from .compile import compiled

# The smallest pivot is at least so many units of rounding of the Gram matrix.
MIN_PIVOT_UNITS = 64

# Reassociation lets sums run in vector registers.
vectorised = compiled(error_model="numpy", fastmath={"reassoc", "contract"})


@compiled()
def smallest_pivot(eps):
    return max(MIN_PIVOT, MIN_PIVOT_UNITS * eps)


@vectorised
def dot(a, b):
    total = 0.0
    for i in range(len(a)):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@vectorised
def add_multiple(target, factor, row):
    for i in range(len(target)):
        target[i] += factor * row[i]


@vectorised
def factorise(gram, support, start, n_support, least, factor):
    """Cholesky factor of G_SS; that of the first ``start`` atoms is known.

    Where an atom depends on the atoms before it, its pivot is raised to a fraction ``least`` of
    the diagonal: a Newton step is then long in directions in which only the penalty changes.

    Returns
    -------
    dependent : bool
        Whether there was such an atom.
    """
    dependent = False
    for i in range(start, n_support):
        row = gram[support[i]]
        for j in range(i):
            total = row[support[j]] - dot(factor[i, :j], factor[j, :j])
            factor[i, j] = total / factor[j, j]
        pivot = row[support[i]] - dot(factor[i, :i], factor[i, :i])
        smallest = least * row[support[i]]
        dependent |= pivot <= smallest
        factor[i, i] = np.sqrt(max(pivot, smallest))
    return dependent


@vectorised
def solve(factor, n_support, right, solution):
    """Solve G_SS p = right by the Cholesky factor."""
    for i in range(n_support):
        solution[i] = (right[i] - dot(factor[i, :i], solution[:i])) / factor[i, i]
    for i in range(n_support - 1, -1, -1):
        solution[i] /= factor[i, i]
        add_multiple(solution[:i], -solution[i], factor[i, :i])


@vectorised
def largest_size(values, n):
    largest = 0.0
    for i in range(n):
        largest = max(largest, abs(values[i]))
    return largest


@vectorised
def residual_correlations(correlations, first, gram, atoms, codes, n_atoms):
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
        add_multiple(correlations, -one(codes[support[i]]), gram[atoms[support[i]]])
        i += 1
