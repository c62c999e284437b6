"""Architectures of the sparse autoencoder, and where to register more.

Each can be given to :class:`~skdict.decomposition.SparseAutoencoderDictionary` by its name,
``architecture="batch_topk"``, or as an instance with hyper-parameters of its own,
``architecture=BatchTopK(k=32, rate=0.05)``.
"""

from .._core.models.architectures import (
    AbsTopK,
    Architecture,
    BatchTopK,
    Gated,
    GroupMax,
    JumpReLU,
    Matryoshka,
    ReLU,
    SparsityGrid,
    TopK,
    register,
)

__all__ = [
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
    "register",
]

for _name in __all__:
    globals()[_name].__module__ = __name__  # what pickles name, wherever the code may move
