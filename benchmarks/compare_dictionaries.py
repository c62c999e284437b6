"""Dictionaries of the embedded model's neurons at equal L0, baselines included.

    python benchmarks/compare_dictionaries.py --picture docs/_static/comparison.png

1,024 atoms for the 512 MLP neurons of the embedded transformer, all learned from the same 50,000
activations (autoencoders in 20 passes, the others as long as they take), compared on 10,000
held-out ones by `compare_dictionaries`; loss recovered on held-out files of about 20,000 tokens.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from activations import LAYER, auto_alpha, collect, draw, load_extractor

from skdict.decomposition import SparseAutoencoderDictionary, compare_dictionaries
from skdict.metrics import ParetoDisplay

BUDGETS = (5, 10, 20, 40)
N_CHARACTERS = 66_000  # some 20,000 tokens


def dictionaries(n_components, alpha):
    """By the encoder, over alpha and k; and by sparse coding of fixed atoms."""

    def make(**params):
        params = {"n_components": n_components, "alpha": alpha, "random_state": 0, **params}
        return SparseAutoencoderDictionary(**params)

    encoders = {
        "relu autoencoder": [make(alpha=m * alpha) for m in (0.45, 0.75, 1.2, 2.0)],
        "topk autoencoder": [make(architecture="topk", n_nonzero_coefs=k) for k in BUDGETS],
        "k-means": make(solver="kmeans"),
        "k-means of residuals": [make(solver="kmeans", n_nonzero_coefs=k) for k in BUDGETS],
    }
    atoms = {
        "relu autoencoder": make(),
        "topk autoencoder": make(architecture="topk", n_nonzero_coefs=20),
        "classical": make(solver="alternating", max_iter=1),
        "scikit-learn's classical": make(solver="dictionary_learning", max_iter=1, batch_size=256),
        "k-means": make(solver="kmeans"),
        "exemplars": make(solver="lasso"),
        "random": make(solver="lasso", dict_init="random"),
        "PCA": make(solver="lasso", dict_init="pca"),
        "ICA": make(solver="lasso", dict_init="ica"),
        "NMF": make(
            solver="lasso",
            dict_init="nmf",
            fit_intercept=False,
            n_components=n_components // 2,
        ),
        "neurons": make(solver="lasso", dict_init="identity"),
    }
    return encoders, atoms


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-components", type=int, default=1024)
    parser.add_argument("--n-train", type=int, default=50_000)
    parser.add_argument("--n-test", type=int, default=10_000)
    parser.add_argument("--csv")
    parser.add_argument("--picture")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    import pandas as pd

    transformer, extractor = load_extractor()
    texts = {subset: draw(subset, 0)[0] for subset in ("train", "test")}
    train, test = (
        np.random.default_rng(0).permutation(collect(extractor, texts[subset], 200_000))[:n]
        for subset, n in (("train", arguments.n_train), ("test", arguments.n_test))
    )
    alpha = auto_alpha(train)
    n_texts = np.searchsorted(np.cumsum([len(text) for text in texts["test"]]), N_CHARACTERS) + 1
    model = {
        "model": transformer.model,
        "layer": LAYER,
        "texts": texts["test"][:n_texts],
        "tokenizer": transformer.tokenizer,
    }
    encoders, atoms = dictionaries(arguments.n_components, alpha)
    start = time.perf_counter()
    tables = [
        compare_dictionaries(
            estimators,
            train,
            test,
            transform_algorithms=algorithms,
            budgets=BUDGETS,
            loss_recovered_params=model,
        )
        for estimators, algorithms in ((encoders, ("encoder",)), (atoms, ("lasso", "omp")))
    ]
    table = pd.concat(tables, ignore_index=True)
    print(
        f"torch {torch.__version__}, alpha auto {alpha:.3f}, {time.perf_counter() - start:.0f} s"
    )
    table = table.drop(columns=["budget", "loss_recovered_mean"])
    print(table.to_string(float_format=lambda value: f"{value:.4g}"), flush=True)
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)
    if arguments.picture:
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(1, 2, figsize=(13, 6), sharey=True, layout="constrained")
        for ax, algorithms, title in (
            (axes[0], ("encoder", "lasso"), "by encoder, and Lasso codes"),
            (axes[1], ("encoder", "omp"), "by encoder, and matching pursuit"),
        ):
            part = table[table.transform_algorithm.isin(algorithms)]
            display = ParetoDisplay.from_comparison(part, ax=ax)
            ax.set_title(title)
            ax.legend(fontsize="x-small")
        display.figure_.savefig(arguments.picture, dpi=120)


if __name__ == "__main__":
    main()
