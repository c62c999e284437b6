"""The scale of the L1 coefficient."""

import math
from numbers import Integral

import numpy as np
import torch

from .._core.tensors import ROUNDINGS, away_from
from .._core.torch_state import plain_torch
from ..utils._arrays import Rows, check_activations
from ..utils._sklearn_compat import Interval, validate_params
from ..utils._warnings import warn

# alpha="auto" is this fraction of the data's centred RMS norm. About right on planted data (64
# dimensions, 256 atoms) and on the 512 neurons of a one-layer transformer alike.
ALPHA_FRACTION = 0.1

# Rows are massive whose norm is so many times that of nine tenths of the rows, if such rows have
# more than half of the sum of squares. Those of the first tokens of language models are.
MASSIVE = 16
# So many rows are enough to know where most rows are.
N_CENTRE_ROWS = 1001
# Digits of the data are too few if their rounding is more than this fraction of the RMS norm.
MAX_ROUNDING = 0.05


def location_and_scale(rows, *, name="X"):
    """Mean of the rows and their centred RMS norm, accumulated in float64, massive rows left out.

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
        If the rows do not differ: a constant has no dictionary. If their scale is one at which
        their dtype cannot be computed with.

    Warns
    -----
    UserWarning
        If a few rows would decide the scale of all. If what differs between the rows is in the
        last digits of their dtype.
    """
    mean, squares, rms = _moments(rows, name)
    massive = _massive(rows, squares)
    if massive is not None:
        largest = math.sqrt(float(squares[massive].max()))
        mean, _, rms = _moments(rows.take((~massive).nonzero()[:, 0]), name)
        warn(
            f"{int(massive.sum())} of the {len(rows)} samples of {name} are massive, with a norm "
            f"of up to {largest:.3g} about the mean, where that of the others is {rms:.3g}. They "
            "do not count for mean and scale, and so for alpha='auto', but are learned from. If "
            "they are not of interest, as those of first tokens or padding, leave them out."
        )
    return mean.to(rows.dtype), rms


def variation(rows, *, name="X"):
    """Centred RMS norm of all rows; errors and warnings as those of `location_and_scale`."""
    return _moments(rows, name)[2]


def _moments(rows, name):
    """Mean, float64, squared norms about it (n_rows,), and the root of their mean; checked."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for _, x in rows.blocks():
        total += x.sum(dim=0, dtype=torch.float64)
    mean = total / len(rows)
    sum_of_squares, squares = 0.0, torch.empty(len(rows), dtype=torch.float64, device="cpu")
    for block, x in rows.blocks():
        of_entries = (x - mean).square_()
        sum_of_squares += float(of_entries.sum())
        squares[block] = of_entries.sum(dim=1).cpu()
    rms = (sum_of_squares / len(rows)) ** 0.5
    _check_digits(rows, mean, rms, name)
    _check_range(rows, squares, rms, name)
    return mean, squares, rms


def _check_digits(rows, mean, rms, name):
    """Raise if the rows are equal, and warn if they nearly are, in the digits of their dtype."""
    eps = torch.finfo(rows.dtype).eps
    norm = float(torch.linalg.vector_norm(mean))
    if rms > 10 * eps * norm / MAX_ROUNDING:
        return
    least, most = rows[:1][0], rows[:1][0]
    for _, x in rows.blocks():
        least, most = torch.minimum(least, x.amin(dim=0)), torch.maximum(most, x.amax(dim=0))
    rounding = eps * torch.maximum(least.abs(), most.abs()).double()
    varying = most.double() - least > ROUNDINGS * rounding
    if not varying.any():
        raise ValueError(
            f"{name} has zero variance: all {len(rows)} samples are equal (norm {norm:.3g}). A "
            "dictionary needs samples that differ."
        )
    rounding = float(torch.linalg.vector_norm(rounding[varying]))
    if rounding > MAX_ROUNDING * rms > 0:
        warn(
            f"{name} is so far from the origin that {rows.dtype} hardly tells its samples apart: "
            f"they differ by {rms:.3g}, and the last digit of theirs is {rounding:.3g}. Subtract "
            f"the mean before {name} is rounded to that dtype."
        )


def _check_range(rows, squares, rms, name):
    """Raise unless samples in their dtype, and their squares in float64, can be computed with."""
    info, double = torch.finfo(rows.dtype), torch.finfo(torch.float64)
    least = max(info.tiny / info.eps, (double.tiny / double.eps) ** 0.5) * rows.shape[1] ** 0.5
    most = min(1e-3 * info.max, 1e-4 * double.max**0.5)
    largest = float(squares.max()) ** 0.5
    if least < rms and largest < most:
        return
    how = "large" if largest >= most or not math.isfinite(rms) else "small"
    raise ValueError(
        f"{name} is too {how} to compute with in {rows.dtype}: the norms of its samples about the "
        f"mean are {rms:.3g} in RMS and at most {largest:.3g}, and should be between {least:.0e} "
        f"and {most:.0e}. Multiply {name} by a constant."
    )


def _massive(rows, squares):
    """The rows (n_rows,), bool, whose norm would decide the scale of all, or None."""
    n_most = len(rows) // 10
    if n_most == 0 or squares.topk(n_most).values.sum() <= squares.sum() / 2:
        return None
    # the mean may be theirs too: norms about where most rows are
    step = math.ceil(len(rows) / N_CENTRE_ROWS)
    centre = rows[torch.arange(0, len(rows), step, device="cpu")].cpu().median(dim=0).values
    for block, x in rows.blocks():
        squares[block] = (x.cpu().double() - centre).square_().sum(dim=1)
    of_others = squares.kthvalue(len(rows) - n_most).values
    massive = squares > MASSIVE**2 * of_others
    if squares[massive].sum() <= squares.sum() / 2:
        return None
    others_differ = any(
        away_from(x.cpu()[~massive[block]], centre).any() for block, x in rows.blocks()
    )
    return massive if others_differ else None


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
    X = check_activations(None, X, min_samples=2)
    _, rms = location_and_scale(Rows(X, torch.device("cpu")))
    return ALPHA_FRACTION * rms * np.geomspace(1 / 8, 8, n_alphas)
