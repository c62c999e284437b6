"""Learning from one portion of a stream after the other."""

from .._core.training.loop import check_finite, train_epoch
from ..utils._random import check_random_state
from ._alpha import location_and_scale
from ._fitting import Found, alpha_of, batch_size_for, start, threads, variance_of


def learn_portion(params, rows, previous, solver, variance):
    """One pass over a portion.

    Parameters
    ----------
    params : SimpleNamespace
    rows : Source
    previous : Dictionary or None
        What has been learned so far.
    solver : Solver or None
        The state that it has been learned with, which stays what it is.
    variance : float or None
        Of the first portion, per column.

    Returns
    -------
    found : Found
        With the counters of this portion alone.
    """
    if previous is not None:
        alpha = previous.alpha if params.alpha == "auto" else float(params.alpha)
    if solver is None:
        with threads(params, rows):
            mean, rms = location_and_scale(rows)
        if previous is None:
            alpha, variance = alpha_of(params, rms), variance_of(rms, rows)
        elif params.fit_intercept:
            mean = previous.intercept.to(mean)
        with threads(params, rows):
            random_state = check_random_state(params.random_state)
            solver = start(params, rows, mean, rms, alpha, previous, random_state)
    else:
        rows.check_finite()
        rows.dtype = previous.components.dtype
        solver = solver.copy_to(rows.device)
    n_steps, batch_size = solver.n_steps, batch_size_for(params, len(rows))
    loss_curve = []
    if solver.in_epochs:
        solver.plan(alpha, params.learning_rate_init, batch_size)
        loss_curve.append(train_epoch(solver, rows, batch_size, params.shuffle))
        check_finite("objective", loss_curve[-1], solver.n_steps, loss_curve)
    else:
        solver.learn_portion(
            rows, alpha, batch_size, shuffle=params.shuffle, verbose=params.verbose
        )
    counters = {
        "n_iter_": 1,
        "n_steps_": solver.n_steps - n_steps,
        "loss_curve_": loss_curve,
    }
    return Found(solver.finish(rows), solver, counters, alpha, variance, rows)
