"""Where features are active: the positive entries of columns of codes."""

import numpy as np
import torch
from scipy.sparse import csr_array, issparse, vstack

from ...metrics._rows import as_rows, check_finite, float64_block, row_blocks, to_numpy
from ...utils._arrays import as_numbers, to_ndarray


def check_indices(indices, n, *, name, of):
    """`indices` as an array of int64 in [0, n).

    Parameters
    ----------
    indices : int, array-like of int, or boolean mask of length n
    n : int
    name, of : str
        For error messages: what the user calls the indices, and what is counted by n.
    """
    indices = to_ndarray(as_numbers(indices, name))
    if indices.ndim == 0 and indices.dtype.kind in "iu":
        indices = indices[None]
    if indices.dtype == bool:
        if indices.shape != (n,):
            raise ValueError(
                f"{name} is a boolean mask of shape {indices.shape}, but there are {n} {of}. Give "
                f"one entry for each of them, or indices."
            )
        return np.flatnonzero(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise ValueError(
            f"{name} must be an integer or a list of integers, but has dtype {indices.dtype} and "
            f"shape {indices.shape}."
        )
    outside = (indices < 0) | (indices >= n)
    if outside.any():
        raise ValueError(
            f"{name} has {indices[outside][0]}, but there are {n} {of}, from 0 to {n - 1}."
        )
    return indices.astype(np.int64)


def selected(features, n, *, name="features", of="columns of codes"):
    """`features` as an array of indices, each once; None means all.

    Parameters
    ----------
    features : int, array-like of int, or None
    n : int
        Number of features.
    name, of : str
        As in `check_indices`.

    Returns
    -------
    features : ndarray of int64 of shape (n_selected,)
    """
    if features is None:
        return np.arange(n)
    return check_indices(features, n, name=name, of=of)


def active_rows(codes, features):
    """Yield (rows, values) of the positive entries of each column; rows ascending.

    Parameters
    ----------
    codes : matrix from `as_rows`
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
    check_finite(values, "codes")
    active = np.flatnonzero(values > 0)
    return active if rows is None else rows[active], values[active]


def positive_block(block, name):
    """The positive entries of a block of rows, a csr_array with ascending columns in each row.

    Parameters
    ----------
    block : csr_array, ndarray or tensor of shape (n_rows, n_components)
        What is already so is returned as it is.
    name : str
        What the user calls the codes.
    """
    if not issparse(block):
        block = to_numpy(block) if isinstance(block, torch.Tensor) else np.asarray(block)
        check_finite(block, name)
        block = csr_array(np.where(block > 0, block, 0))
    elif not block.has_canonical_format:
        block = block.copy()
        block.sum_duplicates()
    if block.dtype not in (np.float32, np.float64):
        block = block.astype(np.float64)
    check_finite(block.data, name)
    if not (block.data > 0).all():
        block = block.copy()
        block.data[block.data <= 0] = 0
        block.eliminate_zeros()
    return block


def positive_entries(codes, name):
    """The positive entries of a matrix of codes, as a canonical csr_array of float64.

    Parameters
    ----------
    codes : array-like, sparse matrix or tensor of shape (n_samples, n_components)
        Dense codes are converted one block of rows at a time.
    name : str
        What the user calls them.

    Returns
    -------
    positive : csr_array of shape (n_samples, n_components)
        Does not share memory with `codes`.
    """
    codes = as_rows(codes, name)
    if issparse(codes):
        positive = csr_array(codes, dtype=np.float64, copy=True)
        positive.sum_duplicates()
        blocks = [positive]
    else:
        blocks = [csr_array(float64_block(codes, rows)) for rows in row_blocks(codes)]
    for block in blocks:
        check_finite(block.data, name)
        np.maximum(block.data, 0, out=block.data)
        block.eliminate_zeros()
    return blocks[0] if len(blocks) == 1 else vstack(blocks, format="csr")


def nonzero_entries(codes, columns):
    """The non-zero entries of some columns.

    Parameters
    ----------
    codes : matrix from `as_rows`
    columns : ndarray of int64

    Returns
    -------
    rows : ndarray of int64 of shape (n_nonzero,), ascending
    features : ndarray of int64 of shape (n_nonzero,)
        Index in `columns`.
    values : ndarray of shape (n_nonzero,)
    """
    if len(columns) != codes.shape[1] or (columns != np.arange(len(columns))).any():
        codes = codes[:, torch.from_numpy(columns) if isinstance(codes, torch.Tensor) else columns]
    if issparse(codes):
        if not codes.has_canonical_format:
            codes = codes.copy()
            codes.sum_duplicates()
        rows = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))
        # int64: callers multiply the indices, and SciPy's int32 would overflow
        features, values = codes.indices.astype(np.int64), codes.data
        check_finite(values, "codes")
        if values.all():
            return rows, features, values
        nonzero = np.flatnonzero(values)
        return rows[nonzero], features[nonzero], values[nonzero]
    if isinstance(codes, torch.Tensor):
        codes = to_numpy(codes)
    check_finite(codes, "codes")
    rows, features = np.nonzero(codes)
    return rows, features, codes[rows, features]
