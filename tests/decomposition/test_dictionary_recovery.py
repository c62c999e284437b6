"""The default estimator finds planted atoms."""

import numpy as np

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.metrics import dictionary_recovery, mean_max_cosine


def test_planted_atoms_are_found():
    X, dictionary, codes = make_superposition(50_000, 64, 256, l0=3.0, random_state=0)
    X = X.astype(np.float32)
    estimator = SparseAutoencoderDictionary(256, device="cpu", random_state=0).fit(X)
    assert mean_max_cosine(estimator.components_, dictionary) >= 0.98
    assert dictionary_recovery(estimator.components_, dictionary) >= 0.98  # one to one
    assert np.mean(estimator.feature_density_ > 0) >= 0.98
    # and the codes tell which atom it was
    found = (estimator.components_ @ dictionary.T).argmax(axis=1)
    largest = estimator.transform(X[:2000]).argmax(axis=1)
    assert np.mean(found[largest] == codes[:2000].argmax(axis=1)) > 0.8
