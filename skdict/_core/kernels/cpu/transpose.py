"""From CSR to CSC by a counting sort."""

import numpy as np
import torch

from .compile import compiled


def transpose(support):
    nnz = len(support.indices)
    new_indptr = np.zeros(support.n_components + 1, np.int64)
    rows, order = np.empty(nnz, np.int64), np.empty(nnz, np.int64)
    _transpose(support.indptr.numpy(), support.indices.numpy(), new_indptr, rows, order)
    return tuple(torch.from_numpy(array) for array in (new_indptr, rows, order))


@compiled()
def _transpose(indptr, indices, new_indptr, rows, order):
    """Counting sort: stable, in time proportional to the entries."""
    for column in indices:
        new_indptr[column + 1] += 1
    for column in range(1, len(new_indptr)):
        new_indptr[column] += new_indptr[column - 1]
    ends = new_indptr.copy()
    for row in range(len(indptr) - 1):
        for entry in range(indptr[row], indptr[row + 1]):
            place = ends[indices[entry]]
            ends[indices[entry]] += 1
            rows[place] = row
            order[place] = entry
