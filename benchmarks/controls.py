"""A trained dictionary beside its sanity controls, and which features recur with other seeds.

    python benchmarks/controls.py

On tokens of the embedded transformer's 512 neurons, for a "topk" and a "relu" dictionary:
explained variance, score, the rise of the language model's cross-entropy, and the F1 of the best
single feature for each label of Python's grammar that has at least 100 held-out tokens (chosen on
one half of these, scored on the other; mean over labels). Then what fraction of the features
recurs with other seeds.
"""

import argparse
import time
import warnings

import numpy as np
import pandas as pd
from activations import draw, load_extractor

from skdict.datasets import python_token_labels
from skdict.decomposition import SparseAutoencoderDictionary, sanity_controls
from skdict.inspection import (
    evaluate_feature_detectors,
    select_feature_detectors,
    stability_report,
)

BLOCK = 256  # tokens in a row that belong to one half
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-tokens", type=int, default=30_000, help="to learn from")
    parser.add_argument("--n-test", type=int, default=10_000)
    parser.add_argument("--n-components", type=int, default=1024)
    parser.add_argument("--n-seeds", type=int, default=3)
    arguments = parser.parse_args()

    _, extractor = load_extractor()
    train, _, n_train = texts_of(extractor, "train", arguments.n_tokens)
    test, is_prose, n_test = texts_of(extractor, "test", arguments.n_test)
    metric, n_labels = label_f1(test, is_prose, extractor)
    print(f"{n_train:,} training and {n_test:,} held-out tokens, {n_labels} labels")
    X = extractor.fit_transform(train)

    kinds = {"topk": {"architecture": "topk", "n_nonzero_coefs": 20}, "relu": {}}
    for name, params in kinds.items():
        dictionary = SparseAutoencoderDictionary(arguments.n_components, **params)
        start = time.process_time()
        with warnings.catch_warnings(action="default"):
            table = sanity_controls(
                dictionary,
                train,
                test,
                metrics=[*METRICS, metric],
                n_seeds=arguments.n_seeds,
                extractor=extractor,
                random_state=0,
            )
        print(f"\n{name}, {time.process_time() - start:.0f} s of CPU time")
        with pd.option_context("display.width", 160, "display.max_columns", None):
            print(table.round(4).to_string(index=False), flush=True)
        report = stability_report(dictionary, X, n_seeds=arguments.n_seeds, random_state=0)
        at = {c: f"{report.shared_fractions[report.cosines == c][0]:.3f}" for c in (0.5, 0.9)}
        print(
            f"recurring in another fit at a cosine of 0.7: {report.shared_fraction:.3f} +- "
            f"{report.shared_fraction_std:.3f}; in at least m others: "
            f"{np.round(report.recurring_fraction, 3)}; at cosines {at}; random directions "
            f"{report.random_fraction:.3f}, samples {report.samples_fraction:.3f}; dead "
            f"{report.n_dead}",
            flush=True,
        )


if __name__ == "__main__":
    main()
