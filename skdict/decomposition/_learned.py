"""What an estimator keeps of its fits beside the dictionary, and what it goes on from."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import joblib
import numpy as np

from .._core.dictionary import Dictionary
from .._core.solvers import SOLVERS, Solver
from ..utils._warnings import warn
from ._attributes import attributes_of
from ._base import check_has_encoder
from ._code_statistics import DataChangedError, FitStatistics
from ._fitting import as_atoms, dictionary_given, params_of
from ._likelihood import CodeStatistics

# Statistics of about so many samples are remembered.
STREAM_MEMORY = 100_000
# Stands for a generator that was given as random_state: drawing from it changes it.
DRAWN = "drawn from"


def learns_from_streams(estimator):
    """Whether there is a `partial_fit`; an AttributeError says why not."""
    solver = SOLVERS.get(estimator.solver)
    if solver is not None and not solver.streams:  # unknown ones are refused as in fit
        streaming = " or ".join(f"solver={name!r}" for name in SOLVERS if SOLVERS[name].streams)
        raise AttributeError(
            f"partial_fit is not available with solver={estimator.solver!r}: its atoms are not "
            f"learned from a stream. Use fit, or {streaming}."
        )
    return True


def start_of(estimator):
    """The dictionary that a fit goes on from, or None; and whether the columns may be others."""
    if estimator.warm_start and hasattr(estimator, "components_"):
        return estimator.dictionary_, False
    return dictionary_given(estimator.dict_init), True


def checked_params(estimator):
    """The parameters of an estimator, of which those of `transform` suit its solver."""
    params = params_of(estimator)
    has_encoder = SOLVERS[params.solver].has_encoder
    check_has_encoder(params.transform_algorithm, has_encoder, params.solver)
    return params


def attributes_after_fit(found, params=None, *, coding_of):
    """The fitted attributes of an estimator.

    Parameters
    ----------
    found : Found
    params : SimpleNamespace or None
        Those of a fit that is over. None while it trains: its solver's state will change.
    coding_of : callable
        From a dictionary to the estimator's way to code with it.
    """
    stream = {} if params is None else {"_stream": Stream.after_fit(params, found)}
    attributes = attributes_of(found.dictionary, found.tables)
    _, dictionary = attributes["_dictionary"]  # on the CPU: nothing stays on a GPU
    return {
        **attributes,
        **found.counters,
        "variance_": found.variance,
        "_statistics": FitStatistics(found.rows, coding_of(dictionary)),
        **stream,
    }


@dataclass
class Learned:
    """What `partial_fit` goes on from.

    Parameters
    ----------
    dictionary : Dictionary or None
        None before the first call.
    stream : Stream or None
    counters : dict
        Fitted attributes that say how much has been done.
    statistics : CodeStatistics or None
    variance : float or None
    """

    dictionary: Dictionary | None
    stream: "Stream | None"
    counters: dict
    statistics: CodeStatistics | None
    variance: float | None

    @classmethod
    def by(cls, estimator):
        """What an estimator has learned so far."""
        if not hasattr(estimator, "components_"):
            given = dictionary_given(estimator.dict_init)
            if given is not None:
                given = replace(given, alpha=None)  # as in a fit, that of the data
            return cls(given, None, {"n_iter_": 0, "n_steps_": 0, "loss_curve_": []}, None, None)
        attributes = vars(estimator)
        return cls(
            estimator.dictionary_,
            attributes.get("_stream"),
            attributes,
            _known_statistics(attributes.get("_statistics")),
            attributes.get("variance_"),
        )

    def solver_for(self, params):
        """The state to go on with, or None if it is of no use; checks the parameters."""
        if self.stream is None:
            return None
        self.stream.check_same_beginning(params, len(self.dictionary.components))
        return self.stream.solver_for(params)

    @property
    def n_seen(self):
        """Samples that have been learned from."""
        return 0 if self.stream is None else self.stream.n_seen

    def attributes_with(self, found, statistics, params):
        """The fitted attributes after one more portion, with the statistics of its codes."""
        if self.statistics is not None:
            statistics = self.statistics.followed_by(statistics, STREAM_MEMORY)
        counters = {name: self.counters[name] + more for name, more in found.counters.items()}
        return {
            **attributes_of(found.dictionary),
            **counters,
            "variance_": found.variance,
            "_statistics": FitStatistics.known(statistics, found.rows.n_features),
            "_stream": Stream.after_portion(params, found, self.stream),
        }


def _known_statistics(of_fit):
    """`CodeStatistics` to go on with, or None if there are none, or they cannot be taken."""
    if of_fit is None:  # a dictionary that was loaded
        return None
    try:
        return of_fit.found()
    except DataChangedError as error:
        warn(f"{error} The statistics for score begin anew with this portion.")
        return None


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
    n_seen : int
        Samples that have been learned from, as often as they were.
    """

    kind: tuple
    solver: Solver | None
    beginning: dict
    n_seen: int

    @classmethod
    def after_fit(cls, params, found):
        """The stream after a fit, or None if its solver does not go on."""
        solver = found.solver
        if not solver.streams:
            return None
        kept = solver if solver.keeps_state else None
        n_seen = found.counters["n_iter_"] * len(found.rows)
        return cls(solver.kind_of_state(params), kept, beginning_of(params), n_seen)

    @classmethod
    def after_portion(cls, params, found, before):
        """The stream after a portion; ``before`` is the one before it, or None."""
        beginning = beginning_of(params) if before is None else before.beginning
        n_seen = len(found.rows) + (0 if before is None else before.n_seen)
        return cls(found.solver.kind_of_state(params), found.solver, beginning, n_seen)

    def state_dict(self):
        """All of it in plain containers; a solver without a ``state_dict`` stays what it is."""
        state = self._asdict()
        if hasattr(self.solver, "state_dict"):
            state["solver"] = self.solver.state_dict()
        return state

    @classmethod
    def from_state_dict(cls, state):
        """The stream that `state_dict` gave."""
        solver = state["solver"]
        if isinstance(solver, dict):
            solver = SOLVERS[state["kind"][0]].from_state_dict(solver)
        return cls(**state | {"solver": solver})

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
        given = dictionary_given(atoms)
        tensors = [as_atoms(atoms, "dict_init")] if given is None else given.tensors
        atoms = joblib.hash([tensor.numpy() for tensor in tensors])
    return {
        "fit_intercept": params.fit_intercept,
        "dict_init": atoms,
        "random_state": DRAWN if isinstance(seed, np.random.RandomState) else seed,
    }
