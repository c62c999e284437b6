"""Solvers that are scikit-learn's own, and atoms as they are given."""

import copy
import math

import numpy as np
from sklearn import decomposition

from ..utils._random import global_random_state_kept


class MiniBatchDictionaryLearning:
    """scikit-learn's estimator of this name on centred data, with non-negative codes.

    It sees (x - mean) / scale, so that its initial atoms and thresholds suit data of any scale, in
    float64: in float32 its coordinate descent seldom reaches the tolerance, sweeps to its limit
    and warns.

    Parameters
    ----------
    estimator : SparseAutoencoderDictionary
        Its parameters are passed on; those of the same name mean the same.
    n_components : int
    alpha : float
    batch_size : int
    atoms : tensor of shape (n_components, n_features) or None
        Initial atoms.
    mean : tensor of shape (n_features,)
        Subtracted from the data; becomes the intercept.
    scale : float
        Brings the data to E‖x‖² = n_features.
    random_state : RandomState
    """

    def __init__(
        self, estimator, n_components, alpha, batch_size, atoms, mean, scale, random_state
    ):
        early = estimator.early_stopping
        # for the order of streams; the learner's own draws stay what they are
        self.shuffling = copy.deepcopy(random_state)
        self.mean = mean.cpu().numpy()
        self.scale = scale
        self.learner = decomposition.MiniBatchDictionaryLearning(
            n_components=n_components,
            alpha=alpha / scale,
            max_iter=estimator.max_iter,
            fit_algorithm="cd",
            positive_code=True,
            batch_size=batch_size,
            shuffle=estimator.shuffle,
            dict_init=None if atoms is None else atoms.cpu().numpy(),
            tol=estimator.tol if early else 0.0,
            max_no_improvement=estimator.n_iter_no_change if early else None,
            random_state=random_state,
            verbose=bool(estimator.verbose),
        )

    def _scaled(self, rows):
        return (rows[:].cpu().double().numpy() - self.mean) / self.scale

    @property
    def n_steps(self):
        return getattr(self.learner, "n_steps_", 0)

    @global_random_state_kept()
    def fit(self, rows):
        self.learner.fit(self._scaled(rows))
        counters = {"n_iter_": math.ceil(self.learner.n_iter_), "n_steps_": self.learner.n_steps_}
        return {**counters, "loss_curve_": [], **self.attributes()}

    @global_random_state_kept()
    def partial_fit(self, rows, alpha, batch_size, *, shuffle, verbose):
        """One pass over a portion of a stream, in batches."""
        X = self._scaled(rows)
        self.learner.set_params(alpha=alpha / self.scale, verbose=bool(verbose))
        if self.n_steps == 0 and len(X) > batch_size:  # its first atoms come from all of X
            self.learner.set_params(max_iter=1, batch_size=batch_size, shuffle=shuffle)
            self.learner.set_params(tol=0.0, max_no_improvement=None).fit(X)
            return
        n_batches = math.ceil(len(X) / batch_size)
        order = self.shuffling.permutation(len(X)) if shuffle and n_batches > 1 else slice(None)
        for batch in np.array_split(X[order], n_batches):
            self.learner.partial_fit(batch)

    def attributes(self):
        components = self.learner.components_
        norms = np.linalg.norm(components, axis=1, keepdims=True)
        # sklearn keeps atoms inside the unit ball; an unused one may have shrunk to zero.
        return {
            "components_": (components / np.where(norms > 0, norms, 1)).astype(self.mean.dtype),
            "intercept_": self.mean,
        }

    def copy_to(self, device):
        """The same with arrays of its own; they are never on a device."""
        return copy.deepcopy(self)


class FixedAtoms:
    """Atoms that are not learned.

    Parameters
    ----------
    atoms : tensor of shape (n_components, n_features)
        Unit rows.
    mean : tensor of shape (n_features,)
        Becomes the intercept.
    """

    def __init__(self, atoms, mean):
        self.atoms = atoms
        self.mean = mean

    def fit(self, rows):
        return {
            "components_": self.atoms.to(self.mean).cpu().numpy(),
            "intercept_": self.mean.cpu().numpy(),
            "n_iter_": 1,
            "n_steps_": 0,
            "loss_curve_": [],
        }
