"""A fit by several processes: those of a group of torch.distributed that the user has initialised.

Each process calls ``fit`` with the same estimator and the same rows. All draw the same random
numbers, read their share of each batch, and end with the same dictionary.
"""

from contextlib import suppress
from contextvars import ContextVar
from functools import wraps

import numpy as np
import torch

from .._core.device import available_memory
from .._core.distributed.agreement import Failure, check_agreement, digest, raise_failure
from .._core.distributed.heartbeat import Heartbeat
from .._core.distributed.ranks import Alone, ProcessLost, Ranks, is_joined
from .._core.distributed.strategy import ALONE, strategy_for
from .._core.models.architectures import Architecture, make_architecture
from .._core.solvers.base import SOLVERS
from ..utils._random import check_random_state

# Types of parameters that are compared by their value.
PLAIN = (bool, int, float, str, type(None))
# Of fits, one within the other: lists that are no longer empty when this process has begun to
# compare with the others.
_compared = ContextVar("compared", default=())


def tells_the_others(fit):
    """Have an error of ``fit(self, X)`` in one process be one in all that wait for it.

    That is so until they have compared what they are about to train; after that errors are told
    by `Processes.together`.
    """

    @wraps(fit)
    def told(self, *args, **kwargs):
        if not (is_joined() and _joins(self.solver)):
            return fit(self, *args, **kwargs)
        compared = []
        token = _compared.set((*_compared.get(), compared))
        try:
            return fit(self, *args, **kwargs)
        except Exception as error:
            if not compared:
                _tell(error)
            raise
        finally:
            _compared.reset(token)

    return told


def _note_compared():
    for each in _compared.get():
        each.append(True)


def _joins(solver):
    """Whether a fit by a solver joins the group; one that is not known might be meant to."""
    kind = SOLVERS.get(solver) if isinstance(solver, str) else None
    return kind is None or kind.in_epochs


def _tell(error):
    """Take part in the comparison, with an error."""
    _note_compared()
    ranks = Ranks()
    heartbeat = ranks.heartbeat = Heartbeat(ranks)
    with suppress(ProcessLost):  # what is raised is the error
        ranks.objects(Failure.of(error))
    heartbeat.end()


