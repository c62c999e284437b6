"""Rows as ranges, whose memory does not grow with the number of rows."""

import numpy as np
import torch
import xxhash


class RowRanges:
    """Rows of a store, in any order: ranges of consecutive ones.

    Parameters
    ----------
    starts, stops : ndarray of shape (n_ranges,), int64
        Ranges that continue one another are merged, and empty ones are left out.
    """

    def __init__(self, starts, stops):
        starts, stops = np.asarray(starts, np.int64), np.asarray(stops, np.int64)
        full = stops > starts
        starts, stops = starts[full], stops[full]
        is_first = np.ones(len(starts), dtype=bool)
        is_first[1:] = starts[1:] != stops[:-1]
        self.starts = starts[is_first]
        self.stops = stops[np.roll(is_first, -1)]
        self.ends = np.cumsum(self.stops - self.starts)  # in the numbering of the view

    def __len__(self):
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def n_ranges(self):
        return len(self.starts)

    def take(self, key):
        """Some of these rows.

        Parameters
        ----------
        key : slice, or array-like of int or bool of shape (n,)
            As NumPy takes them.

        Returns
        -------
        ranges : RowRanges
        """
        return RowRanges(*self.segments(key))

    def take_ranges(self, starts, stops):
        """Ranges of these rows.

        Parameters
        ----------
        starts, stops : array-like of int of shape (n,)

        Returns
        -------
        ranges : RowRanges
        """
        inner = RowRanges(starts, stops)
        if inner.n_ranges and not 0 <= inner.starts.min() <= inner.stops.max() <= len(self):
            raise IndexError(f"Ranges must be within the {len(self)} rows that there are.")
        first = np.searchsorted(self.ends, inner.starts, side="right")
        last = np.searchsorted(self.ends, inner.stops, side="left")
        n_parts = last - first + 1
        owner = np.repeat(last + 1 - n_parts.cumsum(), n_parts) + np.arange(n_parts.sum())
        begins = (self.ends - (self.stops - self.starts))[owner]
        lower = np.maximum(np.repeat(inner.starts, n_parts), begins)
        upper = np.minimum(np.repeat(inner.stops, n_parts), self.ends[owner])
        return RowRanges(lower + self.starts[owner] - begins, upper + self.starts[owner] - begins)

    def segments(self, key):
        """Ranges of the store that a key stands for: starts and stops, in order."""
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self._cut(start, max(start, stop))
            index = np.arange(start, stop, step, dtype=np.int64)
        else:
            index = self._checked(key)
        if len(index) == 0:
            return index, index
        owner = np.searchsorted(self.ends, index, side="right")
        rows = self.stops[owner] - (self.ends[owner] - index)
        first = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        last = np.append(first[1:], len(rows)) - 1
        return rows[first], rows[last] + 1

    def _cut(self, start, stop):
        begins = self.ends - (self.stops - self.starts)
        lower, upper = np.maximum(begins, start), np.minimum(self.ends, stop)
        has_rows = lower < upper
        shift = (self.starts - begins)[has_rows]
        return lower[has_rows] + shift, upper[has_rows] + shift

    def _checked(self, key):
        if isinstance(key, torch.Tensor):
            key = key.cpu().numpy()
        key = np.asarray(key)
        if key.ndim != 1 or (key.dtype.kind not in "biu" and len(key)):
            raise IndexError(
                "Rows of a store are given by a slice, or by an array of integers or bool of "
                f"shape (n,), not by one of {key.dtype} and shape {key.shape}."
            )
        if key.dtype == bool:
            if len(key) != len(self):
                raise IndexError(f"A mask of {len(key)} rows, where there are {len(self)}.")
            return np.flatnonzero(key)
        index = key.astype(np.int64)
        if len(index) and not -len(self) <= index.min() <= index.max() < len(self):
            bad = index[(index < -len(self)) | (index >= len(self))][0]
            raise IndexError(f"Row {bad} is asked for, where there are {len(self)}.")
        return np.where(index < 0, index + len(self), index)

    def digest(self):
        """Text that differs between ranges."""
        digest = xxhash.xxh3_128()
        digest.update(self.starts.tobytes())
        digest.update(self.stops.tobytes())
        return digest.hexdigest()
