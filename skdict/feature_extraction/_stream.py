"""Activations of texts that are computed while a dictionary learns from them."""

import json
from itertools import chain

import numpy as np
import torch
import xxhash

from .._core.data.permutation import mixed
from .._core.data.streamed import KEPT_ROWS, StreamedSource

# Windows that are kept as token ids, in bytes; each takes so many beside its tokens.
KEPT_BYTES = 1 << 28
WINDOW_BYTES = 600
# Windows that are shuffled together hold the rows of so many buffers, if not all are kept.
POOL_BUFFERS = 4
# Rows whose windows are kept of texts that are not counted.
LOOKED_AT = 8 * KEPT_ROWS
SEED = 0  # of the rows that are looked at before the first step


class ActivationStream:
    """Activations of texts as X, computed while they are learned from.

    :meth:`ActivationExtractor.stream` makes it.

    Parameters
    ----------
    reader : DocumentReader
        Of one layer.
    source : object
        Of `text_source`.
    n_samples : int or None
        Rows of an epoch; None for all that there are, which are counted.
    buffer_bytes : int

    Attributes
    ----------
    shape : tuple of int
        (n_rows, width).
    dtype : torch.dtype
        What the model computes in.
    """

    ndim = 2

    def __init__(self, reader, source, *, n_samples, buffer_bytes):
        self._reader, self._source = reader, source
        ((self._name, width),) = reader.reader.widths.items()
        self.dtype = reader.reader.dtype
        self.row_bytes, self.buffer_bytes = width * self.dtype.itemsize, buffer_bytes
        self._left_out = frozenset()
        self._kept, self._is_complete, self._rest = [], True, None
        n_rows = self._look(n_samples)
        if n_samples is not None and self._is_complete and n_rows < n_samples:
            raise self._too_few(n_samples, n_rows)
        self.shape = (n_rows if n_samples is None else n_samples, width)

    def _look(self, n_samples):
        """Keep the first windows, and count the rows of all if nothing else says how many."""
        n_bytes = n_rows = 0
        windows = self._of_source()
        for window in windows:
            n_rows += window.n_rows
            n_bytes += WINDOW_BYTES + window.ids.nbytes + window.kept.nbytes
            if self._is_complete:
                self._kept.append(window._replace(spans=None))
            if n_samples is not None and n_rows >= min(n_samples, LOOKED_AT):
                self._is_complete = n_rows >= n_samples
                break
            if n_bytes > KEPT_BYTES:
                self._is_complete = False
        if not self._kept:
            raise ValueError("texts have no tokens besides special ones.")
        if not self._source.can_be_read_again:
            self._rest = windows
        return n_rows

    def _of_source(self):
        windows = self._reader.windows(self._source.alike(0, 1))
        return (window for window in windows if window.n_rows)

    @property
    def identity(self):
        """Text that differs between streams of other rows; a digest of the model is taken."""
        facts = self._reader.identity(), self._source.identity, self.shape, sorted(self._left_out)
        return xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, key):
        raise TypeError(
            "Rows of a stream cannot be picked: they are computed one after the other. For "
            "cross-validation and searches write them to disk, with to_store."
        )

    def __repr__(self):
        n_rows, width = self.shape
        return f"ActivationStream({self._name!r}: {n_rows} rows of {width}, {self.dtype})"

    def __skdict_source__(self, device):
        """The rows as estimators read them."""
        return StreamedSource(self, device)

    def sample(self, n_rows):
        """Up to so many rows of windows that are drawn from those that are kept."""
        return torch.cat(list(self._rows(_permuted(self._kept, SEED), 0, n_rows, is_all=False)))

    def read(self, seed, start):
        """Yield the rows of an epoch from one on, in portions; see `StreamedSource`."""
        return self._rows(self._order(seed), start, len(self))

    def split(self, n_rows, seed):
        """Two streams: without some documents, and of these, which have about so many rows."""
        of_document = {}
        for window in self._kept:
            number = window.document
            of_document[number] = of_document.get(number, 0) + window.n_rows
        if not self._is_complete:
            of_document.popitem()  # its other windows are not here
        numbers = np.array(list(of_document))
        chosen, n_chosen = set(), 0
        for i in torch.randperm(len(numbers), generator=_generator(seed), device="cpu").tolist():
            if n_chosen >= n_rows or n_chosen + of_document[numbers[i]] > len(self) - 2:
                break
            chosen.add(int(numbers[i]))
            n_chosen += of_document[numbers[i]]
        if not chosen:
            raise ValueError(
                "No text can be held out: the first texts of the stream are too long. Give more "
                "and shorter texts, or set early_stopping=False."
            )
        left = len(self) - n_chosen  # there may be no other texts
        return self._of(chosen, left, inside=False), self._of(chosen, n_chosen, inside=True)

    def _of(self, documents, n_rows, *, inside):
        stream = object.__new__(ActivationStream)
        vars(stream).update(vars(self))
        stream.shape = (n_rows, self.shape[1])
        stream._kept = [w for w in self._kept if (w.document in documents) == inside]
        stream._is_complete = self._is_complete or inside
        stream._left_out = frozenset() if inside else self._left_out | documents
        return stream

    def _order(self, seed):
        """The windows of an epoch."""
        if self._is_complete:
            return iter(self._kept) if seed is None else _permuted(self._kept, seed)
        if self._source.can_be_read_again:
            windows = self._of_source()
        else:
            windows = chain(self._kept, self._once())
        windows = (window for window in windows if window.document not in self._left_out)
        windows = _first_rows(windows, len(self))
        if seed is None:
            return windows
        n_rows = POOL_BUFFERS * self.buffer_bytes // (2 * self.row_bytes)
        return _mixed_up(windows, n_rows, seed)

    def _once(self):
        if self._rest is None:
            raise self._too_few(len(self), None)
        windows, self._rest = self._rest, None
        yield from windows

    def _rows(self, windows, start, stop, *, is_all=True):
        reader, n_before = self._reader.reader, 0
        for portion in reader.portions(windows):
            n_rows = sum(window.n_rows for window in portion)
            if n_before + n_rows > start:
                x = reader.read(portion)[self._name]
                _check_finite(x, portion)
                yield x[max(start - n_before, 0) : stop - n_before]
            n_before += n_rows
            if n_before >= stop:
                return
        if is_all:
            raise self._too_few(stop, n_before)

    def _too_few(self, n_samples, n_rows):
        found = "fewer" if n_rows is None else f"{n_rows}"
        advice = "Set n_samples to no more."
        if not self._source.can_be_read_again:
            advice = (
                "Those of a generator can be read once: set max_iter=1, and n_samples to no more "
                "than there are; or give texts that can be read again."
            )
        return ValueError(f"texts have {found} rows, but {n_samples} are needed. {advice}")


