"""The claims of "Towards Monosemanticity", measured on the embedded transformer: docs/report.rst.

    python benchmarks/report.py --work WORK

About two hours on two cores, half of one for a second transformer. What a step has found is kept
in the folder WORK, so that a run that was broken off goes on where it was; delete a file to
measure it again. The page, its pictures and the numbers (docs/report.json) are written at the end.
"""

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import torch
import transformers
from activations import LAYER, collect, draw, load_extractor
from jinja2 import Environment, FileSystemLoader
from scipy.stats import spearmanr
from sklearn.pipeline import make_pipeline

import skdict
from skdict.datasets import load_one_layer_transformer, python_token_labels
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import (
    FeatureMatchDisplay,
    InterpretationDisplay,
    SteeringDisplay,
    feature_communities,
    feature_effects,
    feature_report,
    feature_splitting,
    interpret_features,
    logit_weights,
    match_features,
    steering_effect,
)
from skdict.metrics import loss_recovered

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = 512, 2048, 8192
GRID = [(n, k) for n in WIDTHS for k in (10, 20, 40)]
LIFT = 10  # how much more frequent a token of a feature's context is behind its active tokens
BLANK = ("newline", "indent", "dedent")  # classes of tokens that show nothing


class Work:
    """The folder of what was found: arrays of activations, fitted dictionaries, results."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.language, self.extractor = load_extractor()
        self.train_texts, _ = draw("train")
        self.texts, self.is_documentation = draw("test")

    def result(self, name, measure):
        """What `measure` returns, as JSON; measured once."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            start = time.perf_counter()
            found = measure() | {"seconds": round(time.perf_counter() - start)}
            path.write_text(json.dumps(found, indent=1, default=lambda x: x.item()))
            print(f"{name}: {found['seconds']} s", flush=True)
        return json.loads(path.read_text())

    def activations(self, subset, model=None):
        """Activations of all tokens of a subset, in half precision, mapped."""
        path = self.folder / f"X_{subset}{'' if model is None else '_second'}.npy"
        if not path.exists():
            extractor = self.extractor if model is None else model
            texts = self.train_texts if subset == "train" else self.texts
            np.save(path, collect(extractor, texts, None, "float16"))
        return np.load(path, mmap_mode="r")

    def dictionary(self, name, X, n_components, k, seed=0, architecture="topk", max_iter=2):
        """A fitted dictionary, and how long the fit took."""
        path = self.folder / f"{name}.joblib"
        if not path.exists():
            dictionary = SparseAutoencoderDictionary(
                n_components,
                architecture=architecture,
                n_nonzero_coefs=k,
                max_iter=max_iter,
                batch_size=4096,
                sparse_output=True,
                random_state=seed,
            )
            start = time.perf_counter()
            dictionary.fit(X)
            joblib.dump((dictionary, time.perf_counter() - start), path)
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        return joblib.load(path)

    def of_width(self, n_components, k, seed=0):
        """One of the dictionaries of the grid."""
        name = f"topk_{n_components}_{k}_{seed}"
        return self.dictionary(name, self.activations("train"), n_components, k, seed)[0]

    def second_extractor(self):
        """The second model's neurons; trained once."""
        folder = self.folder / "second_model"
        if not (folder / "training.json").exists():
            program = Path(__file__).with_name("train_one_layer_transformer.py")
            command = [sys.executable, program, "--seed", "1", "--output", folder]
            subprocess.run(command, check=True)
        return ActivationExtractor(str(folder), LAYER, long_documents="window")


def quality(work, dictionary):
    """Sparsity, reconstruction and loss recovered on all held-out tokens."""
    X = work.activations("test")
    codes = dictionary.transform(X)
    error = total = 0.0
    mean = X.astype(np.float64).mean(axis=0)
    for start in range(0, len(X), 2**15):
        rows = X[start : start + 2**15].astype(np.float64)
        error += ((rows - dictionary.inverse_transform(codes[start : start + 2**15])) ** 2).sum()
        total += ((rows - mean) ** 2).sum()
    loss = loss_recovered(
        work.language.model, LAYER, dictionary, work.texts, tokenizer=work.language.tokenizer
    )
    density = np.bincount(codes.indices, minlength=codes.shape[1]) / len(X)
    return {
        "n_components": codes.shape[1],
        "l0": codes.nnz / len(X),
        "explained_variance": 1 - error / total,
        "alive": int((density > 0).sum()),
        "ultralow": int(((density > 0) & (density < 1e-5)).sum()),
        "dense": int((density > 0.1).sum()),
        "n_tokens": len(X),
        **loss,
    }


def large(work, name, n_components, k, max_iter):
    """A dictionary that a quarter of an hour on two cores trains."""
    X = work.activations("train")
    dictionary, seconds = work.dictionary(name, X, n_components, k, max_iter=max_iter)
    return quality(work, dictionary) | {
        "fit_seconds": seconds,
        "n_samples": max_iter * len(X),
        "max_iter": max_iter,
        "k": k,
    }


