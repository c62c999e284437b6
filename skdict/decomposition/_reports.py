"""What a fit tells while it goes on: scikit-learn's callbacks, and what ``verbose`` prints."""

import logging
import time
from contextlib import contextmanager
from contextvars import ContextVar

from .._core.distributed.ranks import is_first
from .._core.training.pace import Pace
from ._code_quality import quality_of

# Runs that are estimated to take longer, in seconds, are announced.
LONG = 60
# Rows, evenly spread, that are coded for a line of `verbose`.
N_LOOKED_AT = 10_000
LOGGER = logging.getLogger("skdict")

# Of a fit that is part of a search: what is told how long it will take.
_search = ContextVar("search", default=None)


@contextmanager
def part_of_search(tell):
    """Fits in this context are parts of a search, which warns and estimates for all of them.

    Parameters
    ----------
    tell : callable
        Is given the seconds that a fit is estimated to take.
    """
    token = _search.set(tell)
    try:
        yield
    finally:
        _search.reset(token)


def is_part_of_search():
    return _search.get() is not None


class Reports:
    """Of one fit.

    Parameters
    ----------
    estimator : estimator
    X : array-like, or callable that returns it
    y : array-like or None
    context : sklearn.callback.CallbackContext
        Of the whole fit.
    coding_of : callable
        From a dictionary to the estimator's way to code with it.
    """

    def __init__(self, estimator, X, y, context, coding_of):
        self.estimator = estimator
        # Callbacks want a target; that of a reconstruction is X.
        self.data = {"estimator": estimator, "X": X, "y": X if y is None else y}
        self.context = context
        self.coding_of = coding_of
        self.task = None

    def begin(self, resumable):
        """The fit begins; callbacks may give it a state to go on from.

        Parameters
        ----------
        resumable : ResumableFit
        """
        self.context.call_on_fit_task_begin(**self.data, metadata={"resumable_fit": resumable})

    def learn(self, rows, n_epochs, alpha, n_done=0):
        """The fit learns from the rows of a source, with so many passes over them.

        Callbacks are not told of passes that another process has done.
        """
        for _ in range(n_done):
            self.context.subcontext(task_name="pass")
        self.progress = Progress(
            self.estimator, rows, n_epochs, alpha, self.coding_of, n_done=n_done
        )
        self.after_step = Pace(len(rows) * (n_epochs - n_done), self._estimated).after_step

    def begin_epoch(self):
        self.task = self.context.subcontext(task_name="pass")
        self.task.call_on_fit_task_begin(**self.data)
        self.progress.begin_epoch()

    def end_epoch(self, loop, attributes):
        """Whether a callback wants to stop; ``attributes()`` are those of the fit as it is."""
        self.progress.end_epoch(loop)
        return self.task.call_on_fit_task_end(**self.data, reconstruction_attributes=attributes)

    def after_epoch(self, objectives, dictionary):
        """As of `Progress`, which begins the next pass."""
        self.progress.after_epoch(objectives, dictionary)
        self.progress.begin_epoch()

    def found(self, dictionary):
        """Print a line after a fit that has told of no pass."""
        self.progress.found(dictionary)

    def end(self):
        self.context.call_on_fit_task_end(**self.data, reconstruction_attributes=dict)

    def _estimated(self, seconds):
        if is_part_of_search():
            _search.get()(seconds)
        else:
            progress = self.progress
            passes = f"{progress.n_epochs} passes over {len(progress.rows)} samples"
            announce(self.estimator, seconds, passes)


class Progress:
    """Prints a line after each pass of a fit, if its estimator is verbose.

    Parameters
    ----------
    estimator : estimator
    rows : Source
    n_epochs : int
    alpha : float
    coding_of : callable
        From a dictionary to the estimator's way to code with it.
    n_done : int, default=0
        Passes that another process has done.
    name : str, default=""
        What tells this fit from others that go on at the same time.
    """

    def __init__(self, estimator, rows, n_epochs, alpha, coding_of, *, n_done=0, name=""):
        self.estimator, self.rows, self.n_epochs = estimator, rows, n_epochs
        self._alpha, self._coding_of, self._name = alpha, coding_of, name
        self._n_done, self._n_told, self._seconds = n_done, 0, 0.0
        self.begin_epoch()

    def begin_epoch(self):
        self._began = time.perf_counter()

    def end_epoch(self, loop):
        """Tell of the pass that a `TrainingLoop` has made."""
        curves = {"objective": loop.loss_curve, "of held-out samples": loop.validation_curve}
        objectives = {name: curve[-1] for name, curve in curves.items() if curve}
        self.after_epoch(objectives, lambda: loop.current()[1])

    def after_epoch(self, objectives, dictionary):
        """Print a line after a pass.

        Parameters
        ----------
        objectives : dict of str to float
        dictionary : callable
            Returns the dictionary as it is.
        """
        seconds = time.perf_counter() - self._began
        self._n_done += 1
        self._n_told += 1
        self._seconds += seconds
        if self.estimator.verbose:
            left = self._seconds / self._n_told * (self.n_epochs - self._n_done)
            what = f"pass {self._n_done}/{self.n_epochs}"
            pace = [f"{len(self.rows) / max(seconds, 1e-9):.3g} rows/s"]
            pace += [f"{duration(left)} left"] if self._n_done < self.n_epochs else []
            self._print(what, objectives, dictionary(), pace)

    def found(self, dictionary):
        """Print a line after a fit that has told of no pass."""
        if self.estimator.verbose and not self._n_done:
            self._print("fit", {}, dictionary, [duration(time.perf_counter() - self._began)])

    def _print(self, what, objectives, dictionary, pace):
        dictionary.alpha = self._alpha
        coding = self._coding_of(dictionary)
        print_progress(self.estimator, f"{self._name}{what}", objectives, coding, self.rows, pace)


def announce(estimator, seconds, what):
    """Say how long a long run will take: print it, or with ``verbose=0`` log it."""
    if seconds < LONG or not is_first():
        return
    message = f"[{type(estimator).__name__}] {what} will take about {duration(seconds)}"
    if estimator.verbose:
        print(message)
    else:
        LOGGER.info("%s; verbose=1 tells how far they are", message)


def print_progress(estimator, what, objectives, coding, rows, pace=()):
    """Print what has been done, and what the codes of some of the rows are worth.

    Of several processes the first one does.
    """
    if not is_first():
        return
    quality = quality_of(coding, rows, N_LOOKED_AT)
    parts = [
        *(f"{name} {value:.6g}" for name, value in objectives.items()),
        f"L0 {quality.l0:.3g}",
        f"explained variance {quality.explained_variance:.3f}",
        f"dead {quality.silent:.1%}",
        *pace,
    ]
    print(f"[{type(estimator).__name__}] {what}: {', '.join(parts)}")


def duration(seconds):
    """Seconds in words: "45 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.2g} h"
