"""The estimator as an object: parameters, copies, output containers, names, searches."""

import copy
import html
import pickle
import re
import warnings
import zlib

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from dictionary_testing import (
    LEARN_FROM_STREAMS,
    SOLVERS,
    fitted_attributes,
    make_estimator,
)
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

import skdict
from skdict.decomposition import (
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    alpha_grid,
)
from skdict.decomposition.architectures import TopK
from skdict.metrics import DictionaryScorer

# Lasso on a handful of coherent atoms.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_parameters_are_stored_untouched():
    dict_init, seed = np.ones((3, 4), dtype=np.float16), np.random.RandomState(0)
    estimator = SparseAutoencoderDictionary(7, alpha=1, dict_init=dict_init, random_state=seed)
    params = estimator.get_params()
    assert params["dict_init"] is dict_init
    assert params["random_state"] is seed
    assert params["alpha"] == 1 and type(params["alpha"]) is int
    assert set(params) == set(SparseAutoencoderDictionary._parameter_constraints)
    with pytest.raises(TypeError, match="positional argument"):
        SparseAutoencoderDictionary(7, 0.1)
    assert skdict.SparseAutoencoderDictionary is SparseAutoencoderDictionary


def test_fit_leaves_parameters_and_data_alone(planted):
    X, atoms = planted.copy(), np.eye(16)
    for solver in SOLVERS:
        estimator = make_estimator({"dict_init": atoms}, solver=solver, n_components=16)
        before = estimator.get_params()
        estimator.fit(X).transform(X)
        after = estimator.get_params()
        assert all(after[name] is value for name, value in before.items())
        np.testing.assert_array_equal(X, planted)
        np.testing.assert_array_equal(atoms, np.eye(16))


def test_transform_changes_nothing(planted):
    estimator = make_estimator().fit(planted)
    before = copy.deepcopy(vars(estimator))
    codes = estimator.transform(planted)
    estimator.inverse_transform(codes)
    estimator.score(planted)
    for name in fitted_attributes(estimator):
        np.testing.assert_array_equal(vars(estimator)[name], before[name])
    assert set(vars(estimator)) == set(before)
    codes[:] = -1  # what was given away is nobody's state
    np.testing.assert_array_equal(estimator.components_, before["components_"])


@pytest.mark.parametrize("solver", SOLVERS)
def test_fit_transform_is_fit_then_transform(planted, fitted, solver):
    got = make_estimator(solver=solver).fit_transform(planted)
    np.testing.assert_allclose(got, fitted[solver].transform(planted), atol=1e-7)


def test_fit_returns_self_and_ignores_y(planted, fitted):
    estimator = make_estimator()
    assert estimator.fit(planted, y=np.arange(600)) is estimator
    assert estimator.partial_fit(planted, y=np.arange(600)) is estimator
    np.testing.assert_allclose(
        make_estimator().fit(planted, np.arange(600)).components_,
        fitted["autoencoder"].components_,
        atol=1e-7,
    )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "restore",
    [
        lambda estimator, folder: pickle.loads(pickle.dumps(estimator)),
        lambda estimator, folder: copy.deepcopy(estimator),
        lambda estimator, folder: joblib.load(joblib.dump(estimator, folder / "dictionary")[0]),
        lambda estimator, folder: joblib.load(
            joblib.dump(estimator, folder / "dictionary")[0], mmap_mode="r"
        ),
    ],
    ids=["pickle", "deepcopy", "joblib", "joblib read-only"],
)
@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_copies_are_the_same(planted, fitted, solver, restore, tmp_path):
    estimator = fitted[solver]
    restored = restore(estimator, tmp_path)
    codes, restored_codes = estimator.transform(planted), restored.transform(planted)
    np.testing.assert_allclose(restored_codes, codes, rtol=1e-12, atol=1e-12)
    assert restored.score(planted) == pytest.approx(estimator.score(planted), rel=1e-12)
    assert fitted_attributes(restored) == fitted_attributes(estimator)
    assert restored.get_params() == estimator.get_params()


def test_fitted_attributes_are_arrays_and_numbers(fitted):
    """No tensor that would tie the estimator to a device or to torch's pickles."""
    for estimator in fitted.values():
        for name in fitted_attributes(estimator):
            assert isinstance(getattr(estimator, name), np.ndarray | float | int | list), name


