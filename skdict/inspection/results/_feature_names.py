"""Names of features and the scores of these, from whatever says them."""

from collections.abc import Mapping

import numpy as np
from scipy.sparse import issparse

from ..codes._tokens import writable
from ..interpretation._result import score_columns
from ._best_label import best_label
from ._named_labels import named_labels


def feature_names(names, columns, n_components):
    """Names of features, and their scores.

    Parameters
    ----------
    names : mapping, DataFrame or None
        A table with the columns "feature" and "explanation", as `interpret_features` returns it,
        or a dict from features to names, or to pairs of a name and its score.
    columns : ndarray of int64 of shape (n_selected,)
        The features to name.
    n_components : int

    Returns
    -------
    found : list of str or None, length n_selected
    scores : dict
        As `score_columns` returns them, aligned to `columns`, nan where there are none. The
        scores of a dict are called "score", with a chance level of nan.
    others : dict of int to str
        Names of features that are not in `columns`.
    """
    if names is None:
        return [None] * len(columns), {}, {}
    keys = set(getattr(names, "columns", names if isinstance(names, Mapping) else ()))
    if {"feature", "explanation"} <= keys:
        features = [int(j) for j in names["feature"]]
        texts = [_name(text) for text in names["explanation"]]
        scores = score_columns(names)
    elif isinstance(names, Mapping) and not issparse(names):
        pairs = [
            each if isinstance(each, tuple | list) else (each, None) for each in names.values()
        ]
        features, texts = list(names), [_name(text) for text, _ in pairs]
        values = np.array([np.nan if s is None else s for _, s in pairs], dtype=np.float64)
        scores = {}
        if np.isfinite(values).any():
            scores["score"] = {"chance": np.nan, "score": values, "shuffled": None, "neuron": None}
    else:
        raise TypeError(
            "names must be a dict from features to names, or a table of explanations with the "
            f"columns 'feature' and 'explanation', but is a {type(names).__name__}."
        )
    unknown = [j for j in features if j not in range(n_components)]
    if unknown:
        raise ValueError(
            f"names has names for {unknown[:5]!r:.80}, but the features of the dictionary are "
            f"the integers from 0 to {n_components - 1}."
        )
    place = {int(j): k for k, j in enumerate(features)}
    at = np.array([place.get(int(j), -1) for j in columns], dtype=np.int64)
    for each in scores.values():
        for kind in ("score", "shuffled", "neuron"):
            if each[kind] is not None:
                each[kind] = np.append(each[kind], np.nan)[at]
    shown = {int(j) for j in columns}
    others = {j: texts[k] for j, k in place.items() if j not in shown and texts[k] is not None}
    return [None if k < 0 else texts[k] for k in at], scores, others


def _name(text):
    return None if text is None or str(text) == "" else writable(str(text))


def best_labels(codes, columns, token_labels):
    """The label that each feature detects best by being active, and its F1.

    Parameters
    ----------
    codes : FeatureCodes
    columns : ndarray of int64 of shape (n_selected,)
    token_labels : mapping, DataFrame or matrix
        Labels of the rows, see `named_labels`.

    Returns
    -------
    names : list of str or None, length n_selected
        None for features that are never active on a row with a label.
    scores : dict
        As of `feature_names`, with the scorer "F1".
    """
    target_names, data = named_labels(token_labels, "token_labels")
    if len(data) != codes.n_rows:
        raise ValueError(
            f"token_labels has rows for {len(data)} tokens, but there are {codes.n_rows}. Label "
            "the tokens of these texts."
        )
    data = data.astype(np.int64)
    together = np.zeros((len(columns), data.shape[1]), dtype=np.int64)
    n_active = np.zeros(len(columns), dtype=np.int64)
    for first, block in codes.blocks():
        active = (block[:, columns] > 0).astype(np.int64)
        n_active += active.sum(axis=0)
        together += active.T @ data[first : first + block.shape[0]]
    best, score = best_label(together, n_active, data[codes.counted].sum(axis=0))
    names = [writable(target_names[k]) if k >= 0 else None for k in best]
    score = np.where(score > 0, score, np.nan)
    none = {"chance": np.nan, "shuffled": None, "neuron": None}
    return names, {"F1": {"score": score} | none}
