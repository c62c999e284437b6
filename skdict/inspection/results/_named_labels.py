"""Boolean labels of samples, and their names."""

from collections.abc import Mapping

import numpy as np
import torch
from scipy.sparse import issparse

from ...metrics._rows import as_rows, to_numpy
from ...utils._arrays import as_numbers


def named_labels(labels, name="labels"):
    """Names and labels from a matrix, a DataFrame, or a mapping with "data" and "target_names".

    Parameters
    ----------
    labels : matrix, DataFrame or mapping
    name : str
        What the user calls them.

    Returns
    -------
    names : ndarray of object of shape (n_labels,)
    labels : ndarray of bool of shape (n_samples, n_labels)
    """
    names = getattr(labels, "columns", None)
    if isinstance(labels, Mapping) and not issparse(labels):  # a DOK matrix is a dict too
        missing = {"data", "target_names"} - set(labels)
        if missing:
            raise ValueError(
                f"{name} has no {' and no '.join(sorted(missing))}. Give the result of "
                "label_tokens or python_token_labels, or a matrix with a column per label."
            )
        names, labels = labels["target_names"], labels["data"]
    labels = boolean_labels(labels, name)
    names = [f"label{k}" for k in range(labels.shape[1])] if names is None else list(names)
    if len(names) != labels.shape[1]:
        raise ValueError(
            f"{name} has {labels.shape[1]} columns of data, but {len(names)} target_names."
        )
    return np.array([str(name) for name in names], dtype=object), labels


def boolean_labels(labels, name):
    """Labels as a boolean ndarray of shape (n_samples, n_labels)."""
    labels = as_numbers(labels, name)
    if labels.ndim == 1:
        raise ValueError(
            f"{name} must have shape (n_samples, n_labels), but is one-dimensional. Give a single "
            f"label as a column: {name}.reshape(-1, 1)."
        )
    labels = as_rows(labels, name)
    if isinstance(labels, torch.Tensor):
        labels = to_numpy(labels)
    elif issparse(labels):
        labels = labels.toarray()
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(
            f"{name} must be true or false (1 or 0) for each sample and label, but has other "
            "entries. Convert classes to columns by sklearn.preprocessing.label_binarize."
        )
    return labels.astype(bool)
