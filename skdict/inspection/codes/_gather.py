"""Statistics gathered from blocks of codes, in memory that does not grow with the rows."""

import numpy as np
import torch
from sklearn.utils import murmurhash3_32

from ..._core.kernels import encode
from ..._core.kernels.cpu.corpus import add_products, keep_largest, nearest_of_products
from ..._core.kernels.cpu.threads import map_on_cores
from ..._core.torch_state import plain_torch
from ...metrics._rows import unit_rows, varies

# Products of the codes of some features with those of all: 128 MB.
PRODUCTS = 2**24


class Largest:
    """The rows with the greatest values in each of many groups.

    Parameters
    ----------
    n_groups : int
    n_largest : int
        Rows to keep in each group.

    Attributes
    ----------
    threshold : ndarray of float64 of shape (n_groups,)
        Values up to this cannot enter.
    """

    def __init__(self, n_groups, n_largest):
        shape = n_groups, n_largest
        self._rows, self._values = np.empty(shape, np.int64), np.empty(shape)
        self._payload, self._n_held = np.empty(shape), np.zeros(n_groups, np.int64)

    def update(self, rows, groups, values, payload=None):
        """Add entries; their rows are greater than all those added before.

        Parameters
        ----------
        rows, groups, values : ndarray of shape (n_entries,)
        payload : ndarray of shape (n_entries,), default=None
            Returned by `result` in place of the values, which only rank the entries.
        """
        if self._rows.shape[1] == 0:
            return
        values = values.astype(np.float64, copy=False)
        payload = values if payload is None else payload.astype(np.float64, copy=False)
        held = self._rows, self._values, self._payload, self._n_held
        keep_largest(np.asarray(rows), np.asarray(groups), values, payload, *held)

    @property
    def threshold(self):
        n_largest = self._values.shape[1]
        return np.where(self._n_held == n_largest, self._values[:, -1], -np.inf)

    def result(self):
        """Return a list of (rows, payload) per group, the greatest first, then the earlier."""
        held = zip(self._rows, self._payload, self._n_held.tolist(), strict=True)
        return [(rows[:n], payload[:n]) for rows, payload, n in held]


class Sample(Largest):
    """A random sample of rows from each of many groups; it does not depend on the block size.

    Parameters
    ----------
    keys : ndarray of int64 of shape (n_groups,)
        Seed of each group, so that its sample does not depend on which other groups there are.
    n_drawn : int
    seed : int
        In [0, 2**32).
    """

    def __init__(self, keys, n_drawn, seed):
        super().__init__(len(keys), n_drawn)
        self.keys = murmurhash3_32(keys.astype(np.int32), seed=seed ^ 1)
        self.seed = seed

    def update(self, rows, groups, values):
        """Add entries; their rows are greater than all those added before."""
        # rank the rows of each group by a hash of row and group
        key = murmurhash3_32(rows.astype(np.int32), seed=self.seed)
        key ^= self.keys[groups]
        key = murmurhash3_32(key, seed=self.seed, positive=True)
        super().update(rows, groups, key.astype(np.float64), payload=values)


class Histogram:
    """Counts of active codes in intervals of equal width, from 0 to each feature's maximum.

    Parameters
    ----------
    maximum : ndarray of shape (n_features,)
    n_intervals : int
    """

    def __init__(self, maximum, n_intervals):
        self.n_intervals = n_intervals
        self.maximum = np.where(maximum > 0, maximum, 1)
        self.counts = np.zeros(len(maximum) * n_intervals, dtype=np.int64)

    def interval(self, features, values):
        """Index of the interval of each value; a value on an edge belongs to the upper one."""
        n, maximum = self.n_intervals, self.maximum[features]
        index = np.minimum((values / maximum * n).astype(np.int64), n - 1)
        # correct rounding, by which the index may be off by one
        index += (index < n - 1) & (values >= maximum * (index + 1) / n)
        index -= values < maximum * index / n
        return index

    def update(self, features, values):
        """Add active entries."""
        index = features * self.n_intervals + self.interval(features, values)
        self.counts += np.bincount(index, minlength=len(self.counts))

    def result(self):
        """Return the counts, (n_features, n_intervals)."""
        return self.counts.reshape(-1, self.n_intervals)


