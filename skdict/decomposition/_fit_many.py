"""Several dictionaries in one pass over the data."""

from contextlib import contextmanager
from functools import partial

import torch

from .._core.device import resolve_device
from .._core.distributed.ranks import is_joined
from .._core.parameters import python_number
from .._core.solvers import SOLVERS
from .._core.torch_state import plain_torch
from .._core.training.loop import learn_together
from .._core.training.pace import Pace
from ..utils._random import check_random_state
from ..utils._sklearn_compat import callbacks_of, validate_parameter_constraints
from ..utils._sources import source_of
from ._alpha import location_and_scale
from ._base import coding_of, publish
from ._fitting import (
    Found,
    alpha_of,
    batch_size_for,
    default_params,
    loop_of,
    number_held_out,
    start,
    threads,
    variance_of,
    warn_of_mixing,
    warn_of_unused,
)
from ._judging import look
from ._learned import attributes_after_fit, checked_params, start_of
from ._reports import Progress, announce
from ._sparse_autoencoder import SparseAutoencoderDictionary

# Parameters that must be the same, as all see the same batches.
SHARED = ("shuffle", "device")


@plain_torch()
def fit_many(estimators, X):
    """Fit several dictionaries in one pass over the data, of which each batch is read once.

    For several values of ``alpha`` or ``n_nonzero_coefs``, seeds, widths or architectures, where
    reading is what takes the time, or where X comes from a model as it is learned from. All see
    the same batches in the same order, which the first estimator's ``random_state`` decides; so
    a dictionary is as good as that of its own `fit`, and not the same.

    Parameters
    ----------
    estimators : list of SparseAutoencoderDictionary
        Fitted in place. Solvers are "autoencoder" and "alternating", or others that train in
        epochs. ``shuffle``, ``device``, and what ``batch_size`` comes to must be the same;
        ``max_iter`` may differ. Those with ``verbose`` print a line after each pass, which begins
        with their number.
    X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        Activations; or an `ActivationStore`, or a view of one.

    Returns
    -------
    estimators : list of SparseAutoencoderDictionary
        The same.

    Raises
    ------
    TypeError
        If one is no SparseAutoencoderDictionary.
    ValueError
        As `SparseAutoencoderDictionary.fit`, with the number of the estimator; or if what must be
        the same differs. Then all estimators are what they were before.

    Warns
    -----
    UserWarning
        As `SparseAutoencoderDictionary.fit`.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary, fit_many
    >>> X, _, _ = make_superposition(n_samples=2000, n_features=8, random_state=0)
    >>> saes = [SparseAutoencoderDictionary(16, alpha=a, random_state=0) for a in (0.1, 0.2, 0.4)]
    >>> l0 = [sae.train_l0_ for sae in fit_many(saes, X)]
    >>> l0[0] > l0[1] > l0[2]
    True
    """
    if isinstance(estimators, SparseAutoencoderDictionary):
        raise TypeError("estimators must be a list of estimators, but it is a single one.")
    estimators = list(estimators)
    _check_kinds(estimators)
    before = [vars(estimator).copy() for estimator in estimators]
    try:
        _fit_many(estimators, X)
    except BaseException:
        for estimator, attributes in zip(estimators, before, strict=True):
            estimator.__dict__ = attributes
        raise
    return estimators


def _fit_many(estimators, X):
    members, rows = [], None
    for number, estimator in enumerate(estimators):
        with named(number):
            member = _Member(number, estimator)
            source = member.read(X)
        members.append(member)
        rows = source if rows is None else rows  # not each its own, of what had to be converted
    first = members[0]
    random_state = check_random_state(first.params.random_state)
    n_held_out = max(
        number_held_out(member.params, rows.shape, member.previous) for member in members
    )
    training, held_out = rows, None
    if n_held_out:
        training, held_out = rows.split(n_held_out, random_state)
        held_out.check_finite()
    _check_shared(members, len(training))
    warn_of_mixing(training, first.params, batch_size_for(first.params, len(training)))
    for member in members:
        with named(member.number):
            member.begin(training, held_out)
    generator = None
    if first.params.shuffle:
        seed = int(random_state.randint(2**31 - 1))
        generator = torch.Generator(device="cpu").manual_seed(seed)
    longest = max(members, key=lambda member: member.params.max_iter)
    longest.loop.after_step = pace_of(members, longest).after_step
    while going_on := [member for member in members if not member.loop.is_over]:
        for member in going_on:
            member.progress.begin_epoch()
        learn_together([member.loop for member in going_on], generator)
        for member in going_on:
            with named(member.number):
                member.loop.end_epoch()
                member.progress.end_epoch(member.loop)
    for member in members:
        with named(member.number):
            member.end()


