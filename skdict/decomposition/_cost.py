"""How long a fit will take and how much memory, before it is begun."""

import math
import time
from numbers import Integral
from types import SimpleNamespace

import torch
from sklearn.base import clone
from sklearn.utils import Bunch

from .._core.data.source import BLOCK_BYTES, Source
from .._core.device import resolve_device
from .._core.solvers import SOLVERS
from .._core.torch_state import plain_torch
from .._core.training.loop import TrainingLoop
from ..utils._arrays import check_activations
from ..utils._random import check_random_state
from ..utils._sklearn_compat import Interval, validate_params
from ._alpha import location_and_scale
from ._fitting import (
    alpha_of,
    batch_size_for,
    n_components_for,
    number_held_out,
    params_of,
    start,
    threads,
)
from ._sparse_autoencoder import SparseAutoencoderDictionary

# The short run: one epoch that is not timed, as it compiles and warms up, and the timed ones.
N_STEPS, N_TIMED = 8, 2
# Blocks of rows that exist at a time, in several copies and dtypes.
N_BLOCKS = 5


@validate_params(
    {"n_samples": [None, Interval(Integral, 2, None, closed="left")]},
    prefer_skip_nested_validation=True,
)
@plain_torch()
def estimate_fit(estimator, X, *, n_samples=None):
    r"""Estimate the time and the memory that a fit takes, from a few steps on this machine.

    Eight steps of the real size warm up, 16 are timed. With t seconds for one of them, r seconds
    to read all rows for mean and scale and i seconds for the initial atoms, a fit of S steps takes
    :math:`r + i + S t`. Resampling of dead features and the look at the end are not counted:
    of one pass the estimate was a sixth to two fifths too low
    (:doc:`/user_guide/time_and_memory`). Where codes become sparser, later steps take less. The
    memory is computed from the sizes.

    Parameters
    ----------
    estimator : SparseAutoencoderDictionary
        It is not changed. Its solver has to learn in steps: "autoencoder" or "alternating".
    X : array-like, sparse matrix or torch.Tensor of shape (n_rows, n_features)
        Some rows of the data. Eight batches of them are used, repeated where there are fewer.
        Random numbers would have other codes than the data, and take another time.
    n_samples : int, default=None
        Number of rows of the real fit; None takes those of X.

    Returns
    -------
    estimate : `~sklearn.utils.Bunch`
        - seconds : float, of `fit` with all passes
        - seconds_per_step : float
        - n_steps : int
        - batch_size : int, the most samples of a step: no more than there are
        - n_components : int; of either "auto" means what `fit` would choose
        - memory : int, bytes at the peak, beside those of X

    Raises
    ------
    TypeError
        If `estimator` is of another class.
    ValueError
        If the solver does not learn in steps. As `fit`, if parameters or X are not valid.

    See Also
    --------
    SparseAutoencoderDictionary : With ``verbose=1`` `fit` says how much time is left.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary, estimate_fit
    >>> X = make_superposition(n_samples=2000, n_features=16, n_components=32, random_state=0)[0]
    >>> sae = SparseAutoencoderDictionary(64, max_iter=10, random_state=0)
    >>> estimate = estimate_fit(sae, X, n_samples=1_000_000)
    >>> estimate.n_steps, estimate.batch_size
    (9770, 1024)
    >>> 0 < estimate.seconds_per_step < estimate.seconds
    True
    """
    if not isinstance(estimator, SparseAutoencoderDictionary):
        raise TypeError(
            "estimator must be a SparseAutoencoderDictionary, but is a "
            f"{type(estimator).__name__}. A search is a fit for each value on each fold, and one "
            "to all rows: estimate one of these."
        )
    estimator = clone(estimator)  # a RandomState of the user's goes no further
    estimator._validate_params()
    params, kind = params_of(estimator), SOLVERS[estimator.solver]
    if not kind.in_epochs:
        in_steps = " or ".join(repr(name) for name in SOLVERS if SOLVERS[name].in_epochs)
        raise ValueError(
            f"solver={estimator.solver!r} does not learn in steps of equal cost, so that a few of "
            f"them would tell how long it takes. Use solver={in_steps}, or time a fit of few rows."
        )
    rows = Source(check_activations(None, X, min_samples=2), resolve_device(estimator.device))
    n_samples = len(rows) if n_samples is None else n_samples
    n_samples -= number_held_out(params, (n_samples, rows.n_features), None)
    shape = (n_samples, rows.n_features)
    batch_size = min(batch_size_for(params, n_samples), n_samples)
    n_components = n_components_for(params, shape)
    n_steps = params.max_iter * math.ceil(n_samples / batch_size)
    sized = {"batch_size": batch_size, "n_components": n_components}
    params = SimpleNamespace(**{**vars(params), **sized})
    rows = rows.take(torch.arange(N_STEPS * batch_size, device="cpu") % len(rows))
    _prepare(params, rows)  # compiles
    reading, starting, solver, alpha = _prepare(params, rows)
    step = _seconds_per_step(params, rows, solver, alpha)
    return Bunch(
        seconds=reading * n_samples + starting + n_steps * step,
        seconds_per_step=step,
        n_steps=n_steps,
        **sized,
        memory=_memory(kind, shape, batch_size, n_components, rows.dtype.itemsize),
    )


def _prepare(params, rows):
    """Seconds to read a row for the statistics and to start, the solver and alpha."""
    rows = rows.take(torch.arange(len(rows), device="cpu"))  # without statistics as yet
    begin = time.perf_counter()
    with threads(params, rows):
        mean, rms = location_and_scale(rows)
    read = time.perf_counter()
    alpha = alpha_of(params, rms)
    random_state = check_random_state(params.random_state)
    with threads(params, rows):
        solver = start(params, rows, mean, rms, alpha, None, random_state)
    return (read - begin) / len(rows), time.perf_counter() - read, solver, alpha


def _seconds_per_step(params, rows, solver, alpha):
    loop = TrainingLoop(
        solver,
        rows,
        n_epochs=1 + N_TIMED,
        batch_size=params.batch_size,
        shuffle=params.shuffle,
        alpha=alpha,
        learning_rate=params.learning_rate_init,
    )
    loop.run_epoch()
    begin = time.perf_counter()
    for _ in range(N_TIMED):
        loop.run_epoch()
    return (time.perf_counter() - begin) / (N_TIMED * N_STEPS)


def _memory(kind, shape, batch_size, n_components, itemsize):
    n_samples, n_features = shape
    blocks = N_BLOCKS * min(BLOCK_BYTES, n_samples * n_features * itemsize)
    return int(blocks + itemsize * kind.n_numbers(batch_size, n_features, n_components))
