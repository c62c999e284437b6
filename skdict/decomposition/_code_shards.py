"""Codes of more rows than memory holds: CSR matrices in the files of a folder."""

import json
import zipfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from .._core.data.reading import row_slices
from .._core.making_folders import make_folder
from .._core.training.digests import digest_of_text
from ..metrics._rows import as_rows
from ..utils._arrays import collect_sparse
from ..utils._files import replacing
from ..utils._sklearn_compat import output_container
from ._resumable import identity_of, plain

VERSION = 1
ROWS_PER_SHARD = 1 << 16


class CodeShards:
    """Codes in a folder, as ``transform(X, out=folder)`` writes them.

    A file ``00000000.npz`` for each 65,536 rows holds a CSR matrix of SciPy's. Rows are read when
    they are asked for. It pickles as its path. Functions of `skdict.metrics` take it as codes.

    Parameters
    ----------
    path : str or Path
        The folder.

    Attributes
    ----------
    path : Path
    shape : tuple of int
        (n_samples, n_components).
    dtype : torch.dtype
        Float32 or float64.

    Raises
    ------
    FileNotFoundError
        If it is no folder of codes, or a shard is missing: call transform again to go on.
    ValueError
        If a file is damaged.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import CodeShards, SparseAutoencoderDictionary
    >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
    >>> sae = SparseAutoencoderDictionary(16, random_state=0).fit(X)
    >>> codes = sae.transform(X, out="codes")
    >>> codes
    CodeShards('codes', 1000 x 16 in 1 file)
    >>> codes[10:13].shape
    (3, 16)
    >>> CodeShards("codes").shape
    (1000, 16)
    """

    ndim = 2

    def __init__(self, path):
        self.path = Path(path)
        file = self.path / "codes.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"{str(self.path)!r} is no folder of codes: it has no codes.json. Give the folder "
                "that was given to transform(X, out=folder)."
            )
        settings = read_settings(file)
        self.shape = tuple(settings["shape"])
        self.dtype = getattr(torch, settings["dtype"])
        self.chunk_rows = settings["rows_per_shard"]
        there = {path.name for path in self.path.glob("*.npz")}
        shards = range(self.n_shards)
        missing = next((i for i in shards if self._file(i).name not in there), None)
        if missing is not None:
            n_missing = self.n_shards - sum(self._is_shard(name) for name in there)
            raise FileNotFoundError(
                f"{str(self._file(missing))!r} is missing, and {n_missing} of the "
                f"{self.n_shards} files in all. Call transform(X, out=...) again with the same X "
                "and dictionary: it writes those that are not there."
            )

    @property
    def n_shards(self):
        """Number of files."""
        return -(-self.shape[0] // self.chunk_rows)

    def __len__(self):
        return self.shape[0]

    def __iter__(self):
        """Yield the CSR matrix of each file."""
        return (self._load(i) for i in range(self.n_shards))

    def __getitem__(self, key):
        """The codes of rows as a CSR matrix: by a slice, or integers or booleans of one axis."""
        return self.read(key)

    def read(self, index):
        """Rows as a CSR matrix.

        Parameters
        ----------
        index : slice, or array-like of int or bool of shape (n,)

        Returns
        -------
        codes : CSR matrix of shape (n, n_components)
        """
        rows = _numbers_of(index, len(self))
        shards = rows // self.chunk_rows
        places, parts = [np.arange(0)], [sp.csr_array((0, self.shape[1]), dtype=self._dtype)]
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            places.append(here)
            parts.append(self._load(shard)[rows[here] - shard * self.chunk_rows])
        return sp.vstack(parts, format="csr")[np.argsort(np.concatenate(places), kind="stable")]

    def __repr__(self):
        files = f"{self.n_shards} file{'s' * (self.n_shards != 1)}"
        return f"CodeShards({str(self.path)!r}, {self.shape[0]} x {self.shape[1]} in {files})"

    def __getstate__(self):
        return {"path": self.path}

    def __setstate__(self, state):
        self.__init__(state["path"])

    @property
    def _dtype(self):
        return np.dtype(str(self.dtype).removeprefix("torch."))

    def _file(self, shard):
        return self.path / f"{shard:08d}.npz"

    def _is_shard(self, name):
        stem = name.removesuffix(".npz")
        return stem.isdecimal() and int(stem) < self.n_shards

    def _load(self, shard):
        """The matrix of a file; the archive has a checksum of each array."""
        file = self._file(shard)
        n_rows = min(self.chunk_rows, len(self) - shard * self.chunk_rows)
        try:
            codes = sp.csr_array(sp.load_npz(file))
            if codes.shape != (n_rows, self.shape[1]) or codes.dtype != self._dtype:
                raise ValueError(f"it holds {codes.shape} of {codes.dtype}")
            codes.check_format(full_check=True)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{str(file)!r} is damaged: {error}. Remove it, and call transform(X, out=...) "
                "again: it writes the files that are not there."
            ) from error
        return codes


