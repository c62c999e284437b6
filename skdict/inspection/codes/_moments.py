"""Sums and maxima of each feature's codes."""

import numpy as np


class Moments:
    """Number, sum, sum of squares and maximum of each feature's active codes.

    Attributes
    ----------
    n_rows : int
        Number of rows that count.
    count : ndarray of shape (n_features,), int64
        Rows on which each feature is active.
    total, squares, maximum : ndarray of shape (n_features,), float64
    """

    ARRAYS = ("count", "total", "squares", "maximum")

    def __init__(self, n_features):
        self.n_rows = 0
        self.count = np.zeros(n_features, dtype=np.int64)
        self.total, self.squares = np.zeros(n_features), np.zeros(n_features)
        self.maximum = np.zeros(n_features)

    def update(self, features, values):
        """Add active entries."""
        n, values = len(self.count), values.astype(np.float64, copy=False)
        self.count += np.bincount(features, minlength=n)
        self.total += np.bincount(features, weights=values, minlength=n)
        self.squares += np.bincount(features, weights=values**2, minlength=n)
        np.maximum.at(self.maximum, features, values)

    def of(self, features):
        """The moments of some features."""
        moments = Moments(len(features))
        moments.n_rows = self.n_rows
        for name in self.ARRAYS:
            setattr(moments, name, getattr(self, name)[features])
        return moments