class _Member:
    """One of the estimators, and its fit.

    Parameters
    ----------
    number : int
    estimator : SparseAutoencoderDictionary
    """

    def __init__(self, number, estimator):
        self.number, self.estimator = number, estimator
        kind = type(estimator)
        given = {n: python_number(v) for n, v in estimator.get_params(deep=False).items()}
        validate_parameter_constraints(kind._parameter_constraints, given, kind.__name__)
        self.previous, self.is_new = start_of(estimator)
        self.params = checked_params(estimator)
        vars(self.params).update(given)
        warn_of_unused(self.params, default_params(SparseAutoencoderDictionary))
        if not SOLVERS[self.params.solver].in_epochs:
            trained = [name for name, solver in SOLVERS.items() if solver.in_epochs]
            raise ValueError(
                f"solver={self.params.solver!r} does not learn batch by batch. Fit it by itself, "
                f"or use one of {trained}."
            )
        if callbacks_of(estimator):
            raise ValueError(
                "it has callbacks, which fit_many does not call. Leave them out, or fit it by "
                "itself."
            )

    def read(self, X):
        """The rows of X, checked as in a fit of this estimator."""
        device = resolve_device(self.params.device)
        return source_of(self.estimator, X, device, reset=self.is_new, min_samples=2)

    def begin(self, training, held_out):
        """Make the solver and its loop."""
        params, self.held_out = self.params, held_out
        with threads(params, training):
            mean, rms = location_and_scale(training)
        self.alpha, self.variance = alpha_of(params, rms), variance_of(rms, training)
        random_state = check_random_state(params.random_state)
        with threads(params, training):
            solver = start(params, training, mean, rms, self.alpha, self.previous, random_state)
        self.loop = loop_of(solver, params, training, self.alpha, held_out)
        self.progress = Progress(
            self.estimator,
            training,
            params.max_iter,
            self.alpha,
            partial(coding_of, self.estimator),
            name=f"estimators[{self.number}], ",
        )

    def end(self):
        """Give the estimator what was found."""
        loop, estimator = self.loop, self.estimator
        solver, dictionary = loop.best()
        found = Found(
            dictionary, solver, loop.counters, self.alpha, self.variance, loop.rows, self.held_out
        )
        quality = look(found, coding_of(estimator, dictionary))
        attributes_of = partial(attributes_after_fit, coding_of=partial(coding_of, estimator))
        publish(estimator, attributes_of(found, self.params) | quality)


def pace_of(members, longest):
    """Tells after some steps how long the passes of all members will take."""
    n_rows, n_epochs = len(longest.loop.rows), longest.params.max_iter
    verbose = [member.estimator for member in members if member.estimator.verbose]
    what = f"{n_epochs} passes over {n_rows} samples, of {len(members)} estimators,"
    teller = verbose[0] if verbose else longest.estimator
    return Pace(n_rows * n_epochs, lambda seconds: announce(teller, seconds, what))


@contextmanager
def named(number):
    """Errors in this context name the estimator."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"estimators[{number}]: {error}") from error


def _check_kinds(estimators):
    if not estimators:
        raise ValueError("estimators is empty: there is nothing to fit.")
    for number, estimator in enumerate(estimators):
        if not isinstance(estimator, SparseAutoencoderDictionary):
            raise TypeError(
                f"estimators[{number}] must be a SparseAutoencoderDictionary, not "
                f"{type(estimator).__name__}."
            )
    if len(set(map(id, estimators))) < len(estimators):
        raise ValueError("An estimator is in estimators twice. Give a clone of it.")
    if is_joined():
        raise ValueError(
            "fit_many trains in one process, and this one belongs to a group of "
            "torch.distributed. Call fit of each estimator, or destroy the group first."
        )


def _check_shared(members, n_rows):
    first = members[0].params
    sizes = [batch_size_for(member.params, n_rows) for member in members]
    for member, size in zip(members, sizes, strict=True):
        values = {name: (getattr(first, name), getattr(member.params, name)) for name in SHARED}
        values["batch_size"] = sizes[0], size
        for name, (expected, found) in values.items():
            if found != expected:
                raise ValueError(
                    f"{name} must be the same for all estimators, as they learn from the same "
                    f"batches, but estimators[0] has {expected!r} and "
                    f"estimators[{member.number}] has {found!r}."
                )
