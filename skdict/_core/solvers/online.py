"""Online dictionary learning (Mairal, Bach, Ponce and Sapiro 2009) with an intercept.

Alternates between Lasso codes of a batch with the dictionary held fixed, and one round of block
coordinate descent on the atoms with all codes so far held fixed. Those enter through sums that
are small, A = Σ z̃ᵀz̃ and B = Σ z̃ᵀx with z̃ = (z, 1): the last component is the intercept, always
on, not penalised and of any norm.
"""

import torch

from ..coding.lasso import Lasso
from ..distributed.strategy import ALONE
from ..kernels import (
    add_at_,
    add_outer_products,
    decode,
    transposed_product,
    update_in_turn,
)
from ..optim import normalize_

# Of each sample's Lasso objective. With a tenth of it the atoms become no better.
TOL = 1e-2
# An atom is unused whose mean square code is less, with data of E‖x‖² = n_features.
UNUSED = 1e-6
# Atoms that are updated after one matrix product, one after the other.
BLOCK = 64


class OnlineDictionaryLearning:
    """A dictionary in training, and all that it remembers of the samples that it has seen.

    Parameters
    ----------
    dictionary : tensor of shape (n_components, n_features)
        Unit rows.
    intercept : tensor of shape (n_features,)
    generator : torch.Generator
        On the CPU.
    fit_intercept : bool
    strategy : Strategy
        Of several processes each codes some of the rows of a batch; all of them remember the same.
    """

    def __init__(self, dictionary, intercept, generator, *, fit_intercept=True, strategy=ALONE):
        n_components, n_features = dictionary.shape
        self.dictionary = dictionary.clone()
        self.intercept = intercept.clone()
        self.generator = generator
        self.fit_intercept = fit_intercept
        self.strategy = strategy
        self.code_code = dictionary.new_zeros(n_components + 1, n_components + 1)
        self.code_sample = dictionary.new_zeros(n_components + 1, n_features)
        self.n_steps = 0

    @torch.no_grad()
    def step(self, x, alpha, n_rows=None):
        """Code the rows of x (B, n_features) and update the atoms; their objective, summed.

        ``n_rows`` is the number of rows of all processes.
        """
        n_rows = len(x) if n_rows is None else n_rows
        centred = x - self.intercept
        support, values, _ = Lasso(self.dictionary, alpha, tol=TOL)(centred)
        residual = centred - decode(values, support, self.dictionary)
        squares = torch.linalg.vector_norm(residual, dim=1).square()
        objective = 0.5 * squares.sum() + alpha * values.sum()
        self._remember(support, values, x, n_rows)
        self._update_atoms()
        self._replace_unused(centred, squares, n_rows)
        self.n_steps += 1
        return objective

    def _remember(self, support, values, x, size):
        """Add the sums of a batch; the older a batch the less it counts, as in sklearn's."""
        seen = (self.n_steps + 1) * size
        if self.n_steps >= size - 1:
            seen = size**2 + self.n_steps + 1 - size
        keep = (seen + 1 - size) / (seen + 1)
        self.code_code *= keep
        self.code_sample *= keep
        if self.strategy.is_alone:
            self._add_sums(self.code_code, self.code_sample, support, values, x, size)
            return
        code_code, code_sample = map(torch.zeros_like, (self.code_code, self.code_sample))
        self._add_sums(code_code, code_sample, support, values, x, size)
        self.code_code += self.strategy.data.sum_(code_code)
        self.code_sample += self.strategy.data.sum_(code_sample)

    def _add_sums(self, code_code, code_sample, support, values, x, size):
        """Add the sums of rows, divided by the size of the batch that they are of."""
        n = len(self.dictionary)
        add_outer_products(code_code, support, values, 1 / size)
        total = add_at_(values.new_zeros(n), support.indices, values) / size
        code_code[n, :n] += total
        code_code[:n, n] += total
        code_code[n, n] += len(x) / size
        code_sample[:n] += transposed_product(values / size, support, x)
        code_sample[n] += x.sum(dim=0) / size

    def _update_atoms(self):
        """Minimise over each atom in turn: D_j ← D_j + (B_j - A_j D) / A_jj, then of norm 1."""
        n = len(self.dictionary)
        table = torch.cat([self.dictionary, self.intercept[None]])
        used = self.code_code.diagonal()[:n] > UNUSED
        for start in range(0, n, BLOCK):
            rows = slice(start, min(start + BLOCK, n))
            missing = self.code_sample[rows] - self.code_code[rows] @ table
            update_in_turn(table[rows], missing, self.code_code[rows, rows], used[rows])
        self.dictionary = table[:n]
        if self.fit_intercept:
            explained = self.code_code[n, :n] @ self.dictionary
            self.intercept = (self.code_sample[n] - explained) / self.code_code[n, n]

    def _replace_unused(self, centred, squares, n_rows):
        """Point atoms that have not been used for long at samples that are badly explained."""
        n = len(self.dictionary)
        rows = (self.code_code.diagonal()[:n] <= UNUSED).nonzero()[:, 0]
        if len(rows) == 0:
            return
        data = self.strategy.data
        centred, squares = data.gathered(centred, n_rows), data.gathered(squares, n_rows)
        weights = squares.double().cpu()
        rows = rows[: int((weights > 0).sum())]
        if len(rows) == 0:
            return
        drawn = torch.multinomial(weights, len(rows), generator=self.generator)
        self.dictionary[rows] = normalize_(centred[drawn.to(centred.device)])
        self.code_code[rows] = 0
        self.code_code[:, rows] = 0
        self.code_sample[rows] = 0

    def state_dict(self, *, own=False):
        """The whole state in a dict, with the tensors themselves and not copies.

        With ``own`` too: every process has all of it.
        """
        state = {**vars(self), "generator": self.generator.get_state()}
        del state["strategy"]
        return state

    def distributed(self, strategy):
        """The same state in one of several processes, or alone, with tensors of its own."""
        return self.from_state_dict(self.state_dict(), self.dictionary.device, strategy)

    @classmethod
    def from_state_dict(cls, state, device, strategy=ALONE):
        """Go on from a state on a device, with tensors of its own."""
        generator = torch.Generator(device="cpu")
        generator.set_state(state["generator"])
        learner = cls(
            state["dictionary"].to(device),
            state["intercept"].to(device),
            generator,
            fit_intercept=state["fit_intercept"],
            strategy=strategy,
        )
        for name in ("code_code", "code_sample"):
            setattr(learner, name, state[name].to(device, copy=True))
        learner.n_steps = state["n_steps"]
        return learner
