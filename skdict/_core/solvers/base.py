"""What a solver is, what it is given to solve, and the registry."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch

from ..data.standardised import Standardised
from ..dictionary import Dictionary
from ..distributed.strategy import ALONE
from ..kernels.cpu.threads import work_of_product
from ..registry import Registry
from ..tensors import as_arrays, as_tensors

# The largest alpha that is trained with, where samples have a norm of about sqrt(n_features): the
# best code of all of them is zero then, and with more it would overflow.
MAX_ALPHA = 1e6

CPU = torch.device("cpu")

SOLVERS = Registry("solver")
register = SOLVERS.register


def alpha_in_training(alpha, scale):
    """The coefficient for samples that have been divided by ``scale``."""
    return min(alpha / scale, MAX_ALPHA)


def default_n_nonzero(n_features, n_components):
    """Number of non-zero entries of a code by default: a tenth of the columns."""
    return max(min(n_features // 10, n_components), 1)


def stops_early(params):
    """Whether training may end before its last epoch; "auto" only goes back to the best one."""
    return not isinstance(params.early_stopping, str) and bool(params.early_stopping)


@dataclass
class Problem:
    """What a solver starts from.

    Parameters
    ----------
    data : Standardised
        What it learns from: without an intercept its mean is zeros.
    alpha : float
        L1 coefficient in the units of the data.
    n_components : int
    atoms : tensor of shape (n_components, n_features), float64, or None
        Initial atoms, unit rows, where something decides them.
    batch_size : int
    random_state : numpy.random.RandomState
    params : SimpleNamespace
        The parameters of the estimator.
    previous : Dictionary or None
        To go on from.
    """

    data: Standardised
    alpha: float
    n_components: int
    atoms: torch.Tensor | None
    batch_size: int
    random_state: object
    params: SimpleNamespace
    previous: Dictionary | None = None

    def generator(self):
        """A generator of torch's, on the CPU: the same numbers on every device."""
        seed = int(self.random_state.randint(2**31 - 1))
        return torch.Generator(device="cpu").manual_seed(seed)


class Solver:
    """Finds a dictionary. An instance is the state of one fit.

    Every solver has `start` and `finish`, and ``mean``: of the data, or zeros without an
    intercept. One that does all at once has `fit` besides; if it learns from streams, also
    ``learn_portion``, ``n_steps`` and ``copy_to``.

    A solver that is trained in epochs has ``plan``, ``step``, ``objective`` and ``copy_to``, and
    the training loop runs it; ``scale``, by which its data are standardised, ``n_components``,
    ``n_steps`` and ``generator``. `EpochSolver` has most of it.
    """

    # What it can do.
    in_epochs = False  # is trained by the training loop, batch by batch
    streams = False  # goes on from one portion of data to the next: partial_fit
    keeps_state = False  # going on needs its state: the dictionary alone would forget
    has_encoder = False  # leaves a way to code beside the atoms
    is_penalised = True  # that way to code depends on alpha
    shards_atoms = False  # each of several processes may hold some of the atoms
    # What it starts from by default.
    default_atoms = None  # a name of dict_init
    needs_samples = True  # n_components="auto" is no more than the number of samples
    # Held-out rows whose objective is taken at a time.
    n_rows_at_a_time = 4096
    # The estimator's parameters that it uses, beside those that all use.
    uses = frozenset()

    @classmethod
    def used_by(cls, params):
        """`uses`, with what these parameters decide."""
        return cls.uses

    @classmethod
    def kind_of_state(cls, params):
        """What must not change between portions for its state to be of use."""
        return (cls.name,)

    @staticmethod
    def work(n_rows, n_features, n_components):
        """Multiplications between two points at which threads wait for each other."""
        return work_of_product(n_rows, n_features, n_components)

    @staticmethod
    def n_numbers(batch_size, n_features, n_components):
        """Numbers in memory at the peak of a fit, beside the data."""
        raise NotImplementedError

    @classmethod
    def start(cls, problem):
        """The solver before its first step.

        Parameters
        ----------
        problem : Problem
        """
        raise NotImplementedError

    def standardised(self, rows):
        """Rows as this solver sees them."""
        return Standardised(rows, self.mean, self.scale)

    def fit(self, rows, progress):
        """Learn all at once from a `Source`; how much was done: {"n_iter_": 1, "n_steps_": 1}.

        ``progress`` may be told ``after_step(n_rows)`` and, for each pass, ``after_epoch``: the
        objectives by name, and a function that returns the dictionary as it is.
        """
        raise NotImplementedError

    def plan(self, alpha, learning_rate, batch_size, n_steps=None, n_seen=0):
        """Say what is coming: ``n_steps`` steps, or (None) a stream without a planned end, of
        which ``n_seen`` samples have come."""
        raise NotImplementedError

    def step(self, x, n_rows=None):
        """Learn from standardised rows (B, n_features); the sum of their objective, a tensor.

        Of several processes each has some of the ``n_rows`` rows of a batch, and a part of the
        sum.
        """
        raise NotImplementedError

    @property
    def is_settled(self):
        """Whether the last step was on the objective that training ends with."""
        return True

    def objective(self, alpha):
        """Function from standardised rows (B, n_features), which are not learned from, to the sum
        of their objective, a tensor; for use before the next step.

        Of processes that hold some of the atoms each has a part of the sum."""
        raise NotImplementedError

    def finish(self, rows):
        """The dictionary in the units of the data, complete after any step.

        Parameters
        ----------
        rows : Source
            Samples that what is still missing, a threshold, can be estimated on.

        Returns
        -------
        dictionary : Dictionary
            With tensors of its own.
        """
        raise NotImplementedError

    def own_dictionary(self, rows):
        """As `finish`; of a process that holds some of the atoms, with these alone."""
        return self.finish(rows)

    def whole_dictionary(self, own, tables=None):
        """The dictionary of which `own_dictionary` gave its part to each process.

        Parameters
        ----------
        own : Dictionary
        tables : Tables, optional
            Gathers its matrices; by default they are in memory.

        Returns
        -------
        dictionary : Dictionary
        """
        return own

    def copy_to(self, device):
        """The same state with tensors of its own, on a device."""
        raise NotImplementedError


