"""Cross-validation along paths of warm-started fits: folds, fits, and what is measured of them."""

import math
import time
from functools import partial
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from sklearn.base import clone
from sklearn.metrics import check_scoring, get_scorer, get_scorer_names
from sklearn.model_selection import GroupKFold, KFold, check_cv

from .._core.data.source import Source
from .._core.solvers import SOLVERS
from ..utils._random import check_random_state
from ._base import coding_of
from ._code_quality import quality_of
from ._likelihood import SparseCodingModel
from ._reports import announce, duration, part_of_search
from ._search_values import EMPTY_L0, MOST_ADDED, as_text

N_FOLDS = 5
# Epochs for every value of a path but the first, as a fraction of max_iter: these fits go on from
# a trained dictionary. With half of it sparse values lag so far behind fits from scratch that one
# too sparse is chosen (benchmarks/README.md).
PATH_FRACTION = 0.3


class Fold(NamedTuple):
    """Samples to learn from and samples to score on.

    Parameters
    ----------
    name : str
        For people: "fold 1/5".
    training, held_out : Source
    seen : Source
        As many of the training samples as are held out, evenly spread.
    y : ndarray or None
        Of the held-out samples.
    """

    name: str
    training: Source
    held_out: Source
    seen: Source
    y: object


class Measured(NamedTuple):
    """What is measured of one fit: on held-out samples, and on some that it has seen."""

    score: float
    l0: float
    explained_variance: float
    train_score: float
    train_l0: float
    train_explained_variance: float
    seconds: float


def check_scorer(scoring):
    """Refuse scorers of predictions: a dictionary has no `predict`."""
    if isinstance(scoring, str) and scoring not in get_scorer_names():
        raise ValueError(
            f"scoring={scoring!r} is not the name of a scorer. Give a callable, such as "
            "skdict.metrics.explained_variance_scorer, or None for the log-likelihood."
        )
    check_scoring(scoring=scoring, allow_none=True)  # refuses metrics of scikit-learn
    scorer = get_scorer(scoring) if isinstance(scoring, str) else scoring
    if isinstance(scorer, type(get_scorer("r2"))):  # whatever make_scorer has made
        verb = "names" if isinstance(scoring, str) else "is"
        raise ValueError(
            f"scoring={scoring!r} {verb} a scorer of predictions, {scorer!r}, and a dictionary "
            "makes none: it has no method of that name. Give a callable, such as "
            "skdict.metrics.explained_variance_scorer, or None for the log-likelihood."
        )


def splitter(cv, groups, random_state):
    """What makes the folds: a number of them is shuffled, and keeps groups together."""
    if cv is not None and not isinstance(cv, Integral):
        return check_cv(cv)
    n_folds = N_FOLDS if cv is None else cv
    seed = check_random_state(random_state).randint(2**31 - 1)
    kind = KFold if groups is None else GroupKFold
    return kind(n_folds, shuffle=True, random_state=seed)


def folds_of(cv, source, y, groups, random_state):
    """A `Fold` for each of the cross-validation, rows in the order of the source."""
    rows, folds = np.arange(len(source)), []
    pairs = list(splitter(cv, groups, random_state).split(source.X, y, groups))
    for i, fold in enumerate(pairs):
        try:  # an iterable of folds may have lists and masks
            train, test = (np.sort(rows[np.asarray(part)]) for part in fold)
        except (IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"cv must give two arrays of row numbers below {len(rows)} for each fold, or two "
                f"masks, but fold {i} is neither: {error}."
            ) from error
        if len(train) < 2 or len(test) == 0:
            raise ValueError(
                f"cv gives {len(train)} samples to learn from and {len(test)} to score on in "
                f"fold {i}, but two and one are needed at least."
            )
        every = math.ceil(len(train) / len(test))
        parts = (source.take(torch.from_numpy(part)) for part in (train, test, train[::every]))
        y_test = None if y is None else np.asarray(y)[test]
        folds.append(Fold(f"fold {i + 1}/{len(pairs)}", *parts, y_test))
    if not folds:
        raise ValueError(f"cv={cv!r} has no folds. Give their number, or a splitter.")
    return folds


