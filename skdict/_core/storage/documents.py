"""Documents of a store as samples: what cross-validation is to divide."""

import numpy as np

from .ranges import RowRanges


class Documents:
    """Documents of a layer of a store, each of which is a sample.

    Indexing gives a view of all rows of some documents. Neighbouring rows of a text are alike, so
    a division of rows would have the same text on both sides.

    Parameters
    ----------
    view : StoreView
        Of all rows.

    Attributes
    ----------
    numbers : ndarray of shape (n_documents,), int64
        What the column "document" calls them, ascending.
    n_rows : ndarray of shape (n_documents,), int64
        How many rows each has.
    shape : tuple of int
        (n_documents, width).
    dtype : torch.dtype
    """

    ndim = 2

    def __init__(self, view):
        self._view = view
        numbers, self._starts, self._stops = view.store.document_runs
        self.numbers, first = np.unique(numbers, return_index=True)
        self._first_runs = np.append(first, len(numbers))
        self.n_rows = np.zeros(len(first), np.int64)
        if len(first):
            self.n_rows = np.add.reduceat(self._stops - self._starts, first)
        self.shape = len(self.numbers), view.shape[1]
        self.dtype = view.dtype

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, key):
        """A view of the rows of documents, which are counted from 0 in the order of `numbers`."""
        if isinstance(key, tuple):  # scikit-learn's X[documents, ...]
            key = key[0]
        if isinstance(key, int | np.integer) and not isinstance(key, bool | np.bool_):
            key = [int(key)]
        chosen = RowRanges([0], [len(self)]).segments(key)
        first, last = self._first_runs[chosen[0]], self._first_runs[chosen[1]]
        n_runs = last - first
        runs = np.repeat(last - n_runs.cumsum(), n_runs) + np.arange(n_runs.sum())
        ranges = RowRanges(self._starts[runs], self._stops[runs])
        return self._view.of_ranges(ranges)

    def __skdict_rows__(self):
        return self._view

    def __repr__(self):
        return f"Documents({len(self)} documents of {self._view!r})"

    def __getstate__(self):
        return {"_view": self._view}

    def __setstate__(self, state):
        self.__init__(state["_view"])
