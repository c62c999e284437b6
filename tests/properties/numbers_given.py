"""The numeric parameters of all public functions: what they take, and a call that uses them."""

from dataclasses import dataclass, field

import numpy as np
import torch
from calls import (
    ATOMS,
    CODES,
    COLUMN,
    FITTED,
    LABEL,
    LABELS,
    NET,
    TOKENS,
    UNTRAINED,
    X,
    attributes,
    found_codes,
    make,
    untimed,
    without_estimators,
)

from skdict import datasets, decomposition, feature_extraction, inspection, metrics
from skdict.decomposition import SparseAutoencoderDictionaryCV


@dataclass
class Parameters:
    """Numeric parameters of a function, which takes them by name."""

    function: object
    integers: dict = field(default_factory=dict)  # {name: (a good value, values out of range)}
    reals: dict = field(default_factory=dict)
    infinite: tuple = ()  # those that may be infinite
    optional: tuple = ()  # those that may be None
    lists: tuple = ()  # those that may be lists


def fit(**params):
    return attributes(make(**params).fit(X))


def fit_cv(**params):
    params = {"n_components": 8, "alphas": 2, "cv": 2, "max_iter": 1, "random_state": 0} | params
    return attributes(SparseAutoencoderDictionaryCV(device="cpu", **params).fit(X))


def transform(**params):
    params = {"transform_algorithm": "lasso"} | params
    return make().fit(X).set_params(**params).transform(X)


def extract(**params):
    return feature_extraction.ActivationExtractor(NET, "1", tokenizer=None, **params).transform(X)


def steer(**params):
    with torch.no_grad(), inspection.steer(NET, "1", np.eye(4), **params):
        return NET(torch.tensor(X, dtype=torch.float32, device="cpu"))


def ablate(**params):
    with torch.no_grad(), inspection.ablate(NET, "0", FITTED, side="input", **params):
        return NET(torch.tensor(X, dtype=torch.float32, device="cpu"))


def explain(**params):
    params = {"window_length": 5, "n_explain": 4, "n_score": 10} | params
    tokens = TOKENS | {
        "position": np.tile(np.arange(10), 6),
        "token_id": np.arange(60) % 7,
        "start": np.tile(3 * np.arange(10), 6),
        "end": np.tile(3 * np.arange(10) + 2, 6),
    }
    return inspection.interpret_features(CODES, [0, 1], tokens=tokens, **params)


FIT_INTEGERS = {
    "n_components": (8, (0, -1)),
    "n_nonzero_coefs": (2, (0, -1)),
    "max_iter": (2, (0, -1)),
    "batch_size": (16, (0, -1)),
    "n_iter_no_change": (1, (0, -1)),
    "transform_n_nonzero_coefs": (2, (0, -1)),
    "random_state": (3, (-1, 2**32)),
}
FIT_REALS = {
    "alpha": (0.5, (-1, -1e-300)),
    "transform_alpha": (0.5, (-1,)),
    "learning_rate_init": (0.125, (0, -1)),
    "validation_fraction": (0.25, (0, 1, -1, 2)),
    "resolution": (0.5, (0, -1)),
    "tol": (0.5, (-1,)),
}
FIT_OPTIONAL = (
    "n_nonzero_coefs",
    "transform_n_nonzero_coefs",
    "transform_alpha",
    "random_state",
)

