"""What `skdict.callbacks.Checkpoint` costs a fit: processor and wall seconds, with and without.

Fits of the same dictionary in turn, in one process: without a callback, with a checkpoint at the
end alone, and with one every few seconds; and the seconds of one copy of the state, for which
training waits, and of writing it, for which it does not.

    python benchmarks/checkpoint_cost.py
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from skdict._core.training.checkpoint import read_checkpoint, write_checkpoint
from skdict.callbacks import Checkpoint
from skdict.decomposition import SparseAutoencoderDictionary


class Watch:
    """Counts steps, and takes the time of a copy and of writing and reading it, once."""

    def __init__(self, at=None, folder=None):
        self.at, self.folder = at, folder

    def setup(self, estimator, context):
        pass

    teardown = setup

    def on_fit_task_begin(self, estimator, context, *, metadata=None):
        if metadata:
            metadata["resumable_fit"].listen(self)

    def on_fit_task_end(self, estimator, context):
        pass

    def between_steps(self, fit):
        if fit.n_steps == self.at:
            began = time.perf_counter()
            state = fit.state_dict()
            copied = time.perf_counter()
            write_checkpoint(Path(self.folder), fit.n_steps, state, {})
            written = time.perf_counter()
            read_checkpoint(Path(self.folder) / f"step-{fit.n_steps:09d}")
            read = time.perf_counter()
            n_bytes = sum(path.stat().st_size for path in Path(self.folder).rglob("step-*/*"))
            print(
                f"state {n_bytes / 1e6:.1f} MB: copied in {copied - began:.3f} s, written in "
                f"{written - copied:.3f} s, read and verified in {read - written:.3f} s"
            )

    def finish(self, fit):
        pass

    def close(self):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--components", type=int, default=4096)
    parser.add_argument("--every", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    shape = arguments.samples, arguments.features
    X = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    params = {"architecture": "topk", "n_nonzero_coefs": 32, "max_iter": 2, "random_state": 0}
    params |= {"early_stopping": False, "device": "cpu"}

    def fit(*callbacks):
        estimator = SparseAutoencoderDictionary(arguments.components, **params)
        began = time.process_time(), time.perf_counter()
        estimator.set_callbacks(*callbacks).fit(X)
        return time.process_time() - began[0], time.perf_counter() - began[1], estimator

    with tempfile.TemporaryDirectory() as folder:
        *_, first = fit(Watch(at=40, folder=folder))  # compiles kernels, too
    print(f"{first.n_steps_} steps; seconds of the processor (and of the clock):")
    found = {name: [] for name in ("without", "at the end", f"every {arguments.every:g} s")}
    for _ in range(arguments.rounds):
        for name, every in zip(found, (None, 1e9, arguments.every), strict=True):
            with tempfile.TemporaryDirectory() as folder:
                callbacks = [] if every is None else [Checkpoint(folder, every=every)]
                processor, clock, estimator = fit(*callbacks)
            np.testing.assert_array_equal(estimator.components_, first.components_)
            found[name].append((processor, clock))
    for name, pairs in found.items():
        print(f"{name}: " + ", ".join(f"{p:.1f} ({c:.1f})" for p, c in pairs))


if __name__ == "__main__":
    main()
