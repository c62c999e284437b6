"""Matching of atoms, on planted permutations and against exhaustive search."""

from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.metrics.pairwise import cosine_similarity

from skdict.metrics import dictionary_recovery, mean_max_cosine

BOTH = [dictionary_recovery, mean_max_cosine]


@pytest.fixture
def atoms():
    return np.random.default_rng(0).normal(size=(12, 8))


@pytest.mark.parametrize("metric", BOTH)
def test_permuted_and_rescaled_atoms_are_recovered(metric, atoms):
    rng = np.random.default_rng(1)
    learned = rng.permutation(atoms) * rng.uniform(0.1, 10, size=(12, 1))
    assert_allclose(metric(learned, atoms), 1.0, rtol=1e-12)


@pytest.mark.parametrize("metric", BOTH)
def test_more_learned_than_true_atoms(metric, atoms):
    assert_allclose(metric(atoms, atoms[3:7]), 1.0, rtol=1e-12)


def test_fewer_learned_than_true_atoms():
    true = np.eye(4)
    assert dictionary_recovery(true[:1], true) == 1 / 4  # the others count as 0
    assert mean_max_cosine(true[:1], true) == 1 / 4


def test_assignment_is_the_best_of_all():
    rng = np.random.default_rng(2)
    learned, true = rng.normal(size=(6, 3)), rng.normal(size=(4, 3))
    cosines = cosine_similarity(true, learned)
    best = max(cosines[range(4), list(choice)].mean() for choice in permutations(range(6), 4))
    assert_allclose(dictionary_recovery(learned, true), best, rtol=1e-12)
    assert_allclose(mean_max_cosine(learned, true), cosines.max(axis=1).mean(), rtol=1e-12)


def test_one_atom_cannot_be_matched_twice():
    true = np.array([[1.0, 0.0], [0.8, 0.6]])
    learned = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert_allclose(dictionary_recovery(learned, true), (1 + 0.6) / 2)
    assert_allclose(mean_max_cosine(learned, true), (1 + 0.8) / 2)


@pytest.mark.parametrize("metric", BOTH)
def test_the_opposite_direction_is_another_feature(metric):
    assert metric([[-1.0, 0.0]], [[1.0, 0.0]]) == -1.0


@pytest.mark.parametrize("metric", BOTH)
def test_zero_atoms_match_nothing(metric):
    assert metric([[0.0, 0.0], [2.0, 0.0]], [[1.0, 0.0]]) == 1.0
    assert metric([[0.0, 0.0]], [[1.0, 0.0]]) == 0.0


@pytest.mark.parametrize("metric", BOTH)
def test_random_atoms_are_worse_than_noisy_ones(metric, atoms):
    rng = np.random.default_rng(3)
    noisy = metric(atoms + 0.1 * rng.normal(size=atoms.shape), atoms)
    random = metric(rng.normal(size=atoms.shape), atoms)
    assert random < 0.8 < 0.98 < noisy < 1


@pytest.mark.parametrize("metric", BOTH)
def test_tensors(metric, atoms):
    assert_allclose(metric(torch.from_numpy(atoms), torch.from_numpy(atoms).float()), 1.0)


@pytest.mark.parametrize("metric", BOTH)
@pytest.mark.parametrize(
    ("learned", "true", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "same number of features .columns., but have 3 and 4"),
        ([[np.nan, 1.0]], [[1.0, 1.0]], "^components contains NaN"),
        ([[1.0, 1.0]], [[np.inf, 1.0]], "true_components contains NaN or infinity"),
        ([1.0, 1.0], [[1.0, 1.0]], "^components must be a matrix"),
    ],
)
def test_bad_input(metric, learned, true, message):
    with pytest.raises(ValueError, match=message):
        metric(learned, true)


@pytest.mark.parametrize("scale", [1e200, 1e-200, 5e-324])
def test_extreme_lengths(scale):
    """Cosines know no lengths, also where their squares are infinite or 0."""
    true = np.eye(4)[:3]
    assert dictionary_recovery(scale * true[[2, 0, 1]], true) == 1.0
    assert mean_max_cosine(true, [[scale, scale, 0, 0]]) == pytest.approx(0.5**0.5)
