"""The default estimator finds planted atoms."""

import numpy as np
import pytest

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.metrics import dictionary_recovery, explained_variance, mean_max_cosine


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"solver": "alternating", "max_iter": 4}])
def test_planted_atoms_are_found(params):
    X, dictionary, codes = make_superposition(50_000, 64, 256, l0=3.0, random_state=0)
    X = X.astype(np.float32)
    estimator = SparseAutoencoderDictionary(256, device="cpu", random_state=0, **params).fit(X)
    assert mean_max_cosine(estimator.components_, dictionary) >= 0.98
    assert dictionary_recovery(estimator.components_, dictionary) >= 0.98  # one to one
    assert np.mean(estimator.feature_density_ > 0) >= 0.98
    # and the codes tell which atom it was
    found = (estimator.components_ @ dictionary.T).argmax(axis=1)
    largest = estimator.transform(X[:2000]).argmax(axis=1)
    assert np.mean(found[largest] == codes[:2000].argmax(axis=1)) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("n_components", "max_iter"), [(1024, 1), (2048, 3)])
def test_many_atoms_for_few_clusters_do_not_add_up(n_components, max_iter):
    """Short runs of a dictionary with dozens of atoms for every direction of the data."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(40, 32))
    X = centers[rng.integers(40, size=4000)] + 0.1 * rng.normal(size=(4000, 32))
    sae = SparseAutoencoderDictionary(
        n_components, batch_size=100, max_iter=max_iter, random_state=0
    ).fit(X)
    assert explained_variance(X, sae.inverse_transform(sae.transform(X))) > 0.95
