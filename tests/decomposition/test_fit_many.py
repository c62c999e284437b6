"""Several dictionaries in one pass: as good as fits of their own, each batch read once."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skdict.callbacks import Checkpoint
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary, fit_many
from skdict.decomposition import _fit_many as module
from tests.views_testing import ArrayView


@pytest.fixture(scope="module")
def X():
    return make_superposition(n_samples=3000, n_features=12, n_components=24, random_state=0)[0]


def make(**params):
    params = {"n_components": 24, "max_iter": 4, "random_state": 0} | params
    return SparseAutoencoderDictionary(**params)


def test_one_alone_without_shuffling_is_its_fit(X):
    for params in ({}, {"architecture": "topk"}, {"solver": "alternating", "max_iter": 2}):
        (found,) = fit_many([make(shuffle=False, **params)], X)
        want = make(shuffle=False, **params).fit(X)
        for name in ("components_", "intercept_", "loss_curve_", "alpha_", "n_steps_"):
            np.testing.assert_array_equal(getattr(found, name), getattr(want, name))
        assert found.score(X) == want.score(X)
        np.testing.assert_array_equal(found.transform(X[:9]), want.transform(X[:9]))


def test_each_is_as_alone_with_the_others(X):
    """Without shuffling all see what each would see alone."""
    saes = [
        make(shuffle=False, alpha=0.1),
        make(shuffle=False, architecture="topk", n_components=30, max_iter=2),
        make(shuffle=False, random_state=3),
    ]
    alone = [clone(sae).fit(X) for sae in saes]
    assert fit_many(saes, X) == saes
    for found, want in zip(saes, alone, strict=True):
        np.testing.assert_array_equal(found.components_, want.components_)
        np.testing.assert_array_equal(found.encoder_coef_, want.encoder_coef_)
        assert found.loss_curve_ == want.loss_curve_
        assert found.n_iter_ == want.n_iter_


def test_shuffled_ones_are_as_good(X):
    saes = fit_many([make(alpha=alpha) for alpha in (0.1, 0.3)], X)
    for sae in saes:
        want = clone(sae).fit(X)
        assert sae.train_explained_variance_ == pytest.approx(
            want.train_explained_variance_, abs=0.02
        )
        assert sae.train_l0_ == pytest.approx(want.train_l0_, rel=0.15)
    again = fit_many([make(alpha=alpha) for alpha in (0.1, 0.3)], X)
    np.testing.assert_array_equal(again[1].components_, saes[1].components_)


def test_each_batch_is_read_once(X):
    one, three = ArrayView(X, chunk_rows=64), ArrayView(X, chunk_rows=64)
    fit_many([make()], one)
    fit_many([make(), make(alpha=0.3), make(n_components=24, architecture="topk")], three)
    few = 2 * (24 + 4096 + 2048 + 64 + 1024)  # of two more: atoms, biases, looks, thresholds
    assert three.rows_read <= one.rows_read + few


def test_held_out_rows_are_the_same_for_all(X):
    saes = fit_many([make(early_stopping=True, max_iter=3), make(alpha=0.3, max_iter=2)], X)
    for sae in saes:
        assert len(sae.validation_loss_curve_) == len(sae.loss_curve_)
        assert np.isfinite(sae.validation_score_)
    assert [sae.n_iter_ for sae in saes] == [3, 2]


def test_a_failure_leaves_all_as_they_were(X, monkeypatch):
    fitted, new = make(max_iter=1).fit(X), make()
    before = fitted.components_
    monkeypatch.setattr(module, "look", lambda *args: (_ for _ in ()).throw(ValueError("worse")))
    with pytest.raises(ValueError, match=r"estimators\[0\]: worse"):
        fit_many([fitted, new], X)
    assert fitted.components_ is before
    assert not hasattr(new, "components_")


def test_divergence_names_the_estimator(X):
    bad = make(learning_rate_init=1e30, n_components=24)
    with pytest.raises(ValueError, match=r"estimators\[1\]: .*diverged"):
        fit_many([make(), bad], X)


@pytest.mark.parametrize(
    ("others", "error", "match"),
    [
        ([make(batch_size=128)], ValueError, r"batch_size must be the same .* has 128"),
        ([make(shuffle=False)], ValueError, "shuffle must be the same"),
        ([make(solver="kmeans")], ValueError, r"estimators\[1\]: solver='kmeans' does not"),
        ([make(max_iter=0)], ValueError, r"estimators\[1\]: .*'max_iter' parameter"),
        ([make().set_callbacks(Checkpoint("x"))], ValueError, r"estimators\[1\]: it has callb"),
        (["sae"], TypeError, r"estimators\[1\] must be a SparseAutoencoderDictionary, not str"),
    ],
)
def test_bad_estimators(X, others, error, match):
    with pytest.raises(error, match=match):
        fit_many([make(), *others], X)


def test_one_estimator_is_no_list(X):
    with pytest.raises(TypeError, match="estimators must be a list of estimators"):
        fit_many(make(), X)


def test_columns_of_a_former_fit_are_of_the_estimator(X):
    former = make(max_iter=1, warm_start=True).fit(X[:, :6])
    with pytest.raises(ValueError, match=r"estimators\[1\]: X has 12 features"):
        fit_many([make(), former], X)


def test_batches_are_those_of_the_rows_that_are_not_held_out(X):
    """3,000 rows would make "auto" 64 with or without; 8,000 make 125, and 7,200 make 112."""
    X = np.concatenate([X, X, X[:2000]])
    params = {"early_stopping": True, "max_iter": 1}
    with pytest.raises(ValueError, match=r"batch_size must .*\[0\] has 112 .*\[1\] has 125"):
        fit_many([make(**params), make(batch_size=125, **params)], X)
    saes = fit_many([make(**params), make(batch_size=112, **params)], X)
    np.testing.assert_array_equal(saes[0].components_, saes[1].components_)


def test_none_and_twice(X):
    with pytest.raises(ValueError, match="estimators is empty"):
        fit_many([], X)
    sae = make()
    with pytest.raises(ValueError, match="is in estimators twice"):
        fit_many([sae, sae], X)
    with pytest.raises(ValueError, match="NaN"):
        fit_many([sae], np.full((30, 3), np.nan))


def test_tensors_and_numbers_of_numpy(X):
    (sae,) = fit_many([make(max_iter=np.int64(2))], torch.from_numpy(X))
    assert sae.n_iter_ == 2
    assert sae.n_features_in_ == 12


def test_verbose_tells_of_each_pass_and_changes_nothing(X, capsys, monkeypatch):
    params = [{"max_iter": 2, "early_stopping": True}, {"alpha": 0.3}, {"architecture": "topk"}]
    params = [{"max_iter": 3} | each for each in params]
    quiet = fit_many([make(**each) for each in params], X)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("skdict.decomposition._reports.LONG", 0)
    loud = [make(verbose=number != 1, **each) for number, each in enumerate(params)]
    fit_many(loud, X)
    lines = capsys.readouterr().out.splitlines()
    told, passes = [line for line in lines if "will take" in line], lines[1:]
    assert told == lines[:1]
    assert "3 passes over 2700 samples, of 3 estimators, will take about" in told[0]
    found = [line.split("] ", 1)[1].split(":")[0] for line in passes]
    expected = [(0, "1/2"), (2, "1/3"), (0, "2/2"), (2, "2/3"), (2, "3/3")]
    assert found == [f"estimators[{number}], pass {which}" for number, which in expected]
    assert "of held-out samples" in passes[0]
    for line in passes:
        assert "explained variance" in line and "rows/s" in line
        assert ("left" in line) == ("2/2:" not in line and "3/3:" not in line)
    for one, other in zip(quiet, loud, strict=True):
        np.testing.assert_array_equal(one.components_, other.components_)
        np.testing.assert_array_equal(one.transform(X[:9]), other.transform(X[:9]))
