"""A fit by several processes: those of a group of torch.distributed that the user has initialised.

Each process calls ``fit`` with the same estimator and the same rows. All draw the same random
numbers, read their share of each batch, and end with the same dictionary.
"""

import numpy as np

from .._core.device import available_memory
from .._core.distributed.agreement import check_agreement, digest
from .._core.distributed.heartbeat import Heartbeat
from .._core.distributed.ranks import Alone, ProcessLost, Ranks, is_joined
from .._core.distributed.strategy import ALONE, strategy_for
from .._core.models.architectures import Architecture, make_architecture
from .._core.solvers.base import SOLVERS
from ..utils._random import check_random_state

# Types of parameters that are compared by their value.
PLAIN = (bool, int, float, str, type(None))


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
        If a process is lost; says which, and at what step.
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
        """Give each process its rows and atoms, if all of them start from the same."""
        if self.ranks.size == 1:
            return
        self._solver = solver
        facts = {"the mean of X (its digest)": digest(solver.mean), "the scale of X": solver.scale}
        facts["the initial dictionary (its digest)"] = digest(solver.learner.state_dict())
        check_agreement(self.ranks, facts)
        n_numbers = solver.n_numbers(batch_size, self.rows.n_features, solver.n_components)
        needed = n_numbers * self.rows.dtype.itemsize
        strategy = strategy_for(
            self.ranks,
            n_components=solver.n_components if solver.shards_atoms else None,
            n_rows=n_rows,
            batch_size=batch_size,
            is_too_large=self.any(needed > available_memory(self.rows.device)),
        )
        solver.distribute(strategy)

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
        of_all = self.ranks.objects(None if error is None else f"{error}")
        if error is not None:
            raise error
        for rank, message in enumerate(of_all):
            if message is not None:
                raise ValueError(f"In process {rank}: {message}")
        return found

    def any(self, flag):
        """Whether it is true in any process."""
        return self.ranks.any(flag, self.rows.device)

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
