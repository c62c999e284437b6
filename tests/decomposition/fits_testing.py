"""Fits that several processes make together, and how they are stopped."""

import os
import signal
import threading
from pathlib import Path
from unittest import mock

import numpy as np

from skdict._core.solvers.autoencoder_training import Training
from skdict.callbacks import Checkpoint
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary

# by the sizes of dictionary and batch, one strategy or the other is chosen; neither is a
# multiple of the number of processes
SIZES = {"data": (23, 65), "features": (66, 41)}


def data(dtype=np.float64):
    """Without two equal rows: of equal atoms it is not said which is among the largest."""
    X = make_superposition(650, 16, 40, l0=3, random_state=0)[0]
    return (X + 0.05 * np.random.default_rng(0).normal(size=X.shape)).astype(dtype)


def make(name, strategy, **params):
    n_components, batch_size = SIZES[strategy]
    k = None if name in ("relu", "gated", None) else 4
    solver = {"architecture": name} if name else {"solver": "alternating"}
    params = {"n_nonzero_coefs": k, "max_iter": 7, "random_state": 0, **solver, **params}
    return SparseAutoencoderDictionary(n_components, batch_size=batch_size, device="cpu", **params)


def numbers_of(estimator):
    return {
        name: np.asarray(value)
        for name, value in vars(estimator).items()
        if name.endswith("_") and isinstance(value, np.ndarray | list | float | int)
    }


def fitted(name, strategy, X, params):
    return numbers_of(make(name, strategy, **params).fit(X))


class StoppedError(Exception):
    pass


def wait_for_writers():
    for thread in threading.enumerate():
        if thread.name == "skdict-checkpoint":
            thread.join()


def kept_fit(name, strategy, X, path, stop_at=None, kill=False, params=None):
    """Fit with checkpoints after about every step, and be stopped in all processes, or killed."""
    step, n_taken, was_kept = Training.step, 0, any(Path(path).glob("fit-*/step-*[0-9]"))

    def stopping(training, *args):
        nonlocal n_taken
        n_taken += 1
        if stop_at is not None and training.n_steps >= stop_at - 4:
            wait_for_writers()  # so that there are two checkpoints to go on from
        if training.n_steps == stop_at:
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise StoppedError
        return step(training, *args)

    with mock.patch.object(Training, "step", stopping):
        estimator = make(name, strategy, **(params or {}))
        estimator.set_callbacks(Checkpoint(path, every=0))
        found = numbers_of(estimator.fit(X))
    assert (n_taken < found["n_steps_"]) == was_kept
    return found


def check_goes_on(found, expected):
    for of_process in found:
        for attribute, value in expected.items():
            np.testing.assert_array_equal(of_process[attribute], value)
