"""The ReLU autoencoder."""

from .base import Architecture
from .registry import register


@register("relu")
class ReLU(Architecture):
    """ReLU codes under an L1 penalty ("Towards Monosemanticity", Bricken et al. 2023).

    z = max(0, p), penalty α Σ_j z_j.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> from skdict.decomposition.architectures import ReLU
    >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
    >>> sae = SparseAutoencoderDictionary(16, architecture=ReLU(), random_state=0)
    >>> sae.fit(X).transform(X).shape
    (1000, 16)
    """

    distributed = True

    def penalty(self, pre_activations, values, state, alpha):
        return alpha * values.sum()
