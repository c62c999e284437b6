"""Sparse probing against scikit-learn's parts put together by hand, and on planted labels."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)
from sklearn.preprocessing import StandardScaler

from skdict.inspection import sparse_probing

SCORES = ("precision", "recall", "f1", "average_precision", "roc_auc", "density", "base_f1")


@pytest.fixture
def planted():
    """Label "spread" is that feature 3, 7 or 11 is active; label "rare" is feature 5 above 0.8."""
    rng = np.random.default_rng(0)
    codes = rng.random((1000, 20)) * (rng.random((1000, 20)) < 0.15)
    spread = (codes[:, [3, 7, 11]] > 0).any(axis=1)
    return codes, pd.DataFrame({"spread": spread, "rare": codes[:, 5] > 0.8})


def test_by_scikit_learn(planted):
    """Columns by the difference of the means; the threshold is the best on the first rows."""
    codes, labels = planted
    rng = np.random.default_rng(1)
    codes = codes + 0.3 * rng.normal(size=codes.shape)  # no label is perfect; negative codes too
    table = pd.DataFrame(sparse_probing(codes, labels, n_features=[1, 4], test_size=0.4))
    assert list(table.label) == ["spread", "spread", "rare", "rare"]
    assert list(table.n_features) == [1, 4, 1, 4] and (table.codes == "codes").all()
    for row in table.itertuples():
        y = labels[row.label].to_numpy()
        train, test, known, true = codes[:600], codes[600:], y[:600], y[600:]
        difference = abs(train[known].mean(axis=0) - train[~known].mean(axis=0))
        columns = difference.argsort()[::-1][: row.n_features]
        assert_array_equal(row.features, columns)
        scaler = StandardScaler().fit(train[:, columns])
        probe = LogisticRegression(tol=1e-8).fit(scaler.transform(train[:, columns]), known)
        assert_allclose(row.coefficients, probe.coef_[0] / scaler.scale_, rtol=0.01)
        score = probe.decision_function(scaler.transform(test[:, columns]))
        assert_allclose(row.roc_auc, roc_auc_score(true, score), atol=0.005)
        assert_allclose(row.average_precision, average_precision_score(true, score), atol=0.01)
        inside = probe.decision_function(scaler.transform(train[:, columns]))
        precision, recall, thresholds = precision_recall_curve(known, inside)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        best = thresholds[f1[:-1].argmax()]  # detected is what is as great, or greater
        assert_allclose(row.f1, f1_score(true, score >= best), atol=0.03)
        assert row.base_rate == true.mean()
        assert_allclose(row.base_f1, f1_score(true, np.ones(len(true))))


def test_a_label_that_is_spread_needs_all_of_its_features(planted):
    codes, labels = planted
    table = sparse_probing(codes, labels, n_features=[1, 3])
    assert set(table.features[1]) == {3, 7, 11}
    assert table.f1[0] < 0.65 and table.f1[1] == table.roc_auc[1] == 1
    assert table.features[2] == [5] and table.f1[2] == 1
    assert_allclose(table.density[1], (codes[:, [3, 7, 11]] > 0).mean())


def test_matrices_side_by_side(planted):
    codes, labels = planted
    beside = {"features": codes, "noise": np.random.default_rng(1).normal(size=(1000, 2))}
    table = pd.DataFrame(sparse_probing(beside, labels, n_features=[3]))
    assert list(table.codes) == ["features", "noise"] * 2
    assert [len(columns) for columns in table.features] == [3, 2, 3, 2]  # of two all are taken
    alone = pd.DataFrame(sparse_probing(codes, labels, n_features=[3]))
    for name in SCORES:
        assert_array_equal(table[table.codes == "features"][name], alone[name])
    assert (table[table.codes == "noise"].roc_auc < 0.6).all()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_the_codes_does_not_matter(planted, scale):
    codes, labels = planted
    want, found = sparse_probing(codes, labels), sparse_probing(scale * codes, labels)
    for name in SCORES:
        assert_allclose(found[name], want[name], rtol=1e-3)
    assert_allclose(found.coefficients[1] * scale, want.coefficients[1], rtol=1e-3)


@pytest.mark.parametrize(
    "convert", [sp.csr_array, sp.coo_matrix, torch.from_numpy, pd.DataFrame, np.asfortranarray]
)
def test_containers(planted, convert, monkeypatch):
    monkeypatch.setattr("skdict.metrics._rows.BLOCK_SIZE", 600)
    codes, labels = planted
    want, found = sparse_probing(codes, labels), sparse_probing(convert(codes), labels)
    for name in ("features", "coefficients"):
        for a, b in zip(found[name], want[name], strict=True):
            assert_allclose(a, b)
    for name in SCORES:
        assert_allclose(found[name], want[name])


def test_rows_sorted_by_label_are_named(planted):
    codes, labels = planted
    order = np.argsort(labels["rare"], kind="stable")
    with pytest.warns(
        UserWarning, match=r"'rare' \(0 of the first, 0\.0\d+ of the last\)"
    ) as all_:
        table = sparse_probing(codes[order], labels.iloc[order], n_features=[2])
    assert "shuffle codes and labels alike" in str(all_[0].message)
    assert "'spread'" not in str(all_[0].message)
    assert len(table.features[1]) == 0 and np.isnan(table.f1[1]) and table.f1[0] > 0.5


@pytest.mark.filterwarnings("error")
def test_a_label_that_nobody_has(planted):
    codes, labels = planted
    table = sparse_probing(codes, labels.assign(none=False), n_features=[2])
    assert np.isnan(table.f1[2]) and table.base_rate[2] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": {}}, "codes is an empty dict"),
        ({"codes": {"a": np.ones((3, 2))}}, r"codes\['a'\] has 3 rows, but labels has 1000"),
        ({"codes": np.full((1000, 2), np.nan)}, "codes contains NaN"),
        ({"n_features": []}, r"n_features=\[\]: give a sequence"),
        ({"n_features": [0]}, "each at least 1"),
        ({"n_features": [1.5]}, "each at least 1"),
        ({"n_features": [np.inf]}, "each at least 1"),
        ({"test_size": 1.0}, "'test_size' parameter"),
    ],
)
def test_bad_input(planted, changes, message):
    codes, labels = planted
    with pytest.raises(ValueError, match=message):
        sparse_probing(**{"codes": codes, "labels": labels, **changes})
