"""Learning from one portion of a stream after the other."""

from typing import NamedTuple

import joblib
import numpy as np

from .._core.solvers import SOLVERS, Solver
from .._core.training.loop import train_epoch
from ..utils._random import check_random_state
from ._alpha import location_and_scale
from ._fitting import Found, alpha_of, as_atoms, batch_size_for, resolution_of, start, threads
from ._likelihood import CodeStatistics

# Statistics of about so many samples are remembered.
STREAM_MEMORY = 100_000


class Stream(NamedTuple):
    """What a dictionary that goes on learning has to know beside itself.

    Parameters
    ----------
    kind : tuple
        What must not change for the solver's state to be of use.
    solver : Solver or None
        Its state. None where the dictionary is all of it.
    beginning : dict
        Parameters that only the beginning has used.
    """

    kind: tuple
    solver: Solver | None
    beginning: dict

    @classmethod
    def after_fit(cls, params, solver):
        """That of a fit that is over, or None where its solver does not go on."""
        if not solver.streams:
            return None
        kept = solver if solver.keeps_state else None
        return cls(solver.kind_of_state(params), kept, beginning_of(params))

    @classmethod
    def after_portion(cls, params, solver, before):
        """That of a portion; ``before`` is the stream before it, or None."""
        beginning = beginning_of(params) if before is None else before.beginning
        return cls(solver.kind_of_state(params), solver, beginning)

    def check_same_beginning(self, params, n_components):
        """Refuse parameters that would change nothing any more."""
        beginning = beginning_of(params)
        changed = [name for name, value in beginning.items() if value != self.beginning[name]]
        if params.n_components not in ("auto", n_components):
            changed.append("n_components")
        if changed:
            raise ValueError(
                f"{' and '.join(changed)} cannot change between calls of partial_fit: the "
                "dictionary that it goes on with began otherwise. Set "
                f"{'it' if len(changed) == 1 else 'them'} back, or begin anew with fit."
            )

    def solver_for(self, params):
        """The state to go on with, or None where it is of no use."""
        kind = SOLVERS[params.solver].kind_of_state(params)
        return self.solver if kind == self.kind else None


def beginning_of(params):
    """Parameters that only the beginning of a dictionary uses, such that they compare."""
    seed, atoms = params.random_state, params.dict_init
    if atoms is not None and not isinstance(atoms, str):
        atoms = joblib.hash(as_atoms(atoms, "dict_init").numpy())
    return {
        "fit_intercept": params.fit_intercept,
        "dict_init": atoms,
        # drawing from a generator changes it
        "random_state": "drawn from" if isinstance(seed, np.random.RandomState) else seed,
    }


def learn_portion(params, rows, previous, solver, resolution_variance):
    """One pass over a portion.

    Parameters
    ----------
    params : SimpleNamespace
    rows : Source
    previous : Dictionary or None
        What has been learned so far.
    solver : Solver or None
        The state that it has been learned with, which stays what it is.
    resolution_variance : float or None
        That of the first portion.

    Returns
    -------
    found : Found
        With the counters of this portion alone.
    """
    if solver is None:
        with threads(params, rows):
            mean, rms = location_and_scale(rows)
        if previous is None:
            alpha, resolution_variance = alpha_of(params, rms), resolution_of(rms, rows)
        else:
            alpha = previous.alpha if params.alpha == "auto" else float(params.alpha)
            if params.fit_intercept:
                mean = previous.intercept.to(mean)
        with threads(params, rows):
            random_state = check_random_state(params.random_state)
            solver = start(params, rows, mean, rms, alpha, previous, random_state)
    else:
        alpha = previous.alpha if params.alpha == "auto" else float(params.alpha)
        rows.check_finite()
        rows.dtype = previous.components.dtype
        solver = solver.copy_to(rows.device)
    n_steps, batch_size = solver.n_steps, batch_size_for(params, len(rows))
    loss_curve = []
    if solver.in_epochs:
        solver.plan(alpha, params.learning_rate_init, batch_size)
        loss_curve.append(train_epoch(solver, rows, batch_size, params.shuffle))
    else:
        solver.learn_portion(
            rows, alpha, batch_size, shuffle=params.shuffle, verbose=params.verbose
        )
    counters = {
        "n_iter_": 1,
        "n_steps_": solver.n_steps - n_steps,
        "loss_curve_": loss_curve,
    }
    return Found(solver.finish(rows), solver, counters, alpha, resolution_variance, rows)


def statistics_of_stream(coding, rows, before):
    """`CodeStatistics` of a portion and, with less weight the longer ago, of those before."""
    statistics = before or CodeStatistics.empty(len(coding.dictionary.components))
    statistics.decay(STREAM_MEMORY)
    dictionary = coding.dictionary.to(rows.dtype, rows.device)
    with coding.threads(rows), coding.coder(rows) as code:
        for _, x in rows.blocks(len(dictionary.components)):
            codes = code(x)
            statistics.update(codes, dictionary.residual(x, codes))
    return statistics
