"""What is fitted or returned comes back from a file, and a copy is one of its own."""

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch

from skdict._core.models.architectures import ARCHITECTURES, Matryoshka
from skdict.datasets import load_one_layer_transformer, make_superposition
from skdict.decomposition import (
    AmortisationGapDisplay,
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    amortisation_gap,
    compare_dictionaries,
)
from skdict.feature_extraction import ActivationExtractor, DocumentFeatures
from skdict.inspection import (
    FeatureDensityDisplay,
    feature_communities,
    feature_splitting,
    feature_statistics,
    match_features,
    top_activations,
)
from skdict.metrics import DictionaryScorer, ParetoDisplay, explained_variance_scorer

X = make_superposition(300, 8, 16, l0=2.0, noise=0.05, random_state=0)[0]
TEXTS = ["import os", "for i in range(3):", "from re import match"]

# Lasso on a handful of coherent atoms.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def through_skops(obj, folder):
    io = pytest.importorskip("skops.io")
    data = io.dumps(obj)
    return io.loads(data, trusted=io.get_untrusted_types(data=data))


def through_joblib(obj, folder, mmap_mode=None):
    return joblib.load(joblib.dump(obj, folder / "file")[0], mmap_mode=mmap_mode)


WAYS = {
    "pickle": lambda obj, folder: pickle.loads(pickle.dumps(obj)),
    "joblib": through_joblib,
    "joblib read-only": lambda obj, folder: through_joblib(obj, folder, mmap_mode="r"),
    "copy": lambda obj, folder: copy.copy(obj),
    "deepcopy": lambda obj, folder: copy.deepcopy(obj),
    "skops": through_skops,
}


def make(**params):
    params = {"max_iter": 2, "batch_size": 50, "random_state": 0, "device": "cpu", **params}
    return SparseAutoencoderDictionary(16, **params)


@pytest.fixture(scope="module")
def dictionaries():
    """Fitted in every way; not to be changed."""
    found = {}
    for solver in ("autoencoder", "alternating", "dictionary_learning", "kmeans", "lasso"):
        found[f"{solver} fit"] = make(solver=solver).fit(X)
    for solver in ("autoencoder", "alternating", "dictionary_learning"):
        found[f"{solver} partial_fit"] = make(solver=solver).partial_fit(X).partial_fit(X)
    for name in ARCHITECTURES:
        params = {"architecture": name, "n_nonzero_coefs": 2}
        found[f"{name} fit"] = make(**params).fit(X)
        found[f"{name} partial_fit"] = make(**params).partial_fit(X)
    found["instance"] = make(architecture=Matryoshka(k=2, prefixes=(0.5, 1))).partial_fit(X)
    found["early stopping"] = make(solver="alternating", early_stopping=True).fit(X)
    found["seeded"] = make(random_state=np.random.RandomState(0)).partial_fit(X)
    found["initial atoms"] = make(dict_init=np.eye(16, 8) + 0.1).partial_fit(X)
    found["CV"] = SparseAutoencoderDictionaryCV(
        16, alphas=2, cv=2, max_iter=1, random_state=0, device="cpu"
    ).fit(X)
    return found


NAMES = [
    *(
        f"{s} fit"
        for s in ("autoencoder", "alternating", "dictionary_learning", "kmeans", "lasso")
    ),
    *(f"{s} partial_fit" for s in ("autoencoder", "alternating", "dictionary_learning")),
    *(f"{name} {how}" for name in ARCHITECTURES for how in ("fit", "partial_fit")),
    *("instance", "early stopping", "seeded", "initial atoms", "CV"),
]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_dictionaries(dictionaries, name, way, tmp_path):
    original = dictionaries[name]
    codes, state = original.transform(X), pickle.dumps(vars(original))
    restored = WAYS[way](original, tmp_path)
    np.testing.assert_array_equal(restored.transform(X), codes)
    assert restored.score(X) == original.score(X)
    if hasattr(original, "partial_fit"):
        want = copy.deepcopy(original).partial_fit(X[::2])
        restored.partial_fit(X[::2])
        np.testing.assert_array_equal(restored.components_, want.components_)
        assert restored.score(X) == want.score(X)
    restored.fit(X)
    # what the copy has learned is its own
    np.testing.assert_array_equal(original.transform(X), codes)
    assert pickle.dumps(vars(original)) == state or name == "seeded"
    assert not hasattr(clone(restored), "components_")


