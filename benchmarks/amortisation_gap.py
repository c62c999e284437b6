"""What encoders lose against sparse coding, and dictionaries against one learned from it.

    python benchmarks/amortisation_gap.py --picture docs/_static/amortisation_gap.png

1,024 atoms for the 512 MLP neurons of the embedded transformer, 200,000 training activations,
20,000 held-out ones. For each architecture and multiple of alpha "auto" the codes of the encoder,
the Lasso's and matching pursuit's on the same atoms, as `amortisation_gap` finds them; then the
Lasso's on atoms that solver="alternating" learned with the same alpha.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from activations import auto_alpha, collect_splits, load_extractor

from skdict.decomposition import (
    AmortisationGapDisplay,
    SparseAutoencoderDictionary,
    amortisation_gap,
    sparse_encode,
)


def show(label, l0, variance, objective, seconds):
    print(f"{label:42} {l0:6.1f} {variance:8.4f} {objective:10.4f} {seconds:8.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-components", type=int, default=1024)
    parser.add_argument("--max-iter", type=int, default=4)
    parser.add_argument("--picture")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")

    _, extractor = load_extractor()
    train, test = collect_splits(extractor, 200_000, 100_000)
    test = np.random.default_rng(0).permutation(test)[:20_000]
    auto = auto_alpha(train)
    print(f"torch {torch.__version__}, alpha auto {auto:.3f}, {arguments.max_iter} passes")
    print(f"{'':42} {'L0':>6} {'EV':>8} {'objective':>10} {'fit, s':>8}")
    for multiple in (0.5, 1.0, 2.0):
        alpha = multiple * auto
        options = {"alpha": alpha, "random_state": 0}
        for architecture in ("relu", "topk") if multiple == 1 else ("relu",):
            start = time.perf_counter()
            sae = SparseAutoencoderDictionary(
                arguments.n_components,
                architecture=architecture,
                n_nonzero_coefs=20 if architecture == "topk" else None,
                max_iter=arguments.max_iter,
                **options,
            )
            sae.fit(train)
            seconds = time.perf_counter() - start
            result = amortisation_gap(sae, test)
            for name in ("encoder", "lasso", "omp"):
                coder = result[name]
                label = f"{architecture}, {multiple:g} x auto: {name}"
                objective = coder.objective.mean()
                show(label, coder.l0.mean(), coder.explained_variance, objective, seconds)
            excess = result.encoder.objective / np.maximum(result.lasso.objective, 1e-12) - 1
            print(
                f"{'':8} objective of the encoder over the least: median {np.median(excess):.3f}, "
                f"nine in ten below {np.quantile(excess, 0.9):.3f}"
            )
            if architecture == "relu" and multiple == 1 and arguments.picture:
                display = AmortisationGapDisplay(result).plot()
                display.figure_.savefig(arguments.picture, dpi=150)
        start = time.perf_counter()
        classical = SparseAutoencoderDictionary(
            arguments.n_components, solver="alternating", max_iter=1, **options
        ).fit(train)
        seconds = time.perf_counter() - start
        centred = test - classical.intercept_
        codes = sparse_encode(centred, classical.components_, alpha=alpha)
        error = ((centred - codes @ classical.components_) ** 2).sum(axis=1)
        variance = 1 - error.sum() / ((test - test.mean(axis=0)) ** 2).sum()
        objective = (0.5 * error + alpha * codes.sum(axis=1)).mean()
        l0 = np.count_nonzero(codes) / len(codes)
        show(f"alternating, {multiple:g} x auto: lasso", l0, variance, objective, seconds)


if __name__ == "__main__":
    main()
