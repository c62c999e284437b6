"""Write a store, or go on writing one."""

import json
import os
import re
from contextlib import suppress

import numpy as np
import torch
from filelock import FileLock, Timeout

from ..making_folders import make_folder
from ..parameters import python_number
from ..tensors import from_numpy
from .folders import open_folder
from .layout import DTYPES, MAX_SHARD, SHARD_BYTES, block_rows_of, shard_name
from .passing import PassedOver
from .records import (
    MAX_ROWS,
    MAX_WIDTH,
    MAX_WRITERS,
    Commit,
    LayerRecord,
    Settings,
    check_columns,
    check_layer_names,
    committed_numbers,
    dumped,
    read_commit,
    read_settings,
)
from .shards import ShardWriter


def settings_of(layers, *, dtype, tokens, shard_rows, block_rows, n_writers, identity):
    """The settings of a new store, with what was left open filled in; parameters are checked.

    Parameters
    ----------
    layers : dict of str to int
    dtype : str
    tokens : sequence of str
    shard_rows, block_rows : int or None
    n_writers : int
    identity : dict or None

    Returns
    -------
    settings : Settings
    """
    if not isinstance(layers, dict):
        raise TypeError(f"layers must be a dict of names to widths, not {layers!r:.60}.")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r:.60}.")
    for name, width in layers.items():
        if not isinstance(name, str):
            raise TypeError(f"layers must have names of type str, not {name!r:.60}.")
        _check_count(width, f"the width of layer {name!r}", MAX_WIDTH)
    check_layer_names(layers, "layers")
    if isinstance(tokens, str):  # else its characters would be columns
        raise TypeError(f"tokens must be a list of names, as [{tokens!r:.60}], not a str.")
    tokens = tuple(tokens)
    check_columns(tokens, "tokens")
    # "document" first: runs of it are looked for in the first column
    tokens = tuple(sorted(tokens, key=lambda name: name != "document"))
    itemsize = DTYPES[dtype].itemsize
    if shard_rows is None:
        shard_rows = max(1, SHARD_BYTES // (max(layers.values()) * itemsize))
    else:
        _check_count(shard_rows, "shard_rows", MAX_ROWS)
    if block_rows is not None:
        _check_count(block_rows, "block_rows", MAX_ROWS)
    _check_count(n_writers, "n of shard=(i, n)", MAX_WRITERS)
    if not isinstance(identity, dict | None):
        raise TypeError(f"identity must be a dict, but it is a {type(identity).__name__}.")
    of_layers = {
        name: (int(width), int(block_rows or block_rows_of(width, DTYPES[dtype])))
        for name, width in layers.items()
    }
    token_block_rows = block_rows or block_rows_of(max(1, len(tokens)), torch.int64)
    return Settings(
        dtype,
        of_layers,
        tokens,
        int(token_block_rows),
        int(shard_rows),
        int(n_writers),
        json.loads(_as_json(identity or {}, "identity")),
    )


class StoreWriter:
    """Appends rows to a store, those of all layers and of the tokens together.

    It goes on where an earlier writer with the same numbers of shards was stopped or killed:
    `cursor` says where the source has to go on, and rows that come after it and are in the store
    are compared with these and passed over.

    Parameters
    ----------
    path : str or path-like
    settings : Settings
        Where there is a store, it has to have the same.
    writer : int, default=0
        Which of ``settings.n_writers`` this is.

    Attributes
    ----------
    is_computed : bool
        Whether activations follow from the identity of the store and the tokens, but for rounding
        that differs between machines. Then of rows that are passed over the tokens alone are
        compared. False by default.
    cursor : object
        What `append` was told last of rows that are in the store; None at the start.
    n_rows : int
        Rows that this writer and its predecessors have committed.
    shard : tuple of (int, int)
        (i, n): this is writer i of n.
    """

    def __init__(self, path, settings, writer=0):
        writer, n_writers = python_number(writer), settings.n_writers
        if type(writer) is not int or not 0 <= writer < n_writers:
            raise ValueError(
                f"shard must be (i, n) with i from 0 to n - 1, not ({writer!r:.60}, {n_writers})."
            )
        self.folder, self.settings, self._writer = open_folder(path), settings, writer
        self.is_computed = False
        self.shard = writer, n_writers
        self._lock = None if self.folder.is_remote else _locked(self.folder.path, writer)
        try:
            self.folder.create("store.json", dumped(settings.record()), writer)
            _check_same(settings, read_settings(self.folder), self.folder.where("store.json"))
            self._resume()
        except BaseException:
            self._unlock()
            raise
        self._files, self._pending = None, None

    def _resume(self):
        step = self.settings.n_writers
        own = [n for n in committed_numbers(self.folder) if n % step == self._writer]
        self._number = own[-1] + step if own else self._writer
        for number, expected in zip(own, range(self._writer, self._number, step), strict=False):
            if number != expected:
                raise ValueError(
                    f"{self.folder.path}: shard {number} of this writer has a commit, but shard "
                    f"{expected} before it has none. Restore it, or remove the later commits of "
                    "the writer: it goes on from the one before."
                )
        self.cursor, self._skip, self.n_rows = None, 0, 0
        if own:
            commits = [read_commit(self.folder, self.settings, n) for n in own]
            self.cursor, self._skip = commits[-1].cursor, commits[-1].skip
            self.n_rows = sum(commit.rows for commit in commits)
            if self._skip > self.n_rows:
                where = self.folder.where(f"commits/{shard_name(own[-1], 'json')}")
                raise ValueError(
                    f"{where} says that {self._skip} rows follow its cursor, but its writer has "
                    f"{self.n_rows}. Restore it from a copy."
                )
            self._passed_over = PassedOver(self.folder, self._matrices(), commits)
        self._past_cursor = self._skip
        self._remove_unfinished()

    def _remove_unfinished(self):
        """Temporary files that a killed writer has left of the shards that are this one's."""
        folders = [matrix.folder for matrix in self._matrices().values()]
        for folder, ending in [*((f, "safetensors") for f in folders), ("commits", "json")]:
            for name in self.folder.names(folder):
                number = name.removeprefix(".tmp-").removesuffix(f".{ending}")
                is_one = name == f".tmp-{number}.{ending}" and re.fullmatch("[0-9]{8}", number)
                if is_one and int(number) % self.settings.n_writers == self._writer:
                    self.folder.remove(f"{folder}/{name}")

    def _matrices(self):
        """{layer, or None for tokens: Matrix}."""
        matrices = {layer: self.settings.matrix(layer) for layer in self.settings.layers}
        if self.settings.tokens:
            matrices[None] = self.settings.token_matrix
        return matrices

    def append(self, activations, tokens=None, cursor=None):
        """Add rows, the same of all layers.

        Parameters
        ----------
        activations : dict of str to array-like of shape (n, width), or array-like
            An array or a tensor on any device, of each layer; of the only one without a dict.
        tokens : dict of str to array-like of int of shape (n,), default=None
            The columns that the store was created with.
        cursor : object, default=None
            Where the source is after these rows, as JSON can hold it. If None, the cursor before
            stays.
        """
        if self._files is _CLOSED:
            raise ValueError("append after close: create the writer again, and it goes on.")
        parts = self._checked_activations(activations)
        n_rows = len(next(iter(parts.values())))
        if self.settings.tokens or tokens:
            parts[None] = self._checked_tokens(tokens, n_rows)
        if cursor is not None:
            _as_json(cursor, "cursor")
        try:
            self._append(parts, n_rows, cursor)
        except BaseException:  # a full disk: layers may have different rows now
            self.abort()
            raise

    def _append(self, parts, n_rows, cursor):
        start = min(self._skip, n_rows)  # rows that are in the store already
        if start:
            compared = {None} if self.is_computed else set(parts)
            passed = {name: part for name, part in parts.items() if name in compared}
            self._passed_over.check(passed, start, self.n_rows - self._skip)
        self._skip -= start
        while start < n_rows:
            if self._files is None:
                self._open_shard()
            stop = min(start + self.settings.shard_rows - self._rows, n_rows)
            for name, file in self._files.items():
                file.append(parts[name][start:stop])
            self._rows += stop - start
            self._past_cursor += stop - start
            start = stop
            if start == n_rows and cursor is not None:
                self._move(cursor)
            if self._rows == self.settings.shard_rows:
                self._commit()
        if cursor is not None:
            self._move(cursor)

    def _move(self, cursor):
        self.cursor, self._past_cursor = cursor, self._skip  # of these the store has those already

    def _open_shard(self):
        if self._number > MAX_SHARD:
            raise ValueError(
                f"A store has at most {MAX_SHARD + 1} shards. Use a larger shard_rows."
            )
        self._rows, self._files = 0, {}
        for name, matrix in self._matrices().items():
            self._files[name] = ShardWriter(self.folder, matrix, self._number)

    def _commit(self):
        layers, tokens = {}, None
        for name, file in self._files.items():
            layout, tail_xxh3, summary = file.finish()
            if name is None:
                tokens = tail_xxh3, layout.n_runs
                continue
            of_all, others, n_not_finite = summary
            layers[name] = LayerRecord(
                tail_xxh3,
                of_all.n_samples,
                of_all.squares,
                others.n_samples,
                others.squares,
                of_all.largest,
                others.largest,
                n_not_finite,
            )
        commit = Commit(self._number, self._rows, layers, tokens, self.cursor, self._past_cursor)
        name = f"commits/{shard_name(self._number, 'json')}"
        self.folder.write(name, dumped(commit.record()))
        self.n_rows += self._rows
        self._number += self.settings.n_writers
        self._files = None

    def close(self):
        """Commit the rows that are left, as a shard that may be shorter than others."""
        try:
            if self._files and self._files is not _CLOSED:
                self._commit()
        finally:
            self.abort()

    def abort(self):
        """Leave out the rows that are not committed, and write no more."""
        for file in (self._files or {}).values():
            file.abort()
        self.folder.remove_spool()
        self._files = _CLOSED
        self._unlock()

    def _unlock(self):
        if self._lock is not None:
            self._lock.release()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self.abort()

    def _checked_activations(self, activations):
        layers = self.settings.layers
        if not isinstance(activations, dict):
            if len(layers) > 1:
                raise TypeError(
                    f"activations must be a dict with the layers {', '.join(layers)}, but it is "
                    f"a {type(activations).__name__}."
                )
            activations = dict.fromkeys(layers, activations)
        if set(activations) != set(layers):
            raise ValueError(
                f"activations must have the layers {', '.join(layers)}, but has "
                f"{', '.join(map(str, activations))}."
            )
        checked = {}
        for name, (width, _) in layers.items():
            what = f"activations[{name!r}]"
            x = _as_tensor(activations[name], what)
            n_rows = len(next(iter(checked.values()), x))
            if x.dim() != 2 or x.shape[1] != width or len(x) != n_rows:
                raise ValueError(
                    f"{what} must have shape ({'n' if not checked else n_rows}, {width}), but has "
                    f"{tuple(x.shape)}."
                )
            checked[name] = _converted(x, DTYPES[self.settings.dtype], what)
        return checked

    def _checked_tokens(self, tokens, n_rows):
        columns = self.settings.tokens
        found = tuple(tokens or {})
        if set(found) != set(columns):
            raise ValueError(
                f"tokens must have the columns that the store was created with, "
                f"{', '.join(columns) or 'none'}, but has {', '.join(map(str, found)) or 'none'}."
            )
        matrix = np.empty((n_rows, len(columns)), np.int64)
        for i, name in enumerate(columns):
            column = np.asarray(tokens[name])
            if column.shape != (n_rows,) or (n_rows and column.dtype.kind not in "biu"):
                raise ValueError(
                    f"tokens[{name!r}] must be {n_rows} integers, as there are rows, but has "
                    f"shape {column.shape} and dtype {column.dtype}."
                )
            matrix[:, i] = column
        return torch.from_numpy(matrix)


_CLOSED = {}  # the files of a writer that writes no more


def _as_tensor(x, what):
    if not isinstance(x, torch.Tensor):
        x = from_numpy(np.asarray(x))
    if not x.is_floating_point():
        raise ValueError(f"{what} must be of floating point, but is of {x.dtype}.")
    return x.detach()


def _converted(x, dtype, what):
    """In the dtype of the store, contiguous and on the CPU."""
    y = x.to(device="cpu", dtype=dtype).contiguous()
    if x.dtype != dtype and bool(torch.isinf(y).any()):
        too_large = x[torch.isinf(y).to(x.device) & x.isfinite()]
        if len(too_large):
            raise ValueError(
                f"{what} has a value of {float(too_large.abs().max()):.3g}, which {dtype} cannot "
                "hold. Create the store with dtype='bfloat16' or 'float32'."
            )
    return y


def _as_json(value, name):
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be what JSON can hold: {error}.") from None


def _check_count(value, name, most):
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or not 1 <= value <= most:
        raise ValueError(f"{name} must be an integer from 1 to {most}, not {value!r:.60}.")


def _parameters(settings):
    """What a store is created with, but for its identity, by the names of the parameters."""
    return {
        "dtype": settings.dtype,
        "layers": {name: width for name, (width, _) in settings.layers.items()},
        "tokens": list(settings.tokens),
        "shard_rows": settings.shard_rows,
        "block_rows": {name: rows for name, (_, rows) in settings.layers.items()},
        "block_rows of tokens": settings.token_block_rows,
        "n of shard=(i, n)": settings.n_writers,
    }


def _check_same(settings, found, where):
    """Refuse to append to a store that was written with other settings."""
    theirs = _parameters(found)
    for name, value in _parameters(settings).items():
        if theirs[name] != value:
            raise ValueError(
                f"{where} has {name} {theirs[name]!r:.200}, not {value!r:.200}. Give the same, "
                "or another path."
            )
    for key in sorted({*settings.identity, *found.identity}):
        mine, other = settings.identity.get(key), found.identity.get(key)
        if mine != other:
            raise ValueError(
                f"{where} holds activations of another {key}: {other!r:.200}, not {mine!r:.200}. "
                "Give another path, or remove that folder."
            )


def _locked(path, writer):
    """The lock of one of the writers of a store, which its process holds as long as it lives."""
    make_folder(path, "path")
    # a writer may be closed in another thread than it was made in
    lock = FileLock(os.path.join(path, f".writer-{writer:08d}.lock"), thread_local=False)
    with suppress(OSError, NotImplementedError):  # a file system without locks
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"Another process writes to {path} as the same writer, number {writer}. Wait for "
                "it, or give each its own i in shard=(i, n)."
            ) from None
    return lock