def point(work, n_components, k):
    """One dictionary of the grid."""
    return quality(work, work.of_width(n_components, k)) | {"k": k}


def grid(work):
    """Loss recovered against width and L0."""
    rows = [work.result(f"grid_{n}_{k}", partial(point, work, n, k)) for n, k in GRID]
    return {"rows": rows}


def labels_of(work):
    tokens = work.extractor.tokens(work.texts)
    return tokens, python_token_labels(work.texts, tokens, documentation=work.is_documentation)


def detectors(work, dictionary, of_next=False):
    """Precision and recall of the best feature for each ground-truth class, and best neuron.

    Of the class of the token itself, or of the one that begins at the next token.
    """
    X = np.asarray(work.activations("test"), dtype=np.float32)
    tokens, labels = labels_of(work)
    if of_next:
        rows, of_tokens = follows(tokens), labels.data
        labels.data = np.zeros_like(of_tokens)
        labels.data[rows - 1] = of_tokens[rows] & ~of_tokens[rows - 1]
    report = feature_report(dictionary.transform(X), labels, neurons=X, min_precision=0.0)
    return {
        "rows": [
            {
                name: [None if np.isnan(x) else x for x in value[k]]
                if name.endswith("by_level")
                else (None if isinstance(value[k], float) and np.isnan(value[k]) else value[k])
                for name, value in report.items()
            }
            for k in range(len(report.label))
        ]
    }


def actions(work, dictionary, classes):
    """Measured ablation against first order, and in context against out of it."""
    pipeline = make_pipeline(work.extractor, dictionary)
    texts = work.texts[: 1 + np.searchsorted(np.cumsum([len(t) for t in work.texts]), 200_000)]
    tokens = work.extractor.tokens(texts)
    labels = python_token_labels(texts, tokens, documentation=work.is_documentation[: len(texts)])
    rng = np.random.default_rng(0)
    density = np.bincount(
        dictionary.transform(work.activations("test")).indices, minlength=dictionary.n_components
    )
    drawn = rng.choice(np.flatnonzero(density > 100), 50, replace=False)
    effects = feature_effects(pipeline, texts, drawn)
    weights = logit_weights(pipeline, drawn, texts=[texts[0][:2000]], path="total").weights
    for effect, of_token in zip(effects, weights, strict=True):
        effect.logit = effect.codes * of_token[tokens.token_id[effect.rows + 1]]
    names = ("ablation", "first_order", "logit")
    pooled = [np.concatenate([effect[name] for effect in effects]) for name in names]
    effects = [effect for effect in effects if len(effect.rows) >= 10]
    agreement = [effect.agreement for effect in effects]
    of_logits = [spearmanr(effect.ablation, effect.logit).statistic for effect in effects]
    of_classes = []
    for row, effect in zip(
        classes, feature_effects(pipeline, texts, [row["feature"] for row in classes]), strict=True
    ):
        inside = labels.data[effect.rows, labels.target_names.index(row["label"])]
        of_classes.append(
            {
                "label": row["label"],
                "feature": row["feature"],
                "n_in": int(inside.sum()),
                "n_out": int((~inside).sum()),
                "in": float(effect.ablation[inside].mean()) if inside.any() else None,
                "out": float(effect.ablation[~inside].mean()) if not inside.all() else None,
            }
        )
    return {
        "n_drawn": len(drawn),
        "n_features": len(agreement),
        "n_tokens": len(tokens.token),
        "median_agreement": np.median(agreement),
        "least_agreement": min(agreement),
        "pooled_agreement": spearmanr(*pooled[:2]).statistic,
        "pooled_pearson": np.corrcoef(*pooled[:2])[0, 1],
        "median_logits": np.median(of_logits),
        "pooled_logits": spearmanr(pooled[0], pooled[2]).statistic,
        "classes": of_classes,
    }


def follows(tokens):
    """The tokens that another of the same window precedes: rows."""
    same = (np.diff(tokens.document) == 0) & (np.diff(tokens.position) == 1)
    return 1 + np.flatnonzero(same)


def context_of(codes, tokens, feature):
    """Token ids `LIFT` times as frequent behind a feature's active tokens as anywhere.

    The most frequent first; those that come at least five times.
    """
    rows = follows(tokens)
    ids = tokens.token_id[rows]
    active = codes[rows - 1][:, [feature]].toarray().ravel() > 0
    everywhere = np.bincount(ids)
    behind = np.bincount(ids[active], minlength=len(everywhere))
    lifted = behind * len(ids) >= LIFT * everywhere * active.sum()
    context = np.flatnonzero(lifted & (behind >= 5))
    return context[np.argsort(-behind[context], kind="stable")]


