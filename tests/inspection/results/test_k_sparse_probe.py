"""k-sparse probing against scikit-learn's parts put together by hand, and on planted labels."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)
from sklearn.preprocessing import StandardScaler

from skdict.inspection import FeatureCodes, k_sparse_probe
from skdict.inspection.results._controls import controls_of

SCORES = ("precision", "recall", "f1", "average_precision", "roc_auc", "density", "base_f1", "l0")


@pytest.fixture
def planted():
    """Codes, labels and activations: "spread" is that feature 3, 7 or 11 is active."""
    rng = np.random.default_rng(0)
    codes = rng.random((1000, 20)) * (rng.random((1000, 20)) < 0.15)
    spread = (codes[:, [3, 7, 11]] > 0).any(axis=1)
    X = codes @ rng.normal(size=(20, 12))
    return codes, pd.DataFrame({"spread": spread, "rare": codes[:, 5] > 0.8}), X


def rows_of(table, **wanted):
    """Some rows of the table."""
    table = pd.DataFrame(table)
    for name, value in wanted.items():
        table = table[table[name] == value]
    return table


def test_by_scikit_learn(planted):
    """Columns by the difference of the means; the threshold is the best on the first part."""
    codes, labels, X = planted
    rng = np.random.default_rng(1)
    codes = codes + 0.3 * rng.normal(size=codes.shape)  # no label is perfect; negative codes too
    table = pd.DataFrame(k_sparse_probe(codes, labels, X=X, k=[1, 4], test_size=0.4))
    assert list(table.label) == ["spread"] * 8 + ["rare"] * 8
    assert list(table.k) == [1, 4] * 8
    assert list(table.representation[::2]) == ["features", "neurons", "PCA", "random atoms"] * 2
    test_rows = np.random.RandomState(0).permutation(1000)[:400]
    is_test = np.isin(np.arange(1000), test_rows)
    for row in table[table.representation.isin(["features", "neurons"])].itertuples():
        matrix = codes if row.representation == "features" else X
        y = labels[row.label].to_numpy()
        train, test, known, true = matrix[~is_test], matrix[is_test], y[~is_test], y[is_test]
        difference = abs(train[known].mean(axis=0) - train[~known].mean(axis=0))
        columns = difference.argsort()[::-1][: row.k]
        assert_array_equal(row.chosen, columns)
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
        assert row.density == (matrix[:, columns] != 0).mean()
        assert_allclose(row.l0, (matrix != 0).sum(axis=1).mean())


def test_a_label_that_is_spread_needs_all_of_its_features(planted):
    codes, labels, X = planted
    table = pd.DataFrame(k_sparse_probe(codes, labels, X=X, k=[1, 3]))
    one, three = rows_of(table, label="spread", representation="features").itertuples()
    assert set(three.chosen) == {3, 7, 11}
    assert one.f1 < 0.65 and three.f1 == three.roc_auc == 1
    rare = rows_of(table, label="rare", representation="features", k=1)
    assert rare.chosen.item() == [5] and rare.f1.item() == 1
    others = table[(table.representation != "features") & (table.k == 3)]
    assert (others.f1 < 0.9).all()  # no control knows the features


def test_controls_are_what_they_are_called(planted):
    codes, labels, X = planted
    noise = np.random.default_rng(1).normal(size=(1000, 2))
    table = pd.DataFrame(
        k_sparse_probe(codes, labels, X=X, k=3, controls={"noise": noise, "same": codes})
    )
    names = ["features", "neurons", "PCA", "random atoms", "noise", "same"]
    assert list(table.representation) == names * 2
    assert [len(columns) for columns in rows_of(table, representation="noise").chosen] == [2, 2]
    assert (rows_of(table, representation="noise").roc_auc < 0.6).all()
    for name in SCORES:
        same, features = (rows_of(table, representation=of)[name] for of in ("same", "features"))
        assert_array_equal(same, features)
    l0 = rows_of(table, representation="features").l0.iloc[0]
    assert abs(rows_of(table, representation="random atoms").l0.iloc[0] - l0) < 0.6
    assert rows_of(table, representation="PCA").l0.iloc[0] == 12


def test_random_atoms_and_components_by_hand():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 6)) * [5, 4, 3, 2, 1, 0.5] + 10
    rows = np.arange(30)
    made = controls_of(X, rows, 40, 7, np.random.RandomState(3))
    assert_allclose(abs(made["PCA"]), abs(PCA(6).fit(X[:30]).transform(X)))
    state = np.random.RandomState(3)
    state.permutation(rows)
    atoms = state.normal(size=(40, 6))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    projections = (X - X[:30].mean(axis=0)) @ atoms.T
    seventh = np.sort(projections, axis=1)[:, -7:-6]
    expected = np.where(projections >= seventh, np.maximum(projections, 0), 0)
    assert_allclose(made["random atoms"].toarray(), expected, rtol=1e-4, atol=1e-5)
    assert_array_equal(made["neurons"], X)


def test_classes(planted):
    codes, labels, X = planted
    y = np.where(labels["rare"], "rare", np.where(labels["spread"], "spread", "other"))
    table = pd.DataFrame(k_sparse_probe(codes, y, X=X, k=2))
    assert list(table.label.unique()) == ["other", "rare", "spread"]
    both = pd.DataFrame(k_sparse_probe(codes, labels["rare"], X=X, k=2))
    assert list(both.label.unique()) == ["1"]
    rare = rows_of(table, label="rare")
    for name in SCORES:
        assert_array_equal(rare[name], both[name])


def test_groups_stay_together():
    """Whoever knows a document again learns nothing of the label of another one."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 25)
    codes = np.eye(40)[groups] * rng.random(1000)[:, None]  # a feature for each document
    y = (rng.random(40) < 0.5)[groups]
    X = codes @ rng.normal(size=(40, 8))
    apart = pd.DataFrame(k_sparse_probe(codes, y, X=X, k=40))
    together = pd.DataFrame(k_sparse_probe(codes, y, X=X, k=40, groups=groups))
    assert rows_of(apart, representation="features").roc_auc.item() > 0.99
    assert abs(rows_of(together, representation="features").roc_auc.item() - 0.5) < 0.15


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_the_codes_does_not_matter(planted, scale):
    codes, labels, X = planted
    want = k_sparse_probe(codes, labels, X=X)
    found = k_sparse_probe(scale * codes, labels, X=X)
    for name in SCORES:
        assert_allclose(found[name], want[name], rtol=1e-3)
    assert_allclose(found.coefficients[1] * scale, want.coefficients[1], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "convert", [sp.csr_array, sp.coo_matrix, torch.from_numpy, pd.DataFrame, np.asfortranarray]
)
def test_containers(planted, convert, monkeypatch):
    codes, labels, X = planted
    want = k_sparse_probe(codes, labels, X=X)
    monkeypatch.setattr("skdict.metrics._rows.BLOCK_SIZE", 600)
    found = k_sparse_probe(convert(codes), labels, X=convert(X))
    for name in ("chosen", "coefficients"):
        for a, b in zip(found[name], want[name], strict=True):
            assert_allclose(a, b, rtol=1e-6)
    for name in SCORES:
        assert_allclose(found[name], want[name])


