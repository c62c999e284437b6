"""Shards as they are written: whole or not at all, the same however the rows came."""

import errno
import os
import re
import threading

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from store_testing import (
    BLOCK_ROWS,
    LAYERS,
    N_ROWS,
    SHARD_ROWS,
    append_all,
    content,
    rows_of,
    settings,
    tokens_of,
    view_of,
    write,
)

from skdict._core.storage import StoreWriter
from skdict._core.storage.layout import block_rows_of
from skdict._core.storage.opening import OpenStore
from skdict._core.storage.shards import PIECE_BYTES, ShardWriter
from skdict._core.storage.writer import settings_of

OPEN = {"shard_rows": None, "block_rows": None, "n_writers": 1, "identity": None}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_is_written_is_what_is_read(tmp_path, dtype):
    write(tmp_path, dtype)
    for layer, x in rows_of(dtype).items():
        found = view_of(tmp_path, layer).read(slice(None))
        assert found.dtype == x.dtype
        assert torch.equal(found, x)
    for name, column in view_of(tmp_path).tokens().items():
        np.testing.assert_array_equal(column, tokens_of()[name])


def test_shards_are_safetensors_files(tmp_path):
    write(tmp_path)
    names = sorted(os.listdir(tmp_path / "layers" / "mlp"))
    assert names == [f"{i:08d}.safetensors" for i in range(4)]
    path = tmp_path / "layers" / "mlp" / names[1]
    x = rows_of()["mlp"][SHARD_ROWS : 2 * SHARD_ROWS]
    tensors = load_file(path)
    assert torch.equal(tensors["activations"], x)
    assert len(tensors["block_xxh3"]) == -(-SHARD_ROWS // BLOCK_ROWS)
    torch.testing.assert_close(tensors["means"][0], x.double().mean(0), rtol=1e-6, atol=1e-6)
    with safe_open(path, "pt") as file:
        said = {"skdict": "layer mlp", "shard": "1", "block_rows": str(BLOCK_ROWS)}
        assert file.metadata() == said
    tokens = load_file(tmp_path / "tokens" / names[0])
    assert tokens["tokens"].shape == (SHARD_ROWS, 2)
    assert tokens["documents"].tolist() == [[i, 70 * i] for i in range(5)]


@pytest.mark.parametrize("step", [1, 37, 300, 1000])
def test_the_files_do_not_depend_on_how_the_rows_came(tmp_path, step):
    write(tmp_path / "a")
    write(tmp_path / "b", step=step)
    a, b = content(tmp_path / "a"), content(tmp_path / "b")
    assert a.keys() == b.keys()
    assert {name for name in a if a[name] != b[name]} <= {n for n in a if "commits" in n}
    pairs = zip(OpenStore(tmp_path / "a").commits, OpenStore(tmp_path / "b").commits, strict=True)
    assert all(left.layers == right.layers for left, right in pairs)


@pytest.mark.parametrize("stop_at", [0, 70, 350, 630, 910, 979])
def test_a_writer_goes_on_to_the_same_bytes(tmp_path, stop_at):
    write(tmp_path / "whole")
    path = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt), StoreWriter(path, settings()) as writer:
        append_all(writer, stop_at=stop_at)
        raise KeyboardInterrupt
    n_shards = min(-(-stop_at // 70) * 70, N_ROWS) // SHARD_ROWS
    assert len(OpenStore(path).commits) == n_shards
    assert not [name for name in content(path) if ".tmp-" in name]
    with StoreWriter(path, settings()) as writer:
        assert writer.n_rows == n_shards * SHARD_ROWS
        append_all(writer)
    assert content(path) == content(tmp_path / "whole")


def test_a_finished_writer_has_nothing_to_do(tmp_path):
    write(tmp_path)
    before = content(tmp_path)
    write(tmp_path)
    assert content(tmp_path) == before


def test_rows_past_the_cursor_are_passed_over(tmp_path):
    """Cursors are given now and then only, so resuming repeats rows of several calls."""
    x = rows_of()

    def fill(writer, stop):
        for first in range(writer.cursor or 0, stop, 50):
            part = {name: rows[first : first + 50] for name, rows in x.items()}
            columns = {name: c[first : first + 50] for name, c in tokens_of().items()}
            cursor = first + 50 if first % 200 == 150 else None
            writer.append(part, columns, cursor=cursor)

    with pytest.raises(KeyboardInterrupt), StoreWriter(tmp_path, settings()) as writer:
        fill(writer, 950)
        raise KeyboardInterrupt
    with StoreWriter(tmp_path, settings()) as writer:
        assert writer.cursor == 800
        fill(writer, N_ROWS)
    assert torch.equal(view_of(tmp_path).read(slice(None)), x["mlp"])


def test_cursors_may_come_between_others_than_before(tmp_path):
    """The second writer gives cursors among the rows that are passed over."""
    x = rows_of()["mlp"]
    layer = settings_of({"mlp": 24}, dtype="float16", tokens=(), **OPEN | {"shard_rows": 100})

    def stopped_after(*parts):
        writer = StoreWriter(tmp_path, layer)
        for first, stop, cursor in parts:
            writer.append(x[first:stop], cursor=cursor)
        writer.abort()

    stopped_after((0, 150, None))
    stopped_after((0, 40, 40), (40, 220, None))
    with StoreWriter(tmp_path, layer) as writer:
        assert writer.cursor == 40
        writer.append(x[40:], cursor=N_ROWS)
    assert torch.equal(view_of(tmp_path).read(slice(None)), x)


def test_writers_need_no_coordination(tmp_path):
    writers = [StoreWriter(tmp_path, settings(n_writers=3), i) for i in range(3)]
    for i, writer in enumerate(writers):
        append_all(writer, only=lambda batch, i=i: batch % 3 == i)
        OpenStore(tmp_path)  # readable in between
    for writer in reversed(writers):
        writer.close()
    store = OpenStore(tmp_path)
    assert [commit.number for commit in store.commits] == [0, 1, 2, 3, 4]
    document, position = (view_of(tmp_path).tokens()[name] for name in ("document", "position"))
    order = np.argsort(document * 70 + position)
    assert torch.equal(view_of(tmp_path)[order].read(slice(None)), rows_of()["mlp"])
    assert (document[:SHARD_ROWS] % 3 == 0).all()


def test_temporary_files_of_others_are_left(tmp_path):
    write(tmp_path)
    mine, others = tmp_path / "tokens/.tmp-00000004.safetensors", tmp_path / "tokens/.tmp-x"
    mine.touch()
    others.touch()
    StoreWriter(tmp_path, settings()).close()
    assert others.exists()
    assert not mine.exists()


def test_two_processes_cannot_be_the_same_writer(tmp_path):
    writer = StoreWriter(tmp_path, settings())
    with pytest.raises(ValueError, match=r"Another process writes to .* as the same writer"):
        StoreWriter(tmp_path, settings())
    writer.abort()
    StoreWriter(tmp_path, settings()).close()


def test_a_writer_may_be_closed_in_another_thread(tmp_path):
    writer = StoreWriter(tmp_path, settings())
    thread = threading.Thread(target=writer.close)
    thread.start()
    thread.join()
    StoreWriter(tmp_path, settings()).close()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"dtype": "float32"}, "has dtype 'float16', not 'float32'"),
        ({"tokens": ()}, "has tokens"),
        ({"shard_rows": 299}, "has shard_rows 300, not 299"),
        ({"block_rows": 16}, "has block_rows {'mlp': 32, 'blocks.0/out': 32}, not"),
        ({"block_rows": 32, "tokens": ("document",)}, "has tokens"),
        ({"n_writers": 2}, r"has n of shard=\(i, n\) 1, not 2"),
        ({"identity": {"model": "b"}}, "of another model: None, not 'b'"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, changed, match):
    write(tmp_path)
    with pytest.raises(ValueError, match=match) as error:
        StoreWriter(tmp_path, settings(**changed))
    assert "store.json" in str(error.value)
    StoreWriter(tmp_path, settings()).close()  # the lock is free


