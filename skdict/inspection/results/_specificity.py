"""The precision of a feature at strong and at weak activations."""

from numbers import Integral

import numpy as np
from sklearn.utils import Bunch

from ...metrics._rows import check_finite
from ...utils._arrays import as_vector
from ...utils._drawing import COLORS, PLAIN_TEXT, axes_for, draw_legend, legend_label, plain
from ...utils._sklearn_compat import Interval, validate_params


@validate_params(
    {"n_levels": [Interval(Integral, 1, None, closed="left")]}, prefer_skip_nested_validation=True
)
def activation_specificity(activations, labels, *, n_levels=10):
    """Count samples with and without a label, by the strength of a feature's activation.

    A specific feature is active only where the label holds. Usually this is true of strong
    activations and less so of weak ones.

    Parameters
    ----------
    activations : array-like of shape (n_samples,)
        Codes of one feature; it is active where they are positive.

    labels : array-like of bool of shape (n_samples,)
        Where the label holds.

    n_levels : int, default=10
        Number of intervals of equal width, from 0 to the greatest code.

    Returns
    -------
    specificity : :class:`~sklearn.utils.Bunch`

        edges : ndarray of shape (n_levels + 1,), float64
            Edges of the intervals.
        n_labelled : ndarray of shape (n_levels,), int64
            Number of active samples with the label in each interval.
        n_other : ndarray of shape (n_levels,), int64
            Number of active samples without it.
        precision : ndarray of shape (n_levels,), float64
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
    ...     [0.0, 0.5, 1.0, 3.0, 4.0], [True, False, True, True, True], n_levels=2
    ... )
    >>> specificity.edges, specificity.precision
    (array([0., 2., 4.]), array([0.5, 1. ]))
    """
    activations, labels = as_vector(activations, "activations"), as_vector(labels, "labels")
    if len(activations) != len(labels):
        raise ValueError(
            f"activations and labels must have one entry per sample, but have {len(activations)} "
            f"and {len(labels)}."
        )
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(
            f"labels must be true or false (1 or 0) for each sample, but has entries such as "
            f"{labels[0]!r}."
        )
    labels = labels.astype(bool)
    check_finite(activations, "activations")
    active = activations > 0
    edges = np.linspace(0, max(activations.max(initial=0), np.finfo(float).tiny), n_levels + 1)
    # a code on an edge belongs to the interval above it; the maximum belongs to the last one
    level = np.searchsorted(edges[1:-1], activations[active], side="right")
    labelled = labels[active]
    n_labelled = np.bincount(level[labelled], minlength=n_levels)
    n_other = np.bincount(level[~labelled], minlength=n_levels)
    with np.errstate(invalid="ignore"):
        precision = n_labelled / (n_labelled + n_other)
    return Bunch(edges=edges, n_labelled=n_labelled, n_other=n_other, precision=precision)


class ActivationSpecificityDisplay:
    """Samples with and without a label, by the strength of a feature's activation.

    Bars on a logarithmic axis count the samples with and without the label; a line shows the
    fraction with it. It is recommended to use `from_activations`.

    Parameters
    ----------
    edges : array-like of shape (n_levels + 1,)
        Edges of the intervals of activation.

    n_labelled, n_other : array-like of shape (n_levels,)
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
    >>> display = ActivationSpecificityDisplay.from_activations(
    ...     [0.0, 0.5, 1.0, 3.0, 4.0], [True, False, True, True, True], n_levels=2
    ... )
    >>> display.ax_.get_xlabel()
    'Activation'
    """

    def __init__(self, edges, n_labelled, n_other, label="label"):
        self.edges = np.asarray(edges, dtype=np.float64)
        self.n_labelled, self.n_other = np.asarray(n_labelled), np.asarray(n_other)
        self.label = label
        n_levels = (len(self.edges) - 1,)
        if not self.n_labelled.shape == self.n_other.shape == n_levels:
            raise ValueError(
                f"n_labelled and n_other must have one entry for each of the {n_levels[0]} "
                f"intervals of edges, but have shapes {self.n_labelled.shape} and "
                f"{self.n_other.shape}."
            )

    @classmethod
    def from_activations(cls, activations, labels, *, n_levels=20, label="label", ax=None):
        """Count and draw.

        Parameters
        ----------
        activations : array-like of shape (n_samples,)
            Codes of one feature.

        labels : array-like of bool of shape (n_samples,)
            Where the label holds.

        n_levels : int, default=20
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
        found = activation_specificity(activations, labels, n_levels=n_levels)
        return cls(found.edges, found.n_labelled, found.n_other, label).plot(ax=ax)

    def plot(self, ax=None):
        """Draw the bars and the line.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : ActivationSpecificityDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = axes_for(self, ax)
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
        self.ax_, self.ax_precision_, self.figure_ = ax, precision, ax.figure
        return self
