"""The precision of a feature at strong and at weak activations."""

from numbers import Integral

import numpy as np
from sklearn.utils import Bunch

from ...metrics._rows import check_finite
from ...utils._arrays import as_vector
from ...utils._sklearn_compat import Interval, validate_params


@validate_params(
    {"n_intervals": [Interval(Integral, 1, None, closed="left")]},
    prefer_skip_nested_validation=True,
)
def activation_specificity(codes, token_labels, *, n_intervals=10):
    """Count samples with and without a label, by the strength of a feature's activation.

    A specific feature is active only where the label holds. Usually this is true of strong
    activations and less so of weak ones.

    Parameters
    ----------
    codes : array-like of shape (n_samples,)
        Codes of one feature; it is active where they are positive.

    token_labels : array-like of bool of shape (n_samples,)
        Where the label holds.

    n_intervals : int, default=10
        Number of intervals of equal width, from 0 to the greatest code.

    Returns
    -------
    specificity : :class:`~sklearn.utils.Bunch`

        edges : ndarray of shape (n_intervals + 1,), float64
            Edges of the intervals.
        n_labelled : ndarray of shape (n_intervals,), int64
            Number of active samples with the label in each interval.
        n_other : ndarray of shape (n_intervals,), int64
            Number of active samples without it.
        precision : ndarray of shape (n_intervals,), float64
            Fraction with the label; nan for empty intervals.

    Raises
    ------
    ValueError
        If the arrays are not one-dimensional and of equal length, or contain NaN or infinity.

    References
    ----------
    Bricken et al., "Towards Monosemanticity" (2023), figures on activation specificity.

    Examples
    --------
    >>> from skdict.inspection import activation_specificity
    >>> specificity = activation_specificity(
    ...     [0.0, 0.5, 1.0, 3.0, 4.0], [True, False, True, True, True], n_intervals=2
    ... )
    >>> specificity.edges, specificity.precision
    (array([0., 2., 4.]), array([0.5, 1. ]))
    """
    codes, labels = as_vector(codes, "codes"), as_vector(token_labels, "token_labels")
    if len(codes) != len(labels):
        raise ValueError(
            f"codes and token_labels must have one entry per sample, but have {len(codes)} "
            f"and {len(labels)}."
        )
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(
            "token_labels must be true or false (1 or 0) for each sample, but has entries such "
            f"as {labels[0]!r}."
        )
    labels = labels.astype(bool)
    check_finite(codes, "codes")
    active = codes > 0
    edges = np.linspace(0, max(codes.max(initial=0), np.finfo(float).tiny), n_intervals + 1)
    # a code on an edge belongs to the interval above it; the maximum belongs to the last one
    level = np.searchsorted(edges[1:-1], codes[active], side="right")
    labelled = labels[active]
    n_labelled = np.bincount(level[labelled], minlength=n_intervals)
    n_other = np.bincount(level[~labelled], minlength=n_intervals)
    with np.errstate(invalid="ignore"):
        precision = n_labelled / (n_labelled + n_other)
    return Bunch(edges=edges, n_labelled=n_labelled, n_other=n_other, precision=precision)
