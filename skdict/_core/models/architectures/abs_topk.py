"""The k largest of each sample by absolute value, with their sign."""

import torch

from ...coding.selection import largest_absolute
from .base import Architecture
from .registry import register


@register("abs_topk")
class AbsTopK(Architecture):
    """The k pre-activations of largest absolute value of each sample, with their sign.

    z = p where its absolute value is among the k largest, else 0; no penalty. An atom then stands
    for two opposite features. Its products are dense, so that a step takes as long as that of a
    dense autoencoder.

    Parameters
    ----------
    k : int, default=None
        Number of non-zero entries of a code. None takes the estimator's ``n_nonzero_coefs``, or
        else a tenth of the columns of X.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> from skdict.decomposition.architectures import AbsTopK
    >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
    >>> sae = SparseAutoencoderDictionary(16, architecture=AbsTopK(k=3), random_state=0)
    >>> bool((sae.fit(X).transform(X) < 0).any())
    True
    """

    selection = "absolute"

    def __init__(self, k=None):
        self.k = k

    def validate(self):
        self._require_k()

    @property
    def n_largest(self):
        return self.k

    def select(self, scan, state, n_rows):
        return scan(k=self.k, selection=self.selection)

    def values(self, pre_activations, state, n_rows):
        if pre_activations.dim() == 1:  # a support holds only the largest
            return pre_activations
        kept = largest_absolute(pre_activations.detach(), None, self.k) != 0
        return torch.where(kept, pre_activations, 0)
