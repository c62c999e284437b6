"""Write files that only appear when they are complete."""

import hashlib
import os
import uuid
from contextlib import contextmanager, suppress

try:
    import fcntl
except ImportError:  # on Windows, where an open file cannot be removed
    fcntl = None


@contextmanager
def replacing(path):
    """Open a file that replaces `path` at the end of the ``with`` block.

    Until then it is beside `path`, under a short name, and locked. A file that a killed process
    has left is not locked, and the next call removes it.

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
        os.replace(temporary, path)  # before closing it, which unlocks it
    finally:
        file.close()
        temporary.unlink(missing_ok=True)


def _open_locked(path):
    while True:
        file = open(path, "x", encoding="utf-8")  # noqa: SIM115 - the caller closes it
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():  # else another process has removed it before it was locked
            return file
        file.close()


def _remove_unless_locked(path):
    with suppress(OSError):  # it is locked, or another process has removed it
        with open(path, "rb") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        if fcntl is None:
            path.unlink()
