"""The first rows, to select on, and the last ones, to report on."""

import numpy as np

from ...utils._warnings import warn


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
    rates = np.array([labels[part].mean(axis=0) for part in (*parts, slice(None))])
    is_constant = (rates == 0) | (rates == 1)
    one_sided = np.flatnonzero(is_constant[:2].any(axis=0) & ~is_constant[2])
    if len(one_sided):
        shown = ", ".join(
            f"{names[k]!r} ({rates[0, k]:.3g} of the first, {rates[1, k]:.3g} of the last)"
            for k in one_sided[:5]
        )
        more = f" and {len(one_sided) - 5} more" if len(one_sided) > 5 else ""
        warn(
            f"Detectors are selected on the first {n_selecting} rows and scored on the last "
            f"{n_samples - n_selecting}, and in one of these parts no row or every row has the "
            f"label: {shown}{more}. Their scores mean nothing. If the rows are sorted by label, "
            "shuffle codes and labels alike (whole documents, if rows are tokens); if labels are "
            "rare, give more rows."
        )
    return parts
