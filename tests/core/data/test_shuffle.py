"""The order of an epoch: decided by the seed, each row once, well mixed, in little memory."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from skdict._core.data import shuffle, source
from skdict._core.data.shuffle import Buffers, Division, draw_rows, permuted_batches
from skdict._core.data.source import Source

CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator(device="cpu").manual_seed(seed)


def batch_sizes(n_rows, batch_size):
    division = Division(n_rows, batch_size)
    return division.sizes(0, division.n_batches)


def numbered(n_rows):
    """A source whose row i is (i,)."""
    return Source(np.arange(n_rows, dtype=np.float64)[:, None], CPU)


@pytest.fixture
def few_permuted(monkeypatch):
    """More than 100 rows are shuffled on two levels, in buffers of four batches."""
    monkeypatch.setattr(source, "MAX_PERMUTED", 100)
    monkeypatch.setattr(shuffle, "MAX_PERMUTED", 100)
    monkeypatch.setattr(shuffle, "BUFFER_BATCHES", 4)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 600, 1000])
def test_batches_are_parts_of_one_permutation(batch_size):
    order = torch.randperm(600, generator=seeded())
    want = order.tensor_split(-(-600 // batch_size))
    for got, index in zip(numbered(600).batches(batch_size, seeded()), want, strict=True):
        np.testing.assert_array_equal(got[:, 0], index.sort().values)


@pytest.mark.parametrize("batch_size", [7, 600, 1000])
def test_without_a_generator_rows_come_in_their_order(batch_size):
    batches = list(numbered(600).batches(batch_size))
    assert [len(batch) for batch in batches] == batch_sizes(600, batch_size)
    np.testing.assert_array_equal(torch.cat(batches)[:, 0], np.arange(600))


@pytest.mark.usefixtures("few_permuted")
@pytest.mark.parametrize("n_rows", [101, 128, 1000, 1024, 5000])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 100, 333, 9999])
def test_each_row_comes_once_from_buffers(n_rows, batch_size):
    batches = list(numbered(n_rows).batches(batch_size, seeded()))
    assert [len(batch) for batch in batches] == batch_sizes(n_rows, batch_size)
    rows = torch.cat(batches)[:, 0]
    np.testing.assert_array_equal(rows.sort().values, np.arange(n_rows))
    assert len(batches) == 1 or not torch.equal(rows, rows.sort().values)


@pytest.mark.usefixtures("few_permuted")
def test_buffers_depend_on_seed_and_epoch_alone():
    rows = numbered(2000)

    def epoch(generator):
        return torch.cat(list(rows.batches(50, generator)))

    generator = seeded()
    first, second = epoch(generator), epoch(generator)
    again = seeded()
    assert torch.equal(epoch(again), first)
    assert torch.equal(epoch(again), second)
    assert not torch.equal(first, second)
    assert not torch.equal(epoch(seeded(1)), first)
    # what others draw from the generator meanwhile changes nothing
    batches, generator = rows.batches(50, generator := seeded()), generator
    begun = [next(batches)]
    torch.rand(100, generator=generator)
    assert torch.equal(torch.cat([*begun, *batches]), first)


@pytest.mark.usefixtures("few_permuted")
def test_chunks_are_read_in_their_order_and_not_again():
    read = []
    for index, _ in Buffers(4800, 100, 0, chunk_rows=64, n_batches=4).read():
        assert len(index) == 400
        assert (index.diff() > 0).all()
        chunks = index // shuffle.CHUNK_ROWS
        # all but the first and the last chunk of a buffer are whole
        assert len(chunks.unique()) <= 400 // shuffle.CHUNK_ROWS + 2 + 1
        read.append(index)
    np.testing.assert_array_equal(torch.cat(read).sort().values, np.arange(4800))


def test_a_buffer_is_no_larger_than_its_bytes(monkeypatch):
    rows, row_bytes = numbered(2500), 8
    monkeypatch.setattr(source, "BUFFER_BYTES", 1000 * row_bytes)
    assert rows.batches_in_buffer(100) == 10
    assert rows.batches_in_buffer(1001) == 1  # never less than a batch
    assert rows.batches_in_buffer(1) == shuffle.BUFFER_BATCHES


class LargestTensor(TorchDispatchMode):
    """Number of elements of the largest tensor that any operation returned."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor):
                self.size = max(self.size, value.numel())
        return out


