"""The scale of the L1 coefficient."""

import numpy as np
import torch

from ..utils._arrays import Rows, check_activations
from ..utils._sklearn_compat import python_numbers
from ..utils._torch_state import plain_torch

# alpha="auto" is this fraction of the data's centred RMS norm. About right on planted data (64
# dimensions, 256 atoms) and on the 512 neurons of a one-layer transformer alike.
ALPHA_FRACTION = 0.1


def location_and_scale(rows, *, name="X"):
    """Mean of the rows and their centred RMS norm, accumulated in float64.

    Parameters
    ----------
    rows : Rows

    Returns
    -------
    mean : tensor of shape (n_features,), in the dtype of the rows
    rms : float
        sqrt(E‖x - E x‖²).

    Raises
    ------
    ValueError
        If the rows do not differ: a constant has no dictionary.
    """
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for _, x in rows.blocks():
        total += x.sum(dim=0, dtype=torch.float64)
    mean = total / len(rows)
    squares = 0.0
    for _, x in rows.blocks():
        squares += float((x - mean).square_().sum())
    rms = (squares / len(rows)) ** 0.5
    rounding = 10 * torch.finfo(rows.dtype).eps * float(torch.linalg.vector_norm(mean))
    if rms <= rounding:
        raise ValueError(
            f"{name} has zero variance: all {len(rows)} samples are equal (norm "
            f"{float(torch.linalg.vector_norm(mean)):.3g}). A dictionary needs samples that "
            "differ."
        )
    return mean.to(rows.dtype), rms


@python_numbers
@plain_torch()
def alpha_grid(X, n_alphas=8):
    """Grid of L1 coefficients that suits the scale of X.

    Geometric, from an eighth to eight times what ``alpha="auto"`` uses, which is
    0.1 · sqrt(E‖x - E x‖²): from dense codes to almost empty ones.

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
        If ``n_alphas`` is smaller than 2, or X is constant, empty or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from skdict.decomposition import alpha_grid
    >>> X = np.random.default_rng(0).normal(size=(1000, 100))
    >>> alpha_grid(X, n_alphas=3).round(2)
    array([0.12, 1.  , 8.  ])
    """
    if not isinstance(n_alphas, int) or n_alphas < 2:
        raise ValueError(f"n_alphas={n_alphas!r}: give an integer of at least 2.")
    X = check_activations(None, X, min_samples=2)
    _, rms = location_and_scale(Rows(X, torch.device("cpu")))
    return ALPHA_FRACTION * rms * np.geomspace(1 / 8, 8, n_alphas)
