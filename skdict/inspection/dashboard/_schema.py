"""What the page is given: named fields and a version; how they become JSON.

A dashboard's content is a dict of JSON values:

version : int
    `VERSION`. A file of another version is refused.
title : str
unit : {"token", "document", "image"}
    What a row of codes is.
provenance : dict
    What the numbers come from, in the order to show it: name to str or number.
dictionary : dict
    Of all features: "n_components", "n_rows", "n_counted" (rows that statistics count),
    "n_active" (list, rows on which each feature is active), "densities" and "l0" (histograms:
    "low", "width", "counts"; densities as log10, with "n_dead") and "map" ("id", "x", "y").
near_by : {"pre_activations", "projections"} or None
    What ranks near misses.
scorers : list of dict
    "name" and "chance" (or None) of the scores of names.
missing : list of str
    What could not be made, and why.
names : dict of str to str
    Names of features that are mentioned and not on the page.
index : dict of list
    A column each with one entry per feature, for the list of features: "id", "label", "score"
    (the first scorer's), "density", "maximum", "effect", "words", "raised", and "rank", the
    place in the order that the page opens with.
tokens : dict
    "first", "length" and "document": the stretches of rows whose tokens are stored, ascending;
    "chunks": dicts with "stretch", the first stretch whose tokens it holds, "names", distinct
    strings, and "ids", the index of each token in these. Of images "grid" ([height, width]) and
    "pictures" (document to PNG as base64) instead of chunks.
features : sequence of dict
    "id", "label", "scores", and the columns of each panel under the panel's name, see the panels.
texts : dict
    See the panel texts.
"""

import json
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

VERSION = 1
N_ENCODED = 4096  # features that are encoded at a time


class EncodedFeatures(Sequence):
    """The features' dicts, each kept as JSON until it is asked for.

    Parameters
    ----------
    encoded : list of bytes
    """

    def __init__(self, encoded):
        self.encoded = encoded

    def __len__(self):
        return len(self.encoded)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return EncodedFeatures(self.encoded[index])
        return json.loads(self.encoded[index])

    def __eq__(self, other):
        return isinstance(other, EncodedFeatures) and self.encoded == other.encoded

    __hash__ = None


def encoded(value):
    """Compact JSON in UTF-8; not finite numbers and lone surrogates are errors."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def encoded_features(columns):
    """Encode features one by one from columns.

    Parameters
    ----------
    columns : dict
        Names to columns, or to such dicts again. A column has one entry per feature: an ndarray
        (nan becomes None; floats keep four significant digits), `Ragged`, or a list of JSON
        values. None as an entry of a list is left out, and so is a dict without entries.

    Returns
    -------
    features : EncodedFeatures
    """
    n = len(columns["id"])
    found = []
    for start in range(0, n, N_ENCODED):  # bounds the Python objects that exist at a time
        part = _listed(columns, slice(start, min(start + N_ENCODED, n)))
        found += [encoded(_entry(part, i)) for i in range(min(N_ENCODED, n - start))]
    return EncodedFeatures(found)


class Ragged:
    """A column whose entries are arrays of different lengths.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
    bounds : ndarray of int64 of shape (n_entries + 1,)
    """

    def __init__(self, values, bounds):
        self.values, self.bounds = values, bounds

    @classmethod
    def of(cls, arrays, dtype=np.float64):
        """From a list of arrays."""
        bounds = np.cumsum([0, *map(len, arrays)])
        values = np.concatenate(arrays) if arrays else np.empty(0)
        return cls(values.astype(dtype, copy=False), bounds)

    def __len__(self):
        return len(self.bounds) - 1

    def listed(self, rows):
        """Entries of a slice of rows as lists."""
        bounds = self.bounds[rows.start : rows.stop + 1]
        values = listed(self.values[bounds[0] : bounds[-1]])
        bounds = (bounds - bounds[0]).tolist()
        return [values[a:b] for a, b in pairwise(bounds)]


def listed(array, digits=4):
    """An array as (nested) list of numbers of `digits` significant digits; nan becomes None."""
    if array.dtype.kind != "f":
        return array.tolist()
    values = rounded(array, digits)
    bad = ~np.isfinite(values)
    if bad.any():
        values = values.astype(object)
        values[bad] = None
    return values.tolist()


def rounded(values, digits=4):
    """Floats of `digits` significant digits: the nearest to the decimal number."""
    values = np.asarray(values, dtype=np.float64)
    size = np.abs(values)
    usual = (size > 1e-200) & (size < 1e200)  # neither 0 nor nan
    places = digits - 1 - np.floor(np.log10(np.where(usual, size, 1.0)))
    up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
    with np.errstate(invalid="ignore"):
        return np.where(usual, np.rint(values * up / down) / up * down, values)


def _listed(columns, rows):
    """The columns' entries in a slice as lists."""
    if isinstance(columns, dict):
        return {name: _listed(column, rows) for name, column in columns.items()}
    if isinstance(columns, Ragged):
        return columns.listed(rows)
    return listed(columns[rows]) if isinstance(columns, np.ndarray) else columns[rows]


def _entry(columns, i):
    """The i-th entry of all columns as a dict; "id" comes first."""
    entry = {}
    for name, column in columns.items():
        value = _entry(column, i) if isinstance(column, dict) else column[i]
        if value is not None and value != {}:
            entry[name] = value
    return entry
