"""The largest of each of k groups."""

from .largest import Largest
from .registry import register
from .relu import ReLU


@register("group_max")
class GroupMax(Largest):
    """The largest pre-activation of each of k groups of features, if it is positive.

    The groups are contiguous: features 0 to n_components / k - 1 are the first. No penalty. There
    is nothing to sort, at the price that features of a group cannot be active together. The first
    half of a fit from scratch trains a `ReLU`, as with `TopK`.

    Parameters
    ----------
    k : int, default=None
        Number of groups, whose sizes differ by one at most. None takes the estimator's
        ``n_nonzero_coefs``, or else a tenth of the columns of X.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> from skdict.decomposition.architectures import GroupMax
    >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
    >>> sae = SparseAutoencoderDictionary(16, architecture=GroupMax(k=4), random_state=0)
    >>> codes = sae.fit(X).transform(X).reshape(1000, 4, 4)  # (rows, groups, features of one)
    >>> int((codes > 0).sum(axis=2).max())
    1
    """

    first_variant_until = 0.5
    selection = "groups"

    def first_variant(self):
        return ReLU()
