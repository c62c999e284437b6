"""Rows of whatever holds a matrix: ndarrays, memory maps, CSR matrices, tensors."""

import mmap

import numpy as np
import scipy.sparse as sp
import torch

from ..kernels import csr_tensor
from ..tensors import from_numpy

# Reading one row of a memory map makes up to a megabyte around it resident, so pages are released
# after this many rows.
ROWS_TO_MAP = 512


def is_csr(X):
    """Whether X is a CSR matrix or tensor."""
    return sp.issparse(X) or getattr(X, "layout", None) == torch.sparse_csr


def is_store(X):
    """Whether X is a view of a store, which is read chunk by chunk: see `StoreView`."""
    return hasattr(X, "chunk_rows")


def row_slices(n_rows, step):
    """Yield slices of ``step`` rows, the last of as many as there are."""
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def read_rows(X, index):
    """Rows of X given by a slice or by an int64 tensor, of the kind that X is.

    A slice of an ndarray or dense tensor is a view; all else is a copy. Of a view of a store they
    are a tensor.
    """
    if is_store(X):
        return X.read(index)
    if isinstance(X, torch.Tensor):
        return _rows_of_tensor(X, index)
    if not isinstance(index, torch.Tensor):
        return X[index]
    index = index.numpy()
    if sp.issparse(X):
        return X[index]
    rows = np.empty((len(index), X.shape[1]), dtype=X.dtype)
    for start in range(0, len(index), ROWS_TO_MAP):
        rows[start : start + ROWS_TO_MAP] = X[index[start : start + ROWS_TO_MAP]]
        release_pages(X)
    return rows


def as_dense(rows):
    """What `read_rows` returned as a dense tensor; shares its memory where that is possible."""
    if not isinstance(rows, torch.Tensor):
        return from_numpy(rows.toarray() if sp.issparse(rows) else rows)
    return rows.to_dense() if rows.layout == torch.sparse_csr else rows


def as_float64(rows):
    """The same as a dense ndarray of float64."""
    if isinstance(rows, torch.Tensor):
        return as_dense(rows).to("cpu", torch.float64).numpy()
    return np.asarray(rows.toarray() if sp.issparse(rows) else rows, dtype=np.float64)


def to_device(x, device, dtype=None):
    """Copy a tensor to a device, without waiting for the kernels queued on a GPU."""
    return x.to(device=device, dtype=dtype, non_blocking=device.type == "cuda")


def pinned(x, device):
    """A batch in page-locked memory: to a GPU it is copied from there while the CPU goes on.

    Itself where it is not on its way from the CPU to a GPU.
    """
    return x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x


def take_rows(X, index):
    """Rows of X by an int64 array; without a copy where they are consecutive."""
    if len(index) and (np.diff(index) == 1).all():
        index = slice(int(index[0]), int(index[-1]) + 1)
    if not isinstance(X, torch.Tensor):
        return X[index]
    return _rows_of_tensor(X, index if isinstance(index, slice) else torch.from_numpy(index))


def memory_map_of(X):
    """The memory map that X is, or is a view of; None of anything else."""
    while X is not None and getattr(X, "_mmap", None) is None:
        X = getattr(X, "base", None)  # NumPy calls results of memory maps so, too
    return X


def release_pages(X):
    """Release the pages of a memory map that have been read; the system's cache keeps them.

    They would count as resident memory of the process. Pages of a private map ("c") may have been
    written to, and are kept.
    """
    X = memory_map_of(X)
    if X is not None and X.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        X._mmap.madvise(mmap.MADV_DONTNEED)


def _rows_of_tensor(X, index):
    """Rows of a tensor, dense or CSR, given by a slice or by an int64 tensor."""
    if isinstance(index, torch.Tensor):
        index = to_device(index, X.device)
    if X.layout != torch.sparse_csr:
        return X[index]
    indptr = X.crow_indices()
    starts, counts = indptr[:-1][index], indptr.diff()[index]
    indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    n_entries = int(indptr[-1])  # waits for the device
    places = torch.arange(n_entries, dtype=torch.int64, device=X.device)
    places += torch.repeat_interleave(starts - indptr[:-1], counts, output_size=n_entries)
    columns = X.col_indices()[places].to(torch.int64)
    return csr_tensor(indptr, columns, X.values()[places], (len(counts), X.shape[1]))
