"""The processes of a group of torch.distributed, and what they do together."""

import torch
import torch.distributed as dist

ALL_GATHER = "all_gather_single"
if not hasattr(dist, ALL_GATHER):
    ALL_GATHER = "all_gather_into_tensor"  # before torch 2.13


def part(n_rows, rank, size):
    """Start and stop of the rows of one process, of consecutive parts as `torch.tensor_split`."""
    least, n_larger = divmod(n_rows, size)
    start = rank * least + min(rank, n_larger)
    return start, start + least + (rank < n_larger)


class ProcessLost(RuntimeError):
    """A collective has failed.

    Parameters
    ----------
    lost : list of int
        The processes that are gone, as far as that is known.
    """

    def __init__(self, lost):
        super().__init__(lost)
        self.lost = lost


class Alone:
    """One process: nothing is sent, and nothing copied."""

    rank, size = 0, 1

    def sum_(self, tensor):
        return tensor

    max_ = min_ = sum_

    def gathered(self, rows, n_rows):
        return rows

    def any(self, flag, device):
        return flag


class Ranks:
    """Processes of a group. Each method is called by all of them, in the same order.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup or None
        None is the default group.

    Attributes
    ----------
    rank, size : int
        Number of this process in the group, and how many there are.
    n_calls : int
        Collectives that have begun.
    heartbeat : Heartbeat or None
        Which of the processes is lost, where a collective fails.

    Raises
    ------
    ProcessLost
        From each method, if a collective fails.
    """

    def __init__(self, group=None):
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.n_calls = 0
        self.heartbeat = None

    def sum_(self, tensor):
        """Sum over the processes, in place: 2 (R - 1) / R of its bytes are sent by each."""
        return self._reduce_(tensor, dist.ReduceOp.SUM)

    def max_(self, tensor):
        """Largest over the processes, in place."""
        return self._reduce_(tensor, dist.ReduceOp.MAX)

    def min_(self, tensor):
        """Smallest over the processes, in place."""
        return self._reduce_(tensor, dist.ReduceOp.MIN)

    def any(self, flag, device):
        """Whether a bool is true in any process."""
        return bool(self.max_(torch.tensor(int(flag), dtype=torch.int32, device=device)))

    def gathered(self, rows, n_rows):
        """All rows (n_rows, ...) in order, of which each process has its `part`."""
        largest = -(-n_rows // self.size)
        padded = rows.new_zeros(largest, *rows.shape[1:])
        padded[: len(rows)] = rows
        as_bytes = padded.view(torch.uint8) if rows.dtype == torch.bool else padded
        found = as_bytes.new_empty(self.size * largest, *rows.shape[1:])
        self._call(getattr(dist, ALL_GATHER), found, as_bytes)
        found = found.view(rows.dtype)
        if n_rows % self.size == 0:
            return found
        sizes = [stop - start for start, stop in self._parts(n_rows)]
        return torch.cat(
            [piece[:size] for piece, size in zip(found.split(largest), sizes, strict=True)]
        )

    def dealt(self, table):
        """The `part` of this process of the rows of a table (B, m) of each process: (R, b, m)."""
        sizes = [stop - start for start, stop in self._parts(len(table))]
        n_own = sizes[self.rank]
        found = table.new_empty(self.size * n_own, table.shape[1])
        self._call(dist.all_to_all_single, found, table, [n_own] * self.size, sizes)
        return found.view(self.size, n_own, table.shape[1])

    def undealt(self, pieces, n_rows):
        """The way back from `dealt`: to each process its piece of (R, b, m); (B, m)."""
        sizes = [stop - start for start, stop in self._parts(n_rows)]
        n_own, width = pieces.shape[1:]
        found = pieces.new_empty(n_rows, width)
        pieces = pieces.reshape(-1, width)
        self._call(dist.all_to_all_single, found, pieces, sizes, [n_own] * self.size)
        return found

    def objects(self, value):
        """What each process has given, in order: small objects, which are pickled."""
        found = [None] * self.size
        self._call(dist.all_gather_object, found, value)
        return found

    def from_first(self, value):
        """What the first process has given: an object, which is pickled."""
        found = [value]
        first = dist.get_global_rank(self.group or dist.group.WORLD, 0)
        self._call(dist.broadcast_object_list, found, first)
        return found[0]

    def _reduce_(self, tensor, how):
        given = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
        self._call(dist.all_reduce, given, how)
        return tensor

    def _call(self, collective, *arguments):
        self.n_calls += 1
        try:
            collective(*arguments, group=self.group)
        except RuntimeError as error:
            raise ProcessLost(self.heartbeat.lost() if self.heartbeat else []) from error

    def _parts(self, n_rows):
        return [part(n_rows, rank, self.size) for rank in range(self.size)]


def is_joined():
    """Whether there is a default group of several processes, which the user has initialised."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_first():
    """Whether this is the first process of the default group, or alone."""
    return not is_joined() or dist.get_rank() == 0