def fit_within(estimator, X, y, task, caller, tell):
    """Fit within a task of the caller, whose callbacks hear of it if they are propagated.

    ``tell`` is given the seconds that the fit is estimated to take, after its first steps.
    """
    with part_of_search(tell), task.propagate_callback_context(estimator):
        task.call_on_fit_task_begin(estimator=caller)
        estimator.fit(X, y)
        task.call_on_fit_task_end(estimator=caller)


class PathSearch:
    """Fits of all values on all folds, and of more values while the best one is at an edge.

    Parameters
    ----------
    caller : SparseAutoencoderDictionaryCV
    estimator : SparseAutoencoderDictionary
        With all parameters but those that are searched for.
    values : SearchedValues
    folds : list of Fold
    context : CallbackContext
        Of the whole search.

    Attributes
    ----------
    measured : list of list of Measured
        For each of the values that have been tried, of each fold.
    """

    def __init__(self, caller, estimator, values, folds, context):
        self.caller = caller
        self.estimator = estimator
        self.values = values
        self.folds = folds
        self.context = context
        self.measured = []

    @property
    def best(self):
        """Place of the value with the best mean score, the densest of several."""
        return int(np.argmax([np.mean([fit.score for fit in row]) for row in self.measured]))

    @property
    def is_empty(self):
        """Whether the sparsest codes are empty, or nearly so."""
        return np.mean([fit.l0 for fit in self.measured[-1]]) < EMPTY_L0

    def run(self):
        """Fit and measure; warn if the best value is at an edge in the end."""
        n_values = len(self.values.tried)
        # All tasks beforehand: none can be made while they go to other processes.
        tasks = [
            self.context.subcontext(task_name="fold", max_subtasks=n_values) for _ in self.folds
        ]
        self.measured, ends = self._fit(self.values.tried, tasks, [None] * len(tasks))
        if self.values.is_open:
            self._extend(ends)
        self.values.warn_of_edge(self.best, is_empty=self.is_empty)

    def _extend(self, ends):
        """Add values; ``ends`` are the dictionaries that the paths have come to."""
        most = MOST_ADDED * len(self.folds)
        task = self.context.subcontext(task_name="extension", max_subtasks=most)
        task.call_on_fit_task_begin(estimator=self.caller)
        while (sparser := self.values.add_beyond(self.best, is_empty=self.is_empty)) is not None:
            place = len(self.measured) if sparser else 0
            value, tasks = self.values.tried[place], [task] * len(self.folds)
            if sparser:
                row, ends = self._fit([value], tasks, ends)
            else:  # a dictionary of features does not turn into a denser one by going on
                row, _ = self._fit([value], tasks, [None] * len(tasks))
            self.measured[place:place] = row
        task.call_on_fit_task_end(estimator=self.caller)

    def _listeners(self):
        """For each fold, what the time is told that its first fit is estimated to take."""
        listeners = [do_nothing] * len(self.folds)
        if not self.measured:
            listeners[0] = partial(_announce_search, self.caller, self._n_times_the_first())
        return listeners

    def _n_times_the_first(self):
        """How many times as long as the first fit the search takes, with the last fit."""
        whole, shortened = self.estimator.max_iter, passes_on_a_path(self.estimator)
        sizes = [len(fold.training) for fold in self.folds]
        n_parallel = min(effective_n_jobs(self.caller.n_jobs), len(sizes))
        of_paths = sum(sizes) * (whole + (len(self.values.tried) - 1) * shortened) / n_parallel
        return (of_paths + self.folds[0].training.X.shape[0] * whole) / (sizes[0] * whole)

    def _fit(self, values, tasks, starts):
        """Fit values on all folds: `measured`, and where each fold's path has come to."""
        params = [self.values.params(value) for value in values]
        leaves = [[task.subcontext(task_name=self.values.name) for _ in values] for task in tasks]
        results = Parallel(n_jobs=self.caller.n_jobs)(
            delayed(fit_path)(self.caller, self.estimator, params, *of_fold, self.values.is_open)
            for of_fold in zip(self.folds, tasks, leaves, starts, self._listeners(), strict=True)
        )
        measured, ends = zip(*results, strict=True)
        return [list(row) for row in zip(*measured, strict=True)], ends


