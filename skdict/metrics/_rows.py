"""Matrices of any kind, read by blocks of rows."""

import numpy as np
import torch
from scipy.sparse import csr_array

from .._core.data.reading import as_float64, is_store, read_rows, row_slices
from ..utils import _arrays

# Elements per block of rows: 32 MB in float64.
BLOCK_SIZE = 2**22


def as_rows(X, name):
    """Validate a matrix; returns an ndarray, CSR matrix or dense tensor, copied only if needed.

    A view of a store is read.
    """
    return _whole(_arrays.as_matrix(X, name))


def as_lazy_rows(X, name):
    """The same, but a view of a store stays one, of which `float64_block` reads rows."""
    X = _arrays.as_matrix(X, name)
    return X if is_store(X) else _whole(X)


def _whole(X):
    X = X.read(slice(None)) if is_store(X) else X
    if isinstance(X, torch.Tensor) and X.layout is torch.sparse_csr:
        parts = (to_numpy(X.values()), X.col_indices().cpu(), X.crow_indices().cpu())
        return csr_array(parts, shape=X.shape)
    return X


def to_numpy(X):
    """Convert a tensor to a floating-point ndarray of at least float32, which holds its values."""
    holds = torch.float32 if X.is_floating_point() or X.itemsize <= 2 else torch.float64
    return X.detach().to("cpu", torch.promote_types(X.dtype, holds)).numpy()


def check_finite(values, name):
    """Raise a ValueError that names `name` unless all values, ndarray or tensor, are finite."""
    xp = torch if isinstance(values, torch.Tensor) else np
    if not xp.isfinite(values).all():
        raise ValueError(
            f"{name} contains NaN or infinity. Find such entries with np.isfinite({name}) and "
            "leave their rows out."
        )


def varies(variance, mean_square, n_samples):
    """Which columns vary by more than rounding, where E x² - (E x)² is their ``variance``."""
    rounding = max(1e-12, 4 * n_samples * np.finfo(np.float64).eps)
    return variance > rounding * mean_square


def row_blocks(X):
    """Slices of rows with at most BLOCK_SIZE entries of `X` each, and at least one row."""
    n_rows, n_columns = X.shape
    return row_slices(n_rows, max(1, BLOCK_SIZE // n_columns))


def float64_block(X, rows):
    """The rows of a matrix from `as_rows` as a dense float64 ndarray."""
    return as_float64(read_rows(X, rows))


def unit_rows(matrix):
    """Rows of a float64 matrix divided by their norms; zero rows stay zero."""
    with np.errstate(over="ignore", under="ignore"):
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    # squares of what is very large or small are infinite, or zero
    extreme = ~((norms > 1e-140) & (norms < 1e140))[:, 0]
    if extreme.any():
        matrix = matrix.copy()
        largest = abs(matrix[extreme]).max(axis=1, keepdims=True)
        matrix[extreme] /= np.where(largest > 0, largest, 1)
        norms[extreme] = np.linalg.norm(matrix[extreme], axis=1, keepdims=True)
    return matrix / np.where(norms > 0, norms, 1)
