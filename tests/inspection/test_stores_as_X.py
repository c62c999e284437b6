"""What takes activations takes a store, and finds what it finds in the array."""

import numpy as np
import pytest

from skdict.decomposition import (
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    alpha_grid,
    amortisation_gap,
    compare_dictionaries,
    estimate_fit,
    sparse_encode,
)
from skdict.feature_extraction import ActivationStore
from skdict.inspection import (
    collect_codes,
    feature_association,
    feature_statistics,
    k_sparse_probe,
    top_activations,
)
from skdict.metrics import DictionaryScorer, explained_variance, explained_variance_scorer

Y = np.random.default_rng(1).integers(0, 2, 800)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("store") / "store"
    with ActivationStore.create(path, {"mlp": 8}, tokens=["document"], dtype="float32") as writer:
        for document in range(20):
            rows = rng.exponential(size=(40, 8)) * (rng.random((40, 8)) < 0.4)
            writer.append(rows, {"document": np.full(40, document)})
    return ActivationStore(path)


@pytest.fixture(scope="module")
def X(store):
    return np.asarray(store["mlp"])


@pytest.fixture(scope="module")
def sae(X):
    return SparseAutoencoderDictionary(16, max_iter=2, random_state=0).fit(X)


def codes_with_documents(sae, X):
    """Codes that know their documents, which are the groups of rows."""
    is_array = isinstance(X, np.ndarray)
    tokens = {"document": np.repeat(np.arange(20), 40)} if is_array else None
    return collect_codes(sae, X, tokens=tokens)


CALLS = {
    "transform": lambda sae, X: sae.transform(X),
    "reconstruct": lambda sae, X: sae.reconstruct(X),
    "score": lambda sae, X: sae.score(X),
    "score_samples": lambda sae, X: sae.score_samples(X),
    "set_output": lambda sae, X: sae.set_output(transform="pandas").transform(X).to_numpy(),
    "alpha_grid": lambda sae, X: alpha_grid(X),
    "estimate_fit": lambda sae, X: estimate_fit(sae, X).n_steps,
    "amortisation_gap": lambda sae, X: amortisation_gap(sae, X).encoder["objective"],
    "compare_dictionaries": lambda sae, X: compare_dictionaries({"sae": sae}, X, X)[
        ["l0", "explained_variance"]
    ].to_numpy(float),
    "sparse_encode": lambda sae, X: sparse_encode(X, sae.components_, alpha=0.1),
    "explained_variance": lambda sae, X: explained_variance(X, sae.reconstruct(X)),
    "explained_variance_scorer": lambda sae, X: explained_variance_scorer(sae, X),
    "DictionaryScorer": lambda sae, X: list(DictionaryScorer()(sae, X).values()),
    "collect_codes": lambda sae, X: collect_codes(sae, X).to_csr().toarray(),
    "feature_statistics": lambda sae, X: feature_statistics(collect_codes(sae, X)).density,
    "top_activations": lambda sae, X: top_activations(collect_codes(sae, X))[0].codes,
    "feature_association": lambda sae, X: feature_association(codes_with_documents(sae, X), Y).z,
    "k_sparse_probe": lambda sae, X: k_sparse_probe(codes_with_documents(sae, X), Y, X=X).f1,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_store_gives_what_its_array_gives(sae, store, X, name):
    call = CALLS[name]
    found, want = call(sae, store), call(sae, X)
    sae.set_output(transform="default")
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


def test_choices_by_documents(store):
    search = SparseAutoencoderDictionaryCV(8, alphas=2, cv=2, max_iter=1, random_state=0)
    assert np.isfinite(search.fit(store.documents).best_score_)
    assert np.isfinite(search.fit(store["mlp"]).best_score_)
