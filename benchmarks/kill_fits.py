"""Fits with `skdict.callbacks.Checkpoint` that are killed at random moments, and begun again.

Each fit runs in a forked process that is ended by SIGKILL, several times, at moments drawn from
its whole length, and is begun again in the same folder. What it finds in the end has to be what
the same fit finds without interruptions and without checkpoints, to the last bit: fitted
attributes and score.

    python benchmarks/kill_fits.py --kills 100
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict.callbacks import Checkpoint
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary, SparseAutoencoderDictionaryCV

KILLS_OF_A_FIT = 3


def dictionary(**params):
    defaults = {"max_iter": 5, "batch_size": 128, "early_stopping": False}
    return SparseAutoencoderDictionary(32, random_state=0, device="cpu", **(defaults | params))


def search():
    return SparseAutoencoderDictionaryCV(
        16, alphas=[0.1, 0.2], cv=2, max_iter=3, batch_size=128, random_state=0, device="cpu"
    )


def grid():
    steps = make_pipeline(StandardScaler(), dictionary(max_iter=2))
    return GridSearchCV(steps, {"sparseautoencoderdictionary__alpha": [0.1, 0.2]}, cv=2)


FITS = {
    **{
        name: lambda name=name: dictionary(architecture=name)
        for name in (
            *("relu", "topk", "batch_topk", "matryoshka"),
            *("jumprelu", "gated", "abs_topk", "group_max"),
        )
    },
    "alternating": lambda: dictionary(solver="alternating"),
    "early stopping": lambda: dictionary(early_stopping=True, n_iter_no_change=2),
    "best pass": lambda: dictionary(early_stopping="auto", architecture="batch_topk"),
    "alternating, best pass": lambda: dictionary(solver="alternating", early_stopping="auto"),
    "SparseAutoencoderDictionaryCV": search,
    "Pipeline in GridSearchCV": grid,
}


def result_of(estimator, X):
    """Digest of all that a fit has found."""
    fitted = getattr(estimator, "best_estimator_", estimator)
    fitted = fitted[-1] if hasattr(fitted, "steps") else fitted
    found = hashlib.sha256(repr(getattr(estimator, "best_params_", None)).encode())
    for name, value in sorted(vars(fitted).items()):
        if name.endswith("_"):
            found.update(name.encode())
            is_array = isinstance(value, np.ndarray)
            found.update(value.tobytes() if is_array else repr(value).encode())
    found.update(repr(estimator.score(X)).encode())
    return found.hexdigest()


def in_a_process(function, *, seconds=None):
    """What a function returns (text) in a fork, or None if that is killed after some seconds."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(read)
        try:
            os.write(write, function().encode())
            os._exit(0)
        finally:
            os._exit(1)  # after an error, of which the text is missing
    os.close(write)
    with open(read, encoding="utf-8") as pipe:
        if seconds is not None:
            time.sleep(seconds)
            os.kill(process, signal.SIGKILL)
        text = pipe.read()
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status) and not text:
        return None
    assert text, "the fit has failed"
    return text


class Fit:
    """One of `FITS`, with what it finds when nothing happens to it."""

    def __init__(self, name, X):
        self.name, self.X = name, X
        began = time.perf_counter()
        self.want = in_a_process(self.found)
        self.seconds = time.perf_counter() - began

    def found(self, folder=None):
        warnings.simplefilter("ignore")
        estimator = FITS[self.name]()
        if folder is not None:
            estimator = estimator.set_callbacks(Checkpoint(folder, every=0))
        return result_of(estimator.fit(self.X), self.X)

    def agrees(self, folder):
        """Whether it finds the same, when it is begun again, and once more, and leaves no rest."""
        got = [in_a_process(lambda: self.found(folder)) for _ in range(2)]
        rest = [path for path in Path(folder).rglob("*.tmp") if path.is_dir()]
        return got == [self.want] * 2 and not rest

    def is_killed(self, folder, rng):
        """Whether it was killed in time; else it has found the same."""
        seconds = rng.uniform(0, self.seconds)
        got = in_a_process(lambda: self.found(folder), seconds=seconds)
        assert got in (None, self.want), f"{self.name} in {folder}"
        return got is None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--only", choices=FITS, help="one fit instead of all in turn")
    parser.add_argument("--folder", help="of the checkpoints; a temporary one by default")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a fork has none of the threads of its parent
    rng, X = random.Random(arguments.seed), make_superposition(3000, 16, 32, random_state=0)[0]
    X = X.astype(np.float32)
    order = [arguments.only] if arguments.only else list(FITS)
    fits, n_kills, n_runs = {}, 0, 0
    while n_kills < arguments.kills:
        name = order[n_runs % len(order)]
        fit = fits[name] = fits.get(name) or Fit(name, X)
        folder = Path(tempfile.mkdtemp(dir=arguments.folder))
        n_runs, n_before = n_runs + 1, n_kills
        while n_kills < min(n_before + KILLS_OF_A_FIT, arguments.kills):
            if not fit.is_killed(folder, rng):
                break  # the next kills are of the next fit
            n_kills += 1
        assert fit.agrees(folder), f"another dictionary: {name} in {folder}"
        print(f"{name}: {n_kills - n_before} kills, the same dictionary", flush=True)
        shutil.rmtree(folder)
    print(f"{n_kills} kills: all fits found the same dictionary ({n_runs} fits)")


if __name__ == "__main__":
    main()
