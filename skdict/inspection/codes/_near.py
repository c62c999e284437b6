"""Rows on which features are inactive, but closest to active."""

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.utils import Bunch

from ...metrics._rows import to_numpy
from ._active import positive_block
from ._gather import Largest
from ._nearness import Nearness

# Entries of a block of pre-activations, at first and when thresholds are known: the first block
# has no threshold, so that all of its entries are candidates.
FIRST_ENTRIES, ENTRIES = 2**22, 2**26


class NearMisses:
    """For each feature the inactive rows that come closest to making it active.

    A row is a candidate if its score exceeds the least that the feature has so far. After the
    first block there are few of them, which `exceeding` finds without forming the others.

    Parameters
    ----------
    dictionary : fitted estimator
    n_components : int
    n_near_misses : int
        How many for each feature.
    """

    def __init__(self, dictionary, n_components, n_near_misses):
        self.nearness = Nearness(dictionary)
        self.largest = Largest(n_components, n_near_misses)
        self._is_first = True

    def update(self, rows, given, codes):
        """Add rows.

        Parameters
        ----------
        rows : ndarray of int64 of shape (n,)
            Their numbers, ascending.
        given : matrix of shape (n, n_features)
            What the dictionary was given.
        codes : matrix of shape (n, n_components)
            A feature is active where its code is above 0, and where an encoder has kept a
            negative one.
        """
        codes = csr_array(to_numpy(codes) if isinstance(codes, torch.Tensor) else codes)
        codes.sum_duplicates()
        if self.nearness.name == "projections":
            codes = positive_block(codes, "codes")
        given = self.nearness.rows(given)
        # bounds the dense scores, and the rows of sparse activations that are made dense
        width = max(codes.shape[1], given.shape[1] // 2, 1)
        start = 0
        while start < len(rows):
            entries = FIRST_ENTRIES if self._is_first else ENTRIES
            part = slice(start, start + max(1, entries // width))
            self._update_block(rows[part], given[part], codes[part])
            start, self._is_first = part.stop, False

    def _update_block(self, rows, given, codes):
        least = np.maximum(self.largest.threshold, self.nearness.least)
        at, features, scores = self.nearness.above(given, least)
        n = codes.shape[1]
        active = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr)) * n + codes.indices
        place = np.searchsorted(key := at * n + features, active)
        place = place[np.append(key, -1)[place] == active]
        scores[place] = -np.inf  # active, so it cannot be near
        inactive = scores > -np.inf
        self.largest.update(rows[at[inactive]], features[inactive], scores[inactive])

    def result(self):
        """Near misses as `FeatureCodes.near_misses`."""
        found = self.largest.result()
        lengths = [len(rows) for rows, _ in found]
        return Bunch(
            indptr=np.append(0, np.cumsum(lengths)),
            rows=np.concatenate([rows for rows, _ in found]),
            scores=np.concatenate([scores for _, scores in found]),
            name=self.nearness.name,
        )

    def take(self, near):
        """Go on from an earlier `result`."""
        groups = np.repeat(np.arange(len(near.indptr) - 1), np.diff(near.indptr))
        self.largest.update(near.rows, groups, near.scores)
        self._is_first = len(near.rows) == 0
