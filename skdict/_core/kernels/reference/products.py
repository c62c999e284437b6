"""Products with codes at a support, by gathering rows."""

import torch
import torch.nn.functional as F

# Entries of gathered rows that are held at a time: 64 MiB in float32.
BLOCK_ELEMENTS = 1 << 24


def linear(x, weight, bias=None):
    return F.linear(x, weight, bias)


def products_are(vector, weight, products, tol):
    return bool(((linear(vector, weight) - products).abs() <= tol).all())


def transpose(support):
    indices, order = torch.sort(support.indices, stable=True)
    # not by bincount, for which the host waits
    components = torch.arange(support.n_components + 1, device=indices.device)
    return torch.searchsorted(indices, components), support.rows[order], order


def weighted_sums(values, support, table):
    sums = table.new_zeros(len(support.indptr) - 1, table.shape[1])
    for entries in _blocks(support, table):
        rows = values[entries, None] * table[support.indices[entries]]
        add_at_(sums, support.rows[entries], rows)
    return sums


def sampled_product(left, right, support):
    products = left.new_empty(len(support.indices))
    for entries in _blocks(support, left):
        pairs = left[support.rows[entries]] * right[support.indices[entries]]
        products[entries] = pairs.sum(dim=1)
    return products


def residual_products(target, values, support, table):
    residual = target - weighted_sums(values, support, table)
    return residual, sampled_product(residual, table, support)


def add_at_(table, index, rows):
    # not index_add_, which adds in any order on some devices
    return table.index_put_((index,), rows, accumulate=True)


def _blocks(support, table):
    """Slices of the entries of a support, for each of which a row of the table is held."""
    step = max(1, BLOCK_ELEMENTS // table.shape[1])
    return [slice(first, first + step) for first in range(0, len(support.indices), step)]
