"""The scale of the L1 coefficient."""

from numbers import Integral

import numpy as np
import torch

from .._core.data.source import Source
from .._core.torch_state import plain_torch
from ..utils._arrays import check_activations
from ..utils._sklearn_compat import Interval, validate_params
from ..utils._warnings import warn

# alpha="auto" is this fraction of the data's centred RMS norm. About right on planted data (64
# dimensions, 256 atoms) and on the 512 neurons of a one-layer transformer alike.
ALPHA_FRACTION = 0.1


def location_and_scale(source):
    """Mean of the rows and their centred RMS norm, massive rows left out.

    Parameters
    ----------
    source : Source

    Returns
    -------
    mean : tensor of shape (n_features,), in the dtype of the source
    rms : float
        sqrt(E‖x - E x‖²).

    Raises
    ------
    ValueError
        As `Source.statistics`.

    Warns
    -----
    UserWarning
        If a few rows would decide the scale of all. If what differs between the rows is in the
        last digits of their dtype.
    """
    statistics = source.statistics(massive=False)
    for message in statistics.warnings:
        warn(message)
    return statistics.mean.to(source.dtype), statistics.rms


def variation(source):
    """Centred RMS norm of all rows; errors and warnings as those of `location_and_scale`."""
    statistics = source.statistics()
    for message in statistics.warnings:
        warn(message)
    return statistics.rms


@validate_params(
    {"n_alphas": [Interval(Integral, 2, None, closed="left")]}, prefer_skip_nested_validation=True
)
@plain_torch()
def alpha_grid(X, n_alphas=8):
    """Grid of L1 coefficients that suits the scale of X.

    Geometric, from an eighth to eight times what ``alpha="auto"`` uses, which is
    0.1 · sqrt(E‖x - E x‖²): from dense codes to almost empty ones. As there, a few rows whose
    norm is far above that of all others do not count.

    Parameters
    ----------
    X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        Activations, in the units that the estimator will see.
    n_alphas : int, default=8
        Number of values, at least 2.

    Returns
    -------
    alphas : ndarray of shape (n_alphas,), float64
        Increasing, in the units of X.

    Raises
    ------
    ValueError
        If ``n_alphas`` is smaller than 2, or X is constant, empty, not finite, or of a scale at
        which its dtype cannot be computed with.

    Examples
    --------
    >>> import numpy as np
    >>> from skdict.decomposition import alpha_grid
    >>> X = np.random.default_rng(0).normal(size=(1000, 100))
    >>> alpha_grid(X, n_alphas=3).round(2)
    array([0.12, 1.  , 8.  ])
    """
    X = check_activations(None, X, min_samples=2, check_finite=False)
    _, rms = location_and_scale(Source(X, torch.device("cpu")))
    return ALPHA_FRACTION * rms * np.geomspace(1 / 8, 8, n_alphas)
