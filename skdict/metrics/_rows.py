"""Matrices of any kind, read by blocks of rows."""

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from sklearn.utils import gen_batches

# Elements per block of rows: 32 MB in float64.
BLOCK_SIZE = 2**22


def as_matrix(X, name):
    """`X` as a two-dimensional ndarray, CSR matrix or dense tensor; not copied where possible."""
    if isinstance(X, torch.Tensor) and X.layout is torch.sparse_csr:
        parts = (X.values(), X.col_indices(), X.crow_indices())
        X = csr_array(tuple(part.detach().cpu().numpy() for part in parts), shape=X.shape)
    if isinstance(X, torch.Tensor):
        X = X.detach()
        numeric = X.layout is torch.strided and not X.is_complex()
        found = f"a tensor of dtype {X.dtype} and layout {X.layout}"
    else:
        X = X.tocsr() if issparse(X) else np.asarray(X)
        numeric = X.dtype.kind in "biuf"
        found = f"entries of dtype {X.dtype}"
    if not numeric:
        raise TypeError(f"{name} must be a matrix of real numbers, but has {found}.")
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(
            f"{name} must be a matrix with at least one row and one column, but has shape "
            f"{tuple(X.shape)}. Reshape a single row with X.reshape(1, -1)."
        )
    return X


def to_numpy(X):
    """A tensor as an ndarray, of at least single precision: NumPy has no bfloat16."""
    return X.detach().to("cpu", torch.promote_types(X.dtype, torch.float32)).numpy()


def row_blocks(X):
    """Slices of rows, each with at most BLOCK_SIZE elements of `X` (and at least one row)."""
    n_rows, n_columns = X.shape
    return gen_batches(n_rows, max(1, BLOCK_SIZE // n_columns))


def float64_block(X, rows):
    """The rows of a matrix from `as_matrix` as a dense float64 ndarray."""
    block = X[rows]
    if isinstance(block, torch.Tensor):
        return block.to("cpu", torch.float64).numpy()
    if issparse(block):
        block = block.toarray()
    return np.asarray(block, dtype=np.float64)
