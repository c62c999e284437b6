"""Online dictionary learning with an intercept (Mairal, Bach, Ponce and Sapiro 2009) that forgets.

Alternates between Lasso codes of a batch with the dictionary held fixed, and one round of block
coordinate descent on the atoms with the codes so far held fixed. Those enter through averages that
are small, A = mean of z̃ᵀz̃ and B = mean of z̃ᵀx with z̃ = (z, 1): the last component is the
intercept, always on, not penalised and of any norm.

Codes of long ago are codes in wrong atoms: averages in which all count alike hold the atoms back
for ever. So the weight of the s-th of t samples is proportional to (s / t)^(ρ - 1), section 3.4.3
of their longer paper (JMLR 11, 2010): whatever t is, the last t / ρ samples decide.
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
# Of two atoms that share a direction one is replaced: if one atom in place of both would lose less
# than this fraction of what the weaker explains. So much at a time at most, of all atoms.
REDUNDANT = 0.4
MOST_REPLACED = 0.05
# Atoms that are compared with all others at a time.
ROWS_TO_COMPARE = 4096


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
        self.n_seen = 0  # samples

    @torch.no_grad()
    def step(self, x, alpha, n_rows=None, *, forgetting=1, looks_for_redundant=False):
        """Learn from a batch.

        Parameters
        ----------
        x : tensor of shape (B, n_features)
        alpha : float
        n_rows : int, optional
            Rows of the batch of all processes.
        forgetting : float
            ρ. With 1 all samples count alike, as in scikit-learn.
        looks_for_redundant : bool
            Whether atoms that others can stand in for are replaced, beside those without use.

        Returns
        -------
        objective : tensor, scalar
            Summed over the rows of x, before the atoms change.
        """
        n_rows = len(x) if n_rows is None else n_rows
        centred = x - self.intercept
        support, values, _ = Lasso(self.dictionary, alpha, tol=TOL)(centred)
        residual = centred - decode(values, support, self.dictionary)
        squares = torch.linalg.vector_norm(residual, dim=1).square()
        objective = 0.5 * squares.sum() + alpha * values.sum()
        self._remember(support, values, x, n_rows, forgetting)
        self._update_atoms()
        replaced = self._mean_squares() <= UNUSED
        if looks_for_redundant:
            replaced |= self._redundant()
        self._resample(replaced, centred, squares, n_rows)
        self.n_steps += 1
        self.n_seen += n_rows
        return objective

    def _mean_squares(self):
        """Of the codes of each atom, (n,)."""
        return self.code_code.diagonal()[:-1]

    def _remember(self, support, values, x, size, forgetting):
        """Average the sums of a batch with those before it."""
        keep = (self.n_seen / (self.n_seen + size)) ** forgetting
        self.code_code *= keep
        self.code_sample *= keep
        weight = (1 - keep) / size
        if self.strategy.is_alone:
            self._add_sums(self.code_code, self.code_sample, support, values, x, weight)
            return
        code_code, code_sample = map(torch.zeros_like, (self.code_code, self.code_sample))
        self._add_sums(code_code, code_sample, support, values, x, weight)
        self.code_code += self.strategy.data.sum_(code_code)
        self.code_sample += self.strategy.data.sum_(code_sample)

    def _add_sums(self, code_code, code_sample, support, values, x, weight):
        """Add the sums of rows, times a weight."""
        n = len(self.dictionary)
        add_outer_products(code_code, support, values, weight)
        total = weight * add_at_(values.new_zeros(n), support.indices, values)
        code_code[n, :n] += total
        code_code[:n, n] += total
        code_code[n, n] += weight * len(x)
        code_sample[:n] += transposed_product(weight * values, support, x)
        code_sample[n] += weight * x.sum(dim=0)

    def _update_atoms(self):
        """Minimise over each atom in turn: D_j ← D_j + (B_j - A_j D) / A_jj, then of norm 1."""
        n = len(self.dictionary)
        table = torch.cat([self.dictionary, self.intercept[None]])
        used = self._mean_squares() > UNUSED
        for start in range(0, n, BLOCK):
            rows = slice(start, min(start + BLOCK, n))
            missing = self.code_sample[rows] - self.code_code[rows] @ table
            update_in_turn(table[rows], missing, self.code_code[rows, rows], used[rows])
        self.dictionary = table[:n]
        if self.fit_intercept:
            explained = self.code_code[n, :n] @ self.dictionary
            self.intercept = (self.code_sample[n] - explained) / self.code_code[n, n]

    def _redundant(self):
        """Atoms that another one can stand in for: bool of shape (n,).

        With mean square codes a and c, one atom in place of two of cosine γ loses
        (1 - γ) a c / (a + c), as two clusters that are merged do in Ward's method; the weaker of
        the two explains half of its own mean square code.
        """
        atoms, use = self.dictionary, self._mean_squares()
        n = len(atoms)
        numbers = torch.arange(n, device=use.device)
        loss, partner = torch.full_like(use, torch.inf), numbers.clone()
        for start in range(0, n, ROWS_TO_COMPARE):
            rows = slice(start, start + ROWS_TO_COMPARE)
            weaker = use[rows, None]
            of_pair = (1 - atoms[rows] @ atoms.T) * (use / (use + weaker))  # over `weaker`
            is_equal = use == weaker  # of these the last one is the stronger
            is_stronger = (use > weaker) | (is_equal & (numbers > numbers[rows, None]))
            of_pair.masked_fill_(~is_stronger, torch.inf)
            loss[rows], partner[rows] = of_pair.min(dim=1)
        redundant = loss < REDUNDANT / 2
        redundant &= ~redundant[
            partner
        ]  # of a chain of atoms the ends do not stand for each other
        n_most = max(1, int(MOST_REPLACED * n))
        least = loss.masked_fill(~redundant, torch.inf).topk(min(n_most, n), largest=False).indices
        chosen = torch.zeros_like(redundant)
        chosen[least] = True
        return redundant & chosen

    def _resample(self, replaced, centred, squares, n_rows):
        """Point atoms at samples that are badly explained."""
        rows = replaced.nonzero()[:, 0]
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
        learner.n_steps, learner.n_seen = state["n_steps"], state["n_seen"]
        return learner
