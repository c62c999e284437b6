"""The directions of features in activation space: atoms, or the weights of encoders."""

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..metrics._rows import as_matrix, check_finite, float64_block, unit_rows


def unit_directions(dictionary, name, attribute="components_"):
    """Rows of unit norm, (n_components, n_features) in float64, and which of them are alive.

    Parameters
    ----------
    dictionary : fitted estimator, Pipeline that ends in one, or array of directions
    name : str
        What the user calls it.
    attribute : str
        Which of an estimator's attributes holds the directions.

    Returns
    -------
    directions : ndarray of shape (n_components, n_features)
        A zero row stays zero.
    alive : ndarray of bool of shape (n_components,)
        False where the row is zero or, by the estimator's ``feature_density_`` if it has that,
        the feature was never active in training: its direction is then what it began as.
    """
    directions, density = dictionary, None
    if isinstance(dictionary, BaseEstimator):
        step = dictionary[-1] if isinstance(dictionary, Pipeline) else dictionary
        check_is_fitted(step)
        if not hasattr(step, attribute):
            raise TypeError(
                f"{name} is a {type(step).__name__} without {attribute}. Give an estimator that "
                "has it, or an array of directions of shape (n_components, n_features)."
            )
        directions, density = getattr(step, attribute), getattr(step, "feature_density_", None)
    directions = as_matrix(directions, name)
    if issparse(directions):
        raise TypeError(
            f"{name} is a sparse matrix, but must be an estimator or a dense array of directions "
            "of shape (n_components, n_features). Codes are matched by "
            "match_features(a, b, by='codes')."
        )
    directions = float64_block(directions, slice(None))
    check_finite(directions, name)
    directions = unit_rows(directions)
    alive = directions.any(axis=1)
    return directions, alive if density is None else alive & (np.asarray(density) > 0)
