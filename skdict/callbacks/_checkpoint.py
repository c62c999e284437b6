"""`Checkpoint`: what keeps the state of fits on disk."""

import os
import threading
from numbers import Real
from pathlib import Path

from ..utils._sklearn_compat import Interval, validate_params
from ..utils._warnings import warn_once
from ._kept_fit import KeptFit, check_same, newest_of_others
from ._kept_in_parts import Elsewhere

# Ancestors of a task that fit what is below them once.
FIT_ONCE = ("Pipeline",)


class Checkpoint:
    """Keep the state of a fit on disk, and go on from it when the same script is run again.

    It is set on the outermost estimator: a dictionary, a Pipeline or a search. With interruptions
    and without, the fit finds the same dictionary, to the last bit. A fit that was finished
    returns at once. None goes on if anything has changed that its result depends on.

    Parameters
    ----------
    path : str or Path
        Folder of the checkpoints, and no URL. It is made. Each fit has a folder in it, by what its
        result depends on; in a search there are many.
    every : float, default=600
        Seconds from one checkpoint to the next, at least. A checkpoint takes about three times the
        memory of the dictionary and its encoder, once in memory and twice on the disk.

    Raises
    ------
    TypeError or ValueError
        If a parameter is out of range.

    Warns
    -----
    UserWarning
        In a fit: if a checkpoint cannot be written, as when the disk is full (the fit goes on, and
        the former checkpoint stays); if one is damaged (the one before it is taken); if the solver
        has no steps to go on from.

    See Also
    --------
    skdict.io.save_dictionary : Keep a dictionary that is finished.

    Notes
    -----
    `fit` raises a ValueError if the folder holds the state of another fit, and names the first
    difference: a parameter, the data (shape, dtype, their numbers; of more than 64 MB those that
    are evenly spread, and mean and scale of all; of a store its ``buffer_bytes``, on which the
    order of the rows depends), the dictionary that it starts from, versions of
    skdict, torch, NumPy and Numba, the number of threads, the CPU's instructions, the device. In a
    search, whose fits differ, another fit only means another folder. With ``random_state=None``
    the fit goes on with the random numbers that it began with; a second fit that is otherwise the
    same returns what the first has found.

    The solvers "autoencoder" and "alternating" can be interrupted between any two steps. The
    others begin anew, of which a warning tells.

    A checkpoint is a folder ``step-000012345`` of ``state.safetensors`` and ``state.json``, which
    holds digests of all. It is written in a thread of its own, under another name until it is on
    the disk; then all but the newest two are removed. One fit at a time uses its folder.

    Where several processes fit together by data, the first one keeps the state and hands it out
    again. Where each of them holds some of the atoms, each writes a file of these,
    ``rows-00003.safetensors``, and ``path`` has to be a folder that all of them see. Any number of
    processes may go on: with as many as before to the last bit, with others but for the last
    digits.

    Examples
    --------
    >>> import tempfile
    >>> from skdict.callbacks import Checkpoint
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
    >>> with tempfile.TemporaryDirectory() as path:
    ...     for _ in range(2):  # the second fit returns at once
    ...         sae = SparseAutoencoderDictionary(16, random_state=0)
    ...         sae = sae.set_callbacks(Checkpoint(path, every=600)).fit(X)
    >>> sae.components_.shape
    (16, 8)
    """

    @validate_params(
        {"path": [str, Path], "every": [Interval(Real, 0, None, closed="left")]},
        prefer_skip_nested_validation=True,
    )
    def __init__(self, path, every=600):
        self.path = Path(path)
        self.every = every
        self._process = os.getpid()
        self._seen = set()  # folders of fits that this object has served

    @property
    def max_propagation_depth(self):
        """Down to which depth of estimators scikit-learn passes it on: all."""
        return None

    def setup(self, estimator, context):
        """Do nothing: a fit tells of itself when it begins.

        Parameters
        ----------
        estimator : estimator
        context : CallbackContext
        """

    def teardown(self, estimator, context):
        """Do nothing: a fit ends by itself, in other processes too.

        Parameters
        ----------
        estimator : estimator
        context : CallbackContext
        """

    def on_fit_task_begin(self, estimator, context, *, metadata=None):
        """Look for a state that a fit can go on from, and have its state kept.

        Parameters
        ----------
        estimator : estimator
        context : CallbackContext
        metadata : dict, default=None
            With the fit as ``"resumable_fit"``, where it is one.

        Raises
        ------
        ValueError
            If the folder holds the state of another fit, or no checkpoint in it can be read.

        Notes
        -----
        Of several processes that fit together the first one looks. Of those that hold different
        atoms each will write the state of its own.
        """
        fit = (metadata or {}).get("resumable_fit")
        if fit is None:
            return
        if fit.obstacle is not None:
            message = (
                f"Checkpoint has no effect on this fit: {fit.obstacle}. If it is interrupted it "
                "begins anew."
            )
            warn_once(message, message)
            return
        kept = KeptFit(self.path, fit.fingerprint, self.every)
        if not fit.is_first:
            fit.listen(Elsewhere(kept.folder))
            return
        if not self._is_one_of_several(context):
            other = newest_of_others(self.path, {kept.folder, *self._seen})
            if other is not None and not kept.exists:
                check_same(other, fit.fingerprint)
        self._seen.add(kept.folder)
        kept.take(fit)

    def on_fit_task_end(self, estimator, context):
        """Do nothing: what is left of a fit is kept after its last step.

        Parameters
        ----------
        estimator : estimator
        context : CallbackContext
        """

    def _is_one_of_several(self, context):
        """Whether other fits, of a search or of other processes, have folders in the path."""
        while context.parent is not None:
            context = context.parent
            if context.estimator_name not in FIT_ONCE:
                return True
        is_copy = os.getpid() != self._process
        return is_copy or threading.current_thread() is not threading.main_thread()