def test_clone_is_unfitted(fitted):
    estimator = clone(fitted["autoencoder"])
    assert estimator.get_params() == fitted["autoencoder"].get_params()
    assert not fitted_attributes(estimator)
    check_is_fitted(fitted["autoencoder"])


def test_html_repr(fitted):
    text = html.unescape(fitted["autoencoder"]._repr_html_())
    assert "SparseAutoencoderDictionary" in text
    assert "n_components" in text
    assert "Not fitted" not in text
    assert "Not fitted" in make_estimator()._repr_html_()
    assert repr(make_estimator()).startswith("SparseAutoencoderDictionary(batch_size=100")


def test_a_display_does_not_code_the_samples(planted):
    """Statistics of the codes are shown once something else has asked for them."""
    estimator = make_estimator().fit(planted)
    pipeline = make_pipeline(StandardScaler(), estimator)
    for shown in (estimator, pipeline):
        text = shown._repr_html_()
        assert "components_" in text and "n_samples_seen_" in text
        assert "noise_variance_" not in text
    assert estimator._statistics.at_hand == ["n_samples_seen_"]
    assert estimator.noise_variance_ > 0
    assert "noise_variance_" in estimator._repr_html_()
    assert "noise_variance_" in pickle.loads(pickle.dumps(estimator))._repr_html_()


@pytest.mark.slow
@pytest.mark.parametrize("first", SOLVERS)
@pytest.mark.parametrize("then", SOLVERS)
@pytest.mark.parametrize("stream", [False, True])
def test_nothing_of_a_former_fit_remains(planted, first, then, stream):
    estimator = make_estimator({"early_stopping": True}, solver=first)
    estimator.fit(pd.DataFrame(planted))
    if stream and first in LEARN_FROM_STREAMS:
        estimator.partial_fit(pd.DataFrame(planted))
    fresh = make_estimator(solver=then, n_components=20).fit(planted)
    estimator.set_params(**fresh.get_params()).fit(planted)
    assert set(vars(estimator)) == set(vars(fresh))
    np.testing.assert_allclose(estimator.transform(planted), fresh.transform(planted), atol=1e-7)
    assert hasattr(estimator, "encoder_coef_") == (then == "autoencoder")


# -- output ----------------------------------------------------------------------------------


def test_feature_names(planted, fitted):
    names = [f"sparseautoencoderdictionary{j}" for j in range(32)]
    assert list(fitted["autoencoder"].get_feature_names_out()) == names
    columns = [f"neuron{i}" for i in range(16)]
    estimator = make_estimator().fit(pd.DataFrame(planted, columns=columns))
    assert list(estimator.feature_names_in_) == columns
    assert list(estimator.get_feature_names_out(columns)) == names
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        estimator.transform(planted)


@pytest.mark.parametrize("as_kind", [np.array, pd.DataFrame, torch.tensor])
def test_set_output(planted, as_kind):
    estimator = make_estimator().fit(as_kind(planted))
    codes = np.asarray(estimator.transform(as_kind(planted)))
    for library, frame in (("pandas", pd.DataFrame), ("polars", pl.DataFrame)):
        got = estimator.set_output(transform=library).transform(as_kind(planted))
        assert isinstance(got, frame)
        assert list(got.columns) == list(estimator.get_feature_names_out())
        np.testing.assert_array_equal(got.to_numpy(), codes)
    index = [f"token{i}" for i in range(600)]
    frame = pd.DataFrame(planted, index=index)
    estimator = make_estimator().set_output(transform="pandas").fit(frame)
    assert list(estimator.transform(frame).index) == index


# -- searches --------------------------------------------------------------------------------


class Extractor(TransformerMixin, BaseEstimator):
    """Stands for an ActivationExtractor: from numbers of documents to their activations."""

    def __init__(self, activations):
        self.activations = activations

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        return np.vstack([self.activations[6 * i : 6 * i + 6] for i in X])


def checksum(estimator):
    return zlib.crc32(np.ascontiguousarray(estimator[-1].components_).tobytes())


