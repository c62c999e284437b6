"""Tables of a checkpoint whose rows are in files of several processes, read by as many as like."""

from dataclasses import dataclass

from ..formats.tensors import FormatError, SafeTensors
from ..tensors import mapped
from .digests import TensorDigest

# Bytes that are read at a time.
READ_AT_A_TIME = 64 << 20


@dataclass
class StoredRows:
    """A table with a row for each atom, in files: nothing is read before it is asked for.

    Parameters
    ----------
    name : str
        Of the table in each file.
    n_rows : int
        Of all.
    files : list of (str, int, str)
        Each with the number of its first row, and the digest of what it has of the table.
    """

    name: str
    n_rows: int
    files: list

    def read(self, start, stop):
        """Rows from one number to another, with each file that has some of them verified.

        Parameters
        ----------
        start, stop : int

        Returns
        -------
        rows : ndarray of shape (stop - start, ...)

        Raises
        ------
        ValueError
            If a file is damaged or missing; names it.
        """
        found = None
        for number, (_, first, _) in enumerate(self.files):
            if self._stop(number) <= start or stop <= first:
                continue
            for at, rows in self._pieces(number):
                if found is None:
                    found = rows.new_empty(stop - start, *rows.shape[1:])
                low, high = max(at, start), min(at + len(rows), stop)
                if low < high:
                    found[low - start : high - start] = rows[low - at : high - at]
        return found.numpy()

    def verify(self, number):
        """Read one of the files for its digest alone."""
        for _ in self._pieces(number):
            pass

    def _stop(self, number):
        following = self.files[number + 1 :]
        return following[0][1] if following else self.n_rows

    def _pieces(self, number):
        """Yield the rows of a file in pieces, each with the number of its first."""
        path, first, expected = self.files[number]
        tensors, n_rows = SafeTensors(path, path), self._stop(number) - first
        damage = f"{path} is damaged: {self.name} is not what was written."
        shape = tensors.shape(self.name) if self.name in tensors else ()
        if not shape or shape[0] != n_rows or 0 in shape:
            raise FormatError(damage)
        row = tensors.slice(self.name, 0, 1)
        found = TensorDigest(row.dtype, shape)
        step = max(1, READ_AT_A_TIME // row.nbytes)
        for at in range(0, n_rows, step):
            rows = tensors.slice(self.name, at, min(at + step, n_rows))
            found.update(rows)
            yield first + at, rows
        if found.hexdigest() != expected:
            raise FormatError(damage)


def tables_of(state):
    """The `StoredRows` in nested containers."""
    found = []
    mapped(state, StoredRows, found.append)
    return found


def read_rows(state, start=0, stop=None):
    """Nested containers with rows of each of their tables in memory; all where none are named."""
    return mapped(
        state,
        StoredRows,
        lambda table: table.read(start, table.n_rows if stop is None else stop),
    )


def verify_share(tables, rank, size):
    """Verify those files of tables that are the turn of one of several processes.

    Raises
    ------
    ValueError
        If a file is damaged or missing; names it.
    """
    for table in tables:
        for number in range(rank, len(table.files), size):
            table.verify(number)
