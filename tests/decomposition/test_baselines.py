"""Atoms by name and codebooks, against scikit-learn's estimators and by hand."""

import numpy as np
import pytest
from dictionary_testing import make_estimator
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, FastICA, MiniBatchNMF

from skdict.decomposition import SparseAutoencoderDictionary
from skdict.metrics import dictionary_recovery, explained_variance, mean_l0


def fixed(name, n_components="auto", **params):
    return make_estimator(
        solver="lasso", dict_init=name, n_components=n_components, max_iter=20, **params
    )


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_principal_directions_with_both_signs(planted):
    estimator = fixed("pca").fit(planted)
    directions = PCA().fit(planted).components_
    assert estimator.components_.shape == (32, 16)
    cosines = (estimator.components_[::2] * directions).sum(axis=1)
    np.testing.assert_allclose(abs(cosines), 1)
    np.testing.assert_array_equal(estimator.components_[1::2], -estimator.components_[::2])
    few = fixed("pca", 5).fit(planted).components_  # an odd number: the last with one sign
    np.testing.assert_allclose(few, estimator.components_[:5], atol=1e-9)


def test_pursuit_in_the_principal_directions_is_pca(planted):
    """Of an orthonormal basis the k directions that matter most, for each sample."""
    estimator = fixed("pca", transform_algorithm="omp", transform_n_nonzero_coefs=3).fit(planted)
    projections = PCA().fit_transform(planted)
    largest = np.sort(projections**2, axis=1)[:, -3:].sum()
    want = largest / (projections**2).sum()
    got = explained_variance(planted, estimator.inverse_transform(estimator.transform(planted)))
    assert got == pytest.approx(want, rel=1e-9)


def test_independent_components_find_independent_sources():
    """Sources with heavy tails, mixed by a matrix that is known; PCA does not find it."""
    random = np.random.default_rng(0)
    sources, mixing = random.laplace(size=(5000, 8)), random.normal(size=(8, 8))
    X = sources @ mixing + 3
    ica = fixed("ica", random_state=1).fit(X)
    both_signs = np.vstack([unit(mixing), -unit(mixing)])
    assert dictionary_recovery(both_signs, ica.components_) > 0.99
    assert dictionary_recovery(both_signs, fixed("pca").fit(X).components_) < 0.9
    witness = FastICA(whiten="unit-variance", random_state=0).fit(X).mixing_.T
    cosines = abs(unit(witness) @ ica.components_.T)
    assert cosines.max(axis=1).min() > 0.99


def test_non_negative_matrix_factorisation(planted):
    X = planted - planted.min()
    estimator = fixed("nmf", fit_intercept=False).fit(X)
    assert estimator.components_.shape == (16, 16)
    assert (estimator.components_ >= 0).all()
    scale = np.sqrt(np.mean(X**2))
    witness = MiniBatchNMF(
        16, max_iter=20, init="nndsvda", tol=0, random_state=np.random.RandomState(0)
    ).fit(X / scale)
    np.testing.assert_allclose(estimator.components_, unit(witness.components_), atol=1e-6)
    with pytest.raises(ValueError, match="Negative values in data"):
        fixed("nmf", fit_intercept=False).fit(planted)
    with pytest.raises(ValueError, match=r"dict_init='nmf' .* Set fit_intercept=False"):
        fixed("nmf").fit(X)


