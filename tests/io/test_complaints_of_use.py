"""Public complaints about the use of loaded dictionaries: 5, 7 and 10 of the list of formats."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from skdict import ActivationExtractor
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import RowTransform
from skdict.io import load_dictionary, save_dictionary

GOLDEN = Path(__file__).parent / "golden"
MISFIT = "fraction of variance unexplained"


@pytest.fixture(scope="module")
def centred():
    """Rows as TransformerLens gives them by default: each has mean zero."""
    X = make_superposition(4000, 16, 32, l0=2.0, noise=0.02, random_state=0)[0].astype(np.float32)
    return X - X.mean(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def published(centred, tmp_path_factory):
    """A dictionary that was trained on them, as a file of SAELens."""
    folder = tmp_path_factory.mktemp("published") / "sae"
    sae = SparseAutoencoderDictionary(32, alpha=0.05, random_state=0).fit(centred)
    save_dictionary(sae, folder, format="sae_lens")
    return folder


def test_5_rows_that_are_not_centred_are_told_apart(centred, published):
    """Rows of transformers are not centred as TransformerLens' are: the loss is absurd."""
    rng = np.random.default_rng(0)
    raw = centred + 3 * rng.normal(size=(len(centred), 1)).astype(np.float32)
    dictionary = load_dictionary(published)
    with pytest.warns(UserWarning, match=MISFIT) as caught:
        dictionary.calibrate(raw)
    assert "centred" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dictionary.calibrate(RowTransform(centre=True).fit_transform(raw))


def test_5_the_extractor_centres_them():
    dictionary = load_dictionary(GOLDEN / "saelens-jumprelu")
    dictionary.activation_ = {"model": "m", "layer": "h.3", "transform": "centre_rows"}
    pipeline = ActivationExtractor.for_dictionary(dictionary)
    assert pipeline.named_steps["rows"].centre


@pytest.mark.parametrize("name", ["gpt2-small-res-jb", "gemma-scope-2b-pt-res-canonical"])
def test_7_a_release_is_no_repository(name):
    """Names of SAELens' table are neither folders nor repositories."""
    with pytest.raises((ValueError, FileNotFoundError), match=r"owner/name") as caught:
        load_dictionary(name, local_files_only=True)
    assert name in str(caught.value)


def test_10_special_tokens_that_training_left_out_are_left_out():
    dictionary = load_dictionary(GOLDEN / "saelens-topk-rescale")
    assert dictionary.activation_["excluded_tokens"]
    known = dictionary.activation_ | {"layer": "h.3", "model": "m"}
    dictionary.activation_ = known
    extractor = ActivationExtractor.for_dictionary(dictionary)
    extractor = getattr(extractor, "named_steps", {"extractor": extractor})["extractor"]
    assert extractor.include_special_tokens is False


def test_10_rows_of_extreme_norm_are_told(centred, published):
    """The first position of a language model has a norm that is a hundred times the others'."""
    X = centred.copy()
    X[::50] = 300 * np.sign(np.arange(16) - 7.5)
    dictionary = load_dictionary(published)
    with pytest.warns(UserWarning) as caught:
        dictionary.calibrate(X)
    told = " ".join(str(each.message) for each in caught)
    assert "first position" in told or "massive" in told or "norm" in told
