"""Codes in a folder: those of `transform`, resumed, checked, and nothing half-written."""

import json
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from skdict import metrics
from skdict.decomposition import (
    CodeShards,
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    _code_shards,
)
from tests.views_testing import ArrayView


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(_code_shards, "ROWS_PER_SHARD", 100)


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).standard_normal((530, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(X):
    return SparseAutoencoderDictionary(8, max_iter=2, random_state=0).fit(X)


KINDS = {
    "ndarray": np.asarray,
    "float64": lambda X: X.astype(np.float64),
    "CSR": sp.csr_array,
    "tensor": torch.from_numpy,
    "view": ArrayView,
}


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_those_of_transform(X, fitted, kind, tmp_path):
    given = KINDS[kind](X)
    codes = fitted.transform(given, out=tmp_path / "codes")
    want = np.asarray(fitted.transform(given))
    assert codes.shape == want.shape
    assert len(codes) == len(X)
    np.testing.assert_array_equal(codes[:].toarray(), want)
    assert codes[:].dtype == want.dtype
    assert codes[:].has_canonical_format
    np.testing.assert_array_equal(sp.vstack(list(codes)).toarray(), want)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(codes))[:].toarray(), want)
    assert len(pickle.dumps(codes)) < 300
    assert sorted(file.name for file in (tmp_path / "codes").iterdir()) == [
        *(f"{i:08d}.npz" for i in range(6)),
        "codes.json",
    ]


@pytest.mark.parametrize(
    "index",
    [slice(90, 110), slice(None, None, -7), [5, 300, 5, 99], [], np.arange(530) % 3 == 0, [-1]],
)
def test_rows(X, fitted, index, tmp_path):
    codes = fitted.transform(X, out=tmp_path)
    index = index if isinstance(index, slice) else np.asarray(index, dtype=type_of(index))
    np.testing.assert_array_equal(codes[index].toarray(), fitted.transform(X)[index])


def type_of(index):
    return bool if len(index) == 530 else np.int64


def test_they_are_no_activations(X, fitted, tmp_path):
    codes = fitted.transform(X, out=tmp_path)
    with pytest.raises(TypeError, match=r"X is a CodeShards, which metrics .* give the rows"):
        SparseAutoencoderDictionary(8).fit(codes)


@pytest.mark.parametrize("index", [3, [[3]], [530], [-531], [1.5], np.ones(7, dtype=bool)])
def test_indices_of_no_rows(X, fitted, index, tmp_path):
    codes = fitted.transform(X, out=tmp_path)
    with pytest.raises(IndexError, match=r"[Rr]ow"):
        codes[index]


def test_memory_does_not_grow_with_the_rows(X, fitted, tmp_path):
    """Nor does time, where settings are damaged."""
    fitted.transform(X, out=tmp_path)
    file = tmp_path / "codes.json"
    settings = json.loads(file.read_text()) | {"rows_per_shard": 10**15}
    file.write_text(json.dumps(settings | {"shape": [10**15, 8]}))
    for number in range(1, 6):
        (tmp_path / f"{number:08d}.npz").unlink()
    codes = CodeShards(tmp_path)
    with pytest.raises(ValueError, match=r"00000000\.npz' is damaged: it holds \(100, 8\)"):
        codes[10**14 : 10**14 + 3]
    file.write_text(json.dumps(settings | {"shape": [10**400, 8]}))
    with pytest.raises(FileNotFoundError, match=r"00000001\.npz' is missing"):
        CodeShards(tmp_path)


def test_metrics_take_them(X, fitted, tmp_path):
    codes, want = fitted.transform(X, out=tmp_path), fitted.transform(X)
    assert metrics.mean_l0(codes) == metrics.mean_l0(want)
    np.testing.assert_array_equal(metrics.feature_density(codes), metrics.feature_density(want))
    np.testing.assert_array_equal(
        fitted.inverse_transform(codes), fitted.inverse_transform(codes[:])
    )