def _generator(seed):
    return torch.Generator(device="cpu").manual_seed(mixed(seed, 0))


def _permuted(windows, seed):
    order = torch.randperm(len(windows), generator=_generator(seed), device="cpu")
    return (windows[i] for i in order.tolist())


def _first_rows(windows, n_rows):
    """Yield the first windows that have so many rows together."""
    for window in windows:
        yield window
        n_rows -= window.n_rows
        if n_rows <= 0:
            return


def _mixed_up(windows, n_rows, seed):
    """Yield windows in random order: each time one of a pool, whose place the next one takes."""
    generator, pool, n_held = _generator(seed), [], 0
    for window in windows:
        if n_held < n_rows:
            pool.append(window)
            n_held += window.n_rows
            continue
        place = int(torch.randint(len(pool), (), generator=generator, device="cpu"))
        yield pool[place]
        pool[place] = window
    for i in torch.randperm(len(pool), generator=generator, device="cpu").tolist():
        yield pool[i]


def _check_finite(x, portion):
    finite = torch.isfinite(x).all(dim=1)
    if not finite.all():
        bounds = np.cumsum([window.n_rows for window in portion])
        window = portion[int(np.searchsorted(bounds, int(finite.int().argmin()), side="right"))]
        raise ValueError(
            f"The activations of texts[{window.document}] are not finite. Leave the text out, or "
            "run the model in another dtype."
        )
