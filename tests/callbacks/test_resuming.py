"""A fit that goes on from a state finds the same dictionary, to the last bit."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from resuming_testing import (
    FITS,
    N_STEPS,
    Listener,
    Stopped,
    assert_goes_on_the_same,
    assert_same_fit,
    make_data,
    make_estimator,
)

from skdict._core.data.source import Source
from skdict._core.training.checkpoint import read_checkpoint, write_checkpoint
from skdict.decomposition import _resumable
from skdict.decomposition._resumable import identity_of
from skdict.decomposition.architectures import TopK

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:The dictionary has learned samples by heart"),
]


@pytest.fixture(scope="module")
def X():
    return make_data()


def check_resumed(X, params, steps, folder):
    """Go on from states after some steps, through files, each with an estimator of its own."""
    listener = Listener(keep_at=steps)
    want = make_estimator(**params).set_callbacks(listener).fit(X)
    assert len(listener.states) > 0.8 * len(steps) - 1  # some end early
    for n_steps, state in listener.states.items():
        write_checkpoint(folder, n_steps, state, {})
        state, _ = read_checkpoint(folder / f"step-{n_steps:09d}")
        resumed = Listener(resume=state)
        got = make_estimator(**params).set_callbacks(resumed).fit(X)
        assert len(listener.called) - len(resumed.called) == listener.called.index(n_steps) + 1
        assert_same_fit(got, want)
    assert_goes_on_the_same(got, want, X)


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_a_fit_goes_on_to_the_last_bit(X, name, tmp_path):
    """In an epoch and between two, around resampling and the switch of the architecture."""
    check_resumed(X, FITS[name], (29, 48, N_STEPS - 1), tmp_path)


@pytest.mark.enumeration
@pytest.mark.parametrize("name", FITS)
def test_a_fit_goes_on_after_each_step(X, name, tmp_path):
    check_resumed(X, FITS[name], range(1, N_STEPS), tmp_path)


def test_without_a_listener_nothing_is_called_between_steps(X):
    listener = Listener()
    make_estimator(max_iter=2).set_callbacks(listener).fit(X)
    assert listener.called == [*range(1, 48), "finish", "close"]


def test_listeners_are_closed_where_a_fit_fails(X):
    listener = Listener(stop_at=5)
    with pytest.raises(Stopped):
        make_estimator().set_callbacks(listener).fit(X)
    assert listener.called == [1, 2, 3, 4, 5, "close"]


def test_a_state_is_a_copy(X):
    """What is written in another thread does not change while training goes on."""
    listener = Listener(keep_at=(30, 31))
    make_estimator(architecture="batch_topk").set_callbacks(listener).fit(X)
    one, other = (listener.states[n]["loop"]["solver"]["learner"] for n in (30, 31))
    assert one["n_steps"] == 30
    for before, after in zip(one["tensors"], other["tensors"], strict=True):
        assert not np.shares_memory(before, after)
        assert not np.array_equal(before, after) or not after.any()


def test_the_random_state_goes_on(X):
    """A RandomState that is the user's, and the unknown one of None, held-out rows included."""
    params = {"early_stopping": True, "max_iter": 2}
    given = np.random.RandomState(5)
    listener = Listener(keep_at=(10,))
    want = make_estimator(random_state=given, **params).set_callbacks(listener).fit(X)
    other = np.random.RandomState(5)
    resumed = Listener(resume=listener.states[10])
    got = make_estimator(random_state=other, **params).set_callbacks(resumed).fit(X)
    assert_same_fit(got, want)
    assert other.randint(2**31) == given.randint(2**31)

    listener = Listener(keep_at=(10,))
    want = make_estimator(random_state=None, **params).set_callbacks(listener).fit(X)
    resumed = Listener(resume=listener.states[10])
    got = make_estimator(random_state=None, **params).set_callbacks(resumed).fit(X)
    np.testing.assert_array_equal(got.components_, want.components_)
    assert got.validation_loss_curve_ == want.validation_loss_curve_


