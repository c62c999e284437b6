"""The solver "alternating": online dictionary learning on data brought to a common scale."""

import torch

from ..coding.lasso import Lasso
from ..device import available_memory
from ..dictionary import Dictionary
from ..kernels import decode
from ..sizes import size_of
from .autoencoder import initial_atoms
from .base import EpochSolver, Solver, alpha_in_training, register
from .online import OnlineDictionaryLearning


@register("alternating")
class AlternatingSolver(EpochSolver):
    """`OnlineDictionaryLearning` on (x - mean) / scale."""

    keeps_state = True
    Learner = OnlineDictionaryLearning

    alpha = None  # of `plan`, in the units of training

    @staticmethod
    def work(n_rows, n_features, n_components):
        # the Gram matrix of the atoms, at each step, or the batch
        return max(Solver.work(n_rows, n_features, n_components), n_components**2 * n_features)

    @staticmethod
    def n_numbers(batch_size, n_features, n_components):
        # two matrices of pairs of atoms: products of atoms, and of codes
        return 2 * n_components**2 + (3 * n_features + batch_size) * n_components

    @classmethod
    def start(cls, problem):
        atoms, params = problem.atoms, problem.params
        mean, scale = problem.data.mean, problem.data.scale
        check_memory(problem.n_components, mean)
        generator = problem.generator()
        if atoms is None:
            atoms = initial_atoms(problem.data, problem.n_components, generator)
        intercept = torch.zeros_like(mean)
        if problem.previous is not None and params.fit_intercept:
            intercept = problem.data.standardise(problem.previous.intercept.to(mean))
        learner = OnlineDictionaryLearning(
            atoms.to(mean), intercept, generator, fit_intercept=params.fit_intercept
        )
        return cls(learner, mean, scale)

    @property
    def n_components(self):
        return len(self.learner.dictionary)

    def plan(self, alpha, learning_rate, batch_size, n_steps=None, n_seen=0):
        self.alpha = alpha_in_training(alpha, self.scale)

    def step(self, x, n_rows=None):
        return self.learner.step(x, self.alpha, n_rows)

    def objective(self, alpha):
        alpha, dictionary = alpha_in_training(alpha, self.scale), self.learner.dictionary
        code = Lasso(dictionary, alpha)  # with its Gram matrix, for all rows

        def of_rows(x):
            x = x - self.learner.intercept
            support, values, _ = code(x)
            residual = x - decode(values, support, dictionary)
            return 0.5 * residual.square().sum() + alpha * values.sum()

        return of_rows

    def finish(self, rows):
        intercept = self.standardised(rows).to_data_units(self.learner.intercept)
        return Dictionary(self.learner.dictionary, intercept).copy()


def check_memory(n_components, like):
    """Refuse a matrix of pairs of atoms for which there is no memory."""
    needed, available = n_components**2 * like.itemsize, available_memory(like.device)
    if needed > available:
        raise MemoryError(
            f"solver='alternating' keeps a number for each pair of atoms: with {n_components} "
            f"components {size_of(needed)}, where {size_of(available)} are available. "
            "Use fewer components, or solver='autoencoder'."
        )
