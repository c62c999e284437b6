"""Activations kept on disk, one file per sequence of tokens."""

import hashlib
import os
import uuid
import warnings
from pathlib import Path

import joblib
import numpy as np
from filelock import FileLock


class ActivationCache:
    """A folder of ``.npy`` files, shared by any number of processes.

    A file is written under another name and then renamed, so that there is never half a file
    under its own; nothing in it is pickled. It is found by a digest of what the model was
    given, in a sub-folder named by a digest of the model and the layer.

    Parameters
    ----------
    location : str, path-like or joblib.Memory
        The folder; of a Memory, its own, so that ``memory.clear()`` empties both.

    identity : tuple of str
        What the activations depend on besides the model's input.
    """

    def __init__(self, location, identity):
        if isinstance(location, joblib.Memory):
            location = location.store_backend.location
        digest = hashlib.sha256("\0".join(identity).encode()).hexdigest()
        self.folder = Path(location).expanduser() / f"activations-{digest[:24]}"

    def key(self, content):
        """Return the name that the activations of an array of model inputs go by."""
        header = f"{content.dtype.str}{content.shape}".encode()
        return hashlib.sha256(header + content.tobytes()).hexdigest()[:40]

    def read(self, key):
        """Return the activations (n_positions, n_features), or None where there are none."""
        path = self._path(key)
        try:
            activations = np.load(path, allow_pickle=False)
            damaged = activations.ndim != 2 or activations.dtype != np.float32
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError):
            damaged = True
        if damaged:
            warnings.warn(
                f"{path} in the folder given as cache is damaged. Its activations are computed "
                "again.",
                stacklevel=2,
            )
            path.unlink(missing_ok=True)
            return None
        return activations

    def write(self, key, activations):
        """Keep activations."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
        try:
            with open(temporary, "xb") as file:
                np.save(file, activations, allow_pickle=False)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def lock(self):
        """Return a lock among all processes that use the same sub-folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "lock")

    def _path(self, key):
        return self.folder / key[:2] / f"{key}.npy"


def has_location(cache):
    """Tell whether there is a folder to keep activations in; `joblib.Memory(None)` has none."""
    return cache is not None and getattr(cache, "store_backend", cache) is not None
