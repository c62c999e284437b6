"""Orthogonal matching pursuit on the CPU: one sample after the other on the Gram matrix."""

import numpy as np

from ..reference.omp import PursuitTogether
from ..tolerances import ALPHA_OF_OMP
from .compile import call_interruptibly, compiled
from .gram import gram_fits, in_pieces, product
from .linalg import dot, factorise, residual_correlations, smallest_pivot, solve
from .search import append_from, integers_of, largest_key
from .working_set import solve_working_set


def omp(dictionary, weights, **settings):
    of_device = PursuitOnGram if gram_fits(dictionary) else PursuitTogether
    return of_device(dictionary, weights, **settings)


class PursuitOnGram:
    """Prepared pursuit; parameters and calls as `operations.omp` has them."""

    def __init__(self, dictionary, weights, *, positive, rounding):
        self.dictionary = dictionary
        self.weights = weights
        self.settings = positive, rounding
        self.gram = product(dictionary, dictionary)

    def __call__(self, x, n_nonzero, square_tol):
        atoms, gram = self.dictionary.numpy(), self.gram.numpy()
        are_equal = self.weights is None
        weights = np.empty(0) if are_equal else self.weights.numpy()

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
                are_equal,
                n_nonzero[block].numpy(),
                square_tol[block].numpy(),
                *self.settings,
            )

        return in_pieces(code, len(x), len(atoms))


@compiled(error_model="numpy")
def _heaviest(values, weights, smallest):
    """Position of the largest weighted value, of those above the smallest; or -1."""
    position, largest = -1, 0.0
    for j in range(len(values)):
        if values[j] > smallest and values[j] * weights[j] > largest:
            position, largest = j, values[j] * weights[j]
    return position


@compiled(error_model="numpy")
def _next_atom(q, weights, are_equal, smallest, found):
    """The atom of the largest correlation above the smallest, by its weight; or -1."""
    if not are_equal:
        return _heaviest(q, weights, smallest)
    keys = q.view(integers_of(q))
    top = largest_key(keys)
    if top == 0:
        return -1
    append_from(keys, top, found, 0)
    return found[0] if q[found[0]] > smallest else -1


@compiled(error_model="numpy")
def _fit_non_negative(
    gram, sub_gram, first_at_set, atoms, codes, at_set, n_atoms, support, factor, least, work
):
    """Non-negative least squares of the atoms taken; those whose code is zero leave.

    A Lasso with a tiny penalty finds the support, where least squares follows if it stays
    positive. Returns the number of atoms that are left.
    """
    codes[:n_atoms] = 0.0
    alpha = ALPHA_OF_OMP * np.abs(first_at_set[:n_atoms]).max()
    solve_working_set(
        sub_gram, first_at_set, codes, at_set, n_atoms, alpha, True, least, -np.inf, work
    )
    n_kept = 0
    for j in range(n_atoms):
        if codes[j] > 0:
            atoms[n_kept], codes[n_kept] = atoms[j], codes[j]
            first_at_set[n_kept] = first_at_set[j]
            n_kept += 1
    for j in range(n_kept):
        for k in range(j + 1):
            sub_gram[j, k] = sub_gram[k, j] = gram[atoms[j], atoms[k]]
    factorise(sub_gram, support, 0, n_kept, least, factor)
    at_set[:n_kept] = codes[:n_kept]
    solve(factor, n_kept, first_at_set, codes)
    if codes[:n_kept].min() <= 0:
        codes[:n_kept] = at_set[:n_kept]
    return n_kept


@compiled(error_model="numpy")
def pursue_rows(
    samples,
    first,
    dictionary,
    gram,
    weights,
    are_equal,
    n_nonzero,
    square_tol,
    positive,
    rounding,
):
    """Codes of some samples by orthogonal matching pursuit.

    Parameters
    ----------
    samples : array of shape (B, d)
    first : array of shape (B, n)
        ``samples @ dictionary.T``.
    dictionary : array of shape (n, d)
    gram : array of shape (n, n)
    weights : array of shape (n,)
        What the correlation with an atom is multiplied by before atoms are compared.
    are_equal : bool
        Whether all weights are 1; ``weights`` is not read then.
    n_nonzero : array of shape (B,), int64
    square_tol : array of shape (B,)
    positive : bool
    rounding : float
        A correlation that is smaller, as a fraction of ‖x‖, counts as zero.

    Returns
    -------
    counts : array of shape (B,), int64
    indices : array of shape (nnz,), int64
    values : array of shape (nnz,)
    """
    n_samples, n = len(samples), first.shape[1]
    room = min(n_nonzero.max() + 1, n)
    counts = np.zeros(n_samples, np.int64)
    out_indices = np.empty((n_samples, room), np.int64)
    out_values = np.empty((n_samples, room), samples.dtype)
    q = np.empty(n, first.dtype)
    found = np.empty(n, np.int64)
    atoms, codes = np.empty(room, np.int64), np.zeros(room)
    first_at_set, at_set = np.empty(room), np.empty(room)
    sub_gram, work = np.empty((room, room)), np.empty((room + 4, room))
    least = smallest_pivot(np.finfo(gram.dtype).eps)
    factor, support = np.empty((room, room)), np.arange(room)
    for i in range(n_samples):
        x, c = samples[i], first[i]
        square_x = dot(x, x)
        smallest = rounding * np.sqrt(square_x)
        n_atoms, square = 0, square_x
        # where codes must not be negative, atoms may leave again
        for _ in range((2 if positive else 1) * n_nonzero[i]):
            if n_atoms >= n_nonzero[i] or square <= square_tol[i]:
                break
            residual_correlations(q, c, gram, atoms, codes, n_atoms)
            if not positive:
                for j in range(n):
                    q[j] = abs(q[j])
            for j in range(n_atoms):
                q[atoms[j]] = -1
            entrant = _next_atom(q, weights, are_equal, smallest, found)
            if entrant < 0:
                break
            atoms[n_atoms], codes[n_atoms] = entrant, 0.0
            first_at_set[n_atoms] = dot(x, dictionary[entrant])
            row = gram[entrant]
            for k in range(n_atoms + 1):
                sub_gram[n_atoms, k] = sub_gram[k, n_atoms] = row[atoms[k]]
            if factorise(sub_gram, support, n_atoms, n_atoms + 1, least, factor):
                break
            n_atoms += 1
            solve(factor, n_atoms, first_at_set, codes)
            if positive and codes[:n_atoms].min() <= 0:
                n_atoms = _fit_non_negative(
                    gram, sub_gram, first_at_set, atoms, codes, at_set, n_atoms, support, factor,
                    least, work,
                )  # fmt: skip
            square = square_x - dot(codes[:n_atoms], first_at_set[:n_atoms])
        counts[i] = n_atoms
        out_indices[i, :n_atoms] = atoms[:n_atoms]
        out_values[i, :n_atoms] = codes[:n_atoms]
    indices, values = np.empty(counts.sum(), np.int64), np.empty(counts.sum(), samples.dtype)
    end = 0
    for i in range(n_samples):
        indices[end : end + counts[i]] = out_indices[i, : counts[i]]
        values[end : end + counts[i]] = out_values[i, : counts[i]]
        end += counts[i]
    return counts, indices, values
