"""Write the activations of texts to a store, portion by portion."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

import skdict

from .._core.language.reading import columns_of
from ._store import ActivationStore
from ._text_sources import text_source
from ._windows import DocumentReader


def write_store(extractor, texts, path, *, layers, text_column, dtype, shard, **sizes):
    """Write a store, or go on writing one; parameters as of `ActivationExtractor.to_store`.

    Returns
    -------
    store : ActivationStore
    """
    if extractor.pooling is not None:
        raise ValueError(
            f"A store has a row for each token, but pooling={extractor.pooling!r}. Set "
            "pooling=None."
        )
    names = _names(extractor, layers)
    source = text_source(texts, text_column)
    of_rows = source.first.rows is not None
    if of_rows:
        task = Copying(names, source)
    else:
        task = Extraction(DocumentReader(extractor, names), source)
    writer = ActivationStore.create(
        path,
        task.widths,
        dtype=task.dtype if dtype == "auto" else dtype,
        tokens=task.columns,
        identity={**task.identity, "texts": source.identity},
        shard=shard,
        **sizes,
    )
    writer.is_computed = not of_rows
    first, step = writer.shard
    start = [first, 0] if writer.cursor is None else writer.cursor
    with writer, ThreadPoolExecutor(1, thread_name_prefix="skdict-write") as pool:
        pending = None
        for rows, columns, cursor in task.parts(start, step):
            if pending is not None:
                pending.result()
            pending = pool.submit(writer.append, rows, columns, cursor)
        if pending is not None:
            pending.result()
    return ActivationStore(path)


def _names(extractor, layers):
    if layers is None:
        return [extractor.layer]
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"layers must be a list of str, but is {layers!r:.80}.")
    if len(set(names)) < len(names):
        raise ValueError(f"layers has a name twice: {', '.join(names)}.")
    return names


class Extraction:
    """Rows of documents that a model is run on.

    Parameters
    ----------
    reader : DocumentReader
    source : object
        Of `text_source`.
    """

    def __init__(self, reader, source):
        self._reader, self._source = reader, source
        first = source.first
        self.widths, self.identity = reader.reader.widths, reader.identity()
        self.dtype = "bfloat16" if reader.reader.dtype == torch.bfloat16 else "float16"
        self.columns = ["document", "position", "token_id"]
        if first.text is not None:
            self.columns += ["start", "end"]
        if first.id is not None:
            self.columns.append("id")

    def parts(self, start, step):
        """Yield (rows, columns, cursor): rows by layer, and where the source is after them.

        Parameters
        ----------
        start : (int, int)
            Document, and how many of its windows have been read.
        step : int
        """
        document, n_windows = start
        documents = self._source.alike(document, step)
        reader = self._reader.reader
        for portion in reader.portions(self._reader.windows(documents, n_windows)):
            last = portion[-1]
            yield reader.read(portion), columns_of(portion), [last.document, last.index + 1]


class Copying:
    """Rows that are given with their tokens.

    Parameters
    ----------
    names : list of str
        Of the layers.
    source : object
        Of `text_source`.
    """

    dtype = "float16"

    def __init__(self, names, source):
        self._names, self._source = names, source
        first = source.first
        self.widths = {name: rows.shape[1] for name, rows in self._rows(first).items()}
        self.columns = list(self._columns(first))
        self.identity = {"skdict": skdict.__version__, "layers": names}

    def parts(self, start, step):
        """As of `Extraction`."""
        document, _ = start
        for each in self._source.alike(document, step):
            yield self._rows(each), self._columns(each), [each.number + step, 0]

    def _rows(self, document):
        rows = document.rows
        if not isinstance(rows, dict):
            if len(self._names) > 1:
                raise ValueError(
                    f"texts[{document.number}] must have a dict with the activations of the "
                    f"layers {', '.join(self._names)}."
                )
            rows = {self._names[0]: rows}
        if set(rows) != set(self._names):
            raise ValueError(
                f"texts[{document.number}] has activations of {', '.join(map(str, rows))}, but "
                f"layers are {', '.join(self._names)}."
            )
        return rows

    def _columns(self, document):
        n_rows = len(next(iter(self._rows(document).values())))
        numbers = {"document": np.full(n_rows, document.number), "position": np.arange(n_rows)}
        return numbers | document.columns