class Processes:
    """Those that fit one estimator together: all of the default group, or this one alone.

    Use as a context manager, for the time of the fit.

    Parameters
    ----------
    params : SimpleNamespace
        Of the estimator.
    rows : Source
    callbacks : list, default=()
        Of the fit.

    Raises
    ------
    ValueError
        If parameters, callbacks or rows are not the same in all processes, or if several cannot
        train the architecture.
    RuntimeError
        If a process is lost, or has failed before the first step; says which, and at what step or
        by what error.
    """

    def __init__(self, params, rows, callbacks=()):
        self.params, self.rows, self.callbacks = params, rows, callbacks
        self._solver = None
        joins = is_joined() and SOLVERS[params.solver].in_epochs
        self.ranks = Ranks() if joins else Alone()

    def __enter__(self):
        if self.ranks.size > 1:
            self.ranks.heartbeat = Heartbeat(self.ranks)
            try:
                self._check_agreement()
            except BaseException as error:
                self.__exit__(type(error), error, None)
                raise
        return self

    def __exit__(self, kind, error, traceback):
        if self.ranks.size == 1:
            return
        self.ranks.heartbeat.end()
        if isinstance(error, ProcessLost):
            raise RuntimeError(self._message(error.lost)) from error

    def _message(self, lost):
        names = ", ".join(map(str, lost))
        who = "A process of the group is" if not lost else f"Process {names} is"
        if len(lost) > 1:
            who = f"Processes {names} are"
        if self.ranks.rank in lost:
            who = f"The others have not waited for this process, {self.ranks.rank}: it is"
        where = "before the first step"
        if self._solver is not None:
            where = f"at step {self._solver.n_steps + 1:,}"
        advice = "Without a skdict.callbacks.Checkpoint the fit begins anew."
        folder = next(filter(None, (getattr(each, "path", None) for each in self.callbacks)), None)
        if folder is not None:  # of checkpoints
            advice = f"Run the same again to continue from {str(folder)!r}."
        return f"{who} gone {where} of a fit by {self.ranks.size} processes. {advice}"

    def _check_agreement(self):
        _note_compared()
        params, rows, solver = self.params, self.rows, SOLVERS[self.params.solver]
        facts = {name: _fact(value) for name, value in sorted(vars(params).items())}
        # one that looks at the dictionary has all processes gather it
        facts["callbacks"] = [type(callback).__name__ for callback in self.callbacks]
        facts |= {"the shape of X": tuple(rows.shape), "the dtype of X": str(rows.dtype)}
        check_agreement(self.ranks, facts)
        if "architecture" in solver.uses:
            _check_can_be_shared(params)

    def random_state(self):
        """The generator of the fit; without a seed, one that the first process has drawn."""
        seed = self.params.random_state
        if seed is None and self.ranks.size > 1:
            seed = self.ranks.from_first(np.random.RandomState().randint(2**31 - 1))
        return check_random_state(seed)

    def share_out(self, solver, n_rows, batch_size):
        """Give each process its rows and atoms, if all of them start from the same.

        Nothing is left to do where a solver goes on from what processes have kept in parts.
        """
        if self.ranks.size == 1:
            return
        self._solver = solver
        if not solver.strategy.is_alone:
            return
        facts = {"the mean of X (its digest)": digest(solver.mean), "the scale of X": solver.scale}
        facts["the initial dictionary (its digest)"] = digest(solver.learner.state_dict())
        check_agreement(self.ranks, facts)
        solver.distribute(self.strategy(type(solver), solver.n_components, n_rows, batch_size))

    def strategy(self, solver, n_components, n_rows, batch_size):
        """How the processes share out the work of a class of solvers."""
        if self.ranks.size == 1:
            return ALONE
        n_numbers = solver.n_numbers(batch_size, self.rows.n_features, n_components)
        needed = n_numbers * self.rows.dtype.itemsize
        return strategy_for(
            self.ranks,
            n_components=n_components if solver.shards_atoms else None,
            n_rows=n_rows,
            batch_size=batch_size,
            is_too_large=self.any(needed > available_memory(self.rows.device)),
        )

    @property
    def is_first(self):
        """Whether this is the process that keeps the state of all."""
        return self.ranks.rank == 0

    def together(self, function):
        """Call a function in each process. An error in one of them is raised in all."""
        if self.ranks.size == 1:
            return function()
        found = error = None
        try:
            found = function()
        except Exception as raised:
            error = raised
        of_all = self.ranks.objects(None if error is None else Failure.of(error))
        if error is not None:
            raise error
        raise_failure(of_all)
        return found

    def any(self, flag):
        """Whether it is true in any process."""
        return self.ranks.any(flag, self.rows.device)

    def any_of(self, flags):
        """Of a list of bools, which are true in any process."""
        flags = torch.tensor(flags, dtype=torch.int32, device=self.rows.device)
        return [bool(flag) for flag in self.ranks.max_(flags).tolist()]

    def leave(self, solver):
        """Give this process the state of all, to go on with it alone."""
        if self.ranks.size > 1:
            solver.distribute(ALONE)


def _check_can_be_shared(params):
    architecture = make_architecture(params.architecture)
    if not architecture.distributed:
        raise ValueError(
            f"architecture={params.architecture!r} does not say that several processes can train "
            "it. If all of its methods treat each entry of a code by itself, set "
            f"{type(architecture).__name__}.distributed = True; else fit in one process, without "
            "a process group."
        )


def _fact(value):
    """A parameter, such that it compares and is small."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Architecture):
        return repr(value)
    if isinstance(value, np.random.RandomState):
        return f"RandomState with the digest {digest(value.get_state())}"
    return type(value).__name__  # what atoms it holds is seen at the start of the solver
