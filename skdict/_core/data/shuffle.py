"""The order of rows in an epoch, in memory that does not grow with the number of rows.

Up to `MAX_PERMUTED` rows are permuted at once. More rows are shuffled on two levels: the order of
chunks of consecutive rows is permuted, as many as fill a buffer are read together, and the rows of
the buffer are permuted. A buffer holds whole batches. The permutation of the chunks takes an
eighth of a byte a row.

How well that mixes depends on how similar neighbouring rows are. Averaged over T batches of B rows
from a buffer of M rows, the variance of a gradient is that of independent rows times

    1 + (DEFF - 1) T B / M,

with DEFF the design effect of a chunk (Kish, "Survey Sampling", 1965): the variance of the mean
of batches that are made of whole chunks, relative to that of independent rows.
"""

import math

import torch

# Most rows that are permuted at once: their numbers take 32 MB.
MAX_PERMUTED = 1 << 22
# Rows of a chunk. With 512 float32 in a row it is 128 KB: reads of 64 KB and more come to half of
# a disk's speed, and smaller chunks mix better.
CHUNK_ROWS = 64
# Size of a buffer: this many batches, or as many as fit in this many bytes.
BUFFER_BATCHES = 256
BUFFER_BYTES = 1 << 30


def batch_sizes(n_rows, batch_size):
    """Sizes of the batches of an epoch, as `torch.tensor_split` makes them: the larger first."""
    n_batches = math.ceil(n_rows / batch_size)
    least, n_larger = divmod(n_rows, n_batches)
    return [least + (i < n_larger) for i in range(n_batches)]


def permuted_batches(n_rows, batch_size, generator=None):
    """Yield the sorted row numbers of the batches of one epoch, shuffled if there is a generator.

    Permutes all rows at once; without a generator only the numbers of a batch are in memory.
    """
    order = None
    if generator is not None:
        order = torch.randperm(n_rows, generator=generator, device="cpu")
    start = 0
    for size in batch_sizes(n_rows, batch_size):
        stop = start + size
        if order is None:
            yield torch.arange(start, stop, device="cpu")
        else:
            yield order[start:stop].sort().values
        start = stop


def buffers(n_rows, batch_size, generator, *, row_bytes):
    """Yield the buffers of one epoch that is shuffled on two levels.

    All random numbers follow from one that is drawn from the generator before the first buffer.

    Parameters
    ----------
    n_rows, batch_size : int
    generator : torch.Generator
    row_bytes : int
        Size of a row in a buffer.

    Yields
    ------
    index : tensor of shape (M,), int64
        Numbers of the rows in the buffer, sorted.
    batches : list of tensor of shape (B,), int64
        For each batch the places of its rows in the buffer, sorted.
    """
    seed = torch.randint(2**63 - 1, (), generator=generator, device="cpu")
    generator = torch.Generator(device="cpu").manual_seed(int(seed))
    chunks = torch.randperm(math.ceil(n_rows / CHUNK_ROWS), generator=generator, device="cpu")
    # place of the last chunk, which may have fewer rows, in the order of chunks
    short = int((chunks == len(chunks) - 1).nonzero())
    n_missing = len(chunks) * CHUNK_ROWS - n_rows
    sizes = batch_sizes(n_rows, batch_size)
    n_batches = max(1, min(BUFFER_BATCHES, BUFFER_BYTES // (row_bytes * batch_size)))
    start = 0
    for first in range(0, len(sizes), n_batches):
        of_batches = sizes[first : first + n_batches]
        stop = start + sum(of_batches)
        places = torch.arange(start, stop, device="cpu")
        places += n_missing * (places >= (short + 1) * CHUNK_ROWS - n_missing)
        index = chunks[places // CHUNK_ROWS] * CHUNK_ROWS + places % CHUNK_ROWS
        order = torch.randperm(len(index), generator=generator, device="cpu")
        yield index.sort().values, [batch.sort().values for batch in order.split(of_batches)]
        start = stop


def draw_rows(n_rows, n_drawn, generator):
    """Sorted numbers of rows drawn without replacement, all if there are no more.

    Of more than `MAX_PERMUTED` rows they are `spread_rows`.
    """
    if n_rows <= max(MAX_PERMUTED, n_drawn):
        order = torch.randperm(n_rows, generator=generator, device="cpu")
        return order[:n_drawn].sort().values
    return spread_rows(n_rows, n_drawn, generator)


def spread_rows(n_rows, n_drawn, generator):
    """Sorted numbers of rows, one drawn from each of ``n_drawn`` equal stretches."""
    starts = torch.arange(n_drawn + 1, device="cpu") * n_rows // n_drawn
    places = torch.rand(n_drawn, generator=generator, dtype=torch.float64, device="cpu")
    return starts[:-1] + (places * starts.diff()).long()
