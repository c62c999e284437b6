"""Write files that only appear when they are complete."""

import hashlib
import os
import shutil
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows, where an open file cannot be removed
    fcntl = None

from .._core.making_folders import check_local


@contextmanager
def replacing(path, *, binary=False):
    """Open a file that replaces `path` at the end of the ``with`` block.

    Until then it is beside `path`, under a short name, and locked. A file that a killed process
    has left is not locked, and the next call removes it.

    Parameters
    ----------
    path : pathlib.Path
    binary : bool, default=False

    Yields
    ------
    file : text file in UTF-8, or of bytes
    """
    start = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}-"
    for left in path.parent.glob(f"{start}*.tmp"):
        _remove_unless_locked(left)
    temporary = path.with_name(f"{start}{uuid.uuid4().hex[:8]}.tmp")
    file = _open_locked(temporary, binary)
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:
            file.close()
        os.replace(temporary, path)  # before closing it, which unlocks it
    finally:
        file.close()
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder, *, overwrite=False):
    """A new folder that takes the place of `folder` at the end of the ``with`` block.

    Until then it is beside it, under a hidden name, and what was there stays as it is. An old
    folder is set aside under a hidden name before the new one takes its place, and comes back if
    that fails. Where `folder` is a symbolic link, the folder that it leads to is replaced.

    Parameters
    ----------
    folder : pathlib.Path
    overwrite : bool, default=False
        Whether it may hold files: those that the new one has too, and no others.

    Yields
    ------
    temporary : pathlib.Path
        Empty.

    Raises
    ------
    FileExistsError
        If it holds files that would be lost.
    ValueError
        If it is the working directory, or one above it, which a process cannot lose; or a URL.
    """
    check_local(folder)
    given, folder = folder, folder.resolve()
    if Path.cwd().is_relative_to(folder):
        raise ValueError(
            f"{str(given)!r} is the working directory or above it, and cannot be replaced. Name a "
            "folder in it."
        )
    if not overwrite and _names_in(folder):
        raise FileExistsError(
            f"{str(folder)!r} holds files already. Give overwrite=True to replace them, or "
            "another folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    unique = f".{folder.name}-{uuid.uuid4().hex[:8]}"
    temporary, aside = folder.with_name(f"{unique}.tmp"), folder.with_name(f"{unique}.old")
    temporary.mkdir()
    try:
        yield temporary
        lost = sorted(_names_in(folder) - _names_in(temporary))
        if lost:
            raise FileExistsError(
                f"{str(folder)!r} holds files that would be lost: {', '.join(lost[:8])}. Remove "
                "it, or give another folder."
            )
        _put_in_place(temporary, folder, aside)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def _put_in_place(temporary, folder, aside):
    is_old = folder.exists()
    if is_old:
        os.rename(folder, aside)
    try:
        os.rename(temporary, folder)
    except BaseException:  # an interruption too
        if is_old:
            os.rename(aside, folder)
        raise


def _names_in(folder):
    """Names of all files of a folder, those in folders of it too; of a file its own."""
    if folder.is_file():
        return {folder.name}
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _open_locked(path, binary):
    mode, encoding = ("xb", None) if binary else ("x", "utf-8")
    while True:
        file = open(path, mode, encoding=encoding)  # noqa: SIM115 - the caller closes it
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
