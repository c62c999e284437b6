"""Sparse probing of the embedded transformer's tokens: features beside what has to be beaten.

    python benchmarks/sparse_probing.py

For each label of Python's grammar with at least 100 tokens in either half of the held-out ones: F1
and area under the ROC curve of probes on k columns of the codes of a top-k dictionary, of random
atoms by matching pursuit with as many non-zeros, of the neurons, and of principal components.
Means over labels; "base" is the F1 of marking every token.
"""

import argparse

import numpy as np
import pandas as pd
from activations import collect, draw, load_extractor
from sklearn.decomposition import PCA

from skdict.datasets import python_token_labels
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.inspection import sparse_probing

N_NONZERO = 20
SIZES = (1, 2, 5, 10)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-tokens", type=int, default=200_000, help="to learn from")
    parser.add_argument("--n-files", type=int, default=12, help="held-out files to probe on")
    arguments = parser.parse_args()

    _, extractor = load_extractor()
    train = collect(extractor, draw("train")[0], arguments.n_tokens)
    texts, is_prose = draw("test")
    texts, is_prose = texts[: arguments.n_files], is_prose[: arguments.n_files]
    X, tokens = extractor.transform(texts), extractor.tokens(texts)
    labels = python_token_labels(texts, tokens, documentation=is_prose)
    half = len(X) // 2
    frequent = np.minimum(labels.data[:half].sum(axis=0), labels.data[half:].sum(axis=0)) >= 100
    labels = pd.DataFrame(labels.data, columns=labels.target_names).loc[:, frequent]
    topk = SparseAutoencoderDictionary(
        1024, architecture="topk", n_nonzero_coefs=N_NONZERO, max_iter=3, random_state=0
    ).fit(train)
    random = SparseAutoencoderDictionary(
        1024,
        solver="lasso",
        dict_init="random",
        transform_algorithm="omp",
        transform_n_nonzero_coefs=N_NONZERO,
        random_state=0,
    ).fit(train)
    codes = {
        "features": topk.set_params(sparse_output=True).transform(X),
        "random atoms": random.set_params(sparse_output=True).transform(X),
        "neurons": X,
        "PCA": PCA(100, random_state=0).fit(train[::10]).transform(X),
    }
    table = pd.DataFrame(sparse_probing(codes, labels, n_features=SIZES))
    print(f"{len(X):,} held-out tokens, {labels.shape[1]} labels, base {table.base_f1.mean():.3f}")
    means = table.groupby(["codes", "n_features"])[["f1", "roc_auc", "density"]].mean()
    print("| codes | " + " | ".join(f"F1, k = {k}" for k in SIZES), end=" | ")
    print(" | ".join(f"AUC, k = {k}" for k in SIZES) + " | density, k = 10 |")
    print("|---|" + "---|" * (2 * len(SIZES) + 1))
    for name in codes:
        of_name = means.loc[name]
        cells = [*of_name.f1, *of_name.roc_auc, of_name.density.iloc[-1]]
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in cells) + " |")
    of_five = table[table.n_features == 5]
    median = of_five.base_rate.median()
    print("\nF1, k = 5, of the rarer and of the more frequent half of the labels:")
    for name in codes:
        f1 = of_five[of_five.codes == name].set_index("base_rate").f1
        print(f"{name}: {f1[f1.index <= median].mean():.3f}, {f1[f1.index > median].mean():.3f}")


if __name__ == "__main__":
    main()
