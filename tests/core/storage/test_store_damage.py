"""Killed writers, flipped bits, files that were exchanged: nothing passes in silence."""

import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from store_testing import N_ROWS, rows_of, settings, tokens_of, view_of, write

from skdict._core.storage import StoreWriter
from skdict._core.storage.checking import damages
from skdict._core.storage.opening import OpenStore
from skdict._core.storage.records import write_index


def kill(tmp_path, n_kills, seed):
    script = Path(__file__).with_name("kill_writers.py")
    command = [sys.executable, script, tmp_path, str(n_kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=script.parent, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)


@pytest.mark.slow
def test_killed_writers(tmp_path):
    kill(tmp_path, 5, 0)


@pytest.mark.enumeration
def test_a_hundred_killed_writers(tmp_path):
    kill(tmp_path, 100, 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole"))


def use_all(path):
    """Everything that a user may read; the rows, tokens and statistics."""
    found = []
    store = OpenStore(path)
    for layer in store.settings.layers:
        view = view_of(path, layer)
        found.append(view.read(slice(None)))
        summary = view.moments()
        found += [torch.tensor([*s.mean, s.squares, s.n_samples]) for s in summary[:2]]
    found += [torch.from_numpy(column) for column in view.tokens().values()]
    found += [torch.from_numpy(column) for column in store.document_runs]
    return found


def flip(path, rng):
    """Flip a bit of one of the files; returns the file and what was done.

    Commits that are in index.json are not read, so of a store that has one only that is changed.
    """
    files = sorted(file for file in path.rglob("*") if file.suffix in (".json", ".safetensors"))
    if path / "index.json" in files:
        files = [path / "index.json"]
    weights = [file.stat().st_size for file in files] if rng.random() < 0.5 else None
    (file,) = rng.choices(files, weights)
    content = bytearray(file.read_bytes())
    place = rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    return file, f"byte {place} of {file.relative_to(path)}"


def flip_bits(whole, tmp_path, n_flips, seed):
    rng, found = random.Random(seed), Counter()
    expected = use_all(whole)
    originals = [whole, tmp_path / "indexed"]
    shutil.copytree(whole, originals[1])
    store = OpenStore(originals[1])
    write_index(store.folder, store.commits)
    for i, original in enumerate(originals):
        shutil.copytree(original, tmp_path / f"flipped{i}")
    for _ in range(n_flips):
        i = int(rng.random() < 0.1)
        path = tmp_path / f"flipped{i}"
        file, what = flip(path, rng)
        with pytest.raises(ValueError) as error:
            got = use_all(path)
            how = "the same" if all(map(torch.equal, got, expected)) else "wrong"
            pytest.fail(f"{what} was not noticed; what is read is {how}")
        name = file.relative_to(path).as_posix()
        assert name in str(error.value), f"{what}: {error.value}"
        if file.suffix == ".safetensors":
            assert name in {damage["file"] for damage in damages(OpenStore(path))}
        found[name.split("/")[0]] += 1
        shutil.copy(originals[i] / name, file)
    assert len(found) == 5  # layers, tokens, commits, store.json, index.json
    return found


def test_flipped_bits_are_noticed(whole, tmp_path):
    flip_bits(whole, tmp_path, 40, 0)


@pytest.mark.enumeration
def test_a_thousand_flipped_bits_are_noticed(whole, tmp_path):
    print(flip_bits(whole, tmp_path, 1000, 1))


def test_exchanged_files_are_noticed(whole, tmp_path):
    path = tmp_path / "exchanged"
    shutil.copytree(whole, path)
    for folder in ("layers/mlp", "tokens", "commits"):
        ending = "json" if folder == "commits" else "safetensors"
        first, second = (path / folder / f"0000000{i}.{ending}" for i in (1, 2))
        kept = first.read_bytes()
        shutil.copy(second, first)
        with pytest.raises(ValueError, match="00000001"):
            use_all(path)
        first.write_bytes(kept)
    use_all(path)


@pytest.mark.parametrize("n_bytes", [-1, 0, 100, 5000])
def test_files_that_were_cut_off_are_named(whole, tmp_path, n_bytes):
    path = tmp_path / "cut"
    shutil.copytree(whole, path)
    file = path / "layers/mlp/00000002.safetensors"
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match=r"00000002\.safetensors has \d+ bytes, but its commit"):
        view_of(path).read([N_ROWS - 200])
    (damage,) = damages(OpenStore(path))
    assert (damage["file"], damage["block"]) == ("layers/mlp/00000002.safetensors", -1)
    assert torch.equal(view_of(path).read(slice(0, 300)), rows_of()["mlp"][:300])


def test_a_file_that_is_cut_off_while_it_is_read(whole, tmp_path):
    path = tmp_path / "cut"
    shutil.copytree(whole, path)
    view = view_of(path)
    view.read([300])
    file = path / "layers/mlp/00000001.safetensors"
    with open(file, "r+b") as opened:
        opened.truncate(5000)
    with pytest.raises(
        ValueError, match=r"00000001\.safetensors ends before byte \d+: it was cut off"
    ):
        view.read([599])


def test_removing_the_later_commits_heals_a_store(whole, tmp_path):
    """As the message about damage says."""
    path = tmp_path / "healed"
    shutil.copytree(whole, path)
    file = path / "layers/mlp/00000001.safetensors"
    file.write_bytes(file.read_bytes()[:-9] + b"123456789")
    for name in ("commits/00000001.json", "commits/00000002.json", "commits/00000003.json"):
        (path / name).unlink()
    write(path)
    for left, right in zip(use_all(path), use_all(whole), strict=True):
        assert torch.equal(left, right)


def test_a_reader_sees_whole_shards_while_writers_write(tmp_path):
    """What is read between any two calls of a writer is right."""
    rows, tokens = rows_of(), tokens_of()
    seen = set()
    with StoreWriter(tmp_path, settings()) as writer:
        for first in range(0, N_ROWS, 50):
            part = slice(first, first + 50)
            writer.append(
                {n: x[part] for n, x in rows.items()}, {n: x[part] for n, x in tokens.items()}
            )
            view = view_of(tmp_path)
            seen.add(len(view))
            assert torch.equal(view.read(slice(None)), rows["mlp"][: len(view)])
            np.testing.assert_array_equal(
                view.tokens()["position"], tokens["position"][: len(view)]
            )
    assert seen == {0, 300, 600, 900}
