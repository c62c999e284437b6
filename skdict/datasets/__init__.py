"""Data that need no download: planted features, the standard library, a small transformer."""

from ._one_layer import load_one_layer_transformer
from ._python_corpus import load_python_corpus
from ._python_labels import label_python_spans, python_token_labels
from ._superposition import make_superposition

__all__ = [
    "label_python_spans",
    "load_one_layer_transformer",
    "load_python_corpus",
    "make_superposition",
    "python_token_labels",
]
