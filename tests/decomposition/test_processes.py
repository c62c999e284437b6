"""Several processes find the dictionary that one finds."""

import contextlib
import io
import os
import signal
import time
from unittest import mock

import numpy as np
import pytest
import torch
from fits_testing import (
    SIZES,
    StoppedError,
    check_goes_on,
    data,
    fitted,
    kept_fit,
    make,
    numbers_of,
)
from processes_testing import Processes, Sent

from skdict._core.distributed.cut import largest_cut
from skdict._core.distributed.ranks import Ranks
from skdict._core.distributed.strategy import ALONE, Strategy
from skdict._core.models.architectures import ARCHITECTURES
from skdict._core.models.autoencoder import Autoencoder
from skdict._core.optim import normalize_
from skdict._core.solvers import resampling
from skdict._core.solvers.autoencoder_training import Training
from skdict._core.solvers.schedule import Schedule
from skdict.callbacks import Checkpoint
from skdict.decomposition import SparseAutoencoderDictionary, SparseAutoencoderDictionaryCV
from skdict.decomposition.architectures import Architecture

NAMES = ("relu", "topk", "abs_topk", "batch_topk", "jumprelu", "gated", "matryoshka", "group_max")


def check_as_one(processes, name, strategy, atol=1e-12, **params):
    X = data()
    found = processes.results(fitted, name, strategy, X, params)
    expected = fitted(name, strategy, X, params)
    assert expected["n_steps_"] >= 50
    for of_process in found:
        assert of_process.keys() == expected.keys()
        for attribute, value in expected.items():
            np.testing.assert_allclose(of_process[attribute], value, rtol=0, atol=atol)
            np.testing.assert_array_equal(of_process[attribute], found[0][attribute])


@pytest.mark.parametrize("strategy", SIZES)
@pytest.mark.parametrize("name", ["topk", "batch_topk"])
def test_two_processes(two, name, strategy):
    check_as_one(two, name, strategy)


def test_two_processes_alternate(two):
    check_as_one(two, None, "data")


@pytest.mark.enumeration
@pytest.mark.parametrize("size", ["two", "four"])
@pytest.mark.parametrize("strategy", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_every_architecture(name, strategy, size, request):
    check_as_one(request.getfixturevalue(size), name, strategy)


@pytest.mark.enumeration
@pytest.mark.parametrize("strategy", SIZES)
@pytest.mark.parametrize(
    "params",
    [
        {"fit_intercept": False},
        {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 20},
        {"early_stopping": False, "shuffle": False},
        {"architecture": ARCHITECTURES["topk"](k=4, nonnegative=False)},
        {"architecture": ARCHITECTURES["matryoshka"](k=4, prefixes=(0.01, 0.3, 0.9, 1.0))},
        {"dict_init": "exemplars"},
    ],
)
def test_every_way_to_fit(two, params, strategy):
    check_as_one(two, "topk", strategy, **params)


@pytest.mark.enumeration
def test_four_processes_alternate(four):
    check_as_one(four, None, "data")
    check_as_one(four, None, "features")


def portions(name, strategy, X):
    estimator = make(name, strategy)
    for portion in np.array_split(X, 3):
        estimator.partial_fit(portion)
    return numbers_of(estimator)


def check_portions(processes, name, strategy):
    X = data()
    expected = portions(name, strategy, X)
    for found in processes.results(portions, name, strategy, X):
        for attribute, value in expected.items():
            np.testing.assert_allclose(found[attribute], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "strategy"), [("batch_topk", "data"), ("jumprelu", "features")])
def test_portions_of_a_stream(two, name, strategy):
    check_portions(two, name, strategy)


@pytest.mark.enumeration
@pytest.mark.parametrize("strategy", SIZES)
@pytest.mark.parametrize("name", [*NAMES, None])
def test_portions_of_every_architecture(four, name, strategy):
    check_portions(four, name, strategy)


