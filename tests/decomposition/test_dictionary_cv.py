"""SparseAutoencoderDictionaryCV: the sparsity by cross-validation along a warm-started path."""

import copy
import pickle
import re
import sys
import warnings
from contextlib import contextmanager
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import torch
from dictionary_testing import fitted_attributes, make_estimator
from scipy.sparse import issparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.metrics import get_scorer, get_scorer_names, r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict._core.models.architectures import ARCHITECTURES
from skdict.datasets import make_superposition
from skdict.decomposition import (
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    alpha_grid,
    amortisation_gap,
    compare_dictionaries,
)
from skdict.decomposition._search_values import as_text
from skdict.decomposition.architectures import Architecture, SparsityGrid, TopK, register
from skdict.metrics import (
    DictionaryScorer,
    explained_variance,
    explained_variance_scorer,
    mean_l0,
    neg_dead_fraction_scorer,
    neg_l0_scorer,
)


@contextmanager
def refused(message):
    """Warnings like this are errors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=message)
        yield


def make_cv(*, alphas=4, cv=2, scoring=None, n_jobs=None, **params):
    shared = make_estimator(**params).get_params(deep=False)
    for name in ("alpha", "warm_start"):
        shared.pop(name)
    return SparseAutoencoderDictionaryCV(
        alphas=alphas, cv=cv, scoring=scoring, n_jobs=n_jobs, **shared
    )


@pytest.fixture(scope="module")
def X():
    return make_superposition(6000, 16, 32, l0=2.0, random_state=0)[0]


@pytest.mark.slow
def test_chooses_as_a_grid_search_does(X):
    options = {"max_iter": 40}  # on so little data, fewer steps leave the path behind
    cv = KFold(2)
    selected = make_cv(alphas=5, cv=cv, **options).fit(X)
    grid = {"alpha": selected.alphas_}
    search = GridSearchCV(make_estimator(**options), grid, cv=cv, refit=False).fit(X)
    scores = np.stack([search.cv_results_[f"split{i}_test_score"] for i in range(2)], axis=1)
    # trained from scratch with the same seed
    np.testing.assert_array_equal(selected.scores_[0], scores[0])
    best = list(selected.alphas_).index(selected.alpha_)
    error = scores[search.best_index_].std(ddof=1) / 2**0.5
    assert scores[best].mean() >= search.best_score_ - error
    assert selected.best_score_ == selected.scores_[best].mean() == selected.scores_.mean(1).max()


@pytest.mark.slow
def test_is_then_a_fit_to_all_data_with_the_alpha_chosen(X):
    selected = make_cv().fit(X)
    plain = make_estimator(alpha=selected.alpha_).fit(X)
    np.testing.assert_array_equal(selected.components_, plain.components_)
    np.testing.assert_array_equal(selected.transform(X), plain.transform(X))
    assert selected.score(X) == plain.score(X)
    assert selected.get_feature_names_out()[0] == "sparseautoencoderdictionarycv0"


@pytest.mark.slow
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


@pytest.mark.slow
def test_scorers_see_the_held_out_samples(X):
    seen = []

    def scorer(estimator, X, y=None):
        seen.append((estimator.alpha_, len(X), y))
        return -estimator.alpha_

    selected = make_cv(scoring=scorer).fit(X)
    assert selected.alpha_ == selected.alphas_[0]
    assert [n for _, n, _ in seen] == [3000] * 8
    assert sorted(alpha for alpha, _, _ in seen) == sorted([*selected.alphas_] * 2)


@pytest.mark.slow
def test_kinds_of_input_agree(X):
    X = X.astype(np.float32)
    expected = make_cv().fit(X)
    frame = pd.DataFrame(X, columns=[f"n{i}" for i in range(16)])
    for kind in (frame, torch.from_numpy(X)):
        got = make_cv().fit(kind)
        np.testing.assert_array_equal(got.scores_, expected.scores_)
        assert got.alpha_ == expected.alpha_
    assert list(make_cv().fit(frame).feature_names_in_) == list(frame.columns)


@pytest.mark.slow
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
        ([([0, 1, 2], [])], "cv must give two arrays .* fold 0 is neither"),
        ([(np.arange(9), np.arange(0))], "cv gives 9 samples to learn from and 0 to score on"),
        ([(np.arange(9), [10**6])], "cv must give two arrays of row numbers below"),
    ],
    ids=str,
)
def test_bad_folds(X, cv, message):
    with pytest.raises(ValueError, match=message):
        make_cv(cv=cv).fit(X)


@pytest.mark.slow
def test_folds_of_masks_and_lists(X):
    train = np.arange(len(X)) % 3 > 0
    expected = make_cv(cv=[(np.flatnonzero(train), np.flatnonzero(~train))]).fit(X).scores_
    for fold in ((train, ~train), (np.flatnonzero(train).tolist(), np.flatnonzero(~train))):
        np.testing.assert_array_equal(make_cv(cv=[fold]).fit(X).scores_, expected)


def test_lengths_must_agree(planted):
    fold = (np.arange(300), np.arange(300, 600))  # a splitter would look at y itself
    for given in ({"y": np.arange(599)}, {"groups": np.arange(601)}):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            make_cv(cv=[fold]).fit(planted, **given)


def test_splitters_see_the_data(planted):
    class OfPositive:
        def get_n_splits(self, X=None, y=None, groups=None):
            return 1

        def split(self, X, y=None, groups=None):
            positive = X[:, 0] > X[:, 0].mean()
            yield positive, ~positive

    selected = make_cv(alphas=[0.3], cv=OfPositive(), max_iter=1).fit(planted)
    positive = planted[:, 0] > planted[:, 0].mean()
    alone = make_estimator(alpha=0.3, max_iter=1).fit(planted[positive])
    assert selected.scores_[0, 0] == pytest.approx(alone.score(planted[~positive]), rel=1e-9)


# -- folds -------------------------------------------------------------------------------------


class Seen:
    """A scorer that remembers which samples are held out, by y."""

    def __init__(self):
        self.folds = []

    def __call__(self, estimator, X, y):
        self.folds.append(set(np.asarray(y).tolist()))
        return 0.0


@pytest.mark.parametrize("cv", [None, 3])
def test_folds_are_shuffled_and_hold_all_samples_once(planted, cv):
    seen = Seen()
    make_cv(alphas=[0.3], cv=cv, scoring=seen, max_iter=1).fit(planted, np.arange(600))
    assert len(seen.folds) == (cv or 5)
    assert sorted(chain.from_iterable(seen.folds)) == list(range(600))
    assert all(max(fold) - min(fold) > len(fold) for fold in seen.folds)  # no block
    again = Seen()
    make_cv(alphas=[0.3], cv=cv, scoring=again, max_iter=1).fit(planted, np.arange(600))
    assert again.folds == seen.folds


@pytest.mark.parametrize("cv", [None, 3])
def test_folds_keep_documents_together(planted, cv):
    document = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 30))
    seen = Seen()
    selected = make_cv(alphas=[0.3], cv=cv, scoring=seen, max_iter=1)
    selected.fit(planted, document, groups=document)
    assert len(seen.folds) == (cv or 5)
    assert sorted(chain.from_iterable(seen.folds)) == list(range(20))


# -- what is chosen ----------------------------------------------------------------------------


class Near:
    """A scorer whose best value is known: that nearest to the wanted one, in the logarithm."""

    def __init__(self, wanted, value_of):
        self.wanted = wanted
        self.value_of = value_of

    def __call__(self, estimator, X, y):
        return -abs(np.log(self.value_of(estimator) / self.wanted))


def of_alpha(estimator):
    return estimator.alpha_


def of_k(estimator):
    return estimator.n_nonzero_coefs_


class Threshold(Architecture):
    """ReLU codes less a constant, which alone makes them sparse."""

    def __init__(self, cut=0.1):
        self.cut = cut

    sparsity = ("cut",)

    def sparsity_grid(self, name, n_features, n_components):
        return SparsityGrid((0.1, 0.2, 0.4), 2.0, 0.05, 6.4)

    def penalty(self, pre_activations, values, state, alpha):
        return self.cut * values.sum()


def of_cut(estimator):
    return estimator.architecture.cut


CHOSEN = {
    "relu": ("alpha", of_alpha, 0.3),
    "gated": ("alpha", of_alpha, 0.3),
    "topk": ("n_nonzero_coefs", of_k, 3),
    "batch_topk": ("n_nonzero_coefs", of_k, 3),
    "matryoshka": ("n_nonzero_coefs", of_k, 3),
    "jumprelu": ("n_nonzero_coefs", of_k, 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", CHOSEN)
def test_each_architecture_has_its_own_choice(planted, architecture):
    name, value_of, wanted = CHOSEN[architecture]
    selected = make_cv(
        alphas="auto", architecture=architecture, scoring=Near(wanted, value_of), max_iter=1
    )
    with refused(".*(best score|effect)"):
        selected.fit(planted)
    found = value_of(selected)
    assert selected.best_params_ == {name: found}
    assert abs(np.log(found / wanted)) < 0.31  # half a step of alpha; 3 itself is on the grid
    table = selected.results_
    assert table.columns[0] == name and table[name].is_monotonic_increasing
    assert len(table) == len(selected.scores_)
    assert table["score"].idxmax() == list(table[name]).index(found)
    assert hasattr(selected, "alphas_") == (name == "alpha")
    restored = pickle.loads(pickle.dumps(clone(selected).fit(planted)))
    pd.testing.assert_frame_equal(
        restored.results_.drop(columns="seconds"), table.drop(columns="seconds")
    )


@pytest.mark.parametrize("registered", [False, True])
def test_an_architecture_from_outside_says_what_is_chosen(planted, registered):
    selected = make_cv(
        alphas="auto", architecture=Threshold(), scoring=Near(1.0, of_cut), max_iter=1
    )
    if registered:
        register("threshold")(Threshold)
        selected.architecture = "threshold"
    try:
        selected.fit(planted)
    finally:
        ARCHITECTURES.pop("threshold", None)
    assert selected.best_params_ == {"architecture__cut": 0.8}
    assert selected.best_estimator_.architecture == Threshold(0.8)
    np.testing.assert_allclose(
        selected.results_["architecture__cut"], [0.1, 0.2, 0.4, 0.8, 1.6], rtol=1e-12
    )


def test_an_architecture_without_values_to_try(planted):
    class Without(Threshold):
        sparsity_grid = Architecture.sparsity_grid

    with pytest.raises(NotImplementedError, match=r"Without says that 'cut' .* sparsity_grid"):
        make_cv(alphas="auto", architecture=Without()).fit(planted)


@pytest.mark.parametrize("side", [-1, 1])
def test_the_grid_is_extended_until_the_best_is_inside(planted, side):
    grid = alpha_grid(planted)
    wanted = grid[-1 if side > 0 else 0] * 5.0**side
    selected = make_cv(alphas="auto", scoring=Near(wanted, of_alpha), max_iter=1)
    with refused(".*best score"):
        selected.fit(planted)
    steps = np.diff(np.log(selected.alphas_))
    np.testing.assert_allclose(steps, np.log(64) / 7, rtol=1e-9)
    assert set(grid) <= set(selected.alphas_)
    inside = selected.alphas_[1:-1]
    assert selected.alpha_ == inside[-1 if side > 0 else 0]  # no more than is needed
    assert abs(np.log(selected.alpha_ / wanted)) < np.log(64) / 14


def test_the_grid_has_an_end_and_a_warning_names_it(planted):
    selected = make_cv(alphas="auto", scoring=Near(1e-9, of_alpha), max_iter=1)
    with pytest.warns(UserWarning, match="is the smallest of the 14 .*densest.*[Gg]ive alphas"):
        selected.fit(planted)
    assert len(selected.alphas_) == 14
    lasso = make_cv(alphas="auto", scoring=Near(1e9, of_alpha), solver="lasso")
    with pytest.warns(UserWarning, match="the largest of .* empty codes: nothing.* max_iter"):
        lasso.fit(planted)
    l0 = lasso.results_["l0"].to_numpy()
    assert l0[-1] < 0.01 < l0[-2]  # no further than where codes are empty
    # values that were given are all that are tried
    selected.set_params(alphas=[0.2, 0.3, 0.4], scoring=Near(1e9, of_alpha))
    with pytest.warns(UserWarning, match="is the largest of the 3 .* sparsest codes"):
        selected.fit(planted)
    assert selected.alphas_.tolist() == [0.2, 0.3, 0.4]


def test_a_single_entry_is_no_edge(planted):
    selected = make_cv(architecture="topk", alphas="auto", scoring=Near(0.1, of_k), max_iter=1)
    with refused(".*best score"):
        assert selected.fit(planted).n_nonzero_coefs_ == 1
    selected.scoring = Near(100, of_k)
    with pytest.warns(UserWarning, match="n_nonzero_coefs=16 has the best score"):
        selected.fit(planted)  # no more than there are features


def test_all_entries_are_no_edge(planted):
    """Nothing is denser than a code without a zero."""
    n_components = planted.shape[1] // 2
    selected = make_cv(n_components=n_components, architecture="topk", max_iter=1)
    selected.set_params(alphas="auto", scoring=Near(1000, of_k))
    for given in (None, [2, 4, n_components]):
        with refused(".*best score"):
            selected.set_params(n_nonzero_coefs=given).fit(planted)
        assert selected.n_nonzero_coefs_ == n_components
    selected.set_params(n_nonzero_coefs=[2, 4, n_components - 1])
    with pytest.warns(UserWarning, match=f"n_nonzero_coefs={n_components - 1} has the best score"):
        selected.fit(planted)


def test_whole_numbers_are_printed_in_full():
    assert [as_text(value) for value in (1024, np.int64(4096), 0.123456, True, "topk")] == [
        "1024", "4096", "0.123", "True", "'topk'"
    ]  # fmt: skip


def test_numbers_of_entries_that_were_given(planted):
    selected = make_cv(architecture="topk", alphas="auto", max_iter=1)
    selected.set_params(n_nonzero_coefs=[8, 1.0, 4, 4]).fit(planted)
    assert selected.results_["n_nonzero_coefs"].tolist() == [1, 4, 8]
    assert selected.best_estimator_.n_nonzero_coefs in (1, 4, 8)
    for wrong, message in (([2.5], "whole numbers"), ([0, 2], "at least 1"), ([4, 99], "99 is l")):
        with pytest.raises(ValueError, match=f"n_nonzero_coefs=.*{message}"):
            selected.set_params(n_nonzero_coefs=wrong).fit(planted)


def test_codebooks_are_chosen_by_their_number(planted):
    selected = SparseAutoencoderDictionaryCV(
        8, solver="kmeans", n_nonzero_coefs=[1, 2, 4], cv=2, max_iter=5, random_state=0
    ).fit(planted)
    assert selected.best_params_ == {"n_nonzero_coefs": len(selected.codebook_sizes_)}
    assert selected.results_["l0"].tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ("params", "message", "chosen"),
    [
        ({"n_nonzero_coefs": 3}, "n_nonzero_coefs=3 is fixed, so that alpha is chosen", "alpha"),
        ({"architecture": TopK(k=3)}, "n_nonzero_coefs=3 is fixed", "alpha"),
        ({"alphas": [0.1, 0.2]}, "'topk' does not use alphas: n_nonzero", "n_nonzero_coefs"),
        ({"architecture": "relu", "n_nonzero_coefs": [2, 3]}, "does not use n_nonzero", "alpha"),
        (
            {"architecture": "relu", "solver": "kmeans", "n_nonzero_coefs": [1, 2], "alphas": 2},
            "^solver='kmeans' does not use alphas: n_nonzero",
            "n_nonzero_coefs",
        ),
    ],
)
def test_what_is_not_chosen_is_said_once(planted, params, message, chosen):
    selected = make_cv(**{"architecture": "topk", "max_iter": 1, "alphas": "auto"} | params)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        selected.fit(planted)
    told = [str(w.message) for w in caught]
    (found,) = [text for text in told if "has the best score" not in text]
    assert re.search(message, found)
    assert list(selected.best_params_) == [chosen]


def test_alpha_decides_on_jumprelu_if_its_values_are_given(planted):
    selected = make_cv(architecture="jumprelu", alphas=[0.1, 0.3], max_iter=1)
    with refused(".*effect"):
        selected.fit(planted)
    assert selected.best_params_ == {"alpha": selected.alpha_}
    assert selected.n_nonzero_coefs_ is None


def test_results_are_those_of_fits_by_hand(planted):
    train, test = np.arange(0, 600, 2), np.arange(1, 600, 2)
    folds = [(train, test), (test[:150], train)]
    selected = make_cv(alphas=[0.2, 0.4, 0.8], cv=folds, max_iter=6).fit(planted)
    table = selected.results_
    np.testing.assert_allclose(table["score"], selected.scores_.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(table["score_std"], selected.scores_.std(axis=1), rtol=1e-9)
    want = dict.fromkeys(("score", "l0", "explained_variance"), 0.0)
    want |= {f"train_{name}": 0.0 for name in want}
    for of_fit, of_test in folds:
        plain = make_estimator(alpha=0.2, max_iter=6).fit(planted[of_fit])
        for prefix, rows in (("", of_test), ("train_", of_fit)):  # all of it: not fewer rows
            X = planted[rows]
            codes = plain.transform(X)
            want[f"{prefix}score"] += plain.score(X) / 2
            want[f"{prefix}l0"] += mean_l0(codes) / 2
            want[f"{prefix}explained_variance"] += (
                explained_variance(X, plain.inverse_transform(codes)) / 2
            )
    for name, value in want.items():
        assert table[name][0] == pytest.approx(value, rel=1e-6), name
    assert (table["seconds"] > 0).all()


def test_results_without_pandas(planted, monkeypatch):
    selected = make_cv(alphas=2, max_iter=1).fit(planted)
    monkeypatch.setitem(sys.modules, "pandas", None)
    table = selected.results_
    assert isinstance(table, dict) and table["alpha"].tolist() == selected.alphas_.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
def test_finds_the_number_of_planted_features(architecture):
    X = make_superposition(4000, 32, 64, l0=2.0, noise=0.05, random_state=0)[0]
    selected = SparseAutoencoderDictionaryCV(
        64, architecture=architecture, resolution=0.01, cv=2, random_state=0
    )  # the noise is far below the default resolution
    # of these samples 2 atoms are active on average, and "topk" keeps at most so many of each
    assert 2 <= selected.fit(X).n_nonzero_coefs_ <= 3


# -- the dictionary that was chosen ------------------------------------------------------------


@pytest.fixture(scope="module")
def selected(planted):
    """Not to be changed."""
    return make_cv(alphas=2, max_iter=1, architecture="jumprelu").fit(planted)


def test_fitted_attributes_are_those_of_the_best_estimator(selected):
    best = selected.best_estimator_
    names = fitted_attributes(best)
    assert {"components_", "threshold_", "n_features_in_"} <= names
    for name in names:
        assert getattr(selected, name) is getattr(best, name)
    assert names <= set(dir(selected))
    for name in ("codeword_norms_", "nonsense_", "nonsense"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
            getattr(selected, name)
    assert not hasattr(make_cv(), "components_")
    assert "components_" not in dir(make_cv())


def test_saving_keeps_one_copy_of_the_atoms(selected):
    size = len(pickle.dumps(selected.best_estimator_))
    assert len(pickle.dumps(selected)) < 1.5 * size
    restored = pickle.loads(pickle.dumps(selected))
    np.testing.assert_array_equal(restored.components_, selected.components_)


def test_shows_its_fitted_attributes(selected):
    assert "components_" in selected._repr_html_()
    assert "codeword_norms_" not in selected._repr_html_()


def test_ways_to_code_can_change_after_the_fit(selected, planted):
    other, plain = copy.copy(selected), copy.copy(selected.best_estimator_)
    for params in (
        {"transform_algorithm": "omp", "transform_n_nonzero_coefs": 2},
        {"transform_algorithm": "lasso", "transform_alpha": 0.5},
    ):
        got = other.set_params(**params).transform(planted)
        np.testing.assert_array_equal(got, plain.set_params(**params).transform(planted))
    assert issparse(other.set_params(sparse_output=True).transform(planted))
    assert selected.best_estimator_.transform_algorithm == "auto"
    with pytest.raises(ValueError, match="transform_algorithm"):
        other.set_params(transform_algorithm="nonsense").transform(planted)


def test_names_of_features(selected, planted):
    with config_context(transform_output="pandas"):
        codes = selected.transform(planted)
    assert list(codes.columns) == list(selected.get_feature_names_out())
    assert codes.columns[0] == "sparseautoencoderdictionarycv0"
    with config_context(transform_output="pandas"):
        other = copy.copy(selected).set_output(transform="default")
        assert isinstance(other.transform(planted), np.ndarray)


def test_a_fit_leaves_nothing_of_the_former_one(planted):
    estimator = make_cv(alphas=2, max_iter=1, architecture="jumprelu").fit(planted)
    estimator.set_params(architecture="relu").fit(planted)
    assert not hasattr(estimator, "threshold_")


def test_is_taken_where_a_dictionary_is(selected, planted):
    best = selected.best_estimator_
    got, want = (amortisation_gap(each, planted) for each in (selected, best))
    np.testing.assert_array_equal(got.lasso.objective, want.lasso.objective)
    options = {"transform_algorithms": ("encoder", "omp")}
    got, want = (
        compare_dictionaries({"a": each}, planted, planted, **options) for each in (selected, best)
    )
    columns = ["transform_algorithm", "l0", "explained_variance", "objective", "score"]
    pd.testing.assert_frame_equal(got[columns], want[columns])


def test_streams_have_no_folds(X):
    assert not hasattr(make_cv(), "partial_fit")
    with pytest.raises(AttributeError, match="a stream has no folds"):
        clone(make_cv()).partial_fit(X)


def test_codebooks_do_not_depend_on_alpha(planted):
    estimator = SparseAutoencoderDictionaryCV(
        8, solver="kmeans", alphas=3, cv=KFold(2), random_state=0
    )
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


def test_rows_and_y_of_folds_that_repeat(planted):
    """As bootstrap splitters make them; with masks as scikit-learn takes them."""
    seen = []

    def scorer(estimator, X, y):
        seen.append((X, y))
        return 0.0

    train = np.arange(300)
    mask = np.zeros(600, dtype=bool)
    mask[[303, 400, 599]] = True
    folds = [(train, [300, 300, 302]), (train, [505, 301, 400, 301]), (~mask, mask)]
    y = np.arange(600.0)
    make_cv(alphas=[0.3], cv=folds, scoring=scorer, max_iter=1).fit(planted, y)
    assert [sorted(ys) for _, ys in seen] == [
        [300, 300, 302],
        [301, 301, 400, 505],
        [303, 400, 599],
    ]
    for X, ys in seen:
        np.testing.assert_array_equal(X, planted[ys.astype(int)])


def test_scores_of_repeated_samples_count_as_often(planted):
    test = np.array([300, 300, 302])
    selected = make_cv(alphas=[0.3], cv=[(np.arange(300), test)]).fit(planted)
    plain = make_estimator(alpha=0.3).fit(planted[:300])
    assert selected.scores_[0, 0] == pytest.approx(plain.score(planted[test]), rel=1e-9)


def test_groups_stay_together(planted):
    groups = np.repeat(np.arange(20), 30)
    groups = np.random.default_rng(0).permutation(groups)
    seen = []

    def scorer(estimator, X, y):
        seen.append(set(groups[y]))
        return 0.0

    selected = make_cv(alphas=[0.3], cv=GroupKFold(4), scoring=scorer, max_iter=1)
    selected.fit(planted, np.arange(600), groups=groups)
    assert len(seen) == 4 and not set.intersection(*seen)
    assert set.union(*seen) == set(range(20)) and sum(map(len, seen)) == 20
    with pytest.raises(ValueError, match="groups"):
        make_cv(alphas=[0.3], cv=GroupKFold(4)).fit(planted)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        selected.fit(planted, groups=groups[:-1])


@pytest.mark.parametrize("routing", [False, True, "asked for"])
def test_groups_come_through_a_pipeline(planted, routing):
    groups = np.repeat(np.arange(20), 30)
    selected = make_cv(alphas=[0.3], cv=GroupKFold(2), max_iter=1)
    with config_context(enable_metadata_routing=bool(routing)):
        if routing:
            if routing == "asked for":
                selected.set_fit_request(groups=True)
            params = {"groups": groups}
        else:
            params = {"sparseautoencoderdictionarycv__groups": groups}
        pipeline = make_pipeline(StandardScaler(), selected).fit(planted, **params)
    assert pipeline[-1].scores_.shape == (1, 2)


@pytest.mark.parametrize("name", get_scorer_names())
def test_scorers_of_predictions_are_refused(planted, name):
    with pytest.raises(ValueError, match=f"scoring='{name}' names a scorer of predictions"):
        make_cv(scoring=name).fit(planted)
    with pytest.raises(ValueError, match=r"scoring=make_scorer\(.* is a scorer of predictions"):
        make_cv(scoring=get_scorer(name)).fit(planted)


def test_what_is_no_scorer_is_refused(planted):
    with pytest.raises(ValueError, match="scoring='log_likelihood' is not the name of a scorer"):
        make_cv(scoring="log_likelihood").fit(planted)
    with pytest.raises(ValueError, match="looks like it is a metric function"):
        make_cv(scoring=r2_score).fit(planted)


@pytest.mark.parametrize(
    "scorer", [explained_variance_scorer, neg_l0_scorer, neg_dead_fraction_scorer]
)
def test_scorers_of_skdict(planted, scorer):
    selected = make_cv(alphas=[0.3], cv=[(np.arange(300), np.arange(300, 600))], scoring=scorer)
    plain = make_estimator(alpha=0.3).fit(planted[:300])
    assert selected.fit(planted).scores_ == pytest.approx(scorer(plain, planted[300:]), rel=1e-9)


def test_scorers_must_return_one_number(planted):
    with pytest.raises(ValueError, match=r"a dict with \['score', 'l0'\]. Choose one"):
        make_cv(scoring=DictionaryScorer(("score", "l0")), max_iter=1).fit(planted)
    with pytest.raises(ValueError, match="scoring returned NaN"):
        make_cv(scoring=lambda *args: np.nan, max_iter=1).fit(planted)
    with pytest.raises(ValueError, match="must return one number, but returned None"):
        make_cv(scoring=lambda *args: None, max_iter=1).fit(planted)
    scorer = DictionaryScorer(("score", "l0"))
    selected, plain = (
        make_cv(alphas=2, scoring=scoring, max_iter=1).fit(planted)
        for scoring in (lambda estimator, X, y: scorer(estimator, X)["score"], None)
    )
    np.testing.assert_allclose(selected.scores_, plain.scores_, rtol=1e-9)


class Recorder:
    max_propagation_depth = None

    def __init__(self):
        self.tasks = []
        self.shapes = set()

    def setup(self, estimator, context):
        self.tasks.append("setup")

    def teardown(self, estimator, context):
        self.tasks.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X=None):
        self.tasks.append(context.task_name)
        if context.task_name == "pass":
            self.shapes.add(X.shape)


def test_callbacks_hear_of_every_fit(planted):
    recorder = Recorder()
    make_cv(alphas=2, cv=KFold(3), max_iter=2).set_callbacks(recorder).fit(planted)
    counts = {name: recorder.tasks.count(name) for name in recorder.tasks}
    assert counts.pop("setup") == counts.pop("teardown") == 1
    # the first of a path makes all passes, the second a fraction of them
    assert counts["pass"] == 3 * (2 + 1) + 2
    assert counts["fold"] == 3 and counts["refit"] == 1
    assert counts["fit"] == 3 * 2 + 1 + 1  # of each alpha, of the last fit, of all
    assert recorder.tasks[-2] == "fit" or recorder.tasks[-1] == "fit"
    assert recorder.shapes == {(400, 16), (600, 16)}


def test_a_progress_bar_of_all_fits(planted, capsys, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("rich._console", None)  # it keeps the width that it saw first
    make_cv(alphas=2, cv=2, max_iter=2).set_callbacks(ProgressBar()).fit(planted)
    assert "100%" in capsys.readouterr().out
