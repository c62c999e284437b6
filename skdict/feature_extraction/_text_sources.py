"""Documents from wherever texts are: lists, tables, files, iterables, one after the other."""

import json
import os
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import torch
import xxhash

from .._core.data.reading import release_pages, row_slices
from .._core.language.identity import add_to_digest, sampled
from .._core.optional import optional
from .._core.storage.shards import as_bytes
from .._core.tensors import from_numpy
from ..utils._arrays import to_ndarray

# Rows of a table or of a parquet file that are read together.
ROWS_AT_ONCE = 1024
# Activations that are digested at once.
DIGESTED_ENTRIES = 1 << 22
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".txt", ".txt.gz")


@dataclass
class Document:
    """One document; what it is made of decides which of the fields it has.

    Parameters
    ----------
    number : int
        Place in the source.
    text : str or None
    token_ids : ndarray of shape (n_tokens,), int64, or None
    rows : array of shape (n_rows, width), dict of them, or None
        Activations that are known.
    columns : dict of str to ndarray of shape (n_rows,)
        Of `rows`: what token each belongs to.
    id : int or None
        What its owner calls it.
    """

    number: int
    text: str | None = None
    token_ids: np.ndarray | None = None
    rows: object = None
    columns: dict | None = None
    id: int | None = None


def text_source(texts, text_column="text"):
    """The source of texts of any kind.

    Parameters
    ----------
    texts : object
        As of `ActivationExtractor.to_store`.
    text_column : str

    Returns
    -------
    source : object
        With ``documents(start, step)``, which yields `Document`; ``first``, its first document;
        and ``identity``, a dict that JSON can hold, which tells it from others.
    """
    if isinstance(texts, bytes) or texts is None:
        raise TypeError(f"texts must be texts or paths, but it is a {type(texts).__name__}.")
    if _is_paths(texts):
        return Files(texts, text_column)
    is_table = hasattr(texts, "column_names") and hasattr(texts, "__getitem__")
    if is_table and hasattr(texts, "__len__"):
        return Table(texts, text_column)
    if hasattr(texts, "to_list"):  # Series of pandas and polars
        texts = texts.to_list()
    if isinstance(texts, list | tuple | np.ndarray):
        return Sequence(texts, text_column)
    is_unordered = isinstance(texts, Mapping | Set) or hasattr(texts, "columns")  # a DataFrame
    if not isinstance(texts, Iterable) or is_unordered:
        advice = " Take one column, or a list of what is in it." if is_unordered else ""
        raise TypeError(
            "texts must be an iterable of texts, or paths of files, but it is a "
            f"{type(texts).__name__}.{advice}"
        )
    return Stream(texts, text_column)


def _is_paths(texts):
    if isinstance(texts, str | os.PathLike):
        return True
    is_sequence = isinstance(texts, list | tuple) and len(texts) > 0
    return is_sequence and all(
        isinstance(each, os.PathLike)
        or (isinstance(each, str) and each.endswith(SUFFIXES) and "\n" not in each)
        for each in texts
    )


class Source:
    """What sources have in common: the first document, and items as documents.

    Parameters
    ----------
    text_column : str
    """

    can_be_read_again = True

    def __init__(self, text_column):
        if not isinstance(text_column, str):
            raise TypeError(f"text_column must be a str, but is {text_column!r:.60}.")
        self.text_column = text_column

    @property
    def first(self):
        """The first document."""
        for document in self.documents(0, 1):
            return document
        raise _empty()

    def documents(self, start, step):
        """Yield the documents number ``start``, ``start + step``, and so on."""
        items = self.items(start, step)
        for number, item in enumerate(items):
            yield self._document(start + number * step, item)

    def alike(self, start, step):
        """The same; raises a ValueError where one is of another kind than the first."""
        expected = _kind(self.first)
        for document in self.documents(start, step):
            kind = _kind(document)
            if kind != expected:
                raise ValueError(
                    f"texts[{document.number}] must be {expected}, as the first is, but it is "
                    f"{kind}. Give all in the same way."
                )
            yield document

    def _document(self, number, item):
        where = f"texts[{number}]"
        if isinstance(item, Mapping):
            if self.text_column not in item:
                raise ValueError(
                    f"{where} has no column {self.text_column!r}: it has "
                    f"{', '.join(map(str, item))}. Name it in text_column."
                )
            item = item[self.text_column]
        if isinstance(item, str):
            return Document(number, _valid(item, where))
        if isinstance(item, tuple) and len(item) == 2:
            return _of_pair(number, item, where)
        ids = _as_ids(item)
        if ids is None:
            raise TypeError(
                f"{where} must be a str, a pair (id, str), token ids, or a pair (activations, "
                f"tokens), but it is {item!r:.50} of type {type(item).__name__}. Leave it out or "
                "fill it."
            )
        return Document(number, token_ids=ids)


