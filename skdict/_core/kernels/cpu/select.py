"""`select` on the CPU: every thread multiplies and searches its share of the rows.

A block of pre-activations is searched right after its product, while it is in the cache of the
core. The search is compiled by Numba when first used, and kept on disk.
"""

import numpy as np
import torch
import torch.nn.functional as F

from .compile import compiled
from .threads import map_on_cores

# Pre-activations of a block: 2 MiB in bfloat16, 4 MiB in int32.
BLOCK_ELEMENTS = 1 << 20
# Loops over so many neighbours become vector instructions.
LANES = 128
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

# The scale of a row of zeros, by which something can be divided.
SMALLEST = np.finfo(np.float32).tiny

# Rounding to 8 bits may change entries of x and of the weight by this fraction of their mean size.
MAX_NOISE = 0.06


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

    def search(block):
        keys = F.linear(block, weight, bias)
        keys = keys.view(INTEGERS[keys.element_size()]).numpy()
        counts = np.empty(len(keys), np.int64)
        if k is None:
            _count_positive(keys, counts)
            indices = np.empty(counts.sum(), np.int64)
            _find_positive(keys, indices)
            return counts, indices
        indices = np.empty((len(keys), k), np.int64)
        _find_largest(keys, indices, counts)
        return counts, _without_gaps(indices, counts)

    return _search_blocks(search, len(weight), x)


def select_largest_in_8_bits(x, weight, bias, k):
    """`select_rows` on rounded x and weight; None where 8 bits are too few.

    Every row of x and of the weight is rounded to multiples of its largest entry / 127. Sums of
    products of integers are exact.
    """
    x, x_scale, x_noise = _in_8_bits(x)
    weight, weight_scale, weight_noise = _in_8_bits(weight)
    if not x_noise**2 + weight_noise**2 <= MAX_NOISE**2:  # NaNs neither
        return None
    weight_scale, bias = weight_scale.numpy(), bias.detach().numpy()

    def search(block, scale):
        products = torch._int_mm(block, weight.T).numpy()
        counts, indices = np.empty(len(block), np.int64), np.empty((len(block), k), np.int64)
        _find_largest_scaled(products, scale.numpy(), weight_scale, bias, indices, counts)
        return counts, _without_gaps(indices, counts)

    return _search_blocks(search, len(weight), x, x_scale)


def _in_8_bits(rows):
    """Rows (m, d) as int8; what to multiply them by (m,); how much that changes them.

    Rounding to multiples of s changes an entry by s / √12 in root mean square. The mean over rows
    of that, over the row's mean |entry|: a row with one peak would lose all else.
    """
    rows = rows.detach().contiguous()
    rounded = torch.empty(rows.shape, dtype=torch.int8, device="cpu")
    scale, size = rows.new_empty(2, len(rows))
    arrays = rows, rows.view(torch.int32), rounded, scale, size
    _round_rows(*(array.numpy() for array in arrays))
    return rounded, scale, (scale / 12**0.5 / size.clamp_min_(1e-30)).mean()


