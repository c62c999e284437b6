"""FeatureCodes on disk: one file per column, appended to, and one that says how far they go.

    codes.json           what is known, and the length and checksum of every other file
    indptr.i64           ends of the rows' entries, from 0: (n_rows + 1,)
    indices.i32          feature of each entry
    values.f32 or .f64   its code
    counted.u1           whether a row counts
    tokens.NAME.i32      a column of the tokens; that of "token" holds indices into the names.
                         Those that are not of ours are .i64, as they may hold anybody's ids
    texts.utf8           the texts, one after the other; text_ends.i64 says where each ends
    state-N.npz          moments and near misses; names-N.json the tokens' strings

``codes.json`` is replaced last, in one step. So what it says is on disk is there, whenever the
writer was killed, and what is beyond it is cut off when writing goes on.
"""

import json
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils import Bunch

from ..._core.making_folders import make_folder
from ...utils._files import replacing, replacing_folder
from ._moments import Moments

FORMAT, VERSION = "skdict feature codes", 1
_PIECE = 2**24  # bytes that are read at once to compare checksums
_DTYPES = {"i64": np.int64, "i32": np.int32, "f32": np.float32, "f64": np.float64, "u1": np.bool_}
# columns of tokens that count something, and so are written in 32 bits
_COUNTS = {"document", "position", "token_id", "token", "start", "end", "time", "y", "x"}


class Texts(Sequence):
    """Texts in a mapped file."""

    def __init__(self, data, ends):
        self._data, self._ends = data, ends

    def __len__(self):
        return len(self._ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = self._ends[index - 1] if index else 0
        return bytes(self._data[start : self._ends[index]]).decode("utf-8", "surrogatepass")


class _Column:
    """A file that is appended to, with the checksum of what it holds."""

    def __init__(self, path, n_bytes=0, crc=0):
        self.path, self.n_bytes, self.crc = path, n_bytes, crc
        self._file = open(path, "ab")  # noqa: SIM115 - `close` closes it
        self._file.truncate(n_bytes)

    def append(self, data):
        self.crc = zlib.crc32(data, self.crc)
        self.n_bytes += self._file.write(data)

    def sync(self):
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self):
        self._file.close()


