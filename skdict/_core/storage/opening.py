"""A store as it is when it is opened: its settings, its commits, readers of its files."""

from functools import cached_property

import numpy as np
import xxhash

from .folders import REMOTE_BYTES, open_folder
from .records import read_commits, read_settings
from .shards import MAX_OPEN, MAX_OPEN_REMOTE, MatrixReader, OpenShards


class OpenStore:
    """The committed shards of a store; those that are committed later are not seen.

    Parameters
    ----------
    path : str or path-like
    verify : bool
    last : int, default=None
        Number of the last shard to take; None for all.
    """

    def __init__(self, path, *, verify=True, last=None):
        self.folder, self.verify = open_folder(path), verify
        self.settings = read_settings(self.folder)
        commits = read_commits(self.folder, self.settings)
        self.commits = [c for c in commits if last is None or c.number <= last]
        self.last = self.commits[-1].number if self.commits else -1
        self.n_rows = sum(commit.rows for commit in self.commits)
        self._readers = {}
        self._opened = OpenShards(MAX_OPEN_REMOTE if self.folder.is_remote else MAX_OPEN)

    @classmethod
    def again(cls, path, verify, last, digest):
        """A store as it was when something of it was pickled; a ValueError if it has changed."""
        store = cls(path, verify=verify, last=last)
        if store.digest != digest:
            raise ValueError(
                f"{path} has changed since this view of it was made. Make the view again, with "
                "ActivationStore; or wait until all writers have finished."
            )
        return store

    @cached_property
    def digest(self):
        """Text that differs between stores with other rows."""
        digest = xxhash.xxh3_128(repr(self.settings.record()).encode())
        for commit in self.commits:
            digest.update(commit.checksum.encode())
        return digest.hexdigest()

    def reader(self, layer):
        """The rows of a layer, or of the tokens if it is None.

        Parameters
        ----------
        layer : str or None

        Returns
        -------
        reader : MatrixReader
        """
        if layer not in self._readers:
            settings = self.settings
            matrix = settings.token_matrix if layer is None else settings.matrix(layer)
            place = self.folder, matrix, layer, self.commits, self._opened
            self._readers[layer] = MatrixReader(*place, verify=self.verify)
        return self._readers[layer]

    def chunk_rows(self, layer):
        """Rows that are read together: a block, or as many as a remote request should have."""
        matrix = self.settings.matrix(layer)
        if not self.folder.is_remote:
            return matrix.block_rows
        return matrix.block_rows * max(1, -(-REMOTE_BYTES // matrix.block_bytes))

    @cached_property
    def document_runs(self):
        """Runs of consecutive rows of one document, by document and then by row.

        Returns
        -------
        numbers, starts, stops : ndarray of shape (n_runs,), int64
        """
        matrix = self.settings.token_matrix
        if matrix is None or not matrix.has_documents:
            raise ValueError(
                f"{self.folder.path} does not know its documents: it was written without a column "
                "'document' of tokens."
            )
        reader, parts = self.reader(None), []
        for position, commit in enumerate(self.commits):
            runs = reader.shard(position).tail()["documents"]
            first = np.append(runs[:, 1], commit.rows)
            if first[0] != 0 or (np.diff(first) <= 0).any():
                raise ValueError(
                    f"{self.folder.where(commit.layout(matrix).name)}: its 'documents' are not in "
                    "order. Restore it from a copy, or write the store again."
                )
            first = first + reader.starts[position]
            parts.append(np.stack([runs[:, 0], first[:-1], first[1:]]))
        numbers, starts, stops = np.concatenate(parts or [np.empty((3, 0), np.int64)], axis=1)
        order = np.argsort(numbers, kind="stable")
        return numbers[order], starts[order], stops[order]