def _kind(document):
    if document.rows is not None:
        return "(activations, tokens)"
    if document.text is None:
        return "token ids"
    return "a str" if document.id is None else "(id, str)"


def _of_pair(number, item, where):
    name, value = item
    if isinstance(value, str):
        if not isinstance(name, int | np.integer) or isinstance(name, bool):
            raise TypeError(
                f"{where} has the id {name!r:.50}, but ids must be integers: they become a "
                "column of the store. Give texts alone, whose column 'document' counts them, and "
                "keep your names in a list."
            )
        return Document(number, _valid(value, where), id=int(name))
    parts = name.values() if isinstance(name, Mapping) else [name]
    if not all(len(getattr(part, "shape", ())) == 2 for part in parts):
        raise TypeError(
            f"{where} must be (id, str) or (activations, tokens), with activations of shape "
            f"(n, width), but it has a {type(name).__name__} and a {type(value).__name__}."
        )
    if not isinstance(value, Mapping):
        value = {"token_id": value}
    columns = {column: np.asarray(to_ndarray(values)) for column, values in value.items()}
    rows = dict(name) if isinstance(name, Mapping) else name
    return Document(number, rows=rows, columns=columns)


def _as_ids(item):
    """Token ids as an array of int64; None if an item is nothing like it."""
    if isinstance(item, torch.Tensor | np.ndarray | list):
        ids = np.asarray(to_ndarray(item))
        if ids.ndim == 1 and (ids.dtype.kind in "iu" or len(ids) == 0):
            return ids.astype(np.int64)
    return None


def _valid(text, where):
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} is not valid Unicode: {error}. Read it with errors='replace'."
        ) from None
    return text


def _empty():
    return ValueError("texts is empty: found 0 texts, at least 1 is required.")


class Sequence(Source):
    """Documents in memory."""

    def __init__(self, texts, text_column):
        super().__init__(text_column)
        if len(texts) == 0:
            raise _empty()
        self._texts = texts
        digest = xxhash.xxh3_128()
        for document in self.documents(0, 1):
            _digest(digest, document)
        self.identity = {"n_texts": len(texts), "xxh3": digest.hexdigest()}

    def items(self, start, step):
        return iter(self._texts[start::step])


class Table(Source):
    """A `Dataset` of Hugging Face, or what is like it: rows by slices, as dicts of columns."""

    def __init__(self, table, text_column):
        super().__init__(text_column)
        if text_column not in table.column_names:
            raise ValueError(
                f"texts has no column {text_column!r}: it has {', '.join(table.column_names)}. "
                "Name it in text_column."
            )
        if len(table) == 0:
            raise _empty()
        self._table = table
        digest = xxhash.xxh3_128()
        for number in sampled(len(table)):
            _digest(digest, next(self.documents(number, 1)))
        self.identity = {"n_texts": len(table), "xxh3_of_some": digest.hexdigest()}

    def items(self, start, step):
        for first in range(start, len(self._table), ROWS_AT_ONCE):
            stop = min(first + ROWS_AT_ONCE, len(self._table))
            yield from self._table[first:stop][self.text_column][(start - first) % step :: step]


class Stream(Source):
    """Any iterable. One that is its own iterator, such as a generator, can be read once."""

    def __init__(self, texts, text_column):
        super().__init__(text_column)
        self._texts = texts
        items = iter(texts)
        self.can_be_read_again = items is not texts
        try:
            item = next(items)
        except StopIteration:
            raise _empty() from None
        self._ahead = None if self.can_be_read_again else chain([item], items)
        self._first = self._document(0, item)
        digest = xxhash.xxh3_128()
        _digest(digest, self._first)
        self.identity = {"xxh3_of_first": digest.hexdigest()}

    @property
    def first(self):
        return self._first

    def items(self, start, step):
        if self.can_be_read_again:
            return islice(iter(self._texts), start, None, step)
        if self._ahead is None:
            raise ValueError(
                f"texts is a {type(self._texts).__name__}, which can be read only once. Give a "
                "list, files, or an object whose __iter__ begins anew."
            )
        items, self._ahead = self._ahead, None
        return islice(items, start, None, step)


class Files(Source):
    """Files of texts, in the order of their names; here, or where fsspec finds them."""

    def __init__(self, paths, text_column):
        super().__init__(text_column)
        paths = [paths] if isinstance(paths, str | os.PathLike) else paths
        self._files = list(chain.from_iterable(map(_files_of, map(os.fspath, paths))))
        digest = xxhash.xxh3_128()
        for file in self._files:
            digest.update(repr((os.path.basename(file.path), file.n_bytes)).encode())
        self.identity = {"n_files": len(self._files), "xxh3_of_names": digest.hexdigest()}

    def items(self, start, step):
        skip = start
        for file in self._files:
            n_rows = file.n_rows
            if n_rows is not None and n_rows <= skip:
                skip -= n_rows
                continue
            n_read = 0
            for text in islice(file.texts(skip, self.text_column), 0, None, step):
                yield text
                n_read += 1
            if n_rows is None:
                n_rows = file.n_rows  # counted by reading to the end
            # place of the next document in the next file
            skip = skip + n_read * step - n_rows


