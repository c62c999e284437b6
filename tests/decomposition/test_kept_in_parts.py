"""Checkpoints of fits whose processes hold different atoms: each writes, and reads, its own."""

import errno
import os
import random
import shutil
import time
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from fits_testing import (
    StoppedError,
    check_goes_on,
    data,
    fitted,
    kept_fit,
    make,
)
from processes_testing import Processes
from safetensors import safe_open

from skdict._core.distributed.strategy import Strategy
from skdict._core.training.checkpoint import checkpoints_in
from skdict._core.training.stored_rows import StoredRows
from skdict.callbacks import Checkpoint, _kept_in_parts
from skdict.decomposition import _processes

STOP_AT = 31


def only_folder(path):
    (folder,) = path.glob("fit-*")
    return folder


def steps_in(path):
    return [folder.name for folder in checkpoints_in(only_folder(path))]


def stopped(processes, name, path, **params):
    """Stop a fit, with checkpoints, in all processes."""
    for error in processes.call(kept_fit, name, "features", data(), path, STOP_AT, False, params):
        assert isinstance(error, StoppedError), error
    return only_folder(path)


def without_gathering(name, path):
    """As `stopped`; no process may get rows of the matrices of another."""
    whole = Strategy.whole

    def refused(strategy, rows):
        assert rows.dim() < 2, "rows of another process"
        return whole(strategy, rows)

    with mock.patch.object(Strategy, "whole", refused):
        return kept_fit(name, "features", data(), path, STOP_AT)


def test_each_process_writes_its_own_atoms(two, tmp_path):
    for error in two.call(without_gathering, "batch_topk", tmp_path):
        assert isinstance(error, StoppedError), error
    newest = checkpoints_in(only_folder(tmp_path))[0]
    files = sorted(path.name for path in newest.iterdir())
    assert files == [
        "rows-00000.safetensors",
        "rows-00001.safetensors",
        "state.json",
        "state.safetensors",
    ]
    sizes = set()
    for name in files[:2]:
        with safe_open(newest / name, "np") as file:
            sizes |= {file.get_slice(key).get_shape()[0] for key in file.keys()}  # noqa: SIM118
    assert sizes == {33}
    with safe_open(newest / "state.safetensors", "np") as file:
        assert all(len(file.get_tensor(key).shape) < 2 for key in file.keys())  # noqa: SIM118


def as_data_parallel(name, X, path):
    """Go on with the same fit, but with other rows in each process."""

    def by_data(processes, *_):
        return Strategy(data=processes.ranks)

    with mock.patch.object(_processes.Processes, "strategy", by_data):
        return kept_fit(name, "features", X, path)


def check_close(found, expected):
    for of_process in found:
        assert of_process.keys() == expected.keys()
        for attribute, value in expected.items():
            np.testing.assert_allclose(of_process[attribute], value, rtol=0, atol=1e-12)
            np.testing.assert_array_equal(of_process[attribute], found[0][attribute])


def check_reshards(name, two, four, path, **params):
    """Stopped with four; goes on with four, two, one, and two that have all atoms."""
    expected = four.results(fitted, name, "features", data(), params)[0]
    stopped(four, name, path / "stopped", **params)
    copies = [path / which for which in ("four", "two", "one", "by data")]
    for copy in copies:
        shutil.copytree(path / "stopped", copy)
    arguments = name, "features", data()
    check_goes_on(four.results(kept_fit, *arguments, copies[0], None, False, params), expected)
    check_close(two.results(kept_fit, *arguments, copies[1], None, False, params), expected)
    with mock.patch.object(torch, "get_num_threads", lambda: 1):  # as in the processes
        check_close([kept_fit(*arguments, copies[2], params=params)], expected)
    if not params:
        check_close(two.results(as_data_parallel, name, data(), copies[3]), expected)


@pytest.mark.slow
def test_any_number_of_processes_goes_on(two, four, tmp_path):
    check_reshards("batch_topk", two, four, tmp_path)


@pytest.mark.slow
def test_any_number_of_processes_goes_on_by_data(two, four, tmp_path):
    """The sum of the objective, of which each process has a part, too."""
    arguments = "batch_topk", "data", data(), tmp_path
    expected = four.results(fitted, *arguments[:3], {})[0]
    for error in four.call(kept_fit, *arguments, STOP_AT):
        assert isinstance(error, StoppedError), error
    shutil.copytree(tmp_path, tmp_path / "for one")
    check_close(two.results(kept_fit, *arguments), expected)
    with mock.patch.object(torch, "get_num_threads", lambda: 1):
        check_close([kept_fit(*arguments[:3], tmp_path / "for one")], expected)


@pytest.mark.slow
def test_the_best_epoch_is_in_parts_too(two, four, tmp_path):
    params = {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 20}
    check_reshards("topk", two, four, tmp_path, **params)


@pytest.mark.enumeration
@pytest.mark.parametrize("name", ["relu", "topk", "jumprelu", "gated", "matryoshka", "group_max"])
def test_every_architecture_reshards(name, two, four, tmp_path):
    check_reshards(name, two, four, tmp_path)


def read_counted(X, path):
    """The rows of tables that this process has got, going on from a checkpoint."""
    read, ranges = StoredRows.read, set()

    def counted(table, start, stop):
        ranges.add((start, stop))
        return read(table, start, stop)

    with mock.patch.object(StoredRows, "read", counted):
        kept_fit("topk", "features", X, path)
    return ranges


