"""Statistics gathered from blocks of codes, in memory that does not grow with the rows."""

from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import vstack
from sklearn.utils import gen_batches, murmurhash3_32

from ...metrics._rows import float64_block, to_numpy, varies
from ._active import positive_entries
from ._stream import active_entries

# Candidates to buffer before they are merged: 32 bytes each, 64 MB in all.
MAX_WAITING = 2**21


class Largest:
    """The rows with the greatest values in each of many groups.

    Parameters
    ----------
    n_groups : int
    n_largest : int
        Rows to keep in each group.
    """

    def __init__(self, n_groups, n_largest):
        self.n_groups, self.n_largest = n_groups, n_largest
        self.threshold = np.full(n_groups, -np.inf)  # values up to this cannot enter the top n
        self.held = _entries(0)
        # Allocated once, up front: small long-lived arrays allocated between large blocks would
        # fragment the heap.
        self.waiting, self.n_waiting = _entries(MAX_WAITING), 0

    def update(self, rows, groups, values, payload=None):
        """Add entries; their rows are greater than all those added before.

        Parameters
        ----------
        rows, groups, values : ndarray of shape (n_entries,)
        payload : ndarray of shape (n_entries,), default=None
            Returned by `result` in place of the values, which only rank the entries.
        """
        better = np.flatnonzero(values > self.threshold[groups])
        payload = values if payload is None else payload
        for part in gen_batches(len(better), len(self.waiting[0])):
            some = better[part]
            if self.n_waiting + len(some) > len(self.waiting[0]):
                self._sort_in()
            place = slice(self.n_waiting, self.n_waiting + len(some))
            for column, entries in zip(self.waiting, (rows, groups, values, payload), strict=True):
                column[place] = entries[some]
            self.n_waiting = place.stop

    def _sort_in(self):
        entries = [
            np.concatenate([held, waiting[: self.n_waiting]])
            for held, waiting in zip(self.held, self.waiting, strict=True)
        ]
        rows, groups, values, _ = entries
        order = np.lexsort((rows, -values, groups))
        starts = np.searchsorted(groups[order], np.arange(self.n_groups + 1))
        rank = np.arange(len(order)) - starts[groups[order]]
        self.held = tuple(entry[order[rank < self.n_largest]] for entry in entries)
        self.n_waiting = 0
        # sorting costs held + waiting entries, so the buffer grows with what is held
        if len(self.held[0]) > len(self.waiting[0]):
            self.waiting = _entries(len(self.held[0]))
        full = np.flatnonzero(np.diff(starts) >= self.n_largest)
        last = order[starts[full] + self.n_largest - 1]
        self.threshold[full] = values[last]

    def result(self):
        """Return a list of (rows, payload) per group, the greatest first, then the earlier."""
        if self.n_waiting:
            self._sort_in()
        rows, groups, _, payload = self.held
        bounds = np.searchsorted(groups, np.arange(self.n_groups + 1))
        return [(rows[start:stop], payload[start:stop]) for start, stop in pairwise(bounds)]


def _entries(n):
    """Uninitialised columns for row, group, value and payload of `n` entries."""
    return (np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n), np.empty(n))


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


class Moments:
    """Number of rows, and for each feature the number, sum and maximum of its active codes."""

    def __init__(self, n_features):
        self.n_rows = 0
        self.count = np.zeros(n_features, dtype=np.int64)
        self.total = np.zeros(n_features)
        self.maximum = np.zeros(n_features)

    def update(self, n_rows, features, values):
        """Add the active entries of `n_rows` rows."""
        n_features = len(self.count)
        self.n_rows += n_rows
        self.count += np.bincount(features, minlength=n_features)
        self.total += np.bincount(features, weights=values, minlength=n_features)
        np.maximum.at(self.maximum, features, values)


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