def test_a_label_of_one_part_is_named(planted):
    codes, labels, X = planted
    labels = labels.assign(once=np.arange(1000) == 3)
    with pytest.warns(UserWarning, match=r"without: 'once' \(0.* of the last\)\. Their"):
        table = k_sparse_probe(codes, labels, X=X, k=2)
    once = rows_of(table, label="once")
    assert np.isnan(once.roc_auc).all()


@pytest.mark.filterwarnings("error")
def test_a_label_that_nobody_has(planted):
    codes, labels, X = planted
    none = rows_of(k_sparse_probe(codes, labels.assign(none=False), X=X, k=2), label="none")
    assert np.isnan(none.f1).all() and (none.base_rate == 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": np.full((1000, 2), np.nan)}, "codes contains NaN"),
        ({"X": np.ones((3, 2))}, "X has 3 rows, but codes has 1000"),
        ({"controls": {"a": np.ones((3, 2))}}, r"controls\['a'\] has 3 rows, but codes has 1000"),
        ({"controls": {"PCA": np.ones((3, 2))}}, r"controls has \['PCA'\], which"),
        ({"controls": [1]}, "'controls' parameter"),
        ({"y": np.zeros((3, 1))}, "y has 3 rows, but codes has 1000"),
        ({"y": np.zeros(1000)}, "y has the same value"),
        ({"y": {"data": np.zeros((1000, 2)), "target_names": ["a", "a"]}}, "of the same name"),
        ({"k": []}, r"k=\[\]: give a number"),
        ({"k": [0]}, "each at least 1"),
        ({"k": [1.5]}, "each at least 1"),
        ({"k": [np.inf]}, "each at least 1"),
        ({"test_size": 1.0}, "'test_size' parameter"),
        ({"groups": np.zeros(3)}, "groups has shape"),
    ],
)
def test_bad_input(planted, changes, message):
    codes, labels, X = planted
    with pytest.raises(ValueError, match=message):
        k_sparse_probe(**{"codes": codes, "y": labels, "X": X, **changes})


def test_feature_codes_know_their_documents_and_what_counts(planted):
    codes, labels, X = planted
    counted, groups = np.arange(1000) % 7 != 0, np.arange(1000) // 10
    tokens = {"document": groups, "token": np.full(1000, "a", dtype=object)}
    kept = FeatureCodes.from_matrix(codes, tokens=tokens, counted=counted)
    found = k_sparse_probe(kept, labels, X=X, k=2)
    want = k_sparse_probe(
        codes[counted], labels[counted], X=X[counted], k=2, groups=groups[counted]
    )
    for name in SCORES:
        assert_allclose(found[name], want[name], rtol=1e-5)
