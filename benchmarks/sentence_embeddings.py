"""Rows of a sentence-embedding model, and what its dictionaries are worth to a classifier.

    python benchmarks/sentence_embeddings.py MODEL LAYER FOLDER FOLDER

MODEL is a folder of a model that pools by the mean, LAYER its last block. Each FOLDER holds texts
of one class, of which the first 150 count, each with its last 800 characters. Printed are the
greatest differences of `pooling="mean"` from the formula of sentence-transformers, and accuracies
in five shuffled folds of a logistic regression on the embeddings, and on the codes of dictionaries
of the embeddings, which are fitted to the training texts only.
"""

import sys
import time
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from skdict import ActivationExtractor, SparseAutoencoderDictionary


def read(folder):
    paths = sorted(path for path in Path(folder).iterdir() if path.is_file())[:150]
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in paths)
    return [text[-800:] for text in texts if text.strip()]


def by_hand(extractor, texts):
    """Mean over all tokens of the attention mask, text by text."""
    model, tokenizer = (extractor.load()[name] for name in ("model", "tokenizer"))
    model = getattr(model, model.base_model_prefix, model)
    rows = []
    for text in texts:
        encoded = tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
        with torch.no_grad():
            states = model(**encoded).last_hidden_state
        mask = encoded.attention_mask[:, :, None]
        rows.append((mask * states).sum(dim=1) / mask.sum(dim=1))
    return torch.cat(rows).numpy()


def main(model, layer, *folders):
    classes = [read(folder) for folder in folders]
    texts = [text for of_class in classes for text in of_class]
    labels = [i for i, of_class in enumerate(classes) for _ in of_class]
    pooled = ActivationExtractor(model, layer, pooling="mean")
    few = texts[:50]
    expected = by_hand(pooled, few)
    without = abs(pooled.transform(few) - expected).max()
    pooled.set_params(include_special_tokens=True)
    with_special = abs(pooled.transform(few) - expected).max()
    print(f"greatest entry {abs(expected).max():.2f}; greatest difference of the mean without")
    print(f"special tokens {without:.3f}, with them {with_special:.1e}")

    embeddings = pooled.transform(texts)
    print(f"{len(texts)} texts")

    def dictionary(n_components, k):
        return SparseAutoencoderDictionary(
            n_components, architecture="topk", n_nonzero_coefs=k, random_state=0
        )

    classifier = LogisticRegression(max_iter=2000)
    rows = {
        "embeddings": (make_pipeline(StandardScaler(), classifier), embeddings),
        **{
            f"dictionary of embeddings, {n} atoms, k = {k}": (
                make_pipeline(dictionary(n, k), MaxAbsScaler(), classifier),
                embeddings,
            )
            for n, k in ((32, 4), (128, 8))
        },
    }
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    for name, (estimator, X) in rows.items():
        start = time.perf_counter()
        accuracy = cross_val_score(estimator, X, labels, cv=folds)
        seconds = time.perf_counter() - start
        print(f"{name:<60} {accuracy.mean():.3f} ± {accuracy.std():.3f} {seconds:6.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
