"""NumPy's scalars as parameters: the same result as with numbers of Python's."""

import numpy as np
import pytest
from dictionary_testing import make_estimator
from sklearn.model_selection import GridSearchCV

from skdict.datasets import make_superposition
from skdict.decomposition import (
    SparseAutoencoderDictionaryCV,
    alpha_grid,
    amortisation_gap,
    architectures,
    compare_dictionaries,
    sparse_encode,
)

# Lasso on a handful of coherent atoms.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = {
    int: (np.int8, np.uint8, np.int64, np.uint64),
    float: (np.float16, np.float32, np.float64),
    bool: (np.bool_,),
}
KEEPING_THE_LARGEST = {"architecture": "batch_topk", "n_nonzero_coefs": 3}
EARLY = {"early_stopping": True, "max_iter": 6, "tol": 0.5}
ESTIMATORS = [
    ({}, "n_components", 40),
    ({"solver": "alternating"}, "n_components", 40),
    ({"solver": "dictionary_learning", "max_iter": 1}, "n_components", 40),
    ({"solver": "kmeans"}, "n_components", 40),
    ({"solver": "lasso"}, "n_components", 40),
    *(({"dict_init": name}, "n_components", 20) for name in ("exemplars", "random", "pca")),
    ({"dict_init": "ica"}, "n_components", 9),
    ({}, "alpha", 0.3),
    ({"solver": "alternating"}, "alpha", 0.3),
    ({"solver": "dictionary_learning", "max_iter": 1}, "alpha", 0.3),
    ({"architecture": "topk"}, "n_nonzero_coefs", 3),
    ({"architecture": "batch_topk"}, "n_nonzero_coefs", 20),
    ({"architecture": "matryoshka"}, "n_nonzero_coefs", 3),
    ({"architecture": "jumprelu"}, "n_nonzero_coefs", 3),
    ({"solver": "kmeans"}, "n_nonzero_coefs", 3),
    ({"transform_algorithm": "lasso"}, "transform_alpha", 0.3),
    ({"transform_algorithm": "threshold"}, "transform_alpha", 0.3),
    ({"transform_algorithm": "omp"}, "transform_n_nonzero_coefs", 3),
    *(({"solver": name}, "fit_intercept", False) for name in ("autoencoder", "alternating")),
    ({}, "fit_intercept", True),
    ({}, "resolution", 0.3),
    ({}, "max_iter", 3),
    ({"solver": "alternating"}, "max_iter", 3),
    ({"dict_init": "nmf", "fit_intercept": False, "n_components": 9}, "max_iter", 3),
    (KEEPING_THE_LARGEST, "batch_size", 120),
    ({"solver": "alternating"}, "batch_size", 120),
    ({"solver": "dictionary_learning", "max_iter": 1}, "batch_size", 120),
    ({}, "learning_rate_init", 0.01),
    ({}, "early_stopping", True),
    (EARLY, "validation_fraction", 0.3),
    (EARLY, "tol", 0.3),
    (EARLY, "n_iter_no_change", 1),
    ({}, "shuffle", False),
    ({}, "sparse_output", True),
    ({}, "random_state", 7),
    ({}, "verbose", 0),
]


def of_kinds(cases):
    """Each case with every kind of scalar of NumPy's that its value can be."""
    return [
        pytest.param(*case, kind(value), id=f"{case} {kind.__name__}".replace("'", ""))
        for *case, value in cases
        for kind in KINDS[type(value)]
    ]


def dense(codes):
    return codes if isinstance(codes, np.ndarray) else codes.toarray()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("params", "name", "value"), of_kinds(ESTIMATORS))
def test_estimators(planted, params, name, value):
    X = abs(planted) if params.get("dict_init") == "nmf" else planted
    got, want = (make_estimator(**{**params, name: v}).fit(X) for v in (value, value.item()))
    np.testing.assert_array_equal(got.components_, want.components_)
    np.testing.assert_array_equal(dense(got.transform(X)), dense(want.transform(X)))
    assert got.score(X) == want.score(X)
    assert got.get_params()[name] is value


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "value"),
    of_kinds([("alpha", 0.3), ("batch_size", 120), ("fit_intercept", True)]),
)
def test_streams(planted, name, value):
    for solver in ("autoencoder", "alternating", "dictionary_learning"):
        got, want = (
            make_estimator(solver=solver, **{name: v}).partial_fit(planted).partial_fit(planted)
            for v in (value, value.item())
        )
        np.testing.assert_array_equal(got.components_, want.components_)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "value"), of_kinds([("alphas", 3), ("cv", 2), ("n_jobs", 1), ("max_iter", 2)])
)
def test_choice_of_alpha(planted, name, value):
    shared = make_estimator().get_params()
    del shared["alpha"], shared["warm_start"]
    shared |= {"alphas": 2, "cv": 2, "max_iter": 1}
    got, want = (
        SparseAutoencoderDictionaryCV(**{**shared, name: v}).fit(planted)
        for v in (value, value.item())
    )
    np.testing.assert_array_equal(got.scores_, want.scores_)


