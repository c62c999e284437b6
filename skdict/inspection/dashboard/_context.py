"""What the panels gather from: a pass over the codes, and what it is made of."""

from functools import cached_property

import numpy as np

from ..codes._directions import feature_directions
from ..codes._gather import survey
from ..codes._tokens import with_previous_end
from ..results._statistics import statistics_of
from ._pictures import Pictures
from ._tokens import around, names_of, window_edges

N_BINS = 50  # about so many bins of a feature's histogram
N_RANDOM = 10
N_WORDS = 5


class Context:
    """Everything that a panel may ask for.

    Parameters
    ----------
    codes : FeatureCodes
        With tokens.
    dictionary : estimator or None
    columns : ndarray of int64 of shape (n_selected,)
        The features of the page.
    n_top, n_intervals, n_per_interval : int
    seed : int
    language : Language, default=None
        With a causal model, of the texts of the codes.
    shown : FeatureCodes, default=None
        Of texts to show whole.
    images : array-like, default=None
        See `Pictures`.

    Attributes
    ----------
    missing : list of str
        Messages about what could not be made; panels add to it.
    """

    def __init__(
        self,
        codes,
        dictionary,
        columns,
        *,
        n_top,
        n_intervals,
        n_per_interval,
        seed,
        language=None,
        shown=None,
        images=None,
    ):
        self.codes, self.dictionary, self.columns = codes, dictionary, columns
        self.tokens = with_previous_end(codes.tokens)
        self.texts, self.n_components = codes.texts, codes.n_components
        self.n_top, self.n_intervals, self.n_per_interval = n_top, n_intervals, n_per_interval
        self.seed, self.shown = seed, shown
        self.language = language
        self.pictures = None if images is None else Pictures(images, self.tokens)
        self.missing = []

    @cached_property
    def atoms(self):
        """Directions of all features, (n_components, n_features); None without a dictionary."""
        if self.dictionary is None:
            return None
        return feature_directions(self.dictionary, np.arange(self.n_components))

    @cached_property
    def found(self):
        """What `survey` finds: examples of all kinds and histograms."""
        return survey(
            self.codes,
            self.columns,
            n_top=self.n_top,
            n_intervals=self.n_intervals,
            n_per_interval=self.n_per_interval,
            n_random=N_RANDOM,
            n_bins=self.n_intervals * -(-N_BINS // self.n_intervals),  # whole bins per interval
            seed=self.seed,
        )

    @cached_property
    def statistics(self):
        """As `feature_statistics` returns them."""
        return statistics_of(self.codes, self.columns, self.histogram)

    @cached_property
    def histogram(self):
        """Histogram of each feature's activations, int64 of shape (n_selected, n_bins)."""
        return self.found["histogram"].result()

    @cached_property
    def top_rows(self):
        """Rows of the most active tokens of each feature, the most active first."""
        return [rows for rows, _ in self.found["top"]]

    @cached_property
    def edges(self):
        """Where windows begin, see `window_edges`."""
        return window_edges(self.tokens)

    @cached_property
    def words(self):
        """Up to five distinct tokens among the most active ones of each feature."""
        if "token" not in self.tokens:
            return [[] for _ in self.columns]
        names, index = names_of(self.tokens, np.concatenate(self.top_rows))
        bounds = np.cumsum([len(rows) for rows in self.top_rows])[:-1]
        of_features = np.split(index, bounds)
        return [
            [names[k][:80] for k in list(dict.fromkeys(each.tolist()))[:N_WORDS]]
            for each in of_features
        ]

    def active_around(self, rows, n_around):
        """Where features are active around rows of theirs.

        Parameters
        ----------
        rows : list of ndarray of int64, one for each feature
        n_around : int
            Rows before and behind, as far as the window goes.

        Returns
        -------
        used : ndarray of bool of shape (n_rows,)
            Rows around any of the rows.
        active, values : ndarray of shape (n_active,)
            Rows feature by feature, ascending, and codes.
        bounds : ndarray of int64 of shape (n_selected + 1,)
        """
        n_rows, n_selected = int(self.edges[-1]), len(self.columns)
        feature = np.repeat(np.arange(n_selected), [len(each) for each in rows])
        every = np.concatenate([*rows, np.empty(0, np.int64)])
        first, stop = around(every, self.edges, n_around, n_around)
        change = np.zeros(n_rows + 1, dtype=np.int64)
        np.add.at(change, first, 1)
        np.subtract.at(change, stop, 1)
        low, high = _united(feature * n_rows + first, feature * n_rows + stop)
        kept = [(np.empty(0, np.int64), np.empty(0))]
        for start, at, features, values in self.codes.entries(self.columns):
            key = features * n_rows + start + at
            place = np.searchsorted(low, key, side="right") - 1
            inside = (place >= 0) & (key < high[place])
            kept.append((key[inside], values[inside]))
        key, values = (np.concatenate(each) for each in zip(*kept, strict=True))
        order = np.argsort(key)
        key, values = key[order], values[order]
        bounds = np.searchsorted(key, np.arange(n_selected + 1) * n_rows)
        return np.cumsum(change[:-1]) > 0, key % n_rows, values, bounds


def _united(low, high):
    """Disjoint intervals [low, high), ascending, with the same union."""
    if len(low) == 0:
        return low, high
    order = np.argsort(low, kind="stable")
    low, high = low[order], np.maximum.accumulate(high[order])
    new = np.append(True, low[1:] > high[:-1])
    return low[new], high[np.append(np.flatnonzero(new)[1:] - 1, len(high) - 1)]
