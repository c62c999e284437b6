"""Arrays, frames, CSR, memory maps and tensors in; the right kind, dtype and values out."""

import tracemalloc

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from dictionary_testing import make_estimator
from torch.utils._python_dispatch import TorchDispatchMode

# Lasso on a handful of coherent atoms.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
)
NAMES = [f"neuron{i}" for i in range(16)]


def memmap(dtype):
    def convert(X, folder):
        path = folder / "activations.bin"
        X.astype(dtype).tofile(path)
        return np.memmap(path, dtype=dtype, mode="r", shape=X.shape)

    return convert


def read_only(X, folder):
    X = X.copy()
    X.flags.writeable = False
    return X


def csr_tensor(X, dtype, index_dtype):
    X = torch.tensor(X, dtype=dtype).to_sparse_csr()
    indices = X.crow_indices().to(index_dtype), X.col_indices().to(index_dtype)
    return torch.sparse_csr_tensor(*indices, X.values(), size=X.shape, check_invariants=True)


# name: (conversion, dtype of what comes out)
KINDS = {
    "float64": (lambda X, _: X, "float64"),
    "float32": (lambda X, _: X.astype(np.float32), "float32"),
    "float16": (lambda X, _: X.astype(np.float16), "float32"),
    "longdouble": (lambda X, _: X.astype(np.longdouble), "float64"),
    "big-endian": (lambda X, _: X.astype(">f8"), "float64"),
    "int64": (lambda X, _: X.astype(np.int64), "float64"),
    "int8": (lambda X, _: X.astype(np.int8), "float64"),
    "object": (lambda X, _: X.astype(object), "float64"),
    "list": (lambda X, _: X.tolist(), "float64"),
    "Fortran order": (lambda X, _: np.asfortranarray(X), "float64"),
    "every second row": (lambda X, _: np.repeat(X, 2, axis=0)[::2], "float64"),
    "reversed view": (lambda X, _: X[::-1, ::-1].copy()[::-1, ::-1], "float64"),
    "read-only": (read_only, "float64"),
    "pandas float64": (lambda X, _: pd.DataFrame(X, columns=NAMES), "float64"),
    "pandas float32": (lambda X, _: pd.DataFrame(X, columns=NAMES, dtype="float32"), "float32"),
    "polars float64": (lambda X, _: pl.DataFrame(X, schema=NAMES), "float64"),
    # scikit-learn does not see the dtype of a polars frame
    "polars float32": (lambda X, _: pl.DataFrame(X.astype("f4"), schema=NAMES), "float64"),
    "CSR matrix": (lambda X, _: sp.csr_matrix(X), "float64"),
    "CSR array": (lambda X, _: sp.csr_array(X), "float64"),
    "CSR float32": (lambda X, _: sp.csr_array(X.astype(np.float32)), "float32"),
    "CSC": (lambda X, _: sp.csc_array(X), "float64"),
    "memmap float32": (memmap(np.float32), "float32"),
    "memmap float16": (memmap(np.float16), "float32"),
    "tensor float64": (lambda X, _: torch.tensor(X), "float64"),
    "tensor float32": (lambda X, _: torch.tensor(X, dtype=torch.float32), "float32"),
    "tensor bfloat16": (lambda X, _: torch.tensor(X, dtype=torch.bfloat16), "float32"),
    "tensor float16": (lambda X, _: torch.tensor(X, dtype=torch.float16), "float32"),
    "tensor int64": (lambda X, _: torch.tensor(X, dtype=torch.int64), "float64"),
    "tensor transposed": (lambda X, _: torch.tensor(X.T.copy()).T, "float64"),
    "tensor CSR float64": (lambda X, _: torch.tensor(X).to_sparse_csr(), "float64"),
    "tensor CSR float32": (lambda X, _: csr_tensor(X, torch.float32, torch.int32), "float32"),
    "tensor CSR int64": (lambda X, _: csr_tensor(X, torch.int64, torch.int64), "float64"),
    "tensor with gradient": (lambda X, _: torch.tensor(X, requires_grad=True), "float64"),
}
TOLERANCE = {"float64": {"rtol": 1e-9, "atol": 1e-10}, "float32": {"rtol": 1e-4, "atol": 1e-4}}


@pytest.fixture(scope="module")
def whole_numbers(planted):
    """Activations that every kind holds exactly, bfloat16 and int8 included."""
    X = np.round(20 * planted)
    assert np.abs(X).max() < 128
    X[np.abs(X) < 4] = 0
    return X


@pytest.fixture(scope="module")
def expected(whole_numbers):
    """An estimator fitted on float64, and the codes of its training data."""
    estimator = make_estimator().fit(whole_numbers)
    return estimator, estimator.transform(whole_numbers)


def as_array(values):
    if isinstance(values, torch.Tensor):
        return values.to_dense().numpy() if values.layout == torch.sparse_csr else values.numpy()
    return values.toarray() if sp.issparse(values) else values


