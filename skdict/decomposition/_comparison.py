"""Dictionaries side by side: each with every way to find codes, at equal L0."""

import copy
import inspect
import math
import time
from collections.abc import Mapping
from functools import cache
from numbers import Real

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted, validate_data

from .._core.data.source import Source
from .._core.optional import is_missing
from .._core.torch_state import plain_torch
from ..metrics import loss_recovered
from ..metrics._pareto import named_estimators
from ..utils._arrays import as_vector, check_activations
from ..utils._device import resolve_device
from ..utils._sklearn_compat import Interval, validate_params
from ..utils._warnings import warn
from ._alpha import ALPHA_FRACTION, location_and_scale, variation
from ._likelihood import log_likelihood
from ._sparse_autoencoder import LASSO_TOL, SparseAutoencoderDictionary
from ._sparse_autoencoder_cv import SparseAutoencoderDictionaryCV
from ._sparse_coding import ALGORITHMS, warn_of_gaps

TRANSFORM_ALGORITHMS = ("auto", "encoder", *ALGORITHMS)
COLUMNS = (
    "dictionary",
    "transform_algorithm",
    "n_components",
    "budget",
    "transform_alpha",
    "l0",
    "explained_variance",
    "objective",
    "score",
    "fit_seconds",
    "transform_seconds",
)
LOSS_COLUMNS = ("loss_recovered_zero", "loss_recovered_mean", "delta_cross_entropy")
# On about so many samples alpha is searched until the L0 is right, to about this fraction.
N_MATCHED_SAMPLES = 2000
L0_TOL = 0.01
# Smallest alpha that is tried, as a fraction of the largest correlation, and the steps down to it,
# in the logarithm.
SMALLEST_ALPHA = 1e-4
STEP = 0.5
# Samples that are coded before the clock runs: the kernels are compiled at their first use.
N_WARM_UP = 8


