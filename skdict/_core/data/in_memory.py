"""All rows of a source in one array, for what learns from all of them at once."""

import numpy as np
import torch

from ..device import available_memory
from ..sizes import size_of
from .reading import row_slices


def all_in_memory(rows, of_block, dtype, *, n_arrays, user, instead):
    """All rows as one array, made block by block.

    Parameters
    ----------
    rows : Source
    of_block : callable
        From rows (B, n_features), a tensor, to what is wanted of them: a tensor or an ndarray on
        the CPU, of the same shape.
    dtype : dtype of NumPy
    n_arrays : int
        How many such arrays `user` has in memory at once, with this one.
    user : str
        What needs all rows, for the error.
    instead : str
        What needs fewer, for the error.

    Returns
    -------
    x : ndarray of shape (n_rows, n_features)

    Raises
    ------
    MemoryError
        If there is no memory for so many arrays.
    ValueError
        If the rows are those of a stream that does not keep them all.
    """
    n_rows, n_features = rows.shape
    row_bytes = n_arrays * n_features * np.dtype(dtype).itemsize
    available = available_memory(torch.device("cpu"))
    if n_rows * row_bytes > available:
        raise MemoryError(
            f"{user} needs all rows of X in memory: {n_rows} rows take "
            f"{size_of(n_rows * row_bytes)}, where {size_of(available)} are available. "
            f"Give no more than {int(available // row_bytes)} rows, or {instead}."
        )
    x = np.empty(rows.shape, dtype)
    for block in row_slices(n_rows, rows.block_size()):
        x[block] = of_block(rows[block])  # a stream refuses rows that it does not keep
    return x