class Writer:
    """Appends blocks of codes to a folder. It goes on where an earlier one was stopped.

    Parameters
    ----------
    folder : pathlib.Path
    n_components : int
    key : dict
        What the codes depend on; a folder with another one is refused.

    Attributes
    ----------
    progress : dict
        What the last `commit` was told; empty at the start.
    state : tuple or None
        Moments and near misses at that time.
    """

    def __init__(self, folder, n_components, key):
        self.folder, self.n_components, self.key = folder, n_components, key
        self.n_rows = self.n_entries = self._n_commits = 0
        self.progress, self._names, self._columns = {}, {}, {}
        self.state, self.dtype, self._former = None, None, ()
        index = folder / "codes.json"
        make_folder(folder, "path")
        if index.exists():
            self._resume(_read_index(folder))
        elif any(folder.iterdir()):
            raise FileExistsError(
                f"{str(folder)!r} holds files, but no codes. Give a new or an empty folder."
            )

    def _resume(self, index):
        for name, value in self.key.items():
            if index["key"].get(name) != value:
                raise ValueError(
                    f"{str(self.folder)!r} holds codes of another {name}: "
                    f"{index['key'].get(name)!r:.60}, and not {value!r:.60}. Give another folder, "
                    "or remove this one."
                )
        _check_sizes(self.folder, index)
        self.n_rows, self.n_entries = index["n_rows"], index["n_entries"]
        self.progress, self._n_commits = index["progress"], index["n_commits"]
        self.dtype = index["dtype"]
        self._columns = {
            name: _Column(self.folder / name, *known) for name, known in index["files"].items()
        }
        names = _read_names(self.folder, index)
        self._names = {name: i for i, name in enumerate(names)}
        self.state = _parts_of(_read_state(self.folder, index))
        self._former = index["state"], index["names"]

    def append(self, codes, tokens, texts, counted):
        """Add rows.

        Parameters
        ----------
        codes : csr_array of shape (n, n_components)
        tokens : dict of ndarray of shape (n,), or None
        texts : list of str
            The next texts, whole.
        counted : ndarray of bool of shape (n,)
        """
        if self.dtype is None:
            self.dtype = "f64" if codes.dtype == np.float64 else "f32"
            self._write("indptr.i64", np.zeros(1))
        self._write("indptr.i64", self.n_entries + codes.indptr[1:].astype(np.int64))
        self._write("indices.i32", codes.indices)
        self._write(f"values.{self.dtype}", codes.data)
        self._write("counted.u1", counted)
        for name, column in (tokens or {}).items():
            if name == "token":
                column = [self._names.setdefault(str(x), len(self._names)) for x in column]
            column, kind = np.asarray(column), "i32" if name in _COUNTS else "i64"
            if kind == "i32" and len(column) and int(column.max()) > np.iinfo(np.int32).max:
                raise ValueError(
                    f"tokens[{name!r}] has {column.max()}, which 32 bits cannot hold. Number what "
                    "it counts from 0: np.unique(..., return_inverse=True)."
                )
            self._write(f"tokens.{name}.{kind}", column)
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        if encoded:
            ends = self._column("texts.utf8").n_bytes + np.cumsum([len(x) for x in encoded])
            self._column("texts.utf8").append(b"".join(encoded))
            self._write("text_ends.i64", ends)
        self.n_rows += codes.shape[0]
        self.n_entries += codes.nnz

    def _column(self, name):
        if name not in self._columns:
            self._columns[name] = _Column(self.folder / name)
        return self._columns[name]

    def _write(self, name, array):
        dtype = _DTYPES[name.rpartition(".")[2]]
        self._column(name).append(np.ascontiguousarray(array, dtype=dtype).tobytes())

    def commit(self, progress, state, *, provenance=None, is_complete=False):
        """Make what was appended last.

        Parameters
        ----------
        progress : dict
            What to go on from.
        state : dict of ndarray
            Moments and near misses.
        """
        self._n_commits += 1
        for column in self._columns.values():
            column.sync()
        state_name = f"state-{self._n_commits}.npz"
        names_name = f"names-{self._n_commits}.json"
        with open(self.folder / state_name, "wb") as file:
            np.savez(file, **state)
            file.flush()
            os.fsync(file.fileno())
        with replacing(self.folder / names_name) as file:
            json.dump(list(self._names), file)
        index = {
            "format": FORMAT,
            "version": VERSION,
            "is_complete": is_complete,
            "n_rows": self.n_rows,
            "n_components": self.n_components,
            "n_entries": self.n_entries,
            "dtype": self.dtype,
            "files": {name: [c.n_bytes, c.crc] for name, c in self._columns.items()},
            "state": state_name,
            "names": names_name,
            "n_commits": self._n_commits,
            "key": self.key,
            "progress": progress,
            "provenance": provenance or {},
        }
        with replacing(self.folder / "codes.json") as file:
            json.dump(index, file, indent=1)
        for name in self._former:
            (self.folder / name).unlink(missing_ok=True)
        self._former = state_name, names_name

    def close(self):
        """Close all files."""
        for column in self._columns.values():
            column.close()


def save_columns(codes, path):
    """Write FeatureCodes to a folder, see `FeatureCodes.save`."""
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise FileExistsError(
            f"{str(path)!r} is a file, or holds files. Give a new or an empty folder."
        )
    with replacing_folder(path) as folder:
        writer = Writer(folder, codes.n_components, {})
        try:
            texts = [] if codes.texts is None else list(codes.texts)
            for first, block in codes.blocks():
                rows = slice(first, first + block.shape[0])
                tokens = {k: v[rows] for k, v in (codes.tokens or {}).items()}
                writer.append(block, _whole_numbers(tokens), texts, codes.counted[rows])
                texts = []
            writer.commit(
                {},
                state_arrays(codes.moments, codes.near_misses),
                provenance=codes.provenance,
                is_complete=True,
            )
        finally:
            writer.close()
    return path


def _whole_numbers(tokens):
    """The columns that can be written: integers, and the strings of the tokens."""
    return {
        name: column
        for name, column in tokens.items()
        if re.fullmatch(r"\w+", name)
        and (name == "token" or np.asarray(column).dtype.kind in "iu")
    }


def load_columns(path, *, verify):
    """What `FeatureCodes` is made of, from a folder."""
    folder = Path(path)
    if not (folder / "codes.json").is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no codes.json. Give the folder that FeatureCodes.save or "
            "collect_codes(..., path=...) has written."
        )
    index = _read_index(folder)
    if not index["is_complete"]:
        raise ValueError(
            f"{str(folder)!r} was not completed: {index['n_rows']} rows are there. Call "
            "collect_codes again with the same arguments, and it goes on from there."
        )
    _check_sizes(folder, index)
    if verify:
        _check_sums(folder, index)
    column = {name: _mapped(folder, name) for name in index["files"]}
    names = np.array([*_read_names(folder, index), None], dtype=object)[:-1]
    tokens = {
        match[1]: column[name]
        for name in column
        if (match := re.fullmatch(r"tokens\.(\w+)\.i(?:32|64)", name))
    }
    if "token" in tokens:
        tokens["token"] = names[tokens["token"]]
    shape = index["n_rows"], index["n_components"]
    parts = column[f"values.{index['dtype']}"], column["indices.i32"], column["indptr.i64"]
    moments, near_misses = _parts_of(_read_state(folder, index))
    counted = np.asarray(column["counted.u1"])
    moments.n_rows = int(np.count_nonzero(counted))
    texts = None
    if "texts.utf8" in column:
        texts = Texts(column["texts.utf8"], column["text_ends.i64"])
    return {
        "matrix": _mapped_csr(*parts, shape),
        "tokens": tokens or None,
        "texts": texts,
        "counted": counted,
        "provenance": index["provenance"],
        "moments": moments,
        "near_misses": near_misses,
    }


