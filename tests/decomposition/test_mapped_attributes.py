"""Fitted attributes that no process has in memory: maps of a file that all of them wrote."""

import errno
import gc
import pickle
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from fits_testing import data, fitted, make, numbers_of

from skdict._core.distributed import tables
from skdict.callbacks import Checkpoint
from skdict.io import load_dictionary, save_dictionary

MATRICES = ("components_", "encoder_coef_")


def mapped_fit(name, X, path=None, **params):
    estimator = make(name, "features", **params)
    if path is not None:
        estimator.set_callbacks(Checkpoint(path))
    with mock.patch.object(tables, "LARGEST_IN_MEMORY", 0):
        return estimator.fit(X)


def files_of(estimator):
    """Of the matrices, which have to be read-only maps."""
    found = []
    for name in MATRICES:
        array = getattr(estimator, name)
        assert type(array) is np.memmap
        assert not array.flags.writeable
        found.append(Path(array.filename))
    return found


def fit_and_use(name, X, path, params):
    estimator = mapped_fit(name, X, path, **params)
    names = [file.name for file in files_of(estimator)]
    again = pickle.loads(pickle.dumps(estimator))
    assert type(again.components_) is np.ndarray
    codes = estimator.transform(X)
    found = numbers_of(estimator)
    place = path / f"saved by {torch.distributed.get_rank()}"
    save_dictionary(estimator, place)
    for each in (estimator, again, load_dictionary(place)):
        assert np.array_equal(each.transform(X), codes)
        found["score_"] = np.asarray(each.score(X[:100]))
        found["reconstruction_"] = each.inverse_transform(codes)
    assert estimator.dictionary_ is estimator.dictionary_  # the maps, and no copy
    return names, found


def expected_of(name, X, params):
    estimator = make(name, "features", **params).fit(X)
    return numbers_of(estimator) | {
        "score_": np.asarray(estimator.score(X[:100])),
        "reconstruction_": estimator.inverse_transform(estimator.transform(X)),
    }


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("batch_topk", {}),
        ("topk", {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 20}),
        ("gated", {"max_iter": 1}),
    ],
)
def test_maps_have_the_same_numbers(two, name, params, tmp_path):
    expected = two.results(expected_of, name, data(), params)[0]
    found = two.results(fit_and_use, name, data(), tmp_path, params)
    for names, numbers in found:
        assert names == ["components.npy", "encoder.npy"]
        assert numbers.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(numbers[key], value)
    (folder,) = tmp_path.glob("fit-*/dictionary")
    assert sorted(path.name for path in folder.iterdir()) == ["components.npy", "encoder.npy"]
    np.testing.assert_array_equal(np.load(folder / "components.npy"), expected["components_"])


def without_a_checkpoint(X, path):
    """In a temporary folder, which goes with the estimator of the first process."""
    with mock.patch.object(tempfile, "tempdir", str(path)):
        estimator = mapped_fit("topk", X, verbose=1, max_iter=3)
    files = files_of(estimator)
    components = estimator.components_
    before = [file.exists() for file in files], components.sum()
    torch.distributed.barrier()
    del estimator
    gc.collect()
    torch.distributed.barrier()
    return before, (files[1].exists(), components.sum())


def test_a_temporary_folder(two, tmp_path):
    for before, after in two.results(without_a_checkpoint, data(), tmp_path):
        assert before[0] == [True, True]
        assert after == (False, before[1])  # what is still used is still there
    assert list(tmp_path.iterdir()) == []


def fit_with_a_full_disk(X, rank, path, is_kept):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    which = "_make_file" if rank == 0 else "_write_rows"
    fails = torch.distributed.get_rank() == rank
    with (
        mock.patch.object(tables, which, full if fails else getattr(tables, which)),
        mock.patch.object(tempfile, "tempdir", str(path)),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        estimator = mapped_fit("topk", X, path if is_kept else None)
    return numbers_of(estimator), [str(each.message) for each in caught]


@pytest.mark.parametrize(("rank", "is_kept"), [(0, False), (1, False), (1, True)])
def test_without_room_for_a_file_all_is_in_memory(two, rank, is_kept, tmp_path):
    """And nothing is left that takes up room."""
    expected = two.results(fitted, "topk", "features", data(), {})[0]
    for numbers, told in two.results(fit_with_a_full_disk, data(), rank, tmp_path, is_kept):
        (message,) = [each for each in told if "cannot be a file" in each]
        assert f"in process {rank}: [Errno 28] No space left on device. Each has it" in message
        for key, value in expected.items():
            np.testing.assert_array_equal(numbers[key], value)
    assert list(tmp_path.glob("skdict-*")) == []
    assert list(tmp_path.glob("fit-*/dictionary")) == []