def test_neurons(planted):
    estimator = fixed("identity", transform_alpha=0.0, transform_algorithm="threshold")
    codes = estimator.fit(planted).transform(planted)
    np.testing.assert_array_equal(estimator.components_[::2], np.eye(16))
    np.testing.assert_allclose(estimator.inverse_transform(codes), planted, atol=1e-12)
    np.testing.assert_allclose(mean_l0(codes), 16, atol=0.1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", ["dead", "double", "few samples"])
def test_independent_components_of_data_without_full_rank(planted, kind, dtype):
    """Directions without variance must not become all that there is."""
    X, rank = planted.astype(dtype), 15
    if kind == "few samples":
        X, rank = X[:10], 9
    else:
        X[:, 3] = 0 if kind == "dead" else X[:, 4]
    estimator = fixed("ica", transform_algorithm="omp", transform_n_nonzero_coefs=3).fit(X)
    assert estimator.components_.shape == (2 * rank, 16)
    np.testing.assert_allclose(np.linalg.norm(estimator.components_, axis=1), 1, rtol=1e-5)
    if kind == "dead":
        np.testing.assert_allclose(estimator.components_[:, 3], 0, atol=1e-6)
    reconstruction = estimator.inverse_transform(estimator.transform(X))
    assert explained_variance(X, reconstruction) > 0.5
    with pytest.raises(ValueError, match=f"at most {2 * rank} atoms"):
        fixed("ica", 2 * rank + 1).fit(X)


def test_random_directions(planted):
    estimator = fixed("random", 500).fit(planted)
    np.testing.assert_allclose(np.linalg.norm(estimator.components_, axis=1), 1)
    # evenly spread over the sphere: E u uᵀ = I / d
    spread = estimator.components_.T @ estimator.components_ / 500
    np.testing.assert_allclose(spread, np.eye(16) / 16, atol=0.03)
    again = fixed("random", 500).fit(planted)
    np.testing.assert_array_equal(again.components_, estimator.components_)
    other = fixed("random", 500, random_state=1).fit(planted)
    assert not np.allclose(other.components_, estimator.components_)


@pytest.mark.parametrize(
    ("name", "most"), [("pca", 32), ("ica", 32), ("identity", 32), ("nmf", 16)]
)
def test_more_atoms_than_directions(planted, name, most):
    message = (
        f"dict_init='{name}' gives at most {most} atoms of these 600 samples with 16 features, "
        "but n_components=33. Use fewer, or n_components='auto'"
    )
    with pytest.raises(ValueError, match=message):
        fixed(name, 33, fit_intercept=name != "nmf").fit(abs(planted))


@pytest.mark.parametrize("name", ["pca", "ica", "exemplars", "random", "identity"])
@pytest.mark.parametrize("solver", ["autoencoder", "alternating", "dictionary_learning"])
def test_training_starts_from_named_atoms(planted, name, solver):
    start = fixed(name, 32).fit(planted).components_
    options = {"solver": solver, "max_iter": 1, "batch_size": 600, "learning_rate_init": 1e-9}
    estimator = make_estimator(dict_init=name, **options).fit(planted)
    by_array = make_estimator(dict_init=start, **options).fit(planted)
    # what is drawn after the atoms differs, and decides little
    cosines = (estimator.components_ * by_array.components_).sum(axis=1)
    assert np.median(cosines) > 0.99


@pytest.mark.parametrize("factor", [1e-25, 1e25])
@pytest.mark.parametrize("name", ["pca", "random", "exemplars", "identity"])
def test_named_atoms_at_scales_whose_square_float32_cannot_hold(planted, name, factor):
    X = planted.astype(np.float32)
    plain = fixed(name, 32).fit(X).components_
    scaled = fixed(name, 32).fit(X * np.float32(factor)).components_
    np.testing.assert_allclose(scaled, plain, atol=1e-3)
    # FastICA goes elsewhere after the slightest rounding
    components = fixed("ica", 32).fit(X * np.float32(factor)).components_
    np.testing.assert_allclose(np.linalg.norm(components, axis=1), 1, rtol=1e-5)


# -- codebooks -------------------------------------------------------------------------------


def test_one_codebook_is_k_means(planted):
    estimator = make_estimator(solver="kmeans", max_iter=50).fit(planted)
    witness = KMeans(32, init="random", n_init=1, max_iter=50, random_state=0).fit(
        planted - planted.mean(axis=0)
    )
    codes = estimator.transform(planted)
    assert (np.count_nonzero(codes, axis=1) == 1).all()
    reconstruction = estimator.inverse_transform(codes)
    error = ((planted - reconstruction) ** 2).sum()
    assert error == pytest.approx(witness.inertia_, rel=0.05)
    # the nearest codeword, found by hand
    codewords = estimator.components_ * estimator.codeword_norms_[:, None] + estimator.intercept_
    distances = ((planted[:, None] - codewords) ** 2).sum(axis=2)
    np.testing.assert_allclose(reconstruction, codewords[distances.argmin(axis=1)], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(estimator.components_, axis=1), 1)


def test_residual_quantisation(planted):
    estimator = make_estimator(solver="kmeans", n_nonzero_coefs=3, n_components=32).fit(planted)
    assert estimator.codebook_sizes_.tolist() == [11, 11, 10]
    codes = estimator.transform(planted)
    residual = planted - estimator.intercept_
    before = (residual**2).sum()
    for book in np.split(np.arange(32), [11, 22]):
        used = codes[:, book]
        assert (np.count_nonzero(used, axis=1) == 1).all()
        codewords = estimator.components_[book] * estimator.codeword_norms_[book, None]
        distances = ((residual[:, None] - codewords) ** 2).sum(axis=2)
        np.testing.assert_array_equal(used.argmax(axis=1), distances.argmin(axis=1))
        residual = residual - codewords[distances.argmin(axis=1)]
        after = (residual**2).sum()
        assert after < before
        before = after
    np.testing.assert_allclose(planted - estimator.inverse_transform(codes), residual, atol=1e-12)


def test_clusters_that_are_there_are_found():
    random = np.random.default_rng(0)
    centres = 10 * random.normal(size=(6, 4))
    X = centres[random.integers(6, size=900)] + 0.01 * random.normal(size=(900, 4))
    best = min(
        (
            make_estimator(solver="kmeans", n_components=6, random_state=seed, max_iter=20).fit(X)
            for seed in range(10)
        ),
        key=lambda fitted: -explained_variance(X, fitted.inverse_transform(fitted.transform(X))),
    )
    codewords = best.components_ * best.codeword_norms_[:, None] + best.intercept_
    distances = np.linalg.norm(centres[:, None] - codewords, axis=2)
    assert distances.min(axis=1).max() < 0.01


def test_too_many_codewords(planted):
    with pytest.raises(ValueError, match=r"are 700 codewords of the first, .* only 600 samples"):
        make_estimator(solver="kmeans", n_components=700).fit(planted)
    with pytest.raises(ValueError, match=r"n_nonzero_coefs=33 codebooks .* n_components=32"):
        make_estimator(solver="kmeans", n_nonzero_coefs=33).fit(planted)


def test_codewords_can_be_coded_as_any_dictionary(planted):
    estimator = SparseAutoencoderDictionary(
        32, solver="kmeans", transform_algorithm="omp", transform_n_nonzero_coefs=1
    ).fit(planted)
    pursuit = explained_variance(
        planted, estimator.inverse_transform(estimator.transform(planted))
    )
    estimator.set_params(transform_algorithm="encoder")
    nearest = explained_variance(
        planted, estimator.inverse_transform(estimator.transform(planted))
    )
    assert pursuit > nearest  # the gain is free