@pytest.mark.parametrize("solver", ["autoencoder", "alternating"])
def test_a_warm_start_goes_on(X, solver):
    params = {"solver": solver, "warm_start": True, "max_iter": 2}
    first = make_estimator(**params).fit(X)
    listener = Listener(keep_at=(10,))
    want = make_estimator(**params, dict_init=first).set_callbacks(listener).fit(X)
    got = make_estimator(**params, dict_init=first)
    got.set_callbacks(Listener(resume=listener.states[10])).fit(X)
    assert_same_fit(got, want)


def test_other_data_are_refused(X):
    listener = Listener(keep_at=(10,))
    make_estimator(max_iter=1).set_callbacks(listener).fit(X)
    resumed = Listener(resume=listener.states[10])
    with pytest.raises(ValueError, match="X is not what the checkpoint was trained on"):
        make_estimator(max_iter=1).set_callbacks(resumed).fit(2 * X)
    with pytest.raises(ValueError, match="has no data, random_state"):
        make_estimator().set_callbacks(Listener(resume={"loop": {}})).fit(X)


def test_a_progress_bar_has_as_many_passes(X):
    """Those that another process has done are not told again."""

    class Tasks(Listener):
        def on_fit_task_end(self, estimator, context):
            self.called.append((context.task_name, context.task_id, context.max_subtasks))

    listener = Listener(keep_at=(50,))
    make_estimator().set_callbacks(listener).fit(X)
    tasks = Tasks(resume=listener.states[50])
    make_estimator().set_callbacks(tasks).fit(X)
    told = [each for each in tasks.called if isinstance(each, tuple)]
    assert told == [("pass", 2, 0), ("pass", 3, 0), ("fit", 0, 4)]


# -- what a fit is told apart by -------------------------------------------------------------


def fingerprint(X, **params):
    found = []

    class Ask(Listener):
        def on_fit_task_begin(self, estimator, context, *, metadata=None):
            if metadata:
                found.append(metadata["resumable_fit"].fingerprint)

    make_estimator(**{"max_iter": 1, **params}).set_callbacks(Ask()).fit(X)
    return found[0]


def test_a_fingerprint_names_what_differs(X):
    base = fingerprint(X)
    assert fingerprint(X.copy()) == base
    assert fingerprint(X, verbose=0) == base
    one = X.copy()
    one[1234, 3] += 1e-3
    for other in (one, X[:-1], X.astype(np.float64)):
        assert fingerprint(other)["X"] != base["X"]
    for params in ({"alpha": 0.5}, {"architecture": TopK(k=3)}, {"dict_init": X[100:132] + 1}):
        found = fingerprint(X, **params)["parameters"]
        (name,) = params
        assert {n for n in found if found[n] != base["parameters"][n]} == {name}
    found = fingerprint(X, architecture=TopK(k=3))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_fingerprint_tells_dictionaries_to_start_from_apart(X):
    seeds = (0, 1)
    starts = [make_estimator(max_iter=1, random_state=seed).fit(X) for seed in seeds]
    one, other = (fingerprint(X, dict_init=start) for start in starts)
    assert one["start"] != other["start"]
    assert one == fingerprint(X, dict_init=starts[0].dictionary_)
    states = [fingerprint(X, random_state=np.random.RandomState(seed)) for seed in seeds]
    assert states[0] != states[1]


def test_large_data_are_told_apart_by_a_part(monkeypatch):
    """So many bytes are read, evenly spread, the first and the last rows among them."""
    X = np.arange(80_000, dtype=np.float32).reshape(10_000, 8)
    source = Source(X, torch.device("cpu"))
    whole = identity_of(source)
    monkeypatch.setattr(_resumable, "DIGESTED_BYTES", 64 * 100 * 32)
    read = []
    monkeypatch.setattr(
        Source,
        "__getitem__",
        lambda self, index: read.append(index) or torch.from_numpy(self.X[index]),
    )
    part = identity_of(source)
    assert part["shape"] == whole["shape"] == [10_000, 8]
    assert part["digest"] != whole["digest"]
    assert sum(stretch.stop - stretch.start for stretch in read) == 6400
    assert read[0].start == 0
    assert max(b.start - a.start for a, b in pairwise(read)) <= 101
