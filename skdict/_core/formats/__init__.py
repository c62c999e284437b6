"""File formats of dictionaries. A new one is one file that registers a `Format`."""

from . import (  # noqa: F401  # they register themselves
    circuit_tracer,
    ckkissane,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    hypothesaes,
    interplm,
    llama_scope,
    llamascopium,
    native,
    openai,
    overcomplete,
    qwen_scope,
    sae_lens,
    saev,
    sentence_transformers,
    sof_crosscoder,
    sparsify,
)
from .base import FORMATS, Format, Record, Request, register
from .files import Files
from .tensors import FormatError
from .weights import Weights

__all__ = [
    "FORMATS",
    "Files",
    "Format",
    "FormatError",
    "Record",
    "Request",
    "Weights",
    "register",
]