@dataclass
class _File:
    """A file with texts; ``n_rows`` is None until it is known."""

    fs: object
    path: str
    n_bytes: int
    n_rows: int | None = None

    def __post_init__(self):
        if self.path.endswith(".parquet"):
            self.n_rows = _scan(self).select(_polars().len()).collect().item()

    def texts(self, start, text_column):
        """Yield the texts from one of them on."""
        if self.path.endswith(".parquet"):
            yield from self._of_parquet(start, text_column)
            return
        number = -1
        compression = "gzip" if self.path.endswith(".gz") else None
        with self.fs.open(self.path, "rt", encoding="utf-8", compression=compression) as lines:
            for number, line in self._numbered(lines):
                if number >= start:
                    yield self._of_line(line.rstrip("\r\n"), number, text_column)
        self.n_rows = number + 1

    def _numbered(self, lines):
        try:
            yield from enumerate(lines)
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path} is not in UTF-8: {error}. Convert it.") from None

    def _of_line(self, line, number, text_column):
        if ".jsonl" not in self.path[-9:]:
            return line
        where = f"{self.path}, line {number + 1}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is no JSON: {error}. Repair or remove it.") from None
        text = record.get(text_column) if isinstance(record, dict) else None
        return _checked(text, where, text_column)

    def _of_parquet(self, start, text_column):
        names = _scan(self).collect_schema().names()
        if text_column not in names:
            raise ValueError(
                f"{self.path} has no column {text_column!r}: it has {', '.join(names)}. Name it "
                "in text_column."
            )
        for first in range(start, self.n_rows, ROWS_AT_ONCE):
            part = _scan(self).select(text_column).slice(first, ROWS_AT_ONCE).collect()
            for number, text in enumerate(part[text_column].to_list(), first):
                yield _checked(text, f"{self.path}, row {number}", text_column)


def _checked(text, where, text_column):
    if not isinstance(text, str):
        raise ValueError(
            f"{where}: {text_column!r} must be text, but it is {text!r:.50}. Repair it, or name "
            "another column in text_column."
        )
    return text


def _polars():
    with optional("polars", "Reading parquet files", "skdict[parquet]"):
        import polars
    return polars


def _scan(file):
    from fsspec.implementations.local import LocalFileSystem

    polars = _polars()
    # in a URL polars would read "%41" as "A"
    path = (
        file.path if isinstance(file.fs, LocalFileSystem) else file.fs.unstrip_protocol(file.path)
    )
    try:
        frame = polars.scan_parquet(path, glob=False)
        frame.collect_schema()
    except polars.exceptions.PolarsError as error:
        raise ValueError(f"{file.path} cannot be read as parquet: {error}") from None
    return frame


def _files_of(path):
    """The files that a path stands for: one, those of a folder, or those of a pattern."""
    import fsspec

    fs, root = fsspec.core.url_to_fs(os.path.expanduser(path))
    if fs.isdir(root):
        found = [each for each in fs.find(root) if each.endswith(SUFFIXES)]
    elif fs.isfile(root):
        found = [root]
    else:
        found = [each for each in fs.glob(root) if fs.isfile(each)]
    if not found:
        raise FileNotFoundError(
            f"texts={path!r} is no file, folder or pattern with files of texts "
            f"({', '.join(SUFFIXES)}). If it is a text itself, give [text]."
        )
    for each in found:
        if not each.endswith(SUFFIXES):
            raise ValueError(f"{each} must end in one of {', '.join(SUFFIXES)}.")
    return [_File(fs, each, fs.size(each)) for each in sorted(found)]


def _digest(digest, document):
    """Update a digest with a document."""
    if document.text is not None:
        content = document.text.encode()
    elif document.token_ids is not None:
        content = document.token_ids.tobytes()
    else:
        content = b"".join(values.tobytes() for values in document.columns.values())
    add_to_digest(digest, content, document.id)
    if document.rows is not None:
        layers = document.rows if isinstance(document.rows, dict) else {"": document.rows}
        for name in sorted(layers, key=str):
            _digest_rows(digest, name, layers[name])


def _digest_rows(digest, name, rows):
    """Update a digest with all activations of a layer: a twentieth of what writing them takes."""
    digest.update(f"{name} {tuple(rows.shape)} {rows.dtype} ".encode())
    for block in row_slices(len(rows), max(1, DIGESTED_ENTRIES // max(1, rows.shape[1]))):
        part = rows[block]
        if not isinstance(part, torch.Tensor):
            part = from_numpy(np.asarray(part))
        digest.update(as_bytes(part.detach().cpu().contiguous()))
        release_pages(rows)
