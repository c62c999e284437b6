"""Ranges of rows against lists of rows."""

import pickle

import numpy as np
import pytest
import torch

from skdict._core.storage.ranges import RowRanges


def rows_of(ranges):
    pieces = [np.arange(a, b) for a, b in zip(ranges.starts, ranges.stops, strict=True)]
    return np.concatenate([np.empty(0, int), *pieces])


@pytest.mark.parametrize("seed", range(50))
def test_ranges_are_the_rows_that_they_stand_for(seed):
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 40, 5)
    stops = starts + rng.integers(0, 10, 5)
    ranges = RowRanges(starts, stops)
    rows = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
    np.testing.assert_array_equal(rows_of(ranges), rows)
    n = len(rows)
    assert len(ranges) == n
    if n == 0:
        return
    ends = [None if rng.random() < 0.3 else int(rng.integers(-n - 2, n + 2)) for _ in range(2)]
    index, mask = rng.integers(-n, n, 7), rng.random(n) < 0.5
    for key in (slice(*ends, int(rng.choice([1, 2, -1, -3]))), slice(*ends), index, mask):
        np.testing.assert_array_equal(rows_of(ranges.take(key)), rows[key])
    first = rng.integers(0, n, 4)
    last = np.minimum(first + rng.integers(0, 8, 4), n)
    pieces = [rows[a:b] for a, b in zip(first, last, strict=True)]
    np.testing.assert_array_equal(rows_of(ranges.take_ranges(first, last)), np.concatenate(pieces))


def test_neighbours_are_one_range():
    ranges = RowRanges([0, 5, 5, 20], [5, 5, 9, 21])
    assert ranges.n_ranges == 2
    everything = RowRanges([0], [10**12])
    assert everything.take(slice(10, 10**11)).n_ranges == 1
    assert everything.take(np.arange(10**11, 10**11 + 10**5)).n_ranges == 1
    assert len(pickle.dumps(everything.take(slice(5, None)))) < 700
    assert everything.take([]).n_ranges == 0


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ([10], "Row 10 is asked for, where there are 10"),
        ([-11], "Row -11"),
        ([True, False], "A mask of 2 rows, where there are 10"),
        ([[1]], r"shape \(1, 1\)"),
        ([1.5], "float64"),
        (torch.tensor([11]), "Row 11"),
    ],
)
def test_rows_that_are_not_there_are_refused(key, match):
    with pytest.raises(IndexError, match=match):
        RowRanges([0, 20], [5, 25]).take(key)


def test_ranges_outside_are_refused():
    with pytest.raises(IndexError, match="within the 10 rows"):
        RowRanges([0, 20], [5, 25]).take_ranges([3], [11])


def test_the_digest_tells_ranges_apart():
    digests = {RowRanges(*ranges).digest() for ranges in ([[0], [5]], [[0], [6]], [[1], [6]])}
    assert len(digests) == 3
    assert RowRanges([0, 3], [3, 5]).digest() == RowRanges([0], [5]).digest()
