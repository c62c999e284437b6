"""Damaged and hostile files: each is refused with an error that names the file, or read rightly.

Files of the golden folders are mutated at random: cut off, with bytes and whole stretches changed,
with headers that claim other shapes and huge sizes, with values of configurations changed or
removed, with tensors that are not finite, turned around or left out.
"""

import io
import json
import pickle
import random
import resource
import shutil
import struct
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from test_golden import EXPRESSIBLE, GOLDEN

from skdict.io import load_dictionary

N_FILES = 1000  # of each format, by pytest -m slow
N_FEW = 12
HOLD_TENSORS = (".safetensors", ".npz", ".pt", ".pth")
MAX_GROWTH = 1 << 29  # bytes of memory that loading all of them may take
ODD = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**400,
    1e308,
    float("nan"),
    "",
    "topk",
    "../../etc/passwd",
    "relu\x00",
    [],
    [1, [2]],
    {},
    {"a": {"b": {}}},
]


def by_format():
    folders = defaultdict(list)
    for name in EXPRESSIBLE:
        folders[name.split("-")[0]].append(name)
    return folders


FOLDERS = by_format()


def cut(data, rng):
    return data[: rng.randrange(len(data))]


def flip(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 4, 30])):
        data[rng.randrange(min(len(data), rng.choice([16, 400, len(data)])))] = rng.randrange(256)
    return bytes(data)


def stretch(data, rng):
    start = rng.randrange(len(data))
    stop = rng.randrange(start, len(data))
    return data[:start] + rng.randbytes(rng.choice([0, 8, 100])) + data[stop:]


def safetensors_header(data, rng):
    """The header of a safetensors file with a value changed, its length kept right or not."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = rng.choice(list(header))
    kind = rng.randrange(6)
    if kind == 0:
        del header[name]
    elif kind == 1:
        header[name] = rng.choice(ODD)
    elif kind == 2 and "shape" in header[name]:
        shape = header[name]["shape"]
        header[name]["shape"] = rng.choice([[2**40], [2**62, 4], [-1], [0], shape[::-1]])
    elif kind == 3 and "data_offsets" in header[name]:
        header[name]["data_offsets"] = rng.choice([[0, 2**62], [8, 4], [-8, 0], [2**63, 2**64]])
    elif kind == 4 and "dtype" in header[name]:
        header[name]["dtype"] = rng.choice(["F64", "I8", "BOOL", "F999", "BF16"])
    else:
        other = rng.choice(list(header))
        header[name], header[other] = header[other], header[name]
    text = json.dumps(header).encode()
    length = rng.choice([len(text), len(text), len(text), 2**63, len(text) + 10**9, 3])
    return struct.pack("<Q", length) + text + data[8 + struct.unpack("<Q", data[:8])[0] :]


def json_value(data, rng):
    value = json.loads(data)
    return json.dumps(changed(value, rng)).encode()


def changed(value, rng):
    """A nested value with one entry changed or left out."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        value = dict(value)
        if rng.random() < 0.25:
            del value[key]
        elif isinstance(value[key], dict) and rng.random() < 0.7:
            value[key] = changed(value[key], rng)
        else:
            value[key] = rng.choice(ODD)
        return value
    return rng.choice(ODD)


def tensor_values(tensors, rng):
    """Tensors by name with one that is not what it was."""
    names = [name for name, value in tensors.items() if torch.is_tensor(value)]
    if not names:
        return tensors
    name = rng.choice(names)
    value = tensors[name].clone()
    kind = rng.randrange(7)
    if kind == 0 and value.is_floating_point() and value.numel():
        value.view(-1)[rng.randrange(value.numel())] = rng.choice([np.nan, np.inf, -np.inf])
    elif kind == 1 and value.dim() == 2:
        value = value.T.contiguous()
    elif kind == 2 and value.dim():
        value = value[:-1].contiguous()
    elif kind == 3:
        value = value[None].contiguous()
    elif kind == 4:
        value = value.to(rng.choice([torch.int64, torch.float16, torch.float64]))
    elif kind == 5:
        return {key: item for key, item in tensors.items() if key != name}
    else:
        return {**tensors, "unknown": value}
    return {**tensors, name: value}


