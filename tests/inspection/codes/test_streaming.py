"""What is gathered in blocks, against the same found in memory by plain sorting and counting."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import (
    FeatureDensityDisplay,
    collect_codes,
    feature_statistics,
    top_activations,
    width_curve,
)
from skdict.inspection.codes import _activations, _active, _near, _nearness, _store


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
        monkeypatch.setattr(_store, "BLOCK_ENTRIES", 12 * 7)


def interval_of(values, maximum, n):
    edges = maximum * np.arange(n + 1) / n
    return np.minimum(np.searchsorted(edges, values, side="right") - 1, n - 1)


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array])
def test_statistics(codes, convert, small_blocks):
    features = [3, 5, 0]
    found = feature_statistics(convert(codes), features, n_intervals=4)
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


def test_statistics_are_a_table(codes):
    table = pd.DataFrame(feature_statistics(codes, n_intervals=4))
    assert len(table) == codes.shape[1] and (table.n_samples == 300).all()
    assert [counts.sum() for counts in table.histogram] == table.n_active.tolist()


def test_codes_on_an_edge_are_in_the_bin_above():
    codes = np.arange(1, 50.0)[:, None]
    histogram = feature_statistics(codes, n_intervals=49).histogram
    assert_array_equal(histogram, [[0] + [1] * 47 + [2]])
    assert feature_statistics([[0.29], [1.0]], n_intervals=100).histogram[0][29] == 1


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
        assert_array_equal(top.codes, codes[top.rows, j])
        assert len(top.random.rows) == min(9, len(active)) == len(set(top.random.rows))
        assert set(top.random.rows) <= set(active)
        assert_array_equal(top.random.codes, codes[top.random.rows, j])
        assert len(top.intervals) == 3
        for k, interval in enumerate(top.intervals):
            in_it = active[interval_of(codes[active, j], codes[:, j].max(initial=1), 3) == k]
            assert len(interval.rows) == min(4, len(in_it)) == len(set(interval.rows))
            assert set(interval.rows) <= set(in_it)
            assert_array_equal(interval.codes, codes[interval.rows, j])
        assert top.near_misses is None


def test_draws_do_not_depend_on_blocks_but_on_the_seed(codes, monkeypatch):
    def drawn(seed):
        tops = top_activations(codes, n_intervals=2, n_random=5, random_state=seed)
        return [(t.random.rows.tolist(), t.intervals[1].rows.tolist()) for t in tops]

    whole = drawn(0)
    assert drawn(0) == whole
    assert drawn(1) != whole
    monkeypatch.setattr(_store, "BLOCK_ENTRIES", 12 * 5)
    assert drawn(0) == whole


@pytest.mark.slow
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
    monkeypatch.setattr(_activations, "PORTION_ENTRIES", 512 * n_rows)
    X = activations[:400]
    features = [4, 0, 9]
    codes = dictionary.transform(X)
    pre_activations = (X.astype(float) - dictionary.intercept_) @ dictionary.encoder_coef_.T
    pre_activations += dictionary.encoder_intercept_
    tops = top_activations(collect_codes(dictionary, X, n_near_misses=6), features)
    for j, top in zip(features, tops, strict=True):
        silent = np.flatnonzero(codes[:, j] == 0)
        expected = silent[np.argsort(-pre_activations[silent, j])][:6]
        assert_array_equal(top.near_misses.rows, expected)
        assert_allclose(
            top.near_misses.pre_activations, pre_activations[expected, j], rtol=1e-4, atol=1e-6
        )
        order = np.argsort(-codes[:, j])
        assert_allclose(top.codes, codes[order, j][: len(top.rows)], atol=1e-6)


@pytest.mark.parametrize(
    "params",
    [
        {"architecture": "relu"},
        {"architecture": "jumprelu"},
        {"architecture": "batch_topk", "n_nonzero_coefs": 6},
        {"architecture": "gated"},
    ],
)
@pytest.mark.parametrize("scaled", [False, True])
def test_near_misses_are_the_first_to_become_active(activations, params, scaled):
    """When the encoder's bias is raised, little by little."""
    X = activations[:600, :40].astype(np.float64) + 3  # the mean is to be subtracted
    sae = SparseAutoencoderDictionary(32, max_iter=3, random_state=0, **params)
    pipeline = make_pipeline(*[StandardScaler()] * scaled, sae).fit(X)
    codes = pipeline.transform(X)
    features = np.argsort(-(codes > 0).mean(axis=0))[[3, 8]]
    tops = top_activations(collect_codes(pipeline, X, n_near_misses=5), features)
    for j, top in zip(features, tops, strict=True):
        silent, given = codes[:, j] == 0, sae.encoder_intercept_.copy()
        low, high = 0.0, 1e3
        for _ in range(60):  # bisection for a bias with which five more rows are active
            middle = (low + high) / 2
            sae.encoder_intercept_ = given + middle * (np.arange(32) == j)
            woken = np.flatnonzero(silent & (pipeline.transform(X)[:, j] > 0))
            low, high = (middle, high) if len(woken) < 5 else (low, middle)
            if len(woken) == 5:
                break
        sae.encoder_intercept_ = given
        assert_array_equal(np.sort(top.near_misses.rows), woken)


