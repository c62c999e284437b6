"""Rows of a source as tensors, whatever holds them and wherever they go."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from pretend_cuda import PretendCuda

from skdict._core.data import source
from skdict._core.data.reading import take_rows
from skdict._core.data.source import Source
from skdict._core.tensors import from_numpy
from tests.views_testing import ArrayView

CPU = torch.device("cpu")
X = np.arange(60, dtype=np.float32).reshape(20, 3)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of four rows of three float32."""
    monkeypatch.setattr(source, "BLOCK_BYTES", 4 * 3 * 4)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, sp.csr_array, sp.csr_matrix])
def test_rows_are_dense_tensors(kind):
    rows = Source(kind(X), CPU)
    assert len(rows) == 20
    index = torch.tensor([1, 4, 4, 19])
    for got, want in ((rows[2:5], X[2:5]), (rows[index], X[index.numpy()]), (rows[:], X)):
        assert isinstance(got, torch.Tensor)
        assert got.dtype == torch.float32
        np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.parametrize("n_columns", [0, 2, 3, 6, 1000])
@pytest.mark.usefixtures("small_blocks")
def test_blocks_cover_the_rows_once(n_columns):
    blocks = list(Source(X, CPU).blocks(n_columns))
    assert [block.start for block, _ in blocks] == [0] + [block.stop for block, _ in blocks[:-1]]
    assert blocks[-1][0].stop == 20
    np.testing.assert_array_equal(torch.cat([x for _, x in blocks]).numpy(), X)
    n_rows = {0: 4, 2: 4, 3: 4, 6: 2, 1000: 1}[n_columns]
    assert {len(x) for _, x in blocks[:-1]} == {n_rows}


def test_from_numpy_shares_only_what_it_may():
    array = X.copy()
    assert from_numpy(array).numpy().base is not None
    assert np.shares_memory(from_numpy(array).numpy(), array)
    read_only = array.view()
    read_only.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (read_only, array[::-1], array[:, ::-1], np.broadcast_to(array[0], (4, 3))):
            got = from_numpy(other).numpy()
            assert not np.shares_memory(got, array)
            np.testing.assert_array_equal(got, other)
    assert from_numpy(np.array(3.0)).item() == 3.0


@pytest.mark.parametrize("as_kind", [np.asarray, torch.tensor, sp.csr_array])
@pytest.mark.parametrize("index", [[3, 4, 5], [0, 0, 2], [5, 4, 3], [2, 1, 2, 3, 4], [7], []])
def test_take_rows(as_kind, index):
    got = take_rows(as_kind(X), np.array(index, dtype=np.int64))
    got = got.toarray() if sp.issparse(got) else np.asarray(got)
    np.testing.assert_array_equal(got, X[index])


def test_consecutive_rows_are_not_copied():
    assert np.shares_memory(take_rows(X, np.arange(3, 9)), X)


def test_rows_of_rows():
    rows = Source(X, CPU, name="acts", is_finite=True)
    rows.dtype = torch.float64
    taken = rows.take(torch.arange(4, 20)).take(torch.tensor([3, 0, 3]))
    assert (len(taken), taken.shape, taken.dtype) == (3, (3, 3), torch.float64)
    assert (taken.name, taken.is_finite) == ("acts", True)
    np.testing.assert_array_equal(taken[:], X[[7, 4, 7]])
    np.testing.assert_array_equal(taken[torch.tensor([1])], X[[4]])
    np.testing.assert_array_equal(torch.cat([x for _, x in taken.blocks()]), X[[7, 4, 7]])


@pytest.mark.parametrize("place", ["cpu", "cuda"])
@pytest.mark.usefixtures("small_blocks")
def test_on_a_gpu_the_numbers_are_those_of_the_cpu(place, monkeypatch):
    Y = np.random.default_rng(0).standard_normal((200, 3))
    want = Source(Y, CPU)
    with PretendCuda() as gpu:
        rows = Source(torch.from_numpy(Y).to(place), torch.device("cuda"))
        statistics = rows.statistics(massive=False)
        assert statistics.mean.device.type == "cuda"
        mean = want.statistics().mean.numpy()
        np.testing.assert_allclose(statistics.mean.cpu().numpy(), mean, rtol=1e-13)
        assert statistics.rms == pytest.approx(want.statistics().rms, rel=1e-13)
        gpu.reset()
        for most in (1000, 10):  # permuted at once, and from buffers
            monkeypatch.setattr(source, "MAX_PERMUTED", most)
            generators = (torch.Generator("cpu").manual_seed(0) for _ in range(2))
            pairs = zip(*(x.batches(9, next(generators)) for x in (rows, want)), strict=True)
            assert all(torch.equal(got.cpu(), x) for got, x in pairs)
        gpu.reset()
        assert len(list(rows.batches(9, torch.Generator("cpu")))) == 23
        assert not gpu.waits


@pytest.mark.usefixtures("small_blocks")
def test_massive_rows_on_a_gpu():
    Y = np.random.default_rng(0).standard_normal((200, 3))
    Y[::50] *= 1e4
    with PretendCuda():
        rows = Source(torch.from_numpy(Y).to("cuda"), torch.device("cuda"))
        assert rows.statistics(massive=False).n_samples == 196


def test_batches_of_a_store_go_to_a_gpu_from_page_locked_memory():
    Y = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    with PretendCuda() as gpu:
        rows = Source(ArrayView(Y), torch.device("cuda"))
        got = torch.cat([x.cpu() for x in rows.batches(9, torch.Generator("cpu").manual_seed(0))])
        assert gpu.n_pinned == 23
        gpu.reset()
        assert len(list(rows.batches(9, torch.Generator("cpu")))) == 23
        assert not gpu.waits
    generator = torch.Generator("cpu").manual_seed(0)
    want = torch.cat(list(Source(ArrayView(Y), CPU).batches(9, generator)))
    assert torch.equal(got, want)
