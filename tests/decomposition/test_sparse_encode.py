"""sparse_encode: what goes in, what comes out, and that it is scikit-learn's."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn import decomposition
from sklearn.exceptions import ConvergenceWarning

from skdict.decomposition import sparse_encode


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


def test_sparse_output(problem):
    X, dictionary = problem
    dense = sparse_encode(X, dictionary, alpha=0.3)
    codes = sparse_encode(X, dictionary, alpha=0.3, sparse_output=True)
    assert sp.issparse(codes) and codes.format == "csr" and codes.nnz == np.count_nonzero(dense)
    np.testing.assert_allclose(codes.toarray(), dense)
    codes = sparse_encode(torch.tensor(X), dictionary, alpha=0.3, sparse_output=True)
    assert codes.layout == torch.sparse_csr
    np.testing.assert_allclose(codes.to_dense(), dense)


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
        ({"algorithm": "lars"}, "algorithm='lars': give one of lasso, omp, threshold"),
        ({"alpha": -1.0}, "alpha == -1.0, must be >= 0"),
        ({"tol": 0.0}, "tol == 0.0, must be > 0"),
        ({"max_iter": 0}, "max_iter == 0, must be >= 1"),
        ({"n_nonzero_coefs": 0}, "n_nonzero_coefs == 0, must be >= 1"),
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
