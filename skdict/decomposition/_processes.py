"""A fit by several processes: those of a group of torch.distributed that the user has initialised.

Each process calls ``fit`` with the same estimator and the same rows. All draw the same random
numbers, read their share of each batch, and end with the same dictionary.
"""

import numpy as np

from .._core.device import available_memory
from .._core.distributed.agreement import check_agreement, digest
from .._core.distributed.ranks import Alone, Ranks, is_joined
from .._core.distributed.strategy import ALONE, strategy_for
from .._core.models.architectures import Architecture, make_architecture
from .._core.solvers.base import SOLVERS
from ..utils._random import check_random_state

# Types of parameters that are compared by their value.
PLAIN = (bool, int, float, str, type(None))


class Processes:
    """Those that fit one estimator together: all of the default group, or this one alone.

    Parameters
    ----------
    params : SimpleNamespace
        Of the estimator.
    rows : Source

    Raises
    ------
    ValueError
        If parameters or rows are not the same in all processes, or if several cannot train the
        architecture.
    """

    def __init__(self, params, rows):
        self.params, self.rows = params, rows
        solver = SOLVERS[params.solver]
        self.ranks = Ranks() if is_joined() and solver.in_epochs else Alone()
        if self.ranks.size == 1:
            return
        facts = {name: _fact(value) for name, value in sorted(vars(params).items())}
        facts |= {"the shape of X": tuple(rows.shape), "the dtype of X": str(rows.dtype)}
        check_agreement(self.ranks, facts)
        if "architecture" in solver.uses:
            _check_can_be_shared(params)

    def random_state(self):
        """The generator of the fit; without a seed, one that the first process has drawn."""
        seed = self.params.random_state
        if seed is None and self.ranks.size > 1:
            seed = self.ranks.objects(np.random.RandomState().randint(2**31 - 1))[0]
        return check_random_state(seed)

    def share_out(self, solver, n_rows, batch_size):
        """Give each process its rows and atoms, if all of them start from the same."""
        if self.ranks.size == 1:
            return
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
