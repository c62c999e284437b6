"""The order of rows in an epoch, in memory that does not grow with the number of rows.

Up to `MAX_PERMUTED` rows are permuted at once. More rows are shuffled on two levels: the order of
chunks of consecutive rows is permuted, as many as fill a buffer are read together, and the rows of
the buffer are permuted. A buffer holds whole batches. The permutation of the chunks needs no
memory.

How well that mixes depends on how similar neighbouring rows are. Averaged over T batches of B rows
from a buffer of M rows, the variance of a gradient is that of independent rows times

    1 + (DEFF - 1) T B / M,

with DEFF the design effect of a chunk (Kish, "Survey Sampling", 1965): the variance of the mean
of batches that are made of whole chunks, relative to that of independent rows.
"""

import math
from itertools import pairwise

import torch

from .permutation import Permutation, mixed

# Most rows that are permuted at once: their numbers take 32 MB.
MAX_PERMUTED = 1 << 22
# Rows of a chunk. With 512 float32 in a row it is 128 KB: reads of 64 KB and more come to half of
# a disk's speed, and smaller chunks mix better.
CHUNK_ROWS = 64
# Size of a buffer: this many batches, or as many as fit in this many bytes.
BUFFER_BATCHES = 256
BUFFER_BYTES = 1 << 30
# Rows of a store that are drawn from a chunk each.
MAX_DRAWN_ALONE = 1 << 14


class Division:
    """The batches of an epoch, as `torch.tensor_split` makes them: the larger first.

    Parameters
    ----------
    n_rows, batch_size : int
        No batch is larger; their sizes differ by one at most.
    """

    def __init__(self, n_rows, batch_size):
        self.n_batches = math.ceil(n_rows / batch_size)
        self._least, self._n_larger = divmod(n_rows, self.n_batches)

    def start(self, batch):
        """How many rows come before a batch."""
        return batch * self._least + min(batch, self._n_larger)

    def sizes(self, first, stop):
        """Sizes of the batches from one to before another."""
        starts = [self.start(batch) for batch in range(first, stop + 1)]
        return [stop - start for start, stop in pairwise(starts)]


def permuted_batches(n_rows, batch_size, generator=None, *, start=0, share=(0, 1)):
    """The sorted row numbers of the batches of one epoch, shuffled if there is a generator.

    Permutes all rows at once, before it returns; without a generator only the numbers of a batch
    are in memory.

    Parameters
    ----------
    n_rows, batch_size : int
    generator : torch.Generator, optional
    start : int
        The first batch.
    share : (int, int)
        Which part of each batch, and of how many parts of consecutive rows.

    Returns
    -------
    batches : iterator of tensor of shape (B,), int64
    """
    order = None
    if generator is not None:
        order = torch.randperm(n_rows, generator=generator, device="cpu")
    return _slices_of(order, Division(n_rows, batch_size), start, share)


def _slices_of(order, division, start, share):
    for batch in range(start, division.n_batches):
        first, stop = division.start(batch), division.start(batch + 1)
        if order is None:
            yield part_of(torch.arange(first, stop, device="cpu"), share)
        else:
            yield part_of(order[first:stop].sort().values, share)


def part_of(batch, share):
    """The part of a batch that falls to ``share[0]`` of ``share[1]``: consecutive rows."""
    rank, n_parts = share
    return batch if n_parts == 1 else batch.tensor_split(n_parts)[rank]


