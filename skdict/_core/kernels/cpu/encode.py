"""The encoder's codes on the CPU: all atoms are scanned in 8 bits, few are computed in float32.

The error of a product of rounded operands has a bound (Cauchy and Schwarz), which tells which
atoms may be active. Only their pre-activations are computed in float32. The codes are those of
float32: coarse rounding costs time, but never an entry.
"""

from functools import cached_property

import numpy as np
import torch

from ..reference.encode import encode as encode_plainly
from ..reference.encode import exceeding as exceeding_plainly
from ..tolerances import FEW_ROWS
from .compile import compiled
from .eight_bits import BLOCK_ELEMENTS, Rounded, above_threshold, uncertainty
from .instructions import cpu_has
from .products import linear
from .search import LANES, append_from, bound_of_largest, largest_key, largest_of_row
from .threads import map_on_cores

# With fewer components than these, rounding to 8 bits costs more than it saves.
MIN_COMPONENTS = 512
# With more candidates than this fraction of all entries, the plain product is faster.
MAX_CANDIDATES = 0.2
# Entries that are listed before candidates are chosen among them, as such a fraction, at most.
MAX_LISTED = 0.5
# With more listed entries than so many for each of the k of a row, it pays to find out first how
# large the k-th is: that takes a second pass over the weight.
MANY_LISTED = 12
# Pre-activations of a piece of rows, of which the listed are held: 8 bytes for each.
PIECE_ELEMENTS = 1 << 23


def encode(weight, bias, n_largest, threshold):
    scans = (
        _can_scan(weight, bias)
        and (n_largest is None or threshold is None)
        and (threshold is None or bool(threshold.isfinite().all()))
    )
    if scans:
        return Scan(weight, bias, n_largest, threshold)
    return encode_plainly(weight, bias, n_largest, threshold, linear)


def exceeding(weight, bias):
    plain = exceeding_plainly(weight, bias, linear)
    if not _can_scan(weight, bias):
        return plain
    scan = Scan(weight, bias, None, None)

    def search(centred, threshold):
        found = None
        if len(centred) >= FEW_ROWS and bool(threshold.isfinite().all()):
            found = scan.above(centred, threshold)
        return plain(centred, threshold) if found is None else found

    return search


def _can_scan(weight, bias):
    return (
        weight.dtype == torch.float32
        and len(weight) >= MIN_COMPONENTS
        and cpu_has("vnni")
        # the weight is looked at by `in_range`
        and bool(bias.isfinite().all())
    )


