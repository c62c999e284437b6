"""How many atoms do few rows bear, and what do held-out rows cost?

    python benchmarks/memorising.py

Fits of digits, planted dictionaries and the embedded model's neurons, with numbers of atoms by
rows per atom and four times the number of columns. Explained variance, L0, objective (as a
fraction of that without codes) and score, of rows of the fit and of others: of other files for
the neurons. The best score of others is marked. With --cost the same with and without held-out
rows, and by passes.
"""

import argparse
import time
import warnings

import numpy as np
from activations import collect_splits, load_extractor
from sklearn.datasets import load_digits

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary

ROWS_PER_ATOM = 4, 8, 16, 32, 64
N_TEST = 5000


def data_sets(n_most, n_neurons):
    """Name, rows in random order, other rows, and numbers of rows to take."""
    digits = np.random.default_rng(0).permutation(load_digits().data.astype(np.float32))
    yield "digits", digits[:1300], digits[1300:], (500, 1300)
    X, _, _ = make_superposition(
        n_samples=n_most + N_TEST, n_features=64, n_components=256, l0=4, random_state=0
    )
    X = X.astype(np.float32)
    yield "planted", X[:-N_TEST], X[-N_TEST:], (1000, 4000, 16_000, n_most)
    X, X_test = collect_splits(load_extractor()[1], n_neurons, N_TEST)
    X = np.random.default_rng(0).permutation(X)
    yield "neurons", X, X_test, (1100, 4000, 16_000)


def figures(fitted, X):
    """Explained variance, L0, objective and score of rows."""
    codes = fitted.set_params(sparse_output=True).transform(X)
    squares = np.square(X - fitted.inverse_transform(codes)).sum()
    total = np.square(X - X.mean(axis=0)).sum()
    return {
        "EV": 1 - squares / total,
        "L0": codes.nnz / len(X),
        "objective": (0.5 * squares + fitted.alpha_ * abs(codes).sum()) / (0.5 * total),
        "score": fitted.score(X),
    }


def measure(X, X_test, **params):
    """Fit; seconds of the processor, figures of rows of the fit and of others."""
    start = time.process_time()
    fitted = SparseAutoencoderDictionary(random_state=0, **params).fit(X)
    seconds = time.process_time() - start
    return seconds, figures(fitted, X[:N_TEST]), figures(fitted, X_test)


def cells(found):
    formats = {"EV": ".3f", "L0": ".1f", "objective": ".3f", "score": ".1f"}
    return " | ".join(format(found[key], form) for key, form in formats.items())


def by_atoms(name, X, X_test, max_iter):
    """A row of the table for each number of atoms."""
    n_rows, n_features = X.shape
    numbers = {n_rows // ratio for ratio in ROWS_PER_ATOM} | {4 * n_features}
    rows = []
    for n_components in sorted(n for n in numbers if 4 <= n <= 4 * n_features):
        rows.append((n_components, *measure(X, X_test, n_components=n_components)))
    best = max(row[-1]["score"] for row in rows)
    for n_components, seconds, of_fit, of_others in rows:
        mark = " (best)" if of_others["score"] == best else ""
        ratio = f"{n_rows / n_components:.1f}"
        start = f"| {name} | {n_rows:,} | {n_components:,} | {ratio} | {seconds:.1f}"
        print(f"{start} | {cells(of_fit)} | {cells(of_others)}{mark} |", flush=True)


def cost(name, X, X_test, max_iter):
    """With and without held-out rows, and by passes, for as many atoms as "auto" takes."""
    for early_stopping in ("auto", False):
        for n_passes in max_iter:
            seconds, of_fit, of_others = measure(
                X, X_test, early_stopping=early_stopping, max_iter=n_passes
            )
            start = f"| {name} | {len(X):,} | {early_stopping} | {n_passes} | {seconds:.1f}"
            print(f"{start} | {cells(of_fit)} | {cells(of_others)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--data", nargs="+", default=["digits", "planted", "neurons"])
    parser.add_argument("--n-most", type=int, default=64_000, help="planted rows")
    parser.add_argument("--n-neurons", type=int, default=16_000, help="activations")
    parser.add_argument("--max-iter", type=int, nargs="+", default=[5, 20])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    show = cost if arguments.cost else by_atoms
    for name, X, X_test, numbers in data_sets(arguments.n_most, arguments.n_neurons):
        for n_rows in numbers if name in arguments.data else ():
            show(name, X[:n_rows], X_test, arguments.max_iter)


if __name__ == "__main__":
    main()
