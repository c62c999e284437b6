"""Estimators that learn dictionaries."""

from .._core.coding import SparseCodes
from .._core.dictionary import Dictionary
from . import architectures
from ._alpha import alpha_grid
from ._amortisation import AmortisationGapDisplay, amortisation_gap
from ._code_shards import CodeShards
from ._comparison import compare_dictionaries
from ._controls import sanity_controls
from ._cost import estimate_fit
from ._fit_many import fit_many
from ._sparse_autoencoder import SparseAutoencoderDictionary
from ._sparse_autoencoder_cv import SparseAutoencoderDictionaryCV
from ._sparse_coding import sparse_encode

__all__ = [
    "AmortisationGapDisplay",
    "CodeShards",
    "Dictionary",
    "SparseAutoencoderDictionary",
    "SparseAutoencoderDictionaryCV",
    "SparseCodes",
    "alpha_grid",
    "amortisation_gap",
    "architectures",
    "compare_dictionaries",
    "estimate_fit",
    "fit_many",
    "sanity_controls",
    "sparse_encode",
]

for _kind in (
    CodeShards,
    Dictionary,
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    SparseCodes,
):
    _kind.__module__ = __name__  # what pickles name