class EpochSolver(Solver):
    """A solver whose learner is trained on (x - mean) / scale, batch by batch.

    Parameters
    ----------
    learner : object
        The state in training: ``n_steps``, ``generator``, ``state_dict(own=False)`` and a
        classmethod ``from_state_dict(state, device, strategy)`` that makes another one of it,
        with tensors of its own.
    mean : tensor of shape (n_features,)
    scale : float
        Brings the data to E‖x‖² = n_features, so that one learning rate serves every layer of
        every model. Codes, alpha and an encoder's biases scale with it, the objective with its
        square.
    """

    in_epochs = True
    streams = True
    uses = frozenset(
        {
            "max_iter",
            "batch_size",
            "early_stopping",
            "validation_fraction",
            "tol",
            "n_iter_no_change",
            "warm_start",
            "dict_init",
            "shuffle",
        }
    )
    Learner = None  # the class of ``learner``

    def __init__(self, learner, mean, scale):
        self.learner = learner
        self.mean = mean
        self.scale = scale

    @property
    def strategy(self):
        return self.learner.strategy

    def distribute(self, strategy):
        """Go on as one of several processes; with `ALONE` as one that has the state of all."""
        self.learner = self.learner.distributed(strategy)

    @property
    def generator(self):
        return self.learner.generator

    @property
    def n_steps(self):
        return self.learner.n_steps

    def copy_to(self, device):
        copied = type(self).__new__(type(self))
        learner = self.Learner.from_state_dict(self.learner.state_dict(), device)
        vars(copied).update(vars(self), learner=learner, mean=self.mean.to(device))
        return copied

    def state_dict(self, *, copy=False, own=False):
        """The whole state between two steps, in plain containers of ndarrays.

        Parameters
        ----------
        copy : bool, default=False
            Whether they have memory of their own, which the next step does not change.
        own : bool, default=False
            Whether what several processes have in parts is `OwnRows` of this one's; else all of
            them have to ask for the state.
        """
        learner = self.learner.state_dict(own=own)
        state = {"learner": learner, "mean": self.mean, "scale": self.scale}
        return as_arrays(state, copy=copy)

    @classmethod
    def from_state_dict(cls, state, device=CPU, strategy=ALONE):
        """Go on from a state on a device, as the process of a strategy whose rows it has."""
        solver = cls.__new__(cls)
        solver._go_on_from(state, device, strategy)
        return solver

    def __getstate__(self):
        """What was trained on a GPU loads without one."""
        return as_arrays(vars(self)) | self.state_dict()

    def __setstate__(self, state):
        self._go_on_from(state, CPU, ALONE)

    def _go_on_from(self, state, device, strategy):
        vars(self).update(as_tensors(state))
        self.mean = self.mean.to(device)
        self.learner = self.Learner.from_state_dict(self.learner, device, strategy)
