"""The architectures of the sparse autoencoder, one file each."""

from .abs_topk import AbsTopK
from .base import Architecture, SparsityGrid
from .batch_topk import BatchTopK
from .gated import Gated
from .group_max import GroupMax
from .jumprelu import JumpReLU
from .matryoshka import Matryoshka
from .registry import ARCHITECTURES, make_architecture, register
from .relu import ReLU
from .topk import TopK

__all__ = [
    "ARCHITECTURES",
    "AbsTopK",
    "Architecture",
    "BatchTopK",
    "Gated",
    "GroupMax",
    "JumpReLU",
    "Matryoshka",
    "ReLU",
    "SparsityGrid",
    "TopK",
    "make_architecture",
    "register",
]