class NearMisses(Largest):
    """Rows on which a feature is inactive but closest to active.

    Parameters
    ----------
    nearness : Nearness
    n_features, n_near_misses : int
    """

    def __init__(self, nearness, n_features, n_near_misses):
        super().__init__(n_features, n_near_misses)
        self.nearness = nearness

    def update(self, first, given, rows, features):
        """Add a block of the dictionary's input, and the entries where features are active."""
        activations = self.nearness.rows(given)
        # bounds the dense scores (n_rows, n_groups), and the rows of sparse activations to densify
        width = max(self.n_groups, activations.shape[1] // 2, 1)
        step = max(1, MAX_WAITING // width)
        for start in range(0, activations.shape[0], step):
            block = float64_block(activations, slice(start, start + step))
            scores = self.nearness.scores(block)
            part = slice(*np.searchsorted(rows, [start, start + len(block)]))
            scores[rows[part] - start, features[part]] = -np.inf
            at, groups = np.nonzero(scores > np.maximum(self.threshold, self.nearness.least))
            super().update(first + start + at, groups, scores[at, groups])


def survey(
    blocks,
    columns,
    *,
    n_top=0,
    n_intervals=0,
    n_per_interval=0,
    n_random=0,
    nearness=None,
    n_near_misses=0,
    n_bins=0,
    seed=0,
    observers=(),
):
    """Gather statistics in one pass over the codes, or two: intervals need the maxima first.

    Parameters
    ----------
    blocks : CodedBlocks
    columns : ndarray of int64
        The features to look at.
    nearness : Nearness, default=None
        Scores of the features, for near misses.
    observers : sequence of callable
        Each is called once with every block of codes.

    Returns
    -------
    found : dict
        "moments" and "histogram" (or None). "top", "random" and "near_misses" are lists with
        (rows, values) for each feature; "intervals" has them for each feature and interval, the
        lowest first.
    """
    n_selected = len(columns)
    moments = Moments(n_selected)
    top, random = Largest(n_selected, n_top), Sample(columns, n_random, seed)
    near = None if nearness is None else NearMisses(nearness, n_selected, n_near_misses)
    for first, given, codes in blocks:
        for observe in observers:
            observe(codes)
        rows, features, values = active_entries(codes, columns)
        moments.update(codes.shape[0], features, values)
        if n_top:
            top.update(first + rows, features, values)
        if n_random:
            random.update(first + rows, features, values)
        if near is not None:
            near.update(first, given, rows, features)

    intervals = Histogram(moments.maximum, max(n_intervals, 1))
    keys = np.add.outer(columns * n_intervals, np.arange(n_intervals)).ravel()
    in_intervals = Sample(keys, n_per_interval, seed ^ 2)
    histogram = Histogram(moments.maximum, n_bins) if n_bins else None
    if n_bins or (n_intervals and n_per_interval):
        for first, _, codes in blocks:
            rows, features, values = active_entries(codes, columns)
            if n_intervals and n_per_interval:
                groups = features * n_intervals + intervals.interval(features, values)
                in_intervals.update(first + rows, groups, values)
            if histogram is not None:
                histogram.update(features, values)
    return {
        "moments": moments,
        "histogram": histogram,
        "top": top.result(),
        "random": random.result(),
        "near_misses": [_no_rows()] * n_selected if near is None else near.result(),
        "intervals": in_intervals.result(),
    }


def _no_rows():
    return np.empty(0, np.int64), np.empty(0)


class Correlation:
    """Pearson correlation of the codes of some features with those of all features.

    Parameters
    ----------
    n_components : int
    columns : ndarray of int64
        The features.

    Attributes
    ----------
    n_active : ndarray of shape (n_components,), int64
        Rows on which each feature is active.
    """

    def __init__(self, n_components, columns):
        self.columns = columns
        self.n_rows = 0
        self.n_active = np.zeros(n_components, dtype=np.int64)
        self.total, self.squares = np.zeros(n_components), np.zeros(n_components)
        self.products = np.zeros((len(columns), n_components))
        self.waiting, self.n_waiting = [], 0

    def __call__(self, codes):
        """Add the codes of a block of rows; they stay sparse."""
        block = positive_entries(codes, "codes")
        features, values = block.indices, block.data
        n_components = len(self.total)
        self.n_rows += block.shape[0]
        self.n_active += np.bincount(features, minlength=n_components)
        self.total += np.bincount(features, weights=values, minlength=n_components)
        self.squares += np.bincount(features, weights=values**2, minlength=n_components)
        self.waiting.append(block)
        self.n_waiting += block.nnz
        if self.n_waiting > MAX_WAITING:
            self._multiply()

    def _multiply(self):
        if self.waiting:  # one sparse product for many blocks is faster than one each
            codes = vstack(self.waiting, format="csr")
            products = (codes[:, self.columns].T @ codes).tocoo()
            self.products[products.row, products.col] += products.data
            self.waiting, self.n_waiting = [], 0

    def nearest(self, n):
        """The `n` other features with the greatest correlation, and these; (n_selected, n)."""
        self._multiply()
        mean = self.total / self.n_rows
        mean_square = self.squares / self.n_rows
        variance = mean_square - mean**2
        variance[~varies(variance, mean_square, self.n_rows)] = np.nan
        deviation = np.sqrt(variance)
        correlation = self.products / self.n_rows
        correlation -= np.outer(mean[self.columns], mean)
        correlation /= np.outer(deviation[self.columns], deviation)
        np.clip(correlation, -1, 1, out=correlation)
        correlation[np.isnan(correlation)] = -np.inf  # constant features
        return greatest_others(correlation, self.columns, n)


def greatest_others(similarity, columns, n):
    """The `n` greatest entries of each row, and their columns, without its own column.

    Parameters
    ----------
    similarity : ndarray of shape (n_selected, n_components)
        Row i belongs to the feature ``columns[i]``; overwritten.
    columns : ndarray of int64 of shape (n_selected,)
    n : int

    Returns
    -------
    index, values : ndarray of shape (n_selected, n)
        In descending order of the values.
    """
    similarity[np.arange(len(columns)), columns] = -np.inf
    n = min(n, similarity.shape[1] - 1)
    index = np.argpartition(-similarity, max(n - 1, 0), axis=1)[:, : max(n, 0)]
    values = np.take_along_axis(similarity, index, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(index, order, axis=1), np.take_along_axis(values, order, axis=1)


def codes_at(blocks, columns, rows):
    """The codes of each feature at its own list of rows, in one pass.

    Parameters
    ----------
    blocks : CodedBlocks
    columns : ndarray of int64
    rows : list of ndarray of int64, one for each of `columns`

    Returns
    -------
    codes : list of ndarray of float64, of the rows' shapes
    """
    lengths = [len(each) for each in rows]
    row = np.concatenate(rows)
    feature = np.repeat(columns, lengths)
    order = np.argsort(row, kind="stable")
    ascending, found = row[order], np.empty(len(row))
    for first, _, codes in blocks:
        here = order[slice(*np.searchsorted(ascending, [first, first + codes.shape[0]]))]
        if len(here):
            values = codes[row[here] - first, feature[here]]
            if isinstance(values, torch.Tensor):
                values = to_numpy(values)
            found[here] = np.asarray(values).ravel()
    return np.split(found, np.cumsum(lengths)[:-1])
