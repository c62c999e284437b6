"""States on disk: whole or not there, and damage is noticed."""

import errno
import json
import random
import shutil

import numpy as np
import pytest
import torch

from skdict._core.distributed.rows import OwnRows
from skdict._core.models.architectures import BatchTopK
from skdict._core.training import checkpoint, stored_rows
from skdict._core.training.checkpoint import (
    begin_checkpoint,
    checkpoints_in,
    commit_checkpoint,
    read_about,
    read_checkpoint,
    remove_unfinished,
    step_of,
    write_checkpoint,
    write_part,
)
from skdict._core.training.digests import digest
from skdict._core.training.stored_rows import read_rows, tables_of, verify_share

STATE = {
    "numbers": [1, 2.5, float("inf"), None, True],
    "architecture": BatchTopK(k=3),
    "by number": {0: {"step": np.array(3.0, dtype=np.float32)}, 1: ("a", "b")},
    "key": np.arange(624, dtype=np.uint32),
    "has_fired": np.array([True, False]),
    "matrix": np.arange(6.0).reshape(2, 3).T,
    "tensor": torch.arange(3, device="cpu"),
}


def assert_same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, torch.Tensor | np.ndarray):
        assert np.asarray(one).dtype == np.asarray(other).dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    elif isinstance(one, BatchTopK):
        assert one.get_params() == other.get_params()
    else:
        assert one == other
        assert type(one) is type(other)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path):
    write_checkpoint(tmp_path, 12345, STATE, {"is_over": False})
    (path,) = checkpoints_in(tmp_path)
    assert path.name == "step-000012345"
    assert names(path) == ["state.json", "state.safetensors"]
    state, about = read_checkpoint(path)
    assert_same(STATE, state)
    assert about == read_about(path) == {"is_over": False}


def test_the_newest_two_are_kept(tmp_path):
    for n_steps in (9, 10, 999_999_999, 1_000_000_000):
        write_checkpoint(tmp_path, n_steps, {}, {})
    assert [step_of(path) for path in checkpoints_in(tmp_path)] == [1_000_000_000, 999_999_999]
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-000000012.tmp").mkdir()
    assert len(checkpoints_in(tmp_path)) == 2
    remove_unfinished(tmp_path)
    assert "step-000000012.tmp" not in names(tmp_path)
    assert checkpoints_in(tmp_path / "nothing") == []


def test_a_failure_leaves_the_former_one(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 1, STATE, {})

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "_flush", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path, 2, STATE, {})
    assert names(tmp_path) == ["step-000000001"]
    assert_same(STATE, read_checkpoint(tmp_path / "step-000000001")[0])


def test_what_cannot_be_written_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"state\.solver is a object"):
        write_checkpoint(tmp_path, 1, {"solver": object()}, {})
    assert names(tmp_path) == []


def test_files_are_on_the_disk_before_their_name_is(tmp_path, monkeypatch):
    """Files, the folder under its temporary name, then the rename, and the folder around it."""
    done, rename = [], checkpoint.os.rename
    monkeypatch.setattr(checkpoint, "_flush", lambda path: done.append(path.name))
    monkeypatch.setattr(
        checkpoint.os, "rename", lambda a, b: done.append("rename") or rename(a, b)
    )
    write_checkpoint(tmp_path, 3, STATE, {})
    temporary = "step-000000003.tmp"
    assert done == ["state.safetensors", "state.json", temporary, "rename", tmp_path.name]


# -- damage ----------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    write_checkpoint(tmp_path, 1, STATE, {"is_over": False})
    return tmp_path / "step-000000001"


def test_every_flipped_bit_is_noticed(written):
    """Or changes nothing, as in a name of the header that nobody asks for."""
    rng, n_noticed = random.Random(0), 0
    for name in ("state.json", "state.safetensors"):
        path = written / name
        whole = path.read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            try:
                state, _ = read_checkpoint(written)
            except ValueError as error:
                assert str(written) in str(error)
                n_noticed += 1
            else:
                assert_same(STATE, state)
        path.write_bytes(whole)
    assert n_noticed > 280


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_files_that_are_cut_or_missing(written, name):
    path = written / name
    whole = path.read_bytes()
    for length in (0, 7, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=name):
            read_checkpoint(written)
    path.unlink()
    with pytest.raises(ValueError, match=name):
        read_checkpoint(written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "'format' is 'other'"),
        ({"format_version": 3}, "newer skdict"),
        ({"format_version": "1"}, "'format_version' must be of type int, not '1'"),
        ({"state": []}, r"'state' must be of type dict, not \[\]"),
        ({"about": None}, "'about' must be of type dict, not None"),
        ({"tensors": {}}, "is damaged: its 'digest'"),
        ({"about": {"x": float("nan")}}, r"state\.json is damaged: its 'digest'"),
        ({"digest": "0"}, "is damaged: its 'digest'"),
    ],
)
def test_what_state_json_says_is_checked(written, change, message):
    path = written / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_checkpoint(written)


def test_tensors_of_another_checkpoint_are_noticed(written, tmp_path):
    other = STATE | {"has_fired": np.array([True, True])}
    write_checkpoint(tmp_path, 2, other, {})
    shutil.copy(tmp_path / "step-000000002" / "state.safetensors", written)
    with pytest.raises(ValueError, match=r"safetensors is damaged: state\.has_fired"):
        read_checkpoint(written)