def share_of(context, tokenizer, text):
    """Fraction of a text's tokens that are of the context."""
    return float(np.isin(tokenizer(text, add_special_tokens=False)["input_ids"], context).mean())


def steering(work, dictionary, predictors):
    """Steering by five features that predict a class, at multiples of their greatest code."""
    pipeline = make_pipeline(work.extractor, dictionary)
    tokenizer = work.language.tokenizer
    codes = dictionary.transform(work.activations("test"))
    tokens = work.extractor.tokens(work.texts)
    found, chosen = [], {}
    for row in predictors:
        if row["label"] not in BLANK:
            chosen.setdefault(row["feature"], row["label"])
    for feature, label in list(chosen.items())[:5]:
        unit = float(codes[:, [feature]].max())
        context = context_of(codes, tokens, feature)
        effect = steering_effect(
            pipeline,
            feature,
            np.array([0, 0.25, 0.5, 1, 2, 4]) * unit,
            partial(share_of, context, tokenizer),
            prompts=["import os\n", "x = 1\n"],
            n_samples=24,
            n_tokens=24,
        )
        examples = [tokenizer.decode([i]) for i in context[:8]]
        found.append(
            {"label": label, "feature": feature, "greatest": unit, "context": examples}
            | {"n_context": len(context)}
            | {key: np.asarray(value).tolist() for key, value in effect.items()}
        )
    return {"rows": found}


def splitting(work, k=20):
    """What features of the narrowest dictionary split into."""
    X = work.activations("test")
    codes = [work.of_width(n, k).transform(X) for n in WIDTHS]
    rows = []
    for threshold in (0.4, 0.7):
        found = feature_splitting(*codes, threshold=threshold)
        for i, (n_children, recall) in enumerate(
            zip(found.n_children, found.activation_recall, strict=True)
        ):
            alive = ~np.isnan(recall)
            rows.append(
                {
                    "threshold": threshold,
                    "parents": WIDTHS[i],
                    "children": WIDTHS[i + 1],
                    "n_parents": int(alive.sum()),
                    "median_children": np.median(n_children[alive]),
                    "several": np.mean(n_children[alive] > 1),
                    "recall": np.median(found.recall[i][alive]),
                    "activation_recall": np.median(recall[alive]),
                    "parents_per_child": found.links[i].nnz / (found.n_active[i + 1] >= 10).sum(),
                }
            )
    return {"rows": rows}


def universality(work, k=20, n_components=2048):
    """Features of two seeds of the dictionary, and of two models, beside neurons and chance."""
    X, of_width = work.activations("test"), work.of_width
    first, other_seed = of_width(n_components, k), of_width(n_components, k, seed=1)
    second = work.second_extractor()
    X_second = work.activations("test", second)
    train_second = work.activations("train", second)
    name = f"second_{n_components}_{k}"
    of_second, _ = work.dictionary(name, train_second, n_components, k)
    codes, codes_second = first.transform(X), of_second.transform(X_second)
    shuffled = np.random.default_rng(0).permutation(len(X))
    neurons = [np.asarray(each, dtype=np.float32) for each in (X, X_second)]
    matches = {
        "seeds, by atoms": match_features(first, other_seed),
        "seeds, by encoders": match_features(first, other_seed, by="encoders"),
        "seeds, by codes": match_features(codes, other_seed.transform(X), by="codes"),
        "models, by codes": match_features(codes, codes_second, by="codes"),
        "neurons of the models": match_features(*neurons, by="codes"),
        "chance (models, shuffled)": match_features(codes, codes_second[shuffled], by="codes"),
    }
    atoms, encoders = matches["seeds, by atoms"], matches["seeds, by encoders"]
    both = (atoms.partner == encoders.partner) & (atoms.similarity >= 0.7)
    both &= encoders.similarity >= 0.7
    display = FeatureMatchDisplay.from_matches(
        {name: match for name, match in matches.items() if "encoders" not in name}
    )
    display.ax_.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    display.figure_.set_size_inches(9.5, 4.5)
    display.figure_.savefig(ROOT / "docs/_static/report_universality.png", dpi=100)
    return {
        "n_tokens": len(X),
        "second_loss": json.loads((work.folder / "second_model" / "training.json").read_text())[
            "held_out_loss"
        ],
        "shared_by_both": float(both.sum() / (atoms.partner >= 0).sum()),
        "rows": [
            {
                "name": name,
                "shared": match.shared_fraction,
                "median": match.median_best_similarity,
                "dead": match.n_dead_a,
            }
            for name, match in matches.items()
        ],
    }


