"""Which alpha does `score` choose on real activations, and how does the resolution matter?

    python benchmarks/score_curve.py --picture score_curve.png

Fits the embedded model's 512 neurons over a grid of alpha from a sixteenth to sixteen times
"auto"; prints the held-out score beside explained variance and L0, and the score that other
resolutions than the estimator's would give (a share of the variance; the smallest is almost the
plain density of the model). PCA's score on the same data, with noise of the same resolution added,
is the yardstick: a Gaussian with full covariance, and one with k components.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from activations import collect, draw, load_extractor
from sklearn.decomposition import PCA

from skdict.decomposition import SparseAutoencoderDictionary
from skdict.metrics import DictionaryScorer

RESOLUTIONS = 1e-6, 0.03, 0.1, 0.2


def plot(path, fractions, rows, gaussian):
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    left.plot(fractions, [row["score"] for row in rows], "o-", label="sparse dictionary")
    left.axhline(gaussian, color="0.5", ls="--", label="Gaussian, full covariance")
    left.set(xscale="log", xlabel="alpha / RMS norm", ylabel="score, nats per activation")
    left.legend()
    right.plot(fractions, [row["explained_variance"] for row in rows], "s-", color="C1")
    right.set(xscale="log", xlabel="alpha / RMS norm", ylabel="explained variance")
    l0 = right.twinx()
    l0.plot(fractions, [row["l0"] for row in rows], "^-", color="C2")
    l0.set(yscale="log", ylabel="L0")
    right.yaxis.label.set_color("C1")
    l0.yaxis.label.set_color("C2")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-components", type=int, default=1024)
    parser.add_argument("--n-tokens", type=int, default=200_000)
    parser.add_argument("--max-iter", type=int, default=8)
    parser.add_argument("--n-alphas", type=int, default=9)
    parser.add_argument("--picture", type=Path, default=None)
    arguments = parser.parse_args()

    _, extractor = load_extractor()
    X = collect(extractor, draw("train")[0], arguments.n_tokens)
    X_test = collect(extractor, draw("test")[0], arguments.n_tokens // 5)
    rms = float(np.sqrt(np.square(X - X.mean(axis=0)).sum(axis=1).mean()))
    print(f"{len(X):,} training and {len(X_test):,} held-out tokens, RMS norm {rms:.3f}")
    header = " ".join(f"{f'score({r:g})':>12}" for r in RESOLUTIONS)
    print(f"{'alpha/RMS':>10} {'seconds':>8} {'EV':>7} {'L0':>7} {'dead':>6} {header}")
    fractions, rows = 0.1 * np.geomspace(1 / 16, 16, arguments.n_alphas), []
    for fraction in fractions:
        sae = SparseAutoencoderDictionary(
            arguments.n_components,
            alpha=fraction * rms,
            max_iter=arguments.max_iter,
            random_state=0,
        )
        start = time.perf_counter()
        sae.fit(X)
        seconds = time.perf_counter() - start
        row = DictionaryScorer()(sae, X_test)
        others = []
        for resolution in RESOLUTIONS:
            others.append(sae.set_params(resolution=resolution).score(X_test))
        rows.append(row)
        print(
            f"{fraction:10.4f} {seconds:8.0f} {row['explained_variance']:7.3f} "
            f"{row['l0']:7.1f} {row['dead_fraction']:6.1%} "
            + " ".join(f"{other:12.1f}" for other in others),
            flush=True,
        )

    generator = np.random.default_rng(0)
    print("Gaussians, " + ", ".join(f"score({r:g})" for r in RESOLUTIONS))
    for k in (16, 64, 256, X.shape[1]):
        scores = []
        for resolution in RESOLUTIONS:
            std = np.sqrt(resolution * rms**2 / X.shape[1])
            noisy = [part + std * generator.normal(size=part.shape) for part in (X, X_test)]
            scores.append(PCA(k, svd_solver="covariance_eigh").fit(noisy[0]).score(noisy[1]))
        print(f"  PCA({k}): " + " ".join(f"{score:.1f}" for score in scores), flush=True)
    if arguments.picture:
        plot(arguments.picture, fractions, rows, scores[RESOLUTIONS.index(0.03)])
        print(f"Wrote {arguments.picture}.")


if __name__ == "__main__":
    main()
