"""Explanations by rules: features, neurons, other features' explanations, random weights.

    python benchmarks/interpretation.py --picture docs/_static/interpretation.png

Dictionaries of the 512 MLP neurons of the embedded transformer, 100,000 training activations;
features drawn at random are interpreted on held-out files, without a language model; and neurons,
with all their positive activations. Then all of it again with the entries of each of the
transformer's weights shuffled.
"""

import argparse
import copy
import time
import warnings

import numpy as np
import torch
from activations import LAYER, collect, draw

from skdict.datasets import load_one_layer_transformer, python_token_labels
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import InterpretationDisplay, interpret_features

SCORERS = ("detection", "fuzzing", "intruder", "simulation")


def shuffled(model):
    """A copy of a model, with the entries of each matrix in random order."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.data = parameter.data.flatten()[order].reshape(parameter.shape)
    return model


def mean_and_error(scores):
    scores = scores[~np.isnan(scores)]
    return f"{scores.mean():.3f} ± {scores.std() / np.sqrt(len(scores)):.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-components", type=int, default=1024)
    parser.add_argument("--n-nonzero-coefs", type=int, default=20)
    parser.add_argument("--n-train", type=int, default=100_000)
    parser.add_argument("--max-iter", type=int, default=5)
    parser.add_argument("--n-features", type=int, default=200)
    parser.add_argument("--n-explain", type=int, default=100)
    parser.add_argument("--picture")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")

    transformer = load_one_layer_transformer()
    models = {"trained": transformer.model, "shuffled weights": shuffled(transformer.model)}
    train_texts = draw("train")[0]
    texts, is_documentation = (part[:60] for part in draw("test"))
    for name, model in models.items():
        extractor = ActivationExtractor(
            model, LAYER, tokenizer=transformer.tokenizer, long_documents="window"
        )
        dictionary = SparseAutoencoderDictionary(
            arguments.n_components,
            architecture="topk",
            n_nonzero_coefs=arguments.n_nonzero_coefs,
            max_iter=arguments.max_iter,
            sparse_output=True,
            random_state=0,
        ).fit(collect(extractor, train_texts, arguments.n_train))
        X, tokens = extractor.transform(texts), extractor.tokens(texts)
        codes = dictionary.transform(X)
        density = np.bincount(codes.indices, minlength=codes.shape[1]) / len(X)
        alive = np.flatnonzero(density > 1e-4)
        rng = np.random.default_rng(0)
        features = rng.choice(alive, min(arguments.n_features, len(alive)), replace=False)
        neurons = rng.choice(X.shape[1], min(arguments.n_features, X.shape[1]), replace=False)
        labels = python_token_labels(texts, tokens, documentation=is_documentation)
        given = {
            "tokens": tokens,
            "token_labels": labels,
            "scorers": SCORERS,
            "n_explain": arguments.n_explain,
        }
        whole = interpret_features(X, neurons, **given)
        start = time.perf_counter()
        result = interpret_features(codes, np.sort(features), neurons=X, **given)
        seconds = time.perf_counter() - start
        print(
            f"\n{name}: {len(X):,} held-out tokens, {len(alive)} alive, median density "
            f"{np.median(density[alive]):.4f}; {len(features)} features in {seconds:.1f} s, "
            f"{np.isnan(result.detection).sum()} of them and "
            f"{np.isnan(result.detection_neuron).sum()} of the neurons in too few windows"
        )
        for scorer in SCORERS:
            columns = {
                source: result[scorer + source]
                for source in ("", "_shuffled", "_neuron")
                if scorer + source in result
            }
            columns["whole neurons"] = whole[scorer]
            print(
                f"{scorer:12}", *(f"{k or 'own'} {mean_and_error(v)}" for k, v in columns.items())
            )
        by_label = np.char.startswith(result.explanation.astype(str), "tokens labelled")
        print(f"{by_label.sum()} explained by a label; the best in detection and fuzzing:")
        for i in np.argsort(-np.nan_to_num(result.detection + result.fuzzing))[:10]:
            print(
                f"{result.feature[i]:6d} {result.detection[i]:.2f} {result.fuzzing[i]:.2f} ",
                end="",
            )
            print(result.explanation[i])
        if arguments.picture and name == "trained":
            display = InterpretationDisplay.from_interpretation(result)
            display.ax_.set_title(f"{len(features)} features explained by rules, held-out files")
            display.figure_.savefig(arguments.picture, dpi=110)


if __name__ == "__main__":
    main()
