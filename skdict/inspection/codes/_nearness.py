"""How close activations come to making features active."""

import numpy as np
import torch

from ..._core.kernels import exceeding
from ..._core.torch_state import plain_torch
from ...metrics._rows import as_rows
from ._directions import feature_directions, n_components_of, split_dictionary, transformed


class Nearness:
    """Scores of activations; the greater the score, the closer the feature is to active.

    If an encoder makes the codes, the scores are its pre-activations, of `AbsTopK` their absolute
    values: a feature is active if they exceed a threshold or are among the largest. Otherwise
    they are the projections on the atoms.

    Parameters
    ----------
    dictionary : fitted estimator

    Attributes
    ----------
    name : {"pre_activations", "projections"}
    least : float
        Only greater scores are near misses: 0 for projections, because activations with a
        negative projection point away from the atom.
    """

    def __init__(self, dictionary):
        before, coder = split_dictionary(dictionary)
        by_encoder = getattr(coder, "encoder_coef_", None) is not None
        # with another transform_algorithm the encoder's pre-activations do not decide
        by_encoder &= getattr(coder, "transform_algorithm", "auto") in ("auto", "encoder")
        if by_encoder:
            self.name, self.least, self._before = "pre_activations", -np.inf, before
            weight, bias = coder.encoder_coef_, coder.encoder_intercept_
            self._origin = getattr(coder, "input_offset_", coder.intercept_)
            self._normalise = getattr(coder, "input_normalization_", None)
            encoder = getattr(getattr(coder, "dictionary_", None), "encoder", None)
            self._by_size = getattr(encoder, "selection", None) == "absolute"
        else:
            self.name, self.least, self._before = "projections", 0.0, None
            n_components = n_components_of(dictionary)
            weight = feature_directions(dictionary, np.arange(n_components))
            bias, self._origin = np.zeros(n_components), np.zeros(weight.shape[1])
            self._normalise, self._by_size = None, False
        self._weight = torch.tensor(np.asarray(weight), dtype=torch.float32, device="cpu")
        self._bias = torch.tensor(np.asarray(bias), dtype=torch.float32, device="cpu")
        self._searches = {}

    def rows(self, given):
        """The matrix to score, for a block of the dictionary's input."""
        return as_rows(given if self._before is None else transformed(self._before, given), "X")

    @plain_torch()
    def above(self, block, least):
        """Scores of a block of `rows` that exceed a value of their feature.

        Parameters
        ----------
        block : matrix of shape (n_rows, n_features)
        least : ndarray of shape (n_components,)

        Returns
        -------
        rows, features, scores : ndarray of shape (n_found,)
            Row by row, and in a row with ascending features.
        """
        x = _dense(block)
        if self._normalise is not None:
            x = self._normalise(x)[0]
        origin = torch.as_tensor(np.asarray(self._origin), dtype=x.dtype, device=x.device)
        x = (x - origin).to(torch.float32)
        searches = self._prepared(x.device)
        least = torch.as_tensor(least, dtype=torch.float32, device=x.device)
        found = [[part.cpu().numpy() for part in search(x, least)] for search in searches]
        rows = [np.repeat(np.arange(len(x)), counts) for counts, _, _ in found]
        rows, features, scores = (
            np.concatenate(parts)
            for parts in (rows, [f for _, f, _ in found], [s for _, _, s in found])
        )
        if len(searches) > 1:
            order = np.lexsort((-scores, features, rows))
            rows, features, scores = rows[order], features[order], scores[order]
            # with a least below 0, both signs of an entry exceed it
            first = np.append(True, (np.diff(rows) != 0) | (np.diff(features) != 0))
            rows, features, scores = rows[first], features[first], scores[first]
        return rows, features.astype(np.int64), scores.astype(np.float64)

    def _prepared(self, device):
        if device not in self._searches:
            weight, bias = self._weight.to(device), self._bias.to(device)
            signs = (1, -1) if self._by_size else (1,)
            self._searches[device] = [exceeding(sign * weight, sign * bias) for sign in signs]
        return self._searches[device]


def _dense(block):
    """A block of rows as a tensor of at least float32."""
    if not isinstance(block, torch.Tensor):
        block = block.toarray() if hasattr(block, "toarray") else np.asarray(block)
        is_exact = block.dtype in (np.float16, np.float32)  # in float32
        block = block.astype(np.float32 if is_exact else np.float64, copy=False)
        block = torch.from_numpy(np.ascontiguousarray(block))
    return block if block.dtype == torch.float64 else block.float()
