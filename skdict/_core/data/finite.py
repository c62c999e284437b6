"""NaN and infinity, found and named with their place."""

import math

import numpy as np
import scipy.sparse as sp
import torch

from .reading import is_csr, is_store, read_rows, release_pages, row_slices

# Arrays of any shape are checked in blocks of about this many bytes.
BLOCK_BYTES = 1 << 24


def check_entries_finite(X, name):
    """Raise a ValueError that names the first NaN or infinity with its place.

    Parameters
    ----------
    X : ndarray of any shape, CSR matrix, tensor or view of a store
        Of floating-point numbers.
    name : str
        What the caller calls it.
    """
    if is_csr(X):
        check_piece(X, name)
        return
    if is_store(X) and not X.moments().n_not_finite:
        return
    step = max(1, BLOCK_BYTES // max(math.prod(X.shape[1:]) * X.dtype.itemsize, 1))
    for block in row_slices(X.shape[0], step):
        check_piece(read_rows(X, block), name, block.start)
        release_pages(X)


def check_piece(piece, name, first_row=0):
    """`check_entries_finite` of some rows of X, read at once.

    Parameters
    ----------
    first_row : int or tensor of shape (n_rows,), int64
        The first of these rows in X, or all of them.
    """
    csr = is_csr(piece)
    values = (piece.data if sp.issparse(piece) else piece.values()) if csr else piece
    position = _first_not_finite(values)
    if position is None:
        return
    place = _place_in_csr(piece, position) if csr else np.unravel_index(position, values.shape)
    row, *columns = map(int, place)
    value = float(values[position] if csr else values[row, *columns])
    row = int(first_row[row]) if isinstance(first_row, torch.Tensor) else first_row + row
    what = "NaN" if math.isnan(value) else "infinity"
    where = f"row {row}" + "".join(f", column {column}" for column in columns)
    raise ValueError(
        f"Input {name} contains {what} ({value}) at {where}. Drop or impute such rows "
        f"first, for instance with {name}[np.isfinite({name}).all(axis=1)]."
    )


def _first_not_finite(values):
    """Position of the first NaN or infinity in the flattened values, or None."""
    if isinstance(values, torch.Tensor):
        wide_enough = torch.promote_types(values.dtype, torch.float32)
        if torch.isfinite(values.sum(dtype=wide_enough)):  # certainly all finite
            return None
        bad = (~torch.isfinite(values)).flatten().nonzero()[:1]
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            wide_enough = np.promote_types(values.dtype, np.float32)
            if np.isfinite(values.sum(dtype=wide_enough)):
                return None
        bad = np.flatnonzero(~np.isfinite(values))[:1]
    return int(bad[0]) if len(bad) else None


def _place_in_csr(X, position):
    """Row and column of one of the values of a CSR matrix or tensor."""
    if sp.issparse(X):
        indptr, indices = X.indptr, X.indices
    else:
        indptr, indices = X.crow_indices().cpu(), X.col_indices()
    return int(np.searchsorted(indptr, position, side="right")) - 1, int(indices[position])