def score_and_checksum(estimator, X, y=None):
    return {"score": estimator.score(X), "checksum": float(checksum(estimator))}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_search_over_alpha_and_solver_in_two_processes(planted):
    pipeline = Pipeline([("scaler", StandardScaler()), ("dictionary", make_estimator(max_iter=1))])
    grid = {
        "dictionary__solver": list(SOLVERS),
        "dictionary__alpha": list(alpha_grid(StandardScaler().fit_transform(planted), 2)),
    }
    options = {"cv": 2, "scoring": score_and_checksum, "refit": "score", "error_score": "raise"}
    parallel = GridSearchCV(pipeline, grid, n_jobs=2, **options).fit(planted)
    serial = GridSearchCV(pipeline, grid, **options).fit(planted)
    for split in (0, 1):
        name = f"split{split}_test_checksum"  # the same components, bit by bit
        np.testing.assert_array_equal(parallel.cv_results_[name], serial.cv_results_[name])
    np.testing.assert_allclose(
        parallel.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"]
    )
    assert len(set(serial.cv_results_["split0_test_checksum"])) >= 5
    assert checksum(parallel.best_estimator_) == checksum(serial.best_estimator_)
    codes = parallel.transform(planted)
    assert codes.shape == (600, 32)
    assert parallel.inverse_transform(codes).shape == (600, 16)


def test_a_search_from_an_extractor(planted):
    pipeline = make_pipeline(Extractor(planted), make_estimator())
    search = GridSearchCV(
        pipeline,
        {"sparseautoencoderdictionary__alpha": alpha_grid(planted, 3)},
        cv=2,
        scoring=DictionaryScorer(("score", "explained_variance", "l0")),
        refit="score",
    ).fit(np.arange(100))
    l0 = search.cv_results_["mean_test_l0"]
    assert (np.diff(l0) < 0).all()  # more alpha, less active
    assert search.transform(np.arange(10)).shape == (60, 32)
    assert search.score(np.arange(100)) == pytest.approx(search.best_estimator_[-1].score(planted))


def test_a_search_needs_no_scoring(planted):
    search = GridSearchCV(make_estimator(), {"alpha": [0.05, 0.3]}, cv=2).fit(planted)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.score(planted) == pytest.approx(search.best_estimator_.score(planted))


def test_codes_feed_a_classifier(planted):
    y = planted[:, 0] > np.median(planted[:, 0])
    pipeline = make_pipeline(make_estimator(), LogisticRegression())
    assert cross_val_score(pipeline, planted, y, cv=2).mean() > 0.6


# -- parameters that have no effect ------------------------------------------------------------

UNUSED = {
    "autoencoder": {"n_nonzero_coefs": 3},  # of "relu"
    "alternating": {"learning_rate_init": 0.1, "architecture": "topk", "n_nonzero_coefs": 3},
    "dictionary_learning": {"validation_fraction": 0.2, "architecture": TopK(3)},
    "kmeans": {"dict_init": "pca", "early_stopping": True, "shuffle": False},
    "lasso": {"max_iter": 3, "tol": 0.1, "n_iter_no_change": 2},
}
USED = {
    "autoencoder": {"architecture": TopK(), "n_nonzero_coefs": np.int64(3), "tol": 0.1},
    "alternating": {"early_stopping": True, "validation_fraction": 0.2, "shuffle": False},
    "dictionary_learning": {"max_iter": 2, "tol": 0.1, "dict_init": "random"},
    "kmeans": {"n_nonzero_coefs": 2, "max_iter": 3},
    "lasso": {"dict_init": "identity", "warm_start": True},
}


def unused_in(recorded):
    return [str(w.message) for w in recorded if "Leave out what has no effect" in str(w.message)]


@pytest.mark.parametrize(
    "solver, method",
    [(s, "fit") for s in SOLVERS] + [(s, "partial_fit") for s in LEARN_FROM_STREAMS],
)
def test_parameters_without_effect_are_named_once(planted, solver, method):
    estimator = SparseAutoencoderDictionary(32, solver=solver, random_state=0)
    estimator.set_params(**UNUSED[solver])
    with pytest.warns(UserWarning, match="does not use") as recorded:
        getattr(estimator, method)(planted)
    (message,) = unused_in(recorded)
    subject, named = message.split(" does not use ")
    assert subject == ("architecture='relu'" if solver == "autoencoder" else f"solver={solver!r}")
    assert set(named.split(". ")[0].split(", ")) == set(UNUSED[solver])
    assert recorded[0].filename == __file__


@pytest.mark.parametrize("solver", SOLVERS)
def test_parameters_with_an_effect_are_not_warned_of(planted, solver):
    estimator = SparseAutoencoderDictionary(32, solver=solver, random_state=0)
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        estimator.set_params(**USED[solver]).fit(planted)
    assert unused_in(recorded) == []


