"""Tables with a row for each atom, of which each process has some rows."""

from dataclasses import dataclass


@dataclass
class OwnRows:
    """The rows of a table that one process has: consecutive ones.

    Parameters
    ----------
    values : tensor or ndarray of shape (n_own, ...)
    start : int
        Number of the first of them.
    n_rows : int
        Of the whole table.
    """

    values: object
    start: int
    n_rows: int
