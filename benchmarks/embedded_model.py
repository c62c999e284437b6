"""How good a dictionary of the embedded transformer's 512 neurons is, on held-out files.

    python benchmarks/embedded_model.py --architecture topk --n-nonzero-coefs 20 --max-iter 2

For each alpha (as a fraction of the centred RMS norm of the activations; 0.1 is alpha="auto"):
explained variance, L0 and dead features, loss recovered against zero and mean ablation with the
raw cross-entropies, all over all held-out files, and for every ground-truth label the precision
and recall of the best feature beside the best single neuron, both chosen on training files and
scored on held-out files. ``--n-tokens`` trains on part of the training files.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from activations import LAYER, collect, draw, load_extractor

from skdict.datasets import python_token_labels
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.inspection import evaluate_feature_detectors, select_feature_detectors
from skdict.metrics import DictionaryScorer, explained_variance, loss_recovered, mean_l0

GOOD = 0.8, 0.5  # precision and recall that count as a feature for a label


def take(texts, n_characters):
    """Number of leading texts that have about so many characters together."""
    return int(np.searchsorted(np.cumsum([len(text) for text in texts]), n_characters)) + 1


def report_losses(results):
    for name, r in results.items():
        print(
            f"  loss recovered, {name}: {r.loss_recovered_zero:.4f} against zero, "
            f"{r.loss_recovered_mean:.4f} against mean ablation; cross-entropy "
            f"{r.cross_entropy_clean:.4f} clean, {r.cross_entropy_dictionary:.4f} dictionary, "
            f"{r.cross_entropy_zero:.4f} zero, {r.cross_entropy_mean:.4f} mean; "
            f"ΔCE {r.delta_cross_entropy:.4f} nats; {r.n_predictions:,} predictions"
        )


def report_labels(dictionary, splits):
    tables = {}
    for name, encode in (("feature", dictionary.transform), ("neuron", lambda X: X)):
        X, labels = splits["select"]
        detectors = select_feature_detectors(encode(X), labels.data, min_precision=0.85)
        X, labels = splits["score"]
        tables[name] = evaluate_feature_detectors(encode(X), labels.data, detectors)
    names = splits["score"][1].target_names
    print(
        f"  {'label':24} {'feature':>7} {'prec.':>6} {'recall':>6} | {'neuron':>6} prec.  recall"
    )
    good = dict.fromkeys(tables, 0)
    for k in np.argsort(-np.nan_to_num(tables["feature"].f1)):
        f, n = tables["feature"], tables["neuron"]
        for who, table in tables.items():
            good[who] += bool(table.precision[k] >= GOOD[0] and table.recall[k] >= GOOD[1])
        print(
            f"  {names[k]:24} {f.feature[k]:7d} {f.precision[k]:6.2f} {f.recall[k]:6.2f} | "
            f"{n.feature[k]:6d} {n.precision[k]:6.2f} {n.recall[k]:6.2f}"
        )
    print(
        f"  labels with precision >= {GOOD[0]} at recall >= {GOOD[1]}: {good['feature']} by a "
        f"feature, {good['neuron']} by a neuron, of {len(names)}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.08])
    parser.add_argument("--n-components", type=int, default=4096)
    parser.add_argument("--architecture", default="relu")
    parser.add_argument("--n-nonzero-coefs", type=int, default=None)
    parser.add_argument("--max-iter", type=int, default=2)
    parser.add_argument("--n-tokens", type=int, default=None, help="training tokens; default all")
    parser.add_argument("--n-omp", type=int, default=0, help="tokens to code by OMP with k = 20")
    arguments = parser.parse_args()

    transformer, extractor = load_extractor()
    train_texts, train_prose = draw("train")
    test_texts, test_prose = draw("test")
    splits = {}
    for name, texts, prose, n_characters in (
        ("select", train_texts, train_prose, 700_000),
        ("score", test_texts, test_prose, 500_000),
    ):
        n = take(texts, n_characters)
        tokens = extractor.tokens(texts[:n])
        labels = python_token_labels(texts[:n], tokens, documentation=prose[:n])
        splits[name] = extractor.transform(texts[:n]), labels

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.npy"  # in half precision, read as a memory map
        np.save(path, collect(extractor, train_texts, arguments.n_tokens, np.float16))
        X = np.load(path, mmap_mode="r")
        X_test = extractor.transform(test_texts)
        part = X[::50].astype(np.float32)
        rms = float(np.sqrt(np.square(part - part.mean(axis=0)).sum(axis=1).mean()))
        print(f"{len(X):,} training and {len(X_test):,} held-out tokens, RMS norm {rms:.3f}")
        for fraction in arguments.alpha:
            sae = SparseAutoencoderDictionary(
                arguments.n_components,
                alpha=fraction * rms,
                architecture=arguments.architecture,
                n_nonzero_coefs=arguments.n_nonzero_coefs,
                max_iter=arguments.max_iter,
                random_state=0,
            )
            start = time.perf_counter()
            sae.fit(X)
            seconds = time.perf_counter() - start
            scores = DictionaryScorer()(sae, X_test)
            print(
                f"\n{sae.architecture}, alpha = {fraction} x RMS, "
                f"{sae.n_iter_ * len(X):,} samples, fitted in {seconds:.0f} s:"
            )
            print("  " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
            report_losses(
                loss_recovered(
                    transformer.model,
                    LAYER,
                    {"encoder": sae},
                    test_texts,
                    tokenizer=transformer.tokenizer,
                )
            )
            if arguments.n_omp:
                sae.set_params(transform_algorithm="omp", transform_n_nonzero_coefs=20)
                rows = X_test[:: len(X_test) // 1000]
                codes = sae.transform(rows)
                variance = explained_variance(rows, sae.inverse_transform(codes))
                print(f"  OMP on the same atoms: L0 {mean_l0(codes):.1f}, EV {variance:.4f}")
                texts = test_texts[: take(test_texts, 3.3 * arguments.n_omp)]
                report_losses(
                    loss_recovered(
                        transformer.model,
                        LAYER,
                        {"OMP": sae},
                        texts,
                        tokenizer=transformer.tokenizer,
                    )
                )
                sae.set_params(transform_algorithm="auto")
            report_labels(sae, splits)


if __name__ == "__main__":
    main()
