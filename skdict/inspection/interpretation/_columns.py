"""Columns of codes or of activations, read some at a time."""

import numpy as np

from ..codes._store import as_feature_codes
from ._windows import Activity

# Limits of what is read in one scan: columns, and entries of 16 bytes each.
_MAX_COLUMNS, _MAX_ENTRIES = 1024, 2**23


class Columns:
    """Codes of which columns are read, a group of them in one scan of the rows.

    Parameters
    ----------
    codes : FeatureCodes or matrix
    name : str
        What the user calls it.

    Attributes
    ----------
    n_active : ndarray of int64 of shape (n_columns,)
        Number of positive entries of each column.
    """

    def __init__(self, codes, name):
        self._codes = as_feature_codes(codes, name=name)
        self.n_active = self._codes.moments.count

    def groups(self, indices):
        """Split indices into slices of what one scan should read."""
        start, n_entries = 0, 0
        for place, count in enumerate(self.n_active[indices].tolist()):
            n_entries += count
            if place - start == _MAX_COLUMNS or (n_entries > _MAX_ENTRIES and place > start):
                yield slice(start, place)
                start, n_entries = place, count
        if start < len(indices):
            yield slice(start, len(indices))

    def read(self, indices):
        """The `Activity` of each of some columns, a list; a column may be asked for twice."""
        distinct, which = np.unique(indices, return_inverse=True)
        columns = self._codes.columns(distinct)
        # rows of another dtype would be converted at each search
        rows, bounds = columns.indices.astype(np.int64, copy=False), columns.indptr.tolist()
        parts = [slice(bounds[k], bounds[k + 1]) for k in which.tolist()]
        return [Activity(rows[part], columns.data[part]) for part in parts]
