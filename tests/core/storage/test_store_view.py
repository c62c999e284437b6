"""Views of a store against the array."""

import pickle
import threading
import weakref

import numpy as np
import pytest
import torch
from store_testing import (
    LAYERS,
    N_ROWS,
    SHARD_ROWS,
    append_all,
    rows_of,
    settings,
    tokens_of,
    view_of,
    write,
)

from skdict._core.data.statistics import Summary
from skdict._core.storage import StoreView, StoreWriter, folders, opening, shards
from skdict._core.storage.moments import RowMoments
from skdict._core.storage.opening import OpenStore
from skdict._core.storage.records import write_index


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def x():
    return rows_of()["mlp"]


KEYS = {
    "all": slice(None),
    "a slice over shards": slice(250, 650),
    "every third": slice(900, 100, -3),
    "sorted rows": np.sort(np.random.default_rng(0).permutation(N_ROWS)[:200]),
    "permuted rows": np.random.default_rng(1).permutation(N_ROWS),
    "repeated rows": np.random.default_rng(2).integers(0, N_ROWS, 500),
    "a mask": np.random.default_rng(3).random(N_ROWS) < 0.3,
    "a list": [3, -1, 3],
    "none": [],
}


def at(x, key):
    key = np.asarray(key, int) if isinstance(key, list) else key
    return torch.from_numpy(x.numpy()[key].copy())


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", KEYS)
def test_rows_are_those_of_the_array(path, x, name, verify):
    key = KEYS[name]
    view, wanted = view_of(path, verify=verify), at(x, key)
    assert torch.equal(view.read(key), wanted)
    taken = view[key]
    assert torch.equal(taken.read(slice(None)), wanted)
    assert taken.shape == wanted.shape
    assert len(taken) == len(wanted)
    positions = at(torch.from_numpy(tokens_of()["position"]), key).numpy()
    np.testing.assert_array_equal(taken.tokens()["position"], positions)
    if len(taken):
        again = np.arange(len(taken))[::2]
        assert torch.equal(taken[again, ...].read(slice(None)), wanted[::2])
        assert torch.equal(taken[0], wanted[0])
        assert torch.equal(taken[-1], wanted[-1])


def test_a_view_looks_like_a_matrix(path, x):
    view = view_of(path)
    assert view.shape == (N_ROWS, 24)
    assert (view.ndim, view.dtype, view.chunk_rows) == (2, torch.float16, 32)
    np.testing.assert_array_equal(np.asarray(view), x.numpy())
    assert np.asarray(view, dtype=np.float64).dtype == np.float64
    assert "1000 rows of 24, torch.float16" in repr(view)
    with pytest.raises(IndexError, match="by rows alone"):
        view[:, 3]
    with pytest.raises(IndexError, match="Row 1000"):
        view[1000]


def test_bfloat16_becomes_float32_in_numpy(tmp_path):
    write(tmp_path, "bfloat16")
    array = np.asarray(view_of(tmp_path))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, rows_of("bfloat16")["mlp"].float().numpy())


def test_a_view_pickles_as_ranges(path, x):
    view = view_of(path)[100:900]
    data = pickle.dumps(view)
    assert len(data) < 700
    again = pickle.loads(data)
    assert again.shape == view.shape
    assert again.identity == view.identity
    assert torch.equal(again.read(slice(None)), x[100:900])
    assert torch.equal(pickle.loads(pickle.dumps(again))[3:5].read([0]), x[103:104])


def test_identities_tell_rows_apart(path, tmp_path):
    view = view_of(path)
    same = [view, view[:], view[np.arange(N_ROWS)], pickle.loads(pickle.dumps(view))]
    assert len({each.identity for each in same}) == 1
    others = [view[1:], view[::-1], view_of(path, "blocks.0/out"), view[:0]]
    others.append(view_of(write(tmp_path, "float32")))
    assert len({each.identity for each in [view, *others]}) == 6


