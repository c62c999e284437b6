"""Mean, scale and the finite check of a source, in one pass."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from skdict._core.data import source
from skdict._core.data.source import Source
from skdict._core.data.statistics import Moments, Summary
from tests.views_testing import ArrayView, summary_of

CPU = torch.device("cpu")
KINDS = {
    "ndarray": np.asarray,
    "tensor": torch.from_numpy,
    "CSR matrix": sp.csr_matrix,
    "CSR tensor": lambda X: torch.from_numpy(X).to_sparse_csr(),
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of eight rows of five float64."""
    monkeypatch.setattr(source, "BLOCK_BYTES", 8 * 5 * 8)


@pytest.fixture
def X():
    X = np.random.default_rng(0).standard_normal((3003, 5))
    X[:, 0] += 100
    X[::3, 1] = 0
    return X


class Counted(np.ndarray):
    """An ndarray that counts the rows that are read from it."""

    n_rows = 0

    def __getitem__(self, index):
        rows = np.asarray(self)[index]
        Counted.n_rows += len(rows)
        return rows


@pytest.fixture
def counted(X):
    Counted.n_rows = 0
    return lambda Y=X: Source(Y.view(Counted), CPU)


def check(statistics, X, rtol=1e-13):
    X = X.astype(np.float64)
    assert statistics.n_samples == len(X)
    np.testing.assert_allclose(statistics.mean.numpy(), X.mean(axis=0), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(statistics.rms, np.sqrt(X.var(axis=0).sum()), rtol=rtol)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("block_rows", [1, 8, 1000, 10_000])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_all_kinds_and_blocks(X, kind, dtype, block_rows, monkeypatch):
    X = X[:200].astype(dtype)
    monkeypatch.setattr(source, "BLOCK_BYTES", X[0].nbytes * block_rows)
    rows = Source(KINDS[kind](X), CPU)
    check(rows.statistics(), X)
    assert rows.statistics(massive=False) is rows.statistics()
    assert rows.statistics().mean.dtype == torch.float64


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("place", [0, 1e8, -1e12])
def test_far_from_the_origin_nothing_is_lost(X, place):
    X = X + place
    statistics = Source(X, CPU).statistics()
    near = X - place  # exact
    np.testing.assert_allclose(
        statistics.mean.numpy(), near.mean(axis=0) + place, rtol=1e-15, atol=1e-14
    )
    np.testing.assert_allclose(statistics.rms, np.sqrt(near.var(axis=0).sum()), rtol=1e-13)


@pytest.mark.usefixtures("small_blocks")
def test_a_drift_is_no_obstacle(X):
    X = X + 1e6 * np.arange(len(X))[:, None]
    check(Source(X, CPU).statistics(), X, rtol=1e-12)


@pytest.mark.usefixtures("small_blocks")
def test_of_some_rows(X):
    index = torch.arange(0, len(X), 2)
    check(Source(X, CPU).take(index).statistics(), X[::2])


def test_data_are_read_once(X, counted, monkeypatch):
    rows = counted()  # in one block
    rows.statistics(), rows.statistics(massive=False), rows.check_finite()
    assert Counted.n_rows == len(X)
    assert rows.is_finite
    Counted.n_rows = 0
    monkeypatch.setattr(source, "BLOCK_BYTES", 8 * 5 * 100)
    rows = counted()
    rows.statistics(), rows.statistics(massive=False), rows.check_finite()
    list(rows.blocks())
    n_of_centre = 1001
    assert Counted.n_rows == 2 * len(X) + n_of_centre  # one of them for the blocks


@pytest.mark.usefixtures("small_blocks")
def test_massive_rows_are_told_in_a_second_pass(X, counted):
    massive = np.arange(len(X)) % 100 == 7
    X[massive] = 1e6 * np.eye(5)[0]
    rows = counted()
    others = rows.statistics(massive=False)
    assert Counted.n_rows == 2 * len(X) + 1001
    check(others, X[~massive], rtol=1e-12)
    check(rows.statistics(), X)
    assert not rows.statistics().warnings
    (warning,) = others.warnings
    assert warning.startswith(f"{massive.sum()} of the {len(X)} samples of X are massive")


def test_massive_rows_that_come_regularly(monkeypatch):
    """The first token of each text is massive, and texts are equally long."""
    monkeypatch.setattr(source, "BLOCK_BYTES", 1 << 16)
    X = np.random.default_rng(0).standard_normal((1001 * 32, 5))
    X[::32] = 1000
    assert Source(X, CPU).statistics(massive=False).n_samples == 1001 * 31


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [0, 7, 8, 102])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_what_is_not_finite_is_named_with_its_place(X, kind, row, value):
    X = X[:103]
    X[row, 3] = value
    message = rf"Input acts contains .* \({value}\) at row {row}, column 3\. Drop"
    for read in (
        Source.statistics,
        Source.check_finite,
        lambda rows: list(rows.blocks()),
        lambda rows: rows.take(torch.arange(102, -1, -1)).statistics(),
        lambda rows: list(rows.take(torch.arange(102, -1, -1)).blocks()),
    ):
        with pytest.raises(ValueError, match=message):
            read(Source(KINDS[kind](X), CPU, name="acts"))
    if row not in range(8, 102):
        Source(KINDS[kind](X), CPU).take(torch.arange(8, 102)).statistics()


