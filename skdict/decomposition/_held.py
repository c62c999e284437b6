"""Autoencoders that are trained with a part of them held at random: the controls of a fit."""

from .._core.solvers.holding import HELD
from ..utils._sklearn_compat import StrOptions
from ._sparse_autoencoder import SparseAutoencoderDictionary


class HeldAutoencoder(SparseAutoencoderDictionary):
    """An autoencoder whose ``hold`` is not trained; `Holding` says how."""

    hold = None
    # read by `params_of`; it is no parameter, as a user has no use for another value
    _parameter_constraints: dict = {
        **SparseAutoencoderDictionary._parameter_constraints,
        "hold": [StrOptions(set(HELD))],
    }


class FrozenDecoder(HeldAutoencoder):
    """The atoms stay at random."""

    hold = "decoder"


class SoftFrozenDecoder(HeldAutoencoder):
    """The atoms keep a cosine of 0.8 with random ones."""

    hold = "soft_decoder"


class FrozenEncoder(HeldAutoencoder):
    """The directions of the encoder stay at random."""

    hold = "encoder"
