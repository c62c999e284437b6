"""How near activations come to making features active."""

import numpy as np

from ..metrics._rows import as_matrix
from ._blocks import transformed
from ._directions import feature_directions, split_dictionary


class Nearness:
    """Scores of activations for features; the greater, the nearer the feature is to be active.

    Where an encoder makes the codes, the scores are its pre-activations, which have to exceed a
    threshold or be among the largest. Elsewhere they are the projections on the atoms.

    Parameters
    ----------
    dictionary : fitted estimator
    columns : ndarray of int64
        The features.

    Attributes
    ----------
    name : {"pre_activations", "projections"}
    least : float
        Scores up to this are no near miss: those of activations that point away from an atom.
    """

    def __init__(self, dictionary, columns):
        before, coder = split_dictionary(dictionary)
        by_encoder = getattr(coder, "encoder_coef_", None) is not None
        # an algorithm in its place decides otherwise
        by_encoder &= getattr(coder, "transform_algorithm", "auto") in ("auto", "encoder")
        if by_encoder:
            self.name, self.least, self._before = "pre_activations", -np.inf, before
            weights, self._origin = coder.encoder_coef_[columns], coder.intercept_
            bias = coder.encoder_intercept_[columns]
        else:
            self.name, self.least, self._before = "projections", 0.0, None
            weights, self._origin = feature_directions(dictionary, columns), 0.0
            bias = np.zeros(len(columns))
        self._weights, self._bias = weights.T.astype(np.float32), bias.astype(np.float32)

    def rows(self, given):
        """What is scored of some rows that the dictionary is given, a matrix."""
        return as_matrix(given if self._before is None else transformed(self._before, given), "X")

    def scores(self, block):
        """Scores of a dense float64 block of `rows`, float32 of shape (n_rows, n_features)."""
        scores = (block - self._origin).astype(np.float32) @ self._weights
        scores += self._bias
        return scores