@validate_params(
    {
        "alpha": [Interval(Real, 0, None, closed="left"), None],
        "loss_recovered_params": [Mapping, None],
    },
    prefer_skip_nested_validation=False,  # estimators and loss_recovered check theirs
)
def compare_dictionaries(
    estimators,
    X_train,
    X_test,
    *,
    transform_algorithms=("auto",),
    budgets=None,
    alpha=None,
    loss_recovered_params=None,
):
    r"""Fit dictionaries, code held-out activations in several ways, and put it all in a table.

    Dictionaries can only be compared at equal sparsity, and a dictionary is one thing, the way to
    find codes in it another: a better code in worse atoms can beat a worse code in better atoms.
    Therefore each dictionary is coded by each of ``transform_algorithms``, with as many active
    features as each of ``budgets`` says.

    Parameters
    ----------
    estimators : dict of str to estimator, or to list of estimators
        Those that are not fitted are cloned and fitted on ``X_train``; fitted ones are taken as
        they are. Besides :class:`SparseAutoencoderDictionary`, all of whose solvers and named
        atoms (``dict_init``) can be compared, anything with `fit`, `transform` and
        `inverse_transform`. The estimators of a list, such as one for each alpha of a grid, share
        a name.
    X_train : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        Activations to learn from. Also for fitted estimators: the statistics of their codes, which
        ``score`` depends on, are taken from it.
    X_test : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        Activations to compare on.
    transform_algorithms : sequence of str, default=("auto",)
        Any of "auto", "encoder", "lasso", "omp" and "threshold", as the parameter
        ``transform_algorithm`` of :class:`SparseAutoencoderDictionary`; "auto" is the estimator's
        own. "encoder" is left out for solvers without one. Other estimators are coded by their own
        `transform` only.
    budgets : sequence of float, default=None
        Numbers of active features per activation. For the L1 coefficient of "lasso" and
        "threshold" that is searched at which the L0 of ``X_test`` is each of them, to about a per
        cent on 2,000 samples, evenly spread; "omp" takes the nearest whole number of atoms. An
        encoder has the L0 that it was trained for. By default all are left as the estimator has
        them.
    alpha : float, default=None
        L1 coefficient of the column "objective"; None takes that of ``alpha="auto"``. It is the
        same for all, so that the objectives can be compared.
    loss_recovered_params : dict, default=None
        The language model to put the dictionaries into: parameters of
        :func:`skdict.metrics.loss_recovered`, without ``dictionary``.

    Returns
    -------
    table : DataFrame, or dict of str to ndarray where pandas is not installed
        A row for each dictionary, way to find codes and budget, with the columns

        - dictionary: the name;
        - transform_algorithm: "encoder", "lasso", "omp" or "threshold"; "transform" for
          estimators that are not skdict's;
        - n_components: the number of atoms;
        - budget: nan where there is none;
        - transform_alpha: L1 coefficient of "lasso" and "threshold", else nan;
        - l0, explained_variance: as in :mod:`skdict.metrics`;
        - objective: mean of :math:`\tfrac12 \lVert x - \hat x \rVert^2 + \alpha \lVert z \rVert_1`
          with unit-norm atoms;
        - score: log-likelihood in nats, see `SparseAutoencoderDictionary.score`; nan for
          other estimators;
        - fit_seconds: with the coding of training samples for ``score``; nan where the estimator
          was fitted before;
        - transform_seconds: for all of ``X_test``;
        - with ``loss_recovered_params`` also loss_recovered_zero, loss_recovered_mean and
          delta_cross_entropy.

    Raises
    ------
    TypeError
        If an estimator cannot be compared.
    ValueError
        If a parameter is out of range, or activations do not fit.

    Warns
    -----
    UserWarning
        If a budget is out of a dictionary's reach; the row is left out.

    See Also
    --------
    skdict.metrics.ParetoDisplay.from_comparison : The table as a picture.
    amortisation_gap : What an encoder loses, sample by sample.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary, compare_dictionaries
    >>> X = make_superposition(n_samples=4000, n_features=16, n_components=32, random_state=0)[0]
    >>> sae = SparseAutoencoderDictionary(32, random_state=0)
    >>> exemplars = SparseAutoencoderDictionary(32, solver="lasso", random_state=0)
    >>> table = compare_dictionaries(
    ...     {"SAE": sae, "exemplars": exemplars},
    ...     X[:3000],
    ...     X[3000:],
    ...     transform_algorithms=("encoder", "omp"),
    ...     budgets=[3],
    ... )
    >>> list(table["dictionary"])
    ['SAE', 'SAE', 'exemplars']
    >>> list(table["transform_algorithm"])
    ['encoder', 'omp', 'omp']
    """
    algorithms, budgets = _check_ways(transform_algorithms, budgets)
    given = X_train, X_test
    X_train = check_activations(None, X_train, name="X_train", min_samples=2)
    X_test = check_activations(None, X_test, name="X_test", min_samples=2)
    estimators = list(_named(estimators, X_train.shape[1]))
    if loss_recovered_params is not None:  # a TypeError now rather than after all fits
        inspect.signature(loss_recovered).bind(dictionary=None, **loss_recovered_params)
    if X_train.shape[1] != X_test.shape[1]:
        raise ValueError(
            f"X_train has {X_train.shape[1]} features, but X_test has {X_test.shape[1]}. Take "
            "both from the same layer."
        )
    for _, estimator in estimators:
        if hasattr(estimator, "feature_names_in_"):  # the columns of a frame have an order
            for X in given:
                validate_data(estimator, X, reset=False, skip_check_array=True)
    if alpha is None:
        alpha = (
            ALPHA_FRACTION
            * location_and_scale(Source(X_train, resolve_device("cpu"), name="X_train"))[1]
        )
    rms = variation(Source(X_test, resolve_device("cpu"), name="X_test"))
    table, coded = [], {}
    for name, estimator in estimators:
        fitted, fit_seconds = _fit(estimator, X_train)
        for budget, way in _ways(name, fitted, algorithms, budgets, X_test):
            coder = _set_way(fitted, way, X_train, fitted_before=np.isnan(fit_seconds))
            coded[len(table)] = coder
            table.append(
                {
                    "dictionary": name,
                    "transform_algorithm": way.get("transform_algorithm", "transform"),
                    "budget": budget,
                    "transform_alpha": way.get("transform_alpha", np.nan),
                    **_measure(coder, X_test, float(alpha), rms),
                    "fit_seconds": fit_seconds,
                }
            )
    if not table:
        raise ValueError(
            f"There is nothing to compare: none of transform_algorithms={algorithms} and budgets="
            f"{budgets} applies to any of the estimators."
        )
    names = COLUMNS
    if loss_recovered_params is not None:
        names += LOSS_COLUMNS
        results = loss_recovered(dictionary=coded, **loss_recovered_params)
        for i, row in enumerate(table):
            row.update({column: results[i][column] for column in LOSS_COLUMNS})
    columns = {name: np.array([row[name] for row in table]) for name in names}
    try:
        import pandas as pd
    except ImportError as error:
        if not is_missing(error, "pandas"):
            warn(f"The table is a dict: pandas is there but cannot be imported ({error}).")
        return columns
    return pd.DataFrame(columns)


