"""The k largest of each sample by absolute value, with their sign."""

from .largest import Largest
from .registry import register


@register("abs_topk")
class AbsTopK(Largest):
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
