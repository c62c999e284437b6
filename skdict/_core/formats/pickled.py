"""What `torch.save` has written, read without executing anything."""

import struct
import zipfile
from contextlib import contextmanager

import torch

from .tensors import FormatError


@contextmanager
def _reading(described):
    try:
        yield
    except FormatError:
        raise
    except Exception as error:  # of whatever kind: the reader is given hostile bytes
        first = str(error).split("\n")[0][:300]
        raise FormatError(
            f"{described} cannot be read as plain tensors: {type(error).__name__}: {first}. A "
            "file that holds a whole model instead has to be saved again, as its state_dict."
        ) from None


def load_torch(path, described, start=0):
    """What ``torch.save`` has written into a file from a place on: plain tensors and containers.

    Parameters
    ----------
    path : Path
    described : str
        The file, in errors.
    start : int
        Where in the file it begins.

    Returns
    -------
    value : object
    """
    with _reading(described):
        if start:
            with open(path, "rb") as file:
                file.seek(start)
                return torch.load(_Tail(file, start), map_location="cpu", weights_only=True)
        with open(path, "rb") as file:
            is_zip = file.read(4) == struct.pack("<I", 0x04034B50)
        if is_zip:
            check_zip(path, described)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)


def check_zip(path, described):
    """Refuse a zip file whose members are larger than the file could hold."""
    with zipfile.ZipFile(path) as members:
        total = sum(member.file_size for member in members.infolist())
    size = path.stat().st_size
    if total > 1100 * size:  # deflate packs a run of equal bytes by 1,032 at most
        raise FormatError(f"{described} claims {total} bytes of content in {size} bytes.")


class _Tail:
    """A file from a place on, as a file of its own."""

    def __init__(self, file, start):
        self.file, self.start = file, start

    def seek(self, offset, whence=0):
        if whence == 0:
            offset += self.start
        return self.file.seek(offset, whence) - self.start

    def tell(self):
        return self.file.tell() - self.start

    def read(self, *size):
        return self.file.read(*size)

    def readline(self, *size):
        return self.file.readline(*size)

    def readinto(self, buffer):
        return self.file.readinto(buffer)
