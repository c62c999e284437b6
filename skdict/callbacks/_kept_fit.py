"""The folder of one fit: where its state is looked for, and written in a thread."""

import json
import logging
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import filelock

from .._core.fields import Fields
from .._core.making_folders import make_folder
from .._core.training.checkpoint import (
    STATE,
    checkpoints_in,
    read_about,
    read_checkpoint,
    remove,
    remove_unfinished,
    step_of,
    write_checkpoint,
)
from .._core.training.digests import digest_of_text
from .._core.training.stored_rows import read_rows
from ..utils._warnings import warn
from ._kept_in_parts import KeptInParts, not_written

LOGGER = logging.getLogger("skdict")
# Parts of a fingerprint that a fit is found by. Of the rest, the environment, a difference is an
# error in every case.
FOUND_BY = ("estimator", "parameters", "X", "start")
# Parts of it that change no more than last digits.
MAY_DIFFER = ("world_size",)
LOCK = "lock"


class KeptFit:
    """The folder of one fit, and what is done with it while the fit goes on.

    Parameters
    ----------
    path : Path
        In which it is.
    fingerprint : dict
        Of the fit.
    every : float
        Seconds from one checkpoint to the next.
    """

    def __init__(self, path, fingerprint, every):
        key = json.dumps({name: fingerprint[name] for name in FOUND_BY}, sort_keys=True)
        self.folder = path / f"fit-{digest_of_text(key)[:16]}"
        self.fingerprint = fingerprint
        self.every = every
        self._lock = filelock.FileLock(self.folder / LOCK)
        self._writer = None
        self._error = None
        self._damaged = {}  # checkpoints, with what is wrong with them
        self.is_kept = True
        self.is_finished = False

    @property
    def exists(self):
        """Whether there is a checkpoint of this fit."""
        return bool(checkpoints_in(self.folder))

    def take(self, fit):
        """Have a fit go on from the newest checkpoint, if there is one, and keep its state.

        Parameters
        ----------
        fit : ResumableFit
            Before its first step.
        """
        fit.listen(self)
        make_folder(self.folder.parent, "path")
        self.folder.mkdir(exist_ok=True)
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            warn(
                f"Another process is at the same fit and keeps its state in {str(self.folder)!r}: "
                "this one is not kept."
            )
            self.is_kept = False
            return
        remove_unfinished(self.folder)
        self._resume(fit)
        self.note_time()

    def _resume(self, fit, damage=None):
        if damage is not None:  # of the checkpoint that it was to go on from
            self._damaged[self._newest_left()[0]] = damage
        newest = self._newest(fit)
        if newest is not None:
            state, where = newest
            fit.resume(state, where, if_damaged=partial(self._resume, fit))

    def in_parts(self, ranks):
        """What writes the state of this process, if it holds some of the atoms."""
        return KeptInParts(self.folder, ranks, self)

    @property
    def is_due(self):
        """Whether it is time for a checkpoint, and none is being written."""
        is_time = self.is_kept and time.monotonic() - self._last >= self.every
        return is_time and not self._is_writing

    def note_time(self):
        """Count the seconds to the next checkpoint from now on."""
        self._last = time.monotonic()

    def about(self, is_over):
        """What a checkpoint says that it is of."""
        return {"fingerprint": self.fingerprint, "is_over": is_over}

    def between_steps(self, fit):
        """Begin to write a checkpoint if it is time to, and none is being written."""
        if not self.is_due:
            return
        self.note_time()
        self._tell_of_error()
        self._write(fit)

    def finish(self, fit):
        """Keep the state after the last step, and no other one."""
        if self.is_finished or not self.is_kept:
            return
        self._wait()
        self._write(fit)
        self._wait()
        if self._error is None:
            self.remove_older()
        self._tell_of_error()

    def remove_older(self):
        """Remove all checkpoints but the newest."""
        for old in checkpoints_in(self.folder)[1:]:
            with suppress(OSError):  # an older one that stays does no harm
                remove(old)

    def close(self):
        """Wait until what is being written is on the disk, and let others use the folder."""
        self._wait()
        self._lock.release()

    # -- reading -------------------------------------------------------------------------------

    def _newest_left(self):
        """Checkpoints that are not known to be damaged, the newest first."""
        return [each for each in checkpoints_in(self.folder) if each not in self._damaged]

    def _newest(self, fit):
        """The newest state that can be read, and its file.

        Those that cannot be read are removed, with a warning.
        """
        for checkpoint in self._newest_left():
            try:
                state, about = read_checkpoint(checkpoint)
                _checked(checkpoint, about)
                state = read_rows(state) if fit.is_alone else state
            except ValueError as error:
                self._damaged[checkpoint] = str(error)
                continue
            check_same(checkpoint, self.fingerprint, about)
            for damaged, error in self._damaged.items():
                warn(f"{error} The fit goes on from {checkpoint.name}, the one before it.")
                remove(damaged)
            self._damaged.clear()
            self.is_finished = about["is_over"]
            LOGGER.info("the fit goes on from %s", checkpoint)
            return state, str(checkpoint / STATE)
        if self._damaged:
            raise ValueError(
                f"No checkpoint in {str(self.folder)!r} can be read: "
                f"{next(iter(self._damaged.values()))} Remove the folder to begin anew."
            )
        return None

    # -- writing -------------------------------------------------------------------------------

    @property
    def _is_writing(self):
        return self._writer is not None and self._writer.is_alive()

    def _write(self, fit):
        """Copy the state, and write it in a thread."""
        arguments = self.folder, fit.n_steps, fit.state_dict(), self.about(fit.is_over)
        self._writer = threading.Thread(
            target=self._write_copy, args=arguments, name="skdict-checkpoint"
        )
        self._writer.start()

    def _write_copy(self, folder, n_steps, state, about):
        try:
            write_checkpoint(folder, n_steps, state, about)
        except Exception as error:  # told in the thread of the fit
            self._error = n_steps, error

    def _wait(self):
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _tell_of_error(self):
        """Warn if the last checkpoint could not be written; the fit goes on."""
        if self._error is None:
            return
        (n_steps, error), self._error = self._error, None
        warn(not_written(self.folder, n_steps, error))


