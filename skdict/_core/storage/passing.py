"""Compare rows that are given to a writer, and passed over, with those that are in the store."""

import numpy as np
import torch

from .shards import MatrixReader, OpenShards

# Rows are read and compared in pieces of about so many bytes.
PIECE_BYTES = 1 << 22


class PassedOver:
    """The last rows that a writer and its predecessors have committed, which come again.

    Parameters
    ----------
    folder : LocalFolder or RemoteFolder
    matrices : dict of Matrix
        By layer; None is the key of the tokens.
    commits : list of Commit
        Of this writer.
    """

    def __init__(self, folder, matrices, commits):
        opened = OpenShards(len(matrices))
        self._where = folder.path
        self._readers = {
            name: MatrixReader(folder, matrix, name, commits, opened, verify=True)
            for name, matrix in matrices.items()
        }

    def check(self, parts, n_rows, n_before):
        """Raise a ValueError unless rows are those that are in the store.

        Parameters
        ----------
        parts : dict of tensor of shape (n, width)
            Rows as they would be written, by layer; None is the key of the tokens.
        n_rows : int
            How many of them are in the store.
        n_before : int
            Rows of this writer that come before them.
        """
        for name, part in parts.items():
            reader = self._readers[name]
            step = max(1, PIECE_BYTES // reader.matrix.row_bytes)
            for start in range(0, n_rows, step):
                given = part[start : min(start + step, n_rows)]
                first = n_before + start
                kept = reader.read_range(first, first + len(given))
                # bytes: NaN is NaN then
                pair = [x.view(torch.uint8).numpy() for x in (given, kept)]
                if not np.array_equal(*pair):
                    raise ValueError(self._difference(name, *pair, start, first))

    def _difference(self, name, given, kept, start, first):
        row = int((given != kept).any(axis=1).argmax())
        what = "tokens" if name is None else f"activations[{name!r}]"
        return (
            f"{what}: row {start + row} is not the same as row {first + row} of this writer in "
            f"{self._where}, in whose place it comes. A writer that begins again is given the "
            "rows after writer.cursor once more, and passes over those that are in the store. "
            "Give the same rows in the same order; or, to add others, give cursor= with all rows "
            "from the beginning, and go on after writer.cursor; or give another path."
        )