@pytest.mark.filterwarnings("ignore:X has feature names, but")
@pytest.mark.parametrize("kind", KINDS)
def test_transform_and_back(kind, whole_numbers, expected, tmp_path):
    convert, dtype = KINDS[kind]
    X = convert(whole_numbers, tmp_path)
    estimator, codes = expected
    got = estimator.transform(X)
    is_tensor = isinstance(X, torch.Tensor)
    assert isinstance(got, torch.Tensor if is_tensor else np.ndarray)
    assert got.dtype == getattr(torch if is_tensor else np, dtype)
    np.testing.assert_allclose(as_array(got), codes, **TOLERANCE[dtype])
    if is_tensor:
        assert not got.requires_grad

    back = estimator.inverse_transform(got)
    assert type(back) is type(got)
    assert back.dtype == got.dtype
    reconstruction = codes @ estimator.components_ + estimator.intercept_
    np.testing.assert_allclose(as_array(back), reconstruction, **TOLERANCE[dtype])

    score = estimator.score(X)
    assert type(score) is float
    assert score == pytest.approx(estimator.score(whole_numbers), rel=1e-4)


@pytest.mark.filterwarnings("ignore:X has feature names, but")
@pytest.mark.parametrize("kind", KINDS)
def test_sparse_output(kind, whole_numbers, expected, tmp_path):
    convert, dtype = KINDS[kind]
    X = convert(whole_numbers, tmp_path)
    estimator, codes = expected
    got = make_like(estimator, sparse_output=True).transform(X)
    if isinstance(X, torch.Tensor):
        assert got.layout == torch.sparse_csr
        assert got.dtype == getattr(torch, dtype)
        n_stored = len(got.values())
    else:
        assert got.format == "csr"
        assert isinstance(got, sp.csr_matrix)  # sklearn's default interface
        assert got.has_canonical_format
        assert got.dtype == np.dtype(dtype)
        n_stored = got.nnz
    assert got.shape == codes.shape
    dense = as_array(got)
    assert n_stored == np.count_nonzero(dense)
    np.testing.assert_allclose(dense, codes, **TOLERANCE[dtype])
    back = estimator.inverse_transform(got)
    assert isinstance(back, torch.Tensor if isinstance(X, torch.Tensor) else np.ndarray)
    reconstruction = codes @ estimator.components_ + estimator.intercept_
    np.testing.assert_allclose(as_array(back), reconstruction, **TOLERANCE[dtype])


def make_like(estimator, **params):
    """A copy with other parameters."""
    other = make_estimator()
    vars(other).update(vars(estimator))
    return other.set_params(**params)


@pytest.mark.parametrize("kind", KINDS)
def test_fit_learns_the_same(kind, whole_numbers, expected, tmp_path):
    convert, dtype = KINDS[kind]
    estimator = make_estimator().fit(convert(whole_numbers, tmp_path))
    for name in ("components_", "intercept_", "encoder_coef_", "encoder_intercept_"):
        got, want = getattr(estimator, name), getattr(expected[0], name)
        assert type(got) is np.ndarray
        assert got.dtype == np.dtype(dtype), name
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-3 * np.abs(want).max())
    assert estimator.alpha_ == pytest.approx(expected[0].alpha_, rel=1e-6)
    assert estimator.n_features_in_ == 16
    assert hasattr(estimator, "feature_names_in_") == kind.startswith(("pandas", "polars"))


@pytest.mark.parametrize("solver", ["dictionary_learning", "lasso"])
@pytest.mark.parametrize(
    "kind", ["float32", "float16", "CSR matrix", "memmap float16", "tensor bfloat16"]
)
def test_other_solvers(solver, kind, whole_numbers, tmp_path):
    convert, dtype = KINDS[kind]
    X = convert(whole_numbers, tmp_path)
    want = make_estimator(solver=solver).fit(whole_numbers)
    got = make_estimator(solver=solver).fit(X)
    assert got.components_.dtype == got.intercept_.dtype == np.dtype(dtype)
    np.testing.assert_allclose(got.components_, want.components_, atol=1e-4)
    codes = got.transform(X)
    assert str(codes.dtype).removeprefix("torch.") == dtype
    np.testing.assert_allclose(as_array(codes), want.transform(whole_numbers), atol=1e-2)


def test_booleans():
    X = np.random.default_rng(0).random((300, 16)) < 0.3
    want = make_estimator().fit(X.astype(np.float64))
    got = make_estimator().fit(X)
    np.testing.assert_array_equal(got.components_, want.components_)
    for kind in (X, torch.from_numpy(X)):
        np.testing.assert_allclose(got.transform(kind), want.transform(X.astype(np.float64)))


