"""Loops over the codes of a corpus: the largest of each group, sums of products of features."""

from .compile import compiled


@compiled()
def keep_largest(rows, groups, values, payload, held_rows, held, held_payload, n_held):
    """Merge entries into the largest of their groups, in place.

    Parameters
    ----------
    rows, groups, values, payload : arrays of shape (n_entries,)
        Among equal values of a group the earlier entry stays before the later.
    held_rows, held, held_payload : arrays of shape (n_groups, n_largest)
        What is held of each, in descending order of the values ``held``.
    n_held : array of shape (n_groups,)
    """
    n_largest = held.shape[1]
    for i in range(len(values)):
        group, value = groups[i], values[i]
        n = n_held[group]
        if n == n_largest:
            if not value > held[group, n - 1]:
                continue
            n -= 1
        else:
            n_held[group] = n + 1
        place = n
        while place > 0 and value > held[group, place - 1]:
            held[group, place] = held[group, place - 1]
            held_rows[group, place] = held_rows[group, place - 1]
            held_payload[group, place] = held_payload[group, place - 1]
            place -= 1
        held[group, place], held_rows[group, place] = value, rows[i]
        held_payload[group, place] = payload[i]


@compiled()
def add_products(indptr, indices, values, place, first, products):
    """products[place_j - first, k] += z_j z_k over the rows of CSR codes z, for k and some j.

    Parameters
    ----------
    indptr, indices, values : arrays
        Codes of some rows.
    place : array of shape (n_components,)
        Place of each feature among those that are asked for; -1 of others.
    first : int
        Place of the first row of ``products``.
    products : array of float64 of shape (m, n_components)
    """
    last = first + len(products)
    for row in range(len(indptr) - 1):
        begin, end = indptr[row], indptr[row + 1]
        for entry in range(begin, end):
            j = place[indices[entry]]
            if j < first or j >= last:
                continue
            value, sums = values[entry], products[j - first]
            for other in range(begin, end):
                sums[indices[other]] += value * values[other]
