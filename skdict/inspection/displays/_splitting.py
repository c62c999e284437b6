"""A tree of the features that one feature splits into."""

from collections.abc import Mapping
from textwrap import fill

import numpy as np

from ...utils._drawing import PLAIN_TEXT, plain
from ..codes._active import check_indices
from ._base import Display

NAME_WIDTH = 24  # characters per line of a node's text


class FeatureSplittingDisplay(Display):
    """A tree of the features that one feature splits into.

    The dictionaries are columns, from the narrowest on the left to the widest. Lines lead from a
    feature to its children; their colour is the masked cosine of the link. It is recommended to
    use `from_splitting`.

    Parameters
    ----------
    nodes : list of list of int
        The features drawn at each level, from top to bottom.

    edges : list of tuple (level, parent, child, cosine)
        Links between a feature of `level` and one of the next.

    names : list of list of str, default=None
        Text of each node; by default the indices.

    titles : list of str, default=None
        Text above each level; by default empty.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the tree.

    figure_ : matplotlib Figure
        Figure that contains the axes.

    edges_ : matplotlib LineCollection
        The lines, in the order of `edges`.

    See Also
    --------
    feature_splitting : Computes what is drawn.

    Examples
    --------
    >>> from skdict.inspection import FeatureSplittingDisplay
    >>> display = FeatureSplittingDisplay(
    ...     nodes=[[7], [2, 5]], edges=[(0, 7, 2, 0.9), (0, 7, 5, 0.6)]
    ... )
    >>> display.plot()
    <...FeatureSplittingDisplay object at ...>
    """

    def __init__(self, nodes, edges, names=None, titles=None):
        self.nodes = [[int(feature) for feature in level] for level in nodes]
        self.edges = [tuple(edge) for edge in edges]
        if names is None:
            names = [[str(feature) for feature in level] for level in self.nodes]
        self.names = names
        if [len(level) for level in self.nodes] != [len(level) for level in self.names]:
            raise ValueError(
                "names must have as many entries at each level as nodes, "
                f"{[len(level) for level in self.nodes]}, but has "
                f"{[len(level) for level in self.names]}."
            )
        self.titles = [""] * len(self.nodes) if titles is None else list(titles)
        if len(self.titles) != len(self.nodes):
            raise ValueError(
                f"titles must have an entry for each of {len(self.nodes)} levels, but has "
                f"{len(self.titles)}."
            )
        for level, parent, child, _ in self.edges:
            known = range(len(self.nodes) - 1)
            if level not in known or not (
                parent in self.nodes[level] and child in self.nodes[level + 1]
            ):
                raise ValueError(
                    f"edges has {(level, parent, child)}, but these features are not in nodes. "
                    "An edge leads from a feature of its level to a feature of the next level."
                )

    @classmethod
    def from_splitting(cls, splitting, feature, *, max_children=8, names=None, ax=None):
        """Draw what a feature of the narrowest dictionary splits into.

        Parameters
        ----------
        splitting : Bunch
            The result of `feature_splitting`.

        feature : int
            The root of the tree.

        max_children : int, default=8
            Maximum number of children to draw for each feature, those with the highest cosines.
            If there are more, their number is written at the feature.

        names : list of mapping or sequence of str, default=None
            For each level, names of some or all of its features, by index. Features without a
            name show only the index.

        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : FeatureSplittingDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If `feature` is out of range.

        Examples
        --------
        >>> import numpy as np
        >>> from skdict.inspection import FeatureSplittingDisplay, feature_splitting
        >>> narrow = np.array([[1.0], [2.0], [1.0]])
        >>> wide = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> splitting = feature_splitting(narrow, wide, min_active=1)
        >>> display = FeatureSplittingDisplay.from_splitting(splitting, 0)
        >>> display.nodes
        [[0], [1, 0]]
        """
        n_features = splitting["links"][0].shape[0]
        root = check_indices(
            [feature], n_features, name="feature", of="features of the narrowest dictionary"
        )
        nodes, edges = [root.tolist()], []
        for level, links in enumerate(splitting["links"]):
            below = {}  # as an ordered set
            for parent in nodes[level]:
                row = slice(*links.indptr[parent : parent + 2])
                order = np.argsort(-links.data[row], kind="stable")[:max_children]
                for child, cosine in zip(
                    links.indices[row][order].tolist(), links.data[row][order], strict=True
                ):
                    edges.append((level, parent, child, float(cosine)))
                    below[child] = None
            if not below:
                break
            nodes.append(list(below))
        texts = [
            [_node_text(splitting, level, i, max_children, names) for i in features]
            for level, features in enumerate(nodes)
        ]
        titles = [f"{len(level):,} features" for level in splitting["n_active"][: len(nodes)]]
        return cls(nodes, edges, texts, titles).plot(ax=ax)

    def _figure_options(self):
        # height of each level in inches: lines of text, and frames around them
        heights = [sum(0.2 + 0.15 * (1 + t.count("\n")) for t in level) for level in self.names]
        return {"figsize": (2.6 * len(self.nodes) + 1, max(2.5, 0.4 + max(heights)))}

    def _draw(self, ax):
        from matplotlib.collections import LineCollection

        places = [
            {i: (level, 0.5 - (row + 0.5) / len(features)) for row, i in enumerate(features)}
            for level, features in enumerate(self.nodes)
        ]
        lines = [(places[k][parent], places[k + 1][child]) for k, parent, child, _ in self.edges]
        cosines = np.array([cosine for *_, cosine in self.edges])
        self.edges_ = ax.add_collection(
            LineCollection(lines, array=cosines, cmap="viridis_r", linewidths=2, zorder=1)
        )
        self.edges_.set_clim(0, 1)
        for level, features in enumerate(self.nodes):
            ax.text(
                level,
                0.56,
                plain(self.titles[level]),
                ha="center",
                va="bottom",
                color="0.3",
                **PLAIN_TEXT,
            )
            for i, text in zip(features, self.names[level], strict=True):
                ax.text(
                    *places[level][i],
                    plain(text),
                    ha="center",
                    va="center",
                    fontsize="small",
                    **PLAIN_TEXT,
                    bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "0.5"},
                )
        ax.set_xlim(-0.5, len(self.nodes) - 0.5)
        ax.set_ylim(-0.55, 0.65)
        ax.set_axis_off()
        ax.figure.colorbar(self.edges_, ax=ax, label="Masked cosine of activations")


def _node_text(splitting, level, feature, max_children, names):
    """The index, the name if known, and the number of children if some are not drawn."""
    text = str(feature)
    if names is not None and level < len(names):
        known = names[level]
        known = known if isinstance(known, Mapping) else dict(enumerate(known))
        if feature in known:
            text = fill(f"{text}: {known[feature]}", NAME_WIDTH)
    if level < len(splitting["links"]):
        n_children = splitting["n_children"][level][feature]
        if n_children > max_children:
            text += f"\n({max_children} of {n_children} children)"
    return text
