"""One fit, from checked rows to a dictionary, for every solver; estimators only add their surface.

The way of the data: statistics of the rows (mean, scale), initial atoms, the solver's start, the
training loop, the dictionary, and a look at whether it is worth anything.
"""

import inspect
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

from .._core.coding import CODERS
from .._core.data.mixing import warning_of_mixing
from .._core.data.source import Source
from .._core.data.standardised import Standardised
from .._core.dictionary import Dictionary
from .._core.kernels.cpu.threads import threads_for
from .._core.models.architectures import make_architecture
from .._core.optim import normalize_
from .._core.solvers.base import SOLVERS, Problem, Solver, stops_early
from .._core.training.loop import TrainingLoop
from ..utils._arrays import as_matrix
from ..utils._sklearn_compat import HasMethods, StrOptions
from ..utils._warnings import warn, warn_once
from ._alpha import ALPHA_FRACTION, location_and_scale
from ._atoms import ATOMS, default_n_components, make_atoms
from ._judging import LEAST_HELD_OUT
from ._reports import is_part_of_search
from ._resumable import ResumableFit

# With fewer rows for each atom a fit holds out some, to see whether it learns the others by heart
# (benchmarks/memorising.py); not more than it takes to tell.
FEW_ROWS_PER_ATOM = 64
MOST_HELD_OUT = 2048
# batch_size="auto": so many steps of a pass, in batches of no less and no more than these.
STEPS_OF_A_PASS = 64
SMALLEST_BATCH, LARGEST_BATCH = 64, 1024
# What `dict_init` may be.
DICT_INIT = ["array-like", StrOptions(set(ATOMS)), Dictionary, HasMethods("transform"), None]
# Parameters that every solver uses.
USED_BY_ALL = frozenset(
    {
        "n_components",
        "alpha",
        "solver",
        "transform_algorithm",
        "fit_intercept",
        "resolution",
        "sparse_output",
        "device",
        "random_state",
        "verbose",
    }
)
# Parameters of coders, and what these call them.
OF_CODERS = {"transform_alpha": "alpha", "transform_n_nonzero_coefs": "n_nonzero_coefs"}


@dataclass
class Found:
    """What a fit has found.

    Parameters
    ----------
    dictionary : Dictionary
    solver : Solver
        Its state.
    counters : dict
        Fitted attributes that say how much was done.
    alpha : float
        L1 coefficient in the units of the data.
    variance : float
        Of the data, per column.
    rows : Source
        What it was fitted to.
    held_out : Source or None
        What it was not.
    tables : Tables or None
        That has the matrices of the dictionary, where several processes had them in parts.
    """

    dictionary: Dictionary
    solver: Solver
    counters: dict
    alpha: float
    variance: float
    rows: Source
    held_out: Source | None = None
    tables: object = None

    def __post_init__(self):
        self.dictionary.alpha = self.alpha


def params_of(estimator):
    """The parameters of an estimator, by attribute; those too that a subclass has fixed."""
    names = estimator._parameter_constraints
    return SimpleNamespace(**{name: getattr(estimator, name) for name in names})


def default_params(estimator_class):
    """The defaults of the parameters of a class of estimators, by name."""
    parameters = inspect.signature(estimator_class).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def begins_with_nmf(solver, dict_init):
    """Whether data have to be non-negative; unknown solvers are refused elsewhere."""
    used = solver not in SOLVERS or "dict_init" in SOLVERS[solver].uses
    return used and isinstance(dict_init, str) and dict_init == "nmf"


def warn_of_unused(params, defaults):
    """Warn of parameters that are not at their default and have no effect, or hardly any.

    A search does so before its fits.
    """
    if is_part_of_search():
        return
    given = [n for n, default in defaults.items() if not _is_default(getattr(params, n), default)]
    solver = SOLVERS[params.solver]
    algorithm = params.transform_algorithm
    if algorithm == "auto":
        algorithm = "encoder" if solver.has_encoder else "lasso"
    of_coder = CODERS[algorithm].uses if algorithm in CODERS else frozenset()
    used = USED_BY_ALL | solver.used_by(params)
    if not solver.is_penalised and "alpha" not in of_coder:
        used -= {"alpha"}
    unused = [name for name in given if name not in used and name not in OF_CODERS]
    user = f"solver={params.solver!r}"
    if unused == ["n_nonzero_coefs"] and "architecture" in used:
        user = f"architecture={params.architecture!r}"
    clauses = [f"{user} does not use {', '.join(unused)}"] if unused else []
    unused = [name for name in given if name in OF_CODERS and OF_CODERS[name] not in of_coder]
    if unused:
        clauses.append(f"transform_algorithm={algorithm!r} does not use {', '.join(unused)}")
    if clauses:
        message = f"{', and '.join(clauses)}. Leave out what has no effect."
        warn_once(message, message)
    if "alpha" in given and "architecture" in used:
        _warn_of_alpha(params)


