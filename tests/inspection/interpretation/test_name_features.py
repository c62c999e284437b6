"""The nearest entries of a vocabulary, against plain loops."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skdict.datasets import load_one_layer_transformer
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.inspection import name_features
from skdict.inspection.interpretation import _vocabulary

NAMES = [f"n{k}" for k in range(50)]


def plain(atoms, embeddings, n, center):
    """Names and cosines of the nearest entries, one atom and one entry at a time."""
    unit = [row / np.linalg.norm(row) for row in embeddings]
    mean = sum(unit) / len(unit) if center else 0
    found = []
    for atom in atoms:
        cosines = [
            atom @ (row - mean) / np.linalg.norm(atom) / np.linalg.norm(row - mean) for row in unit
        ]
        order = np.argsort(cosines)[::-1][:n]
        found.append(([NAMES[k] for k in order], np.array(cosines)[order]))
    return found


@pytest.fixture
def atoms():
    return np.random.default_rng(0).normal(size=(9, 6))


@pytest.fixture
def embeddings():
    return np.random.default_rng(1).normal(size=(50, 6)) + 2.0


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("block", [2**24, 100])
def test_against_plain_loops(atoms, embeddings, center, block, monkeypatch):
    monkeypatch.setattr(_vocabulary, "_BLOCK_SIZE", block)
    result = name_features(atoms, embeddings, NAMES, n_names=4, center=center)
    for k, (names, cosines) in enumerate(plain(atoms, embeddings, 4, center)):
        assert result.names[k] == names
        assert result.explanation[k] == ", ".join(names)
        assert_allclose(result.cosines[k], cosines, atol=1e-6)
        assert result.cosine[k] == result.cosines[k][0]
    assert len(pd.DataFrame(result)) == 9


@pytest.mark.parametrize(
    "convert",
    [
        torch.tensor,
        sp.csr_array,
        np.float32,
        lambda e: e * 1e-200,
        lambda e: e * np.logspace(-150, 150, 50)[:, None],
        lambda e: torch.tensor(e, dtype=torch.float32),
    ],
)
def test_embeddings_of_any_kind_and_scale(atoms, embeddings, convert):
    expected = name_features(atoms, embeddings, NAMES)
    result = name_features(atoms, convert(embeddings), np.array(NAMES))
    assert result.names == expected.names
    assert_allclose(result.cosine, expected.cosine, atol=1e-6)


def test_words_hidden_in_what_all_embeddings_share():
    """Centred, a vocabulary of small differences around a common part is told apart."""
    rng = np.random.default_rng(0)
    words = rng.normal(size=(50, 20))
    common = 3 * rng.normal(size=20)
    atoms = words[:10] + 0.3 * rng.normal(size=(10, 20))
    shifted = name_features(atoms, words + common, NAMES, n_names=1, center=True)
    assert shifted.explanation.tolist() == NAMES[:10]
    assert (shifted.cosine > shifted.cosine_chance + 0.2).all()


def test_chance_is_what_random_directions_reach():
    rng = np.random.default_rng(0)
    atoms, embeddings = rng.normal(size=(200, 30)), rng.normal(size=(50, 30))
    result = name_features(atoms, embeddings, NAMES)
    assert_array_equal(result.cosine_chance, result.cosine_chance[0])
    assert abs(result.cosine.mean() - result.cosine_chance[0]) < 0.02


def test_features_of_an_estimator_and_dead_ones():
    X = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    dictionary = SparseAutoencoderDictionary(12, max_iter=2, random_state=0).fit(X)
    embeddings = np.random.default_rng(1).normal(size=(50, 6))
    dictionary.feature_density_[4] = 0
    result = name_features(dictionary, embeddings, NAMES, [4, 2])
    expected = plain(dictionary.components_[[2]], embeddings, 5, False)[0]
    assert result.names == [[], expected[0]]
    assert result.explanation[0] == "" and "never active" in result.reason[0]
    assert np.isnan(result.cosine[0]) and len(result.cosines[0]) == 0
    assert_array_equal(result.feature, [4, 2])
    assert_array_equal(name_features(dictionary, embeddings, NAMES, 2).cosine, result.cosine[1:])


def test_the_atom_that_is_a_tokens_embedding_has_its_name():
    language = load_one_layer_transformer()
    weight = language.model.get_input_embeddings().weight
    names = [language.tokenizer.decode([k]) for k in range(len(weight))]
    atoms = weight.detach()[[5, 300]] * torch.tensor([[2.0], [0.5]])
    result = name_features(atoms, weight, names, n_names=1)
    assert result.explanation.tolist() == [names[5], names[300]]
    assert_allclose(result.cosine, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"vocabulary_embeddings": np.ones((6, 50))}, ValueError, "but the atoms have 6 features"),
        ({"names": NAMES[:3]}, ValueError, "has 50 rows, but there are 3 names"),
        (
            {"vocabulary_embeddings": np.full((50, 6), np.nan)},
            ValueError,
            "vocabulary_embeddings contains NaN",
        ),
        ({"features": [9]}, ValueError, "features has 9, but there are 9 atoms"),
        ({"n_names": 0}, ValueError, "'n_names' parameter of name_features"),
        ({"dictionary": np.ones(6)}, ValueError, "dictionary must be a matrix"),
    ],
)
def test_bad_input(change, error, message, atoms, embeddings):
    given = {"dictionary": atoms, "vocabulary_embeddings": embeddings, "names": NAMES}
    with pytest.raises(error, match=message):
        name_features(**(given | change))