def newest_of_others(path, folders):
    """The checkpoint that was written last in a path, but for those in some folders; or None."""
    found = [
        checkpoint
        for folder in Path(path).glob("fit-*")
        if folder not in folders
        for checkpoint in checkpoints_in(folder)[:1]
    ]
    return max(found, key=_time_of, default=None)


def _time_of(checkpoint):
    try:
        return checkpoint.stat().st_mtime
    except FileNotFoundError:  # another process has removed it meanwhile
        return -1.0


def check_same(checkpoint, fingerprint, about=None):
    """Refuse a checkpoint of another fit, and name the first difference.

    Parameters
    ----------
    checkpoint : Path
    fingerprint : dict
        Of the fit that is to go on from it.
    about : dict, optional
        What the checkpoint says that it is of, if that is known.
    """
    if about is None:
        try:
            about = _checked(checkpoint, read_about(checkpoint))
        except ValueError as error:
            raise ValueError(
                f"{error} It may be of another fit. Give another path, or remove "
                f"{str(checkpoint.parent)!r}, to begin anew."
            ) from error
    difference = first_difference(about["fingerprint"], fingerprint)
    if difference is None:
        return
    name, before, now = difference
    raise ValueError(
        f"{str(checkpoint)!r} is of another fit, after {step_of(checkpoint)} steps: {name} was "
        f"{before!r}, and is {now!r}. Set it back to go on, or give another path, or remove "
        f"{str(checkpoint.parent)!r}, to begin anew."
    )


def _checked(checkpoint, about):
    """What a checkpoint says that it is of, if it has all that `KeptFit` writes."""
    fields = Fields(about, f"{checkpoint / STATE}, field 'about'")
    fields.inner("fingerprint")
    fields.of_type("is_over", bool)
    return about


def first_difference(before, now):
    """Name and both values of the first entry that differs in two nested dicts, or None."""
    before, now = flat(before), flat(now)
    for name in [*now, *(name for name in before if name not in now)]:
        pair = before.get(name, "missing"), now.get(name, "missing")
        if pair[0] != pair[1] and name not in MAY_DIFFER:
            return name, *pair
    return None


def flat(nested, prefix=""):
    """Entries of nested dicts by their names, without the names of the groups."""
    entries = {}
    for name, value in nested.items():
        if isinstance(value, dict) and not any(key.startswith("$") for key in value):
            entries |= flat(value, "X: " if name == "X" else prefix)
        else:
            entries[prefix + name] = value
    return entries