def communities(work, k=20, n_components=2048):
    """Communities of features that are active together."""
    codes = work.of_width(n_components, k).transform(work.activations("test"))
    found = feature_communities(codes, random_state=0)
    sizes = np.bincount(found.groups[found.groups >= 0])
    return {
        "modularity": found.modularity,
        "null": found.null_modularity.mean(),
        "null_spread": found.null_modularity.std(),
        "n_communities": len(sizes),
        "largest": int(sizes.max()),
        "n_edges": found.graph.nnz // 2,
        "n_features": int((found.groups >= 0).sum()),
    }


def interpretation(work, dictionary):
    """Rule-based explanations, scored on held-out windows, beside shuffled ones and neurons."""
    tokens, labels = labels_of(work)
    X = np.asarray(work.activations("test"), dtype=np.float32)
    codes = dictionary.transform(X)
    n_active = np.bincount(codes.indices, minlength=codes.shape[1])
    drawn = np.random.default_rng(0).choice(np.flatnonzero(n_active >= 200), 200, replace=False)
    table = interpret_features(
        codes, drawn, tokens=tokens, token_labels=labels, neurons=X, n_explain=60
    )
    display = InterpretationDisplay.from_interpretation(table)
    display.figure_.savefig(ROOT / "docs/_static/report_interpretation.png", dpi=110)
    rows = []
    for scorer in ("detection", "fuzzing", "intruder"):
        row = {"scorer": scorer}
        for source, key in (
            ("features", scorer),
            ("shuffled", f"{scorer}_shuffled"),
            ("neurons", f"{scorer}_neuron"),
        ):
            values = np.asarray(table.get(key, [np.nan]), dtype=float)
            values = values[~np.isnan(values)]
            mean = values.mean() if len(values) else None
            error = values.std(ddof=1) / len(values) ** 0.5 if len(values) else None
            row |= {source: mean, f"{source}_error": error}
        rows.append(row)
    rules = [text.removeprefix("tokens after ") for text in table.explanation]
    by_label = np.mean([rule.startswith("tokens labelled") for rule in rules])
    return {"n_features": len(drawn), "rows": rows, "by_label": by_label}


def pictures(found):
    """The pictures that need no model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 5, figsize=(17, 5.5), sharex="col", layout="constrained")
    for column, row in zip(axes.T, found["steering"]["rows"], strict=True):
        scaled = row | {"strength": np.array(row["strength"]) / row["greatest"]}
        SteeringDisplay(scaled, name=f"feature {row['feature']}").plot(ax=column)
        column[0].set_title(row["label"])
        column[1].set_xlabel("strength / greatest code")
    figure.savefig(ROOT / "docs/_static/report_steering.png", dpi=90)
    plt.close("all")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--n-components", type=int, default=4096, help="of the first dictionary")
    parser.add_argument("--k", type=int, default=40, help="of the first dictionary")
    parser.add_argument("--max-iter", type=int, default=3, help="of the first dictionary")
    arguments = parser.parse_args()
    work = Work(arguments.work)

    sizes = arguments.n_components, arguments.k, arguments.max_iter
    name = "large_{}_{}_{}".format(*sizes)
    found = {"large": work.result(name, lambda: large(work, name, *sizes)), "grid": grid(work)}
    dictionary = work.of_width(2048, 20)
    found["detectors"] = work.result("detectors", lambda: detectors(work, dictionary))
    found["predictors"] = work.result("predictors", lambda: detectors(work, dictionary, True))
    classes, predictors = (
        sorted(
            (row for row in found[name]["rows"] if row["feature_f1"] is not None),
            key=lambda row: -row["feature_f1"],
        )
        for name in ("detectors", "predictors")
    )
    for name, measure in {
        "actions": lambda: actions(work, dictionary, classes[:12]),
        "steering": lambda: steering(work, dictionary, predictors),
        "splitting": lambda: splitting(work),
        "universality": lambda: universality(work),
        "communities": lambda: communities(work),
        "interpretation": lambda: interpretation(work, dictionary),
    }.items():
        found[name] = work.result(name, measure)
    (ROOT / "docs" / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    found["classes"] = [row for row in classes if row["neuron_f1"] is not None]
    found["n_train"] = len(work.activations("train"))
    found["n_missing"] = len(found["detectors"]["rows"]) - len(found["classes"])
    found["lift"] = LIFT
    found["first_loss"] = json.loads(
        (Path(load_one_layer_transformer().path) / "training.json").read_text()
    )["held_out_loss"]
    found["by_name"] = {row["name"]: row for row in found["universality"]["rows"]}
    found["n_better"] = sum(row["feature_f1"] > row["neuron_f1"] for row in found["classes"])
    found["versions"] = {
        "skdict": skdict.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    pictures(found)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), trim_blocks=True
    )
    page = environment.get_template("report.rst.jinja").render(**found)
    (ROOT / "docs" / "report.rst").write_text(page)
    print("docs/report.rst")


if __name__ == "__main__":
    main()