@pytest.mark.parametrize(
    ("name", "value"),
    of_kinds(
        [
            *(("n_samples", 100), ("n_features", 10), ("n_components", 64), ("l0", 4)),
            *(("group_size", 5), ("random_state", 3), ("sparse_output", True)),
            *(("l0", 2.5), ("zipf_exponent", 1.5), ("correlation", 0.5), ("noise", 0.1)),
            ("magnitude_std", 0.3),
        ]
    ),
)
def test_make_superposition(name, value):
    params = {"n_samples": 9, "n_features": 4, "n_components": 64, "correlation": 0.3}
    params |= {"random_state": 0, "zipf_exponent": 0.7}
    got, want = (make_superposition(**{**params, name: v}) for v in (value, value.item()))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(dense(one), dense(other))


@pytest.mark.parametrize(
    ("algorithm", "name", "value"),
    of_kinds(
        [
            *(("lasso", "alpha", 0.3), ("lasso", "tol", 1e-3), ("lasso", "max_iter", 100)),
            *(("lasso", "positive", False), ("lasso", "return_gap", False)),
            *(("omp", "n_nonzero_coefs", 3), ("omp", "alpha", 0.3), ("omp", "positive", True)),
            *(("threshold", "alpha", 0.3), ("threshold", "sparse_output", True)),
        ]
    ),
)
def test_sparse_encode(planted, fitted, algorithm, name, value):
    atoms = fitted["autoencoder"].components_
    got, want = (
        sparse_encode(planted, atoms, algorithm=algorithm, **{name: v})
        for v in (value, value.item())
    )
    np.testing.assert_array_equal(dense(got), dense(want))


@pytest.mark.parametrize("value", of_kinds([(0.3,)]))
def test_functions_of_alpha(planted, fitted, value):
    sae, alone = fitted["autoencoder"], {"lasso": fitted["lasso"]}
    gaps = [amortisation_gap(sae, planted, alpha=v) for v in (value, value.item())]
    np.testing.assert_array_equal(gaps[0].lasso.objective, gaps[1].lasso.objective)
    tables = [
        compare_dictionaries(alone, planted, planted, alpha=v) for v in (value, value.item())
    ]
    assert tables[0]["objective"][0] == tables[1]["objective"][0]


@pytest.mark.parametrize("value", of_kinds([(100,)]))
def test_alpha_grid(planted, value):
    np.testing.assert_array_equal(alpha_grid(planted, value), alpha_grid(planted, 100))


@pytest.mark.parametrize(
    ("params", "grid"),
    [
        ({"solver": "lasso"}, {"n_components": np.array([4, 8])}),
        ({}, {"fit_intercept": np.array([True, False])}),
        ({}, {"alpha": np.geomspace(0.1, 1, 2).astype(np.float16)}),
        ({"architecture": "batch_topk"}, {"n_nonzero_coefs": np.arange(2, 4, dtype=np.uint8)}),
    ],
)
def test_grids_that_are_arrays(planted, params, grid):
    search = GridSearchCV(make_estimator(**params), grid, cv=2, error_score="raise").fit(planted)
    lists = {name: values.tolist() for name, values in grid.items()}
    again = GridSearchCV(make_estimator(**params), lists, cv=2).fit(planted)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], again.cv_results_["mean_test_score"]
    )


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64])
@pytest.mark.parametrize("name", ["TopK", "BatchTopK", "Matryoshka", "JumpReLU"])
def test_parameters_of_architectures(planted, name, kind):
    """Three times as many rows as there are in a batch overflow in eight bits."""

    def fitted(k):
        architecture = getattr(architectures, name)(k=k)
        return make_estimator(architecture=architecture, max_iter=2).fit(planted)

    witness, estimator = fitted(3), fitted(kind(3))
    np.testing.assert_array_equal(estimator.components_, witness.components_)
    assert type(estimator.n_nonzero_coefs_) is int