def _check_ways(transform_algorithms, budgets):
    if isinstance(transform_algorithms, str) or transform_algorithms is None:
        transform_algorithms = (transform_algorithms,)
    transform_algorithms = tuple(transform_algorithms)
    unknown = [name for name in transform_algorithms if name not in TRANSFORM_ALGORITHMS]
    if unknown or not transform_algorithms:
        raise ValueError(
            f"transform_algorithms={transform_algorithms!r}: give one or more of "
            f"{', '.join(TRANSFORM_ALGORITHMS)}."
        )
    if budgets is None:
        return transform_algorithms, None
    given = as_vector(budgets, "budgets")
    if not len(given):
        raise ValueError(f"budgets={budgets!r}: give a sequence of numbers of active features.")
    if not ((given > 0) & np.isfinite(given)).all():
        raise ValueError(
            f"budgets={budgets!r}: numbers of active features must be finite and greater than 0."
        )
    return transform_algorithms, given.tolist()


def _named(estimators, n_features):
    """Pairs of a name and an estimator, checked."""
    if not isinstance(estimators, Mapping) or not estimators:
        raise TypeError(
            "estimators must be a dict whose keys name the dictionaries, with one at least, but "
            f"is {estimators!r}."
        )
    for name, estimator in named_estimators(estimators.items()):
        missing = [
            method
            for method in ("fit", "transform", "inverse_transform")
            if not hasattr(estimator, method)
        ]
        if missing:
            raise TypeError(
                f"estimators[{name!r}] is a {type(estimator).__name__} without "
                f"{' and '.join(missing)}. Give estimators of dictionaries, on activations."
            )
        before = getattr(estimator, "n_features_in_", n_features)
        if before != n_features and _is_fitted(estimator):
            raise ValueError(
                f"estimators[{name!r}] was fitted on {before} features, but X_train has "
                f"{n_features}. Take X_train from the same layer, or give it unfitted."
            )
        yield str(name), estimator


def _is_fitted(estimator):
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def _fit(estimator, X_train):
    """The fitted estimator and the time that took; nan if it was fitted before."""
    if _is_fitted(estimator):
        return _chosen(estimator), np.nan
    if isinstance(X_train, torch.Tensor) and not isinstance(
        estimator, SparseAutoencoderDictionary | SparseAutoencoderDictionaryCV
    ):
        X_train = Source(X_train, resolve_device("cpu"))[:].numpy()
    start = time.perf_counter()
    return _chosen(clone(estimator).fit(X_train)), time.perf_counter() - start


def _chosen(fitted):
    """The dictionary that a search for alpha has chosen; any other estimator as it is."""
    return fitted.best_estimator_ if isinstance(fitted, SparseAutoencoderDictionaryCV) else fitted


def _algorithm(fitted, algorithm):
    """The way to find codes that "auto" means: the estimator's own."""
    if algorithm == "auto":
        algorithm = fitted.transform_algorithm
    if algorithm == "auto":
        return "encoder" if fitted._has_encoder() else "lasso"
    return algorithm


def _way(fitted, algorithm):
    """The parameters that `fitted` is coded with, by one algorithm, spelt out."""
    way = {"transform_algorithm": algorithm}
    if algorithm in ("lasso", "threshold"):
        given = fitted.transform_alpha
        way["transform_alpha"] = fitted.alpha_ if given is None else given
    elif algorithm == "omp":
        given = fitted.transform_n_nonzero_coefs
        way["transform_n_nonzero_coefs"] = fitted._n_nonzero(given, len(fitted.components_))
    return way


def _ways(name, fitted, algorithms, budgets, X_test):
    """Yield a budget, or nan, and the parameters of `transform`, for one dictionary."""
    if not isinstance(fitted, SparseAutoencoderDictionary):
        yield np.nan, {}
        return
    most = min(fitted.components_.shape)  # independent atoms
    for algorithm in dict.fromkeys(_algorithm(fitted, given) for given in algorithms):
        way = _way(fitted, algorithm)
        if algorithm == "encoder" and not fitted._has_encoder():
            continue
        if algorithm == "encoder" or budgets is None:
            yield np.nan, way
            continue
        for budget in budgets:
            if algorithm == "omp":
                n_nonzero = round(budget)
                if 0 < n_nonzero <= most:
                    yield budget, {**way, "transform_n_nonzero_coefs": n_nonzero}
                else:
                    _warn_of_budget(name, budget, algorithm, f"between 1 and {most}")
                continue
            alpha = _match_l0(name, fitted, algorithm, budget, X_test)
            if alpha is not None:
                yield budget, {**way, "transform_alpha": alpha}


