"""Online dictionary learning: its sums and its updates against plain numpy."""

import numpy as np
import pytest
import torch

from skdict._core.kernels import Support
from skdict._core.optim import normalize_
from skdict._core.solvers import online as dict_learning
from skdict._core.solvers.online import OnlineDictionaryLearning


def make_learner(n=12, d=6, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    atoms = normalize_(torch.randn(n, d, generator=generator, dtype=torch.float64))
    x = torch.randn(50, d, generator=generator, dtype=torch.float64)
    return OnlineDictionaryLearning(atoms, torch.zeros(d).double(), generator, **options), x


def random_codes(n_rows, n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.rand(n_rows, n, generator=generator).double()
    codes[codes < 0.7] = 0
    return codes


def as_support(codes):
    active = codes != 0
    indptr = torch.nn.functional.pad(active.sum(dim=1).cumsum(0), (1, 0))
    return Support(indptr, active.nonzero()[:, 1], codes.shape[1]), codes[active]


def test_older_samples_weigh_less():
    """The s-th of t samples has a weight proportional to (s / t)^(ρ - 1)."""
    learner, x = make_learner()
    augmented, weights, seen = [], [], 0
    for batch in x.split([10, 25, 15]):
        codes = random_codes(len(batch), 12, seed=seen)
        learner._remember(*as_support(codes), batch, len(batch), 3)
        learner.n_seen = after = seen + len(batch)
        weights.append(torch.full((len(batch),), (after**3 - seen**3) / 50**3 / len(batch)))
        augmented.append(torch.cat([codes, torch.ones(len(batch), 1)], dim=1))
        seen = after
    augmented, weights = torch.cat(augmented), torch.cat(weights).double()[:, None]
    assert weights.sum() == pytest.approx(1)
    torch.testing.assert_close(learner.code_code, augmented.T @ (weights * augmented))
    torch.testing.assert_close(learner.code_sample, augmented.T @ (weights * x))


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("block", [1, 5, 64])
def test_atoms_are_updated_in_turn(block, fit_intercept, monkeypatch):
    monkeypatch.setattr(dict_learning, "BLOCK", block)
    learner, x = make_learner(fit_intercept=fit_intercept)
    codes = random_codes(50, 12)
    codes[:, 4] = 0  # unused
    learner._remember(*as_support(codes), x, len(x), 1)
    table = torch.cat([learner.dictionary, learner.intercept[None]]).numpy().copy()
    a, b = learner.code_code.numpy(), learner.code_sample.numpy()
    for j in range(12):
        if j != 4:
            table[j] += (b[j] - a[j] @ table) / a[j, j]
            table[j] /= np.linalg.norm(table[j])
    if fit_intercept:
        table[12] = (b[12] - a[12, :12] @ table[:12]) / a[12, 12]
    learner._update_atoms()
    np.testing.assert_allclose(learner.dictionary, table[:12], atol=1e-12)
    np.testing.assert_allclose(learner.intercept, table[12], atol=1e-12)


def test_each_update_lowers_the_error_of_the_codes():
    learner, x = make_learner()
    codes = random_codes(50, 12)
    learner._remember(*as_support(codes), x, len(x), 1)

    def error():
        return float((x - codes @ learner.dictionary - learner.intercept).square().sum())

    errors = [error()]
    for _ in range(4):
        learner._update_atoms()
        errors.append(error())
    assert errors == sorted(errors, reverse=True)


def test_unused_atoms_are_replaced():
    learner, x = make_learner()
    learner.dictionary[7] = -learner.dictionary[:7].sum(dim=0)  # of no use to any sample
    normalize_(learner.dictionary)
    x = x.abs() @ learner.dictionary[:6, :].abs()
    learner.step(x, 0.1)
    unused = learner.code_code.diagonal()[:12] == 0
    centred = normalize_(x.clone())
    for atom in learner.dictionary[unused]:
        assert (centred @ atom).max() == pytest.approx(1)
    torch.testing.assert_close(
        torch.linalg.vector_norm(learner.dictionary, dim=1), torch.ones(12).double()
    )


@pytest.mark.parametrize("rows_to_compare", [4096, 7])
def test_redundant_atoms(rows_to_compare, monkeypatch):
    """Against the loss of each pair, one after the other."""
    monkeypatch.setattr(dict_learning, "ROWS_TO_COMPARE", rows_to_compare)
    learner, _ = make_learner(n=40, d=4, seed=2)
    use = torch.rand(40, generator=torch.Generator().manual_seed(0)).double()
    use[5] = use[9]
    learner.dictionary[9] = learner.dictionary[5]  # equals: one of them stays
    learner.code_code.diagonal()[:40] = use
    atoms, use, found = learner.dictionary.numpy(), use.numpy(), {}
    for j in range(40):
        losses = {}
        for k in range(40):
            if (use[k], k) > (use[j], j):
                merged = (use[j] * atoms[j] + use[k] * atoms[k]) / (use[j] + use[k])
                squares = ((atoms[[j, k]] - merged) ** 2).sum(axis=1)
                losses[k] = squares @ use[[j, k]] / 2
        if losses and min(losses.values()) < dict_learning.REDUNDANT * use[j] / 2:
            found[j] = min(losses, key=losses.get), min(losses.values()) / use[j]
    expected = {j: loss for j, (partner, loss) in found.items() if partner not in found}
    least = sorted(expected, key=expected.get)[: int(40 * dict_learning.MOST_REPLACED)]
    assert len(expected) > len(least) > 1
    assert learner._redundant().nonzero()[:, 0].tolist() == sorted(least)


def test_redundant_atoms_are_replaced_where_they_are_looked_for(monkeypatch):
    redundant = torch.zeros(12, dtype=torch.bool)
    redundant[3] = True
    monkeypatch.setattr(OnlineDictionaryLearning, "_redundant", lambda learner: redundant.clone())
    after = []
    for looks in (False, True):
        learner, x = make_learner()
        learner.step(x, 0.1)
        learner.step(x, 0.1, looks_for_redundant=looks)
        after.append(learner.dictionary)
    assert torch.equal(after[0][~redundant], after[1][~redundant])
    centred = normalize_(x - learner.intercept)
    assert (centred @ after[0][3]).max() < 0.999 < (centred @ after[1][3]).max()
