"""What takes arrays in skdict, each as a function of one of them with all else fixed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from array_kinds import NOT_FINITE
from sklearn.base import BaseEstimator

from skdict import decomposition, feature_extraction, inspection, metrics
from skdict.decomposition import SparseAutoencoderDictionary, SparseAutoencoderDictionaryCV

rng = np.random.default_rng(0)
# Whole numbers that every dtype holds. No column and no row is constant.
X = rng.integers(0, 6, size=(60, 6)).astype(np.float64)
CODES = X * (rng.random(X.shape) < 0.7)
LABELS = (rng.random((60, 2)) < 0.4).astype(np.float64)
ATOMS = rng.integers(1, 6, size=(8, 6)).astype(np.float64)
COLUMN, LABEL = CODES[:, 0].copy(), LABELS[:, 0].copy()
TOKENS = {
    "document": np.repeat(np.arange(6), 10),
    "token": np.array([f"t{i % 7}" for i in range(60)], dtype=object),
}


def make(**params):
    return SparseAutoencoderDictionary(
        **({"n_components": 8, "max_iter": 2, "random_state": 0, "device": "cpu"} | params)
    )


FITTED = make().fit(X)
UNTRAINED = make(solver="lasso", max_iter=20)
FITTED_CODES = FITTED.transform(X)
NET = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU())
IDS_NET = torch.nn.Sequential(torch.nn.Embedding(16, 4), torch.nn.Linear(4, 3))
with torch.no_grad():
    for parameter in (*NET.parameters(), *IDS_NET.parameters()):
        parameter.copy_(torch.sin(torch.arange(parameter.numel()).reshape(parameter.shape)))


def attributes(estimator):
    """What a fit leaves, without what is private."""
    return {
        name: getattr(estimator, name)
        for name in set(dir(estimator)) - set(dir(type(estimator)))
        if name.endswith("_")
        and not name.startswith("_")
        and name not in ("feature_names_in_", "best_estimator_")
    }


def without_estimators(report):
    return {name: value for name, value in report.items() if name != "estimators"}


def steered(**params):
    def call(dictionary):
        with torch.no_grad(), inspection.steer(NET, "1", dictionary, **params):
            return NET(torch.tensor(X, dtype=torch.float32, device="cpu"))

    return call


def scored(scorer):
    return lambda given: scorer(FITTED, given)


@dataclass
class Call:
    """A public function, or method, of one array."""

    function: Callable
    clean: np.ndarray
    name: str  # of the parameter, as messages should have it
    public: str  # what of the package is tried
    sparse: bool = True  # whether SciPy's sparse matrices are taken
    integers: bool = False  # whether only integers are
    takes: tuple = ()  # kinds of `array_kinds.BAD` that are no fault here


def found_codes(codes):
    """What FeatureCodes hold, as plain arrays."""
    near = {} if codes.near_misses is None else {**codes.near_misses}
    return {
        "codes": codes.columns(range(codes.n_components)).toarray(),
        **vars(codes.moments),
    } | near


def call(public, name, clean, function, **options):
    return f"{public}({name})", Call(function, clean, name, public, **options)


M, D, F = metrics, decomposition, feature_extraction
SAE = "SparseAutoencoderDictionary"
# Names of classes and groups, which need not be numbers.
WORDS = "strings of numbers", "DataFrame of words", "polars of words"
CALLS = dict(
    [
        *(
            call(
                f"{SAE}.fit {' '.join(map(str, params.values()))}",
                "X",
                X,
                lambda given, params=params: attributes(make(**params).fit(given)),
            )
            for params in (
                {},
                {"architecture": "topk", "n_nonzero_coefs": 2},
                {"architecture": "batch_topk", "early_stopping": True},
                {"architecture": "jumprelu"},
                {"solver": "alternating"},
                {"solver": "dictionary_learning"},
                {"solver": "kmeans"},
                {"solver": "lasso", "dict_init": "exemplars"},
                {"solver": "lasso", "dict_init": "pca", "n_components": 6},
            )
        ),
        call(f"{SAE}.partial_fit", "X", X, lambda given: attributes(make().partial_fit(given))),
        call(
            f"{SAE}.fit",
            "dict_init",
            ATOMS,
            lambda given: attributes(make(dict_init=given).fit(X)),
            sparse=False,
            takes=("nothing",),
        ),
        call(f"{SAE}.transform", "X", X, FITTED.transform),
        call(f"{SAE}.score", "X", X, FITTED.score),
        call(f"{SAE}.score_samples", "X", X, FITTED.score_samples),
        call(f"{SAE}.inverse_transform", "X", np.round(FITTED_CODES), FITTED.inverse_transform),
        *(
            call(
                f"{SAE}.transform {way}",
                "X",
                X,
                lambda given, way=way: (
                    make(transform_algorithm=way, solver="lasso").fit(X).transform(given)
                ),
            )
            for way in ("lasso", "omp", "threshold")
        ),
        call(
            "SparseAutoencoderDictionaryCV.fit",
            "X",
            X,
            lambda given: attributes(
                SparseAutoencoderDictionaryCV(
                    8, alphas=2, cv=2, max_iter=1, random_state=0, device="cpu"
                ).fit(given)
            ),
        ),
        call(
            "SparseAutoencoderDictionaryCV.fit",
            "alphas",
            np.array([1.0, 2.0]),
            lambda given: attributes(
                SparseAutoencoderDictionaryCV(
                    8, alphas=given, cv=2, max_iter=1, random_state=0, device="cpu"
                ).fit(X)
            ),
            sparse=False,
        ),
        call("alpha_grid", "X", X, D.alpha_grid),
        call("amortisation_gap", "X", X, lambda given: D.amortisation_gap(FITTED, given)),
        call("estimate_fit", "X", X, lambda given: D.estimate_fit(make(), given).memory),
        call(
            "compare_dictionaries",
            "X_train",
            X,
            lambda given: untimed(D.compare_dictionaries({"a": make()}, given, X)),
        ),
        call(
            "compare_dictionaries",
            "X_test",
            X,
            lambda given: untimed(D.compare_dictionaries({"a": FITTED}, X, given)),
        ),
        call(
            "compare_dictionaries",
            "budgets",
            np.array([1.0, 2.0]),
            lambda given: untimed(
                D.compare_dictionaries(
                    {"a": FITTED}, X, X, transform_algorithms=("omp",), budgets=given
                )
            ),
            sparse=False,
            takes=("nothing",),
        ),
        call(
            "sanity_controls",
            "X_train",
            X,
            lambda given: dict(D.sanity_controls(UNTRAINED, given, X, n_seeds=2, random_state=0)),
        ),
        call(
            "sanity_controls",
            "X_test",
            X,
            lambda given: dict(D.sanity_controls(UNTRAINED, X, given, n_seeds=2, random_state=0)),
        ),
        *(
            call(
                f"sparse_encode {algorithm}",
                "X",
                X,
                lambda given, algorithm=algorithm: D.sparse_encode(
                    given, ATOMS, algorithm=algorithm, device="cpu"
                ),
            )
            for algorithm in ("lasso", "omp", "threshold")
        ),
        call("sparse_encode", "dictionary", ATOMS, lambda given: D.sparse_encode(X, given)),
        call(
            "sparse_encode",
            "init",
            np.ones((60, 8)),
            lambda given: D.sparse_encode(X, ATOMS, init=given),
            takes=("nothing",),
        ),
        *(
            call(function.__name__, name, X, called)
            for function in (M.explained_variance, M.shrinkage)
            for name, called in (
                ("X", lambda given, function=function: function(given, CODES)),
                ("X_reconstructed", lambda given, function=function: function(CODES, given)),
            )
        ),
        *(
            call(function.__name__, "codes", CODES, function)
            for function in (M.feature_density, M.mean_l0, M.dead_fraction, M.dense_fraction)
        ),
        *(
            call(
                function.__name__,
                name,
                ATOMS,
                called,
            )
            for function in (M.dictionary_recovery, M.mean_max_cosine)
            for name, called in (
                ("components", lambda given, function=function: function(given, ATOMS[::2])),
                ("true_components", lambda given, function=function: function(ATOMS[::2], given)),
            )
        ),
        *(
            call(function.__name__, "X", X, scored(function))
            for function in (
                M.explained_variance_scorer,
                M.neg_l0_scorer,
                M.neg_dead_fraction_scorer,
            )
        ),
        call(
            "DictionaryScorer",
            "X",
            X,
            scored(M.DictionaryScorer(("score", *metrics._scorer.CODING_METRICS))),
        ),
        call(
            "ParetoDisplay",
            "l0",
            np.array([3.0, 4.0]),
            lambda given: vars(M.ParetoDisplay(given, [0.5, 0.6], ["a", "b"])),
            sparse=False,
            takes=NOT_FINITE,  # what a search could not score
        ),
        call(
            "ParetoDisplay",
            "explained_variance",
            np.array([1.0, 0.0]),
            lambda given: vars(M.ParetoDisplay([3, 4], given, ["a", "b"])),
            sparse=False,
            takes=NOT_FINITE,
        ),
        call("feature_statistics", "codes", CODES, inspection.feature_statistics),
        call(
            "collect_codes",
            "X",
            X,
            lambda given: found_codes(inspection.collect_codes(FITTED, given, n_near_misses=2)),
        ),
        call(
            "FeatureCodes.from_matrix",
            "codes",
            CODES,
            lambda given: found_codes(inspection.FeatureCodes.from_matrix(given)),
        ),
        call("width_curve", "X", X, lambda given: inspection.width_curve([FITTED], given)),
        call(
            "top_activations",
            "codes",
            CODES,
            lambda given: inspection.top_activations(given, n_top=3),
        ),
        call(
            "feature_communities",
            "codes",
            CODES,
            lambda given: inspection.feature_communities(given, min_active=2, random_state=0),
        ),
        call(
            "name_features",
            "dictionary",
            ATOMS,
            lambda given: inspection.name_features(given, ATOMS[::2], range(len(ATOMS[::2]))),
            sparse=False,
        ),
        call(
            "name_features",
            "vocabulary_embeddings",
            ATOMS,
            lambda given: inspection.name_features(ATOMS[::2], given, range(len(ATOMS))),
        ),
        call(
            "match_features",
            "a",
            ATOMS,
            lambda given: inspection.match_features(given, ATOMS[::2]),
            sparse=False,
        ),
        call(
            "match_features",
            "b",
            ATOMS,
            lambda given: inspection.match_features(ATOMS[::2], given),
            sparse=False,
        ),
        call(
            "match_features codes",
            "a",
            CODES,
            lambda given: inspection.match_features(given, X, by="codes"),
        ),
        call(
            "match_features codes",
            "b",
            CODES,
            lambda given: inspection.match_features(X, given, by="codes"),
        ),
        call(
            "stability_report",
            "X",
            X,
            lambda given: without_estimators(
                inspection.stability_report(UNTRAINED, given, n_seeds=2, random_state=0)
            ),
        ),
        call(
            "feature_splitting",
            "codes",
            CODES,
            lambda given: vars(inspection.feature_splitting(given, X, min_active=1)),
        ),
        call(
            "select_feature_detectors",
            "codes",
            CODES,
            lambda given: inspection.select_feature_detectors(given, LABELS),
        ),
        call(
            "select_feature_detectors",
            "token_labels",
            LABELS,
            lambda given: inspection.select_feature_detectors(CODES, given),
        ),
        call(
            "evaluate_feature_detectors",
            "codes",
            CODES,
            lambda given: inspection.evaluate_feature_detectors(
                given, LABELS, {"feature": [0, 1], "threshold": [0.0, 1.0]}
            ),
        ),
        call(
            "evaluate_feature_detectors",
            "token_labels",
            LABELS,
            lambda given: inspection.evaluate_feature_detectors(
                CODES, given, {"feature": [0, 1], "threshold": [0.0, 1.0]}
            ),
        ),
        call(
            "feature_report",
            "codes",
            CODES,
            lambda given: inspection.feature_report(given, LABELS),
        ),
        call(
            "feature_report",
            "token_labels",
            LABELS,
            lambda given: unnamed(inspection.feature_report(CODES, given)),
        ),
        call(
            "feature_report",
            "neurons",
            X,
            lambda given: inspection.feature_report(CODES, LABELS, neurons=given),
            takes=("nothing",),
        ),
        call(
            "feature_association",
            "codes",
            CODES,
            lambda given: inspection.feature_association(given, LABEL),
        ),
        call(
            "feature_association",
            "y",
            LABEL,
            lambda given: inspection.feature_association(CODES, given),
            sparse=False,
            takes=WORDS,
        ),
        call(
            "feature_association",
            "groups",
            np.repeat(np.arange(20.0), 3),
            lambda given: inspection.feature_association(CODES, LABEL, groups=given),
            sparse=False,
            takes=("nothing", *WORDS),
        ),
        *(
            call(
                "k_sparse_probe",
                name,
                clean,
                lambda given, name=name: unnamed(
                    inspection.k_sparse_probe(**{"codes": CODES, "y": LABELS, "X": X, name: given})
                ),
            )
            for name, clean in (("codes", CODES), ("y", LABELS), ("X", X))
        ),
        call(
            "k_sparse_probe groups",
            "groups",
            np.repeat(np.arange(20.0), 3),
            lambda given: inspection.k_sparse_probe(CODES, LABELS, X=X, groups=given),
            sparse=False,
            takes=("nothing", *WORDS),
        ),
        call(
            "activation_specificity",
            "codes",
            COLUMN,
            lambda given: inspection.activation_specificity(given, LABEL),
            sparse=False,
        ),
        call(
            "activation_specificity",
            "token_labels",
            LABEL,
            lambda given: inspection.activation_specificity(COLUMN, given),
            sparse=False,
        ),
        call(
            "FeatureDensityDisplay.from_codes",
            "X",
            CODES,
            lambda given: vars(inspection.FeatureDensityDisplay.from_codes(given)),
        ),
        call(
            "FeatureDashboard.from_activations",
            "X",
            X,
            lambda given: vars(
                inspection.FeatureDashboard.from_activations(FITTED, given, TOKENS, n_top=3)
            ),
        ),
        call("steer strength", "dictionary", np.eye(4) + 1, steered(features=[1], strength=2.0)),
        call(
            "steer",
            "strength",
            np.array([2.0, 3.0]),
            lambda given: steered(features=[1, 2], strength=given)(np.eye(4)),
            sparse=False,
            takes=("0-d", "tensor 0-d", "a number"),
        ),
        call(
            "ActivationExtractor.transform",
            "X",
            X,
            lambda given: F.ActivationExtractor(NET, "1", tokenizer=None).transform(given),
            sparse=False,
        ),
        call(
            "ActivationExtractor.fit_transform",
            "X",
            X,
            lambda given: F.ActivationExtractor(NET, "1", tokenizer=None).fit_transform(given),
            sparse=False,
        ),
        call(
            "ActivationExtractor.transform ids",
            "X",
            X[:, :5],
            lambda given: F.ActivationExtractor(IDS_NET, "1", tokenizer=None).transform(given),
            sparse=False,
            integers=True,
        ),
    ]
)


def untimed(table):
    return {name: table[name] for name in table if "seconds" not in name}


def unnamed(report):
    return {name: value for name, value in report.items() if name != "label"}


def flat(result):
    """The numbers of a result of any kind, as {path: ndarray of float64}, and its words."""
    found = {}

    def visit(path, value):
        if isinstance(value, Mapping):
            for name, part in value.items():
                visit(f"{path}.{name}", part)
        elif hasattr(value, "to_dict") and hasattr(value, "columns"):
            for name in value.columns:
                visit(f"{path}.{name}", np.asarray(value[name]))
        elif isinstance(value, torch.Tensor):
            value = value.detach()
            value = value if value.layout == torch.strided else value.to_dense()
            found[path] = value.double().numpy()
        elif sp.issparse(value):
            found[path] = value.toarray().astype(np.float64)
        elif isinstance(value, list | tuple):
            for i, part in enumerate(value):
                visit(f"{path}[{i}]", part)
        elif isinstance(value, BaseEstimator) or callable(value):
            return
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            found[path] = value.astype(np.float64)
        elif isinstance(value, np.ndarray):
            visit(path, value.tolist())
        elif isinstance(value, int | float | np.number | np.bool_):
            found[path] = np.float64(value)
        elif value is None or isinstance(value, str):
            found[path] = value
        elif type(value).__module__.startswith("skdict"):
            visit(path, {name: v for name, v in vars(value).items() if not name.startswith("_")})

    visit("", result)
    return found


def differences(got, want, *, rtol=1e-6, atol=1e-8):
    """Where two results differ, as a list of words."""
    got, want = flat(got), flat(want)
    if got.keys() != want.keys():
        return [f"has {sorted(got.keys() ^ want.keys())[:3]} or not"]
    found = []
    for path, value in want.items():
        if isinstance(value, str | None):
            if got[path] != value:
                found.append(f"{path} is {got[path]!r:.40}, not {value!r:.40}")
        elif np.shape(got[path]) != np.shape(value):
            found.append(f"{path} has shape {np.shape(got[path])}, not {np.shape(value)}")
        elif not np.allclose(got[path], value, rtol=rtol, atol=atol, equal_nan=True):
            found.append(f"{path} differs by {np.nanmax(np.abs(got[path] - value)):.3g}")
    return found
