"""What is in store.json, in a commit and in index.json: written with a checksum, and checked.

Each is one line of JSON that ends in the xxh3 of the rest, in the only way that we write it. So
any change of a file is noticed. All the same each field is checked: a file with the right checksum
may be hostile.
"""

import json
import re
from dataclasses import dataclass, field

import torch
import xxhash

from ..fields import Fields, short
from .layout import (
    DTYPES,
    MAX_FILE_NAME,
    MAX_SHARD,
    VERSION,
    Matrix,
    ShardLayout,
    folder_of,
    shard_name,
)

FORMAT = "skdict activation store"
MAX_RECORD = 1 << 24  # bytes of store.json or a commit
MAX_INDEX = 1 << 29
MAX_WIDTH = 1 << 24
MAX_ROWS = 1 << 40
MAX_WRITERS = 1 << 20


def dumped(record):
    """The content of a file with a record: JSON and its checksum, bytes."""
    text = _canonical(record)
    checksum = xxhash.xxh3_64_hexdigest(text.encode())
    return f'{text[:-1]},"xxh3":"{checksum}"}}\n'.encode()


def parsed(content, where):
    """The record of a file, whose checksum is right, and the checksum.

    Parameters
    ----------
    content : bytes
    where : str
        The file, in errors.

    Returns
    -------
    record : dict
    checksum : str
    """
    try:
        record = json.loads(content.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON: {error}. {_RESTORE}") from None
    if not isinstance(record, dict) or len(record) < 2:
        raise ValueError(f"{where} must hold an object, not {short(record)}. {_RESTORE}")
    checksum = record.pop("xxh3", None)
    if not isinstance(checksum, str):
        raise ValueError(f"{where} has no checksum 'xxh3'. {_RESTORE}")
    try:
        is_same = dumped(record) == content
    except (ValueError, RecursionError):  # NaN
        is_same = False
    if not is_same:
        raise ValueError(
            f"{where} does not agree with its checksum 'xxh3': it was changed. {_RESTORE}"
        )
    return record, checksum


_RESTORE = "Restore it from a copy, or write the store again."


def _canonical(record):
    return json.dumps(record, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Settings:
    """What all shards of a store have in common.

    Parameters
    ----------
    dtype : str
        Of the activations: a key of `DTYPES`.
    layers : dict of str to (int, int)
        Width and rows of a block of each layer.
    tokens : tuple of str
        Names of the columns of the alignment.
    token_block_rows : int
    shard_rows : int
        Of all shards but the last of a writer.
    n_writers : int
        Writer i has the shards i, i + n_writers, and so on.
    identity : dict
        Where the activations come from, as JSON can hold it.
    """

    dtype: str
    layers: dict
    tokens: tuple
    token_block_rows: int
    shard_rows: int
    n_writers: int
    identity: dict = field(default_factory=dict)

    def matrix(self, layer):
        """What the files of a layer hold."""
        width, block_rows = self.layers[layer]
        dtype = DTYPES[self.dtype]
        place = folder_of(layer), "activations", width, dtype, block_rows, f"layer {layer}"
        return Matrix(*place, has_statistics=True)

    @property
    def token_matrix(self):
        """What the files of the tokens hold; None if there are none."""
        if not self.tokens:
            return None
        title = "tokens: " + ", ".join(self.tokens)
        place = "tokens", "tokens", len(self.tokens), torch.int64, self.token_block_rows, title
        return Matrix(*place, has_documents="document" in self.tokens)

    def record(self):
        """As it is written to store.json."""
        layers = {
            name: {"width": width, "block_rows": rows}
            for name, (width, rows) in self.layers.items()
        }
        return {
            "format": FORMAT,
            "version": VERSION,
            "dtype": self.dtype,
            "layers": layers,
            "tokens": {"columns": list(self.tokens), "block_rows": self.token_block_rows},
            "shard_rows": self.shard_rows,
            "n_writers": self.n_writers,
            "identity": self.identity,
        }


def read_settings(folder):
    """The settings of a store, from store.json."""
    where = folder.where("store.json")
    record, _ = parsed(folder.read("store.json", MAX_RECORD), where)
    fields = Fields(record, where, _RESTORE)
    fields.text("format", re.escape(FORMAT))
    version = fields.integer("version", 1, 2**31)
    if version > VERSION:
        raise ValueError(
            f"{where}: 'version' is {version}, later than {VERSION}. Use a later skdict."
        )
    settings = Settings(
        dtype=fields.text("dtype", "|".join(DTYPES)),
        layers=_layers(fields.inner("layers")),
        tokens=_columns(fields.inner("tokens")),
        token_block_rows=fields.inner("tokens").integer("block_rows", 1, MAX_ROWS),
        shard_rows=fields.integer("shard_rows", 1, MAX_ROWS),
        n_writers=fields.integer("n_writers", 1, MAX_WRITERS),
        identity=fields.inner("identity").value,
    )
    fields.only(*settings.record())
    return settings


def _layers(fields):
    layers = {}
    for name in fields.value:
        layer = fields.inner(name)
        layer.only("width", "block_rows")
        block_rows = layer.integer("block_rows", 1, MAX_ROWS)
        layers[name] = layer.integer("width", 1, MAX_WIDTH), block_rows
    check_layer_names(layers, fields.where)
    return layers


def check_layer_names(names, where):
    """Refuse names of layers that cannot be those of folders."""
    folders = {}
    for name in names:
        try:
            folder = folder_of(name)
        except UnicodeEncodeError as error:
            raise ValueError(f"{where} has a layer {name!r:.60}: {error}.") from None
        if not name or len(folder) > MAX_FILE_NAME:
            raise ValueError(
                f"{where} has a layer {name!r:.60}, whose name must have from 1 to "
                f"{MAX_FILE_NAME} characters. Give it a shorter one."
            )
        other = folders.setdefault(folder.casefold(), name)
        if other != name:
            raise ValueError(
                f"{where} has layers {other!r} and {name!r}, whose names differ in upper and "
                "lower case only: some file systems have one folder for both. Rename one."
            )
    if not folders:
        raise ValueError(f"{where} has no layer. Give at least one, with its width.")


def _columns(fields):
    fields.only("columns", "block_rows")
    columns = fields.take("columns")
    if not isinstance(columns, list):
        raise ValueError(f"{fields.where}: 'columns' must be a list, not {short(columns)}.")
    check_columns(columns, f"{fields.where}: 'columns'")
    return tuple(columns)


def check_columns(columns, where):
    """Refuse names of columns of tokens that are not plain words, or come twice."""
    for column in columns:
        if not isinstance(column, str) or not re.fullmatch(r"[a-z_][a-z0-9_]{0,63}", column):
            raise ValueError(
                f"{where} must be words in lower case, as 'document', not {column!r:.60}."
            )
    if len(set(columns)) < len(columns) or len(columns) > 32:
        raise ValueError(f"{where} must be at most 32 different words, not {columns!r:.60}.")


@dataclass(frozen=True)
class LayerRecord:
    """What a commit says of a layer: see `moments.LayerMoments`."""

    tail_xxh3: str
    n_samples: int
    squares: float
    n_others: int
    squares_others: float
    largest: float
    largest_others: float
    n_not_finite: int


@dataclass(frozen=True)
class Commit:
    """A shard that is there, with everything of it that is not in its files.

    Parameters
    ----------
    number, rows : int
    layers : dict of str to LayerRecord
    tokens : (str, int) or None
        Checksum of the tail, and the number of runs of documents.
    cursor : object
        What the writer was told last, as JSON can hold it.
    skip : int
        How many of the rows that come after the cursor are in this shard and those before.
    checksum : str
        Of the commit itself.
    """

    number: int
    rows: int
    layers: dict
    tokens: tuple | None
    cursor: object = None
    skip: int = 0
    checksum: str = ""

    def record(self):
        """As it is written to its file."""
        tokens = None
        if self.tokens is not None:
            tokens = {"tail_xxh3": self.tokens[0], "n_runs": self.tokens[1]}
        return {
            "shard": self.number,
            "rows": self.rows,
            "layers": {name: vars(layer) for name, layer in self.layers.items()},
            "tokens": tokens,
            "cursor": self.cursor,
            "skip": self.skip,
        }

    def layout(self, matrix):
        """Where everything is in one of its files."""
        n_runs = self.tokens[1] if matrix.has_documents else 0
        return ShardLayout(matrix, self.number, self.rows, n_runs)

    def tail_xxh3(self, layer):
        """Checksum of the tail of the file of a layer, or of the tokens if it is None."""
        return self.tokens[0] if layer is None else self.layers[layer].tail_xxh3


def commit_of(record, checksum, where, settings, number):
    """The `Commit` of a record, all of whose fields are checked."""
    fields = Fields(record, where, _RESTORE)
    fields.only("shard", "rows", "layers", "tokens", "cursor", "skip")
    fields.integer("shard", number, number)
    rows = fields.integer("rows", 1, settings.shard_rows)
    layers = fields.inner("layers")
    layers.only(*settings.layers)
    of_layers = {name: _layer_record(layers.inner(name), rows) for name in settings.layers}
    tokens = None
    if settings.tokens:
        of_tokens = fields.inner("tokens")
        of_tokens.only("tail_xxh3", "n_runs")
        least = 1 if settings.token_matrix.has_documents else 0
        n_runs = of_tokens.integer("n_runs", least, rows * least)
        tokens = of_tokens.text("tail_xxh3", _XXH3), n_runs
    elif fields.take("tokens") is not None:
        raise ValueError(f"{where} has 'tokens', but store.json has none. {_RESTORE}")
    skip = fields.integer("skip", 0, MAX_ROWS * MAX_SHARD)
    return Commit(number, rows, of_layers, tokens, fields.take("cursor"), skip, checksum)


_XXH3 = r"[0-9a-f]{16}"


def _is_checksum(value):
    return isinstance(value, str) and re.fullmatch(_XXH3, value) is not None


def _layer_record(fields, rows):
    fields.only(*LayerRecord.__dataclass_fields__)
    n_samples = fields.integer("n_samples", 0, rows)
    return LayerRecord(
        tail_xxh3=fields.text("tail_xxh3", _XXH3),
        n_samples=n_samples,
        squares=fields.number("squares"),
        n_others=fields.integer("n_others", 0, n_samples),
        squares_others=fields.number("squares_others"),
        largest=fields.number("largest"),
        largest_others=fields.number("largest_others"),
        n_not_finite=fields.integer("n_not_finite", rows - n_samples, rows - n_samples),
    )


def read_commit(folder, settings, number):
    """The commit of a shard."""
    name = f"commits/{shard_name(number, 'json')}"
    where = folder.where(name)
    record, checksum = parsed(folder.read(name, MAX_RECORD), where)
    return commit_of(record, checksum, where, settings, number)


def committed_numbers(folder):
    """Numbers of the shards that have a commit, sorted."""
    names = (re.fullmatch(r"(\d{8})\.json", name, re.ASCII) for name in folder.names("commits"))
    return [int(name[1]) for name in names if name]


def read_commits(folder, settings):
    """All commits, by number; those in index.json are taken from there."""
    indexed = _read_index(folder, settings) if folder.exists("index.json") else {}
    numbers = committed_numbers(folder)
    gone = sorted(set(indexed) - set(numbers))
    if gone:
        raise ValueError(
            f"{folder.where('index.json')} has shard {gone[0]}, which has no commit. If it was "
            "removed on purpose, remove index.json too."
        )
    return [indexed.get(n) or read_commit(folder, settings, n) for n in numbers]


def write_index(folder, commits):
    """Write index.json with all of these commits."""
    shards = {
        shard_name(commit.number, "json"): [commit.record(), commit.checksum] for commit in commits
    }
    content = dumped({"version": VERSION, "commits": shards})
    if len(content) > MAX_INDEX:
        raise ValueError(
            f"index.json would have {len(content)} bytes, more than the {MAX_INDEX} that are "
            "read. Keep to smaller cursors, or use the store without an index."
        )
    folder.write("index.json", content)


def _read_index(folder, settings):
    where = folder.where("index.json")
    record, _ = parsed(folder.read("index.json", MAX_INDEX), where)
    fields = Fields(record, where, _RESTORE)
    fields.only("version", "commits")
    fields.integer("version", 1, VERSION)
    commits, shards = {}, fields.inner("commits")
    for name in shards.value:
        if not re.fullmatch(r"\d{8}\.json", name, re.ASCII):
            raise ValueError(f"{where} has a commit {name!r:.60}: no name of one. {_RESTORE}")
        pair, number = shards.take(name), int(name[:8])
        if not isinstance(pair, list) or len(pair) != 2 or not _is_checksum(pair[1]):
            raise ValueError(f"{where}: {name!r} must be a commit and its checksum. {_RESTORE}")
        place = f"{where}, commit {name!r}"
        commits[number] = commit_of(pair[0], pair[1], place, settings, number)
    return commits
