"""Metrics against the number of features."""

import numpy as np

from ...utils._drawing import COLORS, MARKERS
from ..structure._width import width_curve
from ._base import Display

# The metrics to draw; all are fractions.
CURVES = {
    "explained_variance": "explained variance",
    "loss_recovered_zero": "loss recovered (zero ablation)",
    "loss_recovered_mean": "loss recovered (mean ablation)",
    "alive_fraction": "alive features",
}


class WidthCurveDisplay(Display):
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

    def _draw(self, ax):
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
