"""Two parts of the samples: to select or test on, and to report on."""

import numpy as np

from ...utils._random import check_random_state
from ...utils._warnings import warn


def random_parts(n_rows, groups, test_size, random_state):
    """Rows to select on and rows to report on, drawn at random; groups stay together.

    Parameters
    ----------
    n_rows : int
    groups : ndarray of int64 of shape (n_rows,), or None
        Indices from 0.
    test_size : float
        Fraction of the groups, or of the rows without them, to report on.
    random_state : int, RandomState instance or None

    Returns
    -------
    selecting, reporting : ndarray of int64
        Ascending.
    """
    n_units = n_rows if groups is None else int(groups.max()) + 1
    n_reporting = round(test_size * n_units)
    if not 0 < n_reporting < n_units:
        raise ValueError(
            f"test_size={test_size} of {n_units} {'samples' if groups is None else 'groups'} "
            "leaves none to select on, or none to report on. Give more of them, or another "
            "test_size."
        )
    reports = np.zeros(n_units, bool)
    reports[check_random_state(random_state).permutation(n_units)[:n_reporting]] = True
    if groups is not None:
        reports = reports[groups]
    return np.flatnonzero(~reports), np.flatnonzero(reports)


def labels_of_one_side(names, labels, parts):
    """Words for the labels that vary, but not in one of two parts; None if there are none.

    Parameters
    ----------
    names : ndarray of object of shape (n_labels,)
    labels : ndarray of bool of shape (n_samples, n_labels)
    parts : two slices, or arrays of rows
    """
    rates = np.array([labels[part].mean(axis=0) for part in (*parts, slice(None))])
    is_constant = (rates == 0) | (rates == 1)
    one_sided = np.flatnonzero(is_constant[:2].any(axis=0) & ~is_constant[2])
    if not len(one_sided):
        return None
    shown = ", ".join(
        f"{names[k]!r} ({rates[0, k]:.3g} of the first, {rates[1, k]:.3g} of the last)"
        for k in one_sided[:5]
    )
    return shown + (f" and {len(one_sided) - 5} more" if len(one_sided) > 5 else "")


def two_parts(names, labels, test_size):
    """Slices of the rows to select on and of those to report on.

    Warns of labels that vary, but not in one of the parts: nothing can be selected for them, or
    no score has a meaning.

    Parameters
    ----------
    names : ndarray of object of shape (n_labels,)
    labels : ndarray of bool of shape (n_samples, n_labels)
    test_size : float
        Fraction of the rows to report on.

    Raises
    ------
    ValueError
        If one of the parts has no row.
    """
    n_samples = len(labels)
    n_selecting = round((1 - test_size) * n_samples)
    if not 0 < n_selecting < n_samples:
        raise ValueError(
            f"test_size={test_size} of {n_samples} rows leaves no row to select on, or no "
            "row to report on. Give more rows, or another test_size."
        )
    parts = slice(None, n_selecting), slice(n_selecting, None)
    found = labels_of_one_side(names, labels, parts)
    if found is not None:
        warn(
            f"Detectors are selected on the first {n_selecting} rows and scored on the last "
            f"{n_samples - n_selecting}, and in one of these parts no row or every row has the "
            f"label: {found}. Their scores mean nothing. If the rows are sorted by label, "
            "shuffle codes and labels alike (whole documents, if rows are tokens); if labels are "
            "rare, give more rows."
        )
    return parts
