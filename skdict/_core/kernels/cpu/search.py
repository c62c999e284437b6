"""Finding the largest numbers, on integers that are read from the bits of floats.

Positive floating-point numbers are in the order of their bit patterns, read as signed integers,
and all others are no larger than zero so read (a NaN is very large).
"""

import numpy as np
from numba import types
from numba.extending import overload

from .compile import compiled

# Inner loops have this length, so that they become vector instructions.
LANES = 128
# The position of a uint64's only bit b: b times a de Bruijn sequence, shifted, is in this table.
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
BIT_POSITION = np.empty(64, np.int64)
for _position in range(64):
    BIT_POSITION[(int(DE_BRUIJN) << _position & 0xFFFFFFFFFFFFFFFF) >> 58] = _position


def integers_of(values):
    """The integers whose order, read from the same bits, is that of positive values."""
    return np.int32 if values.dtype == np.float32 else np.int64


@overload(integers_of, inline="always")
def _(values):
    integers = types.int32 if values.dtype == types.float32 else types.int64
    return lambda values: integers


@compiled(error_model="numpy", fastmath={"reassoc", "contract"})
def largest_key(keys):
    largest = keys.dtype.type(0)
    for i in range(len(keys)):
        largest = max(largest, keys[i])
    return largest


@compiled()
def n_at_least(keys, bound):
    count = np.int32(0)  # few bytes, so that many fit into a vector register
    for key in keys:
        count += np.int32(key >= bound)
    return count


@compiled()
def append_from(row, bound, indices, end):
    """Write the positions of entries >= bound to indices, from ``end`` on; return the new end."""
    whole = len(row) // 64 * 64
    for start in range(0, whole, 64):
        bits = np.uint64(0)
        for lane in range(64):
            bits |= np.uint64(row[start + lane] >= bound) << np.uint64(lane)
        while bits:
            lowest = bits & (~bits + np.uint64(1))
            indices[end] = start + BIT_POSITION[(lowest * DE_BRUIJN) >> np.uint64(58)]
            end += 1
            bits ^= lowest
    for j in range(whole, len(row)):
        if row[j] >= bound:
            indices[end] = j
            end += 1
    return end


@compiled()
def bound_of_largest(keys, k, spare, low, high):
    """A bound in [low, high) that k to k + spare keys reach, by bisection.

    The largest bound that k keys reach where ties allow no such bound; ``low`` where none does.
    """
    while high - low > 1:
        middle = low + (high - low) // 2
        count = n_at_least(keys, keys.dtype.type(middle))
        if count < k:
            high = middle
        else:
            low = middle
            if count <= k + spare:
                break
    return low


@compiled()
def largest_of_row(row, found, candidates, values):
    """Write the positions of the largest positive entries to ``found``; return their number."""
    n, k = len(row), len(found)
    lanes = np.zeros(LANES, row.dtype)
    whole = n // LANES * LANES
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] = max(lanes[lane], row[start + lane])
    for j in range(whole, n):
        lanes[j - whole] = max(lanes[j - whole], row[j])
    top = np.int64(lanes.max())
    bound = np.int64(1)
    if k <= LANES:  # k of the maxima over lanes are entries, so the k-th largest is no smaller
        bound = bound_of_largest(lanes, k, k // 8, max(bound, np.int64(lanes.min())), top + 1)
    n_candidates = append_from(row, row.dtype.type(bound), candidates, 0)
    for j in range(n_candidates):
        values[j] = row[candidates[j]]
    if n_candidates > k:
        bound = bound_of_largest(values[:n_candidates], k, 0, bound, top + 1)
    smallest = row.dtype.type(bound)
    n_ties = k  # of the entries that equal the bound, the first n_ties are taken
    for j in range(n_candidates):
        n_ties -= values[j] > smallest
    count = 0
    for j in range(n_candidates):
        tie = values[j] == smallest
        if values[j] > smallest or (tie and n_ties > 0):
            found[count] = candidates[j]
            count += 1
            n_ties -= tie
    return count


def without_gaps(indices, counts):
    """The first counts[i] of indices[i], one row after the other."""
    k = indices.shape[1]
    return indices.ravel() if counts.min() == k else indices[np.arange(k) < counts[:, None]]