def do_nothing(seconds):
    """What most fits are estimated to take is nobody's concern."""


def _announce_search(caller, n_times, seconds):
    announce(caller, n_times * seconds, "the search")


def passes_on_a_path(estimator):
    """Epochs of a fit that goes on from another; all of them where none does."""
    goes_on = {"warm_start", "max_iter"} <= SOLVERS[estimator.solver].used_by(estimator)
    return max(1, round(PATH_FRACTION * estimator.max_iter)) if goes_on else estimator.max_iter


def fit_path(caller, estimator, params, fold, task, leaves, start, tell, may_go_on):
    """Fit a dictionary for each of some values, each from the one before, and measure it.

    Parameters
    ----------
    caller : SparseAutoencoderDictionaryCV
    estimator : SparseAutoencoderDictionary
    params : list of dict
        What to set for each of the values, from the densest codes to the sparsest.
    fold : Fold
    task : CallbackContext
    leaves : list of CallbackContext
        Its parts, one for each of the values.
    start : SparseAutoencoderDictionary or None
        To go on from.
    tell : callable
        Is given the seconds that the first fit is estimated to take.
    may_go_on : bool
        Whether the path may be extended.

    Returns
    -------
    measured : list of Measured
    end : SparseAutoencoderDictionary or None
        The last one. None where the path ends there: other processes would send it in vain.
    """
    fitted, measured = start or clone(estimator), []
    is_whole = task.max_subtasks == len(leaves)  # and not a part of an extension
    if is_whole:
        task.call_on_fit_task_begin(estimator=caller)
    for changed, leaf in zip(params, leaves, strict=True):
        if hasattr(fitted, "components_"):
            fitted.set_params(max_iter=passes_on_a_path(estimator))
            tell = do_nothing
        began = time.perf_counter()
        fit_within(fitted.set_params(**changed), fold.training, None, leaf, caller, tell)
        seconds = time.perf_counter() - began
        measured.append(Measured(*measure(fitted, fold, caller.scoring), seconds))
        if caller.verbose:
            _print_measured(caller, fold.name, changed, measured[-1])
    if is_whole:
        task.call_on_fit_task_end(estimator=caller)
    return measured, fitted if may_go_on else None


def _print_measured(caller, fold, changed, measured):
    value = ", ".join(f"{name}={as_text(value)}" for name, value in changed.items())
    print(
        f"[{type(caller).__name__}] {fold}, {value}: score {measured.score:.6g}, "
        f"L0 {measured.l0:.3g}, explained variance {measured.explained_variance:.3f} on held-out "
        f"samples, {duration(measured.seconds)}"
    )


def measure(fitted, fold, scoring):
    """Score, L0 and explained variance of held-out samples, then of some of the training."""
    by_likelihood = scoring is None
    unseen, seen = (_scored(fitted, rows, by_likelihood) for rows in (fold.held_out, fold.seen))
    if not by_likelihood:
        unseen[0] = _number(scoring(fitted, fold.held_out.whole(), fold.y))
    return *unseen, *seen


def _scored(fitted, rows, by_likelihood):
    """Score as `score` gives it, or NaN, L0 and explained variance: from one coding of rows."""
    coding = coding_of(fitted)
    if not by_likelihood:
        quality = quality_of(coding, rows)
        return [np.nan, quality.l0, quality.explained_variance]
    options = {"signed": coding.signed, "device": rows.device}
    model, blocks = SparseCodingModel.of(fitted, fitted.resolution, **options), []

    def add(codes, residual):
        blocks.append(model.parts(codes, residual).cpu())

    quality = quality_of(coding, rows, also=add)
    parts = torch.cat(blocks)
    return [model.score(parts.sum(dim=0), len(parts)), quality.l0, quality.explained_variance]


def _number(score):
    """What a scorer has returned, if values can be chosen by it."""
    if isinstance(score, dict):
        raise ValueError(
            f"scoring must return one number, but returned a dict with {list(score)}. Choose one "
            "of them: scoring=lambda estimator, X, y: scorer(estimator, X)[name]."
        )
    try:
        score = float(score)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scoring must return one number, but returned {score!r}.") from error
    if np.isnan(score):
        raise ValueError("scoring returned NaN: there is nothing to choose by.")
    return score
