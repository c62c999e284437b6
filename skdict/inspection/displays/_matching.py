"""The distribution of similarities between the features of two dictionaries."""

from collections.abc import Mapping

import numpy as np

from ...utils._drawing import COLORS, draw_legend, legend_label, plain
from ._base import Display

# Four styles and seven colours have no common factor: 28 curves get different pairs.
LINESTYLES = ("-", "--", "-.", ":")


class FeatureMatchDisplay(Display):
    """Similarity of features with their best matches, one curve per comparison.

    At x, a curve shows the similarity that a fraction x of the features reaches or exceeds; the
    higher it is, the more universal the features. It is recommended to use `from_matches`.

    Parameters
    ----------
    best_similarity : dict of str to array-like of shape (n_components,)
        For each curve, the similarity of each feature with its best match. Entries that are nan
        (dead features) are left out.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the curves.

    figure_ : matplotlib Figure
        Figure that contains the axes.

    lines_ : dict of str to matplotlib Line2D
        The curve of each comparison.

    See Also
    --------
    match_features : Computes what is drawn.

    Examples
    --------
    >>> from skdict.inspection import FeatureMatchDisplay
    >>> display = FeatureMatchDisplay({"features": [0.9, 0.7, 0.2], "neurons": [0.5, 0.3]})
    >>> display.plot()
    <...FeatureMatchDisplay object at ...>
    >>> display.lines_["features"].get_label()
    'features (median 0.70)'
    """

    def __init__(self, best_similarity):
        if not isinstance(best_similarity, Mapping) or not best_similarity:
            raise TypeError(
                "best_similarity must be a dict with at least one entry whose keys name the "
                f"curves, but is {best_similarity!r:.80}."
            )
        self.best_similarity = {}
        for name, values in best_similarity.items():
            values = np.asarray(values, dtype=np.float64)
            if values.ndim != 1:
                raise ValueError(
                    f"best_similarity[{name!r}] must have one entry per feature, but has shape "
                    f"{values.shape}."
                )
            self.best_similarity[name] = values

    @classmethod
    def from_matches(cls, matches, *, ax=None):
        """Draw the results of `match_features`.

        Parameters
        ----------
        matches : dict of str to Bunch
            The result for each curve, for instance one for features and one for neurons.

        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : FeatureMatchDisplay
            The drawn display.

        Examples
        --------
        >>> import numpy as np
        >>> from skdict.inspection import FeatureMatchDisplay, match_features
        >>> rng = np.random.default_rng(0)
        >>> atoms, others = rng.normal(size=(2, 20, 5))
        >>> display = FeatureMatchDisplay.from_matches(
        ...     {"same": match_features(atoms, atoms), "other": match_features(atoms, others)}
        ... )
        >>> list(display.lines_)
        ['same', 'other']
        """
        if not isinstance(matches, Mapping) or "best_similarity" in matches:
            raise TypeError(
                "matches must be a dict whose keys name the curves, such as {'features': match}, "
                f"but is a {type(matches).__name__}."
            )
        return cls({name: match["best_similarity"] for name, match in matches.items()}).plot(ax=ax)

    def _draw(self, ax):
        self.lines_ = {}
        for i, (name, values) in enumerate(self.best_similarity.items()):
            values = -np.sort(-values[~np.isnan(values)])
            label = f"{plain(name)} (median {np.median(values):.2f})" if len(values) else name
            (self.lines_[name],) = ax.plot(
                np.arange(1, len(values) + 1) / max(len(values), 1),
                values,
                color=COLORS[i % len(COLORS)],
                linestyle=LINESTYLES[i % len(LINESTYLES)],
                label=legend_label(label),
            )
        ax.set_xlim(0, 1)
        ax.set_xlabel("Fraction of features")
        ax.set_ylabel("Similarity with the best match")
        ax.grid(alpha=0.3)
        draw_legend(ax)