def test_each_process_reads_its_own_atoms(two, tmp_path):
    stopped(two, "topk", tmp_path)
    assert two.results(read_counted, data(), tmp_path) == [{(0, 33)}, {(33, 66)}]


def with_warnings(function, *arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = function(*arguments)
    return found, [str(each.message) for each in caught]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink, lambda path: os.truncate(path, 100)])
def test_what_is_damaged_is_not_taken(two, tmp_path, damage):
    """In the file of the second process: all take the one before, which a warning tells."""
    folder = stopped(two, "topk", tmp_path)
    newest, before = checkpoints_in(folder)
    damage(newest / "rows-00001.safetensors")
    found = two.results(with_warnings, kept_fit, "topk", "features", data(), tmp_path)
    told = [message for message in found[0][1] if "rows-00001" in message]
    assert f"goes on from {before.name}" in told[0]
    check_goes_on(
        [each for each, _ in found], two.results(fitted, "topk", "features", data(), {})[0]
    )


def test_all_are_damaged(two, tmp_path):
    for checkpoint in checkpoints_in(stopped(two, "topk", tmp_path)):
        flip_a_bit(checkpoint / "rows-00000.safetensors")
    one, other = two.call(kept_fit, "topk", "features", data(), tmp_path)
    assert isinstance(one, ValueError)
    assert "No checkpoint in" in str(one)
    assert isinstance(other, RuntimeError)
    assert "In process 0: ValueError: No checkpoint in" in str(other)


def with_a_full_disk(X, path, rank, n_left):
    """The disk of one process is full after some checkpoints, and has space again at the end."""
    write, n_written = _kept_in_parts.write_part, 0

    def full(temporary, state, of):
        nonlocal n_written
        n_written += 1
        if of == rank and n_left < n_written < 40 and not state["loop"]["is_over"]:
            (temporary / f"rows-{of:05d}.safetensors").write_bytes(b"some of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(temporary, state, of)

    with mock.patch.object(_kept_in_parts, "write_part", full):
        return with_warnings(kept_fit, "topk", "features", X, path)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_of_one_process(two, tmp_path, rank):
    found = two.results(with_a_full_disk, data(), tmp_path, rank, 3)
    for _, told in found:
        said = [message for message in told if "could not be written" in message]
        assert said
        assert (
            f"in process {rank}: [Errno 28] No space left on device. The fit goes on; step-"
            in (said[0])
        )
    check_goes_on(
        [each for each, _ in found], two.results(fitted, "topk", "features", data(), {})[0]
    )
    (last,) = steps_in(tmp_path)
    assert last == f"step-{found[0][0]['n_steps_']:09d}"


def newest_in(path):
    found = [
        checkpoint.name for folder in path.glob("fit-*") for checkpoint in checkpoints_in(folder)
    ]
    return max(found, default=None)


def with_a_slow_disk(X, path):
    """Of the second process; how many were writing at once, and how many checkpoints began."""
    write, now, most, n_written = _kept_in_parts.write_part, 0, 0, 0

    def slow(temporary, state, rank):
        nonlocal now, most, n_written
        now, n_written = now + 1, n_written + 1
        most = max(most, now)
        time.sleep(0.3 * rank)
        part = write(temporary, state, rank)
        now -= 1
        return part

    with mock.patch.object(_kept_in_parts, "write_part", slow):
        estimator = make("topk", "features").set_callbacks(Checkpoint(path, every=0)).fit(X)
    return most, n_written, estimator.n_steps_


def test_one_checkpoint_at_a_time(two, tmp_path):
    found = two.results(with_a_slow_disk, data(), tmp_path)
    assert found[0] == found[1]
    most, n_written, n_steps = found[0]
    assert most == 1
    assert 2 <= n_written < n_steps / 2  # others have waited, and training has not


@pytest.mark.enumeration
def test_killed_at_any_moment(tmp_path):
    """All processes, again and again, until the fit is done: what is on the disk is whole."""
    arguments, rng = ("batch_topk", "features", data(), tmp_path / "kept"), random.Random(0)
    kept = [None]  # the newest checkpoint after each kill
    while len(kept) < 12:
        place = tmp_path / f"{len(kept)}"
        place.mkdir()
        with Processes(2, place) as processes:
            for pipe in processes.pipes:
                pipe.send((kept_fit, arguments))
            began = time.monotonic()
            while newest_in(tmp_path / "kept") == kept[-1] and time.monotonic() < began + 60:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.2))
        kept.append(newest_in(tmp_path / "kept"))
    assert len(set(kept)) > 6
    (tmp_path / "last").mkdir()
    with Processes(2, tmp_path / "last") as processes:
        expected = processes.results(fitted, *arguments[:3], {})[0]
        check_goes_on(processes.results(kept_fit, *arguments), expected)


def kept_apart(X, path):
    """With a folder of its own for each process, as on machines that share none."""
    path = path / str(torch.distributed.get_rank())
    return make("topk", "features").set_callbacks(Checkpoint(path)).fit(X)


def test_a_folder_that_is_not_shared(two, tmp_path):
    for error in two.call(kept_apart, data(), tmp_path):
        with pytest.raises(ValueError, match=r"Process 1 does not see .* all processes share"):
            raise error


def test_a_finished_fit_returns_at_once(two, tmp_path):
    expected = two.results(kept_fit, "topk", "features", data(), tmp_path)[0]
    check_goes_on(two.results(kept_fit, "topk", "features", data(), tmp_path, 0), expected)
    assert len(steps_in(tmp_path)) == 1
