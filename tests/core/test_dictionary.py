"""A dictionary's coders: prepared once, and again when what they were made of has been edited."""

import copy
import pickle

import pytest
import torch

from skdict._core import dictionary as module
from skdict._core.coding import CODERS, Codebook, Encoder
from skdict._core.dictionary import Dictionary

N, D = 12, 6


@pytest.fixture
def dictionary():
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(N, D, generator=generator)
    encoder = Encoder(atoms.clone(), torch.full((N,), -0.1))
    return Dictionary(atoms, torch.randn(D, generator=generator), encoder, alpha=0.5)


@pytest.fixture
def n_made(monkeypatch):
    """How often each coder has been made."""
    counts = dict.fromkeys((*CODERS, "encoder"), 0)

    def counted(name, make):
        def count(*args, **kwargs):
            counts[name] += 1
            return make(*args, **kwargs)

        return count

    for name, coder in CODERS.items():
        monkeypatch.setitem(CODERS, name, counted(name, coder))
    monkeypatch.setattr(module, "replace", counted("encoder", module.replace))
    return counts


EDITS = {
    "encoder": lambda dictionary: dictionary.encoder.bias.add_(1),
    "lasso": lambda dictionary: dictionary.components.neg_(),
    "omp": lambda dictionary: dictionary.components.neg_(),
    "threshold": lambda dictionary: dictionary.components.neg_(),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_coder_is_prepared_once_and_never_stale(dictionary, n_made, name):
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(1))
    before = dictionary.coder(name)(x).dense()
    assert torch.equal(dictionary.coder(name)(x).dense(), before)
    assert n_made[name] == 1
    EDITS[name](dictionary)
    after = dictionary.coder(name)(x).dense()
    assert n_made[name] == 2
    assert torch.equal(after, dictionary.copy().coder(name)(x).dense())
    assert not torch.equal(after, before)


def test_edits_of_other_parts_need_no_preparation(dictionary, n_made):
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(1))
    encode, lasso = dictionary.coder("encoder"), dictionary.coder("lasso", alpha=0.1)
    before = encode(x + dictionary.intercept).dense(), lasso(x + dictionary.intercept).dense()
    EDITS["lasso"](dictionary)
    dictionary.intercept += 1
    codes = dictionary.coder("encoder")(x + dictionary.intercept).dense()
    torch.testing.assert_close(codes, before[0])
    assert n_made["encoder"] == 1
    EDITS["lasso"](dictionary)
    codes = dictionary.coder("lasso", alpha=0.1)(x + dictionary.intercept).dense()
    torch.testing.assert_close(codes, before[1])
    assert n_made["lasso"] == 1


def test_conversions_follow_edits(dictionary):
    first = dictionary.to(torch.float64, torch.device("cpu"))
    assert dictionary.to(torch.float64, torch.device("cpu")) is first
    dictionary.intercept += 1
    second = dictionary.to(torch.float64, torch.device("cpu"))
    torch.testing.assert_close(second.intercept, dictionary.intercept.double())


def test_the_atoms_of_a_codebook_are_there_once(dictionary):
    atoms = dictionary.components
    codebook = Codebook(atoms, torch.ones(N), [N])
    dictionary = Dictionary(atoms, dictionary.intercept, codebook)
    for other in (dictionary.copy(), dictionary.to(torch.float64, torch.device("cpu"))):
        assert other.encoder.atoms is other.components
        assert other.components is not atoms


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))]
)
def test_copies_prepare_for_themselves(dictionary, copied):
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(1))
    codes = dictionary.coder("lasso", alpha=0.1)(x).dense()
    other = copied(dictionary)
    assert other._prepared == {}
    assert torch.equal(other.coder("lasso", alpha=0.1)(x).dense(), codes)


def test_few_rows_are_coded_without_a_look_and_follow_edits(dictionary, n_made):
    x = torch.randn(3, D, generator=torch.Generator().manual_seed(1))
    before = dictionary.coder("encoder", 3)(x).dense()
    dictionary.encoder.weight.mul_(2)
    after = dictionary.coder("encoder", 3)(x).dense()
    centred = x - dictionary.intercept
    want = torch.relu(centred @ dictionary.encoder.weight.T + dictionary.encoder.bias)
    torch.testing.assert_close(after, want)
    assert not torch.allclose(before, after)
    assert n_made["encoder"] == 0
    assert dictionary._prepared == {}


def test_coders_that_do_not_exist_are_named(dictionary):
    with pytest.raises(ValueError, match=r"no coder 'lassso'. Use one of .*'lasso'.*'encoder'"):
        dictionary.coder("lassso")
    without = Dictionary(dictionary.components, dictionary.intercept)
    with pytest.raises(ValueError, match="no coder 'encoder'"):
        without.coder("encoder")
