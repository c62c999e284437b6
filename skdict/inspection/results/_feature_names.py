"""Names of features, from whatever says them: a dict, labels of tokens, an interpretation."""

from collections.abc import Mapping

import numpy as np
from scipy.sparse import issparse

from ..codes._tokens import writable
from ..dashboard._panels import best_labels, number
from ..interpretation._result import score_columns
from ._named_labels import named_labels


def feature_names(codes, columns, labels, n_tokens):
    """Names of features from `labels`.

    Parameters
    ----------
    codes : FeatureCodes
    columns : ndarray of int64 of shape (n_selected,)
        The features of the page.
    labels : mapping, DataFrame, matrix or None
        As in `FeatureDashboard.from_pipeline`.
    n_tokens : int

    Returns
    -------
    names, scores : sequence, length n_selected
        None for features without a name or score.
    others : dict of int to str
        Names of features that are not on the page.
    """
    if labels is None:
        return [None] * len(columns), [None] * len(columns), {}
    is_dict = isinstance(labels, Mapping) and not issparse(labels)  # a DOK matrix is a dict too
    keys = set(getattr(labels, "columns", labels if is_dict else ()))
    if {"feature", "explanation"} <= keys:
        return _of_features(codes, columns, _of_interpretation(labels))
    if is_dict and "target_names" not in keys:
        return _of_features(codes, columns, labels)
    if not is_dict and np.ndim(labels) != 2:
        raise TypeError(
            "labels must be a dict from features to names, what interpret_features "
            "returned, or labels of the tokens: a DataFrame or matrix with a column for each, or "
            f"a dict with 'data' and 'target_names', but is a {type(labels).__name__}."
        )
    return *_of_token_labels(codes, columns, labels, n_tokens), {}


def _of_interpretation(result):
    """A dict from features to pairs of explanation and score, of the first scorer there is."""
    explained = zip(result["feature"], result["explanation"], strict=True)
    scores = [columns["score"] for columns in score_columns(result).values()]
    scores = scores[0] if scores else np.full(len(result["feature"]), np.nan)
    return {
        int(j): (explanation or None, float(score))
        for (j, explanation), score in zip(explained, scores, strict=True)
    }


def _of_token_labels(codes, columns, labels, n_tokens):
    target_names, data = named_labels(labels)
    if len(data) != n_tokens:
        raise ValueError(
            f"labels has rows for {len(data)} tokens, but there are {n_tokens}. Label the "
            "tokens of these texts."
        )
    names, scores = best_labels(codes, columns, [*map(writable, target_names)], data)
    return names, [None if score is None else number(score) for score in scores]


def _of_features(codes, columns, labels):
    unknown = [j for j in labels if j not in range(codes.n_components)]
    if unknown:
        raise ValueError(
            f"labels has names for {unknown[:5]!r:.80}, but the features of the dictionary are "
            f"the integers from 0 to {codes.n_components - 1}."
        )
    pairs = {}
    for j, given in labels.items():
        name, score = given if isinstance(given, tuple | list) else (given, None)
        pairs[int(j)] = (
            None if name is None else writable(str(name)),
            None if score is None else number(score),
        )
    names, scores = zip(*(pairs.pop(int(j), (None, None)) for j in columns), strict=True)
    return names, scores, {j: name for j, (name, _) in pairs.items() if name is not None}
