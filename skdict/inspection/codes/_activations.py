"""Activations of texts, samples or matrices, portion by portion."""

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import issparse

from ..._core.language.evaluation import evaluation_mode
from ..._core.language.texts import text_portions
from ...metrics._rows import as_rows
from ...utils._extractors import layer_of, windows_of

# Entries of a portion of activations or of dense codes: 64 MB in float32.
PORTION_ENTRIES = 2**24


class Portion(NamedTuple):
    """Some rows of activations.

    Parameters
    ----------
    activations : matrix of shape (n_rows, n_features)
        A tensor on the model's device, if nothing before needs an array.
    tokens : dict of ndarray of shape (n_rows,), or None
    texts : list of str
        The texts that they are from.
    stop : int
        Number of texts, samples or rows up to the end of this portion.
    """

    activations: Any
    tokens: dict | None
    texts: list
    stop: int


def of_matrix(X, tokens, n_components, start):
    """Portions of a matrix of activations, from row ``start``.

    Parameters
    ----------
    X : matrix of shape (n_rows, n_features)
    tokens : RowTokens
    n_components, start : int
    """
    n_rows = X.shape[0]
    width = X.nnz / n_rows if issparse(X) else X.shape[1]
    step = max(1, int(PORTION_ENTRIES / max(width, n_components)))
    for first in range(start, n_rows, step):
        rows = slice(first, min(first + step, n_rows))
        part = X.iloc[rows] if hasattr(X, "iloc") else X[rows]
        yield Portion(part, tokens.read(rows), tokens.texts_of(rows), rows.stop)


def of_samples(extractor, X, n_components, start):
    """Portions of the rows of arrays that an extractor runs through a network."""
    n_samples = int(extractor.batch_size)
    while start < len(X):
        some = X[start : start + n_samples]
        activations = as_rows(extractor.transform(some), "activations")
        positions = dict(extractor.positions(some))
        positions["document"] = positions["document"] + start
        start += len(some)
        yield Portion(activations, positions, [], start)
        # estimate the rows per sample from the portion just run
        n_rows = activations.shape[0] / len(some)
        size = PORTION_ENTRIES / (n_rows * max(n_components, activations.shape[1]))
        n_samples = max(int(extractor.batch_size), int(size))


def of_texts(extractor, texts, start):
    """Portions of the rows of texts, from text ``start``."""
    on_device = extractor.cache is None and extractor.pooling is None
    for first, stop in text_portions(texts[start:]):
        some = texts[start + first : start + stop]
        if extractor.pooling is not None:
            token = np.empty(len(some), dtype=object)
            token[:] = some
            tokens = {"document": np.arange(len(some)), "token": token}
        else:
            tokens = dict(extractor.tokens(some))
        tokens["document"] = tokens["document"] + start + first
        activations = rows_of_texts(extractor, some) if on_device else extractor.transform(some)
        yield Portion(as_rows(activations, "activations"), tokens, some, start + stop)


@torch.no_grad()
def rows_of_texts(extractor, texts):
    """`extractor.transform(texts)` as a tensor on the device of the model.

    Returns
    -------
    rows : tensor of shape (n_rows, n_features), in the dtype of the layer
    """
    site = extractor.site()
    windows = windows_of(extractor, site, texts)
    layer = layer_of(extractor, site, windows)
    bounds, rows = np.append(0, np.cumsum(windows.n_rows(None))), None
    batches = layer.batches(range(len(windows)))
    with evaluation_mode(site.model):
        for batch, forward, _, kept in windows.passes(site.network, batches):
            of_tokens = windows.of_tokens(site.activation(forward), batch, layer.feature_axis)
            if rows is None:
                shape = int(bounds[-1]), of_tokens.shape[2]
                rows = torch.empty(shape, dtype=of_tokens.dtype, device=of_tokens.device)
            place = np.concatenate([np.arange(*bounds[w : w + 2]) for w in batch])
            rows[torch.from_numpy(place).to(rows.device)] = of_tokens[kept]
    return rows