class Buffers:
    """The buffers of one epoch that is shuffled on two levels.

    All random numbers follow from the seed, so any buffer can be had without those before it.

    Parameters
    ----------
    n_rows, batch_size : int
    seed : int
    chunk_rows : int
        Consecutive rows that stay together until they are in the buffer.
    n_batches : int
        How many whole batches a buffer holds.
    """

    def __init__(self, n_rows, batch_size, seed, *, chunk_rows, n_batches):
        self.seed = seed
        self.chunk_rows = chunk_rows
        self.n_batches = n_batches
        self.division = Division(n_rows, batch_size)
        n_chunks = math.ceil(n_rows / chunk_rows)
        self._chunks = Permutation(n_chunks, seed)
        # the last chunk may have fewer rows: how many are missing, and from which place on
        self._n_missing = n_chunks * chunk_rows - n_rows
        short = int(self._chunks.inverse([n_chunks - 1])[0])
        self._missing_from = (short + 1) * chunk_rows - self._n_missing

    def read(self, start=0, share=(0, 1)):
        """Yield what is to be read, and the batches that are made of it.

        Parameters
        ----------
        start, share
            As of `permuted_batches`.

        Yields
        ------
        index : tensor of shape (M,), int64
            Numbers of the rows to read, sorted.
        batches : list of tensor of shape (B,), int64
            For each batch the places of its rows in ``index``, sorted.
        """
        start = min(start, self.division.n_batches)
        stop = math.ceil(self.division.n_batches / self.n_batches)
        for number in range(start // self.n_batches, stop):
            n_skipped = max(start - number * self.n_batches, 0)
            yield self._buffer(number, n_skipped, share)

    def _buffer(self, number, n_skipped, share):
        first = number * self.n_batches
        stop = min(first + self.n_batches, self.division.n_batches)
        index = self._rows(self.division.start(first), self.division.start(stop)).sort().values
        generator = torch.Generator(device="cpu").manual_seed(mixed(self.seed, number))
        order = torch.randperm(len(index), generator=generator, device="cpu")
        batches = order.split(self.division.sizes(first, stop))[n_skipped:]
        batches = [part_of(batch.sort().values, share) for batch in batches]
        if n_skipped == 0 and share[1] == 1:
            return index, batches
        wanted = torch.cat([order[:0], *batches]).sort().values
        return index[wanted], [torch.searchsorted(wanted, batch) for batch in batches]

    def _rows(self, start, stop):
        """Numbers of the rows at these places of the epoch, chunk by chunk."""
        places = torch.arange(start, stop, device="cpu")
        places += self._n_missing * (places >= self._missing_from)
        chunks = torch.from_numpy(self._chunks((places // self.chunk_rows).numpy()))
        return chunks * self.chunk_rows + places % self.chunk_rows


def batches_in_buffer(batch_size, row_bytes, buffer_bytes):
    """How many batches a buffer holds: `BUFFER_BATCHES`, or as many as fit in its bytes."""
    return max(1, min(BUFFER_BATCHES, buffer_bytes // (row_bytes * batch_size)))


def draw_rows(n_rows, n_drawn, generator, *, chunk_rows=1):
    """Sorted numbers of rows drawn without replacement, all if there are no more.

    Of more than `MAX_PERMUTED` rows they are `spread_rows`.

    Parameters
    ----------
    n_rows, n_drawn : int
    generator : torch.Generator
    chunk_rows : int
        Rows that are read at once. If more than `MAX_DRAWN_ALONE` rows are drawn, several come
        from the same chunk, so that no more than so many chunks are read.
    """
    if chunk_rows == 1 and n_rows <= max(MAX_PERMUTED, n_drawn):
        order = torch.randperm(n_rows, generator=generator, device="cpu")
        return order[:n_drawn].sort().values
    if n_drawn >= n_rows:
        return torch.arange(n_rows, device="cpu")
    n_together = math.ceil(n_drawn / MAX_DRAWN_ALONE)
    n_chunks, n_read = n_rows // chunk_rows, math.ceil(n_drawn / n_together)
    if n_together == 1 or n_together > chunk_rows or n_read > n_chunks:
        return spread_rows(n_rows, n_drawn, generator)
    first = spread_rows(n_chunks, n_read, generator) * chunk_rows
    places = torch.rand(
        n_read, chunk_rows, generator=generator, dtype=torch.float32, device="cpu"
    ).argsort(dim=1)[:, :n_together]
    return (first[:, None] + places).flatten()[:n_drawn].sort().values


def spread_rows(n_rows, n_drawn, generator):
    """Sorted numbers of rows, one drawn from each of ``n_drawn`` equal stretches."""
    starts = torch.arange(n_drawn + 1, device="cpu") * n_rows // n_drawn
    places = torch.rand(n_drawn, generator=generator, dtype=torch.float64, device="cpu")
    return starts[:-1] + (places * starts.diff()).long()


def spread_over_chunks(n_rows, n_most, chunk_rows):
    """Sorted numbers of rows, evenly spread, in no more than `MAX_DRAWN_ALONE` chunks."""
    n_together = min(math.ceil(n_most / MAX_DRAWN_ALONE), chunk_rows)
    n_read = n_most // n_together
    starts = torch.arange(n_read, device="cpu") * n_rows // n_read
    if n_together == 1:
        return starts
    starts = starts // chunk_rows * chunk_rows
    places = torch.arange(n_together, device="cpu") * chunk_rows // n_together
    rows = (starts.unique()[:, None] + places).flatten()
    return rows[rows < n_rows]
