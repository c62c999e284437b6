"""How strongly a steered model writes of a concept, and how fluently."""

import numpy as np

from ...utils._drawing import COLORS, draw_legend, legend_label, pair_of_axes


class SteeringDisplay:
    """How much of a concept steered models write, and how fluently.

    Parameters
    ----------
    effect : mapping
        What `steering_effect` returned.

    name : str, default=None
        Name of the feature in the legend; "feature 5" by default. With several features, what is
        written before their numbers.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the concept scores.

    ax_cross_entropy_ : matplotlib Axes
        Axes with the cross-entropies.

    figure_ : matplotlib Figure
        Figure that contains the axes.

    See Also
    --------
    steering_effect : Computes what is drawn.

    Examples
    --------
    >>> from skdict.inspection import SteeringDisplay
    >>> effect = {
    ...     "feature": [5, 5],
    ...     "strength": [0.0, 1.0],
    ...     "concept_score": [0.1, 0.8],
    ...     "concept_score_error": [0.02, 0.03],
    ...     "cross_entropy": [3.0, 4.0],
    ...     "random_concept_score": [0.1, 0.1],
    ...     "random_concept_score_error": [0.02, 0.02],
    ...     "random_cross_entropy": [3.0, 5.0],
    ... }
    >>> SteeringDisplay(effect, name="comments").plot().ax_.get_ylabel()
    'Concept score'
    """

    def __init__(self, effect, name=None):
        self.effect = effect
        self.name = name

    def plot(self, ax=None):
        """Draw the concept scores above, the cross-entropies below.

        Parameters
        ----------
        ax : pair of matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : SteeringDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `ax` is not a pair.
        """
        above, below = pair_of_axes(self, ax, nrows=2, sharex=True)
        effect = {name: np.asarray(values) for name, values in self.effect.items()}
        features = list(dict.fromkeys(effect["feature"].tolist()))
        curves = [("", j, self._name_of(j, features), "o-") for j in features]
        for name, label in (("random", "random directions"), ("other", "other features")):
            if f"{name}_concept_score" in effect:
                curves.append((f"{name}_", features[0], label, "s--"))
        for i, (prefix, feature, label, style) in enumerate(curves):
            rows = effect["feature"] == feature
            options = {"color": COLORS[i % len(COLORS)], "label": legend_label(label)}
            above.errorbar(
                effect["strength"][rows],
                effect[f"{prefix}concept_score"][rows],
                yerr=effect[f"{prefix}concept_score_error"][rows],
                fmt=style,
                capsize=2,
                **options,
            )
            below.plot(
                effect["strength"][rows],
                effect[f"{prefix}cross_entropy"][rows],
                style,
                **options,
            )
        above.set_ylabel("Concept score")
        above.set_ylim(bottom=0)
        draw_legend(above)
        below.set_ylabel("Cross-entropy (nats)")
        below.set_xlabel("Strength (units of the code)")
        for axes in (above, below):
            axes.grid(alpha=0.3)
        self.ax_, self.ax_cross_entropy_, self.figure_ = above, below, above.figure
        return self

    def _name_of(self, feature, features):
        if self.name is not None and len(features) == 1:
            return self.name
        return f"{'feature' if self.name is None else self.name} {feature}"