def test_near_misses_of_dictionaries_without_an_encoder(activations):
    """They lie along the atom, which is not what makes the codes of an algorithm."""
    X = activations[:300, :40]
    sae = SparseAutoencoderDictionary(32, max_iter=2, random_state=0).fit(X)
    sae.set_params(transform_algorithm="lasso")
    for dictionary in (PCA(4).fit(X), sae):
        codes, projections = dictionary.transform(X), X @ dictionary.components_.T
        (near,) = (
            top.near_misses
            for top in top_activations(collect_codes(dictionary, X, n_near_misses=5), [2])
        )
        silent = np.flatnonzero((codes[:, 2] <= 0) & (projections[:, 2] > 0))
        expected = silent[np.argsort(-projections[silent, 2])][:5]
        assert_array_equal(near.rows, expected)
        assert_allclose(near.projections, projections[expected, 2], rtol=1e-4)


def test_near_misses_of_wide_sparse_activations(monkeypatch):
    """No more rows are made dense than few."""
    X = sp.random_array((500, 300), density=0.01, format="csr", rng=np.random.default_rng(0))
    svd = TruncatedSVD(3, random_state=0).fit(X)
    expected = top_activations(collect_codes(svd, X, n_near_misses=4), [0])[0].near_misses
    sizes, to_dense = [], _nearness._dense
    monkeypatch.setattr(_nearness, "_dense", lambda X: (sizes.append(X.shape), to_dense(X))[1])
    monkeypatch.setattr(_near, "FIRST_ENTRIES", 3000)
    monkeypatch.setattr(_near, "ENTRIES", 3000)
    found = top_activations(collect_codes(svd, X, n_near_misses=4), [0])[0].near_misses
    assert max(np.prod(size) for size in sizes) <= 2 * 3000
    assert_array_equal(found.rows, expected.rows)