def test_what_is_there_is_not_written_again(X, fitted, tmp_path, monkeypatch):
    want = fitted.transform(X, out=tmp_path)[:].toarray()
    (tmp_path / "00000002.npz").unlink()
    (tmp_path / "00000004.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"00000002\.npz.* is missing, and 2 of the 6"):
        CodeShards(tmp_path)
    written, replacing = [], _code_shards.replacing
    monkeypatch.setattr(
        _code_shards,
        "replacing",
        lambda file, **options: written.append(file.name) or replacing(file, **options),
    )
    again = fitted.transform(X, out=tmp_path)
    assert written == ["00000002.npz", "00000004.npz"]
    np.testing.assert_array_equal(again[:].toarray(), want)


def test_an_interruption_leaves_whole_files_only(X, fitted, tmp_path, monkeypatch):
    def interrupted(file, codes, **options):
        if len(saved) < 3:
            saved.append(codes)
            return save(file, codes, **options)
        file.write(b"half")
        raise KeyboardInterrupt

    saved, save = [], sp.save_npz
    monkeypatch.setattr(_code_shards.sp, "save_npz", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted.transform(X, out=tmp_path)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["00000000.npz", "00000001.npz", "00000002.npz", "codes.json"]
    monkeypatch.setattr(_code_shards.sp, "save_npz", save)
    np.testing.assert_array_equal(
        fitted.transform(X, out=tmp_path)[:].toarray(), fitted.transform(X)
    )


def test_other_codes_are_refused(X, fitted, tmp_path):
    fitted.transform(X, out=tmp_path)
    with pytest.raises(ValueError, match="codes of another shape"):
        fitted.transform(X[:-1], out=tmp_path)
    with pytest.raises(ValueError, match="codes of another dtype"):
        fitted.transform(X.astype(np.float64), out=tmp_path)
    with pytest.raises(ValueError, match="codes of another X"):
        fitted.transform(X + 1, out=tmp_path)
    other = X.copy()
    other[101, 3] += 1  # one number
    with pytest.raises(ValueError, match="codes of another X"):
        fitted.transform(other, out=tmp_path)
    other = SparseAutoencoderDictionary(8, max_iter=2, random_state=1).fit(X)
    with pytest.raises(ValueError, match=r"codes of another dictionary.*Give another folder"):
        other.transform(X, out=tmp_path)
    fitted = SparseAutoencoderDictionary(8, max_iter=2, random_state=0).fit(X)
    with pytest.raises(ValueError, match="codes of another dictionary"):
        fitted.set_params(transform_algorithm="omp").transform(X, out=tmp_path)


def test_a_folder_whose_first_process_was_killed(X, fitted, tmp_path):
    (tmp_path / ".0123456789abcdef-01234567.tmp").write_text("{")
    codes = fitted.transform(X, out=tmp_path)
    np.testing.assert_array_equal(codes[:].toarray(), fitted.transform(X))


def test_bad_folders(X, fitted, tmp_path):
    (tmp_path / "photo.png").touch()
    with pytest.raises(ValueError, match="holds files, and they are no codes"):
        fitted.transform(X, out=tmp_path)
    with pytest.raises(NotADirectoryError, match=r"out=.*photo\.png' is a file, or below one"):
        fitted.transform(X, out=tmp_path / "photo.png")
    with pytest.raises(FileNotFoundError, match=r"has no codes\.json"):
        CodeShards(tmp_path)
    with pytest.raises(TypeError, match="out must be a folder to write codes into, not 3"):
        fitted.transform(X, out=3)
    with pytest.raises(ValueError, match="set_output asks for 'pandas'"):
        SparseAutoencoderDictionary(8, max_iter=1).fit(X).set_output(transform="pandas").transform(
            X, out=tmp_path / "codes"
        )


@pytest.mark.parametrize("place", [0, 40, 200, -30])
def test_damaged_files_are_named(X, fitted, tmp_path, place):
    codes = fitted.transform(X, out=tmp_path)
    file = tmp_path / "00000001.npz"
    damaged = bytearray(file.read_bytes())
    damaged[place] ^= 255
    file.write_bytes(damaged)
    want = fitted.transform(X)[150:152]
    try:
        found = codes[150:152].toarray()
    except ValueError as error:
        assert "00000001.npz' is damaged" in str(error)
    else:  # a byte that the archive does not need
        np.testing.assert_array_equal(found, want)
    file.write_bytes(damaged[: len(damaged) // 2])
    with pytest.raises(ValueError, match=r"00000001\.npz' is damaged"):
        codes[150:152]
    np.testing.assert_array_equal(codes[90:99].toarray(), fitted.transform(X)[90:99])


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"shape": [530]},
        {"shape": [530, -8]},
        {"shape": "wide"},
        {"rows_per_shard": 0},
        {"rows_per_shard": True},
        {"dtype": "object"},
        {"dtype": None},
    ],
)
def test_damaged_settings_are_named(X, fitted, tmp_path, change):
    fitted.transform(X, out=tmp_path)
    file = tmp_path / "codes.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=r"codes\.json' is damaged"):
        CodeShards(tmp_path)
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"codes\.json' is damaged"):
        fitted.transform(X, out=tmp_path)


def test_of_a_search(X, tmp_path):
    search = SparseAutoencoderDictionaryCV(8, alphas=[0.1, 0.3], cv=2, max_iter=1, random_state=0)
    codes = search.fit(X).transform(X, out=tmp_path)
    np.testing.assert_array_equal(codes[:].toarray(), search.transform(X))
