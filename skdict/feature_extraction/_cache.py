"""Activations kept on disk, one file per sequence of tokens."""

import contextlib
import hashlib
import io
from collections import defaultdict
from pathlib import Path

import joblib
import numpy as np
from filelock import FileLock

from .._core.language.evaluation import evaluation_mode
from .._core.language.fingerprint import CannotDescribeError
from .._core.language.hooks import is_replaced
from ..utils._file_cache import FileCache
from ..utils._warnings import warn


def open_cache(location, layer):
    """Return the cache of a model as it is now, or None if its activations are not to be cached.

    Parameters
    ----------
    location : str, path-like, joblib.Memory or None
        Where the user wants it; None and ``joblib.Memory(None)`` for nowhere.

    layer : Layer

    Returns
    -------
    cache : ActivationCache or None
    """
    if location is None or getattr(location, "store_backend", location) is None:
        return None
    model = layer.network.module
    with evaluation_mode(model):  # as it is run, and without the hooks of other threads
        if is_replaced(model):  # the activations would be those of another model
            return None
        try:
            fingerprint = layer.network.fingerprint
        except CannotDescribeError as error:
            warn(
                f"cache is not used: what the {type(model).__name__} computes may depend on "
                f"its {error}, of which there is no telling whether it is the same as before. "
                "Leave it out of the model, or set cache=None."
            )
            return None
    where = f"{layer.path} {layer.side} {layer.feature_axis}"
    return ActivationCache(location, fingerprint, where)


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
                warn(
                    f"The {type(network.module).__name__} changes its own attributes or tensors "
                    "as it is run. Its activations could not be found again, so they are not kept "
                    "in cache."
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

    def read_all(self, layer, follow=iter):
        """Yield (index of an input, its activations) of all inputs, as `Layer.read_all`.

        The model is run on those inputs only whose activations are not in the folder.
        """
        inputs = layer.inputs
        missing = defaultdict(list)  # {key: inputs, several where they are alike}
        for item in range(len(inputs)):
            key = self.key(inputs.content(item))
            activations = self.load(key)
            if activations is None:
                missing[key].append(item)
            else:
                yield item, activations
        keys = {items[0]: key for key, items in missing.items()}
        for batch in follow(layer.batches(keys)):
            for first, activations in self._read_new(layer, batch, keys):
                yield from ((item, activations) for item in missing[keys[first]])

    def _read_new(self, layer, batch, keys):
        """Run the model on a batch, and store its activations; return (input, activations)."""
        # The model's lock before the folder's, always: in another order two processes could wait
        # for each other. Both are held for one batch only, and the caller's code runs in neither.
        with evaluation_mode(layer.network.module), self.lock():
            # others may have run it while this process waited for the lock
            found = {item: self.load(keys[item]) for item in batch}
            new = [item for item, activations in found.items() if activations is None]
            found.update(zip(new, layer.read(new) if new else (), strict=True))
            if new and self.is_for(layer.network):
                for item in new:
                    self.store(keys[item], found[item])
        return found.items()
