"""
A sparse dictionary of a transformer's neurons, from texts to pictures
======================================================================

The neurons of a network are polysemantic: each takes part in many concepts. This example learns
a sparse dictionary of the 512 MLP neurons of the one-layer transformer that ships with skdict,
trained on the Python standard library, and looks at what it found:

1. texts → activations → dictionary, as a scikit-learn Pipeline;
2. the L1 coefficient chosen by GridSearchCV, without labels, on folds of documents;
3. explained variance, L0, dead features and loss recovered for each coefficient, on the files
   left out;
4. the dictionary against a top-k autoencoder, classical dictionary learning, exemplars, the
   neurons themselves and PCA at equal L0, with several ways to find codes;
5. the features that best detect a ground-truth label (comment, keyword, number, ...), beside the
   best single neuron, and what activates them;
6. explanations of features by rules, scored on texts that they were not made from, and the
   dashboard: a page with all that is known of each feature, from what activates it to what it does
   to the model's predictions.

Run it from the repository: ``python examples/quickstart.py``. It takes two to three minutes on two
cores and writes ``pareto.png`` and the dashboard, ``features.html``, to ``quickstart_output``;
``--quick`` is a reduced size that shows the same in under a minute.
"""

# %%
# Sizes, data and the model
# -------------------------
import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from skdict.datasets import load_one_layer_transformer, load_python_corpus, python_token_labels
from skdict.decomposition import (
    SparseAutoencoderDictionary,
    alpha_grid,
    compare_dictionaries,
)
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import (
    FeatureDashboard,
    collect_codes,
    context_snippets,
    evaluate_feature_detectors,
    feature_statistics,
    interpret_features,
    select_feature_detectors,
    top_activations,
)
from skdict.metrics import (
    DictionaryScorer,
    ParetoDisplay,
    mean_l0,
)

LAYER = "transformer.h.0.mlp.act"
METRICS = (
    "score",
    "explained_variance",
    "l0",
    "dead_fraction",
    "cross_entropy_clean",
    "cross_entropy_zero",
    "cross_entropy_mean",
    "loss_recovered_zero",
    "loss_recovered_mean",
    "delta_cross_entropy",
)
N_JOBS = 2  # dictionaries of this size are trained faster two at a time than each on two cores


def parse_arguments():
    parser = argparse.ArgumentParser(description="skdict from texts to pictures")
    parser.add_argument("--quick", action="store_true", help="reduced size, for a first look")
    parser.add_argument("--output", type=Path, default=Path("quickstart_output"))
    arguments = parser.parse_args()
    sizes = {
        # characters of text; about 3.3 make a token
        "n_train": 60_000 if arguments.quick else 110_000,
        "n_test": 30_000 if arguments.quick else 80_000,
        "n_components": 512 if arguments.quick else 1024,
        "max_iter": 3 if arguments.quick else 4,
        "n_alphas": 3 if arguments.quick else 5,
        "cv": 2,
        # tokens that the dictionaries are compared on: their dense codes take time
        "n_coded": 200 if arguments.quick else 500,
        "n_classical": 1000 if arguments.quick else 2000,
        "n_shown": 40 if arguments.quick else 200,  # features in the dashboard
    }
    return arguments.output, argparse.Namespace(**sizes)


def draw_documents(subset, n_characters, seed=0):
    """Whole documents of the corpus in random order, up to some number of characters."""
    corpus = load_python_corpus(subset=subset)
    texts, is_documentation, total = [], [], 0
    for i in np.random.default_rng(seed).permutation(len(corpus.data)):
        if len(corpus.data[i]) <= n_characters / 10:  # no document dominates
            texts.append(corpus.data[i])
            is_documentation.append(corpus.target[i] == 1)
            total += len(texts[-1])
            if total >= n_characters:
                break
    return texts, np.array(is_documentation)


# %%
# The L1 coefficient, by cross-validation on texts
# ------------------------------------------------


