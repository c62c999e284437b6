"""sparse_encode: what goes in, what comes out, and that it is scikit-learn's."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn import decomposition
from sklearn.exceptions import ConvergenceWarning

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary, sparse_encode


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(60, 20))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = rng.exponential(2.0, (30, 60)) * (rng.random((30, 60)) < 0.05)
    return codes @ atoms + 0.05 * rng.normal(size=(30, 20)), atoms


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(
    ("algorithm", "sklearns", "options"),
    [
        ("lasso", "lasso_cd", {"alpha": 0.2}),
        ("lasso", "lasso_lars", {}),
        ("omp", "omp", {}),
        ("omp", "omp", {"n_nonzero_coefs": 5}),
        ("threshold", "threshold", {"alpha": 0.2}),
        ("threshold", "threshold", {}),
    ],
)
def test_codes_are_sklearns(problem, algorithm, sklearns, options, positive):
    """With the same parameters, and the same defaults of these."""
    if algorithm == "omp" and positive:
        return  # scikit-learn has none
    X, dictionary = problem
    options = {"positive": positive, **options}
    codes = sparse_encode(X, dictionary, algorithm=algorithm, tol=1e-10, **options)
    expected = decomposition.sparse_encode(X, dictionary, algorithm=sklearns, **options)
    assert np.count_nonzero(expected) > 0
    np.testing.assert_allclose(codes, expected, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["lasso", "omp", "threshold"])
def test_kinds_of_input(problem, algorithm):
    X, dictionary = problem
    X = X * (np.abs(X) > 0.3)
    options = {"algorithm": algorithm, "alpha": 0.3}
    expected = sparse_encode(X, dictionary, **options)
    assert type(expected) is np.ndarray and expected.dtype == np.float64
    for given in (X.tolist(), pd.DataFrame(X), sp.csr_array(X), np.asfortranarray(X), X[::1]):
        np.testing.assert_allclose(sparse_encode(given, dictionary, **options), expected, 1e-9)
    tensor = sparse_encode(torch.tensor(X), dictionary, **options)
    assert type(tensor) is torch.Tensor
    np.testing.assert_allclose(tensor, expected, 1e-9)
    np.testing.assert_allclose(sparse_encode(X, torch.tensor(dictionary), **options), expected)
    for low in (np.float32, np.float16):
        codes = sparse_encode(X.astype(low), dictionary.astype(np.float32), **options)
        assert codes.dtype == np.float32
        np.testing.assert_allclose(codes, expected, atol=2e-2)
    assert sparse_encode(X.astype(np.float32), dictionary, **options).dtype == np.float64


@pytest.mark.parametrize("algorithm", ["lasso", "omp", "threshold"])
def test_sparse_output(problem, algorithm):
    X, dictionary = problem
    options = {"algorithm": algorithm, "alpha": 0.3, "positive": algorithm != "omp"}
    dense = sparse_encode(X, dictionary, **options)
    codes = sparse_encode(X, dictionary, sparse_output=True, **options)
    assert sp.issparse(codes) and codes.format == "csr" and codes.nnz == np.count_nonzero(dense)
    assert codes.has_canonical_format
    np.testing.assert_allclose(codes.toarray(), dense)
    codes = sparse_encode(torch.tensor(X), dictionary, sparse_output=True, **options)
    assert codes.layout == torch.sparse_csr
    torch.sparse_csr_tensor(
        codes.crow_indices(),
        codes.col_indices(),
        codes.values(),
        codes.shape,
        check_invariants=True,
    )
    np.testing.assert_allclose(codes.to_dense(), dense)


@pytest.mark.parametrize("algorithm", ["lasso", "omp", "threshold"])
def test_arrays_in_any_order_of_their_entries(problem, algorithm):
    X, dictionary = problem
    options = {"algorithm": algorithm, "alpha": 0.3}
    expected = sparse_encode(X, dictionary, **options)
    for order in (
        np.asfortranarray,
        lambda array: array[::-1][::-1],
        lambda array: array.T.copy().T,
    ):
        found = sparse_encode(order(X), order(dictionary), **options)
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array, torch.tensor])
def test_init(problem, kind):
    X, dictionary = problem
    expected = sparse_encode(X, dictionary, alpha=0.3, tol=1e-10)
    start = np.where(np.arange(60) % 7 == 0, 0.5, 0.0) * np.ones((30, 1))
    for codes in (start, -start, expected):
        found = sparse_encode(X, dictionary, alpha=0.3, tol=1e-10, init=kind(codes))
        np.testing.assert_allclose(found, expected, atol=1e-8)


def test_certificate(problem):
    X, dictionary = problem
    codes, gap = sparse_encode(X, dictionary, alpha=0.3, return_gap=True)
    assert codes.shape == (30, 60)
    assert gap.shape == (30,) and gap.dtype == np.float64
    assert (gap <= 1e-4).all()
    with pytest.warns(ConvergenceWarning, match=r"codes of \d+ of 30 samples have a duality gap"):
        _, gap = sparse_encode(X, dictionary, alpha=0.001, max_iter=1, tol=1e-8, return_gap=True)
    assert gap.max() > 1e-8


def test_one_sample_and_one_atom(problem):
    X, dictionary = problem
    codes = sparse_encode(X[:1], dictionary[:1], alpha=0.1)
    expected = max(float(X[0] @ dictionary[0]) - 0.1, 0)
    np.testing.assert_allclose(codes, [[expected]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "lars"}, "'algorithm' .* must be a str among .*'omp'.* Got 'lars'"),
        ({"alpha": -1.0}, r"'alpha' .* in the range \[0.0, inf\) or None. Got -1.0"),
        ({"alpha": np.nan}, "'alpha' .* Got nan instead"),
        ({"alpha": np.inf}, "'alpha' .* Got inf instead"),
        ({"alpha": True}, "'alpha' .* Got True instead"),
        ({"tol": 0.0}, r"'tol' .* in the range \(0.0, inf\). Got 0.0 instead"),
        ({"tol": np.nan}, "'tol' .* Got nan instead"),
        ({"max_iter": 0}, "'max_iter' .* Got 0 instead"),
        ({"max_iter": True}, "'max_iter' .* Got True instead"),
        ({"n_nonzero_coefs": 0}, "'n_nonzero_coefs' .* Got 0 instead"),
        ({"algorithm": "omp", "return_gap": True}, "return_gap is for algorithm='lasso'"),
        ({"algorithm": "omp", "init": np.ones((30, 60))}, "init is for algorithm='lasso'"),
        ({"init": np.ones((30, 59))}, r"init has shape \(30, 59\), but .* is \(30, 60\)"),
        ({"dictionary": np.ones((60, 19))}, "X has 20 features, but the atoms .* have 19"),
        ({"dictionary": np.full((60, 20), np.nan)}, "dictionary contains NaN"),
        ({"X": np.full((30, 20), np.inf)}, "X contains infinity"),
        ({"X": np.ones(20)}, "Expected 2D array"),
    ],
)
def test_bad_input_is_named(problem, options, message):
    X, dictionary = problem
    given = {"X": X, "dictionary": dictionary, **options}
    with pytest.raises(ValueError, match=message):
        sparse_encode(given.pop("X"), given.pop("dictionary"), **given)


@pytest.fixture(scope="module")
def dictionaries():
    """500 samples, and unit-norm atoms of three kinds; exemplars are strongly coherent."""
    X = make_superposition(3500, 48, 160, l0=4.0, noise=0.05, random_state=0)[0]
    X, train = X[:500] + 0.5, X[500:] + 0.5
    rng = np.random.default_rng(0)
    learned = SparseAutoencoderDictionary(
        160, solver="alternating", max_iter=2, fit_intercept=False, random_state=0
    ).fit(train)
    atoms = {
        "random": rng.normal(size=(160, 48)),
        "learned": learned.components_,
        "exemplars": train[:160],
    }
    return X, {name: a / np.linalg.norm(a, axis=1, keepdims=True) for name, a in atoms.items()}


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("multiple", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("kind", ["random", "learned", "exemplars"])
def test_objective_is_that_of_lars(dictionaries, kind, multiple, positive):
    X, dictionary = dictionaries[0], dictionaries[1][kind]
    if kind == "exemplars":
        assert np.triu(dictionary @ dictionary.T, 1).max() > 0.9
    alpha = multiple * np.median(np.abs(X @ dictionary.T).max(axis=1))

    def objective_and_gap(codes):
        residual = X - codes @ dictionary
        square, along = (residual**2).sum(axis=1), (X * residual).sum(axis=1)
        objective = 0.5 * square + alpha * np.abs(codes).sum(axis=1)
        correlation = residual @ dictionary.T
        largest = (correlation if positive else np.abs(correlation)).max(axis=1)
        scale = np.minimum(np.maximum(along / square, 0), alpha / largest)
        return objective, 1 - (scale * along - 0.5 * scale**2 * square) / objective

    options = {"alpha": alpha, "positive": positive}
    codes, gap = sparse_encode(X, dictionary, tol=1e-6, return_gap=True, **options)
    objective, certificate = objective_and_gap(codes)
    assert certificate.max() <= 1e-6
    np.testing.assert_allclose(gap, certificate, atol=1e-12)

    expected = decomposition.sparse_encode(
        X, dictionary, algorithm="lasso_lars", max_iter=2000, **options
    )
    lars, gap_of_lars = objective_and_gap(expected)
    assert (objective <= lars * (1 + 1e-6)).all()
    right = gap_of_lars <= 1e-6  # on coherent atoms it misses the optimum for some samples
    assert right.mean() > 0.9 and (kind == "exemplars" or right.all())
    np.testing.assert_allclose(objective[right], lars[right], rtol=1e-6)
