"""Matrices of all atoms in files, which processes write together, each its rows, and map."""

import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from ..sizes import size_of

# Bytes of the matrices of all atoms above which no process has them in memory.
LARGEST_IN_MEMORY = 4 << 30
# Bytes that are written at a time.
WRITTEN_AT_A_TIME = 64 << 20


class NoFileError(Exception):
    """A file cannot be written or mapped by all processes; says why, the same in all."""


class Tables:
    """Gives each process the matrices of all atoms: in memory, or large ones as maps of a file.

    All of the processes use it, in the same order.

    Parameters
    ----------
    strategy : Strategy
        By which each has some of the atoms.
    folder : Path, optional
        That all of them see, for the files. By default a temporary one, whose files are removed
        when they are of no more use to the first process.
    tell : callable, optional
        Called with a str where there can be no file: matrices are in memory then. None has all of
        them in memory.
    """

    def __init__(self, strategy, folder=None, tell=None):
        self._strategy, self._ranks = strategy, strategy.features
        self._folder, self._is_temporary = folder, folder is None
        self._tell = tell
        self._can_write = tell is not None
        self._n_files = 0
        self._paths = []  # of the files that are being written, which are left out if one fails
        self._maps = []  # tensors, each with the array that maps the same

    def gather(self, own):
        """Matrices of all atoms, of which each process has its own rows.

        Parameters
        ----------
        own : dict of str to tensor
            By the names of the files.

        Returns
        -------
        matrices : dict of str to tensor
            On the CPU where they are maps.
        """
        n_bytes = sum(rows[0].nbytes for rows in own.values()) * self._strategy.n_components
        if n_bytes > LARGEST_IN_MEMORY and self._can_write:
            self._paths = []
            try:
                found = {name: self._in_file(name, rows) for name, rows in own.items()}
            except NoFileError as error:
                self._can_write = False
                self._remove_files()
                self._tell(
                    f"The dictionary cannot be a file that all processes map: {error}. Each has "
                    f"it in memory, {size_of(n_bytes)}. Give a Checkpoint with a path that "
                    "all of them see, and where there is room."
                )
            else:
                self._maps = list(found.values())
                return {name: tensor for name, (tensor, _) in found.items()}
        return {name: self._strategy.whole(rows) for name, rows in own.items()}

    def array_of(self, tensor):
        """The ndarray of a tensor on the CPU: a read-only `numpy.memmap` where it is a map."""
        for mapped, array in self._maps:
            if mapped is tensor:
                return array
        return tensor.numpy()

    def _in_file(self, name, rows):
        """Write a file together; a tensor and an array that map it."""
        self._together(self._make_folder, first=True)
        self._folder = self._ranks.from_first(self._folder)
        self._n_files += 1
        number = f"-{self._n_files}" if self._is_temporary else ""  # one may go, another come
        path = self._folder / f"{name}{number}.npy"
        temporary = path.with_suffix(".npy.tmp")
        self._paths += [temporary, path]
        shape = (self._strategy.n_components, *rows.shape[1:])
        self._together(lambda: _make_file(temporary, shape, rows), first=True)
        self._together(lambda: _write_rows(temporary, rows, self._strategy.start))
        self._together(lambda: os.replace(temporary, path), first=True)
        array = self._together(lambda: np.load(path, mmap_mode="r"))
        if self._is_temporary and self._ranks.rank == 0:
            weakref.finalize(array, _remove, path)
        # with pages of its own where something is written: torch has no read-only memory
        return torch.from_numpy(np.load(path, mmap_mode="c")), array

    def _remove_files(self):
        """Give back the room that files take which are of no use, and the folder."""
        if self._ranks.rank == 0 and self._folder is not None:
            for path in self._paths:
                _remove(path)

    def _make_folder(self):
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="skdict-"))
        self._folder.mkdir(exist_ok=True)

    def _together(self, function, first=False):
        """Call a function in each process, or in the first; an error of one is one of all."""
        found = error = None
        if not first or self._ranks.rank == 0:
            try:
                found = function()
            except (OSError, ValueError) as raised:
                error = f"{raised}"
        for rank, message in enumerate(self._ranks.objects(error)):
            if message is not None:
                raise NoFileError(f"in process {rank}: {message}")
        return found


def _make_file(path, shape, like):
    """A file of numpy for an array of a shape, with a tensor's dtype; its numbers are zeros."""
    dtype = like.new_empty(0, device="cpu").numpy().dtype
    with open(path, "wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + int(np.prod(shape)) * dtype.itemsize)


def _write_rows(path, rows, start):
    """Write rows of an array at their place: not through a map, where a full disk kills."""
    with open(path, "r+b") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        file.seek(start * rows[0].nbytes, os.SEEK_CUR)
        for piece in rows.split(max(1, WRITTEN_AT_A_TIME // rows[0].nbytes)):
            file.write(piece.contiguous().cpu().numpy().data)
        file.flush()
        os.fsync(file.fileno())


def _remove(path):
    """Remove a file, and its folder with the last one; a map of it stays what it is."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
