"""`select` on the CPU: every thread multiplies and searches its share of the rows.

A block of pre-activations is searched right after its product, while it is in the cache of the
core. It is searched as integers (see `search`) of 2, 4 or 8 bytes.
"""

import numpy as np
import torch
import torch.nn.functional as F

from ..bfloat16 import rounded
from .compile import compiled
from .instructions import cpu_has, cpu_has_bfloat16
from .search import append_from, bound_of_largest, n_at_least
from .threads import map_on_cores

# Pre-activations of a block: 2 MiB in bfloat16, 4 MiB in int32.
BLOCK_ELEMENTS = 1 << 20
# Inner loops have this length, so that they become vector instructions.
LANES = 128
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# The scale of a row of zeros: not zero, since entries are divided by it.
SMALLEST = np.finfo(np.float32).tiny
# Largest rounding noise of x and the weight in 8 bits, as a fraction of their mean |entry|.
MAX_NOISE = 0.06


def select(x, weight, bias, k):
    if x.dtype == torch.float32:
        if k is not None and cpu_has("vnni"):
            found = select_largest_in_8_bits(x, weight, bias, k)
            if found is not None:
                return found
        if cpu_has_bfloat16():
            x, weight, bias = rounded(x, weight, bias, raised=k is None)
    return select_rows(x, weight, bias, k)


def select_rows(x, weight, bias, k):
    """Entries of x @ weight.T + bias above zero, or the k largest of each row among them.

    A NaN counts as the largest, so that it is noticed later.

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
        return counts, without_gaps(indices, counts)

    return _search_blocks(search, len(weight), x)


def select_largest_in_8_bits(x, weight, bias, k):
    """`select_rows` of x and weight rounded to 8 bits; None where that is too coarse.

    Every row of x and of the weight is rounded to multiples of its largest entry / 127. Sums of
    products of integers are exact.
    """
    x, x_scale, x_noise = in_8_bits(x)
    weight, weight_scale, weight_noise = in_8_bits(weight)
    if not x_noise**2 + weight_noise**2 <= MAX_NOISE**2:  # NaNs neither
        return None
    weight_scale, bias = weight_scale.numpy(), bias.detach().numpy()

    def search(block, scale):
        products = torch._int_mm(block, weight.T).numpy()
        counts, indices = np.empty(len(block), np.int64), np.empty((len(block), k), np.int64)
        _find_largest_scaled(products, scale.numpy(), weight_scale, bias, indices, counts)
        return counts, without_gaps(indices, counts)

    return _search_blocks(search, len(weight), x, x_scale)


def in_8_bits(rows):
    """Quantise rows (m, d) to int8: the codes, the scale of each row and the rounding noise.

    Rounding to multiples of s changes an entry by s / √12 in root mean square. The noise is the
    mean over rows of that, relative to the row's mean |entry|: a row with one peak loses all else.
    """
    rows = rows.detach().contiguous()
    rounded = torch.empty(rows.shape, dtype=torch.int8, device="cpu")
    scale, size = rows.new_empty(2, len(rows))
    arrays = rows, rows.view(torch.int32), rounded, scale, size
    _round_rows(*(array.numpy() for array in arrays))
    return rounded, scale, (scale / 12**0.5 / size.clamp_min_(1e-30)).mean()


def _search_blocks(search, n_columns, *of_rows):
    """Counts and indices that search(*block) finds in blocks of rows, joined."""
    n_threads = torch.get_num_threads()
    step = max(1, min(BLOCK_ELEMENTS // n_columns, -(-len(of_rows[0]) // n_threads)))
    blocks = zip(*(tensor.split(step) for tensor in of_rows), strict=True)
    counts, indices = zip(*map_on_cores(lambda block: search(*block), blocks), strict=True)
    return torch.from_numpy(np.concatenate(counts)), torch.from_numpy(np.concatenate(indices))


def without_gaps(indices, counts):
    """The first counts[i] of indices[i], one row after the other."""
    k = indices.shape[1]
    return indices.ravel() if counts.min() == k else indices[np.arange(k) < counts[:, None]]


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
        counts[i] = n_at_least(keys[i], keys.dtype.type(1))


@compiled()
def _find_positive(keys, indices):
    end = 0
    for i in range(len(keys)):
        end = append_from(keys[i], keys.dtype.type(1), indices, end)


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


@compiled()
def _find_largest(keys, indices, counts):
    n = keys.shape[1]
    candidates, values = np.empty(n, np.int64), np.empty(n, keys.dtype)
    for i in range(len(keys)):
        counts[i] = largest_of_row(keys[i], indices[i], candidates, values)


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
        counts[i] = largest_of_row(keys, indices[i], candidates, values)
