"""`select` on the CPU: every thread multiplies and searches its share of the rows.

A block of pre-activations is searched right after its product, while it is in the cache of the
core. The search is compiled by Numba when first used, and kept on disk.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from threadpoolctl import threadpool_limits

# Pre-activations of a block: 2 MiB in bfloat16.
BLOCK_ELEMENTS = 1 << 20
# Loops over so many neighbours become vector instructions.
LANES = 128
VECTOR = 32
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def select_rows(x, weight, bias, k):
    """Entries of x @ weight.T + bias above zero, or the k largest of each row among them.

    Positive floating-point numbers are in the order of their bit patterns, read as signed
    integers, and all others are no larger than zero so read (a NaN is very large, and goes on to
    be noticed). The search therefore works on integers, of 2, 4 or 8 bytes alike.

    Returns
    -------
    counts : tensor of shape (B,), int64
    indices : tensor of shape (nnz,), int64
    """
    n_threads = torch.get_num_threads()
    step = max(1, min(BLOCK_ELEMENTS // len(weight), -(-len(x) // n_threads)))

    def search(start):
        keys = F.linear(x[start : start + step], weight, bias)
        keys = keys.view(INTEGERS[keys.element_size()]).numpy()
        counts = np.empty(len(keys), np.int64)
        if k is not None:
            indices = np.empty((len(keys), k), np.int64)
            _find_largest(keys, indices, counts)
            if counts.min() < k:
                indices = indices[np.arange(k) < counts[:, None]]
            return torch.from_numpy(counts), torch.from_numpy(indices).view(-1)
        _count_positive(keys, counts)
        # the search may write one entry past the last
        indices = np.empty(counts.sum() + 1, np.int64)
        _find_positive(keys, indices, counts)
        return torch.from_numpy(counts), torch.from_numpy(indices[:-1])

    blocks = _threads(os.getpid(), n_threads).map(search, range(0, len(x), step))
    counts, indices = zip(*blocks, strict=True)
    return torch.cat(counts), torch.cat(indices)


def transpose(indptr, indices, n_columns):
    """From CSR to CSC: indptr (n_columns + 1,), rows (nnz,), and the entry that each one was."""
    nnz = len(indices)
    new_indptr = np.zeros(n_columns + 1, np.int64)
    rows, order = np.empty(nnz, np.int64), np.empty(nnz, np.int64)
    _transpose(indptr.numpy(), indices.numpy(), new_indptr, rows, order)
    return tuple(torch.from_numpy(array) for array in (new_indptr, rows, order))


@cache
def _threads(process, n_threads):
    """Threads of this process (a fork has none of its parent's) in which torch uses one each."""
    return ThreadPoolExecutor(n_threads, "skdict-select", _use_one_core)


def _use_one_core():
    torch.get_num_threads()  # makes torch set the number for this thread, once and for all
    threadpool_limits(1)  # OpenMP's number is one of the thread, not of the process


@njit(nogil=True, cache=True)
def _count_positive(keys, counts):
    for i in range(len(keys)):
        count = 0
        for j in range(keys.shape[1]):
            count += keys[i, j] > 0
        counts[i] = count


@njit(nogil=True, cache=True)
def _find_positive(keys, indices, counts):
    end = 0
    for i in range(len(keys)):
        end = _append_from(keys[i], keys.dtype.type(1), indices, end, end + counts[i])


@njit(nogil=True, cache=True)
def _append_from(row, bound, indices, end, stop):
    """Append the positions of entries >= bound to indices from ``end``; ends at ``stop``.

    Writes before it knows whether the entry counts, which is faster than to branch.
    """
    whole = len(row) // VECTOR * VECTOR
    for start in range(0, whole, VECTOR):
        if end == stop:
            return end
        found = False
        for lane in range(VECTOR):
            found |= row[start + lane] >= bound
        if found:
            for lane in range(VECTOR):
                indices[end] = start + lane
                end += row[start + lane] >= bound
                if end == stop:
                    return end
    for j in range(whole, len(row)):
        if end == stop:
            return end
        indices[end] = j
        end += row[j] >= bound
    return end


@njit(nogil=True, cache=True)
def _at_least(keys, bound):
    count = 0
    for key in keys:
        count += key >= bound
    return count


@njit(nogil=True, cache=True)
def _largest_bound(keys, k, low, high):
    """The largest bound in [low, high) with at least k keys >= it, or low where there is none."""
    while high - low > 1:
        middle = low + (high - low) // 2
        if _at_least(keys, keys.dtype.type(middle)) >= k:
            low = middle
        else:
            high = middle
    return low


@njit(nogil=True, cache=True)
def _find_largest(keys, indices, counts):
    n, k = keys.shape[1], indices.shape[1]
    lanes = np.empty(LANES, keys.dtype)
    candidates = np.empty(n + 1, np.int64)
    values = np.empty(n, keys.dtype)
    whole = n // LANES * LANES
    for i in range(len(keys)):
        row = keys[i]
        lanes[:] = 0
        for start in range(0, whole, LANES):
            for lane in range(LANES):
                lanes[lane] = max(lanes[lane], row[start + lane])
        for j in range(whole, n):
            lanes[j - whole] = max(lanes[j - whole], row[j])
        top = np.int64(lanes.max())
        # k of the maxima over the lanes are entries, so the k-th largest entry is no smaller
        low = _largest_bound(lanes, k, 1, top + 1) if k <= LANES else np.int64(1)
        n_candidates = _append_from(row, keys.dtype.type(low), candidates, 0, n + 1)
        for j in range(n_candidates):
            values[j] = row[candidates[j]]
        bound = low
        if n_candidates > k:
            bound = _largest_bound(values[:n_candidates], k, low, top + 1)
        bound = keys.dtype.type(bound)
        n_ties = k
        for j in range(n_candidates):
            n_ties -= values[j] > bound
        count = 0
        for j in range(n_candidates):
            tie = values[j] == bound
            if values[j] > bound or (tie and n_ties > 0):
                indices[i, count] = candidates[j]
                count += 1
                n_ties -= tie
        counts[i] = count


@njit(nogil=True, cache=True)
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