def differently(what, X):
    """Fit with something that is another in the second process."""
    rank = torch.distributed.get_rank()
    if what == "X":
        return make("topk", "data").fit(X + rank).n_steps_
    if what == "rows":
        return make("topk", "data").fit(X[rank:]).n_steps_
    if what == "random_state":
        return make("topk", "data", random_state=np.random.RandomState(rank)).fit(X).n_steps_
    if what == "dict_init":
        return make("topk", "data", dict_init=X[rank : rank + 23]).fit(X).n_steps_
    return make("topk", "data", **{what: rank + 1}).fit(X).n_steps_


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("X", "the mean of X .* is .* in process 0, but .* in process 1"),
        ("rows", r"the shape of X is \(650, 16\) in process 0, but \(649, 16\) in process 1"),
        ("random_state", "random_state is RandomState .* in process 1"),
        ("dict_init", "the initial dictionary .* in process 1"),
        ("max_iter", "max_iter is 1 in process 0, but 2 in process 1"),
    ],
)
def test_what_differs_is_named_in_all_processes(two, what, message):
    for error in two.call(differently, what, data()):
        assert isinstance(error, ValueError)
        with pytest.raises(ValueError, match=message):
            raise error


def within_folds(X, rank):
    """A search, the second fit of which fails in the second process."""
    fit, n_fits = SparseAutoencoderDictionary._source, 0

    def failing(estimator, *args, **kwargs):
        nonlocal n_fits
        n_fits += kwargs.get("reset", False)
        if n_fits == 2 and rank == 1:
            raise OSError("cannot be read")
        return fit(estimator, *args, **kwargs)

    search = SparseAutoencoderDictionaryCV(
        8, alphas=[0.1, 0.2], cv=2, max_iter=2, random_state=0, device="cpu"
    )
    with mock.patch.object(SparseAutoencoderDictionary, "_source", failing):
        return search.fit(X).alpha_


def failing_in_one(where, X):
    """Fit, where the second process fails before it has compared anything with the others."""
    rank = torch.distributed.get_rank()
    if where == "parameter":
        return make("topk", "data", max_iter=-rank or 3).fit(X).n_steps_
    estimator = make("topk", "data")
    if where == "search":
        estimator = SparseAutoencoderDictionaryCV(
            8, alphas=[0.1, 0.2], cv=2, max_iter=2, device="cpu"
        )
        return estimator.fit(X[0] if rank == 1 else X).alpha_
    if where == "fold":
        return within_folds(X, rank)
    if where == "portion":
        estimator.partial_fit(X)
    if where == "shape" and rank == 1:
        return estimator.fit(X[0])
    X = X.copy()
    X[7, 3] = np.nan if rank == 1 else X[7, 3]
    fit = estimator.partial_fit if where == "portion" else estimator.fit
    return fit(X).n_steps_


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("parameter", "InvalidParameterError: The 'max_iter' parameter"),
        ("shape", r"ValueError: X must be a matrix, but has shape \(16,\)"),
        ("NaN", "ValueError: Input X contains NaN"),
        ("portion", "ValueError: Input X contains NaN"),
        ("search", r"ValueError: X must be a matrix, but has shape \(16,\)"),
        ("fold", "OSError: cannot be read"),
    ],
)
def test_an_error_of_one_process_is_told_to_all(two, where, message):
    """And they can fit again."""
    began = time.monotonic()
    first, second = two.call(failing_in_one, where, data())
    assert time.monotonic() - began < 15  # not the 60 seconds of the group
    with pytest.raises(RuntimeError, match=f"In process 1: {message}"):
        raise first
    with pytest.raises((ValueError, OSError), match=message.split(": ")[1]):
        raise second
    one, other = two.results(fitted, "topk", "data", data(), {"max_iter": 1})
    np.testing.assert_array_equal(one["components_"], other["components_"])


def without_a_seed(X):
    return make("topk", "features", random_state=None, max_iter=1).fit(X).components_


def test_without_a_seed_all_take_that_of_the_first(two):
    one, other = two.results(without_a_seed, data())
    np.testing.assert_array_equal(one, other)


class Unknown(Architecture):
    """Says nothing of processes."""


def fit_unknown(X):
    return make("topk", "data", architecture=Unknown(), n_nonzero_coefs=None).fit(X)


def fit_batches_of_one(X):
    return SparseAutoencoderDictionary(8, solver="alternating", batch_size=1).fit(X[:20])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fit_unknown, "Unknown.distributed = True"),
        (fit_batches_of_one, "2 processes cannot share a batch of 1 rows"),
    ],
)
def test_what_several_processes_cannot_do(two, function, message):
    for error in two.call(function, data()):
        with pytest.raises(ValueError, match=message):
            raise error


