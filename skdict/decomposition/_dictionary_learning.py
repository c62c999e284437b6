"""The solver "dictionary_learning": scikit-learn's."""

import copy
import math

import numpy as np
from sklearn import decomposition

from .._core.data.in_memory import all_in_memory
from .._core.dictionary import Dictionary
from .._core.solvers.base import Solver, register, stops_early
from .._core.tensors import from_numpy
from ..utils._random import global_random_state_kept


@register("dictionary_learning")
class DictionaryLearningSolver(Solver):
    """scikit-learn's MiniBatchDictionaryLearning on centred data, with non-negative codes.

    It sees (x - mean) / scale, so that its initial atoms and thresholds suit data of any scale, in
    float64: in float32 its coordinate descent seldom reaches the tolerance, sweeps to its limit
    and warns.

    Parameters
    ----------
    learner : sklearn.decomposition.MiniBatchDictionaryLearning
    mean : ndarray of shape (n_features,)
        Subtracted from the data; becomes the intercept.
    scale : float
        Brings the data to E‖x‖² = n_features.
    order : RandomState
        For the order of the rows of a portion.
    """

    streams = True
    keeps_state = True
    uses = frozenset(
        {
            "max_iter",
            "batch_size",
            "early_stopping",
            "tol",
            "n_iter_no_change",
            "warm_start",
            "dict_init",
            "shuffle",
        }
    )

    def __init__(self, learner, mean, scale, order):
        self.learner = learner
        self.mean = mean
        self.scale = scale
        self.order = order

    @classmethod
    def start(cls, problem):
        params, atoms = problem.params, problem.atoms
        early = stops_early(params)
        # the learner's own draws stay what they are
        order = copy.deepcopy(problem.random_state)
        learner = decomposition.MiniBatchDictionaryLearning(
            n_components=problem.n_components,
            alpha=problem.alpha / problem.data.scale,
            max_iter=params.max_iter,
            fit_algorithm="cd",
            positive_code=True,
            batch_size=problem.batch_size,
            shuffle=params.shuffle,
            dict_init=None if atoms is None else atoms.cpu().numpy(),
            tol=params.tol if early else 0.0,
            max_no_improvement=params.n_iter_no_change if early else None,
            random_state=problem.random_state,
            verbose=params.verbose > 1,
        )
        return cls(learner, problem.data.mean.cpu().numpy(), problem.data.scale, order)

    def _scaled(self, rows):
        return all_in_memory(
            rows,
            lambda x: (x.cpu().double().numpy() - self.mean) / self.scale,
            np.float64,
            n_arrays=2 if self.learner.shuffle else 1,
            user="solver='dictionary_learning'",
            instead="use solver='autoencoder' or 'alternating', which read X batch by batch",
        )

    @property
    def n_steps(self):
        return getattr(self.learner, "n_steps_", 0)

    @global_random_state_kept()
    def fit(self, rows, progress):
        learner, costs = self.learner, []

        def after_batch(of_sklearn):  # its local variables
            progress.after_step(len(of_sklearn["X_batch"]))
            costs.append(of_sklearn["batch_cost"])
            if len(costs) == of_sklearn["n_steps_per_iter"]:
                learner.components_ = of_sklearn["dictionary"]
                objective = float(np.mean(costs)) * self.scale**2
                progress.after_epoch({"objective": objective}, lambda: self.finish(rows))
                costs.clear()

        learner.set_params(callback=after_batch)
        try:
            learner.fit(self._scaled(rows))
        finally:
            learner.set_params(callback=None)  # a pickle has none
        return {"n_iter_": math.ceil(self.learner.n_iter_), "n_steps_": self.learner.n_steps_}

    @global_random_state_kept()
    def learn_portion(self, rows, alpha, batch_size, *, shuffle, verbose):
        """One pass over a portion of a stream, in batches."""
        X = self._scaled(rows)
        self.learner.set_params(alpha=alpha / self.scale, verbose=verbose > 1)
        if self.n_steps == 0 and len(X) > batch_size:  # its first atoms come from all of X
            self.learner.set_params(max_iter=1, batch_size=batch_size, shuffle=shuffle)
            self.learner.set_params(tol=0.0, max_no_improvement=None).fit(X)
            return
        n_batches = math.ceil(len(X) / batch_size)
        order = self.order.permutation(len(X)) if shuffle and n_batches > 1 else slice(None)
        for batch in np.array_split(X[order], n_batches):
            self.learner.partial_fit(batch)

    def finish(self, rows):
        components = self.learner.components_
        norms = np.linalg.norm(components, axis=1, keepdims=True)
        # sklearn keeps atoms inside the unit ball; an unused one may have shrunk to zero.
        components = (components / np.where(norms > 0, norms, 1)).astype(self.mean.dtype)
        return Dictionary(from_numpy(components), from_numpy(self.mean)).copy()

    def copy_to(self, device):
        """The same with arrays of its own; they are never on a device."""
        return copy.deepcopy(self)
