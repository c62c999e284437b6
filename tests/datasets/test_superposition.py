import numpy as np
import pytest
from scipy import sparse
from scipy.stats import expon, kstest, multivariate_normal, norm

from skdict.datasets import make_superposition


def test_shapes_dtypes_and_the_model():
    X, dictionary, code = make_superposition(200, 16, 40, l0=4, random_state=0)
    assert X.shape == (200, 16)
    assert dictionary.shape == (40, 16)
    assert code.shape == (200, 40)
    assert X.dtype == dictionary.dtype == code.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(dictionary, axis=1), 1, rtol=1e-12)
    assert (code >= 0).all()
    np.testing.assert_allclose(X, code @ dictionary, atol=1e-12)


def test_random_state():
    first = make_superposition(50, noise=0.1, correlation=0.5, random_state=3)
    again = make_superposition(50, noise=0.1, correlation=0.5, random_state=3)
    other = make_superposition(50, noise=0.1, correlation=0.5, random_state=4)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_sparse_output_is_the_same_code(monkeypatch):
    # several chunks of rows, the last one short
    monkeypatch.setattr("skdict.datasets._superposition._ENTRIES_PER_CHUNK", 300)
    params = {"n_samples": 25, "n_components": 40, "correlation": 0.4, "noise": 0.1}
    params["random_state"] = 0
    X, dictionary, code = make_superposition(**params)
    X_sparse, dictionary_sparse, code_sparse = make_superposition(**params, sparse_output=True)
    assert sparse.issparse(code_sparse) and code_sparse.format == "csr"
    assert code_sparse.nnz == np.count_nonzero(code)
    np.testing.assert_array_equal(code_sparse.toarray(), code)
    np.testing.assert_array_equal(X_sparse, X)
    np.testing.assert_array_equal(dictionary_sparse, dictionary)


@pytest.mark.parametrize("l0", [0.5, 3, 20])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_l0_is_the_mean_number_of_active_features(l0, correlation):
    n_samples, n_components = 4000, 64
    _, _, code = make_superposition(
        n_samples, 8, n_components, l0=l0, correlation=correlation, random_state=0
    )
    n_active = np.count_nonzero(code, axis=1)
    assert abs(n_active.mean() - l0) < 5 * n_active.std() / np.sqrt(n_samples)


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_frequencies_follow_zipf(correlation):
    n_samples, exponent = 40_000, 0.8
    _, _, code = make_superposition(
        n_samples, 2, 50, l0=5, zipf_exponent=exponent, correlation=correlation, random_state=0
    )
    weight = np.arange(1, 51) ** -exponent
    expected = 5 * weight / weight.sum()
    density = np.mean(code > 0, axis=0)
    assert np.abs((density - expected) / np.sqrt(expected / n_samples)).max() < 5
    slope = np.polyfit(np.log(np.arange(1, 51)), np.log(density), deg=1)[0]
    assert slope == pytest.approx(-exponent, abs=0.05)


def test_frequencies_are_equal_without_zipf():
    n_samples = 40_000
    _, _, code = make_superposition(n_samples, 2, 30, l0=6, random_state=0)
    density = np.mean(code > 0, axis=0)
    assert np.abs((density - 0.2) / np.sqrt(0.2 * 0.8 / n_samples)).max() < 5


@pytest.mark.parametrize("exponent", [1.5, 1000])
def test_a_frequency_never_passes_one(exponent):
    """Features that would be on more than always are always on; the others make up l0."""
    _, _, code = make_superposition(20_000, 2, 50, l0=6, zipf_exponent=exponent, random_state=0)
    density = np.mean(code > 0, axis=0)
    assert np.count_nonzero(density == 1) == {1.5: 2, 1000: 6}[exponent]
    assert (code > 0).sum(axis=1).mean() == pytest.approx(6, abs=0.05)
    if exponent == 1.5:
        tail = np.arange(3, 51) ** -1.5
        np.testing.assert_allclose(density[2:], 4 * tail / tail.sum(), atol=0.015)


