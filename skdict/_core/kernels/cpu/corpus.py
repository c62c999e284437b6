"""Loops over the codes of a corpus: the largest of each group, sums of products of features."""

import numpy as np

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


@compiled()
def nearest_of_products(products, features, mean, deviation, n_rows, index, correlation):
    """The greatest correlations of some features with others, from sums of products.

    Parameters
    ----------
    products : array of float64 of shape (m, n_components)
        Sums over ``n_rows`` rows.
    features : array of int64 of shape (m,)
        Which features the rows of ``products`` are of; a feature is no neighbour of itself.
    mean, deviation : arrays of shape (n_components,)
        A deviation of NaN means that a feature never varies, and is nobody's neighbour.
    index, correlation : arrays of shape (m, n)
        Overwritten; -1 and -inf where there are fewer neighbours.
    """
    n = index.shape[1]
    for i in range(len(products)):
        j, n_held = features[i], 0
        index[i], correlation[i] = -1, -np.inf
        if n == 0 or np.isnan(deviation[j]):
            continue
        for k in range(products.shape[1]):
            covariance = products[i, k] / n_rows - mean[j] * mean[k]
            value = min(max(covariance / (deviation[j] * deviation[k]), -1.0), 1.0)
            if k == j or np.isnan(deviation[k]):
                continue
            if n_held == n:
                if not value > correlation[i, n - 1]:
                    continue
                place = n - 1
            else:
                place, n_held = n_held, n_held + 1
            while place > 0 and value > correlation[i, place - 1]:
                correlation[i, place] = correlation[i, place - 1]
                index[i, place] = index[i, place - 1]
                place -= 1
            correlation[i, place], index[i, place] = value, k