def test_names_of_columns():
    """Of a DataFrame they reach the dictionary."""
    # far from 0 along each axis: rows below the mean have positive projections, near misses
    X = np.random.default_rng(0).normal(20, [6, 5, 4, 3, 2, 1], (300, 6))
    frame = pd.DataFrame(X, columns=list("abcdef"))
    scale = ColumnTransformer([("scaled", StandardScaler(), list("fedc"))])
    pipeline = make_pipeline(scale, PCA(2)).fit(frame)
    codes = pipeline.transform(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tops = top_activations(collect_codes(pipeline, frame), n_top=3)
        pca = PCA(2).fit(frame)
        near = top_activations(collect_codes(pca, frame, n_near_misses=3), [0])[0].near_misses
        nameless = PCA(2).fit(frame.to_numpy())
        top_activations(collect_codes(nameless, frame))
    assert_array_equal(tops[1].rows, np.argsort(-codes[:, 1])[:3])
    assert len(near.rows) == 3


@pytest.mark.slow
def test_from_activations_memory_maps_and_texts(
    tmp_path, extractor, texts, activations, dictionary, monkeypatch
):
    monkeypatch.setattr(_activations, "PORTION_ENTRIES", 512 * 1000)
    monkeypatch.setattr("skdict._core.language.texts.CHARACTERS_AT_ONCE", 5000)
    codes = dictionary.transform(activations)
    expected = top_activations(codes, n_top=5)
    np.save(tmp_path / "X.npy", activations)
    pipeline = make_pipeline(extractor, dictionary)
    for X, model in (
        (activations, dictionary),
        (np.load(tmp_path / "X.npy", mmap_mode="r"), dictionary),
        (texts, pipeline),
    ):
        statistics = feature_statistics(collect_codes(model, X), n_intervals=5)
        assert statistics.n_samples == len(activations)
        assert_array_equal(statistics.n_active, (codes > 0).sum(axis=0))
        assert_allclose(statistics.maximum, codes.max(axis=0), rtol=1e-5)
        tops = top_activations(collect_codes(model, X), n_top=5)
        for top, same in zip(tops, expected, strict=True):
            assert_allclose(top.codes, same.codes, rtol=1e-4)
    assert dictionary.sparse_output is False  # what is not ours is left as it is


def test_codes_are_never_held_at_once(monkeypatch):
    monkeypatch.setattr(_activations, "PORTION_ENTRIES", 64 * 10)
    X = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    dictionary = SparseAutoencoderDictionary(64, max_iter=1, random_state=0).fit(X)
    sizes = []
    transform = SparseAutoencoderDictionary.transform
    monkeypatch.setattr(
        SparseAutoencoderDictionary,
        "transform",
        lambda self, rows: sizes.append(len(rows)) or transform(self, rows),
    )
    top_activations(collect_codes(dictionary, X), n_intervals=2)
    assert max(sizes) == 10 and sum(sizes) == 200  # one pass


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones((3, 2)), [5]), {}, r"features has 5, but there are 2 columns"),
        ((["text"],), {}, r"codes must be a matrix"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        top_activations(*arguments, **options)


def test_no_dictionary():
    with pytest.raises(TypeError, match=r"estimator must be fitted and have transform"):
        collect_codes(np.eye(2), np.ones((3, 2)))


def test_steps_that_work_in_place(activations, tmp_path):
    """They neither change the caller's array nor what the others are given."""
    X = activations[:400].copy()
    kept = {}
    for copy in (True, False):
        pca = PCA(4, svd_solver="full")
        pipeline = make_pipeline(StandardScaler(copy=copy), pca).fit(activations[:400].copy())
        near = top_activations(collect_codes(pipeline, X, n_near_misses=3), [1])[0].near_misses
        curve = width_curve([pipeline, pipeline], X)
        kept[copy] = near.rows, curve.explained_variance
        assert_array_equal(X, activations[:400])
    assert_array_equal(kept[True][0], kept[False][0])
    assert_allclose(kept[True][1], kept[False][1], rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of arrays that cannot be written to
        collect_codes(SparseAutoencoderDictionary(8, max_iter=1).fit(X), X, n_near_misses=1)


class TestWhatIsAsked:
    """Indices of any kind, whichever others are asked for with them."""

    def test_draws_of_a_feature_do_not_depend_on_the_others(self, codes):
        def drawn(top):
            return [top.random.rows.tolist(), *(each.rows.tolist() for each in top.intervals)]

        options = {"n_random": 5, "n_intervals": 3, "n_per_interval": 2}
        every = [drawn(top) for top in top_activations(codes, **options)]
        assert len({str(each) for each in every}) > 8  # features draw for themselves
        for features in ([3], [0, 3], [11, 3, 3, 0]):
            tops = top_activations(codes, features, **options)
            assert [drawn(top) for top in tops] == [every[j] for j in features]

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint64, np.int64])
    def test_small_and_unsigned_indices(self, dtype):
        codes = sp.random_array((40, 300), density=0.2, format="csr", rng=0)
        expected = top_activations(codes.toarray(), [100, 7], n_top=4)
        for top, same in zip(
            top_activations(codes, np.array([100, 7], dtype=dtype), n_top=4), expected, strict=True
        ):
            assert_array_equal(top.rows, same.rows)
        mask = np.isin(np.arange(300), [7, 100])
        assert_array_equal(feature_statistics(codes, mask).feature, [7, 100])

    def test_numpys_scalars(self, codes):
        wide = np.tile(codes, 12)  # 144 columns and 10 intervals are more than an int8 holds
        small = {"n_top": np.int8(3), "n_intervals": np.int8(10), "n_random": np.uint8(2)}
        plain = {name: int(value) for name, value in small.items()}
        for top, same in zip(
            top_activations(wide, **small), top_activations(wide, **plain), strict=True
        ):
            assert len(top.intervals) == 10
            assert_array_equal(top.rows, same.rows)
            assert_array_equal(top.random.rows, same.random.rows)
        statistics = feature_statistics(wide, n_intervals=np.uint8(200))
        assert np.shape(statistics.histogram) == (144, 200)

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            ([-1], "features has -1, but there are 12 columns of codes, from 0 to 11"),
            (np.array([12], np.uint8), "features has 12, but there are 12"),
            (np.array([2**63], np.uint64), "features has 9223372036854775808, but there are 12"),
            ([True, False], r"features is a boolean mask of shape \(2,\), but there are 12"),
            ([0.0], "features must be an integer or a list of integers"),
        ],
    )
    def test_what_is_none(self, codes, features, message):
        for look in (top_activations, feature_statistics):
            with pytest.raises(ValueError, match=message):
                look(codes, features)

    def test_products_of_indices_do_not_overflow(self):
        """SciPy's indices have 32 bits."""
        codes = sp.csr_array((np.ones(1), np.array([3], np.int32), np.array([0, 1], np.int32)))
        assert codes.indices.dtype == np.int32
        rows, features, _ = _active.nonzero_entries(codes, np.arange(4))
        assert rows.dtype == features.dtype == np.int64


