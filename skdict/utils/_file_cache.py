"""Results on disk. If a file cannot be read or written, the result is computed all the same."""

import contextlib
import os
import uuid
import zlib

from .._core.making_folders import check_local
from ._warnings import warn


class FileCache:
    """A folder of files that are found by their keys, shared by any threads and processes.

    A file is written under a temporary name, flushed to disk and then renamed, so a file is
    complete if it exists. It ends in a checksum of its key and content; if that is wrong, the
    file counts as missing. Files are never deleted. A file that cannot be read or written does
    not stop the computation, and there is one warning for any number of them. Subclasses say how
    a result is written.

    Parameters
    ----------
    folder : Path

    identity : str
        What all keys have in common. It is part of the checksum, so files of another cache are
        not used.

    instead : str
        A sentence for the warnings: what is done without the file.
    """

    suffix = None

    def __init__(self, folder, identity, instead):
        check_local(folder)
        self.folder = folder
        self._identity = identity
        self._instead = instead
        self._warned = {}

    def encode(self, result):
        """Return the content of a file, bytes."""
        raise NotImplementedError

    def decode(self, content):
        """Return the result that `encode` was given."""
        raise NotImplementedError

    def seal(self, checksum):
        """Return the end of a file with this checksum, of the same length for all checksums."""
        return checksum

    def load(self, key):
        """Return a result, or None if it is not there."""
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                whole = file.read()
        except (FileNotFoundError, NotADirectoryError):  # the warning comes when it is written
            return None
        except (OSError, ValueError) as error:  # ValueError: no file can have this name
            self._warn(
                "read",
                f"{path} in the folder given as cache cannot be read: {error}. {self._instead}",
            )
            return None
        n_seal = len(self.seal(b"00000000"))
        content, seal = whole[:-n_seal], whole[-n_seal:]
        if seal != self._seal(key, content):
            self._warn(
                "damaged",
                f"{path} in the folder given as cache is damaged. {self._instead}",
            )
            return None
        return self.decode(content)

    def store(self, key, result):
        """Write a result to its file."""
        path = self._path(key)
        temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
        try:
            content = self.encode(result)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "xb") as file:
                    file.write(content)
                    file.write(self._seal(key, content))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
        except Exception as error:  # the result is there in any case
            self.warn_of_writing(error)

    def warn_of_writing(self, error):
        """Warn, once, that the folder cannot be written to or locked."""
        self._warn(
            "written",
            f"cache cannot be written to, in {self.folder}: {error}. Results are the same, but "
            "not all of them are kept.",
        )

    def _warn(self, kind, message):
        if self._warned.setdefault(kind, message) is message:  # the first, of all threads
            warn(message)

    def _seal(self, key, content):
        checksum = zlib.crc32(content, zlib.crc32(f"{self._identity} {key}".encode()))
        return self.seal(f"{checksum:08x}".encode())

    def _path(self, key):
        return self.folder / key[:2] / f"{key}{self.suffix}"
