"""Nested dictionaries."""

from itertools import pairwise

import torch

from ...distributed.gradients import error_of_sum
from ...kernels import decode, half_squared_error
from ...parameters import is_number
from .batch_topk import BatchTopK
from .registry import register
from .relu import ReLU


@register("matryoshka")
class Matryoshka(BatchTopK):
    """Nested dictionaries over `BatchTopK` (Bussmann et al. 2025).

    The squared error is the mean over prefixes of the dictionary, each of which has to
    reconstruct x by itself.

    The first half of a fit from scratch trains a `ReLU` with ``alpha`` and the same error.

    Parameters
    ----------
    k : int, default=None
        Mean number of non-zero entries of a code. None takes the estimator's
        ``n_nonzero_coefs``, or else a tenth of the columns of X.
    prefixes : tuple of float, default=(0.0625, 0.25, 1.0)
        Sizes of the prefixes, as fractions of the number of atoms, in increasing order. The last
        is 1, the whole dictionary.
    rate : float, default=0.1
        As in `BatchTopK`.
    margin : float, default=0.9
        As in `BatchTopK`.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> from skdict.decomposition.architectures import Matryoshka
    >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
    >>> architecture = Matryoshka(k=3, prefixes=(0.5, 1.0))
    >>> sae = SparseAutoencoderDictionary(16, architecture=architecture, random_state=0)
    >>> sae.fit(X).transform(X).shape
    (1000, 16)
    """

    def __init__(self, k=None, *, prefixes=(0.0625, 0.25, 1.0), rate=0.1, margin=0.9):
        super().__init__(k, rate=rate, margin=margin)
        self.prefixes = prefixes

    def validate(self):
        super().validate()
        prefixes = self.prefixes
        is_met = (
            isinstance(prefixes, tuple | list)
            and len(prefixes) > 0
            and all(map(is_number, prefixes))
            and prefixes[0] > 0
            and all(one < other for one, other in pairwise(prefixes))
            and prefixes[-1] == 1
        )
        self.require("prefixes", is_met, "a tuple of increasing floats above 0 that ends with 1")

    def first_variant(self):
        return _NestedReLU(self.prefixes)

    def error(self, values, target):
        return nested_error(values, target, self.prefixes)


class _NestedReLU(ReLU):
    """What `Matryoshka` begins as."""

    def __init__(self, prefixes):
        self.prefixes = prefixes

    def error(self, values, target):
        return nested_error(values, target, self.prefixes)


def nested_error(values, target, prefixes):
    """Mean over prefixes of the dictionary of the halved squared error; residual of the whole."""
    centred, support, dictionary, intercept, strategy = target
    ends = prefix_ends(prefixes, strategy.n_components or len(dictionary))
    ends = [min(max(end - strategy.start, 0), len(dictionary)) for end in ends]  # of these atoms
    if support is None:
        starts = [0, *ends[:-1]]
        decoded = torch.stack(
            [
                values[:, start:end] @ dictionary[start:end]
                for start, end in zip(starts, ends, strict=True)
            ],
            dim=1,
        )  # (B, n_prefixes, n_features)
    else:
        groups = support.in_groups(ends)
        decoded = decode(values, groups, dictionary).view(
            len(centred), len(ends), dictionary.shape[1]
        )
    decoded = decoded.cumsum(dim=1)
    if strategy.shards_atoms:
        features = strategy.features
        error, residuals = error_of_sum(decoded, centred[:, None], intercept, features)
    else:
        error, residuals = half_squared_error(centred[:, None], intercept, decoded)
    return error / len(ends), residuals[:, -1]


def prefix_ends(prefixes, n_components):
    """Where the prefixes of a dictionary end, as counts of atoms."""
    return [max(1, round(prefix * n_components)) for prefix in prefixes]
