"""What to do about dead features: one change at a time to a fit that leaves many dead.

    python benchmarks/dead_features.py

A top-k autoencoder of the embedded transformer's 512 MLP neurons, with many atoms, few rows and
few passes. Dead is a feature that is active on none of 30,000 held-out activations. What counts is
how many are alive and what they explain: half the atoms with none dead may be fewer features.
"""

import argparse
import time

import numpy as np
from activations import auto_alpha, collect_splits, load_extractor

from skdict.decomposition import SparseAutoencoderDictionary
from skdict.metrics import explained_variance, mean_l0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-samples", type=int, default=15_000)
    parser.add_argument("--n-components", type=int, default=4096)
    parser.add_argument("--max-iter", type=int, default=2)
    parser.add_argument("--n-nonzero-coefs", type=int, default=10)
    arguments = parser.parse_args()
    n, n_components, passes = arguments.n_samples, arguments.n_components, arguments.max_iter
    X, test = collect_splits(load_extractor()[1], 4 * n, 30_000)
    alpha, k = auto_alpha(X[:n]), arguments.n_nonzero_coefs
    base = {"n_components": n_components, "max_iter": passes, "n_nonzero_coefs": k}
    base |= {"architecture": "topk", "alpha": alpha, "rows": n}
    changes = {
        "as it is": {},
        "half the atoms": {"n_components": n_components // 2},
        "a quarter of the atoms": {"n_components": n_components // 4},
        "twice the passes": {"max_iter": 2 * passes},
        "four times the passes": {"max_iter": 4 * passes},
        "twice the rows": {"rows": 2 * n},
        "four times the rows": {"rows": 4 * n},
        "half the batch": {"batch_size": max(64, min(1024, n // 64) // 2)},
        "twice k": {"n_nonzero_coefs": 2 * k},
        "half alpha": {"alpha": alpha / 2},
        "twice alpha": {"alpha": 2 * alpha},
        "half the learning rate": {"learning_rate_init": 0.05 / np.sqrt(X.shape[1])},
        "batch_topk": {"architecture": "batch_topk"},
        "relu": {"architecture": "relu", "n_nonzero_coefs": None},
    }
    print(f"topk, {n_components} atoms, {n:,} rows, {passes} passes, k = {k}")
    print("| change | dead | alive | explained variance | L0 | steps | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name, change in changes.items():
        params = base | change
        rows = X[: params.pop("rows")]
        sae = SparseAutoencoderDictionary(**params, sparse_output=True, random_state=0)
        start = time.perf_counter()
        sae.fit(rows)
        seconds = time.perf_counter() - start
        codes = sae.transform(test)
        n_alive = np.count_nonzero(np.bincount(codes.indices, minlength=codes.shape[1]))
        print(
            f"| {name} | {1 - n_alive / codes.shape[1]:.1%} | {n_alive:,} | "
            f"{explained_variance(test, sae.inverse_transform(codes)):.3f} | "
            f"{mean_l0(codes):.1f} | {sae.n_steps_} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