@plain_torch()
def _match_l0(name, fitted, algorithm, budget, X_test):
    """L1 coefficient at which codes of X_test have the L0 wanted, or None."""
    rows = Source(X_test, resolve_device(fitted.device))
    step = math.ceil(len(rows) / N_MATCHED_SAMPLES)
    x = rows[torch.arange(0, len(rows), step, device="cpu")]
    components, intercept = fitted._tensors(x.dtype, x.device, "components_", "intercept_")
    largest = float(((x - intercept) @ components.T).max())
    top = math.log(max(largest, torch.finfo(x.dtype).tiny))  # where all codes are zero
    coder = copy.copy(fitted)

    @cache
    def excess(log_alpha):
        coder.set_params(transform_algorithm=algorithm, transform_alpha=math.exp(log_alpha))
        codes = coder._encoder(rows)(x)
        n_active = max(float((codes != 0).sum()), 0.5)  # the logarithm has to be finite
        return math.log(n_active / (budget * len(x)))

    # from above: dense codes, which take their time, are not looked for in vain
    log_alpha = top
    while log_alpha > top + math.log(SMALLEST_ALPHA) and excess(log_alpha) < 0:
        log_alpha -= STEP
    if excess(log_alpha) < 0:
        most = budget * math.exp(excess(log_alpha))
        _warn_of_budget(name, budget, algorithm, f"at most about {most:.3g}")
        return None
    if log_alpha < top:
        log_alpha = brentq(excess, log_alpha, log_alpha + STEP, xtol=L0_TOL / 2)
    return math.exp(log_alpha)


def _warn_of_budget(name, budget, algorithm, l0):
    warn(
        f"budget={budget:g} is out of reach of {name!r} with {algorithm!r}: its L0 is {l0}. The "
        "row is left out."
    )


@plain_torch()
def _set_way(fitted, way, X_train, *, fitted_before):
    """The fitted estimator with these parameters of `transform`, and with what `score` needs."""
    if not way:
        return fitted
    coder = copy.copy(fitted).set_params(**way)
    # parameters of an estimator that was fitted before may be others than in its fit
    if fitted_before or way != _way(fitted, _algorithm(fitted, "auto")):
        rows = Source(X_train, resolve_device(fitted.device))
        vars(coder).update(coder._statistics_of_codes(rows))
    return coder


@plain_torch()
def _measure(coder, X_test, alpha, rms):
    """What one fitted estimator does on X_test, in one pass over it.

    ``rms`` is the centred RMS norm of X_test.
    """
    ours, gaps = isinstance(coder, SparseAutoencoderDictionary), []
    if ours:
        rows = Source(X_test, resolve_device(coder.device))
        encode, residual_of = coder._encoder(rows, gaps), coder._residual_of(rows)
        model = coder._likelihood_model(rows.device)
        size = 1
    else:
        rows = Source(X_test, resolve_device("cpu"))

        def encode(x):
            codes = coder.transform(x.numpy())
            return codes if issparse(codes) else np.asarray(codes)

        def decode(codes):
            return np.asarray(coder.inverse_transform(codes))

        def residual_of(x, codes):
            return x - torch.as_tensor(decode(codes), device="cpu")

    n_components = encode(rows[:N_WARM_UP]).shape[1]
    if not ours:  # the L1 norm of a code is that with unit-norm atoms
        at_zero, at_one = np.zeros((1, n_components)), np.eye(n_components)
        size = np.linalg.norm(decode(at_one) - decode(at_zero), axis=1)
    gaps.clear()
    n_active = l1 = error = score = seconds = 0.0
    for _, x in rows.blocks(n_components):
        start = time.perf_counter()
        codes = encode(x)
        n_active += float((codes != 0).sum())  # waits for a GPU
        seconds += time.perf_counter() - start
        residual = residual_of(x, codes)
        l1 += float((abs(codes) * size).sum())
        error += float(residual.double().square().sum())
        if ours:
            score += float(log_likelihood(codes, residual, **model).sum())
    warn_of_gaps(gaps, LASSO_TOL)
    n = len(rows)
    return {
        "n_components": n_components,
        "l0": n_active / n,
        "explained_variance": 1 - error / (n * rms**2),
        "objective": (0.5 * error + alpha * l1) / n,
        "score": score / n if ours else np.nan,
        "transform_seconds": seconds,
    }