def sent_in_steps(strategy, n, d, B, k, dtype, n_steps=3):
    """Bytes that a step sends, of a top-k autoencoder past its first variant."""
    ranks = Ranks()
    generator = torch.Generator().manual_seed(0)
    atoms = normalize_(torch.randn(n, d, generator=generator, dtype=dtype))
    autoencoder = Autoencoder.from_dictionary(atoms, ARCHITECTURES["topk"](k), encoder_scale=0.5)
    if strategy == "data":
        strategy = Strategy(data=ranks)
    else:
        strategy = Strategy(features=ranks, n_components=n)
    training = Training(autoencoder, generator, density=k / n).distributed(strategy)
    schedule = Schedule(alpha=0.1, learning_rate=1e-3, n_steps=n_steps, from_scratch=False)
    batches = torch.randn(n_steps, B, d, generator=generator, dtype=dtype)
    with Sent() as sent:
        for x in batches:
            training.step(x.tensor_split(ranks.size)[ranks.rank], schedule, B)
    return sent.n_bytes / n_steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strategy", SIZES)
def test_bytes_of_a_step(two, strategy, dtype):
    n, d, B, k = (256, 64, 128, 8) if strategy == "features" else (64, 64, 128, 8)
    size = dtype.itemsize
    expected = 2 * n * d * size  # 2 (R - 1) / R of the gradients of two matrices
    if strategy == "features":  # the rows, the candidates and what is kept, the reconstruction
        expected = 0.5 * (B * d * size + B * k * (size + 1) + 2 * B * d * size)
    for n_bytes in two.results(sent_in_steps, strategy, n, d, B, k, dtype):
        assert n_bytes == pytest.approx(expected, rel=0.05)


class Keeps:
    """Stands for a callback that keeps checkpoints."""

    max_propagation_depth = None

    def __init__(self, path):
        self.path = path

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = on_fit_task_end = setup


class StopsInOne(Keeps):
    """Ends the fit after a pass, in the second process alone."""

    def on_fit_task_end(self, estimator, context):
        return torch.distributed.get_rank() == 1


def stopped_by_one(X):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        estimator = make("topk", "features", verbose=1).set_callbacks(StopsInOne(None)).fit(X)
    return estimator.n_iter_, len(printed.getvalue().splitlines())


def test_a_callback_of_one_process_ends_the_fit_of_all(two):
    """And only the first process prints."""
    assert two.results(stopped_by_one, data()) == [(1, 1), (1, 0)]


def with_a_callback_in_one(X):
    estimator = make("topk", "features")
    if torch.distributed.get_rank() == 0:
        estimator.set_callbacks(Keeps("folder"))
    return estimator.fit(X)


def test_callbacks_that_differ_are_refused(two):
    """One that asks for the dictionary would wait for the others until the group gives up."""
    for error in two.call(with_a_callback_in_one, data()):
        with pytest.raises(
            ValueError, match=r"callbacks is \['Keeps'\] in process 0, but \[\] in"
        ):
            raise error


def whole(autoencoder):
    """The tensors of an autoencoder, with the components of all processes."""
    *of_components, intercept = (tensor.detach() for tensor in autoencoder.tensors)
    if autoencoder.strategy.shards_atoms:
        of_components = map(autoencoder.strategy.whole, of_components)
    return [*of_components, intercept]


def steps_of_few_rows(strategy, name):
    """Steps of fewer rows than there are processes, as at the end of a piece of a stream."""
    generator = torch.Generator().manual_seed(0)
    atoms = normalize_(torch.randn(40, 8, generator=generator, dtype=torch.float64))
    architecture = ARCHITECTURES[name]()
    architecture.complete(40, 4)
    autoencoder = Autoencoder.from_dictionary(atoms, architecture, encoder_scale=0.5)
    training = Training(autoencoder, generator, density=0.1).distributed(strategy)
    schedule = Schedule(alpha=0.1, learning_rate=1e-2, from_scratch=False)
    share = strategy.ranks
    for n_rows in (5, 1, 3, 1, 2):
        x = torch.randn(n_rows, 8, generator=generator, dtype=torch.float64)
        training.step(x.tensor_split(share.size)[share.rank], schedule, n_rows)
    return whole(training.averaged())


