"""Activations on disk, one file per sequence of tokens or sample."""

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
                f"its {error}, which cannot be compared with what it was before. Leave it out of "
                "the model, or set cache=None."
            )
            return None
    where = f"{layer.path} {layer.side} {layer.feature_axis}"
    if layer.call is not None:
        where += f" {layer.call}"
    return ActivationCache(location, fingerprint, where)


class ActivationCache(FileCache):
    """A folder of ``.npy`` files, each with a checksum after its array.

    The name of a file is a digest of the model's input, that of its sub-folder a digest of the
    model and the layer. Nothing is pickled.

    Parameters
    ----------
    location : str, path-like or joblib.Memory
        The folder. For a Memory it is the Memory's own, so that ``memory.clear()`` empties both.

    fingerprint : str
        Digest of the model.

    where : str
        Layer, side, feature axis and call of the activations.
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
        """Whether the model is the same after a run as before; compared once."""
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
        """Return the name of the file with the activations for an input of the model."""
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
        """Let other processes that use the same sub-folder wait during a ``with`` block."""
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
