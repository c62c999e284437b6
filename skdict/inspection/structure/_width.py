"""Metrics of dictionaries of several widths."""

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from ...metrics import DictionaryScorer
from ...utils._drawing import COLORS, MARKERS, axes_for

CODING = ("explained_variance", "l0", "dead_fraction")
LOSS = ("loss_recovered_zero", "loss_recovered_mean", "delta_cross_entropy")
# The metrics to draw; all are fractions.
CURVES = {
    "explained_variance": "explained variance",
    "loss_recovered_zero": "loss recovered (zero ablation)",
    "loss_recovered_mean": "loss recovered (mean ablation)",
    "alive_fraction": "alive features",
}


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


class WidthCurveDisplay:
    """Explained variance, loss recovered and live features against the number of features.

    It is recommended to use `from_estimators`.

    Parameters
    ----------
    curve : mapping of str to array-like of shape (n_estimators,)
        The result of `width_curve`: "n_components", "explained_variance" and "alive_fraction",
        and optionally "loss_recovered_zero" and "loss_recovered_mean".

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the lines.

    figure_ : matplotlib Figure
        Figure that contains the axes.

    lines_ : dict of str to matplotlib Line2D
        The line of each metric, by its name in `curve`.

    See Also
    --------
    width_curve : Computes what is drawn.
    skdict.metrics.ParetoDisplay : Explained variance against L0.

    Examples
    --------
    >>> from skdict.inspection import WidthCurveDisplay
    >>> display = WidthCurveDisplay(
    ...     {
    ...         "n_components": [512, 1024, 2048],
    ...         "explained_variance": [0.6, 0.7, 0.75],
    ...         "alive_fraction": [1.0, 0.9, 0.7],
    ...     }
    ... )
    >>> display.plot()
    <...WidthCurveDisplay object at ...>
    >>> list(display.lines_)
    ['explained_variance', 'alive_fraction']
    """

    def __init__(self, curve):
        missing = [
            name
            for name in ("n_components", "explained_variance", "alive_fraction")
            if name not in curve
        ]
        if missing:
            raise ValueError(
                f"curve has no {' and no '.join(missing)}. Pass what width_curve returned."
            )
        names = ["n_components", *(name for name in CURVES if name in curve)]
        self.curve = {name: np.asarray(curve[name]) for name in names}
        shapes = {name: values.shape for name, values in self.curve.items()}
        if len(set(shapes.values())) > 1 or self.curve["n_components"].ndim != 1:
            raise ValueError(
                f"curve must have one-dimensional entries of the same length, but has {shapes}."
            )

    @classmethod
    def from_estimators(cls, estimators, X, *, loss_recovered=False, ax=None):
        """Measure dictionaries of several widths and draw the curve.

        Parameters
        ----------
        estimators : list of estimator
            As for `width_curve`.

        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            As for `width_curve`.

        loss_recovered : bool, default=False
            As for `width_curve`.

        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : WidthCurveDisplay
            The drawn display.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.decomposition import PCA
        >>> from skdict.inspection import WidthCurveDisplay
        >>> X = np.random.default_rng(0).normal(size=(50, 4))
        >>> display = WidthCurveDisplay.from_estimators([PCA(k).fit(X) for k in (1, 2, 4)], X)
        >>> display.curve["alive_fraction"]
        array([1., 1., 1.])
        """
        return cls(width_curve(estimators, X, loss_recovered=loss_recovered)).plot(ax=ax)

    def plot(self, ax=None):
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : WidthCurveDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from skdict.inspection import WidthCurveDisplay
        >>> curve = {"n_components": [8], "explained_variance": [0.6], "alive_fraction": [1.0]}
        >>> WidthCurveDisplay(curve).plot().ax_.get_xlabel()
        'Number of features'
        """
        ax = axes_for(self, ax)
        from matplotlib.ticker import NullLocator, StrMethodFormatter

        widths = self.curve["n_components"]
        self.lines_ = {}
        for i, (name, label) in enumerate(CURVES.items()):
            if name in self.curve:
                (self.lines_[name],) = ax.plot(
                    widths, self.curve[name], color=COLORS[i], marker=MARKERS[i], label=label
                )
        ax.set_xscale("log", base=2)
        ax.set_xticks(np.unique(widths))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        ax.set_xlabel("Number of features")
        ax.set_ylabel("Fraction")
        ax.grid(alpha=0.3)
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
