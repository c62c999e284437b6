"""Read several layers of a model in the same forward passes, a portion of windows at a time.

A portion is a run of consecutive windows, whose batches are made of windows of similar length. It
follows from its first window which others belong to it, and from these what the model is given. So
reading that goes on at a portion's start gives the same rows to the bit.
"""

from typing import NamedTuple

import numpy as np
import torch

from .evaluation import evaluation_mode
from .hooks import read_activations
from .layers import Layer
from .windows import PROBE, TokenWindows, batches_by_length

# A portion has about so many bytes of activations, and at most so many batches of the model.
PORTION_BYTES = 1 << 26
PORTION_BATCHES = 16


class Window(NamedTuple):
    """Tokens of a document that the model is given at once.

    Parameters
    ----------
    document, index : int
        The document, and which of its windows this is.
    ids : ndarray of shape (n_tokens,), int64
    kept : ndarray of shape (n_tokens,), bool
        Which tokens have a row.
    spans : ndarray of shape (n_tokens, 2) or None
        Their characters.
    id : int or None
        What the document is called.
    """

    document: int
    index: int
    ids: np.ndarray
    kept: np.ndarray
    spans: np.ndarray | None = None
    id: int | None = None

    @property
    def n_rows(self):
        return int(np.count_nonzero(self.kept))


class LayersReader:
    """The activations of windows at several layers of a network.

    Parameters
    ----------
    network : Network
    places : dict of str to (str, str)
        Path and side of each layer, by name.
    batch_size : int
        Most windows in a forward pass.
    feature_axis : int or "auto"
    call : int or None
        As of `Layer`.
    length : int or None
        Most tokens of a window.
    pad_id : int
    """

    def __init__(self, network, places, *, batch_size, feature_axis, call, length, pad_id):
        probe = np.array(PROBE[: length or len(PROBE)])
        first = TokenWindows([0], [probe], [np.ones(len(probe), dtype=bool)], pad_id=pad_id)
        self._network, self._places, self._call = network, places, call
        self._batch_size, self._pad_id = batch_size, pad_id
        self._layers = {
            name: Layer(
                network,
                *place,
                first,
                batch_size=batch_size,
                feature_axis=feature_axis,
                call=call,
            )
            for name, place in places.items()
        }
        self._padding = all(layer.padding for layer in self._layers.values())

    @property
    def widths(self):
        """{name of a layer: number of features}."""
        return {name: layer.n_features for name, layer in self._layers.items()}

    @property
    def dtype(self):
        """What the model computes in."""
        return self._network.dtype

    def portions(self, windows):
        """Yield lists of windows that are read together, of those that have rows.

        Parameters
        ----------
        windows : iterable of Window
        """
        row_bytes = sum(self.widths.values()) * self.dtype.itemsize
        portion, n_rows = [], 0
        for window in windows:
            if window.n_rows == 0:
                continue
            portion.append(window)
            n_rows += window.n_rows
            is_large = n_rows * row_bytes >= PORTION_BYTES and len(portion) >= self._batch_size
            if is_large or len(portion) == PORTION_BATCHES * self._batch_size:
                yield portion
                portion, n_rows = [], 0
        if portion:
            yield portion

    def read(self, portion):
        """The rows of some windows, in their order.

        Parameters
        ----------
        portion : list of Window

        Returns
        -------
        rows : dict of str to tensor of shape (n_rows, width)
            Of each layer, on the CPU, as the model computes them.
        """
        ids, kept = [window.ids for window in portion], [window.kept for window in portion]
        windows = TokenWindows(range(len(portion)), ids, kept, pad_id=self._pad_id)
        stops = np.cumsum(windows.n_rows(None))
        rows = {}
        batches = batches_by_length(
            range(len(portion)), windows.lengths, self._batch_size, padding=self._padding
        )
        for batch, forward, _, mask in windows.passes(self._network, batches):
            for name, activation in zip(self._layers, self._run(forward), strict=True):
                axis = self._layers[name].feature_axis
                x = windows.of_tokens(activation, batch, axis)
                x = x[mask.to(x.device)].cpu()  # (n_rows of the batch, width)
                if name not in rows:
                    rows[name] = x.new_empty(int(stops[-1]), x.shape[1])
                parts = x.split([portion[window].n_rows for window in batch])
                for window, part in zip(batch, parts, strict=True):
                    rows[name][stops[window] - len(part) : stops[window]] = part
        return rows

    def _run(self, forward):
        model = self._network.module
        with evaluation_mode(model), torch.no_grad():
            return read_activations(
                model, list(self._places.values()), forward, call=self._call or 0
            )


def columns_of(portion):
    """What token each row of some windows belongs to: dict of arrays (n_rows,), int64.

    "position" counts in the window, special tokens included; "start" and "end" are there
    where the characters are known.
    """
    n_rows = [window.n_rows for window in portion]
    columns = {
        "document": np.repeat([window.document for window in portion], n_rows),
        "position": np.concatenate([np.flatnonzero(window.kept) for window in portion]),
        "token_id": np.concatenate([window.ids[window.kept] for window in portion]),
    }
    if portion[0].spans is not None:
        spans = np.concatenate([window.spans[window.kept] for window in portion])
        columns |= {"start": spans[:, 0], "end": spans[:, 1]}
    if portion[0].id is not None:
        columns["id"] = np.repeat([window.id for window in portion], n_rows)
    return columns