def search_alpha(extractor, texts, alphas, sizes):
    """GridSearchCV over a Pipeline from raw texts; the extractor's cache is filled once."""
    pipeline = Pipeline(
        [
            ("extractor", extractor),
            (
                "dictionary",
                SparseAutoencoderDictionary(
                    sizes.n_components, max_iter=sizes.max_iter, batch_size=256, random_state=0
                ),
            ),
        ]
    )
    search = GridSearchCV(
        pipeline,
        {"dictionary__alpha": alphas},
        scoring=DictionaryScorer(METRICS),
        refit="score",
        cv=sizes.cv,
        n_jobs=N_JOBS,
    )
    try:
        from sklearn.callback import ProgressBar

        search.set_callbacks(ProgressBar(max_propagation_depth=0))
    except ImportError:
        print("(pip install rich for a progress bar)")
    return search.fit(texts)


def print_alpha_table(search):
    """What the cross-validation measured of each alpha, on the files left out of its fit."""
    results = {
        name.removeprefix("mean_test_"): values
        for name, values in search.cv_results_.items()
        if name.startswith("mean_test_")
    }
    clean, zero, mean = (
        results[f"cross_entropy_{name}"].mean() for name in ("clean", "zero", "mean")
    )
    print(
        f"\nPer alpha, by {search.n_splits_}-fold cross-validation on the training files. "
        f"Cross-entropy in nats per token:\n{clean:.3f} as it is, {zero:.3f} with the neurons at "
        f"zero, {mean:.3f} at their mean."
    )
    print(
        f"{'alpha':>8} {'score':>8} {'expl. var.':>10} {'L0':>7} {'dead':>6} "
        f"{'recovered (zero)':>16} {'(mean)':>7} {'ΔCE, nats':>10}"
    )
    for i, alpha in enumerate(search.cv_results_["param_dictionary__alpha"]):
        r = {name: values[i] for name, values in results.items()}
        chosen = "  ← chosen" if i == search.best_index_ else ""
        print(
            f"{alpha:8.3f} {r['score']:8.1f} {r['explained_variance']:10.3f} {r['l0']:7.1f} "
            f"{r['dead_fraction']:6.1%} {r['loss_recovered_zero']:16.3f} "
            f"{r['loss_recovered_mean']:7.3f} {r['delta_cross_entropy']:10.3f}{chosen}"
        )
    return list(zip(results["l0"], results["explained_variance"], strict=True))


# %%
# Against classical dictionary learning, at equal L0
# --------------------------------------------------


def compare(chosen, X_train, X, sizes):
    """Dictionaries and ways to find codes, at equal L0: rows of a table."""
    X = X[np.linspace(0, len(X) - 1, sizes.n_coded).astype(int)]
    few = X_train[np.linspace(0, len(X_train) - 1, sizes.n_classical).astype(int)]
    l0 = mean_l0(chosen.transform(X))

    def like(**params):
        return clone(chosen).set_params(**params)

    def fixed(**params):
        """Atoms that are not learned: parameters of the training would have no effect."""
        return like(solver="lasso", max_iter=20, batch_size="auto", **params)  # the defaults

    of_all = {
        "sparse autoencoder": chosen,
        "topk autoencoder": like(
            architecture="topk", n_nonzero_coefs=max(1, round(l0)), alpha="auto"
        ),
    }
    of_few = {
        "classical": like(solver="alternating", max_iter=2, batch_size=512, early_stopping=False),
        "exemplars": fixed(),
        "neurons": fixed(dict_init="identity", n_components="auto"),
        "PCA": [PCA(max(1, k), random_state=0) for k in (round(l0 / 4), round(l0))],
    }
    print(f"\nAt equal L0, on {len(X)} held-out tokens, from {len(few):,} tokens where marked *:")
    print(
        f"{'dictionary':20} {'codes':9} {'L0':>6} {'expl. var.':>10} {'score':>7} {'fit, s':>7} "
        f"{'codes/s':>9}"
    )
    rows = []
    for dictionaries, data, mark in ((of_all, X_train, ""), (of_few, few, " *")):
        table = compare_dictionaries(
            dictionaries,
            data,
            X,
            transform_algorithms=("encoder", "lasso", "omp"),
            budgets=[l0 / 4, l0],
        )
        for values in zip(*(table[name] for name in table), strict=True):
            row = dict(zip(table, values, strict=True))
            rows.append(row)
            fit = "before" if np.isnan(row["fit_seconds"]) else f"{row['fit_seconds']:.1f}"
            print(
                f"{row['dictionary'] + mark:20} {row['transform_algorithm']:9} {row['l0']:6.1f} "
                f"{row['explained_variance']:10.3f} {row['score']:7.1f} {fit:>7} "
                f"{len(X) / row['transform_seconds']:9,.0f}"
            )
    return rows


