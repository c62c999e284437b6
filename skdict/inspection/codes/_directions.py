"""The directions of features in activation space: atoms, or encoder weights."""

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..._core.dictionary import Dictionary
from ...metrics._coding import can_have_sparse_codes, check_dictionary, split_dictionary
from ...metrics._rows import BLOCK_SIZE, as_rows, check_finite, float64_block, unit_rows
from ...utils._arrays import read_only


def unit_directions(dictionary, name, attribute="components_"):
    """Directions scaled to unit norm, and which features are alive.

    Parameters
    ----------
    dictionary : fitted estimator, Pipeline that ends in one, or array of directions
    name : str
        What the user calls it.
    attribute : str
        Which of an estimator's attributes holds the directions.

    Returns
    -------
    directions : ndarray of float64 of shape (n_components, n_features)
        Rows of unit norm; zero rows stay zero.
    alive : ndarray of bool of shape (n_components,)
        False if the row is zero, or if the estimator's ``feature_density_`` says that the
        feature was never active in training: its direction is then still the initial one.
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
    directions = as_rows(directions, name)
    if issparse(directions):
        raise TypeError(
            f"{name} is a sparse matrix, but must be an estimator or a dense array of directions "
            "of shape (n_components, n_features). To match codes, use "
            "match_features(a, b, by='codes')."
        )
    directions = float64_block(directions, slice(None))
    check_finite(directions, name)
    directions = unit_rows(directions)
    alive = directions.any(axis=1)
    return directions, alive if density is None else alive & (np.asarray(density) > 0)


def feature_directions(dictionary, features):
    """What one unit of each feature's code adds to a reconstruction, in the data's units.

    Parameters
    ----------
    dictionary : estimator, or matrix of directions from `as_rows`
    features : ndarray of int64 of shape (n_selected,)

    Returns
    -------
    directions : ndarray of float64 of shape (n_selected, n_features)
    """
    if isinstance(dictionary, np.ndarray | torch.Tensor) or issparse(dictionary):
        return float64_block(dictionary, features)
    check_dictionary(dictionary)
    before, coder = split_dictionary(dictionary)
    if before is None and isinstance(getattr(coder, "dictionary_", None), Dictionary):
        return coder.dictionary_.atoms.numpy()[features].astype(np.float64)
    n_selected, n_components = len(features), n_components_of(dictionary)
    intercept = np.asarray(dictionary.inverse_transform(np.zeros((1, n_components))))
    directions = np.empty((n_selected, intercept.shape[1]))
    # row i has a single 1, in the column of the i-th feature
    one_hot = (np.ones(n_selected), features, np.arange(n_selected + 1))
    codes = csr_array(one_hot, shape=(n_selected, n_components))
    is_sparse = can_have_sparse_codes(dictionary)
    width = directions.shape[1] if is_sparse else n_components
    step = max(1, BLOCK_SIZE // width)
    for start in range(0, n_selected, step):
        rows = slice(start, start + step)
        block = codes[rows] if is_sparse else codes[rows].toarray()
        # the difference also removes the offsets of a Pipeline's other steps
        directions[rows] = np.asarray(dictionary.inverse_transform(block)) - intercept
    return directions


def n_components_of(dictionary):
    """The number of features of a dictionary."""
    _, dictionary = split_dictionary(dictionary)  # other steps may lack get_feature_names_out
    if hasattr(dictionary, "get_feature_names_out"):
        return len(dictionary.get_feature_names_out())
    if hasattr(dictionary, "components_"):
        return len(dictionary.components_)
    raise TypeError(
        f"dictionary is a {type(dictionary).__name__} with neither get_feature_names_out nor "
        "components_, so its number of features is unknown. Give an estimator that has one of "
        "them."
    )


def transformed(estimator, X):
    """`estimator.transform(X)` as an array unless `set_output` says otherwise; X is read-only."""
    with config_context(transform_output="default"):
        return estimator.transform(read_only(X))
