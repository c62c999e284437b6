"""Choice of sparsity: SparseAutoencoderDictionaryCV beside GridSearchCV, same grid and folds.

    python benchmarks/alpha_path.py
    python benchmarks/alpha_path.py --architecture topk

on the 512 MLP neurons of the embedded transformer; prints the scores of both, the alphas (or
numbers of non-zero entries) they choose, and the ratio of their times.
"""

import argparse
import time

import numpy as np
from activations import collect, draw, load_extractor
from sklearn.model_selection import GridSearchCV, KFold

from skdict.decomposition import (
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    alpha_grid,
)
from skdict.decomposition.architectures import SparsityGrid


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="relu")
    parser.add_argument("--n-components", type=int, default=1024)
    parser.add_argument("--n-tokens", type=int, default=60_000)
    parser.add_argument("--max-iter", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--n-alphas", type=int, default=8)
    parser.add_argument("--n-folds", type=int, default=3)
    arguments = parser.parse_args()

    _, extractor = load_extractor()
    X = collect(extractor, draw("train")[0], arguments.n_tokens)
    options = {
        "n_components": arguments.n_components,
        "max_iter": arguments.max_iter,
        "batch_size": arguments.batch_size,
        "architecture": arguments.architecture,
        "random_state": 0,
    }
    name, plural, values = "alpha", "alphas", alpha_grid(X, arguments.n_alphas)
    if arguments.architecture not in ("relu", "gated"):
        name = plural = "n_nonzero_coefs"
        values = SparsityGrid.of_counts(X.shape[1], arguments.n_components).values[::-1]
    cv = KFold(arguments.n_folds)

    start = time.perf_counter()
    selected = SparseAutoencoderDictionaryCV(**{plural: values}, cv=cv, **options).fit(X)
    seconds = [time.perf_counter() - start]
    start = time.perf_counter()
    search = GridSearchCV(SparseAutoencoderDictionary(**options), {name: list(values)}, cv=cv).fit(
        X
    )
    seconds.append(time.perf_counter() - start)

    results = search.cv_results_
    errors = results["std_test_score"] / np.sqrt(arguments.n_folds - 1)
    print(f"{name:>15} {'path':>9} {'grid':>9} {'standard error of the grid':>27}")
    for value, path, grid, error in zip(
        values, selected.scores_.mean(axis=1), results["mean_test_score"], errors, strict=True
    ):
        print(f"{value:15.4g} {path:9.1f} {grid:9.1f} {error:27.1f}")
    chosen = selected.best_params_[name], search.best_params_[name]
    print(f"chosen: path {chosen[0]:.4g}, grid {chosen[1]:.4g}")
    print(
        f"seconds: path {seconds[0]:.0f}, grid {seconds[1]:.0f}, "
        f"ratio {seconds[0] / seconds[1]:.2f}"
    )


if __name__ == "__main__":
    main()
