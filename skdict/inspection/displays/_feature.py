"""A figure of one feature."""

import numpy as np

from ...utils._drawing import COLORS, PLAIN_TEXT, pair_of_axes, plain


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