def survey(
    codes,
    columns,
    *,
    n_top=0,
    n_intervals=0,
    n_per_interval=0,
    n_random=0,
    n_bins=0,
    seed=0,
):
    """Gather examples and histograms of some features in one pass over the codes.

    Parameters
    ----------
    codes : FeatureCodes
    columns : ndarray of int64 of shape (n_selected,)
        The features to look at.

    Returns
    -------
    found : dict
        "histogram" (or None). "top" and "random" are lists with (rows, values) for each feature;
        "intervals" has them for each feature and interval, the lowest first.
    """
    n_selected, maximum = len(columns), codes.moments.maximum[columns]
    top, random = Largest(n_selected, n_top), Sample(columns, n_random, seed)
    histogram = Histogram(maximum, n_bins) if n_bins else None
    intervals = Histogram(maximum, max(n_intervals, 1))
    keys = np.add.outer(columns * n_intervals, np.arange(n_intervals)).ravel()
    in_intervals = Sample(keys, n_per_interval, seed ^ 2)
    if n_top or n_random or n_bins or (n_intervals and n_per_interval):
        for first, rows, features, values in codes.entries(columns):
            rows = rows + first
            if n_top:
                top.update(rows, features, values)
            if n_random:
                random.update(rows, features, values)
            if n_intervals and n_per_interval:
                groups = features * n_intervals + intervals.interval(features, values)
                in_intervals.update(rows, groups, values)
            if histogram is not None:
                histogram.update(features, values)
    return {
        "histogram": histogram,
        "top": top.result(),
        "random": random.result(),
        "intervals": in_intervals.result(),
    }


def nearest_by_correlation(codes, columns, n):
    """The other features whose codes correlate most with those of some features.

    The sums of products are those of blocks of features with all others, so memory does not grow
    with the square of the number of features.

    Parameters
    ----------
    codes : FeatureCodes
    columns : ndarray of int64 of shape (n_selected,)
    n : int

    Returns
    -------
    index, correlation : ndarray of shape (n_selected, n)
        In descending order of Pearson's correlation; -1 and -inf where there are fewer others
        whose codes vary.
    """
    moments, n_rows = codes.moments, max(codes.n_counted, 1)
    mean, mean_square = moments.total / n_rows, moments.squares / n_rows
    variance = mean_square - mean**2
    variance[~varies(variance, mean_square, n_rows)] = np.nan
    deviation = np.sqrt(variance)
    index = np.empty((len(columns), max(min(n, codes.n_components - 1), 0)), np.int64)
    correlation = np.empty(index.shape)
    step = max(1, PRODUCTS // codes.n_components)
    for start in range(0, len(columns), step):
        some = slice(start, start + step)
        found = index[some], correlation[some]
        _nearest(codes, columns[some], mean, deviation, n_rows, *found)
    return index, correlation


def _nearest(codes, columns, mean, deviation, n_rows, index, correlation):
    """`nearest_by_correlation` of so many features that their products fit into memory."""
    products = np.zeros((len(columns), codes.n_components))
    place = np.full(codes.n_components, -1)
    place[columns] = np.arange(len(columns))
    step = -(-len(columns) // torch.get_num_threads())
    starts = range(0, len(columns), step)
    for _, block in codes.blocks():
        parts = block.indptr, block.indices, block.data.astype(np.float64, copy=False)
        map_on_cores(
            lambda i, parts=parts: add_products(*parts, place, i, products[i : i + step]), starts
        )

    def choose(i):
        some = slice(i, i + step)
        parts = products[some], columns[some], mean, deviation, float(n_rows)
        nearest_of_products(*parts, index[some], correlation[some])

    map_on_cores(choose, starts)


@plain_torch()
def nearest_by_cosine(atoms, columns, n):
    """The other features whose atoms have the greatest cosine with those of some features.

    An encoder whose weights are the atoms finds them: those are its largest codes.

    Parameters
    ----------
    atoms : ndarray of shape (n_components, n_features)
    columns : ndarray of int64 of shape (n_selected,)
    n : int

    Returns
    -------
    index, cosine : ndarray of shape (n_selected, n)
        In descending order of the cosine, as far as it is positive; then -1 and -inf.
    """
    n = max(min(n, len(atoms) - 1), 0)
    unit = torch.from_numpy(unit_rows(np.asarray(atoms, dtype=np.float64))).float()
    bias = torch.zeros(len(unit), dtype=unit.dtype, device=unit.device)
    code = encode(unit, bias, min(n + 1, len(unit)), None)
    index = np.full((len(columns), n), -1)
    cosine = np.full((len(columns), n), -np.inf)
    step = max(1, PRODUCTS // len(unit))
    for start in range(0, len(columns), step):
        some = columns[start : start + step]
        counts, features, values = (part.numpy() for part in code(unit[torch.from_numpy(some)]))
        rows = np.repeat(np.arange(len(some)), counts)
        others = features != some[rows]
        rows, features, values = rows[others], features[others], values[others]
        order = np.lexsort((features, -values, rows))
        rows, features, values = rows[order], features[order], values[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        kept = rank < n
        place = start + rows[kept], rank[kept]
        index[place], cosine[place] = features[kept], values[kept]
    return index, cosine