WITHOUT_EFFECT = [
    (
        {"architecture": "topk", "alpha": 0.1},
        ["alpha=0.1 has hardly .* n_nonzero_coefs"],
    ),
    ({"architecture": TopK(3), "alpha": 0.1}, ["alpha=0.1 .*made sparse by n_nonzero_coefs"]),
    ({"architecture": "jumprelu", "alpha": 0.1, "n_nonzero_coefs": 3}, ["alpha=0.1 has hardly"]),
    ({"architecture": "jumprelu", "alpha": 0.1}, []),
    ({"architecture": "gated", "alpha": 0.1, "n_nonzero_coefs": 3}, ["'gated'.* n_nonzero_coefs"]),
    ({"solver": "kmeans", "alpha": 0.1}, ["solver='kmeans' does not use alpha"]),
    ({"solver": "kmeans", "alpha": 0.1, "transform_algorithm": "lasso"}, []),
    ({"transform_alpha": 0.1}, ["transform_algorithm='encoder' does not use transform_alpha"]),
    ({"transform_alpha": 0.1, "transform_algorithm": "threshold"}, []),
    ({"solver": "lasso", "transform_alpha": 0.1}, []),
    (
        {"solver": "lasso", "transform_algorithm": "omp", "transform_alpha": 0.1},
        ["transform_algorithm='omp' does not use transform_alpha"],
    ),
    ({"transform_n_nonzero_coefs": 2, "transform_algorithm": "omp"}, []),
    (
        {"n_nonzero_coefs": 3, "transform_n_nonzero_coefs": 2},
        ["'relu' does not use n_nonzero_coefs, and .*'encoder' does not use transform_n"],
    ),
]


@pytest.mark.parametrize(("params", "messages"), WITHOUT_EFFECT, ids=str)
def test_what_an_architecture_or_a_coder_does_not_use(planted, params, messages):
    defaults = {"max_iter": 1} if params.get("solver") != "lasso" else {}
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        make_estimator(defaults, **params).fit(planted)
    told = [str(w.message) for w in recorded if "effect" in str(w.message)]
    assert len(told) == len(messages)
    for text, message in zip(told, messages, strict=True):
        assert re.search(message, text)


def test_a_grid_search_over_what_has_no_effect_names_it(planted):
    search = GridSearchCV(make_estimator(max_iter=1), {"n_nonzero_coefs": [2, 3]}, cv=2)
    with pytest.warns(UserWarning, match="does not use n_nonzero_coefs") as recorded:
        search.fit(planted)
    assert len(set(unused_in(recorded))) == 1


def test_a_search_over_alpha_warns_before_it_begins(planted):
    search = SparseAutoencoderDictionaryCV(
        8, solver="alternating", learning_rate_init=0.1, alphas=3, cv=3, max_iter=1
    )
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        search.fit(planted)
    assert len(unused_in(recorded)) == 1
    search.scoring = lambda *args: pytest.fail("a fold was fitted")
    with warnings.catch_warnings(action="error"), pytest.raises(UserWarning, match="does not use"):
        search.fit(planted)


class Fixed(SparseAutoencoderDictionary):
    """A subclass that decides on most parameters."""

    def __init__(self, n_components="auto", *, random_state=None):
        super().__init__(
            n_components,
            architecture="topk",
            n_nonzero_coefs=3,
            max_iter=3,
            random_state=random_state,
        )


def test_a_subclass_with_fewer_parameters(planted):
    params = {"architecture": "topk", "n_nonzero_coefs": 3, "max_iter": 3, "random_state": 0}
    want = SparseAutoencoderDictionary(8, **params)
    with warnings.catch_warnings(action="error"):
        estimator = clone(Fixed(8, random_state=0)).fit(planted)
    np.testing.assert_array_equal(estimator.components_, want.fit(planted).components_)
    assert estimator.partial_fit(planted).score(planted) == want.partial_fit(planted).score(
        planted
    )


def test_what_is_not_fitted_has_no_dictionary():
    estimator = SparseAutoencoderDictionary()
    assert not hasattr(estimator, "dictionary_")
    with pytest.raises(AttributeError, match="is not fitted: call fit first"):
        _ = estimator.dictionary_
