"""Results kept on disk, which are never worth more than the result that they stand for."""

import contextlib
import os
import uuid
import zlib

from ._warnings import warn


class FileCache:
    """A folder of files that are found by their keys, shared by any threads and processes.

    A file is written under another name, is on the disk before it is renamed, and ends in a
    checksum of its key and content: there is never half a file under its own name, and one that
    does not hold what was written there is taken for missing. Nothing is ever deleted. What
    cannot be read or written costs no more than the file, and one warning, however many there
    are. Subclasses say how a result is written.

    Parameters
    ----------
    folder : Path

    identity : str
        What all keys have in common: files from elsewhere are not believed.

    instead : str
        A sentence for the warnings that says what is done without the files.
    """

    suffix = None

    def __init__(self, folder, identity, instead):
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
        """Return the end of a file, of equal length for any checksum of 8 characters."""
        return checksum

    def load(self, key):
        """Return a result, or None where there is none."""
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                whole = file.read()
        except (FileNotFoundError, NotADirectoryError):  # to write is what will fail
            return None
        except (OSError, ValueError) as error:  # ValueError: not the name of a file
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
        """Keep a result."""
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
        except Exception as error:  # whatever it is, the result is there
            self.warn_of_writing(error)

    def warn_of_writing(self, error):
        """Say, once, that the folder cannot be written to or locked."""
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
