"""Detectors of labels: planted ones, and all against trying every feature and threshold."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import f1_score, precision_recall_fscore_support

from skdict.inspection import evaluate_feature_detectors, select_feature_detectors

SCORES = ("precision", "recall", "f1", "base_rate")


def random_data(seed, *, tied=True):
    rng = np.random.default_rng(seed)
    n, n_components, n_labels = 60, 8, 5
    labels = rng.random((n, n_labels)) < rng.uniform(0.05, 0.6, n_labels)
    codes = rng.integers(-2, 6, (n, n_components)) if tied else rng.normal(size=(n, n_components))
    codes = codes * (rng.random((n, n_components)) < 0.4)
    codes[:, 1] += 2 * labels[:, 0]  # one informative feature
    return codes.astype(np.float32), labels


def scores_of(detected, labelled):
    """Scores by scikit-learn."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        labelled, detected, average="binary", zero_division=np.nan
    )
    return precision, recall, f1, labelled.mean()


def brute_force(codes, labelled, min_precision):
    """Lowest feature and highest threshold with the greatest F1; the detected of the samples."""
    best = (0, -1, np.zeros(len(codes), dtype=bool))
    for feature, code in enumerate(codes.T.astype(float)):
        for threshold in np.unique(np.append(code[code > 0], 0.0))[::-1]:
            detected = code > threshold
            n_true = np.count_nonzero(detected & labelled)
            f1 = 2 * n_true / (detected.sum() + labelled.sum())
            if f1 > best[0] and n_true / detected.sum() >= min_precision:
                best = (f1, feature, detected)
    return best[1:]


@pytest.mark.parametrize("min_precision", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_against_brute_force(seed, tied, min_precision):
    codes, labels = random_data(seed, tied=tied)
    detectors = select_feature_detectors(codes, labels, min_precision=min_precision)
    for k, labelled in enumerate(labels.T):
        feature, expected = brute_force(codes, labelled, min_precision)
        assert detectors.feature[k] == feature
        detected = codes[:, feature].astype(float) > detectors.threshold[k]
        assert_array_equal(detected, expected)
        if feature >= 0:
            scores = scores_of(detected, labelled)
            assert_allclose([detectors[name][k] for name in SCORES], scores, rtol=1e-12)
            assert detectors.precision[k] >= min_precision
        else:
            assert np.isnan(detectors.threshold[k])
            assert (detectors.f1[k], detectors.recall[k]) == (0, 0)
    assert detectors.feature.max() >= 0


@pytest.mark.parametrize(
    "convert",
    [
        sp.csr_array,
        sp.csc_matrix,
        torch.from_numpy,
        lambda codes: torch.from_numpy(codes).to_sparse_csr(),
        pd.DataFrame,
        np.asfortranarray,
    ],
)
def test_containers(convert):
    codes, labels = random_data(0)
    expected = select_feature_detectors(codes, labels)
    found = select_feature_detectors(convert(codes), labels)
    held_out = evaluate_feature_detectors(convert(codes), labels, found)
    for name in expected:
        assert_array_equal(found[name], expected[name])
        assert_array_equal(held_out[name], expected[name])


@pytest.mark.parametrize("convert", [sp.csr_array, pd.DataFrame, np.ndarray.tolist, np.float64])
def test_containers_of_labels(convert):
    codes, labels = random_data(1)
    expected = select_feature_detectors(codes, labels)
    found = select_feature_detectors(codes, convert(labels))
    for name in expected:
        assert_array_equal(found[name], expected[name])


def test_planted_detectors_are_found_and_hold_elsewhere():
    """Three labels, each read by one feature above its noise, one of them by two."""
    rng = np.random.default_rng(0)

    def sample(n=4000):
        labels = rng.random((n, 3)) < [0.02, 0.1, 0.3]
        codes = np.maximum(rng.normal(size=(n, 50)) - 1, 0)
        codes[:, 7] = np.where(labels[:, 0], 3 + rng.random(n), rng.random(n))  # strong is true
        codes[:, 30] = labels[:, 1] * (rng.random(n) < 0.6)  # pure, but 40% are missed
        codes[:, 41] = labels[:, 2] | (rng.random(n) < 0.1)  # catches all, and more
        return sp.csr_array(codes.astype(np.float32)), labels

    detectors = select_feature_detectors(*sample())
    assert_array_equal(detectors.feature, [7, 30, 41])
    assert 1.9 < detectors.threshold[0] < 2.1
    assert_array_equal(detectors.threshold[1:], 0)
    held_out = evaluate_feature_detectors(*sample(), detectors)
    assert_array_equal(held_out.feature, detectors.feature)
    assert_array_equal(held_out.threshold, detectors.threshold)
    assert_allclose(held_out.precision, [1, 1, 0.3 / (0.3 + 0.07)], atol=0.03)
    assert_allclose(held_out.recall, [1, 0.6, 1], atol=0.06)
    assert_allclose(held_out.base_rate, [0.02, 0.1, 0.3], atol=0.03)
    assert_allclose(
        held_out.f1,
        2 * held_out.precision * held_out.recall / (held_out.precision + held_out.recall),
    )


def test_scores_elsewhere_are_scikit_learns():
    detectors = select_feature_detectors(*random_data(0))
    codes, labels = random_data(5)
    held_out = evaluate_feature_detectors(sp.csr_array(codes), labels, detectors)
    for k in range(5):
        detected = codes[:, detectors.feature[k]] > detectors.threshold[k]
        scores = scores_of(detected, labels[:, k])
        assert_allclose([held_out[name][k] for name in SCORES], scores, rtol=1e-12)
        marked = np.ones(len(labels))
        assert_allclose(held_out.base_f1[k], f1_score(labels[:, k], marked), rtol=1e-12)


def test_equals_are_the_lowest_feature_and_the_highest_threshold():
    codes = np.array([[0, 2, 2], [0, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0]])
    labels = np.array([[1], [1], [0], [1], [0]], dtype=bool)
    detectors = select_feature_detectors(codes, labels)
    assert (detectors.feature[0], detectors.threshold[0]) == (1, 0.0)
    assert_allclose(detectors.f1, [2 * 2 / (3 + 3)])
    labels = np.array([[1], [0], [0], [0], [0]], dtype=bool)
    codes[1:3, 2] = 0
    detectors = select_feature_detectors(codes, labels)
    assert (detectors.feature[0], detectors.threshold[0]) == (1, 1.5)
    # equal F1 by the stricter and the laxer: 1 of 1, and 2 of 4, of two labelled (2/3)
    codes = np.array([[3], [1], [1], [1], [0]])
    labels = np.array([[1], [1], [0], [0], [0]], dtype=bool)
    detectors = select_feature_detectors(codes, labels)
    assert (detectors.threshold[0], detectors.precision[0], detectors.recall[0]) == (2, 1, 0.5)


def test_thresholds_between_neighbours_in_floating_point():
    below = 1 - 2**-53  # the middle to 1 rounds to 1
    detectors = select_feature_detectors([[1.0], [below]], [[True], [False]])
    assert detectors.threshold[0] == below
    assert evaluate_feature_detectors([[1.0], [below]], [[True], [False]], detectors).f1[0] == 1


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array])
@pytest.mark.filterwarnings("error")
def test_labels_that_no_sample_has_and_features_that_are_never_active(convert):
    codes = np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    labels = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=bool)
    detectors = select_feature_detectors(convert(codes), labels)
    assert_array_equal(detectors.feature, [-1, 1, -1])
    assert_array_equal(detectors.threshold, [np.nan, 0, np.nan])
    assert_array_equal(detectors.precision, [np.nan, 1, np.nan])
    assert_array_equal(detectors.recall, [np.nan, 1, 0])
    assert_array_equal(detectors.f1, [np.nan, 1, 0])
    assert_allclose(detectors.base_rate, [0, 1 / 3, 1 / 3])
    assert_allclose(detectors.base_f1, [np.nan, 1 / 2, 1 / 2])
    held_out = evaluate_feature_detectors(convert(codes), labels, detectors)
    for name in detectors:
        assert_array_equal(held_out[name], detectors[name])
    nothing = select_feature_detectors(convert(np.zeros((3, 2))), labels)
    assert_array_equal(nothing.feature, [-1, -1, -1])


