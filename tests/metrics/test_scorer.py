"""Scorers, in searches over dictionaries and over Pipelines from texts."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.decomposition import PCA, SparseCoder
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict.feature_extraction import ActivationExtractor
from skdict.metrics import (
    DictionaryScorer,
    _coding,
    _scorer,
    dead_fraction,
    dense_fraction,
    explained_variance,
    explained_variance_scorer,
    loss_recovered,
    loss_recovered_scorer,
    mean_l0,
    neg_dead_fraction_scorer,
    neg_l0_scorer,
    shrinkage,
)

LAYER = "transformer.h.0.mlp.act"
TEXTS = ["h e l l o w", "z y x w v u", "a b c d", "o w o r l d", "s r q", "h e l l"]
ON_CODES = ("explained_variance", "shrinkage", "l0", "dead_fraction", "dense_fraction")


@pytest.fixture
def X():
    return np.abs(np.random.default_rng(0).normal(size=(50, 6)))


@pytest.fixture
def dictionary(X):
    atoms = np.random.default_rng(1).normal(size=(9, 6))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    atoms[0] = 0  # a dead feature
    atoms[1] /= 5  # and a rare one
    return SparseCoder(atoms, transform_algorithm="threshold", transform_alpha=0.5).fit(X)


class Counting(TransformerMixin, BaseEstimator):
    """Passes rows on, and counts them."""

    def __init__(self):
        self.n_transformed = 0

    def fit(self, X, y=None):
        self.is_fitted_ = True
        return self

    def transform(self, X):
        self.n_transformed += len(X)
        return X

    def inverse_transform(self, X):
        return X

    def score(self, X, y=None):
        return -1.0


def test_same_numbers_as_the_functions(dictionary, X):
    codes = dictionary.transform(X)
    X_hat = dictionary.inverse_transform(codes)
    scores = DictionaryScorer(ON_CODES)(dictionary, X)
    assert list(scores) == list(ON_CODES)
    assert_allclose(scores["explained_variance"], explained_variance(X, X_hat))
    assert_allclose(scores["shrinkage"], shrinkage(X, X_hat))
    assert scores["l0"] == mean_l0(codes)
    assert scores["dead_fraction"] == dead_fraction(codes)
    assert scores["dense_fraction"] == dense_fraction(codes)
    assert 0 < scores["dead_fraction"] < scores["dense_fraction"] < 1
    assert all(type(value) is float for value in scores.values())


def test_single_scorers_are_greater_is_better(dictionary, X):
    scores = DictionaryScorer(ON_CODES)(dictionary, X)
    assert explained_variance_scorer(dictionary, X) == scores["explained_variance"]
    assert neg_l0_scorer(dictionary, X) == -scores["l0"]
    assert neg_dead_fraction_scorer(dictionary, X, None) == -scores["dead_fraction"]


def test_blocks_of_rows(dictionary, X, monkeypatch):
    whole = DictionaryScorer(ON_CODES)(dictionary, X)
    monkeypatch.setattr(_coding, "MIN_ROWS", 7)
    monkeypatch.setattr(_coding, "BLOCK_SIZE", 90)  # ten rows of nine codes
    blocks = DictionaryScorer(ON_CODES)(dictionary, X)
    for name in ON_CODES:
        assert_allclose(blocks[name], whole[name], rtol=1e-12)
    sizes = [len(codes) for _, codes, _ in _coding.coding_blocks(dictionary, X)]
    assert sizes == [7, 10, 10, 10, 10, 3]


def test_every_row_is_coded_once(X):
    before, dictionary = Counting(), Counting()
    pipeline = Pipeline([("before", before), ("dictionary", dictionary)]).fit(X)
    before.n_transformed = 0
    DictionaryScorer(("score", *ON_CODES))(pipeline, X)
    assert before.n_transformed == dictionary.n_transformed == len(X)


@pytest.mark.parametrize("convert", [pd.DataFrame, pl.from_numpy, sp.csr_array, np.ndarray.tolist])
def test_containers(convert, X):
    pca = PCA(3, svd_solver="arpack", random_state=0)
    expected = DictionaryScorer(ON_CODES)(clone(pca).fit(X), X)
    scores = DictionaryScorer(ON_CODES)(pca.fit(convert(X)), convert(X))
    for name in ON_CODES:
        assert_allclose(scores[name], expected[name])


@pytest.mark.parametrize("container", ["pandas", "polars"])
@pytest.mark.filterwarnings("error")
def test_set_output(container, X):
    pipeline = make_pipeline(StandardScaler(), PCA(3)).set_output(transform=container).fit(X)
    scores = DictionaryScorer()(pipeline, X)
    assert scores["l0"] == 3
    expected = DictionaryScorer()(make_pipeline(StandardScaler(), PCA(3)).fit(X), X)
    assert_allclose(list(scores.values()), list(expected.values()))


def test_a_pipeline_of_one_step(X):
    pca = PCA(3).fit(X)
    assert DictionaryScorer()(Pipeline([("pca", pca)]), X) == DictionaryScorer()(pca, X)


def test_grid_search(X):
    search = GridSearchCV(
        PCA(),
        {"n_components": [1, 2, 4]},
        scoring=DictionaryScorer(),
        refit="score",
        cv=2,
    ).fit(X)
    results = search.cv_results_
    assert_array_equal(results["mean_test_l0"], [1, 2, 4])
    assert np.all(np.diff(results["mean_test_explained_variance"]) > 0)
    likelihood = GridSearchCV(PCA(), {"n_components": [1, 2, 4]}, cv=2).fit(X)
    assert_allclose(results["mean_test_score"], likelihood.cv_results_["mean_test_score"])
    assert search.best_params_ == likelihood.best_params_


def test_scorers_in_a_dict(X):
    scoring = {"explained_variance": explained_variance_scorer, "neg_l0": neg_l0_scorer}
    results = cross_validate(PCA(2), X, scoring=scoring, cv=2, error_score="raise")
    assert_array_equal(results["test_neg_l0"], [-2, -2])


@pytest.mark.parametrize(
    "scorer",
    [
        DictionaryScorer(("l0", "shrinkage")),
        explained_variance_scorer,
        neg_l0_scorer,
        neg_dead_fraction_scorer,
        loss_recovered_scorer,
    ],
)
def test_scorers_can_be_pickled(scorer):
    assert pickle.loads(pickle.dumps(scorer)) == scorer


def test_repr():
    assert repr(DictionaryScorer(("l0",))) == "DictionaryScorer(metrics=('l0',))"


def text_pipeline(model, tokenizer, **parameters):
    extractor = ActivationExtractor(model, LAYER, tokenizer=tokenizer, **parameters)
    return Pipeline([("extractor", extractor), ("dictionary", PCA(4))])


def test_grid_search_from_texts(language_model):
    model, tokenizer = language_model
    scoring = DictionaryScorer(("explained_variance", "l0", *_scorer.LOSS_METRICS))
    search = GridSearchCV(
        text_pipeline(model, tokenizer),
        {"dictionary__n_components": [1, 10]},
        scoring=scoring,
        refit="loss_recovered_zero",
        cv=2,
        error_score="raise",
    ).fit(TEXTS)
    results = search.cv_results_
    assert_array_equal(results["mean_test_l0"], [1, 10])
    assert_allclose(
        results["mean_test_delta_cross_entropy"],
        results["mean_test_cross_entropy_dictionary"] - results["mean_test_cross_entropy_clean"],
    )
    # candidates share the model, hence what does not depend on the dictionary
    for name in ("clean", "zero", "mean"):
        first, second = results[f"mean_test_cross_entropy_{name}"]
        assert_allclose(first, second)
    assert np.isfinite(results["mean_test_kl_divergence"]).all()

    pipeline = search.best_estimator_
    expected = loss_recovered(
        model, LAYER, pipeline.named_steps["dictionary"], TEXTS, tokenizer=tokenizer
    )
    scores = scoring(pipeline, TEXTS)
    assert_allclose(
        [scores[name] for name in _scorer.LOSS_METRICS],
        [expected[name] for name in _scorer.LOSS_METRICS],
        rtol=1e-4,
        atol=1e-6,
    )
    assert loss_recovered_scorer(pipeline, TEXTS) == scores["loss_recovered_zero"]


def test_steps_between_extractor_and_dictionary(language_model):
    model, tokenizer = language_model
    steps = [
        ActivationExtractor(model, LAYER, tokenizer=tokenizer),
        StandardScaler(),
        PCA(4),
    ]
    pipeline = make_pipeline(*steps).fit(TEXTS)
    scaler, pca = pipeline[1], pipeline[2]

    def dictionary(X):
        return scaler.inverse_transform(pca.inverse_transform(pca.transform(scaler.transform(X))))

    expected = loss_recovered(model, LAYER, dictionary, TEXTS, tokenizer=tokenizer)
    assert_allclose(
        loss_recovered_scorer(pipeline, TEXTS), expected.loss_recovered_zero, rtol=1e-4
    )


def test_the_extractors_parameters_are_heeded(language_model):
    model, tokenizer = language_model
    parameters = {"side": "input", "max_length": 4, "batch_size": 2}
    pipeline = text_pipeline(model, tokenizer, **parameters).fit(TEXTS)
    expected = loss_recovered(
        model, LAYER, pipeline["dictionary"], TEXTS, tokenizer=tokenizer, **parameters
    )
    assert loss_recovered_scorer(pipeline, TEXTS) == expected.loss_recovered_zero


def test_a_model_from_a_folder_is_loaded_once(language_model, tmp_path, monkeypatch):
    model, tokenizer = language_model
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = []

    def from_pretrained(*args, **kwargs):
        loaded.append(args)
        return original(*args, **kwargs)

    original = type(model).from_pretrained
    monkeypatch.setattr(type(model), "from_pretrained", from_pretrained)
    by_name = text_pipeline(str(tmp_path), "auto").fit(TEXTS)
    ready = text_pipeline(model, tokenizer).fit(TEXTS)
    assert_allclose(
        loss_recovered_scorer(by_name, TEXTS), loss_recovered_scorer(ready, TEXTS), rtol=1e-3
    )
    assert len(loaded) == 1


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("l0", "metrics must be a tuple of names, but is 'l0'"),
        ((), "metrics must be a tuple"),
        (("l0", "l1"), r"unknown names \['l1'\]"),
    ],
)
def test_bad_metrics(metrics, message):
    with pytest.raises(ValueError, match=message):
        DictionaryScorer(metrics)


def test_estimators_that_cannot_be_scored(X, language_model):
    with pytest.raises(TypeError, match="LogisticRegression has no method transform"):
        explained_variance_scorer(LogisticRegression(), X)
    with pytest.raises(TypeError, match="starts with an ActivationExtractor, but got a PCA"):
        loss_recovered_scorer(PCA(2).fit(X), TEXTS)
    with pytest.raises(TypeError, match="but got a StandardScaler"):
        loss_recovered_scorer(make_pipeline(StandardScaler(), PCA(2)).fit(X), TEXTS)
    arrays = Pipeline(
        [
            ("extractor", ActivationExtractor(language_model[0], LAYER, tokenizer=None)),
            ("dictionary", PCA(2)),
        ]
    )
    with pytest.raises(ValueError, match="has tokenizer=None"):
        loss_recovered_scorer(arrays, TEXTS)
