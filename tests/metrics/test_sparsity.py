"""Numbers of active features, on codes whose counts are known."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_array_equal

from skdict.metrics import (
    _rows,
    dead_fraction,
    dense_fraction,
    feature_density,
    mean_l0,
)

FUNCTIONS = [feature_density, mean_l0, dead_fraction, dense_fraction]
CONVERSIONS = [
    np.asarray,
    np.ndarray.tolist,
    pd.DataFrame,
    sp.csr_matrix,
    sp.csc_array,
    torch.from_numpy,
    lambda codes: torch.from_numpy(codes).bfloat16(),
    lambda codes: torch.from_numpy(codes).to_sparse_csr(),
]


@pytest.fixture
def codes():
    # Features are active on 0, 1, 2, 10 and 20 of 20 samples.
    codes = np.zeros((20, 5))
    for feature, n_active in enumerate((0, 1, 2, 10, 20)):
        codes[:n_active, feature] = 0.5 + feature
    return codes


@pytest.mark.parametrize("convert", CONVERSIONS)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_known_counts(codes, convert):
    codes = convert(codes)
    assert_array_equal(feature_density(codes), [0, 0.05, 0.1, 0.5, 1])
    assert mean_l0(codes) == 33 / 20
    assert dead_fraction(codes) == 1 / 5
    assert dense_fraction(codes) == 2 / 5  # a density of exactly 0.1 is not above 0.1
    assert dense_fraction(codes, threshold=0.04) == 4 / 5
    assert dense_fraction(codes, threshold=0) == 4 / 5


@pytest.mark.parametrize("function", FUNCTIONS)
def test_block_size_does_not_matter(codes, function, monkeypatch):
    whole = function(codes)
    monkeypatch.setattr(_rows, "BLOCK_SIZE", 15)  # three rows
    assert_array_equal(function(codes), whole)
    assert_array_equal(function(torch.from_numpy(codes)), whole)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.float16, np.float32])
def test_dtypes(codes, dtype):
    assert mean_l0(np.ceil(codes).astype(dtype)) == 33 / 20


def test_stored_zeros_and_duplicates_of_sparse_codes():
    parts = (np.array([1.0, 1.0, 0.0, 2.0]), np.array([0, 0, 1, 2]), np.array([0, 3, 4]))
    codes = sp.csr_array(parts, shape=(2, 3))  # [[2, 0, 0], [0, 0, 2]]
    assert_array_equal(feature_density(codes), [0.5, 0, 0.5])
    assert codes.nnz == 4  # the caller's matrix is as it was
    assert_array_equal(
        feature_density(
            torch.sparse_csr_tensor(
                torch.from_numpy(codes.indptr),
                torch.tensor([0, 1, 2, 2]),
                torch.tensor([1.0, 0, 0, 2]),
                size=(2, 3),
                check_invariants=False,
            )
        ),
        [0.5, 0, 0.5],
    )


def test_negative_codes_are_active():
    assert mean_l0([[-1.0, 0.0]]) == 1.0


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "convert", [np.asarray, sp.csr_array, torch.from_numpy], ids=["numpy", "csr", "torch"]
)
def test_nan_is_not_active(function, convert):
    with pytest.raises(ValueError, match="codes contains NaN or infinity"):
        function(convert(np.array([[0.0, np.nan]])))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("codes", "error"),
    [([1.0, 2.0], ValueError), (np.ones((0, 3)), ValueError), ([["a"]], TypeError)],
)
def test_bad_input(function, codes, error):
    with pytest.raises(error, match="codes must be a matrix"):
        function(codes)


@pytest.mark.parametrize("threshold", [-0.1, 1, "0.1"])
def test_bad_threshold(threshold):
    with pytest.raises(ValueError, match="'threshold' parameter of dense_fraction"):
        dense_fraction([[1.0]], threshold=threshold)