def test_a_detector_that_never_fires_elsewhere():
    detectors = select_feature_detectors([[2.0], [0.0]], [[True], [False]])
    held_out = evaluate_feature_detectors([[0.0], [-1.0]], [[True], [False]], detectors)
    assert np.isnan(held_out.precision[0])
    assert (held_out.recall[0], held_out.f1[0]) == (0, 0)


def test_negative_activations_of_neurons_never_detect():
    neurons = np.array([[-5.0, 0.2], [-4.0, -0.1], [0.0, 0.3]])
    labels = np.array([[True], [True], [False]])
    detectors = select_feature_detectors(neurons, labels)
    assert (detectors.feature[0], detectors.recall[0]) == (1, 0.5)
    both_signs = select_feature_detectors(np.hstack([neurons, -neurons]), labels)
    assert (both_signs.feature[0], both_signs.threshold[0], both_signs.f1[0]) == (2, 0, 1)


def test_a_table():
    codes, labels = random_data(0)
    table = pd.DataFrame(select_feature_detectors(codes, labels), index=list("abcde"))
    assert list(table) == ["feature", "threshold", *SCORES, "base_f1"]
    again = evaluate_feature_detectors(codes, labels, table)
    assert_array_equal(again.f1, table["f1"])


@pytest.mark.parametrize(
    ("codes", "labels", "message"),
    [
        ([[1.0], [2.0]], [[True]], "codes has 2 rows, but token_labels has 1"),
        ([[1.0], [2.0]], [True, False], "labels must have shape .*one-dimensional"),
        ([[1.0], [2.0]], [[0], [2]], "labels must be true or false"),
        ([[1.0], [2.0]], [[np.nan], [1]], "labels must be true or false"),
        ([[1.0], [np.nan]], [[0], [1]], "codes contains NaN"),
        (sp.csr_array([[1.0], [np.inf]]), [[0], [1]], "codes contains NaN or infinity"),
        ([1.0, 2.0], [[0], [1]], "codes must be a matrix"),
    ],
)
def test_bad_input(codes, labels, message):
    with pytest.raises(ValueError, match=message):
        select_feature_detectors(codes, labels)
    detectors = {"feature": np.array([0]), "threshold": np.array([0.0])}
    with pytest.raises(ValueError, match=message):
        evaluate_feature_detectors(codes, labels, detectors)


def test_detectors_of_something_else():
    codes, labels = random_data(0)
    detectors = select_feature_detectors(codes, labels)
    with pytest.raises(ValueError, match=r"labels has 4 columns, but .* for 5 labels"):
        evaluate_feature_detectors(codes, labels[:, :4], detectors)
    with pytest.raises(ValueError, match="detectors has 1, but there are 1 columns"):
        evaluate_feature_detectors(codes[:, :1], labels, detectors)
    with pytest.raises(ValueError, match="'min_precision' parameter"):
        select_feature_detectors(codes, labels, min_precision=80)
