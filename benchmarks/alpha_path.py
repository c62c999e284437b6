"""Choice of alpha: SparseAutoencoderDictionaryCV beside GridSearchCV on the same grid and folds.

    python benchmarks/alpha_path.py

on the 512 MLP neurons of the embedded transformer; prints the scores of both, the alphas they
choose, and the ratio of their times.
"""

import argparse
import time

import numpy as np
from activations import collect, draw, load_extractor
from sklearn.model_selection import GridSearchCV

from skdict.decomposition import (
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    alpha_grid,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
        "random_state": 0,
    }
    alphas = alpha_grid(X, arguments.n_alphas)

    start = time.perf_counter()
    selected = SparseAutoencoderDictionaryCV(alphas=alphas, cv=arguments.n_folds, **options).fit(X)
    seconds = [time.perf_counter() - start]
    start = time.perf_counter()
    search = GridSearchCV(
        SparseAutoencoderDictionary(**options), {"alpha": alphas}, cv=arguments.n_folds
    ).fit(X)
    seconds.append(time.perf_counter() - start)

    results = search.cv_results_
    errors = results["std_test_score"] / np.sqrt(arguments.n_folds - 1)
    print(f"{'alpha':>8} {'path':>9} {'grid':>9} {'standard error of the grid':>27}")
    for alpha, path, grid, error in zip(
        alphas, selected.scores_.mean(axis=1), results["mean_test_score"], errors, strict=True
    ):
        print(f"{alpha:8.4f} {path:9.1f} {grid:9.1f} {error:27.1f}")
    print(f"chosen: path {selected.alpha_:.4f}, grid {search.best_params_['alpha']:.4f}")
    print(
        f"seconds: path {seconds[0]:.0f}, grid {seconds[1]:.0f}, "
        f"ratio {seconds[0] / seconds[1]:.2f}"
    )


if __name__ == "__main__":
    main()
