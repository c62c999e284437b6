"""The folder of a fit whose processes hold different atoms: each writes the state of its own."""

import shutil
import threading
import time

from .._core.distributed.sharing import check_shared
from .._core.training.checkpoint import (
    begin_checkpoint,
    checkpoints_in,
    commit_checkpoint,
    write_part,
)
from ..utils._warnings import warn

# Seconds after which processes ask again whether one of them writes.
MOMENT = 0.05


class Elsewhere:
    """Stands in the other processes for the `KeptFit` of the first one.

    Parameters
    ----------
    folder : Path
        Of the fit.
    """

    is_due = is_writing = False

    def __init__(self, folder):
        self.folder = folder

    def in_parts(self, ranks):
        """What writes the state of this process, if it holds some of the atoms."""
        return KeptInParts(self.folder, ranks)

    def between_steps(self, fit):
        """Do nothing: the first process writes."""

    finish = between_steps

    def close(self):
        """Do nothing."""


class KeptInParts:
    """What each process does with the folder of a fit that they keep together.

    A checkpoint begins when it is time to in the first process, is written by a thread in each,
    and gets its name from the first process when none of them writes any more. All methods but
    `close` are called by all processes.

    Parameters
    ----------
    folder : Path
        Of the fit.
    ranks : Ranks
    kept : KeptFit or None
        That of the first process.

    Raises
    ------
    ValueError
        If a process does not see the folder.
    """

    writes_parts = True

    def __init__(self, folder, ranks, kept=None):
        check_shared(folder, ranks)
        self.folder, self.ranks, self._kept = folder, ranks, kept
        self._n_steps = None  # of the checkpoint that has begun
        self._temporary = self._writer = self._part = self._error = None

    @property
    def is_due(self):
        """Whether it is time for a checkpoint, as the first process knows."""
        return self._kept is not None and self._kept.is_due

    @property
    def is_writing(self):
        """Whether this process is at its part."""
        return self._writer is not None and self._writer.is_alive()

    def between_steps(self, fit, is_due, is_writing):
        """End a checkpoint that has been written, and begin one if it is time to."""
        if is_writing:
            return
        self._end()
        if is_due:
            self._begin(fit)

    def finish(self, fit):
        """Keep the state after the last step, and no other one."""
        if self.ranks.from_first(self._kept is not None and self._kept.is_finished):
            return
        self._wait(fit)
        self._end()
        self._begin(fit)
        self._wait(fit)
        if self._end() and self._kept is not None:
            self._kept.remove_older()

    def close(self):
        """Wait for what this process is writing, and let others use the folder."""
        if self._writer is not None:
            self._writer.join()
        if self._kept is not None:
            self._kept.close()

    def _wait(self, fit):
        """Until no process writes. None of them waits for another longer than a moment.

        In a collective it would be given up after the time limit of the group.
        """
        while fit.processes.any(self.is_writing):
            time.sleep(MOMENT)

    def _begin(self, fit):
        """Copy the state of this process, and write it in a thread."""
        self._n_steps, self._error, self._is_over = fit.n_steps, None, fit.is_over
        temporary = self.folder / f"step-{fit.n_steps:09d}.tmp"
        if self._kept is not None:
            self._kept.note_time()
            try:
                begin_checkpoint(self.folder, fit.n_steps)
            except OSError as error:
                self._error = f"{error}"
        if self.ranks.from_first(self._error) is not None:
            return  # which `_end` tells
        self._temporary = temporary
        self._writer = threading.Thread(
            target=self._write, args=[fit.state_dict(own=True)], name="skdict-checkpoint"
        )
        self._writer.start()

    def _write(self, state):
        try:
            self._part = write_part(self._temporary, state, self.ranks.rank)
        except Exception as error:  # told in the thread of the fit
            self._error = f"{error}"

    def _end(self):
        """Whether a checkpoint that has begun is whole now; a warning if it cannot be."""
        if self._n_steps is None:
            return False
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        part = self._part if self._kept is not None else {"rows": (self._part or {}).get("rows")}
        found = self.ranks.objects((self._error, part))
        errors = [f"in process {rank}: {error}" for rank, (error, _) in enumerate(found) if error]
        error = errors[0] if errors else None
        if self._kept is not None:
            if error is None:
                error = self._commit([each for _, each in found])
            if error is not None and self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)
        error = self.ranks.from_first(error)
        n_steps, self._n_steps = self._n_steps, None
        self._temporary = self._part = self._error = None
        if error is not None:
            warn(not_written(self.folder, n_steps, error))
        return error is None

    def _commit(self, parts):
        try:
            commit_checkpoint(self._temporary, parts, self._kept.about(self._is_over))
        except OSError as error:
            return f"{error}"
        return None


def not_written(folder, n_steps, error):
    """The warning of a checkpoint that could not be written."""
    kept = [path.name for path in checkpoints_in(folder)]
    left = f"{kept[0]} stays the newest" if kept else "there is none so far"
    return (
        f"The checkpoint after {n_steps} steps could not be written to {str(folder)!r}: {error}. "
        f"The fit goes on; {left}."
    )
