"""Products in Numba that BLAS has not, or not as fast: rows of a table are read where they are."""

import numpy as np
import torch
import torch.nn.functional as F
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compile import compiled
from .threads import SMALL_WORK, map_on_cores

# A thread's share of rows is cut into so many pieces: some have more entries than others.
PIECES = 4
# Of so many rows all products with a weight are computed in one pass over it, in the order of
# memory. BLAS reads several rows of the weight at a time, which takes twice as long where they
# are in no cache.
FEW_ROWS = 4
# What is multiplied and summed in.
SUMMED_IN = {dtype: dtype for dtype in (torch.float32, torch.float64)}
SUMMED_IN[torch.bfloat16] = torch.float32


def linear(x, weight, bias=None):
    if len(x) > FEW_ROWS or weight.dtype not in SUMMED_IN:
        return F.linear(x, weight, bias)
    x, weight = x.detach(), weight.detach().contiguous()
    x = x.to(SUMMED_IN[weight.dtype]).contiguous()
    products = x.new_empty(len(x), len(weight))
    in_bfloat16 = weight.dtype == torch.bfloat16  # which NumPy does not have
    multiply = _few_rows_with_bfloat16 if in_bfloat16 else _few_rows
    table = weight.view(torch.int16) if in_bfloat16 else weight
    arrays = x.numpy(), table.numpy(), products.numpy()
    n, small = len(weight), SMALL_WORK // max(1, x.numel())
    step = max(1, small, -(-n // torch.get_num_threads()))
    if step >= n:
        multiply(*arrays, 0, n)
    else:
        pieces = [(first, min(first + step, n)) for first in range(0, n, step)]
        map_on_cores(lambda piece: multiply(*arrays, *piece), pieces)
    if bias is not None:
        products += bias
    return products.to(weight.dtype)


def products_are(vector, weight, products, tol):
    weight = weight.detach().contiguous()
    arrays = (tensor.numpy() for tensor in (vector, weight, products, tol))
    return _products_are(*arrays)


def sampled_product(left, right, support):
    products = left.new_empty(len(support.indices))
    arrays = [t.detach().contiguous().numpy() for t in (left, right)]
    of_support = [t.numpy() for t in (support.indptr, support.indices, products)]

    def take(rows):
        first, end = rows
        indptr, indices, found = of_support
        products_of_rows(arrays[0][first:end], arrays[1], indptr[first : end + 1], indices, found)

    map_on_cores(take, _pieces(len(left)))
    return products


def residual_products(target, values, support, table):
    target, values, table = (t.detach().contiguous() for t in (target, values, table))
    residual, products = torch.empty_like(target), torch.empty_like(values)
    arrays = target, values, support.indptr, support.indices, table, residual, products
    arrays = [t.numpy() for t in arrays]
    map_on_cores(lambda rows: _residuals(*arrays, *rows), _pieces(len(target)))
    return residual, products


def _pieces(n_rows):
    """First and last row, excluded, of the pieces that threads work on."""
    n_threads = torch.get_num_threads()
    step = max(1, -(-n_rows // (PIECES * n_threads if n_threads > 1 else 1)))
    return [(i, min(i + step, n_rows)) for i in range(0, n_rows, step)]


@compiled(error_model="numpy", fastmath={"reassoc", "contract"})
def _few_rows(x, table, products, first, end):
    """products[:, j] = x · table[j] for j in [first, end)."""
    zero = table.dtype.type(0)
    for j in range(first, end):
        row = table[j]
        for i in range(len(x)):
            total, of_x = zero, x[i]
            for k in range(len(row)):
                total += of_x[k] * row[k]
            products[i, j] = total


@compiled(error_model="numpy")
def few_rows_in_bfloat16(x, bits):
    """Rows of float32 (B, d) rounded to bfloat16, and their products with a table in it (B, n).

    Both in float32, and the table read as int16. The same as `linear` of bfloat16, without the
    tensors in between.
    """
    low, products = x.copy(), np.empty((len(x), len(bits)), np.float32)
    _round_to_bfloat16(low.view(np.int32))
    _few_rows_with_bfloat16(low, bits, products, 0, len(bits))
    _round_to_bfloat16(products.view(np.int32))
    return low, products


@compiled()
def _round_to_bfloat16(bits):
    """Round float32 numbers, read as int32 (B, d), in place: to nearest, ties to even."""
    for i in range(len(bits)):
        for k in range(bits.shape[1]):
            odd = (bits[i, k] >> np.int32(16)) & np.int32(1)
            bits[i, k] = (bits[i, k] + np.int32(0x7FFF) + odd) & np.int32(-0x10000)


@intrinsic
def _float_of_bits(typing_context, bits):
    """The float32 that has the bits of an int32; vector instructions can read it so."""

    def bitcast(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), bitcast


@compiled(error_model="numpy", fastmath={"reassoc", "contract"})
def _few_rows_with_bfloat16(x, bits, products, first, end):
    """The same for a table in bfloat16, read as int16: the upper halves of float32."""
    for j in range(first, end):
        row = bits[j]
        for i in range(len(x)):
            total, of_x = np.float32(0), x[i]
            for k in range(len(row)):
                total += of_x[k] * _float_of_bits(np.int32(row[k]) << np.int32(16))
            products[i, j] = total


@compiled(error_model="numpy", fastmath={"reassoc", "contract"})
def _products_are(vector, table, products, tol):
    """Whether |vector · table[j] - products[j]| <= tol[j] for all j."""
    zero = table.dtype.type(0)
    for j in range(len(table)):
        total, row = zero, table[j]
        for k in range(len(row)):
            total += vector[k] * row[k]
        if not abs(total - products[j]) <= tol[j]:
            return False
    return True


@compiled(error_model="numpy", fastmath={"reassoc", "contract"})
def products_with(x, table, indices, products):
    """products[i] = x · table[indices[i]]: four rows at a time, for which x is read once.

    The last four repeat a row where there are fewer, so that sums are taken in the same order
    wherever a row stands.
    """
    n, zero = len(indices), x.dtype.type(0)
    for first in range(0, n, 4):
        one, two, three = min(first + 1, n - 1), min(first + 2, n - 1), min(first + 3, n - 1)
        row0, row1 = table[indices[first]], table[indices[one]]
        row2, row3 = table[indices[two]], table[indices[three]]
        sum0, sum1, sum2, sum3 = zero, zero, zero, zero
        for k in range(len(x)):
            sum0 += x[k] * row0[k]
            sum1 += x[k] * row1[k]
            sum2 += x[k] * row2[k]
            sum3 += x[k] * row3[k]
        products[first], products[one], products[two], products[three] = sum0, sum1, sum2, sum3


@compiled()
def products_of_rows(left, right, indptr, indices, products):
    """left[i] · right[indices[j]] for the entries j of each row i."""
    for i in range(len(left)):
        entries = slice(indptr[i], indptr[i + 1])
        products_with(left[i], right, indices[entries], products[entries])


@compiled(error_model="numpy", fastmath={"reassoc", "contract"})
def subtract_rows(target, values, table, indices):
    """target -= Σ_i values[i] table[indices[i]]: four rows at a time."""
    n = len(indices)
    whole = n // 4 * 4
    for i in range(0, whole, 4):
        row0, row1 = table[indices[i]], table[indices[i + 1]]
        row2, row3 = table[indices[i + 2]], table[indices[i + 3]]
        z0, z1, z2, z3 = values[i], values[i + 1], values[i + 2], values[i + 3]
        for k in range(len(target)):
            target[k] -= (z0 * row0[k] + z1 * row1[k]) + (z2 * row2[k] + z3 * row3[k])
    for i in range(whole, n):
        row0, z0 = table[indices[i]], values[i]
        for k in range(len(target)):
            target[k] -= z0 * row0[k]


@compiled()
def _residuals(target, values, indptr, indices, table, residual, products, first, end):
    """A row's atoms are read twice in turn: the second time they are in the core's cache."""
    for i in range(first, end):
        entries = slice(indptr[i], indptr[i + 1])
        residual[i] = target[i]
        subtract_rows(residual[i], values[entries], table, indices[entries])
        products_with(residual[i], table, indices[entries], products[entries])
