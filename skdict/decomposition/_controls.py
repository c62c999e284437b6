"""What a trained dictionary has to beat, in one table, with the noise of reseeding."""

import copy
import math
from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from .._core.distributed.ranks import is_joined
from .._core.models.architectures import make_architecture
from .._core.solvers import SOLVERS
from ..metrics import DictionaryScorer
from ..utils._arrays import check_activations
from ..utils._extractors import ExtractorMixin
from ..utils._frames import as_frame
from ..utils._random import check_random_state
from ..utils._sklearn_compat import Interval, validate_params
from ..utils._warnings import quiet, warn
from ._held import FrozenDecoder, FrozenEncoder, SoftFrozenDecoder
from ._sparse_autoencoder import SparseAutoencoderDictionary

OF_CODES = ("score", "explained_variance")
GREATER_IS_BETTER = (*OF_CODES, "loss_recovered_zero", "loss_recovered_mean")
OF_CODES_LESS = ("dead_fraction", "dense_fraction")
LESS_IS_BETTER = (
    *OF_CODES_LESS,
    "delta_cross_entropy",
    "cross_entropy_dictionary",
    "kl_divergence",
)
HELD = {
    "frozen decoder": FrozenDecoder,
    "soft-frozen decoder": SoftFrozenDecoder,
    "frozen encoder": FrozenEncoder,
}
FIXED = {"random atoms": "random", "PCA": "pca", "neurons": "identity"}
# A difference counts from so many standard deviations of it on: two fits of the same differ by
# less in about 95 % of all cases.
N_DEVIATIONS = 2
# L0 is matched by alpha to this fraction, in no more than so many fits.
L0_TOL = 0.03
MAX_SEARCHED = 8
# From this difference of L0 on a warning says that it could not be matched.
L0_FAR = 0.1


