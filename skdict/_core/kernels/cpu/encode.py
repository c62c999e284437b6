"""The encoder's codes on the CPU: all atoms are scanned in 8 bits, few are computed in float32.

The error of a product of rounded operands has a bound (Cauchy and Schwarz), which tells which
atoms may be active. Only their pre-activations are computed in float32. The codes are those of
float32: coarse rounding costs time, but never an entry.
"""

from functools import cached_property, partial

import numpy as np
import torch

from ..reference.encode import encode as encode_plainly
from ..tolerances import FEW_ROWS
from .compile import compiled
from .instructions import cpu_has
from .search import append_from
from .select import BLOCK_ELEMENTS, in_8_bits, largest_of_row, without_gaps
from .threads import map_on_cores

# With fewer components than these, rounding to 8 bits costs more than it saves.
MIN_COMPONENTS = 512
# With more candidates than this fraction of all entries, the plain product is faster.
MAX_CANDIDATES = 0.2


def encode(weight, bias, n_largest, threshold):
    scans = (
        weight.dtype == torch.float32
        and len(weight) >= MIN_COMPONENTS
        and (n_largest is None or threshold is None)
        and cpu_has("vnni")
        # the weight is looked at by `_in_range`
        and bool(bias.isfinite().all())
        and (threshold is None or bool(threshold.isfinite().all()))
    )
    return (Scan if scans else encode_plainly)(weight, bias, n_largest, threshold)