def _mapped_csr(data, indices, indptr, shape):
    """A csr_array of mapped files.

    Made by the constructor, int64 row ends would make SciPy copy the columns to int64 too.
    """
    matrix = csr_array(shape, dtype=data.dtype)
    matrix.data, matrix.indices, matrix.indptr = data, indices, indptr
    return matrix


def state_arrays(moments, near_misses):
    """Moments and near misses as arrays for a file."""
    arrays = {name: getattr(moments, name) for name in Moments.ARRAYS}
    if near_misses is not None:
        arrays |= {f"near_{name}": np.asarray(value) for name, value in near_misses.items()}
    return arrays


def _parts_of(arrays):
    """Moments and near misses from what `state_arrays` has made of them."""
    moments = Moments(len(arrays["count"]))
    for name in Moments.ARRAYS:
        setattr(moments, name, arrays[name])
    near = {k.removeprefix("near_"): v for k, v in arrays.items() if k.startswith("near_")}
    if not near:
        return moments, None
    return moments, Bunch(**near | {"name": str(near["name"])})


def _mapped(folder, name):
    dtype = np.uint8 if name == "texts.utf8" else _DTYPES[name.rpartition(".")[2]]
    path = folder / name
    if path.stat().st_size == 0:
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _read_index(folder):
    path = folder / "codes.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise ValueError(f"its format is {index['format']!r}")
        if index["version"] > VERSION:
            raise ValueError(f"its version is {index['version']}, later than {VERSION}")
        for key, kind in _FIELDS.items():
            if not isinstance(index[key], kind):
                raise ValueError(f"{key} is {index[key]!r:.40}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} is not an index of codes: {type(error).__name__}: {error}"
        ) from error
    return index


_FIELDS = {
    "is_complete": bool,
    "n_rows": int,
    "n_components": int,
    "n_entries": int,
    "dtype": str | None,
    "files": dict,
    "state": str,
    "names": str,
    "n_commits": int,
    "key": dict,
    "progress": dict,
    "provenance": dict,
}


def _check_sizes(folder, index):
    """Raise an error that names the first file that is missing or too short."""
    for name, (n_bytes, _) in index["files"].items():
        path = folder / name
        if Path(name).name != name:
            raise ValueError(f"{str(folder)!r}: codes.json names the file {name!r} elsewhere.")
        if not path.is_file():
            raise FileNotFoundError(f"{str(path)!r}, which codes.json names, is missing.")
        found = path.stat().st_size
        if found < n_bytes or (index["is_complete"] and found != n_bytes):
            raise ValueError(
                f"{str(path)!r} has {found} bytes, but codes.json says {n_bytes}. It was cut off "
                "or changed: collect the codes again."
            )


def _check_sums(folder, index):
    for name, (n_bytes, expected) in index["files"].items():
        crc, left = 0, n_bytes
        with open(folder / name, "rb") as file:
            while left and (piece := file.read(min(_PIECE, left))):
                crc, left = zlib.crc32(piece, crc), left - len(piece)
        if crc != expected:
            raise ValueError(
                f"{str(folder / name)!r} is damaged: its checksum is {crc:08x}, but codes.json "
                f"says {expected:08x}. Collect the codes again."
            )


def _read_names(folder, index):
    return _read_beside(
        folder, index["names"], lambda path: json.loads(path.read_text(encoding="utf-8"))
    )


def _read_state(folder, index):
    def read(path):
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    return _read_beside(folder, index["state"], read)


def _read_beside(folder, name, read):
    if Path(name).name != name:
        raise ValueError(f"{str(folder)!r}: codes.json names the file {name!r} elsewhere.")
    try:
        return read(folder / name)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{str(folder / name)!r}, which codes.json names, is missing."
        ) from None
    except Exception as error:
        raise ValueError(
            f"{str(folder / name)!r} is damaged: {type(error).__name__}: {error}"
        ) from error
