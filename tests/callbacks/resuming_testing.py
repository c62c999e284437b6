"""Fits that are stopped between two steps, and what has to be the same when they go on."""

import numpy as np

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary

ARCHITECTURES = (
    *("relu", "topk", "batch_topk", "matryoshka"),
    *("jumprelu", "gated", "abs_topk", "group_max"),
)
# All that trains in steps; the last three have held-out rows, and so a best epoch.
FITS = {
    **{name: {"architecture": name} for name in ARCHITECTURES},
    "alternating": {"solver": "alternating"},
    "no shuffling": {"shuffle": False},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 2},
    "best pass": {"early_stopping": "auto", "tol": 0.0, "architecture": "batch_topk"},
    "alternating, early stopping": {"solver": "alternating", "early_stopping": True},
}
N_STEPS = 96  # 4 epochs of 24; features are resampled after 29 and 53


def make_data(n_samples=3000):
    return make_superposition(n_samples, 16, 32, random_state=0)[0].astype(np.float32)


def make_estimator(**params):
    defaults = {"max_iter": 4, "batch_size": 128, "random_state": 0, "early_stopping": False}
    return SparseAutoencoderDictionary(32, device="cpu", **(defaults | params))


class Stopped(Exception):
    pass


class Listener:
    """A callback that takes part in a fit as `Checkpoint` does.

    Parameters
    ----------
    stop_at : int, optional
        After how many steps it raises `Stopped`.
    keep_at : collection of int
        After how many steps it keeps the state, in ``states``.
    resume : dict, optional
        What the fit goes on from.
    """

    def __init__(self, *, stop_at=None, keep_at=(), resume=None):
        self.stop_at = stop_at
        self.keep_at = keep_at
        self.resume = resume
        self.states = {}
        self.called = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, *, metadata=None):
        fit = (metadata or {}).get("resumable_fit")
        if fit is not None:
            fit.listen(self)
            if self.resume is not None:
                fit.resume(self.resume)

    def on_fit_task_end(self, estimator, context):
        pass

    def between_steps(self, fit):
        self.called.append(fit.n_steps)
        if fit.n_steps in self.keep_at:
            self.states[fit.n_steps] = fit.state_dict()
        if fit.n_steps == self.stop_at:
            raise Stopped

    def finish(self, fit):
        self.called.append("finish")

    def close(self):
        self.called.append("close")


def assert_same_fit(one, other):
    """To the last bit."""
    names = {name for name in vars(one) if name.endswith("_")}
    assert names == {name for name in vars(other) if name.endswith("_")}
    for name in names:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def assert_goes_on_the_same(one, other, X):
    """Statistics of the codes, and what `partial_fit` goes on from; changes both."""
    assert one.score(X) == other.score(X)
    one, other = (each.partial_fit(X[:200]) for each in (one, other))
    np.testing.assert_array_equal(one.components_, other.components_)
