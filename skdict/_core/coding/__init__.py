"""Ways to find codes in a given dictionary. A new one is one file that registers a `Coder`."""

from . import threshold  # noqa: F401  # registers itself
from .base import CODERS, Coder, register
from .codebook import Codebook
from .codes import SparseCodes
from .encoder import Encoder

__all__ = ["CODERS", "Codebook", "Coder", "Encoder", "SparseCodes", "register"]