def draw(over_alpha, rows, path):
    """Explained variance against L0: Lasso codes on the left, matching pursuit on the right."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 5), sharey=True, layout="constrained")
    for ax, algorithm, title in zip(
        axes, ("lasso", "omp"), ("Lasso codes", "matching pursuit"), strict=True
    ):
        points = [(*point, "autoencoders of the folds, encoder") for point in over_alpha] + [
            (row["l0"], row["explained_variance"], f"{row['dictionary']}, {how}")
            for row in rows
            if (how := row["transform_algorithm"]) in ("encoder", algorithm, "transform")
        ]
        ParetoDisplay(*zip(*points, strict=True)).plot(ax=ax)
        ax.set_title(f"{title}, beside encoders")
        ax.legend(fontsize="small")
    figure.suptitle("One-layer transformer, 512 neurons; but for the folds, held-out files")
    figure.savefig(path, dpi=120)


# %%
# Features that detect a label, and what activates them
# -----------------------------------------------------


def find_features(train, test, n_features=10):
    """Best feature and best neuron for each label; the features that detect one best."""
    detectors = {}
    for name, kind in (("feature", "codes"), ("neuron", "X")):
        selected = select_feature_detectors(train[kind], train["labels"].data)
        detectors[name] = evaluate_feature_detectors(test[kind], test["labels"].data, selected)
    f1 = np.nan_to_num(detectors["feature"].f1)
    codes, seen, features = test["codes"], set(), []
    density = feature_statistics(codes).density
    for k in np.argsort(-f1):
        j = detectors["feature"].feature[k]
        if j >= 0 and j not in seen:  # one feature may be the best for several labels
            seen.add(j)
            (top,) = top_activations(codes, j, n_top=6)
            features.append(
                {
                    "index": int(j),
                    "label": test["labels"].target_names[k],
                    "density": float(density[j]),
                    **{
                        f"{who}_{what}": float(detectors[who][what][k])
                        for who in detectors
                        for what in ("precision", "recall", "f1")
                    },
                    "neuron": int(detectors["neuron"].feature[k]),
                    "snippets": context_snippets(test["texts"], test["tokens"], top.rows),
                    "codes": top.codes.tolist(),
                }
            )
        if len(features) == n_features:
            break
    return features


def print_features(features):
    print(
        "\nFeatures that detect a label, on held-out files (threshold chosen on training files):"
    )
    print(
        f"{'feature':>8} {'label':22} {'precision':>9} {'recall':>7}   "
        f"{'best neuron':>11} {'precision':>9} {'recall':>7}"
    )
    for f in features:
        print(
            f"{f['index']:8d} {f['label']:22} {f['feature_precision']:9.2f} "
            f"{f['feature_recall']:7.2f}   {f['neuron']:11d} {f['neuron_precision']:9.2f} "
            f"{f['neuron_recall']:7.2f}"
        )
        for snippet in f["snippets"][:3]:
            before, token, after = (part.replace("\n", "⏎") for part in snippet)
            print(f"{'':9}…{before[-30:]}⟦{token}⟧{after[:15]}…")


# %%
# Explanations, and the dashboard
# -------------------------------


def interpret(test, features):
    """Explanations by rules, with their scores on texts that they were not made from."""
    table = interpret_features(
        test["codes"],
        features,
        token_labels=test["labels"],
        neurons=test["X"],
        window_length=16,
    )
    print(f"\nRules that explain {len(features)} features, scored on held-out windows:")
    print(f"{'scored by':12} {'features':>8} {'shuffled':>8} {'neurons':>8}   (medians)")
    for name in ("detection", "fuzzing", "intruder"):
        medians = [
            f"{np.nanmedian(table[key]):8.2f}" if key in table else f"{'':8}"
            for key in (name, f"{name}_shuffled", f"{name}_neuron")
        ]
        print(f"{name:12} {' '.join(medians)}")
    return table


def features_to_show(features, codes, n_shown):
    """Those that detect labels, then the most active ones."""
    density = feature_statistics(codes).density
    chosen = [f["index"] for f in features] + np.argsort(-density).tolist()
    return [j for j in dict.fromkeys(chosen) if density[j] > 0][:n_shown]


# %%
# All of it
# ---------


def main():
    output, sizes = parse_arguments()
    output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    model, tokenizer = (load_one_layer_transformer()[k] for k in ("model", "tokenizer"))
    train_texts, train_is_documentation = draw_documents("train", sizes.n_train)
    test_texts, test_is_documentation = draw_documents("test", sizes.n_test)

    with tempfile.TemporaryDirectory() as cache:
        extractor = ActivationExtractor(
            model, LAYER, tokenizer=tokenizer, long_documents="window", cache=cache
        )
        splits = {}
        for name, texts, is_documentation in (
            ("train", train_texts, train_is_documentation),
            ("test", test_texts, test_is_documentation),
        ):
            tokens = extractor.tokens(texts)
            splits[name] = {
                "X": extractor.transform(texts),
                "texts": texts,
                "tokens": tokens,
                "labels": python_token_labels(texts, tokens, documentation=is_documentation),
            }
        X_train, X_test = splits["train"]["X"], splits["test"]["X"]
        print(
            f"{len(train_texts)} training and {len(test_texts)} held-out documents, "
            f"{len(X_train):,} and {len(X_test):,} tokens, {X_train.shape[1]} neurons"
        )
        alphas = alpha_grid(X_train, n_alphas=sizes.n_alphas).tolist()
        search = search_alpha(extractor, train_texts, alphas, sizes)
    extractor.set_params(cache=None)

    chosen = search.best_estimator_["dictionary"]
    over_alpha = print_alpha_table(search)
    rows = compare(chosen, X_train, X_test, sizes)
    draw(over_alpha, rows, output / "pareto.png")

    pipeline = Pipeline([("extractor", extractor), ("dictionary", chosen)])
    for split in splits.values():  # one pass of the model for all that follows
        split["codes"] = collect_codes(pipeline, split["texts"], n_near_misses=10)
    features = find_features(splits["train"], splits["test"])
    print_features(features)
    shown = features_to_show(features, splits["test"]["codes"], sizes.n_shown)
    names = interpret(splits["test"], shown)
    dashboard = FeatureDashboard.from_codes(
        splits["test"]["codes"],
        shown,
        pipeline=pipeline,
        names=names,
        show_texts=[text[:1500] for text in test_texts[:2]],
        provenance={"corpus": "Python's standard library, held-out files"},
        title="Features of a one-layer transformer's neurons",
    )
    page = dashboard.to_html(output / "features.html")
    print(
        f"\nWrote {output / 'pareto.png'} in {time.perf_counter() - start:.0f} s, and the "
        f"dashboard, which opens in a browser:\n{page.resolve()}"
    )


if __name__ == "__main__":
    main()