@pytest.mark.parametrize("zipf_exponent", [0.0, 1000.0])
def test_l0_equal_to_n_components_turns_everything_on(zipf_exponent):
    _, _, code = make_superposition(
        20, 4, 7, l0=7, zipf_exponent=zipf_exponent, correlation=0.5, random_state=0
    )
    assert (code > 0).all()


def test_correlation_is_the_gaussian_copula_within_groups():
    n_samples, rho = 40_000, 0.6
    _, _, code = make_superposition(
        n_samples, 2, 10, l0=2, correlation=rho, group_size=4, zipf_exponent=0.5, random_state=0
    )
    active = (code > 0).astype(float)
    weight = np.arange(1, 11) ** -0.5
    p = 2 * weight / weight.sum()
    threshold = norm.ppf(p)
    group = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    together = active.T @ active / n_samples
    for i in range(10):
        for j in range(i):
            if group[i] == group[j]:
                expected = multivariate_normal.cdf(
                    [threshold[i], threshold[j]], cov=[[1, rho], [rho, 1]]
                )
                assert expected > 1.5 * p[i] * p[j]
            else:
                expected = p[i] * p[j]
            assert abs(together[i, j] - expected) < 5 * np.sqrt(expected / n_samples)


def test_without_correlation_features_are_independent():
    n_samples = 40_000
    _, _, code = make_superposition(n_samples, 2, 12, l0=3, random_state=0)
    correlation = np.corrcoef((code > 0).T)
    off_diagonal = correlation[~np.eye(12, dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(n_samples)


@pytest.mark.parametrize("std", [0.0, 0.3, 1.0])
def test_magnitudes(std):
    _, _, code = make_superposition(20_000, 2, 20, l0=4, magnitude_std=std, random_state=0)
    magnitudes = code[code > 0]
    assert magnitudes.mean() == pytest.approx(1, abs=0.02)
    assert magnitudes.std() == pytest.approx(std, abs=0.02)
    if std == 0:
        assert set(magnitudes) == {1.0}
    if std == 1:
        assert kstest(magnitudes[:5000], expon.cdf).pvalue > 1e-3


def test_heavy_tailed_magnitudes_stay_non_zero():
    _, _, code = make_superposition(
        2000, 2, 5, l0=5, magnitude_std=3, sparse_output=True, random_state=0
    )
    assert code.nnz == 10_000 and (code.data > 0).all()


@pytest.mark.parametrize("noise", [0.05, 2.0])
def test_noise_is_white_and_has_the_given_standard_deviation(noise):
    X, dictionary, code = make_superposition(5000, 20, 30, noise=noise, random_state=0)
    residual = X - code @ dictionary
    covariance = residual.T @ residual / len(residual) / noise**2
    np.testing.assert_allclose(covariance, np.eye(20), atol=0.1)
    assert residual.std() == pytest.approx(noise, rel=0.02)
    assert abs(np.corrcoef(residual.ravel(), (code @ dictionary).ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("parameter", ["n_samples", "n_features", "n_components", "group_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "many"])
def test_sizes_must_be_positive_integers(parameter, value):
    with pytest.raises(ValueError, match=f"'{parameter}' parameter of make_superposition"):
        make_superposition(**{parameter: value})


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("l0", 0),
        ("l0", -1.0),
        ("l0", np.nan),
        ("zipf_exponent", -0.1),
        ("correlation", 1.0),
        ("correlation", -0.1),
        ("magnitude_std", -1),
        ("magnitude_std", 3.1),
        ("noise", -1e-9),
        ("sparse_output", "yes"),
        ("random_state", "seed"),
    ],
)
def test_parameters_outside_their_range(parameter, value):
    with pytest.raises(ValueError, match=f"'{parameter}' parameter of make_superposition"):
        make_superposition(**{parameter: value})


def test_l0_above_n_components():
    with pytest.raises(ValueError, match=r"l0=5.*n_components=4"):
        make_superposition(n_components=4, l0=5)


def test_one_of_everything():
    X, dictionary, code = make_superposition(1, 1, 1, l0=1, random_state=0)
    assert abs(dictionary[0, 0]) == 1
    assert code[0, 0] > 0
    assert X[0, 0] == code[0, 0] * dictionary[0, 0]
