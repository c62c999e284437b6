"""Columns of codes or of activations, read some at a time."""

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array, issparse, vstack

from ...metrics._rows import check_finite, float64_block, row_blocks, to_numpy
from ._windows import Activity

# Limits of what is read in one scan: columns, and entries of 16 bytes each.
_MAX_COLUMNS, _MAX_ENTRIES = 1024, 2**23


class Columns:
    """A matrix of which columns are read, a group of them in one scan of its rows.

    Parameters
    ----------
    matrix : matrix from `as_rows`
    name : str
        What the user calls it.

    Attributes
    ----------
    n_active : ndarray of int64 of shape (n_columns,)
        Number of positive entries of each column.
    """

    def __init__(self, matrix, name):
        self._matrix = matrix
        self._name = name
        self.n_active = sum(_n_positive(matrix[rows]) for rows in row_blocks(matrix))

    def groups(self, indices):
        """Split indices into slices of what one scan should read."""
        start, n_entries = 0, 0
        for place, count in enumerate(self.n_active[indices].tolist()):
            n_entries += count
            if place - start == _MAX_COLUMNS or (n_entries > _MAX_ENTRIES and place > start):
                yield slice(start, place)
                start, n_entries = place, count
        if start < len(indices):
            yield slice(start, len(indices))

    def read(self, indices):
        """The `Activity` of each of some columns, a list."""
        matrix = self._matrix
        if issparse(matrix):
            columns = csc_array(matrix[:, indices])
            columns.sum_duplicates()
        else:
            blocks = [csr_array(self._block(rows, indices)) for rows in row_blocks(matrix)]
            columns = csc_array(vstack(blocks))
            columns.sort_indices()
        check_finite(columns.data, self._name)
        return [
            _positive(columns.indices[a:b], columns.data[a:b])
            for a, b in zip(columns.indptr[:-1], columns.indptr[1:], strict=True)
        ]

    def _block(self, rows, indices):
        block = float64_block(self._matrix, (rows, indices))
        return np.where(block < 0, 0, block)  # keeps nan, which is complained of


def _positive(rows, values):
    kept = values > 0
    # rows of another dtype would be converted at each search
    return Activity(rows[kept].astype(np.int64), values[kept].astype(np.float64))


def _n_positive(block):
    """Number of positive entries in each column, (n_columns,)."""
    block = to_numpy(block) if isinstance(block, torch.Tensor) else block
    return np.asarray((block > 0).sum(axis=0), dtype=np.int64).ravel()  # of csr_matrix a matrix
