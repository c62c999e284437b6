"""Validate arrays as the input of a model that does not take texts."""

import numpy as np
import scipy.sparse as sp
from sklearn.utils.validation import validate_data

from .._core.data.finite import check_entries_finite
from .._core.language.samples import Samples
from ..utils._arrays import as_matrix, to_ndarray


def check_samples(estimator, X, network, *, reset):
    """Validate an array for the model.

    Parameters
    ----------
    estimator : ActivationExtractor
        Its `n_features_in_` is set if `reset` is true, and compared with otherwise.

    X : array-like or torch.Tensor of shape (n_samples, ...)

    network : Network

    reset : bool

    Returns
    -------
    samples : Samples
    """
    samples = as_matrix(X, "X", estimator=estimator, allow_nd=True)
    if sp.issparse(samples):
        raise TypeError("X is a sparse matrix, but models take dense arrays. Use X.toarray().")
    samples = to_ndarray(samples)
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    if samples.dtype.kind in "biu" and network.takes_token_ids:
        samples = samples.astype(np.int64, copy=False)
    elif samples.dtype not in (np.float32, np.float64):
        samples = samples.astype(np.float32)
    check_entries_finite(samples, "X")
    return Samples(samples)
