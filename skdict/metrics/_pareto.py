"""Explained variance against L0, as a plot."""

from collections.abc import Mapping

import numpy as np

from ..utils._arrays import as_vector
from ..utils._drawing import COLORS, MARKERS, axes_for, draw_legend, legend_label
from ._scorer import DictionaryScorer


class ParetoDisplay:
    """Explained variance against L0, one line per group of dictionaries.

    Dictionaries are comparable only at equal sparsity: a better one is higher (it explains more)
    or further to the left (it needs fewer active features). The line of a group joins those that
    no other of the group beats in both: its Pareto front. The others are points beside it.
    It is recommended to use `from_estimators`, `from_cv_results` or `from_comparison`, which
    store their results as attributes.

    Parameters
    ----------
    l0 : array-like of shape (n_dictionaries,)
        Mean number of active features per activation (see `mean_l0`).

    explained_variance : array-like of shape (n_dictionaries,)
        Fraction of the variance of the activations (see `explained_variance`).

    group : array-like of str of shape (n_dictionaries,)
        The line that each dictionary belongs to.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the lines.

    figure_ : matplotlib Figure
        Figure that contains the axes.

    lines_ : dict of str to matplotlib Line2D
        The line of each group.

    beaten_ : dict of str to matplotlib Line2D
        The points of each group that are not on its line, where there are such.

    See Also
    --------
    DictionaryScorer : The metrics on the axes, for a grid search.

    Examples
    --------
    >>> from skdict.metrics import ParetoDisplay
    >>> display = ParetoDisplay(
    ...     l0=[3.0, 30.0, 20.0],
    ...     explained_variance=[0.6, 0.9, 0.4],
    ...     group=["SAE", "SAE", "random atoms"],
    ... )
    >>> display.plot()
    <...ParetoDisplay object at ...>
    >>> list(display.lines_)
    ['SAE', 'random atoms']
    """

    def __init__(self, l0, explained_variance, group):
        self.l0 = as_vector(l0, "l0")
        self.explained_variance = as_vector(explained_variance, "explained_variance")
        self.group = np.asarray(group)
        shapes = {self.l0.shape, self.explained_variance.shape, self.group.shape}
        if len(shapes) > 1:
            raise ValueError(
                "l0, explained_variance and group must be one-dimensional and of the same "
                f"length, but have shapes {self.l0.shape}, {self.explained_variance.shape} and "
                f"{self.group.shape}."
            )

    @classmethod
    def from_estimators(cls, estimators, X, *, ax=None):
        """Score fitted dictionaries on the same data and draw them.

        Parameters
        ----------
        estimators : dict of str to estimator, or to list of estimators
            Fitted estimators with `transform` and `inverse_transform`, or Pipelines that end in
            one. A list of estimators, for instance one for each alpha of a grid, is drawn as a
            line; a single estimator as a point.

        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Activations, preferably held out; for Pipelines, what their first step takes.

        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : ParetoDisplay
            The drawn display.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.decomposition import PCA
        >>> from skdict.metrics import ParetoDisplay
        >>> X = np.random.default_rng(0).normal(size=(50, 4))
        >>> estimators = {"PCA": [PCA(k).fit(X) for k in (1, 2, 3)]}
        >>> ParetoDisplay.from_estimators(estimators, X).l0
        array([1., 2., 3.])
        """
        scorer = DictionaryScorer(metrics=("l0", "explained_variance"))
        points = []
        for name, estimator in named_estimators(_named_groups(estimators, "estimators")):
            scores = scorer(estimator, X)
            points.append((scores["l0"], scores["explained_variance"], name))
        return cls(*zip(*points, strict=True)).plot(ax=ax)

    @classmethod
    def from_cv_results(cls, cv_results, *, ax=None):
        """Draw all candidates of finished searches, without fitting or scoring again.

        Parameters
        ----------
        cv_results : dict of str to dict
            For each line, the ``cv_results_`` of a search, for instance a
            :class:`~sklearn.model_selection.GridSearchCV` over alpha, with a `DictionaryScorer`
            with the metrics "l0" and "explained_variance" as ``scoring``. Each candidate is a
            point at its means over the test folds; those that failed (NaN) are left out.

        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : ParetoDisplay
            The drawn display.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.decomposition import PCA
        >>> from sklearn.model_selection import GridSearchCV
        >>> from skdict.metrics import DictionaryScorer, ParetoDisplay
        >>> X = np.random.default_rng(0).normal(size=(50, 4))
        >>> search = GridSearchCV(
        ...     PCA(), {"n_components": [1, 3]}, scoring=DictionaryScorer(), refit=False
        ... ).fit(X)
        >>> ParetoDisplay.from_cv_results({"PCA": search.cv_results_}).l0
        array([1., 3.])
        """
        points = []
        for name, results in _named_groups(cv_results, "cv_results"):
            if not isinstance(results, Mapping):
                raise TypeError(
                    f"cv_results[{name!r}] must be a dict, but is a {type(results).__name__}. "
                    "Pass {name: search.cv_results_}."
                )
            columns = []
            for metric in ("l0", "explained_variance"):
                if f"mean_test_{metric}" not in results:
                    raise ValueError(
                        f"cv_results[{name!r}] has no entry 'mean_test_{metric}'. Pass the "
                        "cv_results_ of a search with scoring=DictionaryScorer()."
                    )
                columns.append(results[f"mean_test_{metric}"])
            points.extend((*point, name) for point in zip(*columns, strict=True))
        return cls(*zip(*points, strict=True)).plot(ax=ax)

    @classmethod
    def from_comparison(cls, comparison, *, ax=None):
        """Draw a table of :func:`skdict.decomposition.compare_dictionaries`.

        Parameters
        ----------
        comparison : DataFrame, or dict of str to ndarray
            The table. Each pair of a dictionary and a transform algorithm is a line, through the
            best setting at each L0. Rows with an error are left out.

        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : ParetoDisplay
            The drawn display.

        Examples
        --------
        >>> from skdict.metrics import ParetoDisplay
        >>> table = {
        ...     "dictionary": ["SAE", "SAE", "SAE"],
        ...     "transform_algorithm": ["encoder", "omp", "omp"],
        ...     "l0": [10.0, 5.0, 10.0],
        ...     "explained_variance": [0.7, 0.6, 0.8],
        ... }
        >>> list(ParetoDisplay.from_comparison(table).lines_)
        ['SAE, encoder', 'SAE, omp']
        """
        needed = ("dictionary", "transform_algorithm", "l0", "explained_variance")
        missing = [name for name in needed if name not in comparison]
        if missing:
            raise ValueError(
                f"comparison has no {' and no '.join(missing)}. Pass the table that "
                "compare_dictionaries returned."
            )
        columns = [np.asarray(comparison[name]) for name in needed]
        measured = ~np.isnan(columns[2].astype(np.float64))
        dictionaries, algorithms, l0, variance = (column[measured] for column in columns)
        # "transform" is the own transform of an estimator of another library: not worth naming
        group = [
            dictionary if algorithm == "transform" else f"{dictionary}, {algorithm}"
            for dictionary, algorithm in zip(dictionaries, algorithms, strict=True)
        ]
        return cls(l0, variance, group).plot(ax=ax)

    def plot(self, ax=None):
        """Draw the lines, and beside them the points that are not on a Pareto front.

        Points with an L0 of 0 (all features are dead) are left out, as the axis is logarithmic,
        and those with NaN: fits that failed.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure by default.

        Returns
        -------
        display : ParetoDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from skdict.metrics import ParetoDisplay
        >>> display = ParetoDisplay([3.0, 30.0], [0.6, 0.9], ["SAE", "SAE"]).plot()
        >>> display.ax_.get_xlabel()
        'L0 (active features per activation)'
        """
        ax = axes_for(self, ax)
        from matplotlib.ticker import LogLocator, StrMethodFormatter

        self.lines_, self.beaten_ = {}, {}
        for i, name in enumerate(dict.fromkeys(self.group.tolist())):
            look = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}
            shown = (self.group == name) & (self.l0 > 0) & ~np.isnan(self.explained_variance)
            shown = np.flatnonzero(shown)
            # the sparser first; of equally sparse ones that which explains most
            shown = shown[np.lexsort((-self.explained_variance[shown], self.l0[shown]))]
            x, y = self.l0[shown], self.explained_variance[shown]
            on_front = np.diff(np.fmax.accumulate(y), prepend=-np.inf) > 0
            (self.lines_[name],) = ax.plot(
                x[on_front], y[on_front], label=legend_label(name), **look
            )
            if not on_front.all():
                (self.beaten_[name],) = ax.plot(
                    x[~on_front], y[~on_front], linestyle="none", alpha=0.35, **look
                )
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter("")
        ax.set_xlabel("L0 (active features per activation)")
        ax.set_ylabel("Explained variance (fraction)")
        ax.grid(alpha=0.3)
        draw_legend(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def named_estimators(groups):
    """Yield (name, estimator) pairs from (name, estimator or list of estimators) pairs."""
    for name, members in groups:
        members = members if isinstance(members, list | tuple) else [members]
        if not members:
            raise ValueError(f"estimators[{name!r}] is empty. Give at least one estimator.")
        for estimator in members:
            yield name, estimator


def _named_groups(groups, parameter):
    if not isinstance(groups, Mapping):
        raise TypeError(
            f"{parameter} must be a dict whose keys name the lines, but is a "
            f"{type(groups).__name__}."
        )
    if not groups:
        raise ValueError(f"{parameter} is empty. Give at least one line.")
    return groups.items()