def whole_tensors(path, rng):
    """Write a file of tensors again, with one of them changed."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file, save_file

        save_file(tensor_values(load_file(path), rng), path)
    elif path.suffix == ".npz":
        arrays = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
        np.savez(path, **{n: t.numpy() for n, t in tensor_values(arrays, rng).items()})
    else:
        try:
            value = torch.load(path, weights_only=True)
        except pickle.UnpicklingError:  # a whole model, beside its state
            path.write_bytes(cut(path.read_bytes(), rng))
            return
        inner = next((v for v in value.values() if isinstance(v, dict) and v), None)
        if inner is not None and rng.random() < 0.7:
            key = next(k for k, v in value.items() if v is inner)
            value[key] = tensor_values(inner, rng)
        else:
            value = tensor_values(value, rng)
        torch.save(value, path)


class Evil:
    def __reduce__(self):
        return eval, ("__import__('pathlib').Path('executed').touch()",)


def executable(path, rng):
    """A pickle that would run code."""
    target = {"a": Evil()}
    if rng.random() < 0.5:
        path.write_bytes(pickle.dumps(target))
        return
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as members:
        members.writestr("archive/data.pkl", pickle.dumps(target))
        members.writestr("archive/version", "3\n")
    path.write_bytes(buffer.getvalue())


def mutate(folder, rng):
    """Change one file of a folder; returns what was done."""
    other = ("README", "expected.npz")
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in other)
    path = rng.choice(paths)
    ways = [cut, flip, stretch]
    if path.suffix == ".safetensors":
        ways += 3 * [safetensors_header]
    if path.suffix == ".json":
        ways += 8 * [json_value]
    on_path = [executable] if path.suffix in (".pt", ".pth", ".npz") else []
    on_path += 4 * [whole_tensors] if path.suffix in HOLD_TENSORS else []
    way = rng.choice([*ways, *on_path])
    if way in on_path and path.name != "sae.pt":  # saev begins with a line of JSON
        way(path, rng)
    elif way in on_path:
        path.write_bytes(cut(path.read_bytes(), rng))
    else:
        path.write_bytes(way(path.read_bytes(), rng))
    return f"{way.__name__} of {path.name}"


def load_mutated(name, folder, seed):
    """Load a mutated copy of a golden folder: "read", or the error's text."""
    rng = random.Random(seed)
    shutil.copytree(GOLDEN / name, folder)
    what = mutate(folder, rng)
    try:
        dictionary = load_dictionary(folder, **EXPRESSIBLE[name].options)
    except ValueError as error:
        text = str(error)
        names = {p.name for p in folder.rglob("*")}
        assert any(part in text for part in (folder.name, *names)), f"{name}, {what}: {text}"
        return "refused"
    except Exception as error:
        raise AssertionError(f"{name} {seed}, {what}: {error!r}") from error
    X = np.load(GOLDEN / name / "expected.npz")["X"].astype(np.float32)
    X = X.reshape(len(X), -1)
    if X.shape[1] == dictionary.n_features_in_:
        assert np.isfinite(dictionary.transform(X)).all(), f"{name} {seed}, {what}"
    return "read"


def run(kind, n_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = Counter()
    for seed in range(n_files):
        name = FOLDERS[kind][seed % len(FOLDERS[kind])]
        folder = tmp_path / f"{kind}_{seed}"
        found[load_mutated(name, folder, seed)] += 1
        shutil.rmtree(folder)
    growth = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert growth < MAX_GROWTH, f"loading damaged files took {growth} bytes"
    assert not Path("executed").exists()
    assert found["refused"] > n_files / 10, found
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_few_damaged_files(kind, tmp_path, monkeypatch):
    run(kind, N_FEW, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.enumeration
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FOLDERS)
def test_many_damaged_files(kind, tmp_path, monkeypatch):
    found = run(kind, N_FILES, tmp_path, monkeypatch)
    print(f"{kind}: {dict(found)}")
