"""How often a call reads its data."""

import warnings

import numpy as np
import pytest
import torch
from dictionary_testing import make_estimator

from skdict._core.data import source
from skdict._core.data.statistics import N_CENTRE_ROWS
from skdict.decomposition import alpha_grid, sparse_encode
from skdict.utils import _arrays

N_ROWS, N_FEATURES, N_COMPONENTS = 100_000, 4, 8
# Rows that are read besides: for the centre of the data, the first atoms, the first biases.
N_BEGIN = N_CENTRE_ROWS + N_COMPONENTS + 4096
# Rows, at most, that the fitted dictionary is judged by.
N_JUDGED = 2200


class Counted(np.ndarray):
    """An ndarray that counts the entries that are read from it, by index or as a whole."""

    n_entries = 0

    def __getitem__(self, index):
        part = np.asarray(self)[index]
        Counted.n_entries += part.size
        return part

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        Counted.n_entries += self.size
        inputs = [np.asarray(x) if isinstance(x, Counted) else x for x in inputs]
        return getattr(ufunc, method)(*inputs, **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        raise NotImplementedError(function)


@pytest.fixture
def X():
    return np.random.default_rng(0).laplace(size=(N_ROWS, N_FEATURES)).astype(np.float32)


@pytest.fixture
def rows_read(X, monkeypatch):
    """Function from a call to the number of rows of X that it reads."""
    monkeypatch.setattr(source, "BLOCK_BYTES", 1 << 16)
    plain = _arrays.as_matrix

    def as_matrix(X, *args, **kwargs):
        matrix = plain(X, *args, **kwargs)
        return matrix.view(Counted) if matrix.shape == (N_ROWS, N_FEATURES) else matrix

    monkeypatch.setattr(_arrays, "as_matrix", as_matrix)

    def count(call):
        Counted.n_entries = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(X)
        return Counted.n_entries / N_FEATURES

    return count


def estimator(**params):
    return make_estimator(n_components=N_COMPONENTS, batch_size=5000, max_iter=1, **params)


def test_statistics_read_once(rows_read):
    assert rows_read(alpha_grid) == N_ROWS + N_CENTRE_ROWS


@pytest.mark.parametrize("n_epochs", [1, 3])
def test_fit_reads_once_more_than_it_trains(rows_read, n_epochs):
    fit = estimator().set_params(max_iter=n_epochs).fit
    assert 0 <= rows_read(fit) - (1 + n_epochs) * N_ROWS - N_BEGIN <= N_JUDGED


@pytest.mark.parametrize("method", ["transform", "score", "score_samples"])
@pytest.mark.parametrize("algorithm", ["auto", "threshold"])
def test_codes_read_once(X, rows_read, method, algorithm):
    fitted = estimator().fit(X[:2000]).set_params(transform_algorithm=algorithm)
    assert rows_read(getattr(fitted, method)) == N_ROWS


def test_a_portion_is_measured_or_checked_before_it_is_learned_from(rows_read):
    portions = estimator()
    # once to measure or check, once to learn, an eighth for the statistics of a stream
    want = 2.125 * N_ROWS
    assert 0 <= rows_read(portions.partial_fit) - want - N_BEGIN <= N_JUDGED
    assert 0 <= rows_read(portions.partial_fit) - want <= N_JUDGED


def test_sparse_encode_reads_once(rows_read):
    atoms = np.eye(N_FEATURES, dtype=np.float32)
    assert rows_read(lambda X: sparse_encode(X, atoms, algorithm="threshold", alpha=1)) == N_ROWS


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_whatever_is_not_finite_is_found_before_anything_is_returned(X, kind):
    fitted = estimator().fit(X[:2000])
    X[-1, 2] = np.nan
    fit, stopping = estimator().fit, estimator(early_stopping=True).fit
    for call in (fitted.transform, fitted.score, fitted.partial_fit, fit, stopping):
        with pytest.raises(ValueError, match=f"row {N_ROWS - 1}, column 2"):
            call(kind(X))


def test_held_out_rows_are_checked_too(X):
    X = X[:1000]
    for row in range(0, 1000, 50):
        X[row, 1], kept = np.inf, X[row, 1]
        with pytest.raises(ValueError, match=f"infinity .* at row {row}, column 1"):
            estimator(early_stopping=True, validation_fraction=0.5).fit(X)
        X[row, 1] = kept
