"""Reports and specificity, against scikit-learn and counting by hand."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from skdict.datasets import python_token_labels
from skdict.inspection import (
    ActivationSpecificityDisplay,
    FeatureCodes,
    activation_specificity,
    feature_report,
    label_tokens,
)


@pytest.fixture
def planted():
    """Codes whose feature 2 is a noisy detector of label 1, and neurons that are worse."""
    rng = np.random.default_rng(0)
    labels = rng.random((400, 3)) < [0.1, 0.3, 0.0]
    codes = rng.random((400, 5)) * (rng.random((400, 5)) < 0.2)
    codes[:, 2] = labels[:, 1] * (0.5 + rng.random(400)) + 0.6 * codes[:, 2]
    neurons = codes @ rng.normal(size=(5, 4))
    return codes, labels, neurons


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array])
def test_against_sklearn(planted, convert):
    codes, labels, neurons = planted
    report = feature_report(convert(codes), labels, neurons=neurons, n_intervals=4)
    table = pd.DataFrame(report)
    assert table.shape == (3, 19) and list(table["label"]) == ["label0", "label1", "label2"]
    assert report.feature[1] == 2 and report.feature[2] == -1
    held_out, true = codes[200:], labels[200:]
    assert_array_equal(report.base_rate, true.mean(axis=0))
    assert_allclose(report.base_f1[:2], f1_score(true[:, :2], true[:, :2] | True, average=None))
    for who, matrix in (("feature", held_out), ("neuron", neurons[200:])):
        for k in (0, 1):
            code = matrix[:, report[who][k]].clip(0)
            detected = code > report[f"{who}_threshold"][k]
            for name, score in (
                ("precision", precision_score(true[:, k], detected)),
                ("recall", recall_score(true[:, k], detected)),
                ("average_precision", average_precision_score(true[:, k], code)),
                ("correlation", np.corrcoef(true[:, k], code)[0, 1]),
            ):
                assert_allclose(report[f"{who}_{name}"][k], score)
            level = np.minimum((code / code.max() * 4).astype(int), 3)
            for i, precision in enumerate(report[f"{who}_precision_by_interval"][k]):
                assert_allclose(precision, true[(level == i) & (code > 0), k].mean())
    assert np.isnan(report.feature_average_precision[2])
    assert report.feature_f1[1] > report.neuron_f1[1]


def test_selected_on_the_first_rows_only(planted):
    codes, labels, _ = planted
    report = feature_report(codes, labels, test_size=0.25)
    changed = codes.copy()
    changed[300:, 0] = 9.0 * labels[300:, 1]  # perfect, but not where it is selected
    assert_array_equal(feature_report(changed, labels, test_size=0.25).feature, report.feature)


def test_rows_sorted_by_class_are_named_in_one_warning():
    """A perfect detector is not found, as no row to select on has the label."""
    y = np.repeat([False, True], 100)
    labels = np.column_stack([y, ~y, np.arange(200) % 2 == 0, y & False])
    codes = labels * np.random.default_rng(0).uniform(1, 2, size=labels.shape)
    with pytest.warns(UserWarning, match="first 100 rows and scored on the last 100") as caught:
        report = feature_report(codes, labels)
    (warning,) = caught
    assert "'label0' (0 of the first, 1 of the last)" in str(warning.message)
    assert "'label1' (1 of the first, 0 of the last)" in str(warning.message)
    assert "label2" not in str(warning.message) and "label3" not in str(warning.message)
    assert report.feature[0] == -1 and report.feature[2] == 2
    shuffled = np.random.default_rng(0).permutation(200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = feature_report(codes[shuffled], labels[shuffled])
    assert_array_equal(report.feature[:3], [0, 1, 2])
    assert_array_equal(report.feature_f1[:3], 1)


def test_names_of_labels(texts, tokens, activations):
    labels = python_token_labels(texts, tokens)
    report = feature_report(activations, labels)
    assert list(report.label) == labels.target_names
    assert report.feature_f1[labels.target_names.index("keyword")] > 0.2


def test_bad_rows(planted):
    codes, labels, _ = planted
    with pytest.raises(ValueError, match=r"codes has 399 rows, but token_labels has 400"):
        feature_report(codes[1:], labels)
    with pytest.raises(ValueError, match=r"test_size=0.5 of 1 rows leaves no row to select on"):
        feature_report(codes[:1], labels[:1])


class TestSpecificity:
    def test_by_hand(self):
        found = activation_specificity(
            [0, 1, 2, 5, 9, 10, -3], [1, 1, 0, 0, 1, 0, 1], n_intervals=2
        )
        assert_array_equal(found.edges, [0, 5, 10])
        assert_array_equal(found.n_labelled, [1, 1])  # 1 | 9
        assert_array_equal(found.n_other, [1, 2])  # 2 | 5, 10
        assert_allclose(found.precision, [1 / 2, 1 / 3])

    def test_never_active(self):
        found = activation_specificity([0.0, 0.0], [True, False], n_intervals=3)
        assert found.n_labelled.sum() == found.n_other.sum() == 0
        assert np.isnan(found.precision).all()

    def test_bad_input(self):
        with pytest.raises(ValueError, match=r"one entry per sample, but have 1 and 2"):
            activation_specificity([1.0], [True, False])

    @pytest.mark.parametrize(
        "convert",
        [
            lambda codes: sp.csr_array(codes[:, None]),
            lambda codes: torch.tensor(codes, dtype=torch.bfloat16, requires_grad=True),
            lambda codes: torch.tensor(codes)[:, None],
            lambda codes: torch.tensor(codes)[:, None].to_sparse_csr(),
            lambda codes: pd.DataFrame(codes),
        ],
    )
    def test_codes_of_any_kind(self, convert):
        codes, labels = np.array([0.0, 1, 2, 5, 9, 10]), [1, 1, 0, 0, 1, 0]
        expected = activation_specificity(codes, labels, n_intervals=2)
        found = activation_specificity(convert(codes), labels, n_intervals=2)
        for name in expected:
            assert_array_equal(found[name], expected[name])

    def test_one_column_at_a_time(self):
        with pytest.raises(ValueError, match=r"codes must be one-dimensional, .* \(2, 2\)"):
            activation_specificity(sp.csr_array(np.eye(2)), [True, False])
        with pytest.raises(ValueError, match=r"codes contains NaN"):
            activation_specificity([np.nan], [True])
        with pytest.raises(ValueError, match=r"one entry for each of the 2 intervals"):
            ActivationSpecificityDisplay([0, 1, 2], [1, 2, 3], [1, 2, 3])

    def test_display(self):
        plt = pytest.importorskip("matplotlib.pyplot")
        rng = np.random.default_rng(0)
        labels = rng.random(2000) < 0.3
        activations = (labels + rng.normal(scale=0.4, size=2000)).clip(0)
        display = ActivationSpecificityDisplay.from_codes(
            activations, labels, n_intervals=10, label="keyword"
        )
        found = activation_specificity(activations, labels, n_intervals=10)
        heights = [bar.get_height() for bar in display.ax_.patches]
        assert_array_equal(heights, [*found.n_labelled, *found.n_other])
        line = display.ax_precision_.lines[0].get_ydata()
        assert_allclose(line, found.precision[~np.isnan(found.precision)])
        plt.close(display.figure_)


class TestLabelTokens:
    def test_strings_patterns_and_functions(self):
        texts = ["if x == 10: ü", "a10"]
        tokens = {
            "document": [0, 0, 0, 0, 0, 1, 1],
            "start": [0, 2, 4, 7, 11, 0, 1],
            "end": [2, 4, 7, 11, 13, 1, 3],
        }  # "if", " x", " ==", " 10:", " ü", "a", "10"
        labels = label_tokens(
            texts,
            tokens,
            {
                "dot": ".",
                "if": "if",
                "digits": re.compile(r"\d+"),
                "umlaut": re.compile("[äöü]"),
                "first": lambda text: [(0, 1)],
            },
        )
        assert labels.target_names == ["dot", "if", "digits", "umlaut", "first"]
        expected = [
            [0, 0, 0, 0, 0, 0, 0],
            [1, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 1],
            [0, 0, 0, 0, 1, 0, 0],
            [0, 0, 0, 0, 0, 1, 0],
        ]
        assert_array_equal(labels.data.T, expected)

    @pytest.mark.parametrize(
        ("labels", "error", "message"),
        [
            (["x"], TypeError, r"labels must be a dict"),
            ({}, TypeError, r"labels must be a dict"),
            ({"a": 3}, TypeError, r"labels\['a'\] must be a str, a compiled"),
            ({"a": ""}, ValueError, r"labels\['a'\] is an empty string"),
            ({"a": lambda text: [(0.9, 1.9)]}, ValueError, r"pairs \(start, end\) of characters"),
            ({"a": lambda text: [(0, 99)]}, ValueError, r"labels\['a'\] of text 0 returned"),
            ({"a": lambda text: [True]}, ValueError, r"labels\['a'\] of text 0 returned"),
            ({"a": lambda text: None}, ValueError, r"labels\['a'\] of text 0 returned"),
        ],
    )
    def test_bad_labels(self, labels, error, message):
        tokens = {"document": [0], "start": [0], "end": [1]}
        with pytest.raises(error, match=message):
            label_tokens(["x"], tokens, labels)


class TestKindsOfLabels:
    def test_names(self, planted):
        codes, labels, _ = planted
        names = np.array(["a", "b", "c"])
        for given in (
            {"data": labels, "target_names": names},
            pd.DataFrame(labels, columns=names),
        ):
            assert list(feature_report(codes, given).label) == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda labels: labels[:, 0], r"labels must have shape .* is one-dimensional"),
            (lambda labels: {"a": labels[:, 0]}, r"labels has no data and no target_names"),
            (
                lambda labels: {"data": labels, "target_names": ["a"]},
                r"labels has 3 columns of data, but 1 target_names",
            ),
        ],
    )
    def test_bad(self, planted, change, message):
        with pytest.raises(ValueError, match=message):
            feature_report(planted[0], change(planted[1]))

    @pytest.mark.parametrize(
        ("labels", "error", "message"),
        [
            (["no", "yes"], TypeError, "labels must be an array of real numbers"),
            ([0.0, np.nan], ValueError, "labels must be true or false"),
            ([2, 1], ValueError, "labels must be true or false"),
        ],
    )
    def test_specificity_takes_true_and_false_only(self, labels, error, message):
        with pytest.raises(error, match=message):
            activation_specificity([1.0, 2.0], labels)

    def test_occurrences_may_overlap(self):
        tokens = {"document": [0, 0, 0], "start": [0, 1, 2], "end": [1, 2, 3]}
        assert label_tokens(["aaa"], tokens, {"aa": "aa"}).data.all()


def test_feature_codes_count_only_what_counts(planted):
    codes, labels, neurons = planted
    counted = np.arange(400) % 5 != 0
    kept = FeatureCodes.from_matrix(codes, counted=counted)
    found = feature_report(kept, labels, neurons=neurons)
    expected = feature_report(codes[counted], labels[counted], neurons=neurons[counted])
    for name, values in expected.items():
        if name != "label":
            assert_allclose(np.array(found[name]), np.array(values), rtol=1e-5)
