"""The ReLU autoencoder."""

from .base import Architecture
from .registry import register


@register("relu")
class ReLU(Architecture):
    """ReLU codes under an L1 penalty ("Towards Monosemanticity", Bricken et al. 2023).

    z = max(0, p), penalty α Σ_j z_j.
    """

    def penalty(self, pre_activations, values, state, alpha):
        return alpha * values.sum()
