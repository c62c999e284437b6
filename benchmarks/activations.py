"""Activations of the embedded transformer's 512 neurons, for the other benchmarks."""

import numpy as np

from skdict.datasets import load_one_layer_transformer, load_python_corpus
from skdict.decomposition._alpha import ALPHA_FRACTION
from skdict.feature_extraction import ActivationExtractor

LAYER = "transformer.h.0.mlp.act"


def load_extractor():
    """The transformer's bunch, and an extractor of its neurons."""
    transformer = load_one_layer_transformer()
    return transformer, ActivationExtractor(
        transformer.model, LAYER, tokenizer=transformer.tokenizer, long_documents="window"
    )


def draw(subset, seed=0):
    """All documents of the corpus in random order, with which of them are prose."""
    corpus = load_python_corpus(subset=subset)
    order = np.random.default_rng(seed).permutation(len(corpus.data))
    return [corpus.data[i] for i in order], corpus.target[order] == 1


def collect(extractor, texts, n_tokens=None, dtype=np.float32):
    """Activations (n_tokens, 512) of the leading texts; of all without ``n_tokens``."""
    parts, total = [], 0
    for start in range(0, len(texts), 20):
        parts.append(extractor.transform(texts[start : start + 20]).astype(dtype, copy=False))
        total += len(parts[-1])
        if n_tokens and total >= n_tokens:
            break
    return np.concatenate(parts)[: n_tokens or None]


def collect_splits(extractor, n_train, n_test):
    """Activations of training files and of held-out ones, each in the order of `draw`."""
    return tuple(
        collect(extractor, draw(subset)[0], n_tokens)
        for subset, n_tokens in (("train", n_train), ("test", n_test))
    )


def auto_alpha(X):
    """What alpha="auto" takes for activations X (n_samples, n_features)."""
    return float(ALPHA_FRACTION * np.sqrt(((X - X.mean(axis=0)) ** 2).sum(axis=1).mean()))
