"""Fits by several processes beside those of one: how good they are, and what they send.

    python benchmarks/processes.py [--sizes 2,4] [--seeds 4]

Processes of gloo, each of one thread, on one machine; float32, top-k. By data with 128 atoms and
batches of 512 rows, by features with 1,024 atoms and batches of 256. Printed are the objective of
held-out rows after the fit, its mean and standard deviation over seeds, the largest difference to
the fit of one process with the same seed, and the bytes that a process sends in a step beside the
formula of the user guide.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from processes_testing import Processes, Sent

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary

N_FEATURES, K = 64, 8
STRATEGIES = {"data": (128, 512), "features": (1024, 256)}


def data():
    X = make_superposition(8000, N_FEATURES, 256, l0=6, random_state=0)[0]
    return (X + 0.02 * np.random.default_rng(0).normal(size=X.shape)).astype("f4")


def fitted(strategy, seed, counts=False):
    """The objective of held-out rows, and the bytes that were sent in a step."""
    n_components, batch_size = STRATEGIES[strategy]
    sae = SparseAutoencoderDictionary(
        n_components,
        architecture="topk",
        n_nonzero_coefs=K,
        batch_size=batch_size,
        max_iter=6,
        early_stopping=True,
        n_iter_no_change=100,
        random_state=seed,
        device="cpu",
    )
    if not counts:
        return sae.fit(data()).validation_loss_curve_[-1], 0
    with Sent() as sent:
        sae.fit(data())
    return sae.validation_loss_curve_[-1], sent.n_bytes / sae.n_steps_


def formula(strategy, size):
    n, batch = STRATEGIES[strategy]
    if strategy == "data":
        return 2 * (size - 1) / size * 2 * n * N_FEATURES * 4
    return (size - 1) / size * (3 * batch * N_FEATURES * 4 + batch * K * 5)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="2,4")
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    print(
        "| strategy, processes | held-out objective | largest difference | kB a step (formula) |"
    )
    print("|---|---|---|---|")
    alone = {}
    for strategy in STRATEGIES:
        found = [fitted(strategy, seed)[0] for seed in range(options.seeds)]
        alone[strategy] = found
        print(row(strategy, 1, found, found, 0))
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder, Processes(size, folder) as processes:
            for strategy in STRATEGIES:
                results = [
                    processes.results(fitted, strategy, seed, True)[0]
                    for seed in range(options.seeds)
                ]
                found = [objective for objective, _ in results]
                print(row(strategy, size, found, alone[strategy], results[0][1]), flush=True)


def row(strategy, size, found, alone, n_bytes):
    difference = max(abs(a - b) for a, b in zip(found, alone, strict=True))
    return (
        f"| {strategy}, {size} | {statistics.mean(found):.5f} ± {statistics.stdev(found):.5f} | "
        f"{difference:.1e} | {n_bytes / 1e3:.1f} ({formula(strategy, size) / 1e3:.1f}) |"
    )


if __name__ == "__main__":
    main()
