"""The k largest of each sample."""

import torch

from .base import keep_largest
from .largest import Largest
from .registry import register
from .relu import ReLU


@register("topk")
class TopK(Largest):
    """The k largest pre-activations of each sample (Makhzani and Frey 2013; Gao et al. 2024).

    z = max(0, TopK(p)), no penalty.

    The first half of a fit from scratch trains a `ReLU` with ``alpha``, where every feature that
    fires gets a gradient: one that is never among the k largest gets none, and dies.

    Parameters
    ----------
    k : int, default=None
        Largest number of non-zero entries of a code. None takes the estimator's
        ``n_nonzero_coefs``, or else a tenth of the columns of X.
    nonnegative : bool, default=True
        Whether only positive entries are kept. Without it z = TopK(p), as some libraries have it:
        a sample with fewer than k positive pre-activations gets negative entries. Its products
        are dense.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> from skdict.decomposition.architectures import TopK
    >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
    >>> sae = SparseAutoencoderDictionary(16, architecture=TopK(k=3), random_state=0)
    >>> sae.fit(X).transform(X).shape
    (1000, 16)
    """

    first_variant_until = 0.5

    def __init__(self, k=None, *, nonnegative=True):
        super().__init__(k)
        self.nonnegative = nonnegative

    def validate(self):
        super().validate()
        self.require("nonnegative", isinstance(self.nonnegative, bool), "a bool")

    @property
    def selection(self):
        return "positive" if self.nonnegative else "signed"

    def first_variant(self):
        return ReLU()

    def values(self, pre_activations, state, n_rows):
        if not self.nonnegative:
            return super().values(pre_activations, state, n_rows)
        if pre_activations.dim() == 2:  # dense; a support holds only the largest
            return keep_largest(pre_activations, self.k)
        return torch.relu(pre_activations)