class Scan:
    """A prepared encoder in float32; parameters and calls as `operations.encode` has them."""

    def __init__(self, weight, bias, n_largest, threshold):
        self.weight, self.bias = weight.contiguous(), bias
        self.n_largest = n_largest
        self.threshold = torch.zeros_like(bias) if threshold is None else threshold
        self.plain = encode_plainly(weight, bias, n_largest, threshold)

    @cached_property
    def rounded(self):
        """The weight in 8 bits, its scales (n,), norms (n,) and norms of the rounding errors."""
        return _rounded(self.weight)

    def __call__(self, centred):
        found = self._scan(centred) if len(centred) >= FEW_ROWS else None
        return self.plain(centred) if found is None else found

    def _scan(self, centred):
        """The codes, or None where 8 bits leave too many candidates or bounds are out of range."""
        low_weight, *of_weight = self.rounded
        low, scale, size, rounding = _rounded(centred)
        if not _in_range(size, of_weight[1]):
            return None
        # summing d products in float32 is off by at most d ε ‖x‖ ‖w‖, here and in the exact values
        rounding += 2 * (centred.shape[1] + 8) * torch.finfo(torch.float32).eps * size
        of_atoms = self.weight, *of_weight, self.bias, self.threshold
        of_atoms = [tensor.numpy() for tensor in of_atoms]

        def search(rows):
            products = torch._int_mm(low[rows], low_weight.T).numpy()
            of_rows = (tensor[rows].numpy() for tensor in (centred, scale, size, rounding))
            if self.n_largest is None:
                return _above_threshold(products, *of_rows, *of_atoms)
            found = _largest(products, *of_rows, *of_atoms[:-1], self.n_largest)
            counts, indices, values, n_candidates = found
            return (
                counts,
                without_gaps(indices, counts),
                without_gaps(values, counts),
                n_candidates,
            )

        step = max(1, min(BLOCK_ELEMENTS // len(self.weight), -(-len(centred) // 2)))
        blocks = [slice(i, i + step) for i in range(0, len(centred), step)]
        *parts, n_candidates = zip(*map_on_cores(search, blocks), strict=True)
        if sum(n_candidates) > MAX_CANDIDATES * len(centred) * len(self.weight):
            return None
        return tuple(torch.from_numpy(np.concatenate(part)) for part in parts)


def _rounded(rows):
    """Rows (m, d) in 8 bits, their scales (m,), norms (m,) and norms of the rounding errors (m,).

    Norms are taken in units of the scale, where no square overflows or underflows.
    """
    low, scale, _ = in_8_bits(rows)
    norm, in_units = partial(torch.linalg.vector_norm, dim=1), rows / scale[:, None]
    return low, scale, scale * norm(in_units), scale * norm(in_units - low)


def _in_range(size, w_size):
    """Whether float32 holds the products of these norms, zeros apart, with all their digits."""
    limits = torch.finfo(torch.float32)
    least, most = 1.0, 1.0
    for norms in (size, w_size):
        norms = torch.where(norms == 0, 1, norms).double()
        least, most = least * float(norms.min()), most * float(norms.max())
    return limits.tiny / limits.eps**1.5 < least and most < limits.max * limits.eps


@compiled(fastmath={"reassoc", "contract"})  # in any order, the same for all rows
def _dot(left, right):
    total = np.float32(0)
    for i in range(len(left)):
        total += left[i] * right[i]
    return total


@compiled()
def _estimate(products, scale, size, rounding, w_scale, w_size, w_rounding, bias, lower, upper):
    """Bounds of a row's pre-activations (n,) from the product in 8 bits.

    In loops of few arrays, which become vector instructions.
    """
    n = len(products)
    for j in range(n):
        lower[j] = np.float32(products[j]) * (scale * w_scale[j]) + bias[j]
    for j in range(n):
        upper[j] = rounding * w_size[j] + size * w_rounding[j]
    for j in range(n):
        middle = lower[j]
        error = upper[j] + np.float32(2.0**-21) * abs(middle)
        lower[j] = middle - error
        upper[j] = middle + error


@compiled()
def _largest(products, x, scale, size, rounding, weight, w_scale, w_size, w_rounding, bias, k):
    """The k largest positive pre-activations of each row, as indices (B, k) and values."""
    n_rows, n = products.shape
    counts = np.empty(n_rows, np.int64)
    indices, values = np.empty((n_rows, k), np.int64), np.empty((n_rows, k), np.float32)
    lower, upper = np.empty(n, np.float32), np.empty(n, np.float32)
    candidates, spare = np.empty(n, np.int64), np.empty(n, np.int32)
    found, exact = np.empty(k, np.int64), np.empty(n, np.float32)
    least = np.empty(1, np.float32)
    n_candidates = 0
    for i in range(n_rows):
        _estimate(
            products[i],
            scale[i],
            size[i],
            rounding[i],
            w_scale,
            w_size,
            w_rounding,
            bias,
            lower,
            upper,
        )
        bound = np.float32(0)
        if largest_of_row(lower.view(np.int32), found, candidates, spare) == k:
            # the k-th largest is no smaller than the smallest of any k, and of these it is close
            bound = np.float32(np.inf)
            for j in found:
                bound = min(bound, _dot(x[i], weight[j]) + bias[j])
        least[0] = bound
        smallest = max(least.view(np.int32)[0], np.int32(1))
        m = append_from(upper.view(np.int32), smallest, candidates, 0)
        for place in range(m):
            j = candidates[place]
            exact[place] = _dot(x[i], weight[j]) + bias[j]
        n_candidates += m
        kept = np.empty(m, np.int64)
        count = largest_of_row(
            exact[:m].view(np.int32), found[: min(k, m)], kept, np.empty(m, np.int32)
        )
        counts[i] = count
        for place in range(count):
            indices[i, place] = candidates[found[place]]
            values[i, place] = exact[found[place]]
    return counts, indices, values, n_candidates


@compiled()
def _above_threshold(
    products, x, scale, size, rounding, weight, w_scale, w_size, w_rounding, bias, threshold
):
    """The pre-activations of each row that exceed the threshold, one row after the other."""
    n_rows, n = products.shape
    counts = np.zeros(n_rows, np.int64)
    indices, values = np.empty(n, np.int64), np.empty(n, np.float32)
    lower, upper = np.empty(n, np.float32), np.empty(n, np.float32)
    candidates = np.empty(n, np.int64)
    end = n_candidates = 0
    for i in range(n_rows):
        _estimate(
            products[i],
            scale[i],
            size[i],
            rounding[i],
            w_scale,
            w_size,
            w_rounding,
            bias,
            lower,
            upper,
        )
        if end + n > len(indices):
            indices = np.concatenate((indices, np.empty(len(indices) + n, np.int64)))
            values = np.concatenate((values, np.empty(len(values) + n, np.float32)))
        for j in range(n):
            upper[j] -= threshold[j]
        m = append_from(upper.view(np.int32), np.int32(1), candidates, 0)
        for j in candidates[:m]:
            value = _dot(x[i], weight[j]) + bias[j]
            if value > threshold[j]:
                indices[end], values[end] = j, value
                end += 1
                counts[i] += 1
        n_candidates += m
    return counts, indices[:end].copy(), values[:end].copy(), n_candidates
