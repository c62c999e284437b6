"""How specific a feature is, by the strength of its activation."""

import numpy as np

from ...utils._drawing import COLORS, PLAIN_TEXT, draw_legend, legend_label, plain
from ..results._specificity import activation_specificity
from ._base import Display


class ActivationSpecificityDisplay(Display):
    """Samples with and without a label, by the strength of a feature's activation.

    Bars on a logarithmic axis count the samples with and without the label; a line shows the
    fraction with it. It is recommended to use `from_codes`.

    Parameters
    ----------
    edges : array-like of shape (n_intervals + 1,)
        Edges of the intervals of activation.

    n_labelled, n_other : array-like of shape (n_intervals,)
        Number of active samples with and without the label in each interval.

    label : str, default="label"
        Name of the label.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the bars.

    ax_precision_ : matplotlib Axes
        Axes with the line.

    figure_ : matplotlib Figure
        Figure that contains the axes.

    See Also
    --------
    activation_specificity : Computes what is drawn.

    Examples
    --------
    >>> from skdict.inspection import ActivationSpecificityDisplay
    >>> display = ActivationSpecificityDisplay.from_codes(
    ...     [0.0, 0.5, 1.0, 3.0, 4.0], [True, False, True, True, True], n_intervals=2
    ... )
    >>> display.ax_.get_xlabel()
    'Activation'
    """

    def __init__(self, edges, n_labelled, n_other, label="label"):
        self.edges = np.asarray(edges, dtype=np.float64)
        self.n_labelled, self.n_other = np.asarray(n_labelled), np.asarray(n_other)
        self.label = label
        n_intervals = (len(self.edges) - 1,)
        if not self.n_labelled.shape == self.n_other.shape == n_intervals:
            raise ValueError(
                f"n_labelled and n_other must have one entry for each of the {n_intervals[0]} "
                f"intervals of edges, but have shapes {self.n_labelled.shape} and "
                f"{self.n_other.shape}."
            )

    @classmethod
    def from_codes(cls, codes, token_labels, *, n_intervals=10, label="label", ax=None):
        """Count and draw.

        Parameters
        ----------
        codes : array-like of shape (n_samples,)
            Codes of one feature.

        token_labels : array-like of bool of shape (n_samples,)
            Where the label holds.

        n_intervals : int, default=10
            Number of intervals of equal width, from 0 to the greatest code.

        label : str, default="label"
            Name of the label.

        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : ActivationSpecificityDisplay
            The drawn display.
        """
        found = activation_specificity(codes, token_labels, n_intervals=n_intervals)
        return cls(found.edges, found.n_labelled, found.n_other, label).plot(ax=ax)

    def _draw(self, ax):
        middle, width = (self.edges[:-1] + self.edges[1:]) / 2, np.diff(self.edges)
        # side by side: stacked bars are misleading on a logarithmic axis
        for counts, offset, color, name in (
            (self.n_labelled, -0.2, COLORS[0], self.label),
            (self.n_other, 0.2, COLORS[1], f"no {self.label}"),
        ):
            ax.bar(
                middle + offset * width,
                counts,
                0.4 * width,
                color=color,
                label=legend_label(name),
            )
        ax.set_yscale("log")
        ax.set_xlabel("Activation")
        ax.set_ylabel("Samples")
        precision = ax.twinx()
        total = self.n_labelled + self.n_other
        some = total > 0
        precision.plot(
            middle[some],
            self.n_labelled[some] / total[some],
            color="black",
            marker="o",
            markersize=3,
            label="fraction",
        )
        precision.set_ylim(0, 1.05)
        precision.set_ylabel(f"Fraction with {plain(self.label)}", **PLAIN_TEXT)
        draw_legend(
            precision,
            handles=[*ax.containers, *precision.lines],
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),  # above the axes, where no bar is
            ncols=3 if len(str(self.label)) < 20 else 1,
        )
        self.ax_precision_ = precision