def _search_blocks(search, n_columns, *of_rows):
    """counts and indices that search(*blocks) finds in blocks of rows, joined."""
    n_threads = torch.get_num_threads()
    step = max(1, min(BLOCK_ELEMENTS // n_columns, -(-len(of_rows[0]) // n_threads)))
    blocks = zip(*(tensor.split(step) for tensor in of_rows), strict=True)
    counts, indices = zip(*map_on_cores(lambda block: search(*block), blocks), strict=True)
    return torch.from_numpy(np.concatenate(counts)), torch.from_numpy(np.concatenate(indices))


def _without_gaps(indices, counts):
    """The first counts[i] of indices[i], one row after the other."""
    k = indices.shape[1]
    return indices.ravel() if counts.min() == k else indices[np.arange(k) < counts[:, None]]


def transpose(indptr, indices, n_columns):
    """From CSR to CSC: indptr (n_columns + 1,), rows (nnz,), and the entry that each one was."""
    nnz = len(indices)
    new_indptr = np.zeros(n_columns + 1, np.int64)
    rows, order = np.empty(nnz, np.int64), np.empty(nnz, np.int64)
    _transpose(indptr.numpy(), indices.numpy(), new_indptr, rows, order)
    return tuple(torch.from_numpy(array) for array in (new_indptr, rows, order))


@compiled()
def _round_rows(rows, bits, rounded, scale, size):
    """Multiples of each row's largest |entry| / 127, which is its scale; size is its mean |entry|.

    ``bits`` are the rows as int32: of |entry| in the same order, and a NaN the largest.
    """
    n = rows.shape[1]
    top = np.zeros(1, np.int32)
    for i in range(len(rows)):
        top[0], total = _largest_and_sum(bits[i], rows[i])
        scale[i] = max(top.view(np.float32)[0] / np.float32(127), SMALLEST)
        size[i] = total / np.float32(n)
        inverse = np.float32(1) / scale[i]
        for j in range(n):
            rounded[i, j] = np.int8(np.rint(rows[i, j] * inverse))


@compiled(fastmath={"reassoc"})  # in any order, else one after the other
def _largest_and_sum(bits, row):
    top, total = np.int32(0), np.float32(0)
    for j in range(len(row)):
        top = max(top, bits[j] & np.int32(0x7FFFFFFF))
        total += abs(row[j])
    return top, total


@compiled()
def _count_positive(keys, counts):
    for i in range(len(keys)):
        counts[i] = _n_at_least(keys[i], keys.dtype.type(1))


@compiled()
def _n_at_least(keys, bound):
    count = np.int32(0)  # in few bytes: as many fit into a vector register
    for key in keys:
        count += np.int32(key >= bound)
    return count


@compiled()
def _find_positive(keys, indices):
    end = 0
    for i in range(len(keys)):
        end = _append_from(keys[i], keys.dtype.type(1), indices, end)


# The position of a uint64's only bit b: b times a de Bruijn sequence, shifted, is in this table.
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
BIT_POSITION = np.empty(64, np.int64)
for _position in range(64):
    BIT_POSITION[(int(DE_BRUIJN) << _position & 0xFFFFFFFFFFFFFFFF) >> 58] = _position


@compiled()
def _append_from(row, bound, indices, end):
    """Append the positions of entries >= bound to indices from ``end``; where they end."""
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
def _bound_of_largest(keys, k, spare, low, high):
    """A bound in [low, high) with k to k + spare keys >= it, or the largest with at least k.

    Low where no other has k.
    """
    while high - low > 1:
        middle = low + (high - low) // 2
        count = _n_at_least(keys, keys.dtype.type(middle))
        if count < k:
            high = middle
        else:
            low = middle
            if count <= k + spare:
                break
    return low


@compiled()
def _largest_of_row(row, found, candidates, values):
    """Write the positions of the largest positive entries to ``found``; how many there are."""
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
        bound = _bound_of_largest(lanes, k, k // 8, max(bound, np.int64(lanes.min())), top + 1)
    n_candidates = _append_from(row, row.dtype.type(bound), candidates, 0)
    for j in range(n_candidates):
        values[j] = row[candidates[j]]
    if n_candidates > k:
        bound = _bound_of_largest(values[:n_candidates], k, 0, bound, top + 1)
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


@compiled()
def _find_largest(keys, indices, counts):
    n = keys.shape[1]
    candidates, values = np.empty(n, np.int64), np.empty(n, keys.dtype)
    for i in range(len(keys)):
        counts[i] = _largest_of_row(keys[i], indices[i], candidates, values)


@compiled()
def _find_largest_scaled(products, row_scale, column_scale, bias, indices, counts):
    n = products.shape[1]
    row = np.empty(n, np.float32)
    keys = row.view(np.int32)
    candidates, values = np.empty(n, np.int64), np.empty(n, np.int32)
    for i in range(len(products)):
        scale = row_scale[i]
        for j in range(n):
            row[j] = np.float32(products[i, j]) * (scale * column_scale[j]) + bias[j]
        counts[i] = _largest_of_row(keys, indices[i], candidates, values)


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
