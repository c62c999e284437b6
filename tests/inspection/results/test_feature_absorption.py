"""Absorption of first letters, on planted codes and on a model that can spell."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.pipeline import make_pipeline

from skdict.datasets import load_one_layer_transformer
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import feature_absorption
from skdict.inspection.results._absorption import absorption_of

D = 150


def planted(*, absorbed=0.5, share=1.0, noise=0.01):
    """Words of three letters: an atom for each letter and for each group of words.

    A fraction of the words of letter 0 is absorbed: each has an atom of its own, which makes up
    `share` of the letter's direction. The letter's feature has the rest.
    """
    rng = np.random.default_rng(0)
    letters = np.repeat(np.arange(3), 200)
    basis = np.linalg.qr(rng.normal(size=(D, D)))[0]
    is_absorbed = (letters == 0) & (rng.random(600) < absorbed)
    n_absorbed = int(is_absorbed.sum())
    atoms = basis[: 8 + n_absorbed].copy()
    atoms[8:] += 2.0 * share * basis[0]
    codes = np.zeros((600, len(atoms)))
    codes[np.arange(600), letters] = 2.0
    group = 3 + rng.integers(5, size=600)
    group[is_absorbed] = 8 + np.arange(n_absorbed)
    codes[np.arange(600), group] = 1.0
    codes[is_absorbed, 0] = 2.0 * (1 - share)
    norms = np.linalg.norm(atoms, axis=1)
    X = codes @ atoms + noise * rng.normal(size=(600, D))
    return X, codes * norms, atoms / norms[:, None], letters, is_absorbed


def measure(X, codes, atoms, letters, **options):
    names = np.array(["a", "b", "c"])
    arguments = {"test_size": 0.5, "random_state": np.random.RandomState(0)} | options
    return absorption_of(X, codes, atoms, np.zeros(D), letters, names, **arguments)


def test_planted_full_absorption_is_counted():
    X, codes, atoms, letters, is_absorbed = planted()
    found = measure(X, codes, atoms, letters)
    assert list(found.letter) == ["a", "b", "c"] and found.probe_accuracy == 1
    test = np.random.RandomState(0).permutation(600)[:300]
    expected = is_absorbed[test][letters[test] == 0].mean()
    assert [list(main) for main in found.main_features] == [[0], [1], [2]]
    assert_allclose(found.full_absorption[0], expected)
    assert_allclose(found.absorption_fraction[0], expected, atol=0.02)
    assert (found.absorbing_features[0] >= 8).all()
    assert len(found.absorbing_features[0]) == round(expected * found.n_words[0])
    assert_array_equal(found.full_absorption[1:], 0)
    assert_array_equal(found.absorption_fraction[1:], 0)
    assert_allclose(found.mean_full_absorption, found.full_absorption.mean())


def test_partial_absorption_is_a_fraction():
    X, codes, atoms, letters, is_absorbed = planted(share=0.6, noise=0.001)
    found = measure(X, codes, atoms, letters)
    test = np.random.RandomState(0).permutation(600)[:300]
    rate = is_absorbed[test][letters[test] == 0].mean()
    assert found.full_absorption[0] == 0  # the feature of the letter is still active
    assert_allclose(found.absorption_fraction[0], 0.6 * rate, atol=0.03)


def test_nothing_is_absorbed_where_every_letter_has_its_feature():
    X, codes, atoms, letters, _ = planted(absorbed=0.0)
    found = measure(X, codes, atoms, letters)
    assert found.mean_full_absorption == found.mean_absorption_fraction == 0
    assert_allclose(found.main_f1, 1)


def test_probes_that_know_nothing_are_refused():
    X, codes, atoms, letters, _ = planted()
    rng = np.random.default_rng(1)
    with pytest.raises(
        ValueError, match=r"of 300 words right.* no direction for the first letter"
    ):
        measure(rng.normal(size=X.shape), codes, atoms, letters)


def test_features_that_split_a_letter_are_all_main_ones():
    X, codes, atoms, letters, _ = planted(absorbed=0.0)
    half = (letters == 0) & (np.arange(600) % 2 == 0)
    codes = np.hstack([codes, np.where(half, codes[:, 0], 0)[:, None]])
    codes[half, 0] = 0
    found = measure(X, codes, np.vstack([atoms, atoms[:1]]), letters)
    assert set(found.main_features[0]) == {0, 8}
    assert found.mean_full_absorption == 0


class Speller(torch.nn.Module):
    """Its activation at a token is a vector of the token, and of the token's first letter."""

    def __init__(self, tokenizer):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        vectors = 0.3 * torch.randn(len(tokenizer), D, generator=generator)
        of_letters = 2 * torch.randn(26, D, generator=generator)
        for token in range(len(tokenizer)):
            word = tokenizer.decode([token]).strip().lower()
            if word[:1].isascii() and word[:1].isalpha():
                vectors[token] += of_letters[ord(word[0]) - ord("a")]
        self.embedding = torch.nn.Embedding.from_pretrained(vectors)

    def forward(self, input_ids, attention_mask=None):
        return self.embedding(input_ids)


@pytest.fixture(scope="module")
def speller():
    tokenizer = load_one_layer_transformer().tokenizer
    extractor = ActivationExtractor(Speller(tokenizer), "embedding", tokenizer=tokenizer)
    X = extractor.model.embedding.weight.detach().numpy()
    dictionary = SparseAutoencoderDictionary(
        64, architecture="topk", n_nonzero_coefs=4, max_iter=8, batch_size=256, random_state=0
    ).fit(X)
    return make_pipeline(extractor, dictionary)


@pytest.mark.slow
def test_a_model_that_can_spell(speller):
    found = feature_absorption(speller, max_words=500, min_words=15)
    table = pd.DataFrame(found)
    assert found.probe_accuracy > 0.9 > 5 * found.chance
    assert len(table) > 7 and set(table.letter) <= set("abcdefghijklmnopqrstuvwxyz")
    assert table.main_f1.median() > 0.8
    assert table.full_absorption.between(0, 1).all()
    assert table.absorption_fraction.between(0, 1).all()
    again = pd.DataFrame(feature_absorption(speller, max_words=500, min_words=15))
    pd.testing.assert_frame_equal(table, again)


def test_words_of_ones_own(speller):
    tokenizer = speller[0].tokenizer
    words = {tokenizer.decode([token]).strip() for token in range(len(tokenizer))}
    words = [word for word in sorted(words) if word.isascii() and word.isalpha()]
    words = [word for word in words if word[0].lower() in "ds"]
    found = feature_absorption(speller, words, template="{word}", min_words=5, max_words=80)
    assert list(found.letter) == ["d", "s"]
    assert found.probe_accuracy > found.chance


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"template": "word"}, r"template='word' has no '\{word\}'"),
        ({"words": ["1st", "second"]}, "words has '1st'"),
        ({"words": ["apple", "pear"]}, "2 words leave 0 letters"),
        ({"words": ["\u00e9t\u00e9"]}, "begins with none"),
        ({"min_words": 1}, "'min_words' parameter"),
    ],
)
def test_bad_words(speller, arguments, message):
    with pytest.raises(ValueError, match=message):
        feature_absorption(speller, **arguments)
