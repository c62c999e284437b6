"""What is gathered in blocks, against the same found in memory by plain sorting and counting."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict.decomposition import SparseAutoencoderDictionary
from skdict.inspection import (
    _blocks,
    _collect,
    feature_statistics,
    top_activations,
    width_curve,
)
from skdict.utils import _texts


@pytest.fixture
def codes():
    rng = np.random.default_rng(1)
    codes = rng.integers(1, 9, (300, 12)) * (rng.random((300, 12)) < 0.3)
    codes = codes.astype(np.float64)
    codes[:, 5] = 0
    return codes


@pytest.fixture(params=["one block", "many blocks"])
def small_blocks(request, monkeypatch):
    if request.param == "many blocks":
        monkeypatch.setattr(_blocks, "BLOCK_SIZE", 12 * 7)
        monkeypatch.setattr(_collect, "MAX_WAITING", 50)


def interval_of(values, maximum, n):
    edges = maximum * np.arange(n + 1) / n
    return np.minimum(np.searchsorted(edges, values, side="right") - 1, n - 1)


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array])
def test_statistics(codes, convert, small_blocks):
    features = [3, 5, 0]
    found = feature_statistics(convert(codes), features, n_bins=4)
    assert found.n_samples == 300
    assert_array_equal(found.feature, features)
    for i, j in enumerate(features):
        active = codes[codes[:, j] > 0, j]
        assert found.n_active[i] == len(active)
        assert found.density[i] == len(active) / 300
        assert found.maximum[i] == active.max(initial=0)
        if len(active):
            assert_allclose(found.mean[i], active.mean())
            bins = interval_of(active, active.max(), 4)
            assert_array_equal(found.histogram[i], np.bincount(bins, minlength=4))
        else:
            assert np.isnan(found.mean[i]) and found.histogram[i].sum() == 0


def test_codes_on_an_edge_are_in_the_bin_above():
    codes = np.arange(1, 50.0)[:, None]
    histogram = feature_statistics(codes, n_bins=49).histogram
    assert_array_equal(histogram, [[0] + [1] * 47 + [2]])
    assert feature_statistics([[0.29], [1.0]], n_bins=100).histogram[0, 29] == 1


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array])
def test_examples(codes, convert, small_blocks):
    tops = top_activations(
        convert(codes), n_top=7, n_intervals=3, n_per_interval=4, n_random=9, random_state=3
    )
    assert len(tops) == 12
    for j, top in enumerate(tops):
        active = np.flatnonzero(codes[:, j] > 0)
        order = sorted(active, key=lambda i: -codes[i, j])
        assert_array_equal(top.rows, order[:7])
        assert_array_equal(top.activations, codes[top.rows, j])
        assert len(top.random.rows) == min(9, len(active)) == len(set(top.random.rows))
        assert set(top.random.rows) <= set(active)
        assert_array_equal(top.random.activations, codes[top.random.rows, j])
        assert len(top.intervals) == 3
        for k, interval in enumerate(top.intervals):
            in_it = active[interval_of(codes[active, j], codes[:, j].max(initial=1), 3) == k]
            assert len(interval.rows) == min(4, len(in_it)) == len(set(interval.rows))
            assert set(interval.rows) <= set(in_it)
            assert_array_equal(interval.activations, codes[interval.rows, j])
        assert len(top.near_misses.rows) == 0


def test_draws_do_not_depend_on_blocks_but_on_the_seed(codes, monkeypatch):
    def drawn(seed):
        tops = top_activations(codes, n_intervals=2, n_random=5, random_state=seed)
        return [(t.random.rows.tolist(), t.intervals[1].rows.tolist()) for t in tops]

    whole = drawn(0)
    assert drawn(0) == whole
    assert drawn(1) != whole
    monkeypatch.setattr(_blocks, "BLOCK_SIZE", 12 * 5)
    monkeypatch.setattr(_collect, "MAX_WAITING", 20)
    assert drawn(0) == whole


def test_draws_are_uniform():
    codes = np.ones((20, 3))
    counts = np.zeros((3, 20))
    for seed in range(600):
        for j, top in enumerate(top_activations(codes, n_random=5, random_state=seed)):
            counts[j, top.random.rows] += 1
    # binomial: 600 draws with probability 1/4 each, standard deviation 10.6
    assert abs(counts - 150).max() < 4.5 * 10.6
    assert counts.std() > 5
    pairs = np.corrcoef(counts)  # the features draw independently
    assert abs(pairs[np.triu_indices(3, 1)]).max() < 0.8


@pytest.mark.parametrize("n_rows", [2**16, 90])
def test_near_misses(activations, dictionary, n_rows, monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK_SIZE", 512 * n_rows)
    monkeypatch.setattr(_collect, "MAX_WAITING", n_rows)
    X = activations[:400]
    features = [4, 0, 9]
    codes, projections = dictionary.transform(X), X @ dictionary.components_[features].T
    tops = top_activations(X, features, dictionary=dictionary, n_near_misses=6)
    for i, (j, top) in enumerate(zip(features, tops, strict=True)):
        silent = np.flatnonzero(codes[:, j] == 0)
        expected = silent[np.argsort(-projections[silent, i])][:6]
        assert_array_equal(top.near_misses.rows, expected)
        assert_allclose(top.near_misses.projections, projections[expected, i], rtol=1e-5)
        order = np.argsort(-codes[:, j])
        assert_allclose(top.activations, codes[order, j][: len(top.rows)], atol=1e-6)


def test_near_misses_of_wide_sparse_activations(monkeypatch):
    """No more rows are made dense than few."""
    X = sp.random_array((500, 300), density=0.01, format="csr", rng=np.random.default_rng(0))
    svd = TruncatedSVD(3, random_state=0).fit(X)
    expected = top_activations(X, [0], dictionary=svd, n_near_misses=4)[0].near_misses
    sizes, to_dense = [], _collect.float64_block
    monkeypatch.setattr(
        _collect,
        "float64_block",
        lambda X, rows: (sizes.append(X[rows].shape), to_dense(X, rows))[1],
    )
    monkeypatch.setattr(_collect, "MAX_WAITING", 3000)
    found = top_activations(X, [0], dictionary=svd, n_near_misses=4)[0].near_misses
    assert max(np.prod(size) for size in sizes) <= 2 * 3000
    assert_array_equal(found.rows, expected.rows)


def test_names_of_columns(activations):
    """Of a DataFrame they reach the dictionary."""
    frame = pd.DataFrame(activations[:300, :6], columns=list("abcdef"))
    scale = ColumnTransformer([("scaled", StandardScaler(), list("fedc"))])
    pipeline = make_pipeline(scale, PCA(2)).fit(frame)
    codes = pipeline.transform(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tops = top_activations(frame, dictionary=pipeline, n_top=3)
        pca = PCA(2).fit(frame)
        near = top_activations(frame, [0], dictionary=pca, n_near_misses=3)[0].near_misses
        nameless = PCA(2).fit(frame.to_numpy())
        top_activations(frame, dictionary=nameless)
    assert_array_equal(tops[1].rows, np.argsort(-codes[:, 1])[:3])
    assert len(near.rows) == 3


def test_from_activations_memory_maps_and_texts(
    tmp_path, extractor, texts, activations, dictionary, monkeypatch
):
    monkeypatch.setattr(_blocks, "BLOCK_SIZE", 512 * 1000)
    monkeypatch.setattr(_texts, "CHARACTERS_AT_ONCE", 5000)
    codes = dictionary.transform(activations)
    expected = top_activations(codes, n_top=5)
    np.save(tmp_path / "X.npy", activations)
    pipeline = make_pipeline(extractor, dictionary)
    for X, model in (
        (activations, dictionary),
        (np.load(tmp_path / "X.npy", mmap_mode="r"), dictionary),
        (texts, pipeline),
    ):
        statistics = feature_statistics(X, dictionary=model, n_bins=5)
        assert statistics.n_samples == len(activations)
        assert_array_equal(statistics.n_active, (codes > 0).sum(axis=0))
        assert_allclose(statistics.maximum, codes.max(axis=0), rtol=1e-5)
        for top, same in zip(top_activations(X, dictionary=model, n_top=5), expected, strict=True):
            assert_allclose(top.activations, same.activations, rtol=1e-4)
    assert dictionary.sparse_output is False  # what is not ours is left as it is


def test_codes_are_never_held_at_once(monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK_SIZE", 64 * 10)
    X = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    dictionary = SparseAutoencoderDictionary(64, max_iter=1, random_state=0).fit(X)
    sizes = []
    transform = SparseAutoencoderDictionary.transform
    monkeypatch.setattr(
        SparseAutoencoderDictionary,
        "transform",
        lambda self, rows: sizes.append(len(rows)) or transform(self, rows),
    )
    top_activations(X, dictionary=dictionary, n_intervals=2)
    assert max(sizes) == 10 and sum(sizes) == 400  # two passes


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones((3, 2)),), {"n_near_misses": 2}, r"n_near_misses needs a dictionary"),
        ((np.ones((3, 2)), [5]), {}, r"features has 5, but there are 2 columns"),
        ((["text"],), {}, r"X must be a matrix"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        top_activations(*arguments, **options)


def test_no_dictionary():
    with pytest.raises(TypeError, match=r"dictionary must be a fitted estimator with transform"):
        top_activations(np.ones((3, 2)), dictionary=np.eye(2))


def test_steps_that_work_in_place(activations, tmp_path):
    """They neither change the caller's array nor what the others are given."""
    X = activations[:400].copy()
    kept = {}
    for copy in (True, False):
        pca = PCA(4, svd_solver="full")
        pipeline = make_pipeline(StandardScaler(copy=copy), pca).fit(activations[:400].copy())
        near = top_activations(X, [1], dictionary=pipeline, n_near_misses=3)[0].near_misses
        curve = width_curve([pipeline, pipeline], X)
        kept[copy] = near.rows, curve.explained_variance
        assert_array_equal(X, activations[:400])
    assert_array_equal(kept[True][0], kept[False][0])
    assert_allclose(kept[True][1], kept[False][1], rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of arrays that cannot be written to
        top_activations(X, dictionary=SparseAutoencoderDictionary(8, max_iter=1).fit(X))