def steps_of_few_rows_together(strategy, name):
    ranks = Ranks()
    by_features = Strategy(features=ranks, n_components=40)
    return steps_of_few_rows(by_features if strategy == "features" else Strategy(ranks), name)


@pytest.mark.parametrize("strategy", SIZES)
@pytest.mark.parametrize("name", ["batch_topk", "abs_topk", "jumprelu"])
def test_fewer_rows_than_processes(two, name, strategy):
    expected = steps_of_few_rows(ALONE, name)
    for tensors in two.results(steps_of_few_rows_together, strategy, name):
        for found, tensor in zip(tensors, expected, strict=True):
            torch.testing.assert_close(found, tensor, rtol=0, atol=1e-12)


def cuts_of(values, counts):
    """The largest value that is cut, for each number of values that are kept."""
    ranks = Ranks()
    share = values.tensor_split(ranks.size)[ranks.rank]
    with Strategy(features=ranks, n_components=len(values)).active():
        return [largest_cut(share, n_kept) for n_kept in counts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_largest_that_is_cut(two, dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(301, generator=generator, dtype=dtype).relu() * 1e3
    values[::7] = values[3]  # ties
    values[5:9] = torch.tensor([1e-30, 3e-38, -0.0, 2e30], dtype=dtype)
    counts = [0, 1, 2, 50, 150, 200, 300, 301, 500]
    descending = values.sort(descending=True).values
    for found in two.results(cuts_of, values, counts):
        for cut, n_kept in zip(found, counts, strict=True):
            expected = descending[n_kept] if n_kept < 301 else None
            assert cut == expected


def rows_together(tables):
    ranks = Ranks()
    found = []
    for table in tables:
        mine = table.tensor_split(ranks.size)[ranks.rank]
        dealt = ranks.dealt(table + ranks.rank)
        found += [ranks.gathered(mine, len(table)), dealt, ranks.undealt(dealt, len(table))]
    return found, ranks.gathered(torch.tensor([True, False])[: 2 - ranks.rank], 3)


def test_rows_are_gathered_and_dealt_out(two):
    tables = [torch.arange(n * 3.0).view(n, 3) for n in (1, 4, 5)]
    for rank, (found, flags) in enumerate(two.results(rows_together, tables)):
        assert flags.tolist() == [True, False, True]
        for i, table in enumerate(tables):
            gathered, dealt, undealt = found[3 * i : 3 * i + 3]
            assert torch.equal(gathered, table)
            mine = table.tensor_split(2)[rank]
            assert torch.equal(dealt, torch.stack([mine, mine + 1]))
            assert torch.equal(undealt, table + rank)


def tensors_after(strategy, name, n=700, d=12, B=601):
    """Of an autoencoder with duplicates, dead features and atoms that stand for two directions.

    Atoms of every kind are in every process, and the features of a pair in two of them.
    """
    generator = torch.Generator().manual_seed(0)
    atoms = normalize_(torch.randn(n, d, generator=generator, dtype=torch.float64))
    atoms[n // 2 : n // 2 + 80] = atoms[30:110]  # duplicates
    atoms[-40:] = atoms[20:60]
    architecture = ARCHITECTURES[name]()
    autoencoder = Autoencoder.from_dictionary(atoms, architecture, encoder_scale=0.2)
    autoencoder.encoder_weight[:] *= 1 + torch.rand(n, 1, generator=generator).double()
    autoencoder.encoder_bias[::7] = -100.0  # dead
    training = Training(autoencoder, generator, density=0.1).distributed(strategy)
    before = [tensor.clone() for tensor in whole(training.autoencoder)]
    schedule = Schedule(
        alpha=0.01,
        learning_rate=1e-3,
        n_steps=100,
        resample_at=(0.02,),
        min_steps_between_resampling=1,
    )
    x = torch.randn(3, B, d, generator=generator, dtype=torch.float64)
    share = strategy.ranks
    with mock.patch.multiple(resampling, ROWS_TO_COMPARE=150, DRAWN_TOGETHER=128):
        for batch in x:
            training.step(batch.tensor_split(share.size)[share.rank], schedule, B)
    after = whole(training.autoencoder)
    changed = (after[1] - before[1]).abs().amax(dim=1) > 0.05
    return after, int(changed.sum()), training.state_dict()["has_fired"]


def together(strategy, name):
    if strategy == "features":
        return tensors_after(Strategy(features=Ranks(), n_components=700), name)
    return tensors_after(Strategy(data=Ranks()), name)


@pytest.mark.parametrize(
    ("name", "strategy", "size"),
    [
        ("relu", "features", "two"),
        *(
            pytest.param(name, strategy, "four", marks=pytest.mark.enumeration)
            for name in ("relu", "gated", "jumprelu")
            for strategy in SIZES
        ),
    ],
)
def test_resampling(name, strategy, size, request):
    expected, n_changed, has_fired = tensors_after(ALONE, name)
    assert n_changed > 150
    processes = request.getfixturevalue(size)
    for tensors, _, fired in processes.results(together, strategy, name):
        assert torch.equal(fired, has_fired)
        for found, tensor in zip(tensors, expected, strict=True):
            torch.testing.assert_close(found, tensor, rtol=0, atol=1e-12)


@pytest.mark.parametrize("strategy", SIZES)
def test_a_fit_that_was_stopped_goes_on_to_the_last_bit(two, strategy, tmp_path):
    name = "batch_topk"
    for error in two.call(kept_fit, name, strategy, data(), tmp_path, 31):
        assert isinstance(error, StoppedError)
    (folder,) = tmp_path.glob("fit-*")
    assert list(folder.glob("step-*"))
    expected = two.results(fitted, name, strategy, data(), {})[0]
    check_goes_on(two.results(kept_fit, name, strategy, data(), tmp_path), expected)
    one, other = two.call(fit_of_another, strategy, data(), tmp_path)
    assert "is of another fit" in str(one)
    assert "In process 0" in str(other)
    assert "is of another fit" in str(other)


def fit_of_another(strategy, X, path):
    return make("topk", strategy, random_state=1).set_callbacks(Checkpoint(path)).fit(X)


@pytest.mark.enumeration
@pytest.mark.parametrize("stop_at", [1, 8, 12, 32, 53])
@pytest.mark.parametrize("strategy", SIZES)
@pytest.mark.parametrize("name", ["topk", "jumprelu", "matryoshka"])
def test_a_fit_that_was_killed_goes_on_to_the_last_bit(name, strategy, stop_at, tmp_path):
    kept = tmp_path / "kept"
    with Processes(2, tmp_path) as processes:
        for pipe in processes.pipes:
            pipe.send((kept_fit, (name, strategy, data(), kept, stop_at, True)))
        for process in processes.processes:
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
    (tmp_path / "again").mkdir()
    with Processes(2, tmp_path / "again") as processes:
        expected = processes.results(fitted, name, strategy, data(), {})[0]
        check_goes_on(processes.results(kept_fit, name, strategy, data(), kept), expected)


def lose_one(how, X, checkpoints):
    """Fit, where process 1 is lost in the fourth step."""
    step = Training.step

    def lost_at_step_4(training, *args):
        if training.n_steps == 3 and torch.distributed.get_rank() == 1:
            if how == "sleeps":
                time.sleep(600)
            os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        return step(training, *args)

    Training.step = lost_at_step_4
    estimator = make("topk", "data")
    if checkpoints:
        estimator.set_callbacks(Keeps(checkpoints))
    return estimator.fit(X)


def check_is_named(how, size, folder, checkpoints=None):
    survivors = [rank for rank in range(size) if rank != 1]
    with Processes(size, folder, timeout=5) as processes:
        for error in processes.call(lose_one, how, data(), checkpoints, answering=survivors):
            message = f"Process 1 is gone at step 4 of a fit by {size} processes"
            with pytest.raises(RuntimeError, match=message):
                raise error
            assert ("begins anew" in str(error)) == (checkpoints is None)
            assert checkpoints is None or f"continue from {checkpoints!r}" in str(error)


def test_a_lost_process_is_named(tmp_path):
    check_is_named("killed", 2, tmp_path, checkpoints=str(tmp_path))


@pytest.mark.enumeration
@pytest.mark.parametrize("how", ["killed", "sleeps", "stopped"])
def test_each_way_to_be_lost(how, tmp_path):
    check_is_named(how, 3, tmp_path)
