"""The solver "alternating": online dictionary learning on data brought to a common scale."""

import math

import torch

from ..coding.lasso import Lasso
from ..device import available_memory
from ..dictionary import Dictionary
from ..kernels import decode
from ..sizes import size_of
from .autoencoder import initial_atoms
from .base import EpochSolver, Solver, alpha_in_training, register
from .online import OnlineDictionaryLearning

# From scratch alpha falls from this fraction of the samples' norm, if it is less, to its own value
# over the first part of the steps: with few non-zeros atoms find their directions faster.
FIRST_ALPHA = 0.1
FALLING = 0.7
SMALLEST_FALL = 1e-3  # of that; what is below comes at once
# Forgetting (see `online`) at the first planned step and at the last, which is that of streams:
# atoms that are far from where they end need samples that were coded lately, and those that are
# near need many (benchmarks/forgetting.py).
FIRST_FORGETTING, LAST_FORGETTING = 64, 4
# Redundant atoms are looked for every so many steps; new ones need the last part to settle.
LOOK_EVERY = 16
LOOKING = 0.8


@register("alternating")
class AlternatingSolver(EpochSolver):
    """`OnlineDictionaryLearning` on (x - mean) / scale."""

    keeps_state = True
    Learner = OnlineDictionaryLearning

    alpha, n_planned = None, None  # of `plan`: in the units of training; steps, None of a stream

    def __init__(self, learner, mean, scale, *, from_scratch):
        super().__init__(learner, mean, scale)
        self.from_scratch = from_scratch

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
        is_named = params.dict_init is None or isinstance(params.dict_init, str)
        from_scratch = problem.previous is None and is_named
        return cls(learner, mean, scale, from_scratch=from_scratch)

    @property
    def n_components(self):
        return len(self.learner.dictionary)

    def plan(self, alpha, learning_rate, batch_size, n_steps=None, n_seen=0):
        self.alpha, self.n_planned = alpha_in_training(alpha, self.scale), n_steps

    def step(self, x, n_rows=None):
        step, n_planned = self.n_steps, self.n_planned
        looks = (step + 1) % LOOK_EVERY == 0
        looks &= n_planned is None or step < LOOKING * n_planned
        return self.learner.step(
            x,
            self._alpha_at(step),
            n_rows,
            forgetting=self._forgetting_at(step),
            looks_for_redundant=looks,
        )

    def _forgetting_at(self, step):
        if self.n_planned is None:
            return LAST_FORGETTING
        return FIRST_FORGETTING * (LAST_FORGETTING / FIRST_FORGETTING) ** (step / self.n_planned)

    def _alpha_at(self, step):
        """The coefficient of a step: it falls by the same factor from each to the next."""
        first = FIRST_ALPHA * math.sqrt(len(self.mean))  # of standardised samples
        if not self.from_scratch or self.n_planned is None or self.alpha >= first:
            return self.alpha
        left = 1 - step / (FALLING * self.n_planned)
        if left <= 0:
            return self.alpha
        least = max(self.alpha, SMALLEST_FALL * first)  # of alpha 0 too
        return least * (first / least) ** left

    @property
    def is_settled(self):
        return self.n_steps > 0 and self._alpha_at(self.n_steps - 1) == self.alpha

    def state_dict(self, *, copy=False, own=False):
        return super().state_dict(copy=copy, own=own) | {"from_scratch": self.from_scratch}

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
