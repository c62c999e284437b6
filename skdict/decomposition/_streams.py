"""Learning from one portion of a stream after the other."""

import math
from types import SimpleNamespace

import torch

from .._core.solvers.base import SOLVERS
from .._core.training.loop import check_finite, train_epoch
from ._alpha import location_and_scale
from ._fitting import (
    LARGEST_BATCH,
    SMALLEST_BATCH,
    STEPS_OF_A_PASS,
    Found,
    alpha_of,
    start,
    threads,
    variance_of,
)


def learn_portion(params, rows, before, solver, processes):
    """One pass over a portion.

    Parameters
    ----------
    params : SimpleNamespace
    rows : Source
    before : Learned
        What has been learned so far.
    solver : Solver or None
        The state that it has been learned with, which stays what it is.
    processes : Processes

    Returns
    -------
    found : Found
        With the counters of this portion alone.
    """
    previous, variance, n_seen = before.dictionary, before.variance, before.n_seen
    if previous is not None:
        alpha = previous.alpha if params.alpha == "auto" else float(params.alpha)
    if solver is None:
        with threads(params, rows):
            mean, rms = processes.together(lambda: location_and_scale(rows))
        if previous is None:
            alpha, variance = alpha_of(params, rms), variance_of(rms, rows)
        else:
            mean = previous.intercept.to(mean) if params.fit_intercept else mean
            if alpha is None:  # of a dictionary that was loaded
                alpha = alpha_of(params, rms)
            variance = variance_of(rms, rows) if variance is None else variance
        if previous is None:
            params = with_atoms_of_a_stream(params, rows)
        with threads(params, rows):
            random_state = processes.random_state()
            solver = processes.together(
                lambda: start(params, rows, mean, rms, alpha, previous, random_state)
            )
    else:
        processes.together(rows.check_finite)
        rows.dtype = previous.components.dtype
        solver = solver.copy_to(rows.device)
    n_steps, loss_curve = solver.n_steps, []
    if solver.in_epochs:
        batch_size, _ = batch_size_of_stream(params, n_seen)
        processes.share_out(solver, len(rows), batch_size)
        total = 0.0
        for piece, batch_size in pieces_of(params, rows, n_seen, solver.generator):
            solver.plan(alpha, params.learning_rate_init, batch_size, n_seen=n_seen)
            total += len(piece) * train_epoch(solver, piece, batch_size, params.shuffle)
            n_seen += len(piece)
        loss_curve.append(total / len(rows))
        check_finite("objective", loss_curve[-1], solver.n_steps, loss_curve)
    else:
        batch_size, _ = batch_size_of_stream(params, n_seen)
        solver.learn_portion(
            rows, alpha, batch_size, shuffle=params.shuffle, verbose=params.verbose
        )
    counters = {
        "n_iter_": 1,
        "n_steps_": solver.n_steps - n_steps,
        "loss_curve_": loss_curve,
    }
    dictionary = solver.finish(rows)
    if solver.in_epochs:
        processes.leave(solver)
    return Found(dictionary, solver, counters, alpha, variance, rows)


def with_atoms_of_a_stream(params, rows):
    """Parameters with the number of atoms that does not depend on the size of a portion."""
    if params.n_components != "auto" or params.dict_init is not None:
        return params
    n_components = 4 * rows.n_features
    if SOLVERS[params.solver].needs_samples:
        n_components = min(n_components, len(rows))
    return SimpleNamespace(**vars(params) | {"n_components": n_components})


def batch_size_of_stream(params, n_seen):
    """Samples of a step of a stream, and until how many samples it stays at that.

    "auto" doubles as often as the samples do, whatever the portions that they come in, until it is
    what a fit to many takes: a short stream still has enough steps.
    """
    if params.batch_size != "auto":
        return params.batch_size, math.inf
    batch_size, until = SMALLEST_BATCH, SMALLEST_BATCH * STEPS_OF_A_PASS
    while n_seen >= until and batch_size < LARGEST_BATCH:
        batch_size, until = 2 * batch_size, 2 * until
    return batch_size, until if batch_size < LARGEST_BATCH else math.inf


def pieces_of(params, rows, n_seen, generator):
    """Yield pieces of a portion, drawn at random if that is shuffled, and their batch sizes."""
    batch_size, until = batch_size_of_stream(params, n_seen)
    if n_seen + len(rows) <= until:
        yield rows, batch_size
        return
    if rows.is_store:  # which is shuffled well within a piece; single rows of it cost a chunk each
        start = 0
        while start < len(rows):
            batch_size, until = batch_size_of_stream(params, n_seen)
            stop = int(min(len(rows), start + until - n_seen))
            yield rows.part(start, stop), batch_size
            start, n_seen = stop, n_seen + stop - start
        return
    order = torch.arange(len(rows), device="cpu")
    if params.shuffle:
        order = torch.randperm(len(rows), generator=generator, device="cpu")
    while len(order):
        batch_size, until = batch_size_of_stream(params, n_seen)
        n_rows = min(len(order), until - n_seen)
        yield rows.take(order[:n_rows].sort().values), batch_size
        order, n_seen = order[n_rows:], n_seen + n_rows
