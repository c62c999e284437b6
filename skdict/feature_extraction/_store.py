"""Activations on disk as X: of any size, verified when they are read."""

import os
from html import escape
from numbers import Integral

import numpy as np
from sklearn.utils import Bunch

from .._core.sizes import size_of
from .._core.storage import StoreView, StoreWriter
from .._core.storage.checking import damages
from .._core.storage.opening import OpenStore
from .._core.storage.records import write_index
from .._core.storage.writer import settings_of
from ..utils._frames import as_frame
from ._vllm import TOKENS, files_of, read_request


class ActivationStore:
    """Activations of one or several layers on disk, in shards that are checked when they are read.

    ``store[layer]`` is a matrix of shape (n_rows, width), which can be given as `X` to whatever
    takes activations; a store of a single layer can be given itself. Rows are read when they are
    needed, so memory does not grow with their number. What has been written is complete: a store
    can be read while it is written, and after its writer was killed.

    Parameters
    ----------
    path : str or path-like
        The folder, or a URL of one that fsspec knows, such as "s3://bucket/store". Rows of a
        remote store are read in ranges of at least 8 MB; "filecache::s3://bucket/store" keeps what
        was read on this machine.

    verify : bool, default=True
        Whether each block of rows that is read is compared with its hash. That costs a few
        percent of reading.

    buffer_bytes : int, default=2147483648
        Memory that the rows may take which are shuffled together. With more of it, batches are
        more like those of rows that are shuffled all at once.

    Attributes
    ----------
    layers : dict of str to int
        Width of each layer.

    identity : dict
        Where the activations come from, as it was written.

    shape : tuple of int
        (n_rows, width). Only of a store of one layer, as `dtype`.

    dtype : torch.dtype
        float16, bfloat16 or float32.

    documents : Documents
        The documents as samples: their `len` is the number of documents, and indexing gives the
        rows of some of them. This is what cross-validation should be given, since neighbouring
        rows of a text are alike. ``store[layer].documents`` is the same of one of several layers.

    See Also
    --------
    ActivationExtractor : Compute the activations of texts.

    Notes
    -----
    Each shard is a safetensors file, which other programs can read: "activations", behind them
    "block_xxh3", a hash of every block of rows, and "means". A shard counts once its commit, a
    file of JSON that is written last, is there. Rows are those of the shards in the order of their
    numbers. A store that is opened does not see what is committed later.

    A view pickles as its path and the ranges of its rows, so that tasks on other machines open the
    files themselves. Where the store has changed in between, they say so.

    Examples
    --------
    >>> import numpy as np
    >>> from skdict.feature_extraction import ActivationStore
    >>> rng = np.random.default_rng(0)
    >>> columns = ["document", "position"]
    >>> with ActivationStore.create("store", {"mlp": 8}, tokens=columns) as writer:
    ...     for document in range(5):
    ...         tokens = {"document": np.full(30, document), "position": np.arange(30)}
    ...         writer.append(rng.normal(size=(30, 8)), tokens)
    >>> store = ActivationStore("store")
    >>> store
    ActivationStore('store', 150 rows in 1 shard, float16, layers mlp (8))
    >>> store["mlp"].shape
    (150, 8)
    >>> len(store.documents), store.documents[[1, 4]].shape
    (5, (60, 8))
    >>> store.tokens([0, 31]).position
    array([0, 1])
    >>> len(store.verify())
    0
    """

    ndim = 2

    def __init__(self, path, *, verify=True, buffer_bytes=1 << 31):
        if not isinstance(verify, bool | np.bool_):
            raise TypeError(f"verify must be a bool, not {verify!r:.60}.")
        if (
            isinstance(buffer_bytes, bool)
            or not isinstance(buffer_bytes, Integral)
            or buffer_bytes < 1
        ):
            raise ValueError(
                f"buffer_bytes must be an integer of at least 1, not {buffer_bytes!r:.60}."
            )
        self._store = OpenStore(path, verify=bool(verify))
        self._given, self._buffer_bytes = os.fspath(path), int(buffer_bytes)

    @classmethod
    def create(
        cls,
        path,
        layers,
        *,
        dtype="float16",
        tokens=(),
        identity=None,
        shard=(0, 1),
        shard_rows=None,
        block_rows=None,
    ):
        """Begin to write a store, or go on writing one.

        Parameters
        ----------
        path : str or path-like
            The folder, or a URL of one. What is there must have been written with the same
            parameters.

        layers : dict of str to int
            Width of each layer. All have the same rows.

        dtype : {"float16", "bfloat16", "float32"}, default="float16"
            What rows are rounded to. A value that is too large for it is refused.

        tokens : sequence of str, default=()
            Columns of integers that tell what each row is, of any names. What knows tokens looks
            for "document", "position", "token_id", "start" and "end", as
            `ActivationExtractor.tokens` has them. With "document" the store knows its documents.

        identity : dict, default=None
            Where the activations come from, as JSON can hold it: model, layers, tokenizer,
            texts. A store of another identity is refused.

        shard : tuple of (int, int), default=(0, 1)
            (i, n): this is writer i of n, which may work at the same time, on any machines. It
            writes the shards i, i + n, i + 2n, and so on.

        shard_rows : int, default=None
            Rows of a shard; None for as many as make 1 GiB.

        block_rows : int, default=None
            Rows that are hashed, read and shuffled together. None for 64, or for as many as make
            64 KB.

        Returns
        -------
        writer : StoreWriter
            A context: ``writer.append(activations, tokens, cursor)`` adds rows, as an array or a
            dict of one for each layer, and the context commits those that are left at its end, if
            there was no error. `cursor` is anything that JSON can hold which says where the source
            is after these rows. ``writer.cursor`` is the last of those that are in the store: go
            on from there, with the same rows. Those of them that are in the store already are
            passed over; a ValueError says so if they are not the same.

        Raises
        ------
        ValueError
            If a parameter is not valid, the store was written with others, or another process
            writes to it as the same writer.

        Examples
        --------
        >>> import numpy as np
        >>> from skdict.feature_extraction import ActivationStore
        >>> with ActivationStore.create("rows", {"a": 4, "b": 2}, dtype="bfloat16") as writer:
        ...     for batch in range(writer.cursor or 0, 3):
        ...         rows = {"a": np.ones((10, 4)), "b": np.ones((10, 2))}
        ...         writer.append(rows, cursor=batch + 1)
        >>> ActivationStore.create("rows", {"a": 4, "b": 2}, dtype="bfloat16").cursor
        3
        """
        if not isinstance(shard, tuple | list) or len(shard) != 2:
            raise ValueError(f"shard must be (i, n), as (0, 1), not {shard!r:.60}.")
        settings = settings_of(
            layers,
            dtype=dtype,
            tokens=tokens,
            shard_rows=shard_rows,
            block_rows=block_rows,
            n_writers=shard[1],
            identity=identity,
        )
        return StoreWriter(path, settings, shard[0])

    @classmethod
    def from_vllm(cls, folder, path, layers, *, shard=(0, 1), shard_rows=None, block_rows=None):
        """Copy hidden states that vLLM has written into a store.

        vLLM writes them with ``speculative_config={"method": "extract_hidden_states", ...}`` and
        its ExampleHiddenStatesConnector, one safetensors file for each request: "hidden_states"
        (n_tokens, n_layers, width) and "token_ids" (n_tokens,). A request is a document;
        documents are counted in the order of the names of their files, numbers in them by value.
        The store has the columns "document", "position" and "token_id". Called again, this goes
        on where it was stopped.

        Parameters
        ----------
        folder : str or path-like
            Where the files are.

        path : str or path-like
            Of the store, which is made.

        layers : sequence of str
            Names for the layers, in the order that vLLM was given them.

        shard : tuple of (int, int), default=(0, 1)
            (i, n): copy the documents i, i + n, and so on, as :meth:`create`.

        shard_rows : int, default=None
            As of :meth:`create`.

        block_rows : int, default=None
            As of :meth:`create`.

        Returns
        -------
        store : ActivationStore
            In the dtype of the files.

        Raises
        ------
        ValueError
            If a file is not what vLLM writes; names it.

        Examples
        --------
        >>> import torch
        >>> from pathlib import Path
        >>> from safetensors.torch import save_file
        >>> from skdict.feature_extraction import ActivationStore
        >>> Path("states").mkdir()
        >>> for request in range(3):
        ...     file = {"hidden_states": torch.zeros(7, 2, 16), "token_ids": torch.arange(7)}
        ...     save_file(file, f"states/{request}.safetensors")
        >>> store = ActivationStore.from_vllm("states", "copied", ["blocks.5", "blocks.9"])
        >>> store["blocks.9"].shape
        (21, 16)
        """
        layers = [layers] if isinstance(layers, str) else list(layers)
        files, identity = files_of(folder)
        states, _ = read_request(files[0], len(layers))
        writer = cls.create(
            path,
            dict.fromkeys(layers, states.shape[2]),
            dtype=str(states.dtype).removeprefix("torch."),
            tokens=TOKENS,
            identity=identity,
            shard=shard,
            shard_rows=shard_rows,
            block_rows=block_rows,
        )
        with writer:
            first, step = writer.shard
            first = first if writer.cursor is None else writer.cursor
            for document in range(first, len(files), step):
                states, ids = read_request(files[document], len(layers))
                columns = (np.full(len(ids), document), np.arange(len(ids)), ids)
                tokens = dict(zip(TOKENS, columns, strict=True))
                rows = {name: states[:, i] for i, name in enumerate(layers)}
                writer.append(rows, tokens, cursor=document + step)
        return cls(path)

    @property
    def path(self):
        """The folder."""
        return self._store.folder.path

    @property
    def layers(self):
        """Width of each layer, by name."""
        return {name: width for name, (width, _) in self._store.settings.layers.items()}

    @property
    def identity(self):
        """Where the activations come from."""
        return dict(self._store.settings.identity)

    @property
    def shape(self):
        """Number of rows and width of the only layer."""
        return self.__skdict_rows__().shape

    @property
    def dtype(self):
        """What the rows are stored in."""
        return self.__skdict_rows__().dtype

    @property
    def documents(self):
        """The documents as samples, of the only layer."""
        return self.__skdict_rows__().documents

    def __len__(self):
        return self._store.n_rows

    def __contains__(self, layer):
        return layer in self._store.settings.layers

    def __getitem__(self, key):
        """The rows of a layer; or some rows of the only layer."""
        if not isinstance(key, str):
            return self.__skdict_rows__()[key]
        if key not in self:
            raise KeyError(f"{self.path} has no layer {key!r}: it has {', '.join(self.layers)}.")
        return StoreView(self._store, key, buffer_bytes=self._buffer_bytes)

    def __skdict_rows__(self):
        names = list(self.layers)
        if len(names) > 1:
            raise ValueError(
                f"{self.path} has the layers {', '.join(names)}. Take one: store[{names[0]!r}]."
            )
        return self[names[0]]

    def __array__(self, dtype=None, copy=None):
        return self.__skdict_rows__().__array__(dtype, copy)

    def tokens(self, rows=slice(None)):
        """What token each row belongs to.

        Parameters
        ----------
        rows : slice or array-like of int or bool of shape (n,), default=slice(None)
            Rows of the store; all by default. ``store[layer][rows].tokens()`` is the same of a
            view.

        Returns
        -------
        tokens : Bunch
            The columns that were written, such as `document` and `position`, each an ndarray of
            shape (n,) of int64.
        """
        return Bunch(**self[next(iter(self.layers))].tokens(rows))

    def verify(self):
        """Read all files, and compare all blocks, headers and statistics with their hashes.

        Returns
        -------
        damaged : DataFrame or dict of ndarray
            A row for each damage, none if all is well: "file", "block" (-1 where it is the file
            as a whole), "first_row" and "last_row" in the store, "problem". A dict where pandas is
            not installed.
        """
        found = list(damages(self._store))
        columns = {
            name: np.array([damage[name] for damage in found], dtype=dtype)
            for name, dtype in _DAMAGE.items()
        }
        return as_frame(columns)

    def describe(self):
        """What is in the store; reads the statistics of each shard, and no rows.

        Returns
        -------
        description : Bunch
            - `n_rows`, `n_shards`, `n_bytes` (of the rows), `dtype`, `identity`
            - `layers`: for each `width`, `block_rows`, `norm_of_mean`, `rms` (root of the mean
              squared norm about the mean), `n_massive` (rows whose norm is that much larger than
              others' that they alone would decide the scale), `rms_of_others`, `largest` (norm
              about the mean, to a few percent), `n_not_finite`
            - `tokens`: names of the columns
            - `writers`: for each that has committed, `n_shards`, `n_rows` and `cursor`
        """
        store, settings = self._store, self._store.settings
        layers = {}
        for name, (width, block_rows) in settings.layers.items():
            of_all, others, n_not_finite = self[name].moments()
            layers[name] = Bunch(
                width=width,
                block_rows=block_rows,
                norm_of_mean=float(of_all.mean.norm()),
                rms=of_all.rms if of_all.n_samples else float("nan"),
                n_massive=of_all.n_samples - others.n_samples,
                rms_of_others=others.rms if others.n_samples else float("nan"),
                largest=of_all.largest,
                n_not_finite=n_not_finite,
            )
        writers = {}
        for commit in store.commits:
            writer = commit.number % settings.n_writers
            known = writers.setdefault(writer, Bunch(n_shards=0, n_rows=0, cursor=None))
            known.n_shards += 1
            known.n_rows += commit.rows
            known.cursor = commit.cursor
        return Bunch(
            n_rows=store.n_rows,
            n_shards=len(store.commits),
            n_bytes=self._n_bytes(),
            dtype=settings.dtype,
            identity=self.identity,
            layers=layers,
            tokens=list(settings.tokens),
            writers=writers,
        )

    def write_index(self):
        """Write index.json with all commits, so that stores of many shards open at once.

        It helps from some thousand shards on, and in object stores. Call it again when there are
        new commits; those that are not in it are read one by one.
        """
        write_index(self._store.folder, self._store.commits)

    def _n_bytes(self):
        matrices = [self._store.settings.matrix(name) for name in self.layers]
        return self._store.n_rows * sum(matrix.row_bytes for matrix in matrices)

    def __repr__(self):
        n_shards = len(self._store.commits)
        shards = f"{n_shards} shard{'' if n_shards == 1 else 's'}"
        layers = ", ".join(f"{name} ({width})" for name, width in self.layers.items())
        return (
            f"ActivationStore({self._given!r}, {len(self)} rows in {shards}, "
            f"{self._store.settings.dtype}, layers {layers})"
        )

    def _repr_html_(self):
        """What is known of the store, as a table."""
        settings = self._store.settings
        known = {
            "path": self._given,
            "rows": f"{len(self):,}",
            "shards": f"{len(self._store.commits):,}",
            "size": size_of(self._n_bytes()),
            "dtype": settings.dtype,
            "layers": ", ".join(f"{name} ({width})" for name, width in self.layers.items()),
            "tokens": ", ".join(settings.tokens) or "none",
        }
        lines = (
            f"<tr><th style='text-align: left'>{escape(str(name))}</th>"
            f"<td style='text-align: left'>{escape(f'{value!s:.500}')}</td></tr>"
            for name, value in (*known.items(), *settings.identity.items())
        )
        return f"<table><caption>ActivationStore</caption>{''.join(lines)}</table>"

    def __getstate__(self):
        return {
            "path": self.path,
            "given": self._given,
            "verify": self._store.verify,
            "buffer_bytes": self._buffer_bytes,
            "last": self._store.last,
            "digest": self._store.digest,
        }

    def __setstate__(self, state):
        self._given, self._buffer_bytes = state["given"], state["buffer_bytes"]
        names = ("path", "verify", "last", "digest")
        self._store = OpenStore.again(*(state[name] for name in names))


_DAMAGE = {"file": object, "block": int, "first_row": int, "last_row": int, "problem": object}
