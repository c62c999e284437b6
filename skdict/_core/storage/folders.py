"""The folder of a store: on this machine, or remote through fsspec.

All names are relative to it, with "/". Files are written under a temporary name in the same folder
and renamed. Remote files are written on this machine first, and then uploaded; they are complete
as soon as they are there.
"""

import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

# A remote file is read in ranges of at least so many bytes: a request takes as long as these.
REMOTE_BYTES = 8 << 20


def open_folder(path):
    """The folder of a store.

    Parameters
    ----------
    path : str or path-like
        With "://" a URL that fsspec knows.

    Returns
    -------
    folder : LocalFolder or RemoteFolder
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise TypeError(f"path must be a str or a path, but it is a {type(path).__name__}.")
    text = os.fspath(path)
    if "://" not in text:
        return LocalFolder(text)
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    fs, root = fsspec.core.url_to_fs(text)
    return LocalFolder(root) if isinstance(fs, LocalFileSystem) else RemoteFolder(text, fs, root)


class LocalFolder:
    """Files of a folder on this machine."""

    is_remote = False

    def __init__(self, path):
        self.path = os.path.abspath(os.path.expanduser(path))
        self._root = Path(self.path)

    def where(self, name):
        """A file in errors."""
        return str(self._root / name)

    def names(self, folder):
        """Names of the files of a folder, sorted; none if there is no such folder."""
        try:
            return sorted(os.listdir(self._root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def exists(self, name):
        return (self._root / name).is_file()

    def read(self, name, most):
        """The content of a file; a ValueError if it has more than ``most`` bytes."""
        try:
            with open(self._root / name, "rb") as file:
                _check_size(self.where(name), os.fstat(file.fileno()).st_size, most)
                return file.read()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            if not self._root.is_dir():
                found = "is a file" if self._root.exists() else "does not exist"
                raise ValueError(
                    f"{self.path} {found}. Give the folder of a store of activations."
                ) from None
            raise _missing(self.where(name)) from None

    def open(self, name):
        """A file to read from, by several threads at once."""
        path = self._root / name
        try:
            if hasattr(os, "preadv"):
                return PositionalFile(os.open(path, os.O_RDONLY))
            return SeekingFile(open(path, "rb"), os.path.getsize(path))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise _missing(self.where(name)) from None

    def temporary(self, name):
        """Where to write a file that `publish` will name so."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".tmp-{path.name}")

    def publish(self, temporary, name):
        """Give a file, which is flushed to disk, its name."""
        os.replace(temporary, self._root / name)
        self._sync(name)

    def write(self, name, content):
        """Write a small file in one step, in the place of what is there."""
        temporary = self.temporary(name)
        _write(temporary, content)
        self.publish(temporary, name)

    def create(self, name, content, owner):
        """Write a small file in one step, unless it is there.

        Several may do so at once. The temporary file is the owner's, whose number it has: the
        next one of that number takes it over.
        """
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{owner:08d}-{path.name}")
        try:
            _write(temporary, content)
            try:
                os.link(temporary, path)  # fails if it is there
            except FileExistsError:
                return
            except OSError:  # a file system without links
                os.rename(temporary, path)
            self._sync(name)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    def remove(self, name):
        with suppress(FileNotFoundError):
            os.unlink(self._root / name)

    def remove_spool(self):
        """Do nothing: files are written where they stay."""

    def _sync(self, name):
        if os.name == "posix":
            fd = os.open((self._root / name).parent, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


class RemoteFolder:
    """Files that fsspec finds."""

    is_remote = True

    def __init__(self, path, fs, root):
        self.path, self._fs, self._root = path, fs, root.rstrip("/")
        self._spool = None

    def where(self, name):
        return f"{self.path.rstrip('/')}/{name}"

    def names(self, folder):
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(f"{self._root}/{folder}", detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def exists(self, name):
        return self._fs.isfile(f"{self._root}/{name}")

    def read(self, name, most):
        path = f"{self._root}/{name}"
        try:
            _check_size(self.where(name), self._fs.size(path), most)
            return self._fs.cat_file(path)
        except (FileNotFoundError, IsADirectoryError):
            raise _missing(self.where(name)) from None

    def open(self, name):
        path = f"{self._root}/{name}"
        try:
            options = {"block_size": REMOTE_BYTES, "cache_type": "readahead"}
            file = self._fs.open(path, "rb", **options)
            return SeekingFile(file, self._fs.size(path))
        except (FileNotFoundError, IsADirectoryError):
            raise _missing(self.where(name)) from None

    def temporary(self, name):
        if self._spool is None:
            self._spool = tempfile.TemporaryDirectory(prefix="skdict-")
        return Path(self._spool.name) / name.replace("/", "-")

    def remove_spool(self):
        """Remove what is on this machine of files that are not uploaded."""
        if self._spool is not None:
            self._spool.cleanup()
            self._spool = None

    def publish(self, temporary, name):
        path = f"{self._root}/{name}"
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(temporary), path)
        os.unlink(temporary)

    def write(self, name, content):
        path = f"{self._root}/{name}"
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(path, content)

    def create(self, name, content, owner):
        if not self.exists(name):
            self.write(name, content)

    def remove(self, name):
        with suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}")


class PositionalFile:
    """A file that is read by position: by several threads at once, and pages are not mapped."""

    def __init__(self, fd):
        self._fd = fd
        self.n_bytes = os.fstat(fd).st_size

    def read_into(self, buffer, start):
        """Fill a memoryview of bytes from a position; returns how many there were."""
        n = 0
        while n < len(buffer):
            new = os.preadv(self._fd, [buffer[n:]], start + n)
            if new == 0:
                break
            n += new
        return n

    def close(self):
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __del__(self):  # readers drop files that other threads may still read from
        self.close()


class SeekingFile:
    """The same of a file object."""

    def __init__(self, file, n_bytes):
        self._file, self.n_bytes, self._lock = file, n_bytes, threading.Lock()

    def read_into(self, buffer, start):
        with self._lock:
            self._file.seek(start)
            n = 0
            while n < len(buffer):
                part = self._file.read(len(buffer) - n)
                if not part:
                    break
                buffer[n : n + len(part)] = part
                n += len(part)
        return n

    def close(self):
        self._file.close()


def _write(path, content):
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _check_size(where, n_bytes, most):
    if n_bytes > most:
        raise ValueError(f"{where} has {n_bytes} bytes, more than the {most} that it may have.")


def _missing(where):
    return ValueError(
        f"{where} is missing. Restore it from a copy; or, if the folder is no store of "
        "activations, give the path of one."
    )