def _warn_of_alpha(params):
    """Warn of an alpha that is not what makes the codes of an architecture sparse."""
    architecture = make_architecture(params.architecture, params.n_nonzero_coefs)
    name = architecture.sparse_by
    if name != "alpha":
        name = "n_nonzero_coefs" if name == "k" else f"architecture__{name}"
        warn_once(
            f"alpha={params.alpha:.3g} has hardly any effect with architecture="
            f"{params.architecture!r}, whose codes are made sparse by {name}. Leave alpha 'auto', "
            f"and choose {name}.",
            name,
        )


def _is_default(value, default):
    return value is default or (type(value) is type(default) and bool(value == default))


def fit(params, rows, previous, reports, attributes_of, processes):
    """Learn a dictionary from rows.

    Parameters
    ----------
    params : SimpleNamespace
        Of the estimator.
    rows : Source
    previous : Dictionary or None
        To start from, with ``warm_start``.
    reports : Reports
    attributes_of : callable
        From `Found` to the fitted attributes of an estimator, which callbacks may ask for.
    processes : Processes

    Returns
    -------
    found : Found
    """
    with ResumableFit(reports.estimator, params, rows, previous, processes) as resumable:
        # a callback may set the random state
        processes.together(lambda: reports.begin(resumable))
        resumable.begin_together()
        return _fit(params, rows, previous, reports, attributes_of, resumable)


def _fit(params, rows, previous, reports, attributes_of, resumable):
    kind, random_state = SOLVERS[params.solver], resumable.random_state
    together = resumable.processes.together
    data = together(lambda: _data(params, rows, previous, resumable))
    training, held_out, seen, mean, rms = data
    alpha = alpha_of(params, rms)
    reports.learn(training, params.max_iter, alpha, resumable.n_epochs)
    solver = resumable.solver(kind, len(training), batch_size_for(params, len(training)))
    if solver is None:
        with threads(params, rows):
            solver = together(
                lambda: start(params, seen, mean, rms, alpha, previous, random_state)
            )
    settled = {"alpha": alpha, "variance": variance_of(rms, rows)}
    settled |= {"rows": training, "held_out": held_out}
    if kind.in_epochs:
        batch_size = batch_size_for(params, len(training))
        warn_of_mixing(training, params, batch_size)
        resumable.processes.share_out(solver, len(training), batch_size)
        loop = loop_of(solver, params, training, alpha, held_out, after_step=reports.after_step)
        resumable.attach(loop)
        return _train(loop, reports, attributes_of, resumable, settled)
    with threads(params, rows):
        counters = {**solver.fit(rows, reports), "loss_curve_": []}
        dictionary = solver.finish(rows)
    reports.found(dictionary)
    return Found(dictionary, solver, counters, **settled)


def _data(params, rows, previous, resumable):
    """Rows to learn from, those held out or None, those with mean and scale, and these two."""
    training, held_out = rows, None
    in_epochs = SOLVERS[params.solver].in_epochs
    n_held_out = number_held_out(params, rows.shape, previous) if in_epochs else 0
    if n_held_out:
        training, held_out = rows.split(n_held_out, resumable.random_state)
    # one sample alone has no scale
    seen = training if len(training) > 1 else rows
    with threads(params, rows):
        mean, rms = location_and_scale(seen)
    resumable.check_data(mean, rms)
    if held_out is not None:
        held_out.check_finite()
    return training, held_out, seen, mean, rms


def loop_of(solver, params, rows, alpha, held_out=None, *, after_step=None):
    """The training loop of a solver, as the parameters of an estimator say.

    Parameters
    ----------
    solver : Solver
    params : SimpleNamespace
    rows : Source
    alpha : float
    held_out : Source or None
    after_step : callable or None
    """
    return TrainingLoop(
        solver,
        rows,
        n_epochs=params.max_iter,
        batch_size=batch_size_for(params, len(rows)),
        shuffle=params.shuffle,
        alpha=alpha,
        learning_rate=params.learning_rate_init,
        held_out=held_out,
        tol=params.tol,
        n_iter_no_change=params.n_iter_no_change if stops_early(params) else None,
        after_step=after_step,
    )


def _train(loop, reports, attributes_of, resumable, settled):
    """Run a loop to its end; what it has found."""

    def found(which):
        solver, dictionary = which()
        return Found(dictionary, solver, loop.counters, **settled, tables=loop.tables)

    while not loop.is_over:
        reports.begin_epoch()
        loop.run_epoch()
        ends = reports.end_epoch(loop, lambda: attributes_of(found(loop.current)))
        loop.is_over |= resumable.processes.any(ends)
        if not loop.is_over:
            resumable.between_steps()
    resumable.finish()
    if loop.solver.keeps_state:
        resumable.processes.leave(loop.solver)
    return found(loop.best)


def warn_of_mixing(rows, params, batch_size):
    """Warn of a store whose rows the shuffle will not mix well."""
    message = warning_of_mixing(rows, batch_size) if params.shuffle else None
    if message is not None and not is_part_of_search():
        warn(message)


