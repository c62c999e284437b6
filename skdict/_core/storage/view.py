"""Rows of a layer of a store, as a matrix that is read when it is used."""

import numpy as np
import torch
import xxhash

from ..data.mixing import predicted_ratio
from ..data.source import Source
from ..data.statistics import Spread, Summary
from .documents import Documents
from .layout import DTYPES
from .moments import RowMoments
from .opening import OpenStore
from .ranges import RowRanges

# Rows of partly used shards are read in pieces of about so many bytes for their moments.
PIECE_BYTES = 1 << 22


class StoreView:
    """Rows of one layer of a store, in any order, which lie on disk.

    Indexing gives another view, and reads nothing. A view pickles as the path and the ranges of
    its rows, and opens the files again where it is unpickled.

    Parameters
    ----------
    store : OpenStore
    layer : str
    buffer_bytes : int
        Memory that shuffling may take.
    ranges : RowRanges, default=None
        None for all rows.

    Attributes
    ----------
    shape : tuple of int
        (n_rows, width).
    dtype : torch.dtype
    """

    ndim = 2

    def __init__(self, store, layer, *, buffer_bytes, ranges=None):
        self._store, self.layer, self.buffer_bytes = store, layer, buffer_bytes
        self._ranges = RowRanges([0], [store.n_rows]) if ranges is None else ranges
        self._path, self._verify = store.folder.path, store.verify
        self._digest, self._last = store.digest, store.last
        self.shape = (len(self._ranges), store.settings.layers[layer][0])
        self.dtype = DTYPES[store.settings.dtype]

    @property
    def store(self):
        """The open store."""
        if self._store is None:
            self._store = OpenStore.again(self._path, self._verify, self._last, self._digest)
        return self._store

    def __len__(self):
        return self.shape[0]

    @property
    def chunk_rows(self):
        """Rows that are read, verified and shuffled together."""
        return self.store.chunk_rows(self.layer)

    @property
    def n_ranges(self):
        """Number of ranges of consecutive rows."""
        return self._ranges.n_ranges

    @property
    def identity(self):
        """Text that differs between views of other rows."""
        text = f"{self._digest} {self.layer} {self._ranges.digest()}"
        return xxhash.xxh3_128_hexdigest(text.encode())

    def __getitem__(self, key):
        """Another view of some rows; of one row, its values as a tensor."""
        if isinstance(key, tuple):  # scikit-learn's X[rows, ...]
            if len(key) != 2 or not (key[1] is Ellipsis or key[1] == slice(None)):
                raise IndexError("A view of a store is indexed by rows alone: view[rows].")
            key = key[0]
        if isinstance(key, int | np.integer) and not isinstance(key, bool | np.bool_):
            return self.read([int(key)])[0]
        return self.of_ranges(self._ranges.take(key))

    def take_ranges(self, starts, stops):
        """A view of ranges of these rows.

        Parameters
        ----------
        starts, stops : array-like of int of shape (n_ranges,)

        Returns
        -------
        view : StoreView
        """
        return self.of_ranges(self._ranges.take_ranges(starts, stops))

    def of_ranges(self, ranges):
        """A view of the same layer.

        Parameters
        ----------
        ranges : RowRanges
            Of the store.

        Returns
        -------
        view : StoreView
        """
        return StoreView(self.store, self.layer, buffer_bytes=self.buffer_bytes, ranges=ranges)

    @property
    def documents(self):
        """The documents of the store as samples; only of a view of all rows."""
        if self.n_ranges > 1 or len(self) < self.store.n_rows:
            raise ValueError(
                f"This view has {len(self)} of the {self.store.n_rows} rows of the store, and so "
                "parts of documents. Take store[layer].documents, and index those."
            )
        return Documents(self)

    def read(self, index):
        """Rows as a new tensor, verified.

        Parameters
        ----------
        index : slice, or array-like of int or bool of shape (n,)

        Returns
        -------
        x : tensor of shape (n, width), of the dtype of the store
        """
        return self.store.reader(self.layer).read(*self._ranges.segments(index))

    def tokens(self, index=slice(None)):
        """The tokens that rows belong to.

        Parameters
        ----------
        index : slice, or array-like of int or bool of shape (n,)

        Returns
        -------
        tokens : dict of str to ndarray of shape (n,), int64
        """
        columns = self.store.settings.tokens
        if not columns:
            return {}
        x = self.store.reader(None).read(*self._ranges.segments(index)).numpy()
        return {name: x[:, i].copy() for i, name in enumerate(columns)}

    def moments(self):
        """Moments of the rows: from the commits of whole shards, and from rows of other shards.

        Massive rows are judged within their shard.

        Returns
        -------
        summary : Summary
        """
        reader = self.store.reader(self.layer)
        zeros = torch.zeros(self.shape[1], dtype=torch.float64, device="cpu")
        nothing = Spread(0, zeros, 0.0, 0.0)
        summary = Summary(nothing, nothing, 0)
        for position, rows in self._rows_by_shard(reader):
            part = reader.summary(position) if rows is None else self._read_moments(reader, rows)
            summary = summary.merged_with(part)
        return summary

    def _rows_by_shard(self, reader):
        """Yield (position of a shard, its rows in the store as `RowRanges`; None for all)."""
        starts, stops = self._ranges.starts, self._ranges.stops
        order = np.argsort(starts, kind="stable")
        starts, stops = starts[order], stops[order]
        first = np.searchsorted(reader.starts, starts, side="right") - 1
        last = np.searchsorted(reader.starts, stops, side="left")
        n_covering = np.zeros(len(reader.starts), np.int64)
        np.add.at(n_covering, first, 1)
        np.add.at(n_covering, last, -1)
        for position in np.flatnonzero(n_covering.cumsum() > 0):
            begin, end = reader.starts[position : position + 2]
            here = (starts < end) & (stops > begin)
            rows = RowRanges(starts[here].clip(min=begin), stops[here].clip(max=end))
            whole = rows.n_ranges == 1 and len(rows) == end - begin
            yield position, None if whole else rows

    def _read_moments(self, reader, rows):
        moments = RowMoments(self.shape[1])
        step = max(1, PIECE_BYTES // reader.matrix.row_bytes)
        for start in range(0, len(rows), step):
            moments.update(reader.read(*rows.segments(slice(start, start + step))))
        return moments.finish(lambda index: reader.read(*rows.segments(index)))

    def mixing(self, batch_size):
        """How noisy gradients will be after the shuffle, relative to independent rows.

        Predicted from chunks drawn at random, for the mean of the gradients of eight batches:
        1 + (DEFF - 1) · 8 B / M, with B rows in a batch, M in the buffer, and DEFF the design
        effect of a chunk: the variance of its mean, relative to that of independent rows. Up to
        1.1 it hardly matters; a larger ``buffer_bytes`` brings it down.

        Parameters
        ----------
        batch_size : int

        Returns
        -------
        ratio : float
            At least 1.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
            raise TypeError(f"batch_size must be an integer, not {batch_size!r:.60}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        source = Source(self, torch.device("cpu"), name=f"store[{self.layer!r}]")
        return predicted_ratio(source, int(batch_size))

    def __array__(self, dtype=None, copy=None):
        """All rows in memory; NumPy has no bfloat16, which becomes float32."""
        x = self.read(slice(None))
        x = x.float() if x.dtype == torch.bfloat16 else x
        return x.numpy().astype(dtype or x.numpy().dtype, copy=False)

    def __repr__(self):
        shape = f"{self.shape[0]} rows of {self.shape[1]}"
        return f"StoreView({self._path!r}, layer={self.layer!r}: {shape}, {self.dtype})"

    def __getstate__(self):
        return self.__dict__ | {
            "_store": None,
            "_ranges": (self._ranges.starts, self._ranges.stops),
        }

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._ranges = RowRanges(*state["_ranges"])
