"""Rows in 8-bit integers, which some CPUs multiply fastest, and bounds on what rounding changes.

The error of a product of rounded operands has a bound (Cauchy and Schwarz), which tells which
entries may exceed a threshold. Only these are computed in float32.
"""

from typing import NamedTuple

import numpy as np
import torch

from .compile import compiled
from .products import products_of_rows
from .search import append_from
from .threads import map_on_cores

# Products of a block: 4 MiB in int32.
BLOCK_ELEMENTS = 1 << 20
# The scale of a row of zeros: not zero, since entries are divided by it.
SMALLEST = np.finfo(np.float32).tiny
EPS = np.finfo(np.float32).eps


class Rounded(NamedTuple):
    """Rows (m, d) as multiples of their largest |entry| / 127, and what that has changed.

    Parameters
    ----------
    codes : tensor of shape (m, d), int8
    scale : tensor of shape (m,)
        What a code of 1 stands for.
    size : tensor of shape (m,)
        Norms of the rows or of what they are rounded to, whichever are larger; no less than these.
    error : tensor of shape (m,)
        Norms of the changes, no less than they are.
    mean : tensor of shape (m,)
        Mean |entry|.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    size: torch.Tensor
    error: torch.Tensor
    mean: torch.Tensor

    @classmethod
    def of(cls, rows):
        rows = rows.detach().contiguous()
        codes = torch.empty(rows.shape, dtype=torch.int8, device="cpu")
        rounded = cls(codes, *rows.new_empty(4, len(rows)))
        arrays = [array.numpy() for array in (rows, rows.view(torch.int32), *rounded)]
        step = max(1, -(-len(rows) // torch.get_num_threads()))
        blocks = [slice(i, i + step) for i in range(0, len(rows), step)]
        map_on_cores(lambda block: _round_rows(*(array[block] for array in arrays)), blocks)
        return rounded

    @property
    def noise(self):
        """Rounding noise as a fraction of the mean |entry|: a mean over rows.

        Rounding to multiples of s changes an entry by s / √12 in root mean square. A row with one
        peak loses all else.
        """
        return (self.scale / 12**0.5 / self.mean.clamp_min(1e-30)).mean()

    def in_range(self, other):
        """Whether float32 holds products with these norms, zeros apart, with all their digits."""
        limits = torch.finfo(torch.float32)
        least, most = 1.0, 1.0
        for norms in (self.size, other.size):
            norms = torch.where(norms == 0, 1, norms).double()
            least, most = least * float(norms.min()), most * float(norms.max())
        return limits.tiny / limits.eps**1.5 < least and most < limits.max * limits.eps


def uncertainty(rounded):
    """Norms (m,) of what rounding to 8 bits, and summing in float32, may change a row by."""
    # a sum of d products in float32 is off by at most d ε ‖x‖ ‖w‖, here and in the exact value
    return rounded.error + 2 * (rounded.codes.shape[1] + 8) * EPS * rounded.size


@compiled(fastmath={"reassoc", "contract"})
def _round_rows(rows, bits, codes, scale, size, error, mean):
    """``bits`` are the rows as int32: of |entry| in the same order, and a NaN the largest."""
    n = rows.shape[1]
    top = np.zeros(1, np.int32)
    norm = np.float32(1) + np.float32(n) * np.float32(EPS)  # makes up for the rounding of sums
    for i in range(len(rows)):
        top[0], total = np.int32(0), np.float32(0)
        for j in range(n):
            top[0] = max(top[0], bits[i, j] & np.int32(0x7FFFFFFF))
            total += abs(rows[i, j])
        scale[i] = max(top.view(np.float32)[0] / np.float32(127), SMALLEST)
        mean[i] = total / np.float32(n)
        inverse = np.float32(1) / scale[i]
        squares, of_codes, lost = np.float32(0), np.float32(0), np.float32(0)  # in units of scale
        for j in range(n):
            entry = rows[i, j] * inverse
            nearest = np.rint(entry)
            codes[i, j] = np.int8(nearest)
            squares += entry * entry
            of_codes += nearest * nearest
            lost += (entry - nearest) * (entry - nearest)
        size[i] = scale[i] * (norm * np.sqrt(max(squares, of_codes)))
        error[i] = scale[i] * (norm * np.sqrt(lost))


@compiled()
def upper_bounds(products, scale, size, rounding, w_scale, w_size, w_rounding, bias, upper):
    """Upper bounds of a row's pre-activations (n,), from the product in 8 bits."""
    for j in range(len(products)):
        middle = np.float32(products[j]) * (scale * w_scale[j]) + bias[j]
        error = rounding * w_size[j] + size * w_rounding[j] + np.float32(2.0**-21) * abs(middle)
        upper[j] = middle + error


@compiled()
def above_threshold(
    products, x, scale, size, rounding, weight, w_scale, w_size, w_rounding, bias, threshold, slack
):
    """The entries of each row whose pre-activation exceeds the threshold, less a slack.

    The slack is a multiple of the norms of both operands.

    Returns
    -------
    counts : ndarray of shape (n_rows,)
    indices, values : ndarray of shape (nnz,)
        Values are products, without bias.
    n_candidates : int
    """
    n_rows, n = products.shape
    indptr, counts = np.zeros(n_rows + 1, np.int64), np.zeros(n_rows, np.int64)
    indices, upper = np.empty(n, np.int64), np.empty(n, np.float32)
    end = 0
    for i in range(n_rows):
        upper_bounds(
            products[i], scale[i], size[i], rounding[i], w_scale, w_size, w_rounding, bias, upper
        )
        for j in range(n):
            upper[j] -= threshold[j]
        if end + n > len(indices):
            indices = np.concatenate((indices, np.empty(len(indices) + n, np.int64)))
        end = append_from(upper.view(np.int32), np.int32(1), indices, end)
        indptr[i + 1] = end
    values = np.empty(end, np.float32)
    products_of_rows(x, weight, indptr, indices, values)
    end = 0
    for i in range(n_rows):
        least, start = -slack * size[i], end
        for place in range(indptr[i], indptr[i + 1]):
            j, value = indices[place], values[place]
            indices[end], values[end] = j, value  # stays if the next is not written over it
            end += value + bias[j] - threshold[j] > least * w_size[j]
        counts[i] = end - start
    return counts, indices[:end].copy(), values[:end].copy(), indptr[-1]
