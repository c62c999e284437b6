"""Estimators that learn dictionaries."""

from ._alpha import alpha_grid
from ._sparse_autoencoder import SparseAutoencoderDictionary
from ._sparse_autoencoder_cv import SparseAutoencoderDictionaryCV

__all__ = ["SparseAutoencoderDictionary", "SparseAutoencoderDictionaryCV", "alpha_grid"]
