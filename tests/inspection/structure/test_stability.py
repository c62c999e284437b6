"""stability_report: planted features recur, untrained ones do not, and every count by hand."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from sklearn.decomposition import NMF, DictionaryLearning, FastICA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.inspection import stability_report

X, ATOMS, _ = make_superposition(n_samples=4000, n_features=16, n_components=32, random_state=0)
KMEANS = SparseAutoencoderDictionary(8, solver="kmeans", max_iter=2)
DICTIONARY = SparseAutoencoderDictionary(32)


@pytest.fixture(scope="module")
def report():
    return stability_report(DICTIONARY, X, n_seeds=3, random_state=0)


@pytest.mark.slow
def test_planted_features_recur_and_untrained_ones_do_not(report):
    assert report.shared_fraction > 0.9
    assert report.recurring_fraction[-1] > 0.85
    assert report.random_fraction < 0.3
    assert report.samples_fraction < report.shared_fraction - 0.3


@pytest.mark.slow
def test_those_that_recur_are_the_planted_ones(report):
    in_all = report.n_recurring[0] == 2
    cosine = (report.estimators[0].components_ @ ATOMS.T).max(axis=1)
    assert cosine[in_all].min() > 0.9


@pytest.mark.slow
def test_all_counts_by_hand(report):
    components = [fitted.components_ for fitted in report.estimators]
    n_recurring = np.zeros((3, 32), dtype=int)
    fractions = []
    for i in range(3):
        for j in range(3):
            if i == j:
                assert np.isnan(report.similarity[i, j]).all()
                continue
            cosine = components[i] @ components[j].T
            rows, partner = linear_sum_assignment(-cosine)
            np.testing.assert_allclose(report.similarity[i, j], cosine[rows, partner])
            n_recurring[i] += cosine[rows, partner] >= 0.7
            fractions.append(np.mean(cosine[rows, partner] >= 0.7))
    np.testing.assert_array_equal(report.n_recurring, n_recurring)
    np.testing.assert_allclose(
        report.recurring_fraction, [np.mean(n_recurring >= m) for m in range(3)]
    )
    assert report.shared_fraction == pytest.approx(np.mean(fractions))
    assert report.shared_fraction_std == pytest.approx(np.std(fractions, ddof=1))
    for name in ("shared", "random", "samples"):
        curve = report[f"{name}_fractions"]
        assert curve[report.cosines == 0.7] == pytest.approx(report[f"{name}_fraction"])
        assert (np.diff(curve) <= 0).all()


@pytest.mark.slow
def test_the_fits_are_independent(report):
    starts = [fitted.get_params()["random_state"] for fitted in report.estimators]
    assert len(set(starts)) == 3
    assert len({fitted.components_.tobytes() for fitted in report.estimators}) == 3


def test_the_seeds_are_those_of_random_state():
    seeds = [
        [e.random_state for e in stability_report(e, X[:500], random_state=0).estimators]
        for e in (KMEANS, SparseAutoencoderDictionary(8, solver="kmeans", random_state=9))
    ]
    assert seeds[0] == seeds[1]
    assert seeds[0] == np.random.RandomState(0).randint(2**31 - 1, size=5).tolist()


def test_dead_features_do_not_count():
    wide = SparseAutoencoderDictionary(24, solver="lasso", dict_init="random", transform_alpha=1.5)
    report = stability_report(wide, X[:300], n_seeds=2, random_state=0)
    density = np.array([fitted.feature_density_ for fitted in report.estimators])
    assert (density == 0).any()
    np.testing.assert_array_equal(report.n_dead, (density == 0).sum(axis=1))
    np.testing.assert_array_equal(report.n_recurring == -1, density == 0)
    alive = report.n_recurring[density > 0]
    np.testing.assert_allclose(report.recurring_fraction, [1, np.mean(alive >= 1)])


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy, csr_array])
def test_kinds_of_arrays(convert):
    found = stability_report(KMEANS, convert(X), n_seeds=2, random_state=0)
    expected = stability_report(KMEANS, X, n_seeds=2, random_state=0)
    np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-6)
    np.testing.assert_allclose(found.samples_fractions, expected.samples_fractions)


def test_pipelines_and_estimators_of_scikit_learn():
    pipeline = make_pipeline(StandardScaler(), KMEANS)
    found = stability_report(pipeline, X, n_seeds=2, random_state=0)
    scaled = StandardScaler().fit_transform(X)
    expected = stability_report(KMEANS, scaled, n_seeds=2, random_state=0)
    np.testing.assert_allclose(found.similarity, expected.similarity)
    np.testing.assert_allclose(found.samples_fractions, expected.samples_fractions)
    ica = stability_report(FastICA(4, whiten="unit-variance"), X, n_seeds=2, random_state=0)
    assert ica.similarity.shape == (2, 2, 4)


@pytest.mark.parametrize("dict_init", [ATOMS, "pca", "identity"])
def test_a_shared_start_is_refused(dict_init):
    dictionary = SparseAutoencoderDictionary(24, dict_init=dict_init)
    with pytest.raises(ValueError, match=r"dict_init is .*: all fits would begin with the same"):
        stability_report(dictionary, X)
    with pytest.raises(ValueError, match="dictionarylearning__dict_init is a ndarray"):
        learning = DictionaryLearning(24, dict_init=ATOMS)
        stability_report(make_pipeline(StandardScaler(), learning), X)


def test_bad_estimators():
    with pytest.raises(TypeError, match="StandardScaler has no random_state"):
        stability_report(StandardScaler(), X)
    with pytest.raises(ValueError, match="'n_seeds' parameter"):
        stability_report(NMF(2), X, n_seeds=1)


def test_fits_of_different_widths_are_refused():
    class Alternates(FastICA):
        def fit(self, X, y=None):
            super().fit(X)
            self.components_ = self.components_[: 2 + self.random_state % 2]
            return self

    seeds = np.random.RandomState(0).randint(2**31 - 1, size=4)
    assert len(set(seeds % 2)) == 2
    with pytest.raises(ValueError, match=r"The fits have \[2, 3\] components"):
        stability_report(Alternates(4, whiten="unit-variance"), X, n_seeds=4, random_state=0)
