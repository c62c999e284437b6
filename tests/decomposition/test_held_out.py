"""Held-out samples of a fit, its figures on them, and what it says of samples learned by heart."""

import pickle
import warnings

import numpy as np
import pytest
from dictionary_testing import fitted_attributes, make_estimator
from sklearn.base import clone

from skdict.decomposition import SparseAutoencoderDictionary
from skdict.metrics import explained_variance, mean_l0


def test_figures_of_held_out_samples_are_those_of_the_metrics(planted):
    estimator = make_estimator(early_stopping="auto").fit(planted)
    held_out = estimator._held_out[:].numpy()
    is_held_out = (planted[:, None] == held_out).all(axis=2).any(axis=1)
    assert is_held_out.sum() == len(held_out) == 60
    for name, part in (("train", planted[~is_held_out]), ("validation", held_out)):
        codes = estimator.transform(part)
        variance = explained_variance(part, estimator.inverse_transform(codes))
        assert getattr(estimator, f"{name}_explained_variance_") == pytest.approx(variance)
        assert getattr(estimator, f"{name}_l0_") == pytest.approx(mean_l0(codes))
    assert estimator.validation_score_ == estimator.score(held_out)
    restored = pickle.loads(pickle.dumps(estimator))
    assert restored.validation_score_ == estimator.validation_score_
    assert not hasattr(restored, "_held_out")
    assert fitted_attributes(restored) == fitted_attributes(estimator) | {"validation_score_"}
    estimator.partial_fit(planted)
    assert not hasattr(estimator, "validation_score_")


def test_only_where_atoms_have_few_samples_some_are_held_out(planted):
    for n_components, n_samples in ((9, 600), (10, 600), (32, 90), (32, 91), (32, 600)):
        estimator = make_estimator(n_components=n_components, early_stopping="auto", max_iter=1)
        estimator.fit(planted[:n_samples])
        is_held_out = n_components > 9 and n_samples > 90
        assert hasattr(estimator, "validation_l0_") is is_held_out
        assert hasattr(estimator, "validation_score_") is is_held_out
        assert hasattr(estimator, "train_l0_")


def test_samples_learned_by_heart_are_warned_of():
    """Of noise there is nothing to learn that other noise has."""
    X = np.random.default_rng(0).normal(size=(300, 32))
    with pytest.warns(UserWarning, match=r"has learned samples by heart: it explains") as caught:
        estimator = SparseAutoencoderDictionary(256, random_state=0).fit(X)
    (message,) = [str(warning.message) for warning in caught]
    known, new = estimator.train_explained_variance_, estimator.validation_explained_variance_
    assert new < 0.75 * known
    assert f"it explains {known:.2f} of" in message and f"and {new:.2f} of 30 that" in message
    assert "256 atoms were learned from 270 samples" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SparseAutoencoderDictionary(256, random_state=0, max_iter=1).fit(X[:90])  # too few to tell
        X[(X[:, None] == estimator._held_out[:].numpy()).all(axis=2).any(axis=1)] = 0
        estimator.fit(X)  # the same are held out: they have no variance to explain
    assert estimator.validation_explained_variance_ == 0  # as skdict.metrics.explained_variance


def test_as_many_atoms_as_the_samples_are_enough_for():
    X = np.random.default_rng(0).normal(size=(2000, 8))
    for n_samples, want in ((10, 16), (250, 16), (400, 25), (2000, 32)):
        estimator = SparseAutoencoderDictionary(max_iter=1, random_state=0, early_stopping=False)
        assert len(estimator.fit(X[:n_samples]).components_) == want
    assert len(estimator.partial_fit(X[:100]).components_) == 32  # goes on
    assert len(clone(estimator).partial_fit(X[:100]).components_) == 32  # whatever the portion