@pytest.mark.parametrize("name", NAMES)
def test_saved_state_is_plain(dictionaries, name):
    """Arrays and numbers, and no tensor that would tie it to a device."""
    io = pytest.importorskip("skops.io")
    types = io.get_untrusted_types(data=io.dumps(dictionaries[name]))
    own = [each for each in types if not each.startswith("sklearn.")]
    learner = ["skdict.decomposition._dictionary_learning.DictionaryLearningSolver"]
    private = [each for each in own if "._" in each]
    assert private == (learner if name.startswith("dictionary_learning") else [])
    assert all(each.startswith("skdict.") for each in own)


def test_what_fit_keeps_for_going_on(dictionaries):
    """The sizes that the user guide gives, in numbers of n x d and n x n entries."""

    def n_entries(estimator):
        return len(pickle.dumps(estimator)) / 8

    def fitted(solver, method, n, d):
        X = np.random.default_rng(0).normal(size=(n + 200, d))
        estimator = SparseAutoencoderDictionary(
            n, solver=solver, max_iter=1, batch_size=500, random_state=0, device="cpu"
        )
        return n_entries(getattr(estimator, method)(X))

    n, d = 100, 300
    for solver, method, want in (
        ("autoencoder", "fit", 2 * n * d),
        ("autoencoder", "partial_fit", 10 * n * d),
        ("alternating", "fit", 3 * n * d + n * n),
        ("lasso", "fit", n * d),
    ):
        assert fitted(solver, method, n, d) == pytest.approx(want, rel=0.1)


@pytest.fixture(scope="module")
def extractor():
    bundle = load_one_layer_transformer()
    return ActivationExtractor(bundle.path, "transformer.h.0.mlp.act", device="cpu").fit(TEXTS)


@pytest.mark.parametrize("way", WAYS)
def test_extractors_and_features_of_documents(extractor, way, tmp_path):
    activations = extractor.transform(TEXTS)
    dictionary = SparseAutoencoderDictionary(8, max_iter=1, random_state=0).fit(activations)
    features = DocumentFeatures(extractor, FrozenEstimator(dictionary)).fit(TEXTS)
    want = features.transform(TEXTS).toarray()
    restored = WAYS[way](features, tmp_path)
    np.testing.assert_array_equal(restored.transform(TEXTS).toarray(), want)
    restored = WAYS[way](extractor, tmp_path)
    np.testing.assert_array_equal(restored.transform(TEXTS), activations)


@pytest.fixture(scope="module")
def results(dictionaries):
    dictionary = dictionaries["autoencoder fit"]
    codes = dictionary.transform(X)
    gap = amortisation_gap(dictionary, X)
    return {
        "amortisation_gap": gap,
        "AmortisationGapDisplay": AmortisationGapDisplay(gap),
        "DictionaryScorer": DictionaryScorer(("score", "l0")),
        "explained_variance_scorer": explained_variance_scorer,
        "feature_statistics": feature_statistics(codes),
        "top_activations": top_activations(codes),
        "feature_splitting": feature_splitting(codes[:, :4], codes),
        "match_features": match_features(codes, codes),
        "feature_communities": feature_communities(codes),
        # what holds a frame or a picture is not for skops
        "compare_dictionaries": compare_dictionaries({"sae": dictionary}, X, X),
        "ParetoDisplay": ParetoDisplay.from_estimators({"sae": dictionary}, X),
        "FeatureDensityDisplay": FeatureDensityDisplay.from_codes(codes),
    }


def assert_same(one, other):
    """Equal in all entries, down to the last array."""
    assert type(one) is type(other)
    if isinstance(one, Bunch | dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for each in zip(one, other, strict=True):
            assert_same(*each)
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other)
    elif isinstance(one, np.ndarray | float | int | str):
        np.testing.assert_array_equal(one, other)
    elif type(one).__module__.startswith("skdict"):
        assert_same(vars(one), vars(other))


PLAIN = [
    *("amortisation_gap", "AmortisationGapDisplay", "DictionaryScorer"),
    *("explained_variance_scorer", "feature_statistics", "top_activations"),
    *("feature_splitting", "match_features", "feature_communities"),
]
WITH_FRAMES_OR_PICTURES = ["compare_dictionaries", "ParetoDisplay", "FeatureDensityDisplay"]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "joblib read-only"])
@pytest.mark.parametrize("name", PLAIN + WITH_FRAMES_OR_PICTURES)
def test_results(results, name, way, tmp_path):
    pytest.importorskip("matplotlib")
    if way == "skops" and name in WITH_FRAMES_OR_PICTURES:
        pytest.skip("skops has no frames and no pictures")
    assert_same(results[name], WAYS[way](results[name], tmp_path))