@validate_params(
    {
        "estimator": [SparseAutoencoderDictionary],
        "metrics": ["array-like", str, Mapping, callable],
        "n_seeds": [Interval(Integral, 2, None, closed="left")],
        "extractor": [ExtractorMixin, None],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=False,  # the estimator checks its own
)
def sanity_controls(
    estimator,
    X_train,
    X_test,
    *,
    metrics=OF_CODES,
    n_seeds=3,
    extractor=None,
    random_state=None,
):
    r"""Measure a dictionary beside dictionaries that have learned less, or nothing, at its L0.

    Autoencoders whose atoms were frozen at random have come close to trained ones in explained
    variance, sparse probing, causal editing and the score of explanations [1]_: such a number
    alone does not say that a dictionary has found anything. Here the same metric is taken of

    - "frozen decoder": the same training, but the atoms stay at random;
    - "soft-frozen decoder": they may move, but keep a cosine of at least 0.8 with their start;
    - "frozen encoder": the directions of the encoder stay at random, and atoms, biases and the
      norms of the encoder's rows are trained;
    - "random atoms": as many, coded by matching pursuit;
    - "PCA", "neurons": the principal components, and the columns of X, coded by matching pursuit,
      which takes the projections of a sample on them whose magnitudes are greatest;
    - "shuffled model" (with ``extractor``): the same training on the activations of a copy of the
      model whose weights have been permuted within each tensor [2]_.

    All are fitted to ``X_train`` and measured on ``X_test``. What is trained or drawn is so once
    for each of ``n_seeds`` seeds, the dictionary itself too, and a difference that is within the
    noise of reseeding is none.

    Parameters
    ----------
    estimator : SparseAutoencoderDictionary
        The dictionary. It is cloned, and fitted with each seed, whether it is fitted or not. The
        first three controls need ``solver="autoencoder"``, and are left out for others.
    X_train, X_test : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        Activations to learn from, and others to measure on. With ``extractor`` what it takes,
        such as texts.
    metrics : str, callable, list of these or dict, default=("score", "explained_variance")
        What to measure: of the metrics of :class:`~skdict.metrics.DictionaryScorer` "score",
        "explained_variance", "dead_fraction", "dense_fraction", and with an ``extractor`` of a
        language model "loss_recovered_zero", "loss_recovered_mean", "delta_cross_entropy",
        "cross_entropy_dictionary" and "kl_divergence". A callable is given a fitted dictionary
        and the activations of ``X_test`` and returns a number, of which greater is better. A dict
        names callables.
    n_seeds : int, default=3
        Fits of each control, 2 at least.
    extractor : ActivationExtractor, default=None
        Where the activations come from, to shuffle its model.
    random_state : int, RandomState instance or None, default=None
        Determines the seeds. That of ``estimator`` is not used.

    Returns
    -------
    table : DataFrame, or dict of str to ndarray where pandas is not installed
        A row for each control and metric, those of the dictionary itself first:

        - control: "trained", or as above;
        - metric: the name;
        - mean, std: over the seeds; std is that of a sample (ddof=1), and 0 where nothing is
          random;
        - n_fits: the number of fits; 1 for "PCA" and "neurons";
        - l0: mean number of active features on ``X_test``;
        - difference: of the means, positive where the trained dictionary is better;
        - noise: two standard deviations of the difference of two fits,
          :math:`2 \sqrt{s_\mathrm{trained}^2 + s_\mathrm{control}^2}`;
        - verdict: "better" where the trained dictionary is by more than the noise, "worse" where
          the control is, else "within noise"; empty in the rows of "trained".

    Raises
    ------
    TypeError
        If ``estimator`` is of another class, or a metric does not return a number.
    ValueError
        If a parameter is out of range, a metric is unknown, or activations do not fit.

    Warns
    -----
    UserWarning
        If the L0 of a control differs by more than a tenth from that of the dictionary.

    See Also
    --------
    compare_dictionaries : Any dictionaries, and ways to code, side by side.
    skdict.inspection.stability_report : Which features recur with other seeds.
    skdict.inspection.k_sparse_probe : Sparse probing, with controls of its own.

    Notes
    -----
    Codes are compared at equal L0. Where the number of non-zero entries makes them sparse, as with
    "topk", the controls have the same number; where ``alpha`` does, it is searched for each
    control, with the first seed, until the L0 of the training samples is that of the dictionary
    (to three per cent, in eight fits at most). Matching pursuit takes the mean L0 of the
    dictionary, rounded up, and its codes may be negative, so no control loses for want of
    features. It explains more with given atoms than any encoder; a dictionary that beats it with
    its encoder does so by its atoms.

    What is held keeps its start to the last bit (atoms), or its direction. Dead features are
    pointed at their own first direction again, and duplicates are not merged.

    A permuted model has other activations, so the metrics of "shuffled model" are of other data:
    they say what the method finds in a network that knows nothing. Metrics of the language model
    are not taken of it, as it has nothing to lose.

    The standard deviation of three numbers is itself rough. Where a verdict matters take more.

    References
    ----------
    .. [1] Korznikov et al., "Sanity Checks for Sparse Autoencoders: Do SAEs Beat Random
       Baselines?", 2026, arXiv:2602.14111.
    .. [2] Heap et al., "Sparse Autoencoders Can Interpret Randomly Initialized Transformers",
       2025, arXiv:2501.17727.

    Examples
    --------
    Where the true atoms are known, their recovery is a metric:

    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary, sanity_controls
    >>> from skdict.metrics import dictionary_recovery
    >>> X, atoms, _ = make_superposition(
    ...     n_samples=4000, n_features=16, n_components=32, random_state=0
    ... )
    >>> sae = SparseAutoencoderDictionary(32, architecture="topk", n_nonzero_coefs=3)
    >>> def recovery(dictionary, X):
    ...     return dictionary_recovery(dictionary.components_, atoms)
    >>> table = sanity_controls(
    ...     sae, X[:3000], X[3000:], metrics=[recovery], n_seeds=2, random_state=0
    ... )
    >>> for control, verdict in zip(table["control"], table["verdict"]):
    ...     print(f"{control}: {verdict or '-'}")
    trained: -
    frozen decoder: better
    soft-frozen decoder: better
    frozen encoder: better
    random atoms: better
    PCA: better
    neurons: better
    """
    if is_joined():
        raise ValueError(
            "sanity_controls works in one process, and this one belongs to a group of "
            "torch.distributed. Destroy the group first."
        )
    functions = _named(metrics)
    _check_of_model(functions, extractor)
    random_state = check_random_state(random_state)
    seeds = random_state.randint(2**31 - 1, size=n_seeds).tolist()
    trial = _Trial(functions, _Data.of(X_train, X_test, extractor))
    results = {"trained": trial.run([_seeded(clone(estimator), seed) for seed in seeds])}
    l0 = results["trained"].l0
    for name, dictionaries in _controls(estimator, trial, results["trained"], seeds):
        results[name] = trial.run(dictionaries)
        _warn_of_l0(name, results[name].l0, l0)
    functions = {label: metric for label, metric in functions.items() if not _is_of_model(metric)}
    if extractor is not None and functions:  # a model that knows nothing has nothing to lose
        shuffled = _Data.of(X_train, X_test, _shuffled(extractor, random_state))
        trial = _Trial(functions, shuffled)
        matched = _at_l0(estimator, trial, results["trained"].train_l0, seeds[0])
        results["shuffled model"] = trial.run([_seeded(clone(matched), seed) for seed in seeds])
        _warn_of_l0("shuffled model", results["shuffled model"].l0, l0)
    return _table(results)


def _named(metrics):
    """Names and callables by name, checked; of a name of skdict's the value is None."""
    if isinstance(metrics, Mapping):
        given = list(metrics.items())
    else:
        alone = isinstance(metrics, str) or callable(metrics)
        given = [(None, metric) for metric in ([metrics] if alone else metrics)]
    functions = {}
    for name, metric in given:
        if isinstance(metric, str):
            known = (*GREATER_IS_BETTER, *LESS_IS_BETTER)
            if metric not in known:
                raise ValueError(
                    f"metrics has {metric!r}, which is unknown, or of which neither greater nor "
                    f"less is better. Give a callable, or of these: {', '.join(known)}."
                )
        elif not callable(metric):
            raise TypeError(f"metrics has {metric!r}, which is neither a name nor a callable.")
        own_name = metric if isinstance(metric, str) else getattr(metric, "__name__", repr(metric))
        label = str(own_name if name is None else name)
        if label in functions:
            raise ValueError(f"metrics has {label!r} twice. Give a dict, with other names.")
        functions[label] = metric
    if not functions:
        raise ValueError("metrics is empty. Give one at least.")
    return functions


def _check_of_model(functions, extractor):
    of_model = [m for m in functions.values() if _is_of_model(m)]
    if of_model and extractor is None:
        raise ValueError(
            f"metrics has {of_model[0]!r}, which needs the language model: give the extractor of "
            "the activations, and texts as X_train and X_test."
        )


def _is_of_model(metric):
    return isinstance(metric, str) and metric not in (*OF_CODES, *OF_CODES_LESS)


class _Data:
    """Activations of both parts, and where they come from."""

    def __init__(self, train, test, extractor=None, texts=None):
        self.train = check_activations(None, train, name="X_train", min_samples=2)
        self.test = check_activations(None, test, name="X_test", min_samples=2)
        self.extractor, self.texts = extractor, texts
        if self.train.shape[1] != self.test.shape[1]:
            raise ValueError(
                f"X_train has {self.train.shape[1]} features, but X_test has "
                f"{self.test.shape[1]}. Take both from the same layer."
            )

    @classmethod
    def of(cls, X_train, X_test, extractor):
        if extractor is None:
            return cls(X_train, X_test)
        return cls(
            extractor.fit_transform(X_train), extractor.transform(X_test), extractor, X_test
        )


class _Trial:
    """Fits dictionaries to data, and measures them.

    Parameters
    ----------
    functions : dict of str to str or callable
    data : _Data
    """

    def __init__(self, functions, data):
        self.functions, self.data = functions, data

    def fit(self, dictionary):
        return dictionary.fit(self.data.train)

    def run(self, dictionaries):
        return _Result([self._measure(self.fit(dictionary)) for dictionary in dictionaries])

    def _measure(self, fitted):
        data, names = self.data, [m for m in self.functions.values() if isinstance(m, str)]
        of_codes = ("l0", *(name for name in names if not _is_of_model(name)))
        found = DictionaryScorer(of_codes)(fitted, data.test)
        of_model = tuple(filter(_is_of_model, names))
        if of_model:
            pipeline = make_pipeline(data.extractor, fitted)
            found |= DictionaryScorer(of_model)(pipeline, data.texts)
        values = {"l0": found["l0"], "train_l0": fitted.train_l0_}
        for label, metric in self.functions.items():
            value = found[metric] if isinstance(metric, str) else metric(fitted, data.test)
            if not isinstance(value, Real):
                raise TypeError(f"The metric {label!r} must return a number, but gave {value!r}.")
            values["metric", label] = value
        return values


class _Result:
    """What was measured of each fit of a control."""

    def __init__(self, fits):
        self.n_fits = len(fits)
        self._values = {key: np.array([float(fit[key]) for fit in fits]) for key in fits[0]}

    @property
    def labels(self):
        return [key[1] for key in self._values if isinstance(key, tuple)]

    @property
    def l0(self):
        return self._values["l0"].mean()

    @property
    def train_l0(self):
        return self._values["train_l0"].mean()

    def of(self, label):
        """Mean and standard deviation of a metric."""
        values = self._values["metric", label]
        return values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0


def _seeded(estimator, seed):
    return estimator.set_params(random_state=seed)


def _controls(estimator, trial, trained, seeds):
    """Yield each control of the same data: its name and dictionaries, not fitted."""
    params = estimator.get_params(deep=False)
    if estimator.solver == "autoencoder":
        for name, kind in HELD.items():
            control = kind(**{**params, "dict_init": "random", "warm_start": False})
            control = _at_l0(control, trial, trained.train_l0, seeds[0])
            yield name, [_seeded(clone(control), seed) for seed in seeds]
    kept = ("fit_intercept", "resolution", "sparse_output", "device")
    fixed = {name: params[name] for name in kept} | {"solver": "lasso"}
    coding = {
        "transform_algorithm": "omp",
        "transform_n_nonzero_coefs": max(1, math.ceil(trained.l0)),
    }
    for name, atoms in FIXED.items():
        if atoms == "random":  # nothing else is
            control = SparseAutoencoderDictionary(params["n_components"], dict_init=atoms, **fixed)
        else:  # of +v, -v one is enough, as pursuit gives codes of both signs
            both = SparseAutoencoderDictionary(dict_init=atoms, **fixed)
            both = trial.fit(_seeded(both, seeds[0])).components_
            control = SparseAutoencoderDictionary(dict_init=both[::2], **fixed)
        control.set_params(**coding)
        yield (
            name,
            [_seeded(clone(control), s) for s in (seeds if atoms == "random" else seeds[:1])],
        )


def _at_l0(estimator, trial, l0, seed):
    """The estimator with the alpha at which its codes have this L0 on the training samples.

    It is returned as it is where alpha is not what makes codes sparse.
    """
    if estimator.solver == "autoencoder":
        architecture = make_architecture(estimator.architecture, estimator.n_nonzero_coefs)
        if architecture.sparse_by != "alpha":
            return estimator
    elif not SOLVERS[estimator.solver].is_penalised:
        return estimator
    tried = {}  # log L0 over log target, by log alpha

    def excess(log_alpha):
        candidate = _seeded(clone(estimator), seed)
        if log_alpha is not None:
            candidate.set_params(alpha=math.exp(log_alpha))
        with quiet():  # of alphas that are not taken
            fitted = trial.fit(candidate)
        log_alpha = math.log(max(fitted.alpha_, 1e-12)) if log_alpha is None else log_alpha
        tried[log_alpha] = math.log(max(fitted.train_l0_, 1e-3) / max(l0, 1e-3))

    excess(None)
    while abs(min(tried.values(), key=abs)) > L0_TOL and len(tried) < MAX_SEARCHED:
        excess(_next(tried))
    best = min(tried, key=lambda log_alpha: abs(tried[log_alpha]))
    return clone(estimator).set_params(alpha=math.exp(best))


def _next(tried):
    """The next log alpha: where a line meets zero, through the two nearest to it on both sides."""
    above = max((a for a, excess in tried.items() if excess > 0), default=None)
    below = min((a for a, excess in tried.items() if excess <= 0), default=None)
    if above is None or below is None:  # L0 falls as a power of alpha of about -1 to -3
        edge = above if below is None else below
        return edge + 0.7 * tried[edge]
    part = tried[above] / (tried[above] - tried[below])
    return above + min(max(part, 0.25), 0.75) * (below - above)


def _warn_of_l0(name, found, l0):
    if not (1 - L0_FAR) * l0 <= found <= max((1 + L0_FAR) * l0, math.ceil(l0)):
        warn(
            f"The control {name!r} has an L0 of {found:.3g}, the dictionary one of {l0:.3g}: it "
            "could not be matched, so their other metrics are not of equal sparsity."
        )


def _shuffled(extractor, random_state):
    """The extractor on a copy of its model, the weights permuted within each tensor."""
    language = extractor.load()
    model = copy.deepcopy(language.model)
    generator = torch.Generator(device="cpu").manual_seed(int(random_state.randint(2**31 - 1)))
    with torch.no_grad():
        for parameter in model.parameters():
            order = torch.randperm(parameter.numel(), generator=generator, device="cpu")
            parameter.copy_(parameter.flatten()[order.to(parameter.device)].view_as(parameter))
    params = {**extractor.get_params(deep=False), "model": model, "device": "auto"}
    return type(extractor)(**{**params, "tokenizer": language.tokenizer})


def _table(results):
    """A row for each control and metric."""
    rows = []
    for name, result in results.items():
        for label in result.labels:
            mean, std = result.of(label)
            row = {"control": name, "metric": label, "mean": mean, "std": std}
            row |= {"n_fits": result.n_fits, "l0": result.l0}
            rows.append(row | _compared(name, results["trained"].of(label), (mean, std), label))
    return as_frame({column: np.array([row[column] for row in rows]) for column in rows[0]})


def _compared(name, trained, control, label):
    if name == "trained":
        return {"difference": np.nan, "noise": np.nan, "verdict": ""}
    sign = -1 if label in LESS_IS_BETTER else 1
    difference = sign * (trained[0] - control[0])
    noise = N_DEVIATIONS * math.hypot(trained[1], control[1])
    verdict = "within noise"
    if abs(difference) > noise:
        verdict = "better" if difference > 0 else "worse"
    return {"difference": difference, "noise": noise, "verdict": verdict}
