"""What is known of samples: classes or numbers, and the groups that they come from."""

import numpy as np
import torch

from ...metrics._rows import check_finite
from ...utils._arrays import as_vector
from ..codes._whole import of_counted

MAX_CLASSES = 100


def as_target(y, n_rows, kind, counted=None, name="y"):
    """Classes as their indices, or numbers as they are.

    Parameters
    ----------
    y : array-like of shape (n_rows,)
    n_rows : int
    kind : {"auto", "classes", "numeric"}
    counted : ndarray of bool of shape (n_rows,), or None
        The rows to return; None is all.
    name : str

    Returns
    -------
    y : ndarray of shape (n_counted,)
        int64 indices of classes, or float64.
    classes : ndarray of shape (n_classes,), or None
        Sorted; whole numbers are int64.
    """
    words = _words(y)
    values = as_vector(y, name) if words is None else words
    if values.shape != (n_rows,):
        raise ValueError(
            f"{name} has shape {values.shape}, but codes has {n_rows} rows. Give one entry for "
            "each row."
        )
    values = of_counted(values, counted)
    if words is None:
        check_finite(values, name)
        whole = (values == np.floor(values)).all()
        if kind == "numeric" or (kind == "auto" and not whole):
            return values, None
        values = values.astype(np.int64) if whole else values
    elif kind == "numeric":
        raise TypeError(f"{name} must be numbers with target='numeric', but has {values[0]!r}.")
    classes, indices = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"{name} has the same value, {classes[0]}, on all rows.")
    if len(classes) > MAX_CLASSES:
        raise ValueError(
            f"{name} has {len(classes)} classes, of which at most {MAX_CLASSES} are tested. Say "
            "target='numeric' if they are counts, or join classes."
        )
    return indices.astype(np.int64), classes


def has_one_axis(y):
    """Whether y is a vector, of words or of anything that has a length."""
    if hasattr(y, "ndim"):
        return y.ndim == 1
    return isinstance(y, list | tuple) and not (len(y) and np.ndim(y[0]))


def as_groups(groups, n_rows, counted=None):
    """Groups as indices from 0, of the rows that count; None stays None."""
    if groups is None:
        return None
    words = _words(groups)
    values = as_vector(groups, "groups") if words is None else words
    if values.shape != (n_rows,):
        raise ValueError(
            f"groups has shape {values.shape}, but codes has {n_rows} rows. Give the group of "
            "each row."
        )
    values = of_counted(values, counted)
    if words is None:
        check_finite(values, "groups")
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _words(values):
    """An array of str if that is what the values are; None otherwise."""
    if values is None or isinstance(values, torch.Tensor | str):
        return None
    if not hasattr(values, "__array__") and not isinstance(values, list | tuple):
        return None
    if isinstance(values, list | tuple) and not all(isinstance(v, str) for v in values):
        return None  # NumPy would make words of numbers beside a word
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # `as_vector` says what is wrong
        return None
    is_words = array.dtype.kind == "U" or (
        array.dtype == object and array.size and all(isinstance(v, str) for v in array.flat)
    )
    return array.astype(str) if is_words and array.ndim == 1 else None
