"""Codes of one feature at the places of the rows: in pictures and series."""

import math

import numpy as np

from ...utils._arrays import as_numbers, to_ndarray
from ...utils._drawing import PLAIN_TEXT, axes_for, plain
from ..codes._active import selected
from ..codes._collecting import collect_codes
from ..codes._store import as_feature_codes
from ..codes._tokens import token_columns


def greatest_maps(X, dictionary, positions, axes, feature, *, n_documents, n_greatest, name):
    """The codes of a feature in those documents in which its greatest code is largest.

    Parameters
    ----------
    X, dictionary
        Codes, or what :func:`collect_codes` makes codes of.
    positions : mapping
        As `ActivationExtractor.positions` returns it.
    axes : tuple of str
        Columns of `positions` that make up the grid, such as ("y", "x").
    feature : int
    n_documents, n_greatest : int
        How many documents there are, and how many are wanted at most.
    name : str
        What the user calls the documents, such as "images".

    Returns
    -------
    documents : ndarray of int64 of shape (n_found,)
        In descending order of the greatest code; the feature is active in each.
    maps : ndarray of float64 of shape (n_found, *grid)
        Codes, 0 where the feature is not active. The grid is as large as `positions` tells.
    """
    codes = as_feature_codes(X) if dictionary is None else collect_codes(dictionary, X)
    n_rows = codes.n_rows
    column = codes.columns(selected([feature], codes.n_components, name="feature"))
    rows, values = column.indices, column.data
    keys = ("document", *axes)
    positions = token_columns(positions, keys, n_rows=n_rows, integers=keys, name="positions")
    places = np.stack([positions[key] for key in keys])  # (1 + n_axes, n_rows)
    if places.min(initial=0) < 0:
        raise ValueError(
            f"positions has {places.min()} among {', '.join(keys)}, which count from 0. Pass what "
            "ActivationExtractor.positions(X) returns."
        )
    if places[0].max(initial=0) >= n_documents:
        raise ValueError(
            f"positions has documents from {places[0].min()} to {places[0].max()}, but {name} has "
            f"{n_documents} entries. Give those {name} that the positions were taken from."
        )
    grid = places[1:].max(axis=1, initial=0) + 1
    document, *place = places[:, rows]
    greatest = np.zeros(n_documents)
    np.maximum.at(greatest, document, values)
    documents = np.argsort(-greatest, kind="stable")[:n_greatest]
    documents = documents[greatest[documents] > 0]
    if len(documents) == 0:
        raise ValueError(
            f"feature={feature} is not active on any of the {n_rows} rows. Choose one that is: "
            "feature_statistics(X).n_active counts the rows of each."
        )
    maps = np.zeros((len(documents), *grid))
    for found, index in zip(maps, documents, strict=True):
        here = document == index
        found[tuple(axis[here] for axis in place)] = values[here]
    return documents, maps


def channels_last(data, documents, channel_axis, name, *, n_axes, n_channels):
    """Some pictures or series with their channels on the last axis.

    Parameters
    ----------
    data : array-like or torch.Tensor of shape (n_documents, ...)
    documents : ndarray of int64 of shape (n_wanted,)
    channel_axis : "auto", 1 or -1
        "auto" needs exactly one of these axes to have a length in `n_channels`.
    name : str
        What the user calls `data`.
    n_axes : int
        Axes of a picture or series without its channels.
    n_channels : tuple of int, or None
        How many channels can be drawn; None for any number, of which "auto" knows 1 only.

    Returns
    -------
    drawn : ndarray of float64 of shape (n_wanted, ..., n_channels)
        Bytes are divided by 255.
    """
    data = to_ndarray(as_numbers(data, name))
    if data.ndim not in (n_axes + 1, n_axes + 2) or 0 in data.shape:
        raise ValueError(
            f"{name} must have {n_axes + 1} axes, or {n_axes + 2} with one of channels, but has "
            f"shape {data.shape}."
        )
    if data.ndim == n_axes + 1 and channel_axis != "auto":
        raise ValueError(
            f"{name} has shape {data.shape}, without an axis of channels, but channel_axis="
            f"{channel_axis} names one. Leave it 'auto', or give {name} with {n_axes + 2} axes."
        )
    drawn = data[documents]
    drawn = drawn / 255 if drawn.dtype == np.uint8 else drawn.astype(np.float64)
    if data.ndim == n_axes + 1:
        return drawn[..., None]
    if channel_axis == "auto":
        possible = [axis for axis in (1, -1) if data.shape[axis] in (n_channels or (1,))]
        if len(possible) != 1:
            raise ValueError(
                f"{name} has shape {data.shape}, in which {'both' if possible else 'neither'} of "
                "axis 1 and axis -1 may be that of the channels. Set channel_axis=1 for channels "
                "before the places, as in torch's convolutions, or channel_axis=-1."
            )
        (channel_axis,) = possible
    found = data.shape[channel_axis]
    if n_channels is not None and found not in n_channels:
        raise ValueError(
            f"{name} has shape {data.shape}, of which channel_axis={channel_axis} has {found} "
            f"entries, but {' or '.join(map(str, n_channels))} channels can be drawn. Choose some "
            "of the channels."
        )
    return np.moveaxis(drawn, channel_axis, -1)


def numbers_of(documents, n, name):
    """Numbers of the `n` documents of a display, 0, 1, ... if there are none: (n,)."""
    documents = np.asarray(range(n) if documents is None else documents)
    if documents.shape != (n,):
        raise ValueError(
            f"documents must number each of the {n} {name}, but has shape {documents.shape}."
        )
    return documents


def axes_for_each(display, ax, n, name, **figure_options):
    """Axes to draw the `n` documents of a display on: flat, at least `n`."""
    axes = np.ravel(axes_for(display, ax, **figure_options))
    if len(axes) < n:
        raise ValueError(f"ax has {len(axes)} axes, but there are {n} {name}.")
    return axes


def finish(display, axes, n, *, is_own):
    """Name the feature over a figure of the display's own, and publish the axes drawn on."""
    if is_own:
        axes[0].figure.suptitle(plain(display.name, longest=100), **PLAIN_TEXT)
    display.axes_, display.figure_ = axes[:n], axes[0].figure
    return display


def axes_of_grid(n):
    """Rows and columns of a figure for `n` axes."""
    n_columns = math.ceil(math.sqrt(n))
    return math.ceil(n / n_columns), n_columns
