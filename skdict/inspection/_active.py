"""Where features are active: the positive entries of columns of codes."""

import numpy as np
from scipy.sparse import issparse

from ..metrics._rows import float64_block


def check_indices(indices, n, *, name, of):
    """Return `indices` as an array of int64 in [0, n), where n counts what `of` says."""
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise ValueError(
            f"{name} must be a list of integers, but has dtype {indices.dtype} and shape "
            f"{indices.shape}. A single index i is [i]."
        )
    outside = (indices < 0) | (indices >= n)
    if outside.any():
        raise ValueError(
            f"{name} has {indices[outside][0]}, but there are {n} {of}, from 0 to {n - 1}."
        )
    return indices.astype(np.int64)


def active_rows(codes, features):
    """Yield (rows, values) of the positive entries of each column; rows ascending.

    Parameters
    ----------
    codes : matrix from `as_matrix`
    features : ndarray of int64
        The columns, in the order wanted.

    Yields
    ------
    rows : ndarray of int
    values : ndarray of float64
    """
    if issparse(codes):
        columns = codes[:, features].tocsc()
        columns.sum_duplicates()
        for start, stop in zip(columns.indptr[:-1], columns.indptr[1:], strict=True):
            values = columns.data[start:stop].astype(np.float64)
            yield _positive(values, columns.indices[start:stop])
    else:
        for feature in features:
            yield _positive(float64_block(codes, (slice(None), feature)), None)


def _positive(values, rows):
    if not np.isfinite(values).all():
        raise ValueError("codes contains NaN or infinity.")
    active = np.flatnonzero(values > 0)
    return active if rows is None else rows[active], values[active]
