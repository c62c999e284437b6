"""What the two-level shuffle of a store costs in quality, against a shuffle of all rows.

Activations of the embedded transformer are stored in the order of the texts. The same top-k fit,
one pass, reads them from the store at its default settings, from an array whose rows are permuted
at once, and in their order. Two corpora: modules of the standard library, and the language
reference. The figure is the unexplained variance of held-out files. Also: how noisy gradients are
after the shuffle, as the store predicts it.

    python benchmarks/shuffle.py [--tokens 2000000] [--seeds 2] [--folder /tmp/shuffle]
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from activations import LAYER, load_extractor

from skdict.datasets import load_python_corpus
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import ActivationStore

warnings.filterwarnings("ignore", category=FutureWarning)
TEXTS_AT_A_TIME = 10


def texts_of(kind, subset):
    corpus = load_python_corpus(subset=subset)
    return [text for text, of in zip(corpus.data, corpus.target, strict=True) if of == kind]


def stored(folder, extractor, texts, n_tokens):
    """A store of the leading tokens of texts, in their order."""
    if not (folder / "store.json").exists():
        width, n_rows = extractor.transform(texts[:1]).shape[1], 0
        with ActivationStore.create(folder, {LAYER: width}) as writer:
            for start in range(0, len(texts), TEXTS_AT_A_TIME):
                rows = extractor.transform(texts[start : start + TEXTS_AT_A_TIME])
                writer.append(rows[: n_tokens - n_rows])
                n_rows += len(rows)
                if n_rows >= n_tokens:
                    break
    return ActivationStore(folder)


def fit(X, seed, batch_size, shuffle=True):
    params = {"architecture": "topk", "n_nonzero_coefs": 32, "max_iter": 1, "random_state": seed}
    params |= {"batch_size": batch_size, "shuffle": shuffle, "early_stopping": False}
    return SparseAutoencoderDictionary(1024, **params).fit(X)


def unexplained(estimator, X):
    residual = X - estimator.inverse_transform(estimator.transform(X))
    return float((residual**2).sum() / ((X - X.mean(axis=0)) ** 2).sum())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/shuffle"))
    options = parser.parse_args()
    _, extractor = load_extractor()
    # of the smaller corpus in smaller batches, so that the buffer holds a part of it, too
    for name, kind, batch_size in (("modules", 0, 1024), ("reference", 1, 128)):
        store = stored(options.folder / name, extractor, texts_of(kind, "train"), options.tokens)
        view = store[LAYER]
        held_out = extractor.transform(texts_of(kind, "test"))[:50_000]
        in_buffer = 256 * batch_size / len(view)
        print(f"{name}: {len(view)} rows, batches of {batch_size}, buffer {in_buffer:.0%} of them")
        print(f"  predicted noise {view.mixing(batch_size):.3f}", flush=True)
        array = np.asarray(view)
        orders = {"store": (view, True), "global": (array, True), "in order": (array, False)}
        found = {order: [] for order in orders}
        for seed in range(options.seeds):
            for order, (X, shuffle) in orders.items():
                estimator = fit(X, seed, batch_size, shuffle)
                found[order].append(unexplained(estimator, held_out))
                print(f"  seed {seed} {order}: {found[order][-1]:.4f}", flush=True)
        means = {order: np.mean(values) for order, values in found.items()}
        for order in ("store", "in order"):
            print(f"  {order} against global: {means[order] / means['global'] - 1:+.1%}")


if __name__ == "__main__":
    main()
