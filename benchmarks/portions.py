"""Is a stream as good as a fit? `partial_fit` on shuffled portions beside `fit` on the same rows.

    python benchmarks/portions.py

Both see every row as often. Explained variance, L0, objective and dead features (never active) are
of held-out rows: other files for the embedded model's neurons, other samples of the planted
dictionary. Seconds are of the processor. "spread" is between the seeds of `fit`.
"""

import argparse
import time
import warnings

import numpy as np
from activations import collect_splits, load_extractor

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.metrics import dictionary_recovery, explained_variance

# What --architectures may name beside the architectures.
SOLVERS = ("alternating",)


def planted(n_train, n_test):
    """Training and held-out samples of 512 planted atoms in 128 dimensions, and the atoms."""
    X, atoms, _ = make_superposition(
        n_samples=n_train + n_test, n_features=128, n_components=512, l0=8, random_state=0
    )
    X = X.astype(np.float32)
    return X[:n_train], X[n_train:], atoms


def in_portions(estimator, X, size, n_passes, seed):
    """Learn from X in portions of so many rows, shuffled in each pass."""
    generator = np.random.default_rng(seed)
    for _ in range(n_passes):
        order = generator.permutation(len(X))
        for start in range(0, len(X), size):
            estimator.partial_fit(X[order[start : start + size]])
    return estimator


def measure(learn, X_test, atoms):
    """Learn; seconds of the processor and what the dictionary is worth on held-out rows."""
    start = time.process_time()
    estimator = learn()
    found = {"seconds": time.process_time() - start, "steps": estimator.n_steps_}
    codes = estimator.set_params(sparse_output=True).transform(X_test)
    found["L0"] = codes.nnz / len(X_test)
    reconstruction = estimator.inverse_transform(codes)
    found["EV"] = explained_variance(X_test, reconstruction)
    squares = np.square(X_test - reconstruction).sum()
    found["objective"] = (0.5 * squares + estimator.alpha_ * codes.sum()) / len(X_test)
    found["dead"] = 1 - len(np.unique(codes.indices)) / codes.shape[1]
    if atoms is not None:
        found["recovery"] = dictionary_recovery(atoms, estimator.components_)
    return found


def show(name, found):
    print(f"{name:>22}", *(f"{key} {value:.4g}" for key, value in found.items()), flush=True)


def compare(arguments, name, X, X_test, atoms, architecture):
    """`fit` beside streams of the same rows, over the seeds."""
    params = {"n_components": arguments.n_components or 4 * X.shape[1]}
    params |= {"solver" if architecture in SOLVERS else "architecture": architecture}
    if architecture in ("topk", "batch_topk", "matryoshka"):
        params["n_nonzero_coefs"] = 8 if atoms is not None else 32
    n_passes, results = arguments.max_iter, {}
    for seed in range(arguments.n_seeds):
        given = params | {"random_state": seed}

        def fit(given=given):
            return SparseAutoencoderDictionary(max_iter=n_passes, **given).fit(X)

        results.setdefault("fit", []).append(measure(fit, X_test, atoms))
        show("fit", results["fit"][-1])
        for size in arguments.portion:

            def stream(given=given, size=size, seed=seed):
                return in_portions(SparseAutoencoderDictionary(**given), X, size, n_passes, seed)

            results.setdefault(f"portions of {size:,}", []).append(measure(stream, X_test, atoms))
            show(f"portions of {size:,}", results[f"portions of {size:,}"][-1])
    print(f"{name}, {architecture}, {len(X):,} rows, {n_passes} passes, means over seeds:")
    keys = results["fit"][0]
    for way, found in results.items():
        show(way, {key: float(np.mean([each[key] for each in found])) for key in keys})
    show("spread", {key: float(np.ptp([each[key] for each in results["fit"]])) for key in keys})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-rows", type=int, default=100_000)
    parser.add_argument("--portion", type=int, nargs="+", default=[5000])
    parser.add_argument("--max-iter", type=int, default=3)
    parser.add_argument("--n-components", type=int, default=None)
    parser.add_argument("--n-seeds", type=int, default=3)
    parser.add_argument(
        "--architectures",
        nargs="+",
        default=["relu", "topk"],
        help="architectures, or alternating, which is a solver",
    )
    parser.add_argument("--data", nargs="+", default=["planted", "embedded"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    SparseAutoencoderDictionary(64, max_iter=1).fit(planted(2000, 1)[0])  # loads what is compiled
    for name in arguments.data:
        atoms = None
        if name == "planted":
            X, X_test, atoms = planted(arguments.n_rows, 20_000)
        else:
            X, X_test = collect_splits(load_extractor()[1], arguments.n_rows, 20_000)
            X = X[np.random.default_rng(0).permutation(len(X))]
        for architecture in arguments.architectures:
            compare(arguments, name, X, X_test, atoms, architecture)


if __name__ == "__main__":
    main()
