"""Estimators that learn dictionaries."""

from ._alpha import alpha_grid
from ._sparse_autoencoder import SparseAutoencoderDictionary

__all__ = ["SparseAutoencoderDictionary", "alpha_grid"]
