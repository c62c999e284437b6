"""Activations to read from, block by block or batch by batch."""

import math

import numpy as np
import torch

from .ahead import ahead
from .finite import check_piece
from .permutation import Permutation
from .reading import (
    as_dense,
    is_store,
    memory_map_of,
    pinned,
    read_rows,
    release_pages,
    row_slices,
    take_rows,
    to_device,
)
from .shuffle import (
    BUFFER_BYTES,
    CHUNK_ROWS,
    MAX_DRAWN_ALONE,
    MAX_PERMUTED,
    Buffers,
    batches_in_buffer,
    draw_rows,
    permuted_batches,
    spread_over_chunks,
)
from .statistics import statistics_of

# Rows are read and checked in blocks of about this many bytes.
BLOCK_BYTES = 1 << 24


class Source:
    """Rows of X as dense tensors in C order, of one dtype on one device, whatever kind X is.

    X is never copied as a whole.

    Parameters
    ----------
    X : ndarray, memmap, CSR matrix, tensor or view of a store, of shape (n_samples, n_features)
        In floating point, as `check_activations` returns it. A view of a store has
        ``read(index)``, ``chunk_rows``, ``buffer_bytes``, ``moments()``, ``take_ranges(starts,
        stops)`` and gives views by ``[index]``: see `StoreView`.
    device : torch.device
        Where the tensors are.
    index : tensor of shape (n_rows,), int64, optional
        Which rows of X these are; all by default.
    name : str, default="X"
        Name of X in errors.
    is_finite : bool, default=False
        Whether X is known to have neither NaN nor infinity. If not, `blocks` and `statistics` look
        for them, but indexing does not.

    Attributes
    ----------
    shape : tuple of int
        (n_rows, n_features).
    dtype : torch.dtype
        Float64 if X is, else float32. May be set to another one.
    """

    def __init__(self, X, device, *, index=None, name="X", is_finite=False):
        self.X = X
        self.device = device
        self.index = index
        self.name = name
        self.is_finite = is_finite
        self.shape = (X.shape[0] if index is None else len(index), X.shape[1])
        is_double = str(X.dtype).endswith("float64")
        self.dtype = torch.float64 if is_double else torch.float32
        self._statistics = None

    def __len__(self):
        return self.shape[0]

    @property
    def n_features(self):
        return self.shape[1]

    def take(self, index):
        """The source of those of these rows that an int64 tensor names."""
        if self.is_store:
            return self._of(self.X[index.numpy()])
        index = index if self.index is None else self.index[index]
        taken = Source(self.X, self.device, index=index, name=self.name, is_finite=self.is_finite)
        taken.dtype = self.dtype
        return taken

    def part(self, start, stop):
        """The source of consecutive rows of a store."""
        return self._of(self.X.take_ranges([start], [stop]))

    def whole(self):
        """These rows of X in one piece, of the kind that X is."""
        return self.X if self.index is None else take_rows(self.X, self.index.numpy())

    def split(self, n_held_out, random_state):
        """Two sources: all but so many rows drawn at random, and these.

        Of a store whole chunks are drawn, several in a row where there would be more than
        `MAX_DRAWN_ALONE` places, so that their numbers need little memory; or, if that is less,
        so many consecutive rows. The former has the statistics of all rows: nearly all shards are
        cut by what is drawn, and would be read for its own.

        Parameters
        ----------
        n_held_out : int
        random_state : numpy.random.RandomState
        """
        if not self.is_store:
            order = torch.from_numpy(random_state.permutation(len(self)))
            parts = order[n_held_out:], order[:n_held_out]
            return tuple(self.take(part.sort().values) for part in parts)
        self.statistics()  # raises where numbers are not finite
        n_together = math.ceil(n_held_out / (self.chunk_rows * MAX_DRAWN_ALONE))
        step = min(n_together * self.chunk_rows, n_held_out)  # a chunk may be all that there is
        n_chunks = math.ceil(len(self) / step)
        n_drawn = min(math.ceil(n_held_out / step), n_chunks - 1)
        chunks = Permutation(n_chunks, int(random_state.randint(2**31 - 1)))(np.arange(n_drawn))
        starts = np.sort(chunks) * step
        stops = np.minimum(starts + step, len(self))
        others = np.append(0, stops), np.append(starts, len(self))
        training, held_out = (
            self._of(self.X.take_ranges(*others)),
            self.X.take_ranges(starts, stops),
        )
        training._statistics = self._statistics
        return training, self._of(held_out)

    def _of(self, X):
        taken = Source(X, self.device, name=self.name, is_finite=self.is_finite)
        taken.dtype = self.dtype
        return taken

    def copy(self):
        """These rows, which keep hold of X no longer; a store is not in memory."""
        if self.is_store:
            return self
        return Source(self[:].clone(), self.device, name=self.name, is_finite=self.is_finite)

    def __getitem__(self, index):
        """Rows given by a slice or by an int64 tensor on the CPU: (n_rows, n_features)."""
        return self._read(index, check=False)

    def block_size(self, n_columns=0):
        """How many rows there are in a block of `blocks`."""
        width = max(self.n_features, n_columns, 1)
        return max(1, BLOCK_BYTES // (width * self.dtype.itemsize))

    def blocks(self, n_columns=0, *, check=True, part=None):
        """Yield (slice, rows) over all rows in order; a block holds about `BLOCK_BYTES`.

        Parameters
        ----------
        n_columns : int
            Width of what is computed from the rows, if that is wider than they are.
        check : bool
            Whether to look for NaN and infinity, unless there are known to be none.
        part : slice, optional
            Of consecutive rows to go through; by default all.

        Raises
        ------
        ValueError
            If a block holds NaN or infinity; names the first with its row and column in X.
        """
        check = check and not self.is_finite
        first, stop = (0, len(self)) if part is None else (part.start, part.stop)
        for start in range(first, stop, self.block_size(n_columns)):
            block = slice(start, min(start + self.block_size(n_columns), stop))
            yield block, self._read(block, check=check)
        self.is_finite |= check and stop - first == len(self)

    def batches(self, batch_size, generator=None, *, start=0, share=(0, 1)):
        """The rows of one epoch in batches (B, n_features), each row once.

        Batches differ by one row at most in size; none has more than ``batch_size`` rows.

        Parameters
        ----------
        batch_size : int
        generator : torch.Generator, optional
            On the CPU. Shuffles the rows; without one they are not shuffled. All that is needed
            of it is drawn before this returns: the order of an epoch follows from the state that
            the generator had before.
        start : int, default=0
            The first batch; nothing is read of those before it.
        share : (int, int), default=(0, 1)
            Which part of each batch, and of how many parts of consecutive rows. The parts, one
            after the other, are the batch.

        Returns
        -------
        batches : iterator of tensor

        Notes
        -----
        Up to `MAX_PERMUTED` rows in memory are permuted at once. Of more rows, and of all that are
        on a disk, chunks of consecutive ones are read in random order into a buffer whose rows are
        permuted: see `Buffers`.
        """
        if generator is None or (len(self) <= MAX_PERMUTED and not self.is_store):
            order = permuted_batches(len(self), batch_size, generator, start=start, share=share)
            return (self[index] for index in order)
        seed = torch.randint(2**63 - 1, (), generator=generator, device="cpu")
        n_batches = self.batches_in_buffer(batch_size)
        buffers = Buffers(
            len(self), batch_size, int(seed), chunk_rows=self.chunk_rows, n_batches=n_batches
        )
        return self._shuffled(buffers.read(start, share))

    def batches_in_buffer(self, batch_size):
        """How many batches the buffer of a shuffled epoch holds.

        Of a store there are two buffers: the next is read while one is used.
        """
        row_bytes = self.n_features * self.X.dtype.itemsize
        buffer_bytes = self.X.buffer_bytes // 2 if self.is_store else BUFFER_BYTES
        return batches_in_buffer(batch_size, row_bytes, buffer_bytes)

    @property
    def is_store(self):
        """Whether X is read by blocks, which are on a disk or elsewhere."""
        return is_store(self.X)

    @property
    def chunk_rows(self):
        """Consecutive rows of a chunk."""
        return self.X.chunk_rows if self.is_store else CHUNK_ROWS

    def _shuffled(self, buffers):
        read = ((self._held(index), batches) for index, batches in buffers)
        if self.is_store or memory_map_of(self.X) is not None:
            read = ahead(read)
        for buffer, batches in read:
            for batch in batches:
                x = buffer[to_device(batch, buffer.device)]
                yield self._on_device(pinned(x, self.device))
            del buffer  # before the one after the next is read

    def draw(self, n_rows, generator):
        """Rows drawn without replacement, all if there are no more: (n, n_features)."""
        chunk_rows = self.chunk_rows if self.is_store else 1
        return self[draw_rows(len(self), n_rows, generator, chunk_rows=chunk_rows)]

    def spread(self, n_most):
        """Numbers of at most so many rows, evenly spread: an int64 tensor.

        Of a store several come from a chunk where they are many, as of `draw_rows`.
        """
        n_rows = len(self)
        if self.is_store and n_most < n_rows:
            return spread_over_chunks(n_rows, n_most, self.chunk_rows)
        return torch.arange(0, n_rows, math.ceil(n_rows / n_most), device="cpu")

    def check_finite(self):
        """Raise a ValueError that names the first NaN or infinity in X; read at most once."""
        if self.is_finite:
            return
        for block in row_slices(len(self), self.block_size()):
            self._piece(block, check=True)
            release_pages(self.X)
        self.is_finite = True

    def statistics(self, *, massive=True):
        """Mean and centred scale of the rows, computed once: X is read once, and checked.

        Parameters
        ----------
        massive : bool
            Whether to include massive rows, a few of which would decide the scale of all.

        Returns
        -------
        statistics : Statistics
        """
        if self._statistics is None:
            self._statistics = statistics_of(self)
        of_all, of_others = self._statistics
        return of_all if massive else of_others

    def _read(self, index, *, check):
        return self._on_device(self._held(index, check=check))

    def _held(self, index, *, check=False):
        """Rows in the dtype and on the device of X."""
        x = as_dense(self._piece(index, check=check))
        release_pages(self.X)
        return x

    def _on_device(self, x):
        return to_device(x, self.device, self.dtype).contiguous()

    def _piece(self, index, *, check):
        """Rows as X holds them; checked if asked for and then given by a slice."""
        index_in_X = index if self.index is None else self.index[index]
        piece = read_rows(self.X, index_in_X)
        if check:
            first_row = index_in_X if self.index is not None else index.start
            check_piece(piece, self.name, first_row)
        return piece
