"""Explained variance and shrinkage, against scikit-learn and hand-computed numbers."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import r2_score

from skdict.metrics import _rows, explained_variance, shrinkage


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 7)) * np.arange(1, 8) + 3.0
    return X, X + rng.normal(size=X.shape)


def test_explained_variance_is_variance_weighted_r2(pair):
    assert_allclose(
        explained_variance(*pair), r2_score(*pair, multioutput="variance_weighted"), rtol=1e-12
    )


def test_explained_variance_by_hand():
    # mean (2, 2); squared distances from it 1 + 4, twice; residuals 1 + 0
    assert explained_variance([[1, 0], [3, 4]], [[1, 1], [3, 4]]) == pytest.approx(1 - 1 / 10)


def test_explained_variance_is_none_of_the_other_definitions(pair):
    X, X_hat = pair
    right = explained_variance(X, X_hat)
    residual = ((X - X_hat) ** 2).sum(axis=1)
    per_sample = np.mean(1 - residual / ((X - X.mean(axis=0)) ** 2).sum(axis=1))
    scalar_mean = 1 - residual.mean() / ((X**2).sum(axis=1).mean() - X.mean() ** 2)
    without_mean = 1 - residual.mean() / (X**2).sum(axis=1).mean()
    for wrong in (per_sample, scalar_mean, without_mean):
        assert abs(right - wrong) > 1e-3


def test_constant_offset_is_not_forgiven(pair):
    X, _ = pair
    variance = ((X - X.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert_allclose(explained_variance(X, X + 2.0), 1 - 4 * X.shape[1] / variance, rtol=1e-12)


def test_perfect_mean_and_worse(pair):
    X, _ = pair
    assert explained_variance(X, X) == 1.0
    mean = np.broadcast_to(X.mean(axis=0), X.shape)
    assert_allclose(explained_variance(X, mean), 0.0, atol=1e-12)
    assert explained_variance(X, -X) < 0


@pytest.mark.parametrize("value", [0.0, 0.25, 1e8])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_constant_data_as_r2_score(value, shift):
    X = np.full((10, 3), value)
    expected = r2_score(X, X + shift, multioutput="variance_weighted")
    assert explained_variance(X, X + shift) == expected == float(shift == 0)


def test_constant_data_whose_mean_is_rounded():
    X = np.full((10, 3), 0.1)
    assert X.mean(axis=0)[0] != 0.1  # r2_score gives -1e33 here
    assert explained_variance(X, X + 0.5) == 0.0


def test_one_row_is_constant_data():
    assert explained_variance([[1.0, 2.0]], [[1.0, 2.0]]) == 1.0
    assert explained_variance([[1.0, 2.0]], [[1.0, 2.5]]) == 0.0


def test_digits_survive_a_mean_far_from_the_origin(pair):
    X, X_hat = pair
    # The squared mean is 1e15 times the variance: the difference of squares would be noise.
    near, far = explained_variance(X, X_hat), explained_variance(X + 1e8, X_hat + 1e8)
    assert_allclose(far, near, rtol=1e-6)


@pytest.mark.parametrize("metric", [explained_variance, shrinkage])
def test_block_size_does_not_matter(metric, pair, monkeypatch):
    whole = metric(*pair)
    monkeypatch.setattr(_rows, "BLOCK_SIZE", 20)  # two rows
    assert_allclose(metric(*pair), whole, rtol=1e-12)


@pytest.mark.parametrize("metric", [explained_variance, shrinkage])
@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        np.asfortranarray,
        pd.DataFrame,
        sp.csr_array,
        sp.coo_matrix,
        torch.from_numpy,
        lambda X: torch.from_numpy(X).requires_grad_(),
        lambda X: torch.from_numpy(X).to_sparse_csr(),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_containers(metric, convert, pair):
    X, X_hat = pair
    assert_allclose(metric(convert(X), convert(X_hat)), metric(X, X_hat), rtol=1e-12)


@pytest.mark.parametrize("metric", [explained_variance, shrinkage])
def test_sums_are_float64_whatever_the_dtype(metric, pair):
    X, X_hat = (np.tile(X, (50, 1)) for X in pair)
    half = X.astype(np.float16), X_hat.astype(np.float16)
    # the squares of float16 would overflow, their float32 sum would lose digits
    exact = metric(*(array.astype(np.float64) for array in half))
    assert metric(*half) == exact
    assert metric(*map(torch.from_numpy, half)) == exact
    bfloat = [torch.from_numpy(array).bfloat16() for array in half]
    assert metric(*bfloat) == metric(*(array.double() for array in bfloat))


def test_memory_map(tmp_path, pair):
    X, X_hat = pair
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert explained_variance(mapped, X_hat) == explained_variance(X, X_hat)


def test_shrinkage_minimises_the_rescaled_error(pair):
    X, X_hat = pair
    scale = np.linalg.lstsq(X_hat.reshape(-1, 1), X.ravel(), rcond=None)[0][0]
    assert_allclose(shrinkage(X, X_hat), 1 / scale, rtol=1e-12)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_shrinkage_of_scaled_data_is_the_scale(factor, pair):
    X, _ = pair
    assert_allclose(shrinkage(X, factor * X), factor, rtol=1e-12)


def test_shrinkage_of_zero_is_undefined(pair):
    X, _ = pair
    with pytest.warns(UndefinedMetricWarning, match="shrinkage is undefined"):
        assert np.isnan(shrinkage(X, np.zeros_like(X)))


@pytest.mark.parametrize("metric", [explained_variance, shrinkage])
@pytest.mark.parametrize(
    ("X", "X_hat", "error", "message"),
    [
        (np.ones((3, 2)), np.ones((2, 2)), ValueError, r"same shape.*\(3, 2\) and \(2, 2\)"),
        (np.ones(3), np.ones(3), ValueError, r"X must be a matrix.*shape \(3,\)"),
        (np.ones((0, 2)), np.ones((0, 2)), ValueError, "at least one row"),
        (np.ones((2, 0)), np.ones((2, 0)), ValueError, "at least one row and one column"),
        ([[1.0, np.nan]], [[1.0, 1.0]], ValueError, "X contains NaN"),
        ([[1.0, 1.0]], [[1.0, np.inf]], ValueError, "X_reconstructed contains NaN or infinity"),
        ([[1e200], [0.0]], [[1.0], [1.0]], ValueError, "squares of X overflow"),
        ([["a", "b"]], [[1.0, 1.0]], TypeError, "X must be a matrix of real numbers"),
        (np.ones((1, 2)), np.ones((1, 2), dtype=complex), ValueError, "X_reconstructed must be"),
    ],
)
def test_bad_input(metric, X, X_hat, error, message):
    with pytest.raises(error, match=message):
        metric(X, X_hat)