def test_the_first_in_order_is_named(X):
    X[20, 1] = X[5, 4] = X[5, 2] = np.nan
    with pytest.raises(ValueError, match="row 5, column 2"):
        Source(X, CPU).statistics()


def test_large_numbers_are_not_taken_for_infinity():
    X = np.full((20, 3), np.finfo(np.float32).max)
    X[::2] *= -1
    Source(X, CPU).check_finite()
    with pytest.raises(ValueError, match="too large to compute with"):
        Source(X, CPU).statistics()


def test_bins_of_squared_norms_hold_what_is_massive():
    """In bins a norm is known to a percent, and so is what is massive."""
    cases = (15.7, False), (16.3, True), (1e100, True)
    for (factor, is_massive), order in itertools.product(cases, (1, -1)):
        x = torch.ones(1000, 1, dtype=torch.float64)
        x[50:] *= torch.linspace(0.5, 3, 950)[:, None]
        of_others = float(x[50:, 0].sort().values[899])  # nine tenths of all are no larger
        x[:50] = factor * of_others
        moments = Moments(torch.zeros(1, dtype=torch.float64))
        for part in x.split(100)[::order]:  # bins are added above and below
            moments.update(part)
        threshold = moments.massive_from()
        assert (threshold is not None) == is_massive
        if is_massive:
            assert 16 * of_others <= threshold**0.5 < 16.3 * of_others


def test_moments_merge_to_those_of_all_rows():
    X = np.random.default_rng(0).standard_normal((1000, 5)) + 1e4
    X[::100, 2] = np.inf
    merged, whole = summary_of(X, 130), summary_of(X, 1000)
    assert merged.n_not_finite == whole.n_not_finite == 10
    assert merged.of_all.n_samples == 990
    np.testing.assert_allclose(
        merged.of_all.mean, X[np.isfinite(X[:, 2])].mean(axis=0), rtol=1e-14
    )
    assert merged.of_all.rms == pytest.approx(whole.of_all.rms, rel=1e-11)


def test_moments_that_are_known_are_not_taken_again():
    X = np.random.default_rng(0).standard_normal((1000, 5))
    view = ArrayView(X, dtype=torch.float64)
    known, taken = Source(view, CPU).statistics(), Source(X, CPU).statistics()
    assert view.rows_read == 0
    np.testing.assert_allclose(known.mean, taken.mean, rtol=0, atol=1e-15)
    assert known.rms == pytest.approx(taken.rms, rel=1e-14)


def test_massive_rows_of_a_store_are_told_of():
    X = np.random.default_rng(0).standard_normal((1000, 5))
    view, others = ArrayView(X, dtype=torch.float64), ArrayView(X[10:], dtype=torch.float64)
    summary = Summary(view.moments().of_all, others.moments().of_all, 0)
    view.moments = lambda: summary
    source = Source(view, CPU)
    of_others = source.statistics(massive=False)
    assert source.statistics().n_samples == 1000
    assert of_others.n_samples == 990
    assert "10 of the 1000 samples of X are massive" in of_others.warnings[0]
    np.testing.assert_allclose(of_others.mean, X[10:].mean(axis=0), atol=1e-15)


def test_equal_rows_of_a_store_are_refused():
    with pytest.raises(ValueError, match="X has zero variance: all 40 samples are equal"):
        Source(ArrayView(np.ones((40, 3))), CPU).statistics()
