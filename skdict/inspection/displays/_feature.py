"""Figures of one feature, and of the densities of all features."""

import numpy as np

from ...utils._drawing import COLORS, PLAIN_TEXT, axes_for, pair_of_axes, plain
from ..codes._active import check_indices
from ..codes._store import as_feature_codes


class FeatureDisplay:
    """A histogram of a feature's activations, and the logits that it raises and lowers.

    It is recommended to use :meth:`FeatureDashboard.plot`.

    Parameters
    ----------
    edges : array-like of shape (n_bins + 1,)
        Edges of the bins of activation.

    counts : array-like of shape (n_bins,)
        Number of tokens in each bin.

    logits : list of (str, float), default=()
        Tokens and the weights of their logits.

    name : str, default="feature"
        Name of the feature in the title.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the histogram.

    ax_logits_ : matplotlib Axes
        Axes with the logits.

    figure_ : matplotlib Figure
        Figure that contains the axes.

    Examples
    --------
    >>> from skdict.inspection import FeatureDisplay
    >>> display = FeatureDisplay([0, 1, 2], [9, 3], [(" self", 0.7), (" x", -0.2)]).plot()
    >>> display.ax_logits_.get_xlabel()
    'Logit weight'
    """

    def __init__(self, edges, counts, logits=(), name="feature"):
        self.edges = np.asarray(edges, dtype=np.float64)
        self.counts = np.asarray(counts)
        self.logits = list(logits)
        self.name = name
        if self.counts.shape != (len(self.edges) - 1,):
            raise ValueError(
                f"counts must have one entry for each of the {len(self.edges) - 1} bins of "
                f"edges, but has shape {self.counts.shape}."
            )

    def plot(self, ax=None):
        """Draw the histogram and the logits.

        Parameters
        ----------
        ax : pair of matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : FeatureDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `ax` is not a pair.
        """
        left, right = pair_of_axes(self, ax, ncols=2, figsize=(9, 4))
        left.bar(self.edges[:-1], self.counts, np.diff(self.edges), align="edge", color=COLORS[0])
        left.set_yscale("log")
        left.set_xlabel("Activation")
        left.set_ylabel("Tokens")
        words = [plain(word).replace("\n", r"\n") for word, _ in self.logits]
        weights = np.array([weight for _, weight in self.logits])
        place = -np.arange(len(words))
        colors = [COLORS[0] if weight > 0 else COLORS[1] for weight in weights]
        right.barh(place, weights, color=colors)
        right.set_yticks(place, words, fontsize="small", **PLAIN_TEXT)
        right.set_xlabel("Logit weight")
        left.figure.suptitle(plain(self.name, longest=100), **PLAIN_TEXT)
        self.ax_, self.ax_logits_, self.figure_ = left, right, left.figure
        return self


class FeatureDensityDisplay:
    """A histogram of the densities of features on a logarithmic axis.

    Parameters
    ----------
    density : array-like of shape (n_components,)
        Fraction of the samples on which each feature is active.

    marked : array-like of int, default=()
        Features to mark.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the histogram.

    figure_ : matplotlib Figure
        Figure that contains the axes.

    See Also
    --------
    feature_statistics : The numbers.

    Examples
    --------
    >>> from skdict.inspection import FeatureDensityDisplay
    >>> display = FeatureDensityDisplay([0.5, 0.01, 0.02, 0.0], marked=[1]).plot()
    >>> display.ax_.get_title()
    '3 of 4 features are active'
    """

    def __init__(self, density, marked=()):
        self.density = np.asarray(density, dtype=np.float64)
        if self.density.ndim != 1 or ((self.density < 0) | (self.density > 1)).any():
            raise ValueError(
                "density must be one number between 0 and 1 for each feature, but has shape "
                f"{self.density.shape} and values such as {self.density.ravel()[:3]}."
            )
        self.marked = check_indices(marked, len(self.density), name="marked", of="features")

    @classmethod
    def from_codes(cls, codes, *, marked=(), ax=None):
        """Count and draw.

        Parameters
        ----------
        codes : FeatureCodes, or {array-like, sparse matrix, torch.Tensor} of shape \
                (n_samples, n_components)

        marked : array-like of int, default=()
            Features to mark.

        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : FeatureDensityDisplay
            The drawn display.
        """
        moments = as_feature_codes(codes).moments
        return cls(moments.count / moments.n_rows, marked).plot(ax=ax)

    def plot(self, ax=None):
        """Draw the histogram.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : FeatureDensityDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = axes_for(self, ax)
        alive = self.density[self.density > 0]
        low = np.floor(np.log10(alive.min(initial=0.1)))
        ax.hist(alive, bins=np.logspace(low, 0, int(-10 * low) + 1), color=COLORS[0])
        for k, j in enumerate(self.marked[self.density[self.marked] > 0]):
            ax.axvline(self.density[j], color=COLORS[1])
            height = 0.98 - 0.06 * (k % 8)  # staggered, so that close numbers do not overlap
            ax.annotate(
                f" {j}",
                (self.density[j], height),
                xycoords=("data", "axes fraction"),
                va="top",
                color=COLORS[1],
            )
        ax.set_xscale("log")
        ax.set_xlabel("Density (fraction of tokens on which a feature is active)")
        ax.set_ylabel("Features")
        ax.set_title(f"{len(alive)} of {len(self.density)} features are active")
        self.ax_, self.figure_ = ax, ax.figure
        return self