# -- tables in parts ---------------------------------------------------------------------------

TABLE = np.arange(35.0).reshape(7, 5)
FLAGS = np.arange(7) % 3 == 0
STARTS = (0, 3, 5, 7)


def state_of(rank):
    start, stop = STARTS[rank : rank + 2]
    return STATE | {
        "table": OwnRows(TABLE[start:stop], start, 7),
        "nested": {"flags": OwnRows(FLAGS[start:stop], start, 7)},
    }


@pytest.fixture
def in_parts(tmp_path):
    temporary = begin_checkpoint(tmp_path, 1)
    parts = [write_part(temporary, state_of(rank), rank) for rank in range(3)]
    assert all(set(part) == {"rows"} for part in parts[1:])
    commit_checkpoint(temporary, parts, {"is_over": False})
    return tmp_path / "step-000000001"


def test_any_rows_of_a_table_are_read(in_parts, monkeypatch):
    monkeypatch.setattr(stored_rows, "READ_AT_A_TIME", 80)  # two rows
    state, _ = read_checkpoint(in_parts)
    for start in range(7):
        for stop in range(start + 1, 8):
            found = read_rows(state, start, stop)
            np.testing.assert_array_equal(found["table"], TABLE[start:stop])
            np.testing.assert_array_equal(found["nested"]["flags"], FLAGS[start:stop])
    assert_same({**STATE, "table": TABLE, "nested": {"flags": FLAGS}}, read_rows(state))
    assert {table.n_rows for table in tables_of(state)} == {7}


def test_damage_of_parts_is_noticed(in_parts):
    rng = random.Random(0)
    for rank in range(3):
        path = in_parts / f"rows-{rank:05d}.safetensors"
        whole = path.read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            state, _ = read_checkpoint(in_parts)
            try:
                verify_share(tables_of(state), rank, 3)
            except ValueError as error:
                assert path.name in str(error)
            else:
                np.testing.assert_array_equal(read_rows(state)["table"], TABLE)
        path.write_bytes(whole)
    verify_share(tables_of(read_checkpoint(in_parts)[0]), 0, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[1:],
        lambda rows: [rows[1], rows[0], rows[2]],
        lambda rows: [rows[0] | {"n_rows": 8}, *rows[1:]],
        lambda rows: [rows[0] | {"file": "../rows-00000.safetensors"}, *rows[1:]],
        lambda rows: [rows[0] | {"digests": {}}, *rows[1:]],
        lambda rows: [rows[0] | {"start": "0"}, *rows[1:]],
        lambda rows: [rows, rows],
        lambda rows: {},
    ],
)
def test_parts_that_do_not_make_up_a_table(in_parts, change):
    path = in_parts / "state.json"
    content = json.loads(path.read_text())
    content["rows"] = change(content["rows"])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"state\.json: .*'rows'"):
        read_checkpoint(in_parts)


def test_a_part_that_another_process_did_not_write(tmp_path):
    temporary = begin_checkpoint(tmp_path, 1)
    parts = [write_part(temporary, state_of(rank), rank) for rank in range(3)]
    (temporary / "rows-00002.safetensors").unlink()
    with pytest.raises(OSError, match=r"rows-00002\.safetensors', which another process"):
        commit_checkpoint(temporary, parts, {})
    assert checkpoints_in(tmp_path) == []


# -- changes of what is said of them -----------------------------------------------------------


def mutated(value, rng):
    """JSON with something in it replaced, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {name: part for name, part in value.items() if name != key}
        return value | {key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        i = rng.randrange(len(value))
        return [*value[:i], mutated(value[i], rng), *value[i + 1 :]]
    return rng.choice([None, -1, 1e308, "", "$tensor", [], {}, {"$tensor": "x"}, {"$items": 3}])


def check_mutations(written, n, *, sign):
    """Only ValueErrors that name the file come of any of them."""
    path, rng = written / "state.json", random.Random(1)
    whole = json.loads(path.read_text())
    for _ in range(n):
        content = mutated(whole, rng)
        if sign and isinstance(content, dict):  # as if somebody had meant it
            content.pop("digest", None)
            content["digest"] = checkpoint._digest_of_json(content)
        path.write_text(json.dumps(content))
        try:
            read_rows(read_checkpoint(written)[0])
        except ValueError as error:
            assert str(written) in str(error)
    path.write_text(json.dumps(whole))
    read_rows(read_checkpoint(written)[0])


@pytest.mark.parametrize("which", ["written", "in_parts"])
@pytest.mark.parametrize("sign", [False, True])
def test_changes_of_state_json(which, sign, request):
    check_mutations(request.getfixturevalue(which), 150, sign=sign)


@pytest.mark.enumeration
@pytest.mark.parametrize("which", ["written", "in_parts"])
def test_two_thousand_changes_of_state_json(which, request):
    check_mutations(request.getfixturevalue(which), 2000, sign=True)


def test_a_digest_knows_numbers_dtype_and_shape():
    x = torch.arange(6, dtype=torch.float32, device="cpu")
    others = [x + 1, x.double(), x.reshape(2, 3), x.reshape(3, 2), x.view(torch.int32), x[:0]]
    found = {digest(each) for each in (x, *others)}
    assert len(found) == 7
    assert digest(x.reshape(2, 3).T) == digest(x.reshape(2, 3).T.contiguous())
