"""Rows that are computed while they are learned from, and are never in memory as a whole.

Whatever makes them works in a thread of its own, which fills one buffer while batches are taken
from the one before. The rows of a buffer are permuted. What mixes them beyond a buffer is the
order in which they are made, which follows from the seed of the epoch.
"""

import math
import threading
from itertools import pairwise

import torch

from .ahead import ahead
from .permutation import mixed
from .shuffle import Division, batches_in_buffer, part_of
from .source import Source

# Rows that are made before the first step and kept: mean, scale, the initial dictionary and all
# that is measured of a fit are those of these.
KEPT_ROWS = 1 << 15


class StreamedSource(Source):
    """Rows of a stream: a `Source` of which only some rows can be read again.

    Parameters
    ----------
    stream : object
        Has ``shape``, ``dtype``, ``row_bytes``, ``buffer_bytes`` and ``identity``, a text that
        differs between streams of other rows; ``sample(n)``, a tensor of up to n of its rows;
        ``read(seed, start)``, which yields tensors of consecutive rows of an epoch from one of
        them on, in an order that follows from the seed, in that of the texts if it is None; and
        ``split(n, seed)``, two streams with some n rows in the second.
    device : torch.device
    name : str, default="X"
        In errors.
    """

    def __init__(self, stream, device, *, name="X"):
        super().__init__(stream, device, name=name, is_finite=True)
        self._kept = None

    def take(self, index):
        raise self._cannot("picks rows of it")

    def whole(self):
        raise self._cannot("needs all rows in memory")

    def copy(self):
        raise self._cannot("keeps all rows in memory")

    def _cannot(self, what):
        return ValueError(
            f"{self.name} is a stream, whose rows are gone once they have been learned from, but "
            f"what was called {what}. Write it to disk, with to_store, and give the store."
        )

    def split(self, n_held_out, random_state):
        """A stream without some documents, and the rows of these: at most `KEPT_ROWS`."""
        seed = int(random_state.randint(2**31 - 1))
        training, held_out = self.X.split(min(n_held_out, KEPT_ROWS), seed)
        rows = Source(torch.cat(list(held_out.read(None, 0))), self.device, name=self.name)
        return StreamedSource(training, self.device, name=self.name), rows

    def statistics(self, *, massive=True):
        """Mean and scale of the rows that are kept."""
        if self._statistics is None:
            self._statistics = Source(self._sample(KEPT_ROWS), self.device, name=self.name)
        return self._statistics.statistics(massive=massive)

    def draw(self, n_rows, generator):
        """Rows drawn without replacement of those that are kept, all if there are no more."""
        kept = self._sample(max(n_rows, KEPT_ROWS))
        order = torch.randperm(len(kept), generator=generator, device="cpu")
        return self._on_device(kept[order[:n_rows].sort().values])

    def spread(self, n_most):
        """Numbers of at most so many of the rows that are kept."""
        n_kept = len(self._sample(KEPT_ROWS))
        return torch.arange(0, n_kept, math.ceil(n_kept / n_most), device="cpu")

    def blocks(self, n_columns=0, *, check=True, part=None):
        """As of `Source`, in the order of the texts."""
        first, stop = (0, len(self)) if part is None else (part.start, part.stop)
        starts = range(first, stop, self.block_size(n_columns))
        sizes = [min(self.block_size(n_columns), stop - start) for start in starts]
        for start, x in zip(starts, self._filled(None, first, sizes), strict=True):
            yield slice(start, start + len(x)), self._on_device(x)

    def batches(self, batch_size, generator=None, *, start=0, share=(0, 1)):
        """As of `Source`. Rows before ``start`` are not made, but for the rest of a buffer."""
        seed = None
        if generator is not None:
            seed = int(torch.randint(2**63 - 1, (), generator=generator, device="cpu"))
        return self._batches(Division(len(self), batch_size), batch_size, seed, start, share)

    def _batches(self, division, batch_size, seed, start, share):
        n_together = self.batches_in_buffer(batch_size)
        numbers = range(start // n_together, math.ceil(division.n_batches / n_together))
        edges = [min(n * n_together, division.n_batches) for n in (*numbers, numbers.stop)]
        places = [division.start(edge) for edge in edges]
        sizes = [stop - first for first, stop in pairwise(places)]
        buffers = self._filled(seed, places[0], sizes)
        for number, (first, stop) in zip(numbers, pairwise(edges), strict=True):
            buffer = next(buffers)
            order = torch.arange(len(buffer), device="cpu")
            if seed is not None:
                drawn = torch.Generator(device="cpu").manual_seed(mixed(seed, number))
                order = torch.randperm(len(buffer), generator=drawn, device="cpu")
            batches = order.split(division.sizes(first, stop))
            for batch in batches[max(start - first, 0) :]:
                index = part_of(batch.sort().values, share)
                yield self._on_device(buffer[index])
            del buffer  # before the one after the next is filled

    def batches_in_buffer(self, batch_size):
        """How many batches a buffer holds."""
        return batches_in_buffer(batch_size, self.X.row_bytes, self.X.buffer_bytes // 2)

    def _filled(self, seed, start, sizes):
        """Yield tensors of so many rows, from one on; the next is filled in a thread."""
        is_over = threading.Event()
        parts = self.X.read(seed, start)
        buffers = ahead(_cut(_until(is_over, parts), sizes))
        try:
            yield from buffers
        finally:  # also of a caller who takes no more
            is_over.set()
            buffers.close()

    def _sample(self, n_rows):
        if self._kept is None or len(self._kept) < min(n_rows, len(self)):
            self._kept = self.X.sample(n_rows)
        return self._kept

    def _piece(self, index, *, check):
        kept = self._sample(KEPT_ROWS)
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)), device="cpu")
        if len(index) and int(index.max()) >= len(kept):
            raise self._cannot("reads more of it than is kept")
        return kept[index]


def _until(is_over, parts):
    """Yield from an iterator until an event is set."""
    for part in parts:
        if is_over.is_set():
            return
        yield part


def _cut(parts, sizes):
    """Yield tensors of so many rows each, made of tensors of any number of rows."""
    rest = None
    for size in sizes:
        buffer, n_rows = None, 0
        while n_rows < size:
            if rest is None or len(rest) == 0:
                rest = next(parts, None)
                if rest is None:
                    return
                continue
            if buffer is None:
                buffer = rest.new_empty(size, rest.shape[1])
            n_new = min(size - n_rows, len(rest))
            buffer[n_rows : n_rows + n_new] = rest[:n_new]
            rest, n_rows = rest[n_new:], n_rows + n_new
        yield buffer
