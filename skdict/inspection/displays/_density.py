"""The densities of all features."""

import numpy as np

from ...utils._drawing import COLORS
from ..codes._active import check_indices
from ..codes._store import as_feature_codes
from ._base import Display


class FeatureDensityDisplay(Display):
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

    def _draw(self, ax):
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
