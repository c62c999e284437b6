"""How close activations come to making features active."""

import numpy as np
import torch

from ...metrics._rows import as_rows
from ._directions import feature_directions, split_dictionary
from ._stream import transformed


class Nearness:
    """Scores of activations; the greater the score, the closer the feature is to active.

    If an encoder makes the codes, the scores are its pre-activations, of `AbsTopK` their absolute
    values: a feature is active if they exceed a threshold or are among the largest. Otherwise
    they are the projections on the atoms.

    Parameters
    ----------
    dictionary : fitted estimator
    columns : ndarray of int64
        The features.

    Attributes
    ----------
    name : {"pre_activations", "projections"}
    least : float
        Only greater scores are near misses: 0 for projections, because activations with a
        negative projection point away from the atom.
    """

    def __init__(self, dictionary, columns):
        before, coder = split_dictionary(dictionary)
        by_encoder = getattr(coder, "encoder_coef_", None) is not None
        # with another transform_algorithm the encoder's pre-activations do not decide
        by_encoder &= getattr(coder, "transform_algorithm", "auto") in ("auto", "encoder")
        if by_encoder:
            self.name, self.least, self._before = "pre_activations", -np.inf, before
            weights = coder.encoder_coef_[columns]
            self._origin = getattr(coder, "input_offset_", coder.intercept_)
            self._normalise = getattr(coder, "input_normalization_", None)
            bias = coder.encoder_intercept_[columns]
            encoder = getattr(getattr(coder, "dictionary_", None), "encoder", None)
            self._by_size = getattr(encoder, "selection", None) == "absolute"
        else:
            self.name, self.least, self._before = "projections", 0.0, None
            weights, self._origin = feature_directions(dictionary, columns), 0.0
            self._normalise, self._by_size = None, False
            bias = np.zeros(len(columns))
        self._weights, self._bias = weights.T.astype(np.float32), bias.astype(np.float32)

    def rows(self, given):
        """The matrix to score, for a block of the dictionary's input."""
        return as_rows(given if self._before is None else transformed(self._before, given), "X")

    def scores(self, block):
        """Scores of a dense float64 block of `rows`, float32 of shape (n_rows, n_selected)."""
        if self._normalise is not None:
            block = self._normalise(torch.from_numpy(block))[0].numpy()
        scores = (block - self._origin).astype(np.float32) @ self._weights
        scores += self._bias
        return abs(scores) if self._by_size else scores
