"""Files that appear when they are complete."""

import hashlib
import os
import uuid
from contextlib import contextmanager, suppress

try:
    import fcntl
except ImportError:  # on Windows, where no file can be removed that is open
    fcntl = None


@contextmanager
def replacing(path):
    """Open a file that takes the place of `path` when the ``with`` block is done.

    Until then it stands beside it, under a short name of its own, and is locked. What killed
    writers have left is not, and is removed by the next one.

    Parameters
    ----------
    path : pathlib.Path

    Yields
    ------
    file : text file in UTF-8
    """
    start = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}-"
    for left in path.parent.glob(f"{start}*.tmp"):
        _remove_unless_locked(left)
    temporary = path.with_name(f"{start}{uuid.uuid4().hex[:8]}.tmp")
    file = _open_locked(temporary)
    try:
        yield file
        file.flush()
        if fcntl is None:
            file.close()
        os.replace(temporary, path)  # before it is closed, and with that unlocked
    finally:
        file.close()
        temporary.unlink(missing_ok=True)


def _open_locked(path):
    while True:
        file = open(path, "x", encoding="utf-8")  # noqa: SIM115 - the caller closes it
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():  # not taken for what is left, before it was locked
            return file
        file.close()


def _remove_unless_locked(path):
    with suppress(OSError):  # it is locked, or somebody else has removed it
        with open(path, "rb") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        if fcntl is None:
            path.unlink()