def test_a_gap_in_the_commits_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "commits/00000001.json").unlink()
    with pytest.raises(ValueError, match="shard 2 of this writer has a commit, but shard 1"):
        StoreWriter(tmp_path, settings())


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"layers": ["a"]}, "layers must be a dict"),
        ({"layers": {}}, "has no layer"),
        ({"layers": {"": 3}}, "must have from 1 to"),
        ({"layers": {"x" * 300: 3}}, "must have from 1 to"),
        ({"layers": {"a": 3, "A": 3}}, "differ in upper and lower case"),
        ({"layers": {"a": 0}}, "the width of layer 'a' must be an integer from 1"),
        ({"layers": {"a": True}}, "the width of layer 'a'"),
        ({"layers": {1: 3}}, "of type str"),
        ({"dtype": "float64"}, "dtype must be one of float16"),
        ({"tokens": ["Document"]}, "words in lower case"),
        ({"tokens": ["a", "a"]}, "different words"),
        ({"shard_rows": 0}, "shard_rows must be"),
        ({"block_rows": -1}, "block_rows must be"),
        ({"n_writers": 0}, "must be an integer from 1"),
        ({"identity": 3}, "identity must be a dict"),
        ({"identity": {"a": float("nan")}}, "identity must be what JSON can hold"),
        ({"identity": {"a": object()}}, "identity must be what JSON can hold"),
    ],
)
def test_bad_settings_are_refused(changed, match):
    params = OPEN | {"layers": {"a": 3}, "dtype": "float16", "tokens": ()} | changed
    with pytest.raises((ValueError, TypeError), match=match):
        settings_of(params.pop("layers"), **params)


