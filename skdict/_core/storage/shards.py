"""The file of a shard: written as rows come, and read block by block, verified."""

import os
import threading
from collections import OrderedDict

import numpy as np
import torch
import xxhash

from ..data.statistics import Spread, Summary
from .layout import HEADER_BYTES, ShardLayout
from .moments import RowMoments

# Rows are hashed, counted and written in pieces of about so many bytes, whole blocks, which stay
# in the cache from one to the next. With smaller ones the calls take a good part of the time.
PIECE_BYTES = 1 << 21
# Files are looked through for damage in pieces of about so many bytes.
CHECKED_BYTES = 1 << 23
# So many files of a store are kept open: systems allow a process 256 or 1024.
MAX_OPEN = 64
MAX_OPEN_REMOTE = 8


def as_bytes(tensor):
    """The memory of a contiguous tensor, as a flat memoryview of bytes."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())


class ShardWriter:
    """Writes the file of a shard of one matrix under a temporary name.

    No more than a piece of rows is held. What is written follows from the rows alone, and not
    from how they were appended.

    Parameters
    ----------
    folder : LocalFolder or RemoteFolder
    matrix : Matrix
    number : int
    """

    def __init__(self, folder, matrix, number):
        self._folder, self.matrix, self.number = folder, matrix, number
        self.rows = 0
        n_blocks = max(1, PIECE_BYTES // matrix.block_bytes)
        self._n_piece = n_blocks * matrix.block_rows
        self._held = torch.empty(self._n_piece, matrix.width, dtype=matrix.dtype, device="cpu")
        self._n_held = 0
        self._hashes = []
        self._moments = RowMoments(matrix.width) if matrix.has_statistics else None
        self._runs = []  # (document, first row)
        self._path = folder.temporary(ShardLayout(matrix, number, 0).name)
        self._file = open(self._path, "w+b", buffering=0)  # noqa: SIM115 - `finish` closes it
        self._file.write(bytes(HEADER_BYTES))

    def append(self, x):
        """Add rows.

        Parameters
        ----------
        x : tensor of shape (n, width), contiguous, on the CPU, of the dtype of the matrix
        """
        n_rows, start, data, size = len(x), 0, as_bytes(x), self.matrix.row_bytes
        while start < n_rows:
            stop = min(start + self._n_piece - self._n_held, n_rows)
            if stop - start == self._n_piece:
                self._write(x[start:stop], data[start * size : stop * size])
            else:
                self._hold(x[start:stop])
            start = stop

    def _hold(self, x):
        self._held[self._n_held : self._n_held + len(x)] = x
        self._n_held += len(x)
        if self._n_held == self._n_piece:
            self._write_held()

    def _write_held(self):
        x, self._n_held = self._held[: self._n_held], 0
        if len(x):
            self._write(x, as_bytes(x))

    def _write(self, x, data):
        """Write whole blocks, or the last rows of the shard, which are also given as bytes."""
        step, hash_of = self.matrix.block_bytes, xxhash.xxh3_64_intdigest
        self._hashes += [hash_of(data[i : i + step]) for i in range(0, len(data), step)]
        if self._moments is not None:
            self._moments.update(x)
        if self.matrix.has_documents:
            self._find_runs(x[:, 0])
        self._write_all(data)
        self.rows += len(x)

    def _write_all(self, data):
        n = self._file.write(data)
        while n < len(data):
            n += self._file.write(memoryview(data)[n:])

    def _find_runs(self, document):
        last = self._runs[-1][0] if self._runs else ~int(document[0])
        before = torch.cat([document.new_tensor([last], device="cpu"), document[:-1]])
        for row in (document != before).nonzero()[:, 0].tolist():
            self._runs.append((int(document[row]), self.rows + row))

    def finish(self):
        """Write what is missing, flush the file to disk and give it its name.

        Returns
        -------
        layout : ShardLayout
        tail_xxh3 : str
        summary : Summary or None
        """
        self._write_held()
        layout = ShardLayout(self.matrix, self.number, self.rows, len(self._runs))
        summary = None if self._moments is None else self._moments.finish(self._read)
        arrays = {
            "padding": np.zeros(-layout.data_bytes % 8, np.uint8),
            "block_xxh3": np.array(self._hashes, np.uint64),
            "documents": np.array(self._runs, np.int64),
        }
        if summary is not None:
            arrays["means"] = torch.stack([s.mean for s in summary[:2]]).numpy()
        tail = b"".join(arrays[name].tobytes() for name in layout.tail)
        self._write_all(tail)
        self._file.seek(0)
        self._write_all(layout.header())
        os.fsync(self._file.fileno())
        self._file.close()
        self._folder.publish(self._path, layout.name)
        return layout, xxhash.xxh3_64_hexdigest(tail), summary

    def _read(self, index):
        """Rows that were written, by their numbers."""
        x = torch.empty(len(index), self.matrix.width, dtype=self.matrix.dtype, device="cpu")
        for row, number in zip(x, index, strict=True):
            self._file.seek(HEADER_BYTES + int(number) * self.matrix.row_bytes)
            self._file.readinto(as_bytes(row))
        self._file.seek(0, os.SEEK_END)
        return x

    def abort(self):
        """Leave nothing of the shard."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class ShardReader:
    """Reads the file of a shard.

    Parameters
    ----------
    folder : LocalFolder or RemoteFolder
    layout : ShardLayout
    tail_xxh3 : str
        What the commit says.
    first_row : int
        Of the shard in the store, for errors.
    verify : bool
        Whether what is read is compared with its hashes.
    """

    def __init__(self, folder, layout, tail_xxh3, first_row, *, verify):
        self.layout, self.first_row, self.verify = layout, first_row, verify
        self.where, self._tail_xxh3 = folder.where(layout.name), tail_xxh3
        self._file = folder.open(layout.name)
        if self._file.n_bytes != layout.n_bytes:
            raise ValueError(
                f"{self.where} has {self._file.n_bytes} bytes, but its commit says "
                f"{layout.n_bytes}. {self._what_to_do()}"
            )
        self._hashes = None
        if verify:
            self.check_header()
            if folder.is_remote:  # one request for all
                self._hashes = self._read_hashes(0, layout.n_blocks)

    def check_header(self):
        """Raise unless the header is the one that follows from the commit."""
        header = bytearray(HEADER_BYTES)
        self._fill(memoryview(header), 0)
        if header != self.layout.header():
            raise ValueError(
                f"{self.where}: its header is not what the commit of the shard says; the file is "
                f"damaged, or that of another shard. {self._what_to_do()}"
            )

    def tail(self):
        """What is behind the rows, verified in any case: {name: ndarray}."""
        layout = self.layout
        content = bytearray(layout.n_bytes - layout.tail_start)
        self._fill(memoryview(content), layout.tail_start)
        if xxhash.xxh3_64_hexdigest(content) != self._tail_xxh3:
            raise ValueError(
                f"{self.where}, behind its rows: the checksum does not match; the file is "
                f"damaged. {self._what_to_do()}"
            )
        arrays, start = {}, 0
        for name, (dtype, shape) in layout.tail.items():
            kind = str(dtype).removeprefix("torch.")
            n = int(np.prod(shape))
            arrays[name] = np.frombuffer(content, kind, n, start).reshape(shape)
            start += n * dtype.itemsize
        return arrays

    def read_blocks(self, first, stop, target):
        """Read whole blocks into a memoryview of bytes."""
        self._fill(target, HEADER_BYTES + first * self.layout.matrix.block_bytes)
        if self.verify:
            for block in self._damaged(first, stop, target):
                raise ValueError(self.damage(block))

    def damaged_blocks(self):
        """Yield the numbers of all blocks that do not agree with their hashes."""
        matrix, n_blocks = self.layout.matrix, self.layout.n_blocks
        step = max(1, CHECKED_BYTES // matrix.block_bytes)
        content = memoryview(bytearray(min(step * matrix.block_bytes, self.layout.data_bytes)))
        for first in range(0, n_blocks, step):
            stop = min(first + step, n_blocks)
            n_rows = min(stop * matrix.block_rows, self.layout.rows) - first * matrix.block_rows
            target = content[: n_rows * matrix.row_bytes]
            self._fill(target, HEADER_BYTES + first * matrix.block_bytes)
            yield from self._damaged(first, stop, target)

    def _damaged(self, first, stop, content):
        if self._hashes is None:
            hashes = self._read_hashes(first, stop)
        else:
            hashes = self._hashes[first:stop]
        step = self.layout.matrix.block_bytes
        for i, expected in enumerate(hashes.tolist()):
            if xxhash.xxh3_64_intdigest(content[i * step : (i + 1) * step]) != expected:
                yield first + i

    def read_rows(self, start, stop, target, scratch):
        """Read rows into a memoryview of bytes.

        Parameters
        ----------
        start, stop : int
            In the shard.
        target : memoryview
        scratch : dict
            Holds the block that was read last in part, from one call to the next.
        """
        matrix, rows = self.layout.matrix, self.layout.rows
        step, size = matrix.block_rows, matrix.row_bytes
        while start < stop:
            block = start // step
            n_whole = (self.layout.n_blocks if stop == rows else stop // step) - block
            if start % step == 0 and n_whole > 0:
                end = min((block + n_whole) * step, rows)
                self.read_blocks(block, block + n_whole, target[: (end - start) * size])
            elif not self.verify:
                end = stop
                self._fill(target[: (end - start) * size], HEADER_BYTES + start * size)
            else:
                end = min(stop, (block + 1) * step)
                content = self._block(block, scratch)
                first = (start - block * step) * size
                target[: (end - start) * size] = content[first : first + (end - start) * size]
            target = target[(end - start) * size :]
            start = end

    def _block(self, block, scratch):
        key = self.where, block
        if scratch.get("key") != key:
            matrix = self.layout.matrix
            n_rows = min(matrix.block_rows, self.layout.rows - block * matrix.block_rows)
            content = memoryview(bytearray(n_rows * matrix.row_bytes))
            self.read_blocks(block, block + 1, content)
            scratch["key"], scratch["content"] = key, content
        return scratch["content"]

    def _read_hashes(self, first, stop):
        content = bytearray(8 * (stop - first))
        self._fill(memoryview(content), self.layout.hash_start + 8 * first)
        return np.frombuffer(content, np.uint64)

    def _fill(self, target, start):
        n = self._file.read_into(target, start)
        if n < len(target):
            raise ValueError(
                f"{self.where} ends before byte {start + len(target)}: it was cut off. "
                f"{self._what_to_do()}"
            )

    def damage(self, block):
        """The error of a block that is damaged."""
        first = block * self.layout.matrix.block_rows
        last = min(first + self.layout.matrix.block_rows, self.layout.rows) - 1
        return (
            f"{self.where}, block {block}, rows {first} to {last} of the file, rows "
            f"{self.first_row + first} to {self.first_row + last} of the store: the checksum does "
            f"not match; the file is damaged. {self._what_to_do()}"
        )

    def _what_to_do(self):
        number = self.layout.number
        return (
            f"Restore it from a copy; or remove commits/{number:08d}.json, the later commits of "
            "its writer and index.json, and extract again: that goes on from the commit before."
        )


class OpenShards:
    """The files of a store that were used last, kept open for all of its readers.

    Parameters
    ----------
    n_most : int
    """

    def __init__(self, n_most):
        self._n_most, self._open, self._lock = n_most, OrderedDict(), threading.Lock()

    def get(self, key):
        """An open shard, or None."""
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
            return self._open.get(key)

    def put(self, key, shard):
        """Keep a shard, in the place of the one that was not used for longest."""
        with self._lock:
            self._open[key] = shard
            while len(self._open) > self._n_most:
                self._open.popitem(last=False)  # closed when no thread reads from it any more


class MatrixReader:
    """Rows of one matrix, over all committed shards.

    Parameters
    ----------
    folder : LocalFolder or RemoteFolder
    matrix : Matrix
    layer : str or None
        None for tokens.
    commits : list of Commit
    opened : OpenShards
    verify : bool
    """

    def __init__(self, folder, matrix, layer, commits, opened, *, verify):
        self.folder, self.matrix, self.layer = folder, matrix, layer
        self.commits, self.verify = commits, verify
        rows = np.array([commit.rows for commit in commits], dtype=np.int64)
        self.starts = np.concatenate([[0], rows.cumsum()])
        self._opened = opened

    def __len__(self):
        return int(self.starts[-1])

    def shard(self, position):
        """The reader of the shard at a position in the list of commits."""
        shard = self._opened.get((self.layer, position))
        if shard is not None:
            return shard
        commit = self.commits[position]
        tail_xxh3 = commit.tail_xxh3(self.layer)
        first_row = int(self.starts[position])
        layout = commit.layout(self.matrix)
        shard = ShardReader(self.folder, layout, tail_xxh3, first_row, verify=self.verify)
        self._opened.put((self.layer, position), shard)
        return shard

    def read(self, starts, stops):
        """Consecutive rows, several times: (n, width).

        Parameters
        ----------
        starts, stops : ndarray of int64
            Rows of the store.
        """
        pieces = list(self._pieces(starts, stops))
        for position in dict.fromkeys(position for position, _, _ in pieces):
            self.shard(position)  # files that are not there are found before memory is taken
        n_rows = int((stops - starts).sum())
        x = torch.empty(n_rows, self.matrix.width, dtype=self.matrix.dtype, device="cpu")
        target, scratch = as_bytes(x), {}
        for position, start, stop in pieces:
            size = (stop - start) * self.matrix.row_bytes
            self.shard(position).read_rows(start, stop, target[:size], scratch)
            target = target[size:]
        return x

    def read_range(self, start, stop):
        """Consecutive rows: (n, width)."""
        return self.read(np.array([start], np.int64), np.array([stop], np.int64))

    def _pieces(self, starts, stops):
        """Yield (position of a shard, first row in it, its last row + 1)."""
        positions = np.searchsorted(self.starts, starts, side="right") - 1
        borders = self.starts.tolist()
        triples = zip(positions.tolist(), starts.tolist(), stops.tolist(), strict=True)
        for position, start, stop in triples:
            while start < stop:
                first = borders[position]
                end = min(stop, borders[position + 1])
                yield position, start - first, end - first
                start, position = end, position + 1

    def summary(self, position):
        """The summary that was written down with a shard of activations."""
        record = self.commits[position].layers[self.layer]
        means = torch.from_numpy(self.shard(position).tail()["means"].copy())
        of_all = Spread(record.n_samples, means[0], record.squares, record.largest)
        others = record.n_others, means[1], record.squares_others, record.largest_others
        return Summary(of_all, Spread(*others), record.n_not_finite)
