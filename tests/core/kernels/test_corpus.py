"""Loops over the codes of a corpus, against sorting and dense products."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import random_array

from skdict._core.kernels.cpu.corpus import add_products, keep_largest


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