def _numbers_of(index, n_rows):
    """Numbers of rows (n,), int64, of an index; in memory are no others."""
    if isinstance(index, slice):
        return np.arange(*index.indices(n_rows))
    index = np.asarray(index)
    if index.ndim != 1:
        raise IndexError("Codes are indexed by rows: codes[:10], or codes[[3, 5]].")
    if index.dtype == bool:
        if len(index) != n_rows:
            raise IndexError(f"{len(index)} booleans do not tell which of {n_rows} rows to take.")
        return np.flatnonzero(index)
    if index.dtype.kind not in "iu" and len(index):
        raise IndexError(f"Rows are numbered by integers, not by {index.dtype}.")
    index = index.astype(np.int64)
    outside = (index < -n_rows) | (index >= n_rows)
    if outside.any():
        raise IndexError(f"Row {index[outside][0]} is asked for, but there are {n_rows}.")
    return np.where(index < 0, index + n_rows, index)


def read_settings(file):
    """What ``codes.json`` says; raises a ValueError that names what is wrong."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        shape, rows = settings["shape"], settings["rows_per_shard"]
        sizes = [*shape, rows]
        if len(shape) != 2 or not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"shape is {shape!r} and rows_per_shard {rows!r}")
        if settings["dtype"] not in ("float32", "float64") or settings["version"] != VERSION:
            raise ValueError(f"dtype is {settings['dtype']!r}, version {settings['version']!r}")
    except (ValueError, KeyError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"{str(file)!r} is damaged, or of another version of skdict: {error!r:.200}."
        ) from error
    return settings


def check_writes_codes(estimator, out):
    """Refuse ``out`` of `transform` where it is no folder, or frames are asked for."""
    if not isinstance(out, str | Path):
        raise TypeError(f"out must be a folder to write codes into, not {out!r:.60}.")
    output = output_container(estimator)
    if output != "default":
        raise ValueError(
            f"transform(X, out=...) writes CSR matrices, but set_output asks for {output!r}. Call "
            "set_output(transform='default')."
        )


def write_codes(coding, rows, folder):
    """Write the codes of rows into a folder, or what is missing there.

    Parameters
    ----------
    coding : Coding
    rows : Source
    folder : str or Path

    Returns
    -------
    codes : CodeShards

    Raises
    ------
    ValueError
        If the folder has codes of another dictionary, of other rows, or found otherwise.
    """
    folder = Path(folder)
    make_folder(folder, "out")
    _begin(folder, _settings_of(coding, rows))
    n_components = len(coding.dictionary.components)
    with coding.threads(rows), coding.coder(rows) as code:
        for shard, part in enumerate(row_slices(len(rows), ROWS_PER_SHARD)):
            file = folder / f"{shard:08d}.npz"
            if file.is_file():
                continue
            blocks = (
                (slice(block.start - part.start, block.stop - part.start), code(x))
                for block, x in rows.blocks(coding.width, part=part)
            )
            codes = collect_sparse(blocks, part.stop - part.start, n_components, rows)
            with replacing(file, binary=True) as opened:
                sp.save_npz(opened, as_rows(codes, "codes"), compressed=False)
    return CodeShards(folder)


def _begin(folder, settings):
    """Write ``codes.json``, or compare it with the one that is there."""
    file = folder / "codes.json"
    if not file.is_file():
        # a process that was killed here has left a temporary file
        if any(path.suffix != ".tmp" for path in folder.iterdir()):
            raise ValueError(
                f"out={str(folder)!r} holds files, and they are no codes. Give a folder that is "
                "empty or not there."
            )
        with replacing(file) as text:
            json.dump(settings, text)
        return
    found = read_settings(file)
    for name in ("shape", "dtype", "dictionary", "X"):
        if found.get(name) != settings[name]:
            raise ValueError(
                f"out={str(folder)!r} has codes of another {name} ({found.get(name)}, here "
                f"{settings[name]}). Give another folder, or remove it."
            )


def _settings_of(coding, rows):
    dtype = str(rows.dtype).removeprefix("torch.")
    return {
        "version": VERSION,
        "shape": [len(rows), len(coding.dictionary.components)],
        "dtype": dtype,
        "rows_per_shard": ROWS_PER_SHARD,
        "dictionary": digest_of_text(f"{plain(coding.dictionary)} {coding.name} {coding.options}"),
        "X": identity_of(rows)["digest"],
    }
