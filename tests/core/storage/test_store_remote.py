"""Stores where fsspec finds them."""

import pickle

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile
from store_testing import (
    LAYERS,
    append_all,
    content,
    rows_of,
    settings,
    tokens_of,
    view_of,
    write,
)

from skdict._core.storage import StoreWriter
from skdict._core.storage.checking import damages
from skdict._core.storage.opening import OpenStore
from skdict._core.storage.records import write_index
from skdict._core.storage.writer import settings_of

RANGES = []  # (start, stop) of what has been asked for


class Counted(MemoryFileSystem):
    """Files in memory that are read in ranges, as remote ones are."""

    protocol = "counted"
    store, pseudo_dirs = {}, [""]

    def _open(self, path, mode="rb", block_size=None, cache_options=None, **options):
        if mode != "rb":
            return super()._open(path, mode, **options)
        return CountedFile(self, path, mode, block_size=block_size, **options)


class CountedFile(AbstractBufferedFile):
    def _fetch_range(self, start, end):
        RANGES.append((start, end))
        return self.fs.cat_file(self.path)[start:end]


@pytest.fixture
def url():
    fsspec.register_implementation("counted", Counted, clobber=True)
    yield "counted://bucket/store"
    Counted.store.clear()
    RANGES.clear()


def test_a_remote_store_has_the_bytes_of_a_local_one(url, tmp_path):
    write(tmp_path)
    with pytest.raises(KeyboardInterrupt), StoreWriter(url, settings()) as writer:
        append_all(writer, stop_at=630)
    write(url)
    prefix = "counted://bucket/store/"
    found = {name.removeprefix(prefix): file.getvalue() for name, file in Counted.store.items()}
    assert found == content(tmp_path)


def test_remote_rows(url):
    write(url)
    x = rows_of()["mlp"]
    view = view_of(url)
    assert torch.equal(view.read(slice(None)), x)
    rows = np.random.default_rng(0).permutation(1000)[:50]
    again = pickle.loads(pickle.dumps(view[rows]))
    assert torch.equal(again.read(slice(None)), x[rows])
    np.testing.assert_array_equal(view.tokens()["position"], tokens_of()["position"])
    assert len(view.documents) == 15
    assert view.moments().of_all.n_samples == 1000
    store = OpenStore(url)
    assert not list(damages(store))
    write_index(store.folder, store.commits)
    assert OpenStore(url).digest == store.digest


def test_damage_of_remote_files_is_named(url):
    write(url)
    name = "counted://bucket/store/layers/mlp/00000001.safetensors"
    changed = bytearray(Counted.store[name].getvalue())
    changed[5000] ^= 1
    fsspec.filesystem("counted").pipe_file(name, bytes(changed))
    with pytest.raises(ValueError, match=r"counted://bucket/store/.*00000001\.safetensors, block"):
        view_of(url).read(slice(None))
    fsspec.filesystem("counted").rm_file(name)
    with pytest.raises(ValueError, match=r"00000001\.safetensors is missing"):
        view_of(url).read(slice(None))


def test_remote_rows_are_read_in_large_ranges(url):
    params = {"shard_rows": None, "block_rows": None, "n_writers": 1, "identity": None}
    x = torch.randn(3 * 8192, 512, generator=torch.Generator().manual_seed(0)).half()
    with StoreWriter(url, settings_of({"a": 512}, dtype="float16", tokens=(), **params)) as writer:
        writer.append(x)  # 24 MB in one shard
    view = view_of(url, "a")
    assert view.chunk_rows == 8192  # 8 MB
    view.read([0])
    RANGES.clear()
    for first in range(0, len(x), 1024):
        assert torch.equal(view.read(slice(first, first + 1024)), x[first : first + 1024])
    assert len(RANGES) <= 4
    assert sum(stop - start for start, stop in RANGES) <= 26 << 20


def test_layers_of_a_remote_store_are_spooled(url, tmp_path, monkeypatch):
    """Rows lie on this machine until their shard is whole."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with StoreWriter(url, settings(tokens=())) as writer:
        rows = {name: x[:299] for name, x in rows_of().items()}
        writer.append(rows)
        assert len(list(tmp_path.glob("skdict-*/*"))) == len(LAYERS)
        assert not [name for name in Counted.store if "layers" in name]
        writer.append({name: x[299:301] for name, x in rows_of().items()})
        assert len([name for name in Counted.store if "layers" in name]) == len(LAYERS)


@pytest.mark.parametrize("is_aborted", [False, True])
def test_nothing_of_a_remote_store_stays_here(url, tmp_path, monkeypatch, is_aborted):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    writer = StoreWriter(url, settings())
    append_all(writer)
    assert len(list(tmp_path.iterdir())) == 1
    (writer.abort if is_aborted else writer.close)()
    assert list(tmp_path.iterdir()) == []