def test_a_view_is_of_the_store_that_it_was_made_of(tmp_path):
    with StoreWriter(tmp_path, settings()) as writer:
        with pytest.raises(KeyboardInterrupt):
            append_all(writer, stop_at=490)
        view = view_of(tmp_path)
        data = pickle.dumps(view)
        assert len(view) == SHARD_ROWS
        append_all(writer)
    assert len(view_of(tmp_path)) == N_ROWS
    again = pickle.loads(data)  # later shards are not seen
    assert torch.equal(again.read(slice(None)), rows_of()["mlp"][:SHARD_ROWS])
    (tmp_path / "commits/00000000.json").unlink()
    with pytest.raises(ValueError, match="has changed since this view of it was made"):
        pickle.loads(data).read([0])


def check(spread, x, rtol=1e-5):
    x = x.double()
    mean = x.mean(0)
    assert spread.n_samples == len(x)
    torch.testing.assert_close(spread.mean, mean, rtol=rtol, atol=rtol)
    assert spread.squares == pytest.approx(float((x - mean).square().sum()), rel=rtol)


@pytest.mark.parametrize("key", ["all", "a slice over shards", "permuted rows", "a mask"])
def test_moments_are_those_of_the_rows(path, x, key):
    summary = view_of(path)[KEYS[key]].moments()
    for spread in summary[:2]:
        check(spread, at(x, KEYS[key]))
    if key == "all":
        largest = float((x.double() - x.double().mean(0)).norm(dim=1).max())
        assert summary.of_all.largest == pytest.approx(largest, rel=0.1)
    assert summary.n_not_finite == 0


def test_moments_of_whole_shards_are_not_read(path, monkeypatch):
    def read(*_):
        raise AssertionError

    view = view_of(path)
    monkeypatch.setattr(shards.ShardReader, "read_rows", read)
    assert view.moments().of_all.n_samples == N_ROWS
    assert view[SHARD_ROWS : 3 * SHARD_ROWS].moments().of_all.n_samples == 2 * SHARD_ROWS
    with pytest.raises(AssertionError):
        view[1:].moments()


