"""A map of the atoms of a dictionary."""

from importlib.util import find_spec

import numpy as np
from sklearn.manifold import TSNE

from ..._core.optional import optional
from ...utils._drawing import COLORS, MARKERS, PLAIN_TEXT, plain
from ...utils._random import check_random_state
from ..codes._directions import unit_directions
from ._base import Display

METHODS = ("auto", "umap", "tsne")


class FeatureMapDisplay(Display):
    """A map of the atoms in two dimensions; atoms with similar directions are close together.

    Each of the largest groups has its own colour; the others share one.
    It is recommended to use `from_estimator`, which computes the positions.

    Parameters
    ----------
    positions : array-like of shape (n_components, 2)
        Position of each atom. Atoms with nan are not drawn.

    groups : array-like of int of shape (n_components,), default=None
        Group of each feature, such as its community; -1 for none.

    name : str, default="map"
        Name of the axes.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the map.

    figure_ : matplotlib Figure
        Figure that contains the axes.

    scatters_ : dict of str to matplotlib PathCollection
        The points of each group.

    See Also
    --------
    feature_communities : Groups of features that are active together.

    Examples
    --------
    >>> from skdict.inspection import FeatureMapDisplay
    >>> display = FeatureMapDisplay([[0.0, 0.1], [0.2, 0.1], [3.0, 1.0]], groups=[0, 0, -1])
    >>> display.plot()
    <...FeatureMapDisplay object at ...>
    >>> list(display.scatters_)
    ['none (1)', '0 (2)']
    """

    def __init__(self, positions, groups=None, name="map"):
        self.positions = np.asarray(positions, dtype=np.float64)
        if self.positions.ndim != 2 or self.positions.shape[1] != 2:
            raise ValueError(
                f"positions must have shape (n_components, 2), but has {self.positions.shape}."
            )
        self.groups = None if groups is None else np.asarray(groups)
        if self.groups is not None and (
            self.groups.shape != self.positions.shape[:1] or self.groups.dtype.kind not in "iu"
        ):
            raise ValueError(
                f"groups must be {len(self.positions)} integers, one per feature, but has dtype "
                f"{self.groups.dtype} and shape {self.groups.shape}."
            )
        self.name = name

    @classmethod
    def from_estimator(cls, estimator, *, groups=None, method="auto", random_state=0, ax=None):
        """Lay out the atoms of a dictionary and draw them.

        Atoms are scaled to unit norm, so that their squared distance is 2 (1 - cosine). Dead
        features are left out: those with a zero atom, or with a ``feature_density_`` of 0 if the
        estimator has this attribute.

        Parameters
        ----------
        estimator : estimator or array-like of shape (n_components, n_features)
            A fitted dictionary with ``components_``, a Pipeline that ends in one, or atoms.

        groups : array-like of int of shape (n_components,), default=None
            Group of each feature, such as ``feature_communities(codes).groups``.

        method : {"auto", "umap", "tsne"}, default="auto"
            "umap" is UMAP, which needs the package umap-learn, with 15 neighbours and a minimal
            distance of 0.05, as in [1]_; "tsne" is :class:`sklearn.manifold.TSNE`; "auto"
            takes "umap" if it is installed.

        random_state : int, RandomState instance or None, default=0
            Determines the layout.

        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : FeatureMapDisplay
            The drawn display.

        Raises
        ------
        ImportError
            If umap-learn or matplotlib is not installed.
        ValueError
            If fewer than four features are alive, or all have the same direction.

        References
        ----------
        .. [1] Bricken et al., "Towards Monosemanticity: Decomposing Language Models With
           Dictionary Learning", Transformer Circuits Thread, 2023.

        Examples
        --------
        >>> import numpy as np
        >>> from skdict.inspection import FeatureMapDisplay
        >>> atoms = np.random.default_rng(0).normal(size=(20, 5))
        >>> display = FeatureMapDisplay.from_estimator(atoms, method="tsne", random_state=0)
        >>> display.positions.shape, display.ax_.get_xlabel()
        ((20, 2), 't-SNE 1')
        """
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, but is {method!r}.")
        directions, alive = unit_directions(estimator, "estimator")
        if np.count_nonzero(alive) < 4:
            raise ValueError(
                "A map needs at least four features that are alive, but estimator has "
                f"{np.count_nonzero(alive)} of {len(alive)}. Fit it longer, or with less sparsity."
            )
        if directions.shape[1] < 2 or not np.ptp(directions[alive], axis=0).max() > 1e-12:
            raise ValueError(
                "A map needs features that point in different directions, but all "
                f"{np.count_nonzero(alive)} of estimator that are alive point the same way, or "
                "have a single dimension."
            )
        if method == "auto":
            method = "umap" if find_spec("umap") else "tsne"
        lay_out = _umap if method == "umap" else _tsne
        positions = np.full((len(alive), 2), np.nan)
        seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
        positions[alive] = lay_out(directions[alive], seed)
        return cls(positions, groups, name="UMAP" if method == "umap" else "t-SNE").plot(ax=ax)

    def _draw(self, ax):
        self.scatters_ = {}
        for name, members, color, marker in _groups(self.groups, len(self.positions)):
            members = members[~np.isnan(self.positions[members]).any(axis=1)]
            if len(members):
                label = f"{name} ({len(members)})"
                self.scatters_[label] = ax.scatter(
                    *self.positions[members].T,
                    s=np.clip(8000 / len(self.positions), 6, 40),
                    color=color,
                    marker=marker,
                    linewidths=0,
                    label=label,
                )
        ax.set_xlabel(f"{plain(self.name)} 1", **PLAIN_TEXT)
        ax.set_ylabel(f"{plain(self.name)} 2", **PLAIN_TEXT)
        ax.set_xticks([])
        ax.set_yticks([])
        if self.groups is not None and self.scatters_:
            ax.legend(title="Group", loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)


def _groups(groups, n_components):
    """Yield name, members, colour and marker of each group, from back to front."""
    if groups is None:
        yield "features", np.arange(n_components), COLORS[0], MARKERS[0]
        return
    values, sizes = np.unique(groups[groups >= 0], return_counts=True)
    by_size = values[np.argsort(-sizes, kind="stable")]
    yield "none", np.flatnonzero(groups < 0), "0.85", MARKERS[0]
    yield "others", np.flatnonzero(np.isin(groups, by_size[len(COLORS) :])), "0.6", MARKERS[0]
    for value, color, marker in zip(by_size, COLORS, MARKERS, strict=False):
        yield str(value), np.flatnonzero(groups == value), color, marker


def _tsne(directions, seed):
    perplexity = min(30, (len(directions) - 1) / 3)
    return TSNE(perplexity=perplexity, random_state=seed).fit_transform(directions)


def _umap(directions, seed):
    with optional("umap", "method='umap' (there is 'tsne' too)", "umap-learn"):
        from umap import UMAP
    n_neighbors = min(15, len(directions) - 1)
    options = {"n_neighbors": n_neighbors, "min_dist": 0.05, "metric": "cosine"}
    return UMAP(**options, random_state=seed).fit_transform(directions)
