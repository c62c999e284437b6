"""Activations kept on disk, one file per sequence of tokens."""

import contextlib
import hashlib
import io
import warnings
from pathlib import Path

import joblib
import numpy as np
from filelock import FileLock

from .._core.language.fingerprint import CannotDescribeError
from ..utils._file_cache import FileCache


class ActivationCache(FileCache):
    """A folder of ``.npy`` files, each with a checksum behind its array.

    A file is found by a digest of what the model was given, in a sub-folder named by a digest of
    the model and the layer. Nothing in it is pickled.

    Parameters
    ----------
    location : str, path-like or joblib.Memory
        The folder; of a Memory, its own, so that ``memory.clear()`` empties both.

    fingerprint : str
        What the model is known by.

    where : str
        Where in the model the activations are from, and what is a feature there.
    """

    suffix = ".npy"

    def __init__(self, location, fingerprint, where):
        if isinstance(location, joblib.Memory):
            location = location.store_backend.location
        self._fingerprint = fingerprint
        self._is_for = None
        identity = f"2 {fingerprint} {where}"  # 2: with a checksum
        digest = hashlib.sha256(identity.encode()).hexdigest()
        super().__init__(
            Path(location).expanduser() / f"activations-{digest[:24]}",
            digest,
            "Its activations, and those of others like it, are computed again.",
        )

    def is_for(self, network):
        """Whether a model is, after a run, what it was before; looked at once."""
        if self._is_for is None:
            try:
                self._is_for = network.fingerprint == self._fingerprint
            except CannotDescribeError:
                self._is_for = False
            if not self._is_for:
                warnings.warn(
                    f"The {type(network.module).__name__} changes its own attributes or tensors "
                    "as it is run. Its activations could not be found again, so they are not kept "
                    "in cache.",
                    stacklevel=4,
                )
        return self._is_for

    def key(self, content):
        """Return the name that the activations of an array of model inputs go by."""
        header = f"{content.dtype.str}{content.shape}".encode()
        return hashlib.sha256(header + content.tobytes()).hexdigest()[:40]

    def encode(self, activations):
        """Return an array (n_positions, n_features) in NumPy's format."""
        file = io.BytesIO()
        np.save(file, activations, allow_pickle=False)
        return file.getvalue()

    def decode(self, content):
        """Return the array, which shares memory with the content."""
        file = io.BytesIO(content)
        np.lib.format.read_magic(file)
        shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file)
        values = np.frombuffer(content, dtype, offset=file.tell())
        return values.reshape(shape, order="F" if in_columns else "C")

    @contextlib.contextmanager
    def lock(self):
        """Keep other processes that use the same sub-folder waiting during a ``with`` block."""
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(self.folder / "lock"))
            except (OSError, ValueError, NotImplementedError) as error:
                self.warn_of_writing(error)
            yield


def has_location(cache):
    """Tell whether there is a folder to keep activations in; `joblib.Memory(None)` has none."""
    return cache is not None and getattr(cache, "store_backend", cache) is not None
