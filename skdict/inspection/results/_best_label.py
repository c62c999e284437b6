"""What detects a label best: one criterion for detectors, names of features and rules."""

import numpy as np


def f1_of(n_true, n_detected, n_labelled):
    """F1 of detecting a label, the harmonic mean of precision and recall; 0 of nothing.

    Parameters
    ----------
    n_true, n_detected, n_labelled : array-like of int, broadcast
        Number of rows that are detected and have the label; that are detected; that have it.
    """
    return 2 * n_true / np.maximum(np.add(n_detected, n_labelled), 1)


def best_label(n_true, n_active, n_labelled):
    """The label that each feature detects best by being active.

    Parameters
    ----------
    n_true : ndarray of int of shape (n_features, n_labels)
        Rows on which the feature is active that have the label.
    n_active : ndarray of int of shape (n_features,)
    n_labelled : ndarray of int of shape (n_labels,)

    Returns
    -------
    label : ndarray of int64 of shape (n_features,)
        The lowest of equal ones; -1 if a feature is active on no row with a label.
    f1 : ndarray of float64 of shape (n_features,)
        0 without a label.
    """
    if n_true.shape[1] == 0:
        return np.full(len(n_true), -1), np.zeros(len(n_true))
    f1 = f1_of(n_true, n_active[:, None], n_labelled)
    best, greatest = f1.argmax(axis=1), f1.max(axis=1)
    return np.where(greatest > 0, best, -1), greatest
