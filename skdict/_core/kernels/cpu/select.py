"""`select` on the CPU: every thread multiplies and searches its share of the rows.

A block of pre-activations is searched right after its product, while it is in the cache of the
core. It is searched as integers (see `search`) of 2, 4 or 8 bytes.

Counts are of shape (B,), indices of shape (nnz,). Where products of rows of x and of the weight
have been computed in full precision, they are given too: (nnz,).
"""

import numpy as np
import torch
import torch.nn.functional as F

from ..bfloat16 import rounded
from .compile import compiled
from .eight_bits import BLOCK_ELEMENTS, EPS, Rounded, above_threshold, uncertainty
from .instructions import cpu_has, cpu_has_bfloat16
from .search import append_from, largest_of_row, n_at_least, without_gaps
from .threads import map_on_cores

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Largest rounding noise of x and the weight in 8 bits, as a fraction of their mean |entry|.
MAX_NOISE = 0.06


def select(x, weight, bias, k):
    if x.dtype == torch.float32:
        if cpu_has("vnni"):
            found = select_in_8_bits(x, weight, bias, k)
            if found is not None:
                return found
        if cpu_has_bfloat16():
            x, weight, bias = rounded(x, weight, bias, raised=k is None)
    return select_rows(x, weight, bias, k)


def select_rows(x, weight, bias, k):
    """Entries of x @ weight.T + bias above zero, or the k largest of each row among them.

    A NaN counts as the largest, so that it is noticed later.
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


def select_in_8_bits(x, weight, bias, k):
    """`select_rows`, scanned in 8 bits; None where that is too coarse.

    Without k the scan finds what may be above zero, of which products are computed in float32.
    With k the largest are those of the rounded operands: sums of products of integers are exact.
    """
    of_x, of_weight = Rounded.of(x), Rounded.of(weight)
    if k is not None:
        if not of_x.noise**2 + of_weight.noise**2 <= MAX_NOISE**2:  # NaNs neither
            return None
        return _largest_in_8_bits(of_x, of_weight, bias.detach().numpy(), k)
    if not (of_x.in_range(of_weight) and bias.isfinite().all()):
        return None
    of_atoms = weight, of_weight.scale, of_weight.size, of_weight.error, bias
    of_atoms = [tensor.detach().numpy() for tensor in of_atoms]
    no_threshold, slack = np.zeros_like(of_atoms[-1]), (x.shape[1] + 8) * EPS

    def search(codes, *of_rows):
        products = torch._int_mm(codes, of_weight.codes.T).numpy()
        of_rows = (tensor.numpy() for tensor in of_rows)
        return above_threshold(products, *of_rows, *of_atoms, no_threshold, slack)[:3]

    of_rows = x.contiguous(), of_x.scale, of_x.size, uncertainty(of_x)
    return _search_blocks(search, len(weight), of_x.codes, *of_rows)


def _largest_in_8_bits(of_x, of_weight, bias, k):
    weight_scale = of_weight.scale.numpy()

    def search(block, scale):
        products = torch._int_mm(block, of_weight.codes.T).numpy()
        counts, indices = np.empty(len(block), np.int64), np.empty((len(block), k), np.int64)
        _find_largest_scaled(products, scale.numpy(), weight_scale, bias, indices, counts)
        return counts, without_gaps(indices, counts)

    return _search_blocks(search, len(weight_scale), of_x.codes, of_x.scale)


def _search_blocks(search, n_columns, *of_rows):
    """What search(*block) finds in blocks of rows, joined."""
    n_threads = torch.get_num_threads()
    step = max(1, min(BLOCK_ELEMENTS // n_columns, -(-len(of_rows[0]) // n_threads)))
    blocks = zip(*(tensor.split(step) for tensor in of_rows), strict=True)
    found = zip(*map_on_cores(lambda block: search(*block), blocks), strict=True)
    return tuple(torch.from_numpy(np.concatenate(part)) for part in found)


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
