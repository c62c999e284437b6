"""The encoder's codes on the CPU: all atoms are scanned in 8 bits, few are computed in float32.

The error of a product of rounded operands has a bound (Cauchy and Schwarz), which tells which
atoms may be active. Only their pre-activations are computed in float32. The codes are those of
float32: coarse rounding costs time, but never an entry.
"""

from functools import cached_property

import numpy as np
import torch

from ..reference.encode import encode as encode_plainly
from ..tolerances import FEW_ROWS
from .compile import compiled
from .eight_bits import BLOCK_ELEMENTS, Rounded, above_threshold, estimate, uncertainty
from .instructions import cpu_has
from .products import products_with
from .search import append_from, largest_of_row, without_gaps
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
        """The weight in 8 bits."""
        return Rounded.of(self.weight)

    def __call__(self, centred):
        found = self._scan(centred) if len(centred) >= FEW_ROWS else None
        return self.plain(centred) if found is None else found

    def _scan(self, centred):
        """The codes, or None where 8 bits leave too many candidates or bounds are out of range."""
        of_weight, of_rows = self.rounded, Rounded.of(centred)
        if not of_rows.in_range(of_weight):
            return None
        of_atoms = self.weight, of_weight.scale, of_weight.size, of_weight.error, self.bias
        of_atoms = [tensor.numpy() for tensor in of_atoms]
        of_rows = of_rows.codes, centred, of_rows.scale, of_rows.size, uncertainty(of_rows)
        threshold = self.threshold.numpy()

        def search(rows):
            codes, *row_arrays = (tensor[rows] for tensor in of_rows)
            products = torch._int_mm(codes, of_weight.codes.T).numpy()
            row_arrays = [tensor.numpy() for tensor in row_arrays]
            if self.n_largest is None:
                found = above_threshold(products, *row_arrays, *of_atoms, threshold, np.float32(0))
                counts, indices, values, n_candidates = found
                return counts, indices, values + of_atoms[-1][indices], n_candidates
            found = _largest(products, *row_arrays, *of_atoms, self.n_largest)
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
        estimate(
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
            products_with(x[i], weight, found, exact)
            for place in range(k):
                bound = min(bound, exact[place] + bias[found[place]])
        least[0] = bound
        smallest = max(least.view(np.int32)[0], np.int32(1))
        m = append_from(upper.view(np.int32), smallest, candidates, 0)
        products_with(x[i], weight, candidates[:m], exact)
        for place in range(m):
            exact[place] += bias[candidates[place]]
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
