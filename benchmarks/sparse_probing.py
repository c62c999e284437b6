"""k-sparse probing on real labels: features beside what has to be beaten.

    python benchmarks/sparse_probing.py

On tokens of the embedded transformer, the labels are those of Python's grammar with at least 100
tokens in the held-out files; probes are fitted to one half of these files and scored on the other.
On scikit-learn's pictures of digits, the labels are the ten digits. For each: F1 and area under
the ROC curve of probes on k columns of the codes of a top-k dictionary, of the neurons (pixels),
of principal components, of random atoms at equal L0, and of random atoms by matching pursuit.
Means over labels; "base" is the F1 of marking every sample.
"""

import argparse

import numpy as np
import pandas as pd
from activations import collect, draw, load_extractor
from sklearn.datasets import load_digits

from skdict.datasets import python_token_labels
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.inspection import k_sparse_probe

SIZES = (1, 2, 5, 16)


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
    frequent = labels.data.sum(axis=0) >= 100
    labels = pd.DataFrame(labels.data, columns=labels.target_names).loc[:, frequent]
    print(f"{len(X):,} held-out tokens, {labels.shape[1]} labels, ", end="")
    compare(train, X, labels, groups=tokens["document"], n_components=1024, n_nonzero=20)

    digits = load_digits()
    pictures = digits.data.astype(np.float32)
    print(f"\n{len(pictures):,} pictures, 10 digits, ", end="")
    compare(pictures, pictures, digits.target, groups=None, n_components=128, n_nonzero=8)


def compare(train, X, y, *, groups, n_components, n_nonzero):
    """Fit, probe and print."""
    topk = SparseAutoencoderDictionary(
        n_components,
        architecture="topk",
        n_nonzero_coefs=n_nonzero,
        max_iter=max(3, 600_000 // len(train)),
        sparse_output=True,
        random_state=0,
    ).fit(train)
    pursued = SparseAutoencoderDictionary(
        n_components,
        solver="lasso",
        dict_init="random",
        transform_algorithm="omp",
        transform_n_nonzero_coefs=n_nonzero,
        sparse_output=True,
        random_state=0,
    ).fit(train)
    controls = {"random, by pursuit": pursued.transform(X)}
    codes = topk.transform(X)
    table = k_sparse_probe(codes, y, X=X, k=SIZES, controls=controls, groups=groups)
    table = pd.DataFrame(table)
    print(f"base {table.base_f1.mean():.3f}")
    means = table.groupby(["representation", "k"])[["f1", "roc_auc", "density", "l0"]].mean()
    print("| columns of | " + " | ".join(f"F1, k = {k}" for k in SIZES), end=" | ")
    print(" | ".join(f"AUC, k = {k}" for k in SIZES) + " | density, k = 16 | L0 |")
    print("|---|" + "---|" * (2 * len(SIZES) + 2))
    for name in table.representation.unique():
        of_name = means.loc[name]
        cells = [*of_name.f1, *of_name.roc_auc, of_name.density.iloc[-1]]
        cells = " | ".join(f"{value:.3f}" for value in cells)
        print(f"| {name} | {cells} | {of_name.l0.iloc[-1]:.1f} |")


if __name__ == "__main__":
    main()