def test_codes_of_every_kind_decode(planted, fitted):
    estimator = fitted["autoencoder"]
    codes = estimator.transform(planted)
    want = codes @ estimator.components_ + estimator.intercept_
    names = list(estimator.get_feature_names_out())
    for kind in (
        codes.tolist(),
        pd.DataFrame(codes, columns=names),
        pl.DataFrame(codes, schema=names),
        sp.csc_matrix(codes),
        sp.coo_array(codes),
    ):
        np.testing.assert_allclose(estimator.inverse_transform(kind), want, rtol=1e-12)
    for dtype, tolerance in ((np.float16, 1e-2), (np.float32, 1e-5)):
        got = estimator.inverse_transform(codes.astype(dtype))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=tolerance)


# -- rows ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide():
    """Data and an estimator of realistic width: 512 features, 2048 atoms, about 5% active."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5000, 512)).astype(np.float32)
    estimator = make_estimator(n_components=2048, max_iter=1).fit(X[:300])
    estimator.encoder_intercept_ -= np.quantile(estimator.transform(X[:300]), 0.95)
    return estimator, X


@pytest.mark.slow
@pytest.mark.parametrize("sparse_output", [False, True])
@pytest.mark.parametrize("as_kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_codes_do_not_depend_on_the_split_of_the_rows(wide, as_kind, sparse_output):
    estimator, X = wide
    estimator = make_like(estimator, sparse_output=sparse_output)
    X = as_kind(X)

    def codes(rows):
        return as_array(estimator.transform(rows))

    whole = codes(X)  # three blocks
    assert 0.02 < np.mean(whole > 0) < 0.1
    tolerance = {"rtol": 0, "atol": 1e-6 * whole.max()}
    by_sevens = np.vstack([codes(X[start : start + 7]) for start in range(0, 700, 7)])
    np.testing.assert_allclose(by_sevens, whole[:700], **tolerance)
    for row in (0, 1, 2047, 2048, 4999):
        np.testing.assert_allclose(codes(X[row : row + 1]), whole[[row]], **tolerance)
    np.testing.assert_allclose(codes(X[1234:4321]), whole[1234:4321], **tolerance)


class LargestTensor(TorchDispatchMode):
    """Number of elements of the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor):
                self.size = max(self.size, value.numel())
        return out


def peak(function):
    """Elements of the largest tensor, and peak of the bytes that numpy allocates."""
    tracemalloc.start()
    with LargestTensor() as largest:
        function()
    n_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return largest.size, n_bytes


@pytest.mark.slow
def test_sparse_output_never_builds_the_dense_codes(wide, monkeypatch):
    estimator, X = wide
    monkeypatch.setattr("skdict._core.data.source.BLOCK_BYTES", 1 << 20)  # 128 rows of codes
    dense_size = len(X) * 2048
    n_nonzero = np.count_nonzero(estimator.transform(X))
    assert n_nonzero < dense_size / 10
    size, _ = peak(lambda: estimator.transform(X))
    assert size == dense_size  # this is how it would be seen
    size, n_bytes = peak(lambda: make_like(estimator, sparse_output=True).transform(X))
    assert size == estimator.components_.size > n_nonzero
    assert n_bytes < 4 * dense_size / 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_memory_maps_are_read_batch_by_batch(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr("skdict._core.data.source.BLOCK_BYTES", 1 << 18)
    rng = np.random.default_rng(0)
    X = memmap(dtype)(rng.standard_normal((20_000, 64)), tmp_path)

    def run():
        estimator = make_estimator(n_components=8, max_iter=1, batch_size=1000).fit(X)
        estimator.partial_fit(X)
        estimator.score(X)
        estimator.set_params(sparse_output=True, n_components=8).transform(X)

    size, n_bytes = peak(run)
    assert size < X.size / 4  # widest: the samples that the first biases are for
    assert n_bytes < X.nbytes / 2


# -- devices ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("sparse_output", [False, True])
def test_tensors_come_back_on_their_device(planted, device, sparse_output):
    X = torch.tensor(planted, device=device)
    estimator = make_estimator(device="auto", sparse_output=sparse_output).fit(X)
    assert type(estimator.components_) is np.ndarray
    codes = estimator.transform(X)
    assert codes.device == X.device
    assert estimator.inverse_transform(codes).device == X.device
    on_cpu = estimator.set_params(device="cpu").transform(planted)
    np.testing.assert_allclose(as_array(codes.cpu()), as_array(on_cpu), atol=1e-8)
    # the estimator's device decides where it computes, the data's where the codes go
    assert estimator.transform(X).device == X.device


@pytest.mark.parametrize("device", [CUDA])
def test_what_was_fitted_on_a_gpu_is_arrays(planted, device):
    estimator = make_estimator(device=device).fit(planted)
    other = make_estimator(device="cpu").fit(planted)
    np.testing.assert_allclose(estimator.components_, other.components_, atol=1e-6)
    assert isinstance(estimator.transform(planted), np.ndarray)
    streaming = make_estimator(device=device).partial_fit(planted)
    streaming.set_params(device="cpu").partial_fit(planted)
