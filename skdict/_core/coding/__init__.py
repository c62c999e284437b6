"""Ways to find codes in a given dictionary. A new one is one file that registers a `Coder`."""

from . import lasso, omp, threshold  # noqa: F401  # they register themselves
from .base import CODERS, Coder, register
from .codebook import Codebook
from .codes import SparseCodes
from .encoder import Encoder

__all__ = ["CODERS", "Codebook", "Coder", "Encoder", "SparseCodes", "register"]
