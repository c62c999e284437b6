"""The predicted noise of a shuffle: on the safe side of a trained dictionary's gradients."""

import numpy as np
import pytest
import torch

from skdict._core.data import mixing, shuffle
from skdict._core.data.source import Source
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from tests.views_testing import ArrayView

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def documents():
    """Activations of 256 documents of 128 rows, each with a topic: a few features of its own."""
    X, atoms, codes = make_superposition(
        n_samples=32768, n_features=32, n_components=64, random_state=0
    )
    rng = np.random.default_rng(0)
    of_topic = rng.random((256, 64)) < 0.05
    strength = rng.exponential(1, codes.shape) * np.repeat(of_topic, 128, axis=0)
    strength *= rng.random(codes.shape) < 0.5
    return (X + strength @ atoms).astype(np.float32)


def source_of(X, chunk_rows=64):
    return Source(ArrayView(X, chunk_rows=chunk_rows), CPU)


def effect_of_gradients(X, chunk_rows):
    """The design effect of the gradients of a trained dictionary, directly."""
    params = {"architecture": "topk", "n_nonzero_coefs": 6, "max_iter": 3, "random_state": 0}
    estimator = SparseAutoencoderDictionary(64, **params).fit(X)
    codes = estimator.transform(X)
    residual = X - estimator.inverse_transform(codes)
    rng = np.random.default_rng(0)
    gradients = np.stack(
        [
            (codes @ rng.standard_normal(codes.shape[1]))
            * (residual @ rng.standard_normal(X.shape[1]))
            for _ in range(64)
        ],
        axis=1,
    )
    means = gradients.reshape(-1, chunk_rows, 64).mean(axis=1)
    return chunk_rows * means.var(axis=0).sum() / gradients.var(axis=0).sum()


def test_prediction_is_on_the_safe_side_of_a_trained_dictionary(documents):
    true = effect_of_gradients(documents, 64)
    predicted = mixing.design_effect(source_of(documents))
    assert true > 1.3
    assert 0.8 * (true - 1) < predicted - 1 < 5 * (true - 1)


def test_rows_that_are_mixed_have_no_effect(documents):
    order = np.random.default_rng(0).permutation(len(documents))
    assert mixing.design_effect(source_of(documents[order])) < 1.1
    assert mixing.design_effect(source_of(np.ones((640, 3)))) == 1


def test_a_larger_buffer_predicts_less_noise(documents):
    source = source_of(documents)
    ratios = []
    for n_batches in (4, 16, 64):
        source.X.buffer_bytes = 2 * n_batches * 128 * 32 * 4
        ratios.append(mixing.predicted_ratio(source, 128) - 1)
    np.testing.assert_allclose(np.divide(ratios[:-1], ratios[1:]), 4)
    source.X.buffer_bytes = 2 * documents.nbytes
    assert mixing.predicted_ratio(source, 128) == 1


def test_a_small_buffer_is_warned_of_with_what_is_needed(documents):
    view = ArrayView(documents, chunk_rows=64)
    estimator = SparseAutoencoderDictionary(16, batch_size=128, max_iter=1, random_state=0)
    view.buffer_bytes = 2 * 8 * 128 * 32 * 4
    with pytest.warns(UserWarning, match="only 8 batches.*times as noisy.*buffer_bytes=") as told:
        estimator.fit(view)
    needed = int(str(told[0].message).split("buffer_bytes=")[1].split()[0])
    view.buffer_bytes = needed
    assert mixing.warning_of_mixing(Source(view, CPU), 128) is None
    assert needed <= 8 * 8 * 128 * 32 * 4 * 10


@pytest.mark.filterwarnings("error")
def test_a_buffer_that_is_not_limited_by_its_bytes_is_not_looked_at(documents, monkeypatch):
    view = ArrayView(documents, chunk_rows=64)
    monkeypatch.setattr(mixing, "design_effect", lambda source: pytest.fail("was read"))
    assert mixing.warning_of_mixing(Source(view, CPU), 16) is None
    assert Source(view, CPU).batches_in_buffer(16) == shuffle.BUFFER_BATCHES
    assert mixing.warning_of_mixing(Source(documents, CPU), 16) is None  # no store
    view.buffer_bytes = 1000
    estimator = SparseAutoencoderDictionary(16, shuffle=False, max_iter=1, random_state=0)
    estimator.fit(view)
