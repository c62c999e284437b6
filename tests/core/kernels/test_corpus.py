"""Loops over the codes of a corpus, against sorting and dense products."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import random_array

from skdict._core.kernels.cpu.corpus import add_products, keep_largest, nearest_of_products


def test_keep_largest():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 5, 400)
    groups[groups == 3] = 2  # an empty group
    values = rng.integers(0, 9, 400).astype(float)  # ties
    rows, payload = np.arange(400), rng.random(400)
    held = np.empty((5, 6), np.int64), np.empty((5, 6)), np.empty((5, 6)), np.zeros(5, np.int64)
    for part in (slice(0, 3), slice(3, 150), slice(150, 400)):
        keep_largest(rows[part], groups[part], values[part], payload[part], *held)
    for group in range(5):
        of_group = rows[groups == group]
        expected = of_group[np.argsort(-values[of_group], kind="stable")][:6]
        n = held[3][group]
        assert_array_equal(held[0][group, :n], expected)
        assert_array_equal(held[1][group, :n], values[expected])
        assert_array_equal(held[2][group, :n], payload[expected])


def test_add_products():
    codes = random_array((60, 9), density=0.4, format="csr", rng=np.random.default_rng(0))
    columns = np.array([7, 0, 3, 5])
    place = np.full(9, -1)
    place[columns] = np.arange(4)
    products = np.ones((4, 9))
    for first in (0, 3):
        part = products[first : first + 3]
        add_products(codes.indptr, codes.indices, codes.data, place, first, part)
    assert_allclose(products, 1 + codes[:, columns].toarray().T @ codes.toarray())


def test_nearest_of_products():
    rng = np.random.default_rng(0)
    codes = rng.random((50, 8)) * (rng.random((50, 8)) < 0.6)
    codes[:, 5] = 0.25
    mean, deviation = codes.mean(axis=0), codes.std(axis=0)
    deviation[5] = np.nan
    features = np.array([6, 0, 5])
    index, correlation = np.empty((3, 7), np.int64), np.empty((3, 7))
    products = codes[:, features].T @ codes
    nearest_of_products(products, features, mean, deviation, 50.0, index, correlation)
    with np.errstate(invalid="ignore"):
        expected = np.corrcoef(codes.T)
    for i, j in enumerate((6, 0)):
        others = [k for k in range(8) if k not in (j, 5)]
        order = sorted(others, key=lambda k, j=j: -expected[j, k])
        assert_array_equal(index[i], [*order, -1])
        assert_allclose(correlation[i], [*expected[j, order], -np.inf])
    assert (index[2] == -1).all()
