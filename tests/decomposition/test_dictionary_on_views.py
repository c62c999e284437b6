"""Estimators on views of a store: read chunk by chunk, with the moments that it has."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skdict._core.data.source import Source
from skdict.decomposition import SparseAutoencoderDictionary, SparseAutoencoderDictionaryCV
from skdict.metrics import explained_variance
from tests.decomposition.dictionary_testing import make_estimator
from tests.views_testing import ArrayView

SOLVERS = ["autoencoder", "alternating", "dictionary_learning", "kmeans", "lasso"]


@pytest.fixture(scope="module")
def X(planted):
    return planted.astype(np.float32)


@pytest.mark.parametrize("solver", SOLVERS)
def test_without_shuffling_the_dictionary_is_that_of_the_array(X, solver):
    params = {"solver": solver, "shuffle": False, "max_iter": 2, "dict_init": None}
    params |= {"early_stopping": False}
    if solver in ("autoencoder", "alternating"):
        params["dict_init"] = np.eye(X.shape[1])[:6] + 0.1
        params["n_components"] = 6
    of_array = make_estimator(**params).fit(X)
    of_view = make_estimator(**params).fit(ArrayView(X))
    np.testing.assert_allclose(of_view.components_, of_array.components_, atol=2e-3)
    view = ArrayView(X)
    codes = of_view.transform(view)
    assert isinstance(codes, np.ndarray)
    np.testing.assert_array_equal(codes, of_view.transform(X))
    np.testing.assert_array_equal(of_view.score_samples(view), of_view.score_samples(X))
    assert of_view.score(view) == of_view.score(X)
    np.testing.assert_array_equal(of_view.reconstruct(view), of_view.reconstruct(X))
    assert of_view.n_features_in_ == X.shape[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_widened(X, dtype):
    view = ArrayView(X, dtype=dtype)
    estimator = make_estimator(max_iter=1).fit(view)
    codes = estimator.transform(view)
    assert codes.dtype == np.float32
    np.testing.assert_array_equal(codes, estimator.transform(view.X.float().numpy()))


def test_fit_reads_only_what_it_learns_from(X):
    """Initial atoms, the epochs, and a look at the end: nothing is read for statistics."""
    many = np.tile(X, (40, 1))
    view = ArrayView(many, chunk_rows=64)
    params = {"n_components": 8, "early_stopping": False, "max_iter": 2}
    estimator = make_estimator(**params).fit(view)
    few = 8 + 4096 + 2048 + 64 + 1  # atoms, biases, a look, whether X changes, a centre
    assert view.rows_read <= 2 * len(many) + few
    assert view.chunks_read <= 2 * (len(many) // 64 + len(many) // 1024 + 2) + few
    assert estimator.n_samples_seen_ == len(many)


def test_held_out_samples_are_whole_chunks_and_not_learned_from(X, monkeypatch):
    views = []
    take = ArrayView.take_ranges
    monkeypatch.setattr(
        ArrayView, "take_ranges", lambda *args: views.append(take(*args)) or views[-1]
    )
    params = {"early_stopping": True, "validation_fraction": 0.2, "max_iter": 2}
    estimator = make_estimator(**params).fit(ArrayView(X))
    training, held_out = views
    assert len(training) + len(held_out) == len(X)
    assert len(held_out) == -(-len(X) // 5 // 16) * 16
    rows = torch.cat([training.X, held_out.X])
    np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(X[:, 0]))
    again = make_estimator(**params).fit(ArrayView(X))
    np.testing.assert_array_equal(again.components_, estimator.components_)
    assert np.isfinite(estimator.validation_score_)


def test_rows_that_are_held_out_do_not_make_all_be_read(X):
    view = ArrayView(X)
    source = Source(view, torch.device("cpu"))
    training, held_out = source.split(100, np.random.RandomState(0))
    assert view.rows_read <= 1  # a centre
    assert training.statistics() is source.statistics()
    assert held_out.is_finite


def test_partial_fit(X):
    one, two = make_estimator(), make_estimator()
    for portion in (slice(0, 300), slice(300, None)):
        one.partial_fit(ArrayView(X)[portion])
        two.partial_fit(ArrayView(X[portion]))
    np.testing.assert_array_equal(one.components_, two.components_)


def test_a_large_portion_is_read_in_pieces_each_row_once(X):
    """Batches grow with a stream: to 128 samples after 4,096."""
    many = np.tile(X, (20, 1))[:10_000]
    view = ArrayView(many, chunk_rows=64)
    params = {"n_components": 8, "batch_size": "auto"}
    of_view, of_array = (make_estimator(**params).partial_fit(data) for data in (view, many))
    assert of_view.n_steps_ == of_array.n_steps_
    assert of_view.loss_curve_ == pytest.approx(of_array.loss_curve_, rel=0.1)
    few = 8 + 4096 + 2048 + 64 + 1  # atoms, biases, a look, whether X changes, a centre
    assert len(many) <= view.rows_read + sum(part.rows_read for part in view.parts)
    assert view.rows_read + sum(part.rows_read for part in view.parts) <= len(many) + few


def test_numbers_that_are_not_finite_are_named(X):
    bad = X.copy()
    bad[77, 3] = np.nan
    with pytest.raises(ValueError, match=r"X contains NaN \(nan\) at row 77, column 3"):
        make_estimator().fit(ArrayView(bad))
    with pytest.raises(ValueError, match=r"X contains NaN \(nan\) at row 77, column 3"):
        make_estimator(early_stopping=True, random_state=1).fit(ArrayView(bad))
    estimator = make_estimator(max_iter=1).fit(X)
    with pytest.raises(ValueError, match=r"row 77, column 3"):
        estimator.transform(ArrayView(bad))


def test_searches(X):
    grid = {"sparseautoencoderdictionary__alpha": [0.1, 0.3]}
    pipeline = make_pipeline(make_estimator(max_iter=2))
    of_view, of_array = (
        GridSearchCV(clone(pipeline), grid, cv=2, error_score="raise").fit(data)
        for data in (ArrayView(X), X)
    )
    for name in ("split0_test_score", "split1_test_score"):
        # another order of the rows: near, and not the same
        want = of_array.cv_results_[name]
        np.testing.assert_allclose(of_view.cv_results_[name], want, rtol=0.1)
    search = SparseAutoencoderDictionaryCV(8, alphas=[0.1, 0.3], cv=2, max_iter=2, random_state=0)
    assert search.fit(ArrayView(X)).transform(ArrayView(X)).shape == (len(X), 8)


def test_metrics(X):
    estimator = make_estimator(max_iter=2).fit(X)
    reconstruction = estimator.reconstruct(X)
    want = explained_variance(X, reconstruction)
    assert explained_variance(ArrayView(X), reconstruction) == pytest.approx(want, rel=1e-12)


def test_too_few_rows_and_other_columns(X):
    with pytest.raises(ValueError, match="at least 2 rows"):
        make_estimator().fit(ArrayView(X[:1]))
    estimator = make_estimator(max_iter=1).fit(X)
    with pytest.raises(ValueError, match="features"):
        estimator.transform(ArrayView(X[:, :5]))


def test_the_result_depends_on_the_seed_alone(X):
    one, two, other = (
        SparseAutoencoderDictionary(8, max_iter=2, random_state=seed).fit(ArrayView(X))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.components_, two.components_)
    assert not np.array_equal(one.components_, other.components_)


def test_exemplars_of_very_many_rows_are_samples_drawn_once(planted, monkeypatch):
    """The numbers of all rows are not held."""
    monkeypatch.setattr("skdict.decomposition._atoms.MAX_PERMUTED", 499)
    view = ArrayView(planted[:500], chunk_rows=1)
    estimator = make_estimator(solver="lasso", n_components=20).fit(view)
    exemplars = planted[:500] - planted[:500].mean(axis=0)
    exemplars /= np.linalg.norm(exemplars, axis=1, keepdims=True)
    nearest = (estimator.components_ @ exemplars.T).argmax(axis=1)
    assert len(set(nearest)) == 20
    np.testing.assert_allclose(estimator.components_, exemplars[nearest], atol=1e-5)


def test_places_that_are_held_out_are_not_many(X, monkeypatch):
    """Of very many rows several chunks in a row are held out, not chunks at ever more places."""
    monkeypatch.setattr("skdict._core.data.source.MAX_DRAWN_ALONE", 5)
    numbers = torch.arange(3000, dtype=torch.float32)[:, None].repeat(1, 2)
    view = ArrayView(numbers, chunk_rows=16)
    training, held_out = Source(view, torch.device("cpu")).split(600, np.random.RandomState(0))
    rows = held_out.X.X[:, 0].int().numpy()
    starts = rows[np.append(True, np.diff(rows) != 1)]
    assert len(starts) <= 5 and (starts % 16 == 0).all()
    assert 600 <= len(rows) < 600 + 16 * 8
    both = np.append(rows, training.X.X[:, 0].int().numpy())
    np.testing.assert_array_equal(np.sort(both), np.arange(3000))