class Scan:
    """A prepared encoder in float32; parameters and calls as `operations.encode` has them."""

    def __init__(self, weight, bias, n_largest, threshold):
        self.weight, self.bias = weight.contiguous(), bias
        self.n_largest = n_largest
        self.threshold = torch.zeros_like(bias) if threshold is None else threshold
        self.plain = encode_plainly(weight, bias, n_largest, threshold, linear)

    @cached_property
    def rounded(self):
        """The weight in 8 bits."""
        return Rounded.of(self.weight)

    def __call__(self, centred):
        found = self._scan(centred) if len(centred) >= FEW_ROWS else None
        return self.plain(centred) if found is None else found

    def _scan(self, centred):
        """The codes, or None where 8 bits leave too many candidates or bounds are out of range."""
        if self.n_largest is not None:
            return self._scan_largest(centred)
        return self.above(centred, self.threshold)

    def above(self, centred, threshold):
        """Counts, indices and values of the pre-activations above a threshold, or None as `_scan`.

        Parameters
        ----------
        centred : tensor of shape (B, d)
        threshold : tensor of shape (n,), finite, of any sign
        """
        of_weight, of_rows = self.rounded, Rounded.of(centred)
        if not of_rows.in_range(of_weight):
            return None
        of_atoms = self.weight, of_weight.scale, of_weight.size, of_weight.error, self.bias
        of_atoms = [tensor.numpy() for tensor in of_atoms]
        of_rows = of_rows.codes, centred, of_rows.scale, of_rows.size, uncertainty(of_rows)
        threshold = threshold.numpy()

        def search(rows):
            codes, *row_arrays = (tensor[rows] for tensor in of_rows)
            products = torch._int_mm(codes, of_weight.codes.T).numpy()
            row_arrays = [tensor.numpy() for tensor in row_arrays]
            found = above_threshold(products, *row_arrays, *of_atoms, threshold, np.float32(0))
            counts, indices, values, n_candidates = found
            return counts, indices, values + of_atoms[-1][indices], n_candidates

        step = max(1, min(BLOCK_ELEMENTS // len(self.weight), -(-len(centred) // 2)))
        blocks = [slice(i, i + step) for i in range(0, len(centred), step)]
        *parts, n_candidates = zip(*map_on_cores(search, blocks), strict=True)
        if sum(n_candidates) > MAX_CANDIDATES * len(centred) * len(self.weight):
            return None
        return tuple(torch.from_numpy(np.concatenate(part)) for part in parts)

    def _scan_largest(self, centred):
        n_threads, _ = torch.get_num_threads(), self.rounded  # made before others need it
        most = n_threads * max(1, PIECE_ELEMENTS // len(self.weight))  # rows of a round of pieces
        step = -(-len(centred) // (n_threads * -(-len(centred) // most)))
        found = map_on_cores(self._largest, centred.split(step))
        if any(part is None for part in found):
            return None
        return tuple(torch.from_numpy(np.concatenate(part)) for part in zip(*found, strict=True))

    def _largest(self, x):
        """Counts, indices and values of the codes of some rows, or None as `_scan`."""
        n, k, of_weight, rounded = len(self.weight), self.n_largest, self.rounded, Rounded.of(x)
        if not rounded.in_range(of_weight):
            return None
        weight, bias = self.weight.numpy(), self.bias.numpy()
        of_atoms = *(t.numpy() for t in (of_weight.scale, of_weight.size, of_weight.error)), bias
        of_rows = [t.numpy() for t in (rounded.scale, rounded.size, uncertainty(rounded))]
        counts = np.empty(len(x), np.int64)
        indices = np.empty(int(MAX_LISTED * len(x) * n) + n, np.int32)
        upper = np.empty(len(indices), np.float32)
        step = min(len(x), max(1, BLOCK_ELEMENTS // n))
        products, end = torch.empty((step, n), dtype=torch.int32, device="cpu"), 0
        for start in range(0, len(x), step):
            block = slice(start, start + step)
            out = products[: len(x) - start]
            torch._int_mm(rounded.codes[block], of_weight.codes.T, out=out)
            of_block = (array[block] for array in (*of_rows, counts))
            end = _list(out.numpy(), *of_block, *of_atoms, k, indices, upper, end)
            if end < 0:
                return None
        listed = counts, indices[:end], upper[:end]
        in_two_steps = end > MANY_LISTED * len(x) * k
        most = int(MAX_CANDIDATES * len(x) * n)
        *codes, n_computed = _codes(x.numpy(), weight, bias, k, *listed, in_two_steps, most)
        return None if n_computed < 0 else codes


@compiled(fastmath={"reassoc", "contract"})
def _with_atom(x, rows, atom, bias, entries, exact):
    """exact[entries] = x[rows] · atom + bias: four rows at a time, the atom is read once for all.

    The last four repeat a row where there are fewer, so that sums are taken in the same order
    wherever a row stands.
    """
    n, zero = len(rows), np.float32(0)
    for first in range(0, n, 4):
        one, two, three = min(first + 1, n - 1), min(first + 2, n - 1), min(first + 3, n - 1)
        row0, row1, row2, row3 = x[rows[first]], x[rows[one]], x[rows[two]], x[rows[three]]
        sum0, sum1, sum2, sum3 = zero, zero, zero, zero
        for k in range(len(atom)):
            sum0 += row0[k] * atom[k]
            sum1 += row1[k] * atom[k]
            sum2 += row2[k] * atom[k]
            sum3 += row3[k] * atom[k]
        exact[entries[first]], exact[entries[one]] = sum0 + bias, sum1 + bias
        exact[entries[two]], exact[entries[three]] = sum2 + bias, sum3 + bias


@compiled(fastmath={"contract"})
def _estimate(products, scale, size, rounding, w_scale, w_size, w_rounding, bias, upper, lanes):
    """Upper bounds of a row's pre-activations (n,), from the product in 8 bits.

    ``lanes`` becomes the largest lower bound of each lane, 0 where none is positive, as integers
    (see `search`); an entry belongs to one of the lanes. In loops that become vector instructions.
    """
    lower = np.empty(LANES, np.float32)
    keys = lower.view(np.int32)
    lanes[:] = 0
    n_sets, whole = len(lanes) // LANES, len(products) // LANES * LANES
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            j = start + lane
            middle = np.float32(products[j]) * (scale * w_scale[j]) + bias[j]
            error = _error(middle, size, rounding, w_size[j], w_rounding[j])
            lower[lane], upper[j] = middle - error, middle + error
        of_set = lanes[start // LANES % n_sets * LANES :]
        for lane in range(LANES):
            of_set[lane] = max(of_set[lane], keys[lane])
    for j in range(whole, len(products)):
        middle = np.float32(products[j]) * (scale * w_scale[j]) + bias[j]
        error = _error(middle, size, rounding, w_size[j], w_rounding[j])
        lower[j - whole], upper[j] = middle - error, middle + error
    for lane in range(len(products) - whole):
        lanes[lane] = max(lanes[lane], keys[lane])


@compiled(fastmath={"contract"})
def _error(middle, size, rounding, w_size, w_rounding):
    """How far a pre-activation can be from what the product in 8 bits makes of it."""
    return rounding * w_size + size * w_rounding + np.float32(2.0**-21) * abs(middle)


@compiled()
def _list(
    products, scale, size, rounding, counts, w_scale, w_size, w_rounding, bias, k, indices,
    upper, end,
):  # fmt: skip
    """List the entries of some rows that may be in the codes, with the upper bound of each.

    These are all whose upper bound reaches the k-th largest lower bound, which
    that of some lanes stands for.

    Returns
    -------
    end : int
        Of what is listed in ``indices`` and ``upper``; -1 if these are full.
    """
    n = products.shape[1]
    row = np.empty(n, np.float32)
    lanes = np.empty(LANES * -(-4 * k // LANES), np.int32)
    for i in range(len(products)):
        if end + n > len(indices):
            return -1
        _estimate(
            products[i], scale[i], size[i], rounding[i], w_scale, w_size, w_rounding, bias, row,
            lanes,
        )  # fmt: skip
        top = np.int64(largest_key(lanes))
        bound = bound_of_largest(lanes, k, k // 8, np.int64(1), top + 1)
        last = append_from(row.view(np.int32), np.int32(bound), indices, end)
        for place in range(end, last):
            upper[place] = row[indices[place]]
        counts[i] = last - end
        end = last
    return end


@compiled()
def _codes(x, weight, bias, k, counts, indices, upper, in_two_steps, most):
    """Codes from the entries that `_list` has found.

    Returns
    -------
    counts, indices, values : arrays of shape (B,), (nnz,), (nnz,)
    n_computed : int
        How many pre-activations were computed; -1 if they would be more than ``most``.
    """
    n_rows, keys, ends = len(counts), upper.view(np.int32), counts.cumsum()
    low, high = np.ones(n_rows, np.int64), np.full(n_rows, 1 << 31)
    exact = np.zeros(len(indices), np.float32)
    of_exact = exact.view(np.int32)
    if in_two_steps:
        for i in range(n_rows):  # of each row the k largest upper bounds first
            of_row = keys[ends[i] - counts[i] : ends[i]]
            top = np.int64(largest_key(of_row))
            low[i] = bound_of_largest(of_row, k, 0, np.int64(1), top + 1)
    n_computed = _compute(x, weight, bias, indices, keys, counts, low, high, exact, most)
    if in_two_steps and n_computed >= 0:
        # the k-th largest is no smaller than the smallest of any k, and of these it is close
        for i in range(n_rows):
            high[i], least = low[i], np.int32((1 << 31) - 1)
            for entry in range(ends[i] - counts[i], ends[i]):
                if keys[entry] >= high[i]:
                    least = min(least, of_exact[entry])
            low[i] = max(least, 1)
        most -= n_computed
        n_computed = _compute(x, weight, bias, indices, keys, counts, low, high, exact, most)
    n_out = min(len(indices), n_rows * k)
    out_indices, out_values = np.empty(n_out, np.int64), np.empty(n_out, np.float32)
    found = np.empty(k, np.int64)
    candidates, spare = np.empty(counts.max(), np.int64), np.empty(counts.max(), np.int32)
    last = 0
    for i in range(n_rows):
        start, begin = ends[i] - counts[i], last
        of_row = of_exact[start : ends[i]]
        n_found = largest_of_row(of_row, found[: min(k, counts[i])], candidates, spare)
        for entry in start + found[:n_found]:
            out_indices[last], out_values[last] = indices[entry], exact[entry]
            last += 1
        counts[i] = last - begin
    return counts, out_indices[:last], out_values[:last], n_computed


@compiled()
def _compute(x, weight, bias, indices, keys, counts, low, high, exact, most):
    """Compute the pre-activations whose key is in [low, high) of their row; how many there are.

    Atom by atom, so that a row of the weight is read once: it is far larger than a core's cache.
    If there are more than ``most``, nothing is computed, and -1 returned.
    """
    starts = np.zeros(len(weight) + 1, np.int64)
    entry = 0
    for i in range(len(counts)):
        for _ in range(counts[i]):
            if low[i] <= keys[entry] < high[i]:
                starts[indices[entry] + 1] += 1
            entry += 1
    for j in range(len(weight)):
        starts[j + 1] += starts[j]
    if starts[-1] > most:
        return -1
    ends = starts[:-1].copy()
    rows, entries = np.empty(starts[-1], np.int64), np.empty(starts[-1], np.int64)
    entry = 0
    for i in range(len(counts)):
        for _ in range(counts[i]):
            if low[i] <= keys[entry] < high[i]:
                place = ends[indices[entry]]
                ends[indices[entry]] += 1
                rows[place], entries[place] = i, entry
            entry += 1
    for j in range(len(weight)):
        of_atom = slice(starts[j], starts[j + 1])
        _with_atom(x, rows[of_atom], weight[j], bias[j], entries[of_atom], exact)
    return starts[-1]