PARAMETERS = {
    "SparseAutoencoderDictionary.fit": Parameters(
        lambda **given: fit(architecture="batch_topk", early_stopping=True, **given),
        FIT_INTEGERS,
        FIT_REALS,
        optional=FIT_OPTIONAL,
    ),
    "SparseAutoencoderDictionary.fit alternating": Parameters(
        lambda **given: fit(solver="alternating", **given),
        {name: FIT_INTEGERS[name] for name in ("n_components", "max_iter", "batch_size")},
        {name: FIT_REALS[name] for name in ("alpha",)},
    ),
    "SparseAutoencoderDictionary.fit lasso": Parameters(
        lambda **given: fit(solver="lasso", dict_init="exemplars", **given),
        {"n_components": (8, (0,))},
        {"alpha": (0.5, (-1,))},
    ),
    "SparseAutoencoderDictionary.fit kmeans": Parameters(
        lambda **given: fit(solver="kmeans", **given),
        {"n_components": (8, (0,)), "n_nonzero_coefs": (2, (0, -1)), "max_iter": (2, (0,))},
        optional=("n_nonzero_coefs",),
    ),
    "SparseAutoencoderDictionary.partial_fit": Parameters(
        lambda **given: attributes(make(**given).partial_fit(X)),
        {name: FIT_INTEGERS[name] for name in ("n_components", "batch_size", "random_state")},
        {name: FIT_REALS[name] for name in ("alpha", "learning_rate_init")},
        optional=("random_state",),
    ),
    "SparseAutoencoderDictionaryCV.fit": Parameters(
        fit_cv,
        {"n_components": (8, (0,)), "alphas": (2, (1, 0, -1)), "max_iter": (1, (0,))},
        {"transform_alpha": (0.5, (-1,))},
        optional=("transform_alpha",),
        lists=("alphas",),
    ),
    "SparseAutoencoderDictionary.transform": Parameters(
        transform, {}, {"transform_alpha": (0.5, (-1,))}, optional=("transform_alpha",)
    ),
    "SparseAutoencoderDictionary.transform omp": Parameters(
        lambda **given: transform(transform_algorithm="omp", **given),
        {"transform_n_nonzero_coefs": (2, (0, -1))},
        optional=("transform_n_nonzero_coefs",),
    ),
    "alpha_grid": Parameters(
        lambda **given: decomposition.alpha_grid(X, **given), {"n_alphas": (3, (1, 0, -1))}
    ),
    "amortisation_gap": Parameters(
        lambda **given: decomposition.amortisation_gap(FITTED, X, **given),
        {},
        {"alpha": (0.5, (-1,))},
        optional=("alpha",),
    ),
    "estimate_fit": Parameters(
        lambda **given: (
            decomposition.estimate_fit(
                decomposition.SparseAutoencoderDictionary(8, max_iter=1, device="cpu"), X, **given
            ).memory
        ),
        {"n_samples": (50, (1, 0, -1))},
        optional=("n_samples",),
    ),
    "compare_dictionaries": Parameters(
        lambda **given: untimed(decomposition.compare_dictionaries({"a": FITTED}, X, X, **given)),
        {},
        {"alpha": (0.5, (-1,))},
        optional=("alpha",),
    ),
    "sanity_controls": Parameters(
        lambda **given: dict(
            decomposition.sanity_controls(
                UNTRAINED, X, X, **({"n_seeds": 2, "random_state": 0} | given)
            )
        ),
        {"n_seeds": (3, (1, 0)), "random_state": (3, (-1, 2**32))},
        {},
        optional=("random_state",),
    ),
    "sparse_encode": Parameters(
        lambda **given: decomposition.sparse_encode(X, ATOMS, **given),
        {"max_iter": (50, (0, -1))},
        {"alpha": (0.5, (-1, -1e-300)), "tol": (0.125, (0, -1))},
        optional=("alpha",),
    ),
    "sparse_encode omp": Parameters(
        lambda **given: decomposition.sparse_encode(X, ATOMS, algorithm="omp", **given),
        {"n_nonzero_coefs": (2, (0, -1))},
        {"alpha": (0.5, (-1,))},
        optional=("n_nonzero_coefs", "alpha"),
    ),
    "sparse_encode threshold": Parameters(
        lambda **given: decomposition.sparse_encode(X, ATOMS, algorithm="threshold", **given),
        {},
        {"alpha": (0.5, (-1,))},
        optional=("alpha",),
    ),
    "make_superposition": Parameters(
        lambda **given: datasets.make_superposition(
            **({"n_samples": 20, "n_features": 8, "n_components": 12, "random_state": 0} | given)
        ),
        {
            "n_samples": (20, (0, -1)),
            "n_features": (8, (0, -1)),
            "n_components": (12, (0, -1)),
            "group_size": (4, (0, -1)),
            "random_state": (3, (-1, 2**32)),
        },
        {
            "l0": (2.0, (0, -1, 13)),
            "zipf_exponent": (0.5, (-1,)),
            "correlation": (0.5, (-0.1, 1)),
            "magnitude_std": (0.5, (-0.1, 3.5)),
            "noise": (0.5, (-1,)),
        },
        optional=("random_state",),
    ),
    "ActivationExtractor.transform": Parameters(
        extract,
        {"batch_size": (7, (0, -1)), "max_length": (5, (0, -1)), "call": (0, (1, -2))},
        optional=("max_length", "call"),
    ),
    "dense_fraction": Parameters(
        lambda **given: metrics.dense_fraction(CODES, **given), {}, {"threshold": (0.5, (-0.1, 1))}
    ),
    "activation_specificity": Parameters(
        lambda **given: inspection.activation_specificity(COLUMN, LABEL, **given),
        {"n_intervals": (3, (0, -1))},
    ),
    "select_feature_detectors": Parameters(
        lambda **given: inspection.select_feature_detectors(CODES, LABELS, **given),
        {},
        {"min_precision": (0.25, (-0.1, 1.1))},
    ),
    "feature_report": Parameters(
        lambda **given: inspection.feature_report(CODES, LABELS, **given),
        {"n_intervals": (3, (0, -1))},
        {"min_precision": (0.25, (-0.1, 1.1)), "test_size": (0.25, (0, 1, -1))},
    ),
    "feature_association": Parameters(
        lambda **given: inspection.feature_association(CODES, LABEL, **given),
        {"random_state": (3, (-1, 2**32))},
        {"test_size": (0.25, (0, 1, -1)), "confidence": (0.75, (0, 1))},
        optional=("random_state",),
    ),
    "k_sparse_probe": Parameters(
        lambda **given: inspection.k_sparse_probe(CODES, LABELS, X=X, **given),
        {"k": (2, (0, -1)), "random_state": (3, (-1, 2**32))},
        {"test_size": (0.25, (0, 1, -1))},
        optional=("random_state",),
        lists=("k",),
    ),
    "feature_statistics": Parameters(
        lambda **given: inspection.feature_statistics(CODES, **given),
        {"n_intervals": (5, (0, -1))},
    ),
    "top_activations": Parameters(
        lambda **given: inspection.top_activations(
            CODES, **({"n_top": 2, "random_state": 0} | given)
        ),
        {
            "n_top": (3, (0, -1)),
            "n_intervals": (2, (-1,)),
            "n_per_interval": (2, (0, -1)),
            "n_random": (3, (-1,)),
            "random_state": (3, (-1, 2**32)),
        },
        optional=("random_state",),
    ),
    "collect_codes": Parameters(
        lambda **given: found_codes(inspection.collect_codes(FITTED, X, **given)),
        {"n_near_misses": (2, (-1,))},
        {"max_norm": (2.0, (0, -1))},
        optional=("max_norm",),
    ),
    "context_snippets": Parameters(
        lambda **given: inspection.context_snippets(
            ["ab cd"],
            {"document": [0, 0], "token": ["ab", "cd"], "start": [0, 3], "end": [2, 5]},
            [1],
            **given,
        ),
        {"before": (2, (-1,)), "after": (2, (-1,))},
    ),
    "feature_communities": Parameters(
        lambda **given: inspection.feature_communities(
            CODES, **({"min_active": 2, "random_state": 0} | given)
        ),
        {
            "n_neighbors": (3, (0, -1)),
            "min_active": (2, (0, -1)),
            "n_null": (3, (1, 0)),
            "random_state": (3, (-1, 2**32)),
        },
        {"max_false_edges": (0.5, (0, -1))},
        infinite=("max_false_edges",),
        optional=("random_state",),
    ),
    "match_features": Parameters(
        lambda **given: inspection.match_features(ATOMS, ATOMS[::2], **given),
        {},
        {"threshold": (0.5, (-1.1, 1.1))},
    ),
    "stability_report": Parameters(
        lambda **given: without_estimators(
            inspection.stability_report(
                UNTRAINED, X, **({"n_seeds": 2, "random_state": 0} | given)
            )
        ),
        {"n_seeds": (3, (1, 0)), "random_state": (3, (-1, 2**32))},
        {"threshold": (0.5, (-1.1, 1.1))},
        optional=("random_state",),
    ),
    "name_features": Parameters(
        lambda **given: inspection.name_features(
            ATOMS, ATOMS[::2], range(len(ATOMS[::2])), **given
        ),
        {"n_names": (2, (0, -1)), "random_state": (3, (-1, 2**32))},
        {},
        optional=("random_state",),
    ),
    "feature_splitting": Parameters(
        lambda **given: vars(
            inspection.feature_splitting(CODES, X, **({"min_active": 1} | given))
        ),
        {"min_active": (2, (0, -1))},
        {"threshold": (0.5, (0, 1))},
    ),
    "FeatureDashboard.from_activations": Parameters(
        lambda **given: vars(
            inspection.FeatureDashboard.from_activations(
                FITTED, X, TOKENS, **({"features": [0], "n_top": 2} | given)
            )
        ),
        {
            "n_top": (3, (0, -1)),
            "n_intervals": (2, (0, -1)),
            "n_per_interval": (2, (0, -1)),
            "random_state": (3, (-1, 2**32)),
        },
        optional=("random_state",),
    ),
    "ablate": Parameters(
        lambda **given: ablate(**({"features": 1} | given)),
        {"features": (1, (8, -1)), "call": (0, (-1,))},
        lists=("features",),
        optional=("call",),
    ),
    "steer": Parameters(
        lambda **given: steer(**({"features": 1, "strength": 2.0} | given)),
        {"features": (1, (4, -1)), "call": (0, (-1,))},
        {"strength": (0.5, ())},
        lists=("features", "strength"),
        optional=("call",),
    ),
    "interpret_features": Parameters(
        explain,
        {
            "window_length": (5, (1, 0)),
            "n_explain": (4, (1, 0)),
            "n_score": (10, (9, 0)),
            "max_retries": (1, (-1,)),
            "random_state": (3, (-1, 2**32)),
            "n_jobs": (1, ()),
        },
        {"near_miss_fraction": (0.5, (-0.1, 1.1)), "retry_wait": (0.5, (-1,))},
        optional=("random_state", "n_jobs"),
    ),
    "OpenAIChat": Parameters(
        lambda **given: vars(inspection.OpenAIChat("small", **given)),
        {},
        {"temperature": (0.5, (-1,)), "timeout": (2.0, (0, -1))},
        optional=("temperature",),
    ),
}
