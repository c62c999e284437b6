"""How often each feature is active, and how strongly."""

from numbers import Integral

import numpy as np
from sklearn.utils import Bunch

from ...utils._sklearn_compat import Interval, validate_params
from ..codes._gather import survey
from ..codes._stream import CodedBlocks


@validate_params(
    {"n_bins": [Interval(Integral, 1, None, closed="left")]}, prefer_skip_nested_validation=True
)
def feature_statistics(X, features=None, *, dictionary=None, n_bins=50):
    """Count how often features are active, and how strongly, in bounded memory.

    A feature is active where its code is positive. This takes two passes over the codes, in
    blocks of rows, because the bins depend on the maxima.

    Parameters
    ----------
    X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_components), or texts
        Codes; with a `dictionary` activations, or texts, as in `top_activations`.

    features : array-like of int of shape (n_selected,), default=None
        Which columns of the codes to look at; all of them by default.

    dictionary : estimator, default=None
        A fitted estimator (or Pipeline) with `transform`.

    n_bins : int, default=50
        Number of bins of equal width, from 0 to the feature's greatest code.

    Returns
    -------
    statistics : :class:`~sklearn.utils.Bunch`
        ``pandas.DataFrame(statistics)`` is a table.

        n_samples : int
            Number of rows.
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
        histogram : list of ndarray of shape (n_bins,), int64, length n_selected
            Number of active rows in each bin. The edges are
            ``maximum * numpy.arange(n_bins + 1) / n_bins``. A code on an edge belongs to the bin
            above it, the maximum to the last bin.

    Raises
    ------
    ValueError
        If `X` is not a matrix or contains NaN or infinity in these columns, or if a feature is
        out of range.

    See Also
    --------
    skdict.metrics.feature_density : Only the density, of non-zero entries.
    FeatureDensityDisplay : Draws the densities.

    Examples
    --------
    >>> from skdict.inspection import feature_statistics
    >>> statistics = feature_statistics([[0.0, 2.0], [0.5, 0.0], [0.0, 4.0]], n_bins=2)
    >>> statistics.n_active, statistics.maximum
    (array([1, 2]), array([0.5, 4. ]))
    >>> statistics.histogram
    [array([0, 1]), array([0, 2])]
    """
    blocks = CodedBlocks(X, dictionary)
    columns = blocks.columns(features)
    found = survey(blocks, columns, n_bins=n_bins)
    return statistics_of(columns, found)


def statistics_of(columns, found):
    """The result of `feature_statistics`, from that of `survey`."""
    moments = found["moments"]
    with np.errstate(invalid="ignore"):
        mean = moments.total / moments.count
    return Bunch(
        n_samples=moments.n_rows,
        feature=columns,
        n_active=moments.count,
        density=moments.count / moments.n_rows,
        mean=mean,
        maximum=moments.maximum,
        histogram=list(found["histogram"].result()),
    )