def test_moments_of_nothing(path):
    summary = view_of(path)[:0].moments()
    assert summary.of_all.n_samples == 0
    assert isinstance(summary, Summary)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_massive_rows_are_told_apart_in_each_shard(tmp_path, dtype, scale):
    x = {name: x.float() * scale for name, x in rows_of().items()}
    massive = [3, 310, 999]
    x["mlp"][massive] *= 500
    x["mlp"][7, 2] = torch.nan
    with StoreWriter(tmp_path, settings(dtype, tokens=())) as writer:
        writer.append(x)
    stored = x["mlp"].to(getattr(torch, dtype)).double()
    finite = torch.ones(N_ROWS, dtype=torch.bool)
    finite[7] = False
    others = finite.clone()
    others[massive] = False
    view = view_of(tmp_path)
    for each in (view, view[np.arange(N_ROWS)[::-1]]):  # from commits, and read
        summary = each.moments()
        assert summary.n_not_finite == 1
        check(summary.of_all, stored[finite], 1e-4)
        assert summary.of_others.n_samples == N_ROWS - 4
        check(summary.of_others, stored[others], 1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_moments_have_no_overflow(scale):
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * scale
    moments = RowMoments(7)
    for piece in x.split(16):
        moments.update(piece)
    summary = moments.finish(None)
    x = x.double() / scale
    torch.testing.assert_close(summary.of_all.mean / scale, x.mean(0), rtol=1e-5, atol=1e-6)
    squares = float((x - x.mean(0)).square().sum())
    assert summary.of_all.squares / scale**2 == pytest.approx(squares, rel=1e-5)


def test_rows_beside_massive_ones_that_are_all_equal():
    """Nothing is left to learn from without the massive rows, so they count."""
    moments = RowMoments(3)
    x = torch.ones(100, 3)
    x[5] = 1000
    moments.update(x)
    summary = moments.finish(lambda index: x[index])
    assert summary.of_others is summary.of_all


def test_documents_are_samples(path):
    view = view_of(path)
    documents = view.documents
    assert len(documents) == 15
    assert documents.shape == (15, 24)
    np.testing.assert_array_equal(documents.numbers, np.arange(15))
    np.testing.assert_array_equal(documents.n_rows, [*[70] * 14, 20])
    some = documents[np.array([14, 4]), ...]
    assert isinstance(some, StoreView)
    np.testing.assert_array_equal(some.tokens()["document"], [14] * 20 + [4] * 70)
    assert documents[4].n_ranges == 1  # over the border of shards
    assert pickle.loads(pickle.dumps(documents))[np.arange(15) == 2].shape == (70, 24)
    with pytest.raises(ValueError, match="parts of documents"):
        view[1:].documents  # noqa: B018
    with pytest.raises(IndexError, match="Row 15"):
        documents[15]


def test_documents_in_parts_are_put_together(tmp_path):
    for i in range(2):
        with StoreWriter(tmp_path, settings(n_writers=2), i) as writer:
            append_all(writer, only=lambda batch, i=i: batch % 2 == i)
    documents = view_of(tmp_path).documents
    np.testing.assert_array_equal(documents.n_rows, [*[70] * 14, 20])
    for number in range(15):
        wanted = rows_of()["mlp"][70 * number : 70 * (number + 1)]
        assert torch.equal(documents[number].read(slice(None)), wanted)


def test_without_documents_there_are_none(tmp_path):
    with StoreWriter(tmp_path, settings(tokens=["position"])) as writer:
        part = {name: np.ones((3, width)) for name, width in LAYERS.items()}
        writer.append(part, {"position": [0, 1, 2]})
    with pytest.raises(ValueError, match="without a column 'document'"):
        view_of(tmp_path).documents  # noqa: B018


def test_an_index_is_the_same_as_the_commits(tmp_path):
    write(tmp_path)
    store = OpenStore(tmp_path)
    digest = store.digest
    write_index(store.folder, store.commits)
    (tmp_path / "commits/00000001.json").write_text("not read")
    assert OpenStore(tmp_path).digest == digest
    assert OpenStore(tmp_path).commits == store.commits
    (tmp_path / "commits/00000001.json").unlink()
    with pytest.raises(ValueError, match=r"index\.json has shard 1, which has no commit"):
        OpenStore(tmp_path)


def test_commits_after_the_index_are_read(tmp_path):
    with StoreWriter(tmp_path, settings()) as writer:
        with pytest.raises(KeyboardInterrupt):
            append_all(writer, stop_at=490)
        store = OpenStore(tmp_path)
        write_index(store.folder, store.commits)
        append_all(writer)
    assert OpenStore(tmp_path).n_rows == N_ROWS


def test_many_threads_and_few_open_files(path, x, monkeypatch):
    monkeypatch.setattr(opening, "MAX_OPEN", 1)
    view, wrong = view_of(path), []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            rows = np.sort(rng.integers(0, N_ROWS, 20))
            if not torch.equal(view.read(rows), x[rows]):
                wrong.append(rows)

    threads = [threading.Thread(target=read, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_layers_share_the_files_that_are_open(path, monkeypatch):
    opened = []

    class Counting(folders.PositionalFile):
        def __init__(self, fd):
            super().__init__(fd)
            opened.append(weakref.ref(self))

    monkeypatch.setattr(folders, "PositionalFile", Counting)
    monkeypatch.setattr(opening, "MAX_OPEN", 2)
    store = opening.OpenStore(path)
    for layer in LAYERS:
        view = StoreView(store, layer, buffer_bytes=1)
        view.read(slice(None))
        view.tokens()
    assert sum(file() is not None for file in opened) == 2 < len(opened)


def test_without_preadv_files_are_read_all_the_same(path, x, monkeypatch):
    monkeypatch.delattr(folders.os, "preadv")
    rows = KEYS["permuted rows"]
    assert torch.equal(view_of(path)[rows].read(slice(None)), x[rows])


def test_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(ValueError, match=r"store\.json is missing.*give the path of one"):
        OpenStore(tmp_path)
    with pytest.raises(ValueError, match="nowhere does not exist"):
        OpenStore(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="path must be a str or a path"):
        OpenStore(3)
