"""Scores of explanations and their baselines, as box plots."""

import numpy as np

from ...utils._drawing import (
    COLORS,
    MARKERS,
    PLAIN_TEXT,
    draw_legend,
    legend_label,
    plain,
)
from ..interpretation._result import score_columns
from ..interpretation.scorers import SCORERS
from ._base import Display

# Sources of scores and their names in the figure.
_SOURCES = {
    "score": "features",
    "shuffled": "explanations of other features",
    "neuron": "neurons",
}
_WIDTH = 0.8  # of the boxes of one scorer together


class InterpretationDisplay(Display):
    """Distributions of the scores of explanations: features, shuffled explanations, neurons.

    It is recommended to use `from_interpretation`, which stores its results as attributes.

    Parameters
    ----------
    scores : dict of str to dict of str to array-like
        For each scorer and source of scores, the scores. Entries that are nan are left out.

    chance : dict of str to float, default=None
        For each scorer the score of uninformed answers, which is drawn as a dashed line. By
        default those of the scorers that come with skdict.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the boxes.

    figure_ : matplotlib Figure
        Figure that contains the axes.

    boxes_ : dict of (str, str) to matplotlib PathPatch
        The box for each scorer and source: from the first to the third quartile.

    See Also
    --------
    interpret_features : Explains features and scores the explanations.

    Examples
    --------
    >>> from skdict.inspection import InterpretationDisplay
    >>> display = InterpretationDisplay(
    ...     {"detection": {"features": [0.9, 0.8, 0.95], "neurons": [0.6, 0.5, 0.7]}}
    ... ).plot()
    >>> list(display.boxes_)
    [('detection', 'features'), ('detection', 'neurons')]
    """

    def __init__(self, scores, chance=None):
        self.scores = {
            scorer: {
                source: np.asarray(values, dtype=np.float64) for source, values in sources.items()
            }
            for scorer, sources in scores.items()
        }
        if not any(self.scores.values()):
            raise ValueError("scores is empty. Give at least one scorer with one source.")
        known = {name: scorer.chance for name, scorer in SCORERS.items()}
        self.chance = known if chance is None else dict(chance)

    @classmethod
    def from_interpretation(cls, result, *, ax=None):
        """Draw the result of :func:`interpret_features`.

        Parameters
        ----------
        result : mapping
            The result, or a DataFrame of it.

        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : InterpretationDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If the result has no scores.

        Examples
        --------
        >>> from skdict.inspection import InterpretationDisplay
        >>> result = {"mine": [0.9, 1.0], "mine_chance": [0.5, 0.5], "mine_shuffled": [0.5, 0.4]}
        >>> InterpretationDisplay.from_interpretation(result).scores
        {'mine': {'features': array([0.9, 1. ]), 'explanations of other features': ...}}
        """
        columns = score_columns(result)
        if not columns:
            raise ValueError(
                "result has no scores with a column of their chance level, such as 'detection' "
                "and 'detection_chance'. Pass what interpret_features returned."
            )
        scores = {
            scorer: {name: of[key] for key, name in _SOURCES.items() if of[key] is not None}
            for scorer, of in columns.items()
        }
        chance = {scorer: of["chance"] for scorer, of in columns.items()}
        return cls(scores, chance).plot(ax=ax)

    def _draw(self, ax):
        names = list(dict.fromkeys(name for sources in self.scores.values() for name in sources))
        step, rng = _WIDTH / len(names), np.random.default_rng(0)
        self.boxes_, shown = {}, {}
        for i, (scorer, sources) in enumerate(self.scores.items()):
            for name, values in sources.items():
                k = names.index(name)
                values = values[~np.isnan(values)]
                place = i - _WIDTH / 2 + (k + 0.5) * step
                color = COLORS[k % len(COLORS)]
                parts = ax.boxplot(
                    values,
                    positions=[place],
                    widths=0.8 * step,
                    showfliers=False,
                    patch_artist=True,
                    manage_ticks=False,
                    boxprops={"facecolor": color, "alpha": 0.3},
                    medianprops={"color": "black", "linewidth": 1.5},
                )
                self.boxes_[scorer, name] = parts["boxes"][0]
                jitter = rng.uniform(-0.25 * step, 0.25 * step, len(values))
                shown[name] = ax.scatter(
                    place + jitter,
                    values,
                    s=12,
                    color=color,
                    marker=MARKERS[k % len(MARKERS)],
                    linewidths=0,
                    alpha=0.7,
                    label=legend_label(name),
                )
            if scorer in self.chance:
                shown["chance"] = ax.hlines(
                    self.chance[scorer], i - 0.45, i + 0.45, color="black", ls="--", label="chance"
                )
        ax.set_xticks(range(len(self.scores)), [*map(plain, self.scores)], **PLAIN_TEXT)
        ax.set_ylabel("Score")
        ax.grid(axis="y", alpha=0.3)
        draw_legend(ax, handles=list(shown.values()))
