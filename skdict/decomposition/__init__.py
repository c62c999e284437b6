"""Estimators that learn dictionaries."""

from ._alpha import alpha_grid
from ._sparse_autoencoder import SparseAutoencoderDictionary
from ._sparse_autoencoder_cv import SparseAutoencoderDictionaryCV
from ._sparse_coding import sparse_encode

__all__ = [
    "SparseAutoencoderDictionary",
    "SparseAutoencoderDictionaryCV",
    "alpha_grid",
    "sparse_encode",
]