ONE = {"document": [0, 0]}


@pytest.mark.parametrize(
    ("activations", "tokens", "cursor", "match"),
    [
        (np.zeros((2, 3)), None, None, "tokens must have the columns"),
        (np.zeros((2, 4)), ONE, None, r"shape \(n, 3\), but has \(2, 4\)"),
        (np.zeros(3), {"document": [0]}, None, r"but has \(3,\)"),
        (np.zeros((2, 3), int), ONE, None, "of floating point"),
        ({"b": np.zeros((2, 3))}, ONE, None, "the layers a, but has b"),
        (np.zeros((2, 3)), {"document": [0]}, None, r"tokens\['document'\] must be 2 integers"),
        (np.zeros((2, 3)), {"document": [0, 0.5]}, None, "integers"),
        (np.zeros((2, 3)), {"position": [0, 0]}, None, "document, but has position"),
        (np.zeros((2, 3)), ONE, {1, 2}, "cursor must be what JSON can hold"),
        (np.full((2, 3), 1e5), ONE, None, "1e.05, which torch.float16 cannot"),
    ],
)
def test_bad_rows_are_refused_and_not_written(tmp_path, activations, tokens, cursor, match):
    of_one = settings_of({"a": 3}, dtype="float16", **OPEN | {"tokens": ["document"]})
    with (
        StoreWriter(tmp_path, of_one) as writer,
        pytest.raises((ValueError, TypeError), match=match),
    ):
        writer.append(activations, tokens, cursor)
    assert OpenStore(tmp_path).n_rows == 0


def test_layers_must_have_the_same_rows(tmp_path):
    with StoreWriter(tmp_path, settings(tokens=())) as writer:
        with pytest.raises(ValueError, match=r"must have shape \(2, 6\), but has \(3, 6\)"):
            writer.append({"mlp": np.zeros((2, 24)), "blocks.0/out": np.zeros((3, 6))})
        with pytest.raises(TypeError, match="must be a dict with the layers"):
            writer.append(np.zeros((2, 24)))
    with pytest.raises(ValueError, match="append after close"):
        writer.append({})


def test_infinities_that_came_are_kept_and_counted(tmp_path):
    x = {name: x.float() for name, x in rows_of().items()}
    x["mlp"][5, 3] = torch.inf
    x["mlp"][6, 3] = torch.nan
    with StoreWriter(tmp_path, settings(tokens=())) as writer:
        writer.append(x)
    assert view_of(tmp_path).read([5])[0, 3] == torch.inf
    assert view_of(tmp_path).moments().n_not_finite == 2


@pytest.mark.parametrize("number", [-1, 3, True, 1.0])
def test_a_writer_is_one_of_those_that_there_are(tmp_path, number):
    with pytest.raises(ValueError, match=re.escape(f"not ({number!r}, 3)")):
        StoreWriter(tmp_path, settings(n_writers=3), number)


def test_numbers_of_writers_may_be_those_of_numpy(tmp_path):
    with StoreWriter(tmp_path, settings(n_writers=np.int64(2)), np.uint8(1)) as writer:
        assert [type(number) for number in writer.shard] == [int, int]
        append_all(writer)
    numbers = [commit.number for commit in OpenStore(tmp_path).commits]
    assert numbers == [1, 3, 5, 7]


@pytest.mark.parametrize("given", [torch.float32, torch.float64])
def test_values_that_round_to_the_largest_are_kept_beside_infinity(tmp_path, given):
    """65,519 is 65,504 in float16; 65,520 would be infinite."""
    of_one = settings_of({"a": 2}, dtype="float16", tokens=(), **OPEN)
    with StoreWriter(tmp_path, of_one) as writer:
        writer.append(torch.tensor([[65519.0, torch.inf], [-65519.0, torch.nan]], dtype=given))
        with pytest.raises(ValueError, match=r"has a value of 6\.55e\+04, which torch\.float16"):
            writer.append(torch.tensor([[65520.0, torch.inf]], dtype=given))
    found = view_of(tmp_path, "a").read(slice(None))
    assert found[:, 0].tolist() == [65504, -65504]
    assert found[0, 1] == torch.inf


@pytest.mark.parametrize("layer", ["../../etc", "a/b", ".", "..", "ä b", "con\n", "a.b-c_1"])
def test_layers_of_any_name_stay_in_the_folder(tmp_path, layer):
    path = tmp_path / "store"
    of_one = settings_of({layer: 3}, dtype="float32", tokens=(), **OPEN)
    with StoreWriter(path, of_one) as writer:
        writer.append(np.ones((2, 3)))
    assert sorted(os.listdir(tmp_path)) == ["store"]
    assert len(os.listdir(path / "layers")) == 1
    assert len(list((path / "layers").glob("*/*.safetensors"))) == 1
    assert view_of(path, layer).read(slice(None)).sum() == 6