@pytest.mark.slow
def test_rows_are_counted_in_codes(language, dictionary, monkeypatch):
    """Of token ids in an array, each sample has many."""
    ids = np.random.default_rng(0).integers(1, 4000, size=(64, 20))
    extractor = ActivationExtractor(
        language.model, "transformer.h.0.mlp.act", tokenizer=None, batch_size=8
    ).fit(ids)
    pipeline = make_pipeline(extractor, dictionary)
    X = extractor.transform(ids)
    codes = dictionary.transform(X)
    assert codes.shape == (64 * 20, 256)
    j = int(np.argmax((codes > 0).sum(axis=0)))
    expected = top_activations(collect_codes(dictionary, X, n_near_misses=4), [j], n_random=4)[0]
    for size in (2**24, 512 * 10, 512 * 200):
        monkeypatch.setattr(_activations, "PORTION_ENTRIES", size)
        top = top_activations(collect_codes(pipeline, ids, n_near_misses=4), [j], n_random=4)[0]
        assert_array_equal(top.rows, np.argsort(-codes[:, j], kind="stable")[:10])
        assert_array_equal(top.random.rows, expected.random.rows)
        assert_array_equal(top.near_misses.rows, expected.near_misses.rows)
        assert feature_statistics(collect_codes(pipeline, ids), [j]).n_samples == 64 * 20


def test_steps_that_leave_rows_out():
    """Whatever they are: rows are those of the codes."""

    class EverySecond(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None):
            return self

        def __sklearn_is_fitted__(self):
            return True

        def transform(self, X):
            return X[::2]

    X = np.random.default_rng(0).random((40, 3))
    pipeline = make_pipeline(EverySecond(), PCA(2)).fit(X)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_activations, "PORTION_ENTRIES", 3 * 8)
        top = top_activations(collect_codes(pipeline, X), [0], n_top=20)[0]
    codes = pipeline.transform(X)[:, 0]
    assert_array_equal(top.rows, np.argsort(-codes)[: np.sum(codes > 0)])


def test_what_the_user_set_is_left_alone(activations):
    """What a dictionary returns, and how."""
    sae = SparseAutoencoderDictionary(8, max_iter=1, random_state=0).fit(activations[:200])
    pipeline = make_pipeline(StandardScaler(), sae).fit(activations[:200])
    for dictionary in (sae.set_output(transform="pandas"), pipeline):
        top_activations(collect_codes(dictionary, activations[:50], n_near_misses=2))
        feature_statistics(collect_codes(dictionary, activations[:50]))
        assert isinstance(sae.transform(activations[:3]), pd.DataFrame)
    assert sae.sparse_output is False


def test_a_vectorizer_with_a_tokenizer_is_no_extractor():
    """What takes texts to codes otherwise is told so."""
    texts = ["a b c", "b c d", "d e a"]
    words = TfidfVectorizer(tokenizer=str.split, token_pattern=None)
    pipeline = make_pipeline(words, TruncatedSVD(2, random_state=0)).fit(texts)
    with pytest.raises((TypeError, ValueError), match=r"X must be a matrix"):
        top_activations(collect_codes(pipeline, texts))
    top = top_activations(collect_codes(pipeline[1:], words.transform(texts)), [0])[0]
    assert_array_equal(top.rows, np.argsort(-pipeline.transform(texts)[:, 0]))


def test_a_density_takes_one_pass(activations, dictionary, monkeypatch):
    pytest.importorskip("matplotlib")
    n_rows, transform = [], SparseAutoencoderDictionary.transform
    monkeypatch.setattr(
        SparseAutoencoderDictionary,
        "transform",
        lambda self, rows: n_rows.append(len(rows)) or transform(self, rows),
    )
    marked = np.array([3, 200], np.uint8)
    codes = collect_codes(dictionary, activations)
    display = FeatureDensityDisplay.from_codes(codes, marked=marked)
    assert sum(n_rows) == len(activations)
    assert_array_equal(display.marked, [3, 200])
    for wrong in ([-1], [1.5], [256]):
        with pytest.raises(ValueError, match="marked"):
            FeatureDensityDisplay(display.density, marked=wrong)
