"""Dictionaries side by side: each with every way to find codes, at equal L0."""

import copy
import inspect
import math
import time
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cache
from numbers import Real
from types import SimpleNamespace

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.utils.validation import check_is_fitted, validate_data

from .._core.coding import CODERS, SparseCodes
from .._core.data.source import Source
from .._core.device import resolve_device
from .._core.torch_state import plain_torch
from ..metrics import loss_recovered
from ..metrics._pareto import named_estimators
from ..metrics._place import at_site
from ..utils._arrays import as_vector, check_activations
from ..utils._frames import as_frame
from ..utils._sklearn_compat import Interval, validate_params
from ..utils._warnings import quiet, warn
from ._alpha import ALPHA_FRACTION, location_and_scale, variation
from ._base import coding_of
from ._code_statistics import FitStatistics
from ._likelihood import SparseCodingModel, debiased
from ._settings import settings
from ._sparse_autoencoder import SparseAutoencoderDictionary
from ._sparse_autoencoder_cv import SparseAutoencoderDictionaryCV

COLUMNS = (
    "dictionary",
    "setting",
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
    "error",
)
LOSS_COLUMNS = ("loss_recovered_zero", "loss_recovered_mean", "delta_cross_entropy")
# What a row has that could not be measured.
NOT_MEASURED = dict.fromkeys(COLUMNS, np.nan) | {"setting": "", "transform_algorithm": ""}
# On about so many samples alpha is searched until the L0 is right, to about this fraction.
N_MATCHED_SAMPLES = 2000
L0_TOL = 0.01
# Smallest alpha that is tried, as a fraction of the largest correlation, and the steps down to it,
# in the logarithm.
SMALLEST_ALPHA = 1e-4
STEP = 0.5
# Samples that are coded before the clock runs: the kernels are compiled at their first use.
N_WARM_UP = 64
# Samples that are fitted to before it runs.
N_WARM_UP_FIT = 512


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
        they are, those that :func:`skdict.io.load_dictionary` has read calibrated on ``X_train``
        where they were not. Besides :class:`SparseAutoencoderDictionary`, all of whose solvers and
        named atoms (``dict_init``) can be compared, anything with `fit`, `transform` and
        `inverse_transform`. The estimators of a list, such as one for each alpha of a grid, share
        a name; the column "setting" says which is which.
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
        - setting: of the estimators of a list, the parameters in which they differ, such as
          ``"n_nonzero_coefs=4"``, and the place in the list where these do not tell them
          apart; empty for an estimator alone;
        - transform_algorithm: "encoder", "lasso", "omp" or "threshold"; "transform" for
          estimators that are not skdict's; empty where the fit failed;
        - n_components: the number of atoms;
        - budget: nan where there is none;
        - transform_alpha: L1 coefficient of "lasso" and "threshold", else nan;
        - l0, explained_variance: as in :mod:`skdict.metrics`;
        - objective: mean of :math:`\tfrac12 \lVert x - \hat x \rVert^2 + \alpha \lVert z \rVert_1`
          with unit-norm atoms;
        - score: log-likelihood in nats, see `SparseAutoencoderDictionary.score`; nan for
          other estimators;
        - fit_seconds: without what is compiled at the first use; nan where the estimator was
          fitted before;
        - transform_seconds: for all of ``X_test``;
        - error: empty, or why the row could not be measured; all numbers of that row are nan,
          and those of the others stand;
        - with ``loss_recovered_params`` also loss_recovered_zero, loss_recovered_mean and
          delta_cross_entropy.

    Raises
    ------
    TypeError
        If an estimator cannot be compared.
    ValueError
        If a parameter is out of range, or activations do not fit, or none of the estimators
        could be fitted and measured.

    Warns
    -----
    UserWarning
        If a budget is out of a dictionary's reach; the row is left out.
    FitFailedWarning
        Once, at the end, if estimators could not be fitted or measured; it names them.

    See Also
    --------
    skdict.metrics.ParetoDisplay.from_comparison : The table as a picture.
    amortisation_gap : What an encoder loses, sample by sample.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary, compare_dictionaries
    >>> X = make_superposition(n_samples=2000, n_features=16, n_components=32, random_state=0)[0]
    >>> sae = SparseAutoencoderDictionary(32, random_state=0)
    >>> exemplars = SparseAutoencoderDictionary(32, solver="lasso", random_state=0)
    >>> table = compare_dictionaries(
    ...     {"SAE": sae, "exemplars": exemplars},
    ...     X[:1500],
    ...     X[1500:],
    ...     transform_algorithms=("encoder", "omp"),
    ...     budgets=[3],
    ... )
    >>> list(table["dictionary"])
    ['SAE', 'SAE', 'exemplars']
    >>> list(table["transform_algorithm"])
    ['encoder', 'omp', 'omp']

    Of a list, each row says which estimator it is:

    >>> topk = [
    ...     SparseAutoencoderDictionary(
    ...         32, architecture="topk", n_nonzero_coefs=k, max_iter=3, random_state=0
    ...     )
    ...     for k in (2, 4)
    ... ]
    >>> list(compare_dictionaries({"topk": topk}, X[:1500], X[1500:])["setting"])
    ['n_nonzero_coefs=2', 'n_nonzero_coefs=4']
    """
    algorithms, budgets = _check_ways(transform_algorithms, budgets)
    X_train, X_test, estimators = _check_data(estimators, X_train, X_test)
    if loss_recovered_params is not None:  # a TypeError now rather than after all fits
        given = inspect.signature(loss_recovered).bind(dictionary="each", **loss_recovered_params)
        given.apply_defaults()
        model, layer, dictionary, texts = given.args
        names = {"layer": layer, "dictionary": dictionary, "texts": texts}
        at_site("loss_recovered", model, names)
    cpu = resolve_device("cpu")
    if alpha is None:
        alpha = ALPHA_FRACTION * location_and_scale(Source(X_train, cpu, name="X_train"))[1]
    rms = variation(Source(X_test, cpu, name="X_test"))
    table, coded, failed = [], {}, {}
    for name, setting, estimator in estimators:
        row, way = {"dictionary": name, "setting": setting, "error": ""}, {}
        try:
            fitted, row["fit_seconds"] = _fit(estimator, X_train)
            ways = _candidates(name, fitted, algorithms, budgets, X_train, X_test)
            for budget, candidate in ways:
                way = {"budget": budget, **candidate.names}
                found = _measure(candidate, X_test, float(alpha), rms)
                coded[len(table)] = candidate.estimator
                table.append(row | way | found)
                way = {}
        except Exception as error:  # of any library; the other estimators go on
            failed[f"{name!r} ({setting})" if setting else repr(name)] = error
            table.append(NOT_MEASURED | row | way | {"error": f"{type(error).__name__}: {error}"})
    _check_measured(table, failed, algorithms, budgets)
    if loss_recovered_params is None:
        return _frame(table, COLUMNS)
    results = loss_recovered(dictionary=coded, **loss_recovered_params)
    unknown = dict.fromkeys(LOSS_COLUMNS, np.nan)
    for i, row in enumerate(table):
        row |= {column: results.get(i, unknown)[column] for column in LOSS_COLUMNS}
    return _frame(table, COLUMNS + LOSS_COLUMNS)


def _check_measured(table, failed, algorithms, budgets):
    """Warn of estimators that failed; raise if there is no row without an error."""
    if not table:
        raise ValueError(
            f"There is nothing to compare: none of transform_algorithms={algorithms} and budgets="
            f"{budgets} applies to any of the estimators."
        )
    if not failed:
        return
    why = "\n".join(f"- {who}: {type(error).__name__}: {error}" for who, error in failed.items())
    if all(row["error"] for row in table):
        raise ValueError(f"None of the estimators could be compared:\n{why}") from next(
            iter(failed.values())
        )
    warn(
        f"{len(failed)} of the estimators could not be compared. Their rows have nan and the "
        f"column 'error':\n{why}",
        FitFailedWarning,
    )


def _frame(table, names):
    """A list of rows as a table of columns."""
    return as_frame({name: np.array([row[name] for row in table]) for name in names})


def _check_ways(transform_algorithms, budgets):
    if isinstance(transform_algorithms, str) or transform_algorithms is None:
        transform_algorithms = (transform_algorithms,)
    transform_algorithms = tuple(transform_algorithms)
    known = ("auto", "encoder", *CODERS)
    if not transform_algorithms or any(name not in known for name in transform_algorithms):
        raise ValueError(
            f"transform_algorithms={transform_algorithms!r}: give one or more of "
            f"{', '.join(known)}."
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


def _check_data(estimators, X_train, X_test):
    """Both matrices, and names, settings and estimators, checked."""
    given = X_train, X_test
    X_train = check_activations(None, X_train, name="X_train", min_samples=2)
    X_test = check_activations(None, X_test, name="X_test", min_samples=2)
    estimators = list(_named(estimators, X_train.shape[1]))
    if X_train.shape[1] != X_test.shape[1]:
        raise ValueError(
            f"X_train has {X_train.shape[1]} features, but X_test has {X_test.shape[1]}. Take "
            "both from the same layer."
        )
    for *_, estimator in estimators:
        if hasattr(estimator, "feature_names_in_"):  # the columns of a frame have an order
            for X in given:
                validate_data(estimator, X, reset=False, skip_check_array=True)
    return X_train, X_test, estimators


def _named(estimators, n_features):
    """Yield name, setting and estimator, checked."""
    if not isinstance(estimators, Mapping) or not estimators:
        raise TypeError(
            "estimators must be a dict whose keys name the dictionaries, with one at least, but "
            f"is {estimators!r}."
        )
    _check_names(estimators)
    for name, setting, estimator in _with_settings(estimators):
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
        yield str(name), setting, estimator


def _check_names(estimators):
    """Refuse names that are the same in the table, where they are text."""
    first = {}
    for name in estimators:
        if first.setdefault(str(name), name) is not name:
            raise ValueError(
                f"estimators has the names {first[str(name)]!r} and {name!r}, which are the same "
                "in a table. Give each dictionary a name of its own."
            )


def _with_settings(estimators):
    for name, members in estimators.items():
        group = [estimator for _, estimator in named_estimators([(name, members)])]
        for setting, estimator in zip(settings(group), group, strict=True):
            yield name, setting, estimator


def _is_fitted(estimator):
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def _fit(estimator, X_train):
    """The fitted estimator and the time that took; nan if it was fitted before."""
    if _is_fitted(estimator):
        if _is_ours(estimator) and not hasattr(estimator, "variance_"):  # of another library
            estimator = copy.copy(estimator).calibrate(X_train)
        return estimator, np.nan
    if _is_ours(estimator):
        _compile(estimator, X_train)
    elif isinstance(X_train, torch.Tensor):
        X_train = Source(X_train, resolve_device("cpu"))[:].numpy()
    start = time.perf_counter()
    return clone(estimator).fit(X_train), time.perf_counter() - start


def _compile(estimator, X_train):
    """Fit to a few rows: kernels are compiled, or loaded, at their first use.

    Whatever is wrong with the estimator its own fit will tell.
    """
    estimator = clone(estimator).set_params(max_iter=1, verbose=0)
    if isinstance(estimator, SparseAutoencoderDictionaryCV):
        estimator.set_params(alphas=2, cv=2)
    with quiet(), suppress(Exception):
        estimator.fit(X_train[:N_WARM_UP_FIT])


def _is_ours(estimator):
    return isinstance(estimator, SparseAutoencoderDictionary | SparseAutoencoderDictionaryCV)


def _candidates(name, fitted, algorithms, budgets, X_train, X_test):
    """Yield a budget, or nan, and a dictionary with a way to code, for each way in `fitted`."""
    if not _is_ours(fitted):
        yield np.nan, _Foreign(fitted, Source(X_test, resolve_device("cpu")))
        return
    device = resolve_device(fitted.device)
    train, test = (Source(X, device, is_finite=True) for X in (X_train, X_test))
    own = [coding_of(fitted, algorithm=algorithm) for algorithm in algorithms]
    for coding in {coding.name: coding for coding in own}.values():
        if coding.name == "encoder" and coding.dictionary.encoder is None:
            continue
        if coding.name == "encoder" or budgets is None:
            yield np.nan, _Own(fitted, coding, train)
            continue
        for budget in budgets:
            within = _within(budget, name, coding, test)
            if within is not None:
                yield budget, _Own(fitted, within, train)


def _within(budget, name, coding, test):
    """The same coding at the L0 wanted, or None where that is out of reach."""
    if coding.name == "omp":
        options = {"n_nonzero_coefs": round(budget)}
        most = min(coding.dictionary.shape)  # independent atoms
        reach = None if 0 < round(budget) <= most else f"between 1 and {most}"
    else:
        alpha, most = _match_l0(coding, budget, test)
        options = {"alpha": alpha}
        reach = None if alpha is not None else f"at most about {most:.3g}"
    if reach is None:
        return replace(coding, options={**coding.options, **options})
    warn(
        f"budget={budget:g} is out of reach of {name!r} with {coding.name!r}: its L0 is {reach}. "
        "The row is left out."
    )
    return None


@plain_torch()
def _match_l0(coding, budget, test):
    """L1 coefficient at which codes of the test samples have the L0 wanted.

    Where there is none it is None, and the largest L0 that was found is returned with it.
    """
    step = math.ceil(len(test) / N_MATCHED_SAMPLES)
    x = test[torch.arange(0, len(test), step, device="cpu")]
    dictionary = coding.dictionary.to(x.dtype, x.device)
    x = dictionary.to_explain(x)
    coder = CODERS[coding.name](dictionary.components, **coding.options)
    largest = float((x @ dictionary.components.T).max())
    top = math.log(max(largest, torch.finfo(x.dtype).tiny))  # where all codes are zero

    @cache
    def excess(log_alpha):
        codes = coder.at(math.exp(log_alpha))(x)
        n_active = max(float(codes.counts.sum()), 0.5)  # the logarithm has to be finite
        return math.log(n_active / (budget * len(x)))

    # from above: dense codes, which take their time, are not looked for in vain
    log_alpha = top
    while log_alpha > top + math.log(SMALLEST_ALPHA) and excess(log_alpha) < 0:
        log_alpha -= STEP
    if excess(log_alpha) < 0:
        return None, budget * math.exp(excess(log_alpha))
    if log_alpha < top:
        log_alpha = brentq(excess, log_alpha, log_alpha + STEP, xtol=L0_TOL / 2)
    return math.exp(log_alpha), budget


class _Own:
    """A dictionary of skdict's with a way to code, and what its score needs.

    Parameters
    ----------
    fitted : SparseAutoencoderDictionary or SparseAutoencoderDictionaryCV
    coding : Coding
    train : Source
        The samples whose codes the score takes its statistics from.
    """

    def __init__(self, fitted, coding, train):
        params = {"transform_algorithm": coding.name}
        if coding.name == "omp":
            params["transform_n_nonzero_coefs"] = coding.options["n_nonzero_coefs"]
        elif coding.name != "encoder":
            params["transform_alpha"] = coding.options["alpha"]
        self.estimator = copy.copy(fitted).set_params(**params)
        self.names = {
            "transform_algorithm": coding.name,
            "transform_alpha": params.get("transform_alpha", np.nan),
        }
        self.coding = coding
        self.n_components = coding.dictionary.shape[0]
        self.device = train.device
        found = FitStatistics(train, coding).found().attributes(train.n_features)
        found |= {"variance_": fitted.variance_, "n_features_in_": train.n_features}
        self.model = SparseCodingModel.of(
            SimpleNamespace(**found), fitted.resolution, signed=coding.signed, device=train.device
        )

    @contextmanager
    def coder(self, source):
        """Function from rows to their SparseCodes and the seconds that these took."""
        coding = self.coding
        dictionary = coding.dictionary.to(source.dtype, source.device)
        dictionary.coder(coding.name, **coding.options)(source[:N_WARM_UP])

        with coding.threads(source), coding.coder(source) as code:

            def encode(x):
                start = time.perf_counter()
                codes = code(x)
                codes.values.count_nonzero().item()  # waits for the device
                return codes, time.perf_counter() - start

            yield encode

    def residual(self, x, codes):
        return self.coding.dictionary.to(x.dtype, x.device).residual(x, codes)

    def l1(self, codes):
        """Sum of the L1 norms, as coefficients of unit atoms."""
        dictionary = self.coding.dictionary.to(codes.values.dtype, codes.values.device)
        return float(dictionary.unit_codes(codes).l1_norms().sum())

    def parts(self, x, codes, residual):
        """Sums of what the score is made of."""
        of = self.coding.dictionary.to(residual.dtype, residual.device)
        codes, residual = debiased(of.unit_codes(codes), residual, of.code_effects)
        return self.model.parts(codes, residual, of.scale_of(x)).sum(dim=0)

    def score(self, total, n_samples):
        return self.model.score(total, n_samples)


class _Foreign:
    """An estimator of another library, which codes by its own `transform`.

    Parameters
    ----------
    fitted : estimator
    test : Source
    """

    names = {"transform_algorithm": "transform", "transform_alpha": np.nan}

    def __init__(self, fitted, test):
        self.estimator = fitted
        self.device = test.device
        self.n_components = self._encode(test[:N_WARM_UP])[0].shape[1]
        at_zero, at_one = np.zeros((1, self.n_components)), np.eye(self.n_components)
        norms = np.linalg.norm(self._decode(at_one) - self._decode(at_zero), axis=1)
        self.norms = torch.as_tensor(norms, dtype=torch.float64, device="cpu")

    def coder(self, source):
        """Function from rows to their SparseCodes and the seconds that `transform` took."""
        return nullcontext(self._encode)

    def residual(self, x, codes):
        return x - torch.as_tensor(self._decode(codes.dense().numpy()), device="cpu")

    def l1(self, codes):
        """Sum of the L1 norms that the codes would have with unit-norm atoms."""
        return float(codes.column_sums()[1] @ self.norms)

    def parts(self, x, codes, residual):
        return np.nan

    def score(self, total, n_samples):
        return np.nan

    def _encode(self, x):
        start = time.perf_counter()
        codes = self.estimator.transform(x.numpy())
        seconds = time.perf_counter() - start
        codes = codes.toarray() if issparse(codes) else np.asarray(codes)
        return SparseCodes.of(torch.as_tensor(codes, device="cpu")), seconds

    def _decode(self, codes):
        return np.asarray(self.estimator.inverse_transform(codes))


@plain_torch()
def _measure(candidate, X_test, alpha, rms):
    """What a candidate does on X_test, in one pass over it; ``rms`` is its centred RMS norm."""
    source = Source(X_test, candidate.device, is_finite=True)
    n_active = l1 = error = parts = seconds = 0.0
    with candidate.coder(source) as encode:
        for _, x in source.blocks(candidate.n_components):
            codes, elapsed = encode(x)
            seconds += elapsed
            n_active += int(codes.values.count_nonzero())
            l1 += candidate.l1(codes)
            residual = candidate.residual(x, codes)
            error += float(residual.double().square().sum())
            parts += candidate.parts(x, codes, residual)
    n = len(source)
    return {
        "n_components": candidate.n_components,
        "l0": n_active / n,
        "explained_variance": 1 - error / (n * rms**2),
        "objective": (0.5 * error + alpha * l1) / n,
        "score": candidate.score(parts, n),
        "transform_seconds": seconds,
    }
