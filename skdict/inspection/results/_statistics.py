"""How often each feature is active, and how strongly."""

from numbers import Integral

import numpy as np
from sklearn.utils import Bunch

from ...utils._sklearn_compat import Interval, validate_params
from ..codes._active import selected
from ..codes._gather import Histogram
from ..codes._store import as_feature_codes


@validate_params(
    {"n_intervals": [Interval(Integral, 1, None, closed="left")]},
    prefer_skip_nested_validation=True,
)
def feature_statistics(codes, features=None, *, n_intervals=50):
    """Count how often features are active, and how strongly, in bounded memory.

    A feature is active where its code is positive. Codes are read in blocks of rows. The
    intervals depend on the maxima, which FeatureCodes knows; a matrix is read twice.

    Parameters
    ----------
    codes : FeatureCodes, or {array-like, sparse matrix, torch.Tensor} of shape \
            (n_samples, n_components)
        As :func:`collect_codes` finds them, or any matrix of codes.

    features : int or array-like of int of shape (n_selected,), default=None
        Which features to look at; all of them by default.

    n_intervals : int, default=50
        Number of intervals of equal width, from 0 to the feature's greatest code.

    Returns
    -------
    statistics : :class:`~sklearn.utils.Bunch`
        ``pandas.DataFrame(statistics)`` is a table.

        n_samples : int
            Number of rows that count.
        feature : ndarray of shape (n_selected,), int64
            The features.
        n_active : ndarray of shape (n_selected,), int64
            Number of rows on which each feature is active.
        density : ndarray of shape (n_selected,), float64
            Fraction of the rows on which it is active.
        mean : ndarray of shape (n_selected,), float64
            Mean of its code where it is active; nan if it is never active.
        maximum : ndarray of shape (n_selected,), float64
            Its greatest code; 0 if it is never active.
        histogram : list of ndarray of shape (n_intervals,), int64, length n_selected
            Number of active rows in each interval. The edges are
            ``maximum * numpy.arange(n_intervals + 1) / n_intervals``. A code on an edge belongs
            to the interval above it, the maximum to the last.

    Raises
    ------
    ValueError
        If `codes` is not a matrix or contains NaN or infinity in these columns, or if a feature is
        out of range.

    See Also
    --------
    skdict.metrics.feature_density : Only the density, of non-zero entries.
    FeatureDensityDisplay : Draws the densities.

    Examples
    --------
    >>> from skdict.inspection import feature_statistics
    >>> statistics = feature_statistics([[0.0, 2.0], [0.5, 0.0], [0.0, 4.0]], n_intervals=2)
    >>> statistics.n_active, statistics.maximum
    (array([1, 2]), array([0.5, 4. ]))
    >>> statistics.histogram
    [array([0, 1]), array([0, 2])]
    """
    codes = as_feature_codes(codes)
    columns = selected(features, codes.n_components)
    once, place = np.unique(columns, return_inverse=True)
    histogram = Histogram(codes.moments.maximum[once], n_intervals)
    for _, _, of_columns, values in codes.entries(once):
        histogram.update(of_columns, values)
    return statistics_of(codes, columns, histogram.result()[place])


def statistics_of(codes, columns, histogram):
    """The result of `feature_statistics`, with the histogram (n_selected, n_intervals)."""
    moments = codes.moments.of(columns)
    with np.errstate(invalid="ignore"):
        mean = moments.total / moments.count
        density = moments.count / moments.n_rows
    return Bunch(
        n_samples=moments.n_rows,
        feature=columns,
        n_active=moments.count,
        density=density,
        mean=mean,
        maximum=moments.maximum,
        histogram=list(histogram),
    )