def test_no_array_has_an_entry_for_each_row_of_a_large_source(monkeypatch):
    for module in (source, shuffle):
        monkeypatch.setattr(module, "MAX_PERMUTED", 1 << 18)
    n_rows, batch_size = (1 << 18) + 12345, 16
    X = np.arange(n_rows, dtype=np.float32)[:, None]  # exact in float32
    times = np.zeros(n_rows, dtype=np.int8)
    with LargestTensor() as largest:
        for batch in Source(X, CPU).batches(batch_size, seeded()):
            times[batch[:, 0].numpy().astype(np.int64)] += 1
        drawn = Source(X, CPU).draw(1000, seeded())
    assert (times == 1).all()
    assert len(drawn.unique()) == 1000
    assert largest.size <= max(shuffle.BUFFER_BATCHES * batch_size, n_rows // 60) < n_rows / 30


@pytest.mark.parametrize("alike", [0.05, 1.0])
def test_mixing_is_as_good_as_documented(monkeypatch, alike):
    """Variance of the mean of T batches, relative to that of independent rows."""
    monkeypatch.setattr(source, "MAX_PERMUTED", 1000)
    n_rows, batch_size, n_batches = 1 << 17, 64, 8
    rng = np.random.default_rng(0)
    documents = np.repeat(rng.standard_normal(n_rows // 1024), 1024)
    x = np.sqrt(alike) * documents + np.sqrt(1 - alike) * rng.standard_normal(n_rows)
    rows = Source(x[:, None], CPU)

    def ratio(generator, n_epochs=1):
        epochs = (rows.batches(batch_size, generator) for _ in range(n_epochs))
        means = torch.stack([batch.mean() for epoch in epochs for batch in epoch])
        means = means.view(-1, n_batches).mean(dim=1)
        return float(means.var()) * n_batches * batch_size / x.var()

    design_effect = 1 + (shuffle.CHUNK_ROWS - 1) * alike
    expected = 1 + (design_effect - 1) * n_batches / shuffle.BUFFER_BATCHES
    # of few chunks the Feistel network spreads neighbours more evenly than chance does
    assert 0.6 * expected < ratio(seeded(), n_epochs=5) < 1.15 * expected
    assert ratio(None) > 20 * expected * alike  # in their order


@pytest.mark.usefixtures("few_permuted")
@pytest.mark.parametrize("n_rows", [90, 2000])
@pytest.mark.parametrize("shuffled", [True, False])
def test_an_epoch_goes_on_at_any_batch(n_rows, shuffled):
    rows, options = numbered(n_rows), {"generator": seeded() if shuffled else None}
    batches = list(rows.batches(30, **options))
    for start in (0, 1, 2, 5, 8, 30, len(batches) - 1, len(batches)):
        options = {"generator": seeded() if shuffled else None}
        rest = list(rows.batches(30, **options, start=start))
        assert len(rest) == len(batches[start:])
        assert all(map(torch.equal, rest, batches[start:]))


@pytest.mark.usefixtures("few_permuted")
@pytest.mark.parametrize("n_rows", [90, 2000])
@pytest.mark.parametrize("n_parts", [2, 3, 40])
def test_shares_make_up_the_batches(n_rows, n_parts):
    rows = numbered(n_rows)
    shares = [rows.batches(30, seeded(), start=1, share=(i, n_parts)) for i in range(n_parts)]
    whole = rows.batches(30, seeded(), start=1)
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat(parts), batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.usefixtures("few_permuted")
@pytest.mark.parametrize("n_rows", [90, 2000])
def test_all_is_drawn_before_the_first_batch(n_rows):
    generator, rows = seeded(), numbered(n_rows)
    batches = rows.batches(30, generator)
    torch.rand(100, generator=generator)
    assert torch.equal(torch.cat(list(batches)), torch.cat(list(rows.batches(30, seeded()))))


def test_a_share_of_a_buffer_is_read_alone():
    """Batches are sorted, so a part of each is from a part of the buffer's chunks."""
    read = [len(index) for index, _ in Buffers(65536, 256, 0, chunk_rows=64, n_batches=64).read()]
    of_rank = [
        index for index, _ in Buffers(65536, 256, 0, chunk_rows=64, n_batches=64).read(0, (1, 4))
    ]
    assert read == [16384] * 4
    assert [len(index) for index in of_rank] == [4096] * 4
    for index in of_rank:
        assert len((index // 64).unique()) < 0.45 * 16384 / 64


def test_rows_drawn_from_many_are_distinct_and_everywhere_by_chunks(monkeypatch):
    monkeypatch.setattr(shuffle, "MAX_DRAWN_ALONE", 8)
    counts, generator = np.zeros(1003), seeded()
    for _ in range(2000):
        rows = draw_rows(1003, 30, generator, chunk_rows=16)
        assert len(rows) == 30
        assert (rows.diff() > 0).all()
        assert len((rows // 16).unique()) == 8  # four of each
        counts[rows] += 1
    assert (counts[:992] > 0).all()
    assert counts.max() < 2 * counts.mean()
    assert len(draw_rows(1003, 900, generator, chunk_rows=16)) == 900  # one of each stretch
    assert torch.equal(draw_rows(101, 101, generator, chunk_rows=16), torch.arange(101))


def test_rows_drawn_from_few_are_the_first_of_a_permutation():
    want = torch.randperm(500, generator=seeded())[:20].sort().values
    assert torch.equal(draw_rows(500, 20, seeded()), want)
    assert torch.equal(draw_rows(500, 501, seeded()), torch.arange(500))


@pytest.mark.usefixtures("few_permuted")
def test_rows_drawn_from_many_are_distinct_and_everywhere():
    counts = np.zeros(1003)
    generator = seeded()
    for _ in range(2000):
        rows = draw_rows(1003, 20, generator)
        assert (rows.diff() > 0).all()
        counts[rows] += 1
    assert (counts > 0).all()
    assert counts.max() < 2 * counts.mean()
    assert torch.equal(draw_rows(101, 101, generator), torch.arange(101))


def test_permuted_batches_without_a_generator_make_no_permutation():
    with LargestTensor() as largest:
        for _ in permuted_batches(100_000, 100):
            pass
    assert largest.size == 100
