"""Which features recur when a dictionary is learned again from another start."""

from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch

from ...metrics._rows import as_rows, float64_block, row_blocks
from ...utils._random import check_random_state
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._directions import unit_directions
from ._matching import match_features

# Cosines of the curve.
COSINES = np.arange(50, 100) / 100
# Values of dict_init that are drawn anew with each seed.
DRAWN = ("exemplars", "random", None)


@validate_params(
    {
        "estimator": [BaseEstimator],
        "n_seeds": [Interval(Integral, 2, None, closed="left")],
        "threshold": [Interval(Real, -1, 1, closed="both")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=False,  # the estimator checks its own
)
def stability_report(estimator, X, *, n_seeds=5, threshold=0.7, random_state=None):
    """Learn a dictionary several times, and find out which of its features recur.

    A feature that appears with one seed only is not a property of the data that the method finds.
    Each fit has a seed of its own for all that is random, its first atoms above all: dictionaries
    that begin with the same atoms also end with similar ones, which says nothing [1]_. The
    features of each two fits are matched one to one by the cosines of their atoms, as by
    :func:`match_features`. A feature recurs in another fit if the cosine with its partner there
    is at least `threshold`.

    Parameters
    ----------
    estimator : estimator
        With ``random_state``, and ``components_`` once it is fitted; or a Pipeline that ends in
        one. It is cloned.

    X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        What it learns from: the same samples for all fits.

    n_seeds : int, default=5
        Number of fits, 2 at least.

    threshold : float, default=0.7
        Least cosine of two features that count as the same.

    random_state : int, RandomState instance or None, default=None
        Determines the seeds, and what the two null distributions are drawn with. That of
        `estimator` is not used.

    Returns
    -------
    report : :class:`~sklearn.utils.Bunch`
        estimators : list of estimator
            The fits. The first axis of `n_recurring` and the first two of `similarity` follow
            this order.
        similarity : ndarray of float64 of shape (n_seeds, n_seeds, n_components)
            Cosine of each feature of fit i with its partner in fit j; nan for dead features and
            where i is j.
        n_recurring : ndarray of int64 of shape (n_seeds, n_components)
            In how many other fits each feature recurs; -1 for dead features.
        recurring_fraction : ndarray of float64 of shape (n_seeds,)
            Entry m is the fraction of the features that recur in at least m other fits. The last
            one is that of features which all fits have in common.
        shared_fraction, shared_fraction_std : float
            Fraction of the features that recur in another fit: mean and standard deviation over
            all pairs of fits.
        cosines : ndarray of float64 of shape (50,)
            Thresholds from 0.5 to 0.99, for a curve.
        shared_fractions : ndarray of float64 of shape (50,)
            The mean of `shared_fraction` at each of them.
        random_fraction, samples_fraction : float
            What `shared_fraction` is of dictionaries that nobody trained: as many random
            directions; and as many samples, centred, drawn twice.
        random_fractions, samples_fractions : ndarray of float64 of shape (50,)
            The same at each of `cosines`.
        n_dead : ndarray of int64 of shape (n_seeds,)
            Number of dead features, which are not matched and do not count.

    Raises
    ------
    TypeError
        If the estimator has no ``random_state`` or no ``components_``.
    ValueError
        If its ``dict_init`` would give all fits the same first atoms.

    See Also
    --------
    match_features : Two dictionaries that are there.
    skdict.decomposition.sanity_controls : What a dictionary has to beat.

    Notes
    -----
    This measures stability, the agreement of finished dictionaries. How much of it training has
    made is the difference to where the fits began: by default, at samples, which is
    `samples_fraction`. Activations that lie close together share much from the start.

    Features that do not recur are not all noise: several directions may span the same space, and
    each fit choose its own [2]_.

    Matching takes time by the cube of the number of features, and memory for all similarities of
    two fits; beyond some 10,000 it takes hours.

    References
    ----------
    .. [1] Brzozowski and Chung, "Ablating Archetypes: The Stability of Archetypal SAEs is an
       Artifact of Initialization and Metric Design", 2026, arXiv:2606.02061.
    .. [2] Gerasimov et al., "Unstable Features, Reproducible Subspaces: Understanding Seed
       Dependence in Sparse Autoencoders", 2026, arXiv:2606.12138.

    Examples
    --------
    >>> import numpy as np
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> from skdict.inspection import stability_report
    >>> X = make_superposition(n_samples=4000, n_features=16, n_components=32, random_state=0)[0]
    >>> sae = SparseAutoencoderDictionary(32)
    >>> report = stability_report(sae, X, n_seeds=3, random_state=0)
    >>> bool(report.shared_fraction > 0.9 > 0.5 > report.samples_fraction)
    True
    >>> in_all = np.flatnonzero(report.n_recurring[0] == 2)  # of the features of the first fit
    >>> len(in_all) > 28
    True
    """
    _check_starts(estimator)
    random_state = check_random_state(random_state)
    seeds = random_state.randint(2**31 - 1, size=n_seeds).tolist()
    estimators = [_seeded(estimator, seed).fit(X) for seed in seeds]
    similarity, dead = _similarities(estimators)
    alive = ~dead
    n_recurring = (similarity >= threshold).sum(axis=1)
    fractions = _fractions(similarity, alive, threshold)
    at_least = [(n_recurring >= m)[alive].mean() for m in range(n_seeds)]
    report = Bunch(
        estimators=estimators,
        similarity=similarity,
        n_recurring=np.where(alive, n_recurring, -1),
        recurring_fraction=np.array(at_least),
        shared_fraction=float(fractions.mean()),
        shared_fraction_std=float(fractions.std(ddof=1)),
        cosines=COSINES.copy(),
        shared_fractions=np.array([_fractions(similarity, alive, c).mean() for c in COSINES]),
        n_dead=dead.sum(axis=1),
    )
    for name, (a, b) in _untrained(X, estimators[0], random_state).items():
        found = match_features(a, b).similarity
        report[f"{name}_fraction"] = float(np.mean(found >= threshold))
        report[f"{name}_fractions"] = np.array([np.mean(found >= c) for c in COSINES])
    return report


def _check_starts(estimator):
    params = estimator.get_params(deep=True)
    if not _random_states(params):
        raise TypeError(
            f"The {type(estimator).__name__} has no random_state, so all fits would be the same. "
            "Give an estimator that has one."
        )
    for name, value in params.items():
        if name.split("__")[-1] != "dict_init":
            continue
        if not (value is None or (isinstance(value, str) and value in DRAWN)):
            shown = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
            raise ValueError(
                f"{name} is {shown}: all fits would begin with the same atoms, and agree because "
                "of that. Take None, 'exemplars' or 'random', which each seed draws anew."
            )


def _random_states(params):
    return [name for name in params if name.split("__")[-1] == "random_state"]


def _seeded(estimator, seed):
    """A clone with a seed for all that is random in it."""
    estimator = clone(estimator)
    names = _random_states(estimator.get_params(deep=True))
    return estimator.set_params(**dict.fromkeys(names, seed))


def _similarities(estimators):
    """Cosines with the partners in other fits, (n, n, n_components), and dead features."""
    alive = [unit_directions(fitted, "estimator")[1] for fitted in estimators]
    if len({len(each) for each in alive}) > 1:
        raise ValueError(
            f"The fits have {sorted({len(each) for each in alive})} components, but have to have "
            "the same number. Give the estimator n_components."
        )
    n = len(estimators)
    similarity = np.full((n, n, len(alive[0])), np.nan)
    for i in range(n):
        for j in range(i + 1, n):
            match = match_features(estimators[i], estimators[j])
            matched = match.partner >= 0
            similarity[i, j, matched] = match.similarity[matched]
            similarity[j, i, match.partner[matched]] = match.similarity[matched]
    return similarity, ~np.array(alive)


def _fractions(similarity, alive, threshold):
    """For each ordered pair of fits the fraction of features with such a partner."""
    shared = (similarity >= threshold).sum(axis=2) / np.maximum(alive.sum(axis=1), 1)[:, None]
    return shared[~np.eye(len(alive), dtype=bool)]


def _untrained(X, fitted, random_state):
    """For each null distribution two dictionaries that nobody trained, by name."""
    step = fitted[-1] if isinstance(fitted, Pipeline) else fitted
    if step is not fitted and len(fitted) > 1:
        X = fitted[:-1].transform(X)
    X, shape = as_rows(X, "X"), step.components_.shape
    blocks = (float64_block(X, block) for block in row_blocks(X))
    mean = sum(block.sum(axis=0) for block in blocks) / X.shape[0]

    def drawn():
        rows = random_state.permutation(X.shape[0])[: shape[0]]
        return float64_block(X, np.sort(rows)) - mean

    return {
        "random": [random_state.normal(size=shape) for _ in range(2)],
        "samples": [drawn() for _ in range(2)],
    }
