"""Metrics of dictionaries of several widths."""

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from ...metrics import DictionaryScorer

CODING = ("explained_variance", "l0", "dead_fraction")
LOSS = ("loss_recovered_zero", "loss_recovered_mean", "delta_cross_entropy")


def width_curve(estimators, X, *, loss_recovered=False):
    """Measure dictionaries of several widths on the same data.

    A wider dictionary explains more with the same number of active features, or as much with
    fewer, until its new features are dead or only split old ones. Fit dictionaries that differ
    only in ``n_components``, with the same ``alpha`` (or number of non-zero entries).

    Parameters
    ----------
    estimators : list of estimator
        Fitted dictionaries with ``components_``, or Pipelines that end in one, in any order.

    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Activations, preferably held out; for Pipelines, what their first step takes.

    loss_recovered : bool, default=False
        Whether to run the language model with reconstructed activations too. Needs Pipelines
        that start with an :class:`~skdict.feature_extraction.ActivationExtractor`.

    Returns
    -------
    curve : :class:`~sklearn.utils.Bunch`
        Arrays of shape (n_estimators,), by increasing width, so ``pandas.DataFrame(curve)`` is
        a table.

        n_components : ndarray of int64
            Number of features.
        explained_variance : ndarray of float64
            See :func:`skdict.metrics.explained_variance`.
        l0 : ndarray of float64
            See :func:`skdict.metrics.mean_l0`. Compare widths at equal L0.
        n_alive : ndarray of int64
            Number of features that are active on at least one sample of `X`.
        alive_fraction : ndarray of float64
            The same as a fraction.
        loss_recovered_zero, loss_recovered_mean, delta_cross_entropy : ndarray of float64
            See :func:`skdict.metrics.loss_recovered`. Only with ``loss_recovered=True``.

    Raises
    ------
    TypeError
        If `estimators` is not a list, or one of them has no ``components_``.
    ValueError
        If `estimators` is empty.

    See Also
    --------
    skdict.metrics.DictionaryScorer : The same metrics, for a search.
    feature_splitting : Which features of a narrow dictionary split in wider ones.
    WidthCurveDisplay : Draws the curve.

    Notes
    -----
    For a Pipeline, explained variance refers to the input of its last step. After a scaler the
    units differ from those of `X`, so compare only Pipelines with the same other steps.

    On few samples rare features look dead, and wider dictionaries have more rare features.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import PCA
    >>> from skdict.inspection import width_curve
    >>> X = np.random.default_rng(0).normal(size=(50, 4))
    >>> curve = width_curve([PCA(k).fit(X) for k in (4, 2)], X)
    >>> curve.n_components, curve.n_alive, curve.explained_variance.round(2)
    (array([2, 4]), array([2, 4]), array([0.64, 1.  ]))
    """
    if not isinstance(estimators, list | tuple):
        raise TypeError(
            f"estimators must be a list of fitted dictionaries, but is a "
            f"{type(estimators).__name__}."
        )
    if not estimators:
        raise ValueError("estimators is empty. Give at least one fitted dictionary.")
    widths = np.array([_n_components(estimator, i) for i, estimator in enumerate(estimators)])
    scorer = DictionaryScorer(CODING + (LOSS if loss_recovered else ()))
    order = np.argsort(widths, kind="stable")
    scores = [scorer(estimators[i], X) for i in order]
    columns = {name: np.array([score[name] for score in scores]) for name in scorer.metrics}
    alive_fraction = 1 - columns.pop("dead_fraction")
    return Bunch(
        n_components=widths[order],
        explained_variance=columns.pop("explained_variance"),
        l0=columns.pop("l0"),
        n_alive=np.rint(alive_fraction * widths[order]).astype(np.int64),
        alive_fraction=alive_fraction,
        **columns,
    )


def _n_components(estimator, i):
    step = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    check_is_fitted(step)
    if not hasattr(step, "components_"):
        raise TypeError(
            f"estimators[{i}] is a {type(step).__name__} without components_, so its width is "
            "unknown. Give a dictionary, or a Pipeline that ends in one."
        )
    return len(step.components_)
