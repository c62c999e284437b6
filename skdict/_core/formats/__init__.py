"""File formats of dictionaries. A new one is one file that registers a `Format`."""

from . import (  # noqa: F401  # they register themselves
    ckkissane,
    dictionary_learning,
    hypothesaes,
    interplm,
    native,
    openai,
    overcomplete,
    saev,
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
