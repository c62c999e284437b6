"""Codes as one matrix, for what has to see all rows at once."""

import numpy as np

from ...metrics._rows import as_rows
from ._store import FeatureCodes


def whole_matrix(codes, name="codes"):
    """The rows that count, as one matrix, and which these are.

    Parameters
    ----------
    codes : FeatureCodes, or {array-like, sparse matrix, torch.Tensor}
        FeatureCodes have positive entries only; a matrix is taken as it is.
    name : str
        What the user calls them.

    Returns
    -------
    matrix : matrix as from `as_rows`
    counted : ndarray of bool of shape (n_rows,), or None
        None if all rows of `codes` are there.
    documents : ndarray of int64 of shape (n_rows,), or None
        The document of each row, where the codes know it.
    """
    if not isinstance(codes, FeatureCodes):
        return as_rows(codes, name), None, None
    matrix = codes.to_csr()
    documents = None if codes.tokens is None else np.asarray(codes.tokens["document"])
    if codes.counted.all():
        return matrix, None, documents
    return matrix[codes.counted], codes.counted, documents


def whole_matrices(codes, names):
    """Several codes of the same rows as matrices of the rows that count in all of them.

    Parameters
    ----------
    codes : sequence of FeatureCodes, or {array-like, sparse matrix, torch.Tensor}
    names : sequence of str
        What the user calls them.

    Returns
    -------
    matrices : list of matrices as from `as_rows`
        Whole if they differ in their number of rows, which the caller refuses.
    """
    matrices = [
        each.to_csr() if isinstance(each, FeatureCodes) else as_rows(each, name)
        for each, name in zip(codes, names, strict=True)
    ]
    if len({matrix.shape[0] for matrix in matrices}) > 1:
        return matrices
    rules = [each.counted for each in codes if isinstance(each, FeatureCodes)]
    if not rules or (counted := np.logical_and.reduce(rules)).all():
        return matrices
    rows = np.flatnonzero(counted)
    return [matrix[rows] for matrix in matrices]


def of_counted(values, counted):
    """Entries, or rows, of what has one for each row of the codes; all if `counted` is None."""
    return values if counted is None or values is None else values[counted]
