"""A trained dictionary beside its sanity controls, and which features recur with other seeds.

    python benchmarks/controls.py

On planted data, of which the true atoms are known: explained variance and their recovery. Then on
tokens of the embedded transformer's 512 neurons, for a "topk" and a "relu" dictionary: explained
variance, score, the rise of the language model's cross-entropy, and the F1 of the best single
feature for each label of Python's grammar that has at least 100 held-out tokens (chosen on one
half of these, scored on the other; mean over labels). For each also what fraction of the features
recurs with other seeds.
"""

import argparse
import time
import warnings

import numpy as np
import pandas as pd
from activations import draw, load_extractor

from skdict.datasets import make_superposition, python_token_labels
from skdict.decomposition import SparseAutoencoderDictionary, sanity_controls
from skdict.inspection import (
    evaluate_feature_detectors,
    select_feature_detectors,
    stability_report,
)
from skdict.metrics import dictionary_recovery

BLOCK = 256  # tokens in a row that belong to one half
KINDS = {"topk": {"architecture": "topk", "n_nonzero_coefs": 20}, "relu": {}}
METRICS = ["explained_variance", "score", "delta_cross_entropy", "dead_fraction"]


def texts_of(extractor, subset, n_tokens):
    """Documents with about so many tokens together, which of them are prose, and their tokens."""
    texts, is_prose = draw(subset)
    taken, total = [], 0
    for i, text in enumerate(texts):
        n = len(extractor.tokens([text])["token"])
        if total + n <= n_tokens:
            taken.append(i)
            total += n
        if total >= 0.95 * n_tokens:
            break
    return [texts[i] for i in taken], is_prose[taken], total


def label_f1(texts, is_prose, extractor):
    """A metric: mean F1 of the best single feature of each frequent label."""
    tokens = extractor.tokens(texts)
    labels = python_token_labels(texts, tokens, documentation=is_prose).data
    labels = labels[:, labels.sum(axis=0) >= 100]
    first = np.arange(len(labels)) // BLOCK % 2 == 0

    def best_feature_f1(dictionary, X):
        codes = dictionary.transform(X)
        detectors = select_feature_detectors(codes[first], labels[first])
        found = evaluate_feature_detectors(codes[~first], labels[~first], detectors)
        return float(np.nanmean(found.f1))

    return best_feature_f1, labels.shape[1]


def on_planted_data(n_seeds):
    """Where the true atoms are known: their recovery."""
    X, atoms, _ = make_superposition(
        n_samples=20_000, n_features=64, n_components=256, random_state=0
    )

    def recovery(dictionary, X):
        return dictionary_recovery(dictionary.components_, atoms)

    dictionary = SparseAutoencoderDictionary(256, architecture="topk", n_nonzero_coefs=3)
    metrics = ["explained_variance", recovery]
    report("planted, topk", dictionary, X[:16_000], X[16_000:], metrics, n_seeds)
    tell_stability(dictionary, X[:16_000], n_seeds)


def report(name, dictionary, train, test, metrics, n_seeds, extractor=None):
    """The table of controls."""
    start = time.process_time()
    table = sanity_controls(
        dictionary,
        train,
        test,
        metrics=metrics,
        n_seeds=n_seeds,
        extractor=extractor,
        random_state=0,
    )
    print(f"\n{name}, {time.process_time() - start:.0f} s of CPU time")
    with pd.option_context("display.width", 160, "display.max_columns", None):
        print(table.round(4).to_string(index=False), flush=True)


def tell_stability(dictionary, X, n_seeds):
    """Which fraction of the features recurs."""
    found = stability_report(dictionary, X, n_seeds=n_seeds, random_state=0)
    at = {c: f"{found.shared_fractions[found.cosines == c][0]:.3f}" for c in (0.5, 0.9)}
    print(
        f"recurring in another fit at a cosine of 0.7: {found.shared_fraction:.3f} +- "
        f"{found.shared_fraction_std:.3f}; in at least m others: "
        f"{np.round(found.recurring_fraction, 3)}; at cosines {at}; random directions "
        f"{found.random_fraction:.3f}, samples {found.samples_fraction:.3f}; dead {found.n_dead}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "which", nargs="*", default=["planted", *KINDS], help="planted, topk, relu"
    )
    parser.add_argument("--n-tokens", type=int, default=30_000, help="to learn from")
    parser.add_argument("--n-test", type=int, default=10_000)
    parser.add_argument("--n-components", type=int, default=1024)
    parser.add_argument("--n-seeds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("default")

    if "planted" in arguments.which:
        on_planted_data(arguments.n_seeds)
    kinds = {name: params for name, params in KINDS.items() if name in arguments.which}
    if not kinds:
        return
    _, extractor = load_extractor()
    train, _, n_train = texts_of(extractor, "train", arguments.n_tokens)
    test, is_prose, n_test = texts_of(extractor, "test", arguments.n_test)
    metric, n_labels = label_f1(test, is_prose, extractor)
    print(f"{n_train:,} training and {n_test:,} held-out tokens, {n_labels} labels")
    for name, params in kinds.items():
        dictionary = SparseAutoencoderDictionary(arguments.n_components, **params)
        report(name, dictionary, train, test, [*METRICS, metric], arguments.n_seeds, extractor)
        tell_stability(dictionary, extractor.fit_transform(train), arguments.n_seeds)


if __name__ == "__main__":
    main()
