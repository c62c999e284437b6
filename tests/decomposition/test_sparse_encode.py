"""sparse_encode: what goes in, what comes out, and that it is scikit-learn's."""

import functools
import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn import decomposition
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline

from skdict._core.data import source
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary, sparse_encode


def csr_tensor(array):
    return torch.tensor(array).to_sparse_csr()


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
    sparse = torch.tensor(X).to_sparse_csr(), torch.tensor(dictionary).to_sparse_csr()
    np.testing.assert_allclose(sparse_encode(*sparse, **options), expected, 1e-9)
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


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array, torch.tensor, csr_tensor])
def test_init(problem, kind):
    X, dictionary = problem
    expected = sparse_encode(X, dictionary, alpha=0.3, tol=1e-10)
    start = np.where(np.arange(60) % 7 == 0, 0.5, 0.0) * np.ones((30, 1))
    for codes in (start, -start, expected):
        found = sparse_encode(X, dictionary, alpha=0.3, tol=1e-10, init=kind(codes))
        np.testing.assert_allclose(found, expected, atol=1e-8)


def test_codes_as_they_come_out_are_codes_to_start_from(problem):
    X, dictionary = torch.tensor(problem[0]), problem[1]
    codes = sparse_encode(X, dictionary, alpha=0.3, sparse_output=True)
    again, gap = sparse_encode(X, dictionary, alpha=0.3, init=codes, max_iter=1, return_gap=True)
    np.testing.assert_allclose(again, codes.to_dense(), atol=1e-3)
    assert gap.max() <= 1e-4


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the device that is asked for")
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, csr_tensor])
def test_the_device_that_is_given_counts(problem, kind):
    with pytest.raises(ValueError, match="device='cuda' asks for CUDA"):
        sparse_encode(kind(problem[0]), problem[1], device="cuda")


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
        160,
        solver="alternating",
        max_iter=2,
        early_stopping=False,
        fit_intercept=False,
        random_state=0,
    ).fit(train)
    atoms = {
        "random": rng.normal(size=(160, 48)),
        "learned": learned.components_,
        "exemplars": train[:160],
    }
    return X, {name: a / np.linalg.norm(a, axis=1, keepdims=True) for name, a in atoms.items()}


@pytest.mark.slow
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
    assert right.mean() > 0.9 and (kind != "random" or right.all())
    np.testing.assert_allclose(objective[right], lars[right], rtol=1e-6)


@pytest.fixture
def unconverged(monkeypatch):
    """Float32 samples in several blocks, whose codes on coherent atoms stay above the gap."""
    monkeypatch.setattr(source, "BLOCK_BYTES", 1 << 14)
    rng = np.random.default_rng(0)
    X, atoms = rng.normal(size=(600, 16)), rng.normal(size=(64, 16))
    atoms[32:] = atoms[:32] + 1e-7
    return X.astype(np.float32), atoms


def only_warning_of_gaps(call):
    """The one ConvergenceWarning of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (warning,) = (w for w in caught if issubclass(w.category, ConvergenceWarning))
    assert warning.filename == __file__
    return re.search(r"of (\d+) of (\d+) samples", str(warning.message)).groups()


@pytest.mark.slow
def test_a_call_warns_once_of_all_its_samples(unconverged):
    X, atoms = unconverged
    options = {"alpha": 1e-9, "max_iter": 5}
    with pytest.warns(ConvergenceWarning):
        gap = sparse_encode(X, atoms.astype("f4"), return_gap=True, **options)[1]
    expected = str((gap > 1e-4).sum()), "600"
    encode = functools.partial(sparse_encode, X, atoms.astype("f4"), **options)
    assert only_warning_of_gaps(lambda: encode()) == expected
    estimator = SparseAutoencoderDictionary(64, solver="lasso", dict_init=atoms, alpha=1e-9)
    assert only_warning_of_gaps(lambda: estimator.fit(X))[1] == "600"
    pipeline = make_pipeline(estimator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.fit(X)
    for call in (pipeline.transform, pipeline.score, estimator.score_samples):
        assert only_warning_of_gaps(lambda: call(X))[1] == "600"  # noqa: B023


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threshold_where_products_leave_the_range(dtype, positive):
    """The products are infinite, their sums are not."""
    size = np.finfo(dtype).max / 4
    X, dictionary = np.array([[size, -size]]), np.array([[6.0, 5.0], [5.0, 6.0]])
    X, dictionary = X.astype(dtype), dictionary.astype(dtype)
    codes = sparse_encode(X, dictionary, algorithm="threshold", alpha=0.25, positive=positive)
    np.testing.assert_allclose(codes, [[size, 0.0 if positive else -size]], rtol=1e-5)


@pytest.mark.parametrize("algorithm", ["omp", "threshold"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_that_are_too_large_are_refused(algorithm, dtype):
    root = np.sqrt(np.finfo(dtype).max)
    size = 1 / root if algorithm == "omp" else root
    X, dictionary = np.full((3, 2), 4 * root, dtype=dtype), size * np.eye(2, dtype=dtype)
    message = f"Codes of algorithm='{algorithm}' are too large for {np.dtype(dtype)}"
    with pytest.raises(ValueError, match=message):
        sparse_encode(X, dictionary, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ["lasso", "omp", "threshold"])
@pytest.mark.parametrize("alpha", [0.0, 1e-300, 1e30, 1e300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_alpha(problem, algorithm, alpha, dtype):
    X, dictionary = (array.astype(dtype) for array in problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        codes = sparse_encode(X, dictionary, algorithm=algorithm, alpha=alpha, positive=False)
    assert np.isfinite(codes).all()
    if alpha >= 1e30:
        assert not codes.any()
    elif algorithm != "threshold" and dtype == np.float64:
        np.testing.assert_allclose(codes @ dictionary, X, atol=1e-3)


def test_without_a_penalty_nothing_is_certified(problem):
    """The least objective is zero: any other is larger by all of itself."""
    with pytest.warns(ConvergenceWarning, match=r"30 of 30 samples .* \(at most 1.0e\+00 of the"):
        gap = sparse_encode(*problem, alpha=0.0, return_gap=True)[1]
    np.testing.assert_array_equal(gap, 1.0)


def test_a_gap_that_is_not_known_is_warned_of():
    with pytest.warns(ConvergenceWarning, match=r"1 of 1 samples .* \(unknown\)"):
        gap = sparse_encode([[1.0]], [[-1e200], [1e-200]], alpha=0.0, return_gap=True)[1]
    assert np.isnan(gap).all()


@pytest.mark.slow
def test_an_interrupt_ends_it_and_the_process():
    """The rows are coded in pieces: those that have not begun never do."""
    code = """
import numpy as np, os, signal, threading, time
from skdict.decomposition import sparse_encode
rng = np.random.default_rng(0)
X, atoms = rng.normal(size=(200_000, 40)), rng.normal(size=(600, 40))
sparse_encode(X[:10], atoms, alpha=0.01, tol=1e-12)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
start = time.process_time()
try:
    sparse_encode(X, atoms, alpha=0.01, tol=1e-12)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    import atexit
    atexit.register(lambda: print(time.process_time() - start < 20))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["interrupted", "True"], done.stderr
