"""Codes of a dictionary of ours stay sparse, and the dictionary stays what the user made it."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, issparse
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skdict import SparseAutoencoderDictionary
from skdict.inspection import (
    FeatureDashboard,
    collect_codes,
    feature_effects,
    feature_statistics,
    replace_activations,
    steer,
    top_activations,
)
from skdict.inspection.codes._directions import feature_directions
from skdict.metrics import DictionaryScorer, explained_variance, loss_recovered

LAYER = "transformer.h.0.mlp.act"
METRICS = ("explained_variance", "shrinkage", "l0", "dead_fraction", "dense_fraction")


@pytest.fixture(scope="module")
def dictionary(activations):
    sae = SparseAutoencoderDictionary(64, n_nonzero_coefs=4, architecture="topk", random_state=0)
    return sae.set_params(max_iter=1).fit(activations[:2000])


@pytest.fixture
def seen(monkeypatch):
    """What `transform` returns and `inverse_transform` is given, as they are called."""
    seen = []
    transform = SparseAutoencoderDictionary.transform
    inverse_transform = SparseAutoencoderDictionary.inverse_transform

    def spy_on_codes(self, X):
        codes = transform(self, X)
        seen.append(codes)
        return codes

    def spy_on_decoded(self, X):
        seen.append(X)
        return inverse_transform(self, X)

    monkeypatch.setattr(SparseAutoencoderDictionary, "transform", spy_on_codes)
    monkeypatch.setattr(SparseAutoencoderDictionary, "inverse_transform", spy_on_decoded)
    return seen


def check_sparse(seen):
    """All codes but the single row of zeros that tells the intercept."""
    seen = [codes for codes in seen if codes.shape[0] > 1 or np.any(codes)]
    assert seen and all(
        codes.layout is torch.sparse_csr if isinstance(codes, torch.Tensor) else issparse(codes)
        for codes in seen
    )


def test_metrics(dictionary, activations, seen):
    X = activations[:3000]
    dictionary.set_output(transform="pandas")
    try:
        scores = DictionaryScorer(METRICS)(dictionary, X)
        check_sparse(seen)
    finally:
        dictionary.set_output(transform="default")
    assert dictionary.sparse_output is False
    codes = dictionary.transform(X)
    assert isinstance(codes, np.ndarray)
    assert scores["l0"] == np.count_nonzero(codes) / len(X)
    expected = explained_variance(X, dictionary.inverse_transform(codes))
    assert scores["explained_variance"] == pytest.approx(expected, rel=1e-6)


def test_interventions(language, texts, dictionary, seen):
    """With a step before the dictionary, which needs NumPy; alone it is in torch."""
    model, tokenizer = language.model, language.tokenizer
    halved = make_pipeline(FunctionTransformer(lambda X: X / 2, lambda X: 2 * X), dictionary)
    ids = tokenizer(texts[0], return_tensors="pt").input_ids[:, :40]
    for context in (
        replace_activations(model, LAYER, halved),
        replace_activations(model, LAYER, halved, scale={3: 0.0}),
        replace_activations(model, LAYER, halved, scale={3: 0.0}, keep_error=True),
        steer(model, LAYER, halved, 3, clamp=2.0),
    ):
        del seen[:]
        with context:
            model(ids)
        check_sparse(seen)
    del seen[:]
    loss_recovered(model, LAYER, halved, texts[:2], tokenizer=tokenizer)
    check_sparse(seen)
    assert dictionary.sparse_output is False


def test_results_and_effects(extractor, dictionary, texts, activations, seen):
    pipeline = make_pipeline(extractor, dictionary)
    rows = [np.arange(40), np.arange(40)]
    for function in (
        lambda: top_activations(collect_codes(dictionary, activations), [0, 3]),
        lambda: feature_statistics(collect_codes(dictionary, activations), [0, 3]),
        lambda: feature_effects(pipeline, texts[:3], [0, 3], rows=rows),
        lambda: FeatureDashboard.from_pipeline(pipeline, texts[:3], features=[0, 3]),
    ):
        del seen[:]
        function()
        check_sparse(seen)
    assert dictionary.sparse_output is False


@pytest.mark.parametrize("last", [SparseAutoencoderDictionary, PCA])
def test_directions(activations, last):
    """Of each feature its atom, in the units that the first step is given."""
    X = activations[:1500]
    last = last(8, random_state=0)
    if isinstance(last, SparseAutoencoderDictionary):
        last.set_params(max_iter=1)
    pipeline = make_pipeline(StandardScaler(), last).fit(X)
    features = np.array([5, 0, 5])
    expected = last.components_[features] * pipeline[0].scale_
    found = feature_directions(pipeline, features)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert_array_equal(found[0], found[2])
    assert feature_directions(pipeline, features[:0]).shape == (0, X.shape[1])
    assert_array_equal(feature_directions(csr_array(np.eye(4)), np.array([2])), np.eye(4)[[2]])
