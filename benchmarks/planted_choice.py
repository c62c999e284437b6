"""Does `score` find the true sparsity of planted data?

    python benchmarks/planted_choice.py
    python benchmarks/planted_choice.py --architecture relu topk

Codes of planted data over a grid of alpha, or of k: by the Lasso in the true atoms, or by an
autoencoder that has learned its own. Half of the rows are for the fit, the other half is scored:
as `score` does, and without the step towards least squares, so that what a penalty takes from the
magnitudes counts as noise.
"""

import argparse
import copy
from unittest import mock

import numpy as np

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary

FRACTIONS = 0.04, 0.08, 0.16, 0.32, 0.64
NUMBERS = 1, 2, 3, 4, 6, 8, 11, 16


def as_they_are(codes, residual, atoms):
    return codes, residual


def scores(fitted, X):
    """With the step towards least squares, and without."""
    plain = copy.copy(fitted)  # the statistics of the fit are taken by each
    plain._statistics = copy.copy(fitted._statistics)
    with mock.patch("skdict.decomposition._likelihood.debiased", as_they_are):
        without = plain.score(X)
    return fitted.score(X), without


def candidates(architecture, atoms, rms):
    """What is fitted, by the value that is printed."""
    if architecture is None:
        params = {"solver": "lasso", "dict_init": atoms, "fit_intercept": False}
        return {f: {**params, "alpha": f * rms} for f in FRACTIONS}
    params = {"n_components": len(atoms), "architecture": architecture, "random_state": 0}
    if architecture in ("relu", "gated"):
        return {f: {**params, "alpha": f * rms} for f in FRACTIONS}
    return {k: {**params, "n_nonzero_coefs": k} for k in NUMBERS}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--architecture", nargs="+", default=[None])
    options = parser.parse_args()
    for n_features, n_components, l0 in ((64, 256, 2.0), (128, 512, 8.0)):
        X, atoms, code = make_superposition(
            options.rows, n_features, n_components, l0=l0, noise=0.05, random_state=0
        )
        train, test = np.array_split(X.astype(np.float32), 2)
        rms = np.sqrt(X.var(axis=0).sum())
        true = np.count_nonzero(code[-len(test) :]) / len(test)
        for architecture in options.architecture:
            print(f"\n{architecture or 'true atoms'}: {len(train):,} rows for the fit,", end=" ")
            print(f"{n_features} columns, {n_components} atoms, true L0 {true:.2f}")
            print("| alpha / RMS or k | L0 | score | without the step |\n|---|---|---|---|")
            for value, params in candidates(architecture, atoms, rms).items():
                fitted = SparseAutoencoderDictionary(**params).fit(train)
                found = np.count_nonzero(fitted.transform(test)) / len(test)
                cells = f"{found:.2f} | " + " | ".join(f"{s:.1f}" for s in scores(fitted, test))
                print(f"| {value:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
