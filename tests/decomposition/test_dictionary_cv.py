"""SparseAutoencoderDictionaryCV: alpha by cross-validation along a warm-started path."""

import numpy as np
import pandas as pd
import pytest
import torch
from dictionary_testing import make_estimator
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold

from skdict.datasets import make_superposition
from skdict.decomposition import (
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    alpha_grid,
)


def make_cv(*, alphas=4, cv=2, scoring=None, n_jobs=None, **params):
    shared = make_estimator(**params).get_params()
    for name in ("alpha", "warm_start"):
        shared.pop(name)
    return SparseAutoencoderDictionaryCV(
        alphas=alphas, cv=cv, scoring=scoring, n_jobs=n_jobs, **shared
    )


@pytest.fixture(scope="module")
def X():
    return make_superposition(6000, 16, 32, l0=2.0, random_state=0)[0]


def test_chooses_as_a_grid_search_does(X):
    options = {"max_iter": 40}  # on so little data, fewer steps leave the path behind
    selected = make_cv(alphas=5, cv=3, **options).fit(X)
    search = GridSearchCV(make_estimator(**options), {"alpha": selected.alphas_}, cv=3).fit(X)
    scores = np.stack([search.cv_results_[f"split{i}_test_score"] for i in range(3)], axis=1)
    # trained from scratch with the same seed
    np.testing.assert_array_equal(selected.scores_[0], scores[0])
    best = list(selected.alphas_).index(selected.alpha_)
    error = scores[search.best_index_].std(ddof=1) / 3**0.5
    assert scores[best].mean() >= search.best_score_ - error
    assert selected.best_score_ == selected.scores_[best].mean() == selected.scores_.mean(1).max()


def test_is_then_a_fit_to_all_data_with_the_alpha_chosen(X):
    selected = make_cv().fit(X)
    plain = make_estimator(alpha=selected.alpha_).fit(X)
    np.testing.assert_array_equal(selected.components_, plain.components_)
    np.testing.assert_array_equal(selected.transform(X), plain.transform(X))
    assert selected.score(X) == plain.score(X)
    assert selected.get_feature_names_out()[0] == "sparseautoencoderdictionarycv0"


def test_grid_and_folds(X):
    selected = make_cv().fit(X)
    np.testing.assert_array_equal(selected.alphas_, alpha_grid(X, 4))
    assert selected.scores_.shape == (4, 2)
    given = make_cv(alphas=[0.5, 0.1, 0.1], cv=KFold(3, shuffle=True, random_state=0)).fit(X)
    np.testing.assert_array_equal(given.alphas_, [0.1, 0.5])
    assert given.scores_.shape == (2, 3)
    assert make_cv(alphas=[0.2]).fit(X).alpha_ == 0.2
    lists = [(list(range(3999, -1, -1)), list(range(4000, 6000)))]
    arrays = [(np.arange(4000), np.arange(4000, 6000))]
    scores = [make_cv(alphas=2, cv=folds).fit(X).scores_ for folds in (lists, arrays)]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("solver", ["alternating", "dictionary_learning", "lasso"])
def test_other_solvers(solver):
    X = make_superposition(300, 16, 32, l0=2.0, random_state=0)[0]
    selected = make_cv(solver=solver, alphas=2, max_iter=1).fit(X)
    assert selected.alpha_ in selected.alphas_
    assert np.isfinite(selected.scores_).all()


def test_scorers_see_the_held_out_samples(X):
    seen = []

    def scorer(estimator, X, y=None):
        seen.append((estimator.alpha_, len(X), y))
        return -estimator.alpha_

    selected = make_cv(scoring=scorer).fit(X)
    assert selected.alpha_ == selected.alphas_[0]
    assert [n for _, n, _ in seen] == [3000] * 8
    assert sorted(alpha for alpha, _, _ in seen) == sorted([*selected.alphas_] * 2)


def test_kinds_of_input_agree(X):
    X = X.astype(np.float32)
    expected = make_cv().fit(X)
    frame = pd.DataFrame(X, columns=[f"n{i}" for i in range(16)])
    for kind in (frame, torch.from_numpy(X)):
        got = make_cv().fit(kind)
        np.testing.assert_array_equal(got.scores_, expected.scores_)
        assert got.alpha_ == expected.alpha_
    assert list(make_cv().fit(frame).feature_names_in_) == list(frame.columns)


def test_parallel_folds_give_the_same(X, one_thread):
    np.testing.assert_allclose(
        make_cv(n_jobs=2).fit(X).scores_, make_cv().fit(X).scores_, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("alphas", "message"),
    [([-1.0, 1.0], "alphas=.*numbers >= 0"), ([], "alphas|minimum of 1"), (1, "alphas")],
)
def test_bad_grids(X, alphas, message):
    with pytest.raises(ValueError, match=message):
        make_cv(alphas=alphas).fit(X)


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        ([], r"cv=\[\] has no folds"),
        ([([0, 1, 2], [])], "cv must give two arrays .* fold 0 is none"),
        ([(np.arange(9), np.arange(0))], "cv gives 9 samples to learn from and 0 to score on"),
        ([(np.arange(9), [10**6])], "cv must give two arrays of row numbers below"),
    ],
    ids=str,
)
def test_bad_folds(X, cv, message):
    with pytest.raises(ValueError, match=message):
        make_cv(cv=cv).fit(X)


def test_folds_of_masks_and_lists(X):
    train = np.arange(len(X)) % 3 > 0
    expected = make_cv(cv=[(np.flatnonzero(train), np.flatnonzero(~train))]).fit(X).scores_
    for fold in ((train, ~train), (np.flatnonzero(train).tolist(), np.flatnonzero(~train))):
        np.testing.assert_array_equal(make_cv(cv=[fold]).fit(X).scores_, expected)


def test_streams_have_no_folds(X):
    assert not hasattr(make_cv(), "partial_fit")
    with pytest.raises(AttributeError, match="a stream has no folds"):
        clone(make_cv()).partial_fit(X)


def test_codebooks_do_not_depend_on_alpha(planted):
    estimator = SparseAutoencoderDictionaryCV(8, solver="kmeans", alphas=3, cv=2, random_state=0)
    with pytest.raises(ValueError, match="do not depend on alpha: there is nothing to choose"):
        estimator.fit(planted)
    estimator.set_params(transform_algorithm="lasso").fit(planted)
    # no alpha has the advantage of more passes: the codewords are those of a fit by itself
    alone = SparseAutoencoderDictionary(
        8, solver="kmeans", transform_algorithm="lasso", alpha=estimator.alphas_[2], random_state=0
    )
    half = len(planted) // 2
    assert estimator.scores_[2, 1] == pytest.approx(
        alone.fit(planted[:half]).score(planted[half:])
    )
