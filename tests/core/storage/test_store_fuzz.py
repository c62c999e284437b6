"""Damaged and hostile stores: refused with an error that names the file and the field.

Half of the changed files of JSON have the right checksum, as a hostile one would.
"""

import json
import random
import shutil
import struct
from collections import Counter

import numpy as np
import pytest
import torch

from skdict._core.storage import StoreView, StoreWriter
from skdict._core.storage.checking import damages
from skdict._core.storage.opening import OpenStore
from skdict._core.storage.records import dumped, write_index
from skdict._core.storage.writer import settings_of

N_FILES, N_FEW = 2000, 60
ODD = [
    None,
    True,
    -1,
    0,
    1,
    41,
    2**31,
    2**40,
    2**63,
    10**400,
    1.5,
    1e308,
    "",
    "float64",
    "../../etc/passwd",
    "0" * 16,
    "a\x00",
    "\ud800",
    [],
    [1, [2]],
    ["document", "document"],
    {},
    {"a": {"b": {}}},
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two layers, two shards, 60 rows, and an index."""
    path = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    settings = settings_of(
        {"a": 4, "b.c/d": 3},
        dtype="float16",
        tokens=["document", "position"],
        shard_rows=40,
        block_rows=16,
        n_writers=1,
        identity={"model": {"name": "m", "layers": [1, 2]}},
    )
    with StoreWriter(path, settings) as writer:
        rows = {"a": rng.standard_normal((60, 4)), "b.c/d": rng.standard_normal((60, 3))}
        tokens = {"document": np.arange(60) // 7, "position": np.arange(60) % 7}
        writer.append(rows, tokens, cursor={"file": "x", "line": 3})
    return path


def use_all(path, *, check=True):
    """Use everything; the rows and the tokens, which no other file can change."""
    store, found = OpenStore(path), []
    if check:
        list(damages(store))
        StoreWriter(path, store.settings).close()
    for layer in store.settings.layers:
        view = StoreView(store, layer, buffer_bytes=1 << 20)
        found.append(view.read(slice(None)))
        view.moments()
    found += [torch.from_numpy(column) for column in view.tokens().values()]
    documents = view.documents
    found += [torch.from_numpy(documents.n_rows), documents[[0, -1]].read(slice(None))]
    return found


def changed(value, rng):
    """A nested value with one entry changed, added or left out."""
    if isinstance(value, list) and value and rng.random() < 0.8:
        i = rng.randrange(len(value))
        return [*value[:i], changed(value[i], rng), *value[i + 1 :]]
    if not isinstance(value, dict) or not value or rng.random() < 0.05:
        return rng.choice(ODD)
    key = rng.choice(list(value))
    kind = rng.random()
    if kind < 0.1:
        return {name: inner for name, inner in value.items() if name != key}
    if kind < 0.2:
        return value | {rng.choice(["new", "../x", "", "A"]): rng.choice([value[key], *ODD])}
    if kind < 0.3:
        other = rng.choice(["../../x", "", "e" * 300, "B.C/D", "00000009.json", "99999999.json"])
        return {other if name == key else name: inner for name, inner in value.items()}
    return value | {key: changed(value[key], rng)}


def bytes_changed(content, rng):
    kind, place = rng.randrange(4), rng.randrange(len(content))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + rng.randbytes(rng.choice([1, 8, 100])) + content[place:]
    changed = bytearray(content)
    for _ in range(rng.choice([1, 4, 30])):
        changed[rng.randrange(min(len(changed), rng.choice([16, 500, len(changed)])))] ^= (
            1 << rng.randrange(8)
        )
    return bytes(changed)


def header_changed(content, rng):
    """A shard whose header says something else."""
    (length,) = struct.unpack("<Q", content[:8])
    text = json.dumps(changed(json.loads(content[8 : 8 + length]), rng)).encode()[:4000]
    length = rng.choice([length, len(text), 2**63, 0])
    return struct.pack("<Q", length) + text.ljust(4088) + content[4096:]


def mutated(path, rng):
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        return rng.choice([bytes_changed, header_changed])(content, rng)
    if rng.random() < 0.2:
        return bytes_changed(content, rng)
    record = json.loads(content)
    checksum = record.pop("xxh3")
    record = changed(record, rng)
    if not isinstance(record, dict) or rng.random() < 0.1:
        return json.dumps(record).encode()
    if rng.random() < 0.1:
        return json.dumps(record | {"xxh3": checksum}, separators=(",", ":")).encode() + b"\n"
    return dumped(record)


def fuzz(whole, tmp_path, n_files, seed):
    rng, outcomes = random.Random(seed), Counter()
    expected = use_all(whole)
    paths = [tmp_path / "plain", tmp_path / "with index"]
    for path in paths:
        shutil.copytree(whole, path)
    store = OpenStore(paths[1])
    write_index(store.folder, store.commits)
    files = sorted(f for f in paths[0].rglob("*") if f.suffix in (".json", ".safetensors"))
    files += [paths[1] / "index.json"] * 2
    for i in range(n_files):
        file = rng.choice(files)
        path = paths[paths[1] in file.parents]
        kept = file.read_bytes()
        file.write_bytes(mutated(file, rng))
        try:
            got = use_all(path, check=i % 4 == 0)
        except ValueError as error:
            names = [f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file()]
            assert any(name in str(error) for name in names), (i, file, error)
            outcomes["refused"] += 1
        else:  # an identity, a cursor, numbers of the statistics, an unread commit
            assert all(map(torch.equal, got, expected)), (i, file)
            outcomes["read"] += 1
        finally:
            file.write_bytes(kept)
            assert not list(path.glob("commits/0000000[2-9]*")), (i, file)
    return outcomes


def test_damaged_and_hostile_stores(whole, tmp_path):
    outcomes = fuzz(whole, tmp_path, N_FEW, 0)
    assert outcomes["refused"] > 0.5 * N_FEW


@pytest.mark.slow
def test_2000_damaged_and_hostile_stores(whole, tmp_path):
    print(fuzz(whole, tmp_path, N_FILES, 1))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no JSON"),
        (b"[1]", "must hold an object"),
        (b'{"a":1,"b":2}', "has no checksum"),
        (b'{"a":1,"xxh3":"0000000000000000"}\n', "does not agree with its checksum"),
        (b'{"a":NaN,"xxh3":"0000000000000000"}\n', "does not agree"),
        (b"[" * 100_000, "no JSON"),
        ("{'é'}".encode(), "no JSON"),
        (b'{"a":' + b"9" * 5000 + b',"xxh3":"0"}', "no JSON"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, content, match):
    (tmp_path / "store.json").write_bytes(content)
    with pytest.raises(ValueError, match=match) as error:
        OpenStore(tmp_path)
    assert "store.json" in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("format", "else", "'format' must be text like"),
        ("version", 2, "'version' is 2, later than 1. Use a later skdict"),
        ("dtype", "int8", "'dtype' must be text like"),
        ("layers", {}, "has no layer"),
        ("layers", {"a": {"width": 0, "block_rows": 1}}, "field 'a': 'width' must be an integer"),
        ("layers", {"a": {"width": 2, "block_rows": 1, "x": 1}}, "has a field 'x'"),
        ("tokens", {"columns": "document", "block_rows": 1}, "'columns' must be a list"),
        ("tokens", {"columns": ["../x"], "block_rows": 1}, "'columns' must be words"),
        ("shard_rows", True, "'shard_rows' must be an integer"),
        ("n_writers", 0, "'n_writers' must be an integer"),
        ("identity", [], "field 'identity' must be an object"),
    ],
)
def test_fields_are_named(whole, tmp_path, field, value, match):
    path = tmp_path / "store"
    shutil.copytree(whole, path)
    record = json.loads((path / "store.json").read_bytes())
    record.pop("xxh3")
    (path / "store.json").write_bytes(dumped(record | {field: value}))
    with pytest.raises(ValueError, match=match) as error:
        OpenStore(path)
    assert "store.json" in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("shard", 1, "'shard' must be an integer from 0 to 0"),
        ("rows", 41, "'rows' must be an integer from 1 to 40"),
        ("rows", 1.0, "'rows'"),
        ("layers", {}, "has no field 'a'"),
        ("tokens", None, "field 'tokens' must be an object"),
        ("tokens", {"tail_xxh3": "0", "n_runs": 1}, "'tail_xxh3' must be text"),
        ("tokens", {"tail_xxh3": "0" * 16, "n_runs": 41}, "'n_runs'"),
        ("skip", -1, "'skip'"),
        ("more", 1, "has a field 'more'"),
    ],
)
def test_fields_of_commits_are_named(whole, tmp_path, field, value, match):
    path = tmp_path / "store"
    shutil.copytree(whole, path)
    file = path / "commits/00000000.json"
    record = json.loads(file.read_bytes())
    record.pop("xxh3")
    file.write_bytes(dumped(record | {field: value}))
    with pytest.raises(ValueError, match=match) as error:
        OpenStore(path)
    assert "commits/00000000.json" in str(error.value)


def test_large_files_are_not_read(tmp_path):
    with open(tmp_path / "store.json", "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValueError, match=r"has 1073741824 bytes, more than the 16777216"):
        OpenStore(tmp_path)
