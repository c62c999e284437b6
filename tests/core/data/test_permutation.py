"""A permutation without memory: each number once, undone by its inverse, even."""

import numpy as np
import pytest

from skdict._core.data.permutation import Permutation, mixed


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 2048, 100_001])
def test_each_number_comes_once(n):
    permutation = Permutation(n, seed=7)
    numbers = permutation(np.arange(n))
    np.testing.assert_array_equal(np.sort(numbers), np.arange(n))
    np.testing.assert_array_equal(permutation.inverse(numbers), np.arange(n))
    assert numbers.dtype == np.int64
    assert n < 6 or not np.array_equal(numbers, np.arange(n))


def test_numbers_and_places_are_independent():
    n, n_seeds = 64, 2000
    counts = np.zeros((n, n))
    for seed in range(n_seeds):
        counts[np.arange(n), Permutation(n, seed)(np.arange(n))] += 1
    expected = n_seeds / n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square / (n - 1) ** 2 == pytest.approx(1, abs=0.1)  # its deviation is 0.022


def test_neighbours_do_not_stay_together():
    n = 1 << 40  # more than memory holds
    places = Permutation(n, seed=0)(np.arange(10_000))
    assert np.unique(places).size == 10_000
    assert places.min() < n / 100
    assert places.max() > n - n / 100
    steps = np.diff(places)
    assert abs(np.corrcoef(steps[:-1], steps[1:])[0, 1] + 0.5) < 0.05  # as of independent places


def test_seeds_give_different_orders_and_the_same_seed_the_same():
    first, again, other = (Permutation(1000, seed)(np.arange(1000)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first == other).mean() < 0.02


def test_mixed_seeds_differ():
    seeds = {mixed(seed, number) for seed in range(100) for number in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 1 << 64 for seed in seeds)
    assert mixed((1 << 63) - 1, 5) != mixed(0, 5)