def test_blocks_have_64_rows_or_64_kilobytes():
    assert block_rows_of(4096, torch.float16) == 64
    assert block_rows_of(512, torch.float16) == 64
    assert block_rows_of(500, torch.float16) == 128
    assert block_rows_of(64, torch.float16) == 512
    assert block_rows_of(1, torch.float32) == 16384


def test_a_writer_holds_no_more_than_a_piece(tmp_path):
    with StoreWriter(tmp_path, settings(tokens=(), shard_rows=10**6)) as writer:
        writer.append({name: torch.ones(90_000, width) for name, width in LAYERS.items()})
        file = tmp_path / "layers/mlp/.tmp-00000000.safetensors"
        assert file.stat().st_size > 90_000 * 24 * 2 - PIECE_BYTES > 0


def test_a_full_disk_leaves_what_was_committed(tmp_path, monkeypatch):
    write(tmp_path / "whole")
    path, write_all = tmp_path / "full", ShardWriter._write_all

    def fail(self, data):
        if self.number == 2 and self.matrix.folder != "layers/mlp":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_all(self, data)

    monkeypatch.setattr(ShardWriter, "_write_all", fail)
    writer = StoreWriter(path, settings())
    with pytest.raises(OSError, match="No space left"):
        append_all(writer)
    with pytest.raises(ValueError, match="append after close"):
        writer.append({})
    assert len(OpenStore(path).commits) == 2
    assert not [name for name in content(path) if ".tmp-" in name]
    monkeypatch.undo()
    write(path)
    assert content(path) == content(tmp_path / "whole")


def part_of_rows(first, stop):
    part = {name: rows[first:stop] for name, rows in rows_of().items()}
    return part, {name: column[first:stop] for name, column in tokens_of().items()}


@pytest.mark.parametrize("cursor", [None, 200])
def test_rows_that_are_passed_over_are_those_of_the_store(tmp_path, cursor):
    with StoreWriter(tmp_path, settings()) as writer:
        for first in (0, 200, 400):
            writer.append(*part_of_rows(first, first + 200), cursor if first == 0 else None)
    before, first = content(tmp_path), cursor or 0
    with StoreWriter(tmp_path, settings()) as writer:  # the same rows, and more of them
        assert writer.cursor == cursor
        writer.append(*part_of_rows(first, 333))
        writer.append(*part_of_rows(333, 700))
    assert torch.equal(view_of(tmp_path).read(slice(None)), rows_of()["mlp"][:700])
    assert before.items() <= content(tmp_path).items()


@pytest.mark.parametrize("n_before", [0, 333])
@pytest.mark.parametrize("changed", ["mlp", "blocks.0/out", None])
@pytest.mark.parametrize("piece_bytes", [1, 1 << 22])
def test_other_rows_are_not_taken_for_those_of_the_store(
    tmp_path, n_before, changed, monkeypatch, piece_bytes
):
    monkeypatch.setattr("skdict._core.storage.passing.PIECE_BYTES", piece_bytes)
    write(tmp_path)
    with StoreWriter(tmp_path / "own", settings()) as writer:
        writer.append(*part_of_rows(0, 600))
    before = content(tmp_path / "own")
    rows, tokens = part_of_rows(n_before, 600)
    if changed is None:
        tokens = tokens | {"position": tokens["position"] + (np.arange(600 - n_before) >= 77)}
    else:
        rows[changed] = rows[changed].clone()
        rows[changed][77, 3] = float("nan")
    what = "tokens" if changed is None else f"activations['{changed}']"
    match = re.escape(f"{what}: row 77 is not the same as row {77 + n_before} of this writer in")
    with (
        pytest.raises(ValueError, match=f"{match} .*own.* another path"),
        StoreWriter(tmp_path / "own", settings()) as writer,
    ):
        if n_before:
            writer.append(*part_of_rows(0, n_before))
        writer.append(rows, tokens)
    assert content(tmp_path / "own") == before


def test_writers_compare_with_rows_of_their_own(tmp_path):
    def fill(i):
        with StoreWriter(tmp_path, settings(n_writers=2), i) as writer:
            writer.append(*part_of_rows(i, 500 + i))

    for i in (0, 1):
        fill(i)
    before = content(tmp_path)
    for i in (1, 0):
        fill(i)
    assert content(tmp_path) == before


def test_rows_with_nan_are_the_same_again(tmp_path):
    of_one = settings_of({"mlp": 2}, dtype="float16", tokens=(), **OPEN)
    for _ in range(2):
        with StoreWriter(tmp_path, of_one) as writer:
            writer.append(np.array([[np.nan, -0.0], [1.0, 2.0]]))
    assert OpenStore(tmp_path).n_rows == 2
