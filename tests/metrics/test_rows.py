"""Matrices of any kind, as the same matrix."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.decomposition import PCA

from skdict.metrics._rows import as_rows, check_finite, float64_block, to_numpy, varies

PLAIN = np.array([[0.0, 1.5], [2.0, 0.0]])


@pytest.mark.parametrize(
    "X",
    [
        PLAIN.tolist(),
        torch.tensor(PLAIN, dtype=torch.bfloat16),
        torch.tensor(PLAIN).to_sparse_csr(),
        torch.tensor(PLAIN, dtype=torch.float16).to_sparse_csr(),
        torch.tensor(PLAIN, dtype=torch.bfloat16).to_sparse_csr(),
        torch.tensor(PLAIN, requires_grad=True),
        pd.DataFrame(PLAIN, columns=["a", "b"]),
    ],
)
def test_kinds(X):
    assert_array_equal(float64_block(as_rows(X, "X"), slice(None)), PLAIN)


def test_columns_of_different_dtypes():
    frame = pd.DataFrame({"a": [True, False], "b": [2, 3]})
    assert_array_equal(as_rows(frame, "X"), [[1, 2], [0, 3]])
    with pytest.raises(TypeError, match="X must be a matrix of real numbers"):
        as_rows(frame.assign(c=["x", "y"]), "X")


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.bfloat16])
def test_tensors_keep_their_values(dtype):
    values = [2**24 + 1, 3] if dtype is torch.int64 else [1, 0]
    assert_array_equal(to_numpy(torch.tensor(values, dtype=dtype)), values)


def test_estimators_are_no_matrices():
    with pytest.raises(TypeError, match=r"dictionary must be .* but is a PCA.*pipeline\[1:\]"):
        as_rows(PCA(), "dictionary")


def test_check_finite():
    check_finite(PLAIN, "X")
    check_finite(torch.tensor(PLAIN), "X")
    for bad in (np.array([1, np.inf]), torch.tensor([float("nan")])):
        with pytest.raises(ValueError, match=r"codes contains NaN .* np\.isfinite\(codes\)"):
            check_finite(bad, "codes")


@pytest.mark.parametrize("n_samples", [100, 1_000_000])
def test_rounding_is_no_variance(n_samples):
    constant, rare = np.full(n_samples, 0.7), np.zeros(n_samples)
    rare[3] = 0.7
    for column, expected in ((constant, False), (rare, True)):
        mean_square = np.cumsum(column**2)[-1] / n_samples  # one after the other, as bincount
        mean = np.cumsum(column)[-1] / n_samples
        assert varies(mean_square - mean**2, mean_square, n_samples) == expected
