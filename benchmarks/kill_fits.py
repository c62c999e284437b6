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


def kill_one(name, X, folder, rng, n_kills):
    """Kill a fit, then let it end; how often it was killed, and whether it has found the same."""

    def fit(callback=None):
        warnings.simplefilter("ignore")
        estimator = FITS[name]()
        estimator = estimator if callback is None else estimator.set_callbacks(callback)
        return result_of(estimator.fit(X), X)

    began = time.perf_counter()
    want = in_a_process(fit)
    seconds = time.perf_counter() - began
    n_done = 0
    while n_done < n_kills:
        got = in_a_process(
            lambda: fit(Checkpoint(folder, every=0)), seconds=rng.uniform(0, 1.2 * seconds)
        )
        if got is not None:
            break  # it was faster than the signal
        n_done += 1
    got = in_a_process(lambda: fit(Checkpoint(folder, every=0)))
    again = in_a_process(lambda: fit(Checkpoint(folder, every=0)))
    left = [path for path in Path(folder).rglob("*.tmp") if path.is_dir()]
    return n_done, got == want and again == want and not left


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
    n_kills, n_fits, differ = 0, 0, []
    while n_kills < arguments.kills:
        name = order[n_fits % len(order)]
        folder = Path(tempfile.mkdtemp(dir=arguments.folder))
        most = min(KILLS_OF_A_FIT, arguments.kills - n_kills)
        n_done, agrees = kill_one(name, X, folder, rng, most)
        n_kills, n_fits = n_kills + n_done, n_fits + 1
        print(f"{name}: {n_done} kills, {'the same' if agrees else 'ANOTHER'} dictionary")
        if agrees:
            shutil.rmtree(folder)
        else:
            differ.append(f"{name} in {folder}")
    if differ:
        raise SystemExit(f"{n_kills} kills: another dictionary of {differ}")
    print(f"{n_kills} kills: all fits found the same dictionary ({n_fits} fits)")


if __name__ == "__main__":
    main()
