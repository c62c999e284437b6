"""How the work is shared out, and the strategy that is in force where an architecture computes."""

import math
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from .ranks import Alone, part
from .rows import OwnRows

_one = Alone()


@dataclass(frozen=True)
class Strategy:
    """Who holds which rows of a batch and which atoms.

    Parameters
    ----------
    data : Ranks
        Processes that hold different rows of a batch, and the same atoms.
    features : Ranks
        Processes that hold different atoms, consecutive parts of all, and the same rows.
    n_components : int or None
        Number of atoms of all processes together, where these hold different ones.

    Notes
    -----
    Not both have several processes.
    """

    data: object = _one
    features: object = _one
    n_components: int | None = None

    @property
    def is_alone(self):
        return self.ranks.size == 1

    @property
    def ranks(self):
        """All processes."""
        return self.data if self.features.size == 1 else self.features

    @property
    def shards_atoms(self):
        return self.features.size > 1

    @property
    def start(self):
        """Number of the first atom of this process."""
        return self.range[0] if self.shards_atoms else 0

    @property
    def range(self):
        """Start and stop of the atoms of this process, where each has some."""
        return part(self.n_components, self.features.rank, self.features.size)

    def own(self, rows):
        """The part of this process of rows (n_components, ...), one for each atom."""
        if not self.shards_atoms:
            return rows
        start, stop = self.range
        return rows[start:stop]

    def whole(self, rows):
        """Rows of all atoms, of which each process has its own."""
        return self.features.gathered(rows, self.n_components)

    def own_rows(self, rows):
        """Rows of the atoms of this process, with where they are among all."""
        return OwnRows(rows, self.start, self.n_components)

    def located(self, numbers):
        """Which of the atoms with these numbers (m,) this process has, and where it has them.

        Returns
        -------
        mine : slice or tensor of shape (m,), bool
        places : tensor of shape (m_own,), int64
        """
        if not self.shards_atoms:
            return slice(None), numbers
        start, stop = self.range
        mine = (start <= numbers) & (numbers < stop)
        return mine, numbers[mine] - start

    def rows_at(self, table, numbers):
        """Rows of a table with a row for each atom (m, ...), wherever the atoms are."""
        mine, places = self.located(numbers)
        return self.spread(table[places], mine, len(numbers))

    def spread(self, rows, mine, n_rows):
        """All of a list of rows (n_rows, ...), of which each process has those named ``mine``."""
        if not self.shards_atoms:
            return rows
        found = rows.new_zeros(n_rows, *rows.shape[1:])
        found[mine] = rows
        return self.features.sum_(found)

    def active(self):
        """Context in which `current` is this strategy."""
        return nullcontext() if self.is_alone else _in_force(self)


ALONE = Strategy()
_current = ContextVar("strategy", default=ALONE)


def current():
    """The strategy by which an autoencoder is being trained."""
    return _current.get()


@contextmanager
def _in_force(strategy):
    token = _current.set(strategy)
    try:
        yield
    finally:
        _current.reset(token)


def sum_over_processes(tensor):
    """Sum of a new tensor over the processes that train together, with the same shape in each."""
    return current().ranks.sum_(tensor)


def min_over_processes(tensor):
    """Smallest of a new tensor over the processes that train together."""
    return current().ranks.min_(tensor)


def totals(n_entries, n_rows, device):
    """Numbers of entries and of rows of a batch, over the processes that train together."""
    strategy = current()
    if strategy.is_alone:
        return n_entries, n_rows
    n_rows = n_rows if strategy.features.rank == 0 else 0  # the others have the same rows
    counts = torch.tensor([n_entries, n_rows], dtype=torch.int64, device=device)
    return tuple(strategy.ranks.sum_(counts).tolist())


def strategy_for(ranks, *, n_components, n_rows, batch_size, is_too_large):
    """Over atoms where that sends less, or where they do not fit, else over rows.

    By features each process sends the reconstruction and the rows of a batch, 3 B d numbers, and
    by data the gradients of two matrices, 4 n d: the former is less where n > 3/4 B.

    Parameters
    ----------
    ranks : Ranks
    n_components : int or None
        None if each process needs all atoms.
    n_rows, batch_size : int
    is_too_large : bool
        Whether a process cannot hold all atoms in training.

    Returns
    -------
    strategy : Strategy

    Raises
    ------
    ValueError
        If there are more processes than rows in a batch or atoms.
    """
    least = n_rows // math.ceil(n_rows / batch_size)  # of a batch
    by_features = Strategy(features=ranks, n_components=n_components)
    by_data = Strategy(data=ranks)
    can_by_features = n_components is not None and n_components >= ranks.size
    prefers = can_by_features and (is_too_large or 4 * n_components > 3 * batch_size)
    if prefers or (can_by_features and least < ranks.size):
        return by_features
    if least >= ranks.size:
        return by_data
    raise ValueError(
        f"{ranks.size} processes cannot share a batch of {least} rows. Use fewer of them, or a "
        "larger batch_size."
    )