def start(params, rows, mean, rms, alpha, previous, random_state):
    """A solver before its first step, from scratch or from a dictionary."""
    if not params.fit_intercept:
        rms = math.hypot(rms, float(torch.linalg.vector_norm(mean)))
        mean = torch.zeros_like(mean)
    scale = rms / math.sqrt(rows.shape[1])
    kind = SOLVERS[params.solver]
    atoms = None
    if "dict_init" in kind.uses:
        atoms = _initial_atoms(params, rows, mean, scale, previous, random_state)
    problem = Problem(
        data=Standardised(rows, mean, scale),
        alpha=alpha,
        n_components=n_components_for(params, rows.shape) if atoms is None else len(atoms),
        atoms=atoms,
        batch_size=batch_size_for(params, len(rows)),
        random_state=random_state,
        params=params,
        previous=previous,
    )
    return kind.start(problem)


def dictionary_given(dict_init):
    """The dictionary that ``dict_init`` is, or that an estimator holds; None if it is neither.

    A dictionary comes with its encoder, so training goes on from it, as from a former fit.
    """
    if not isinstance(dict_init, Dictionary) and not hasattr(dict_init, "get_params"):
        return None
    dictionary = getattr(dict_init, "dictionary_", dict_init)
    if not isinstance(dictionary, Dictionary):
        raise ValueError(
            f"dict_init is a {type(dict_init).__name__} that is not fitted, or that has no "
            "dictionary_. A clone is not: where estimators are cloned, as in a search, give "
            "dict_init=loaded.dictionary_ instead of the estimator."
        )
    dictionary.check_trains()
    return dictionary


def alpha_of(params, rms):
    """The L1 coefficient, in the units of the data with this centred RMS norm."""
    return ALPHA_FRACTION * rms if params.alpha == "auto" else float(params.alpha)


def variance_of(rms, rows):
    """Variance per column of data with this centred RMS norm."""
    return rms**2 / rows.shape[1]


def batch_size_for(params, n_samples):
    """Samples of a step. Little data still need enough steps."""
    if params.batch_size != "auto":
        return params.batch_size
    return min(LARGEST_BATCH, max(SMALLEST_BATCH, n_samples // STEPS_OF_A_PASS))


def n_components_for(params, shape):
    """Number of atoms; without one given, what the solver can start from data of this shape."""
    if params.n_components != "auto":
        return params.n_components
    kind = SOLVERS[params.solver]
    return default_n_components("exemplars" if kind.needs_samples else "random", *shape)


def threads(params, rows):
    """Context in which a solver works on these rows, a batch at a time."""
    n_rows = min(len(rows), batch_size_for(params, len(rows)))
    n_components = n_components_for(params, rows.shape)
    work = SOLVERS[params.solver].work(n_rows, rows.shape[1], n_components)
    return threads_for(work, math.ceil(len(rows) / n_rows))


def as_atoms(given, name):
    """Atoms that were given: a new tensor of shape (n_components, n_features), float64."""
    atoms = Source(as_matrix(given, name), torch.device("cpu"), name=name)
    atoms.check_finite()
    return atoms[:].to(torch.float64, copy=True)


def _initial_atoms(params, rows, mean, scale, previous, random_state):
    """Unit-norm atoms given by a former fit or by dict_init, else None."""
    given = params.dict_init if previous is None else previous.components
    if given is None:
        given = SOLVERS[params.solver].default_atoms
    if given is None:
        return None
    if isinstance(given, str):
        if given == "nmf" and params.fit_intercept:
            raise ValueError(
                "dict_init='nmf' decomposes activations as they are, without an intercept. "
                "Set fit_intercept=False."
            )
        n_components = params.n_components
        if params.dict_init is None:
            n_components = n_components_for(params, rows.shape)
        return make_atoms(
            given,
            rows,
            mean,
            scale,
            n_components,
            max_iter=params.max_iter,
            random_state=random_state,
        )
    name = "components_ of the previous fit (warm_start)"
    if previous is None or dictionary_given(params.dict_init) is previous:
        name = "dict_init"
    atoms = as_atoms(given, name)
    n_components = params.n_components
    expected = (len(atoms) if n_components == "auto" else n_components, rows.shape[1])
    if tuple(atoms.shape) != expected:
        raise ValueError(
            f"{name} has shape {tuple(atoms.shape)}, but (n_components, n_features) is "
            f"{expected}. Make them agree, or leave n_components='auto'."
        )
    if previous is None and not atoms.any(dim=1).all():
        row = int(atoms.any(dim=1).int().argmin())
        raise ValueError(f"dict_init has a zero row ({row}). An atom needs a direction.")
    return normalize_(atoms)


def number_held_out(params, shape, previous):
    """How many of rows of this shape are held out: by default only where atoms have few rows."""
    n_rows = shape[0]
    n_held_out = min(math.ceil(params.validation_fraction * n_rows), n_rows - 1)
    if not isinstance(params.early_stopping, str):
        return n_held_out if params.early_stopping else 0
    given = params.dict_init if previous is None else previous.components
    sizes = np.shape(given)  # none of None and of a name; what is no matrix is refused later
    n_components = sizes[0] if sizes else n_components_for(params, shape)
    if n_rows >= FEW_ROWS_PER_ATOM * n_components or n_held_out < LEAST_HELD_OUT:
        return 0
    return min(n_held_out, MOST_HELD_OUT)
