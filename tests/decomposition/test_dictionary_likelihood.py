"""score: against numpy, against numerical integration, and what it selects."""

import copy

import numpy as np
import pytest
from dictionary_testing import SOLVERS, make_estimator
from scipy.integrate import quad
from scipy.special import gammaln
from scipy.stats import multivariate_t

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary, alpha_grid


def reference(estimator, X, *, signed=False):
    """The equation of `score_samples`, sample by sample, feature by feature."""
    codes = estimator.transform(X)
    reconstruction = codes @ estimator.components_ + estimator.intercept_
    n, tau2 = estimator.n_samples_seen_, estimator.resolution * estimator.variance_
    prior = estimator.noise_variance_ + tau2
    p = (estimator.feature_density_ * n + 0.5) / (n + 1)
    m = estimator.feature_magnitude_
    values = []
    for x, z, x_hat in zip(X, codes, reconstruction, strict=True):
        d = len(x)
        error = np.sum((x - x_hat) ** 2) + d * tau2
        variance = (prior + error) / (1 + d)
        value = gammaln((1 + d) / 2) - np.log(np.pi) / 2 - d / 2 * np.log(np.pi * prior)
        value -= (1 + d) / 2 * np.log(1 + error / prior)
        for j in range(len(z)):
            if z[j] == 0:
                value += np.log(1 - p[j])
            else:
                value += np.log(p[j] / m[j]) - abs(z[j]) / m[j]
                value += 0.5 * np.log(2 * np.pi * variance) - (np.log(2) if signed else 0)
        values.append(value)
    return np.array(values)


@pytest.mark.parametrize("solver", SOLVERS)
def test_score_samples_is_the_equation(planted, fitted, solver):
    estimator = fitted[solver]
    got = estimator.score_samples(planted[:50])
    assert got.shape == (50,)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, reference(estimator, planted[:50]), rtol=1e-9)
    assert estimator.score(planted) == pytest.approx(estimator.score_samples(planted).mean())
    assert estimator.score(planted, y=planted) == estimator.score(planted)


@pytest.mark.slow
def test_a_negative_code_costs_its_sign(planted):
    estimator = make_estimator(transform_algorithm="omp", transform_n_nonzero_coefs=3)
    estimator.fit(planted)
    assert (estimator.transform(planted) < 0).any()
    got = estimator.score_samples(planted[:50])
    np.testing.assert_allclose(got, reference(estimator, planted[:50], signed=True), rtol=1e-9)


def test_score_in_float32_and_by_blocks(planted, fitted, monkeypatch):
    estimator = fitted["autoencoder"]
    want = estimator.score_samples(planted)
    monkeypatch.setattr("skdict._core.data.source.BLOCK_BYTES", 8 * 32 * 7)
    np.testing.assert_allclose(estimator.score_samples(planted), want, rtol=1e-9)
    got = estimator.score_samples(planted.astype(np.float32))
    np.testing.assert_allclose(got, want, rtol=1e-3)


def one_atom(n_features, *, noise_variance, magnitude, density):
    """A model of one atom, without a dither."""
    rng = np.random.default_rng(0)
    atom = rng.normal(size=(1, n_features))
    atom /= np.linalg.norm(atom)
    estimator = SparseAutoencoderDictionary(solver="lasso", device="cpu", dict_init=atom)
    estimator.fit(rng.normal(size=(10, n_features)))
    estimator.intercept_ = rng.normal(size=n_features)
    estimator.noise_variance_, estimator.variance_ = noise_variance, 0.0
    estimator.feature_magnitude_ = np.array([magnitude])
    estimator.feature_density_ = np.array([density])
    estimator.n_samples_seen_ = 10**12
    # about the mode of the posterior of z > 0: ‖r‖² / 2σ² + z / m is the Lasso's for σ² / m
    return estimator.set_params(transform_alpha=noise_variance / magnitude)


@pytest.mark.parametrize("n_features", [10, 40, 160])
def test_laplace_is_as_good_as_there_are_dimensions(n_features):
    """One active atom: against integration of Student's t over the code.

    The posterior of an active code is close to a Gaussian: Student's t along the atom has d
    degrees of freedom. Laplace's method is off by 3 / 4d to first order, to which the Lasso's
    mode, that of Gaussian noise, adds less.
    """
    variance, magnitude, density = 0.01, 200.0, 0.3
    model = one_atom(n_features, noise_variance=variance, magnitude=magnitude, density=density)
    (atom,), intercept = model.components_, model.intercept_
    rng = np.random.default_rng(1)
    for z in (5.0, 17.0, 40.0):
        x = intercept + z * atom + 0.1 * rng.normal(size=n_features)
        noise = multivariate_t(np.zeros(n_features), variance * np.eye(n_features), df=1)
        at_mode = noise.logpdf(x - intercept - z * atom)  # else too small a number for quad

        def ratio(code, x=x, noise=noise, at_mode=at_mode):
            return np.exp(noise.logpdf(x - intercept - code * atom) - at_mode)

        active, _ = quad(
            lambda code, f=ratio: np.exp(-code / magnitude) / magnitude * f(code),
            z - 3,
            z + 3,
            points=[z],
            epsabs=0,
            epsrel=1e-9,
        )
        exact = np.log((1 - density) * ratio(0.0) + density * active) + at_mode
        assert model.score(x[None]) == pytest.approx(exact, abs=1 / n_features)


def test_the_score_is_exact_where_the_feature_is_off():
    """Two dimensions, and the activation on the other side: only the inactive code is left."""
    model = one_atom(2, noise_variance=0.01, magnitude=2.0, density=0.3)
    x = model.intercept_ - 1.5 * model.components_[0]
    exact = np.log(0.7) + multivariate_t(model.intercept_, 0.01 * np.eye(2), df=1).logpdf(x)
    assert not model.transform(x[None]).any()
    assert model.score(x[None]) == pytest.approx(exact, abs=1e-9)


def lasso(atoms, alpha):
    """A dictionary of these atoms, which are not learned."""
    return make_estimator(n_components=len(atoms), solver="lasso", dict_init=atoms, alpha=alpha)


def test_score_turns_and_scales_with_the_data(planted):
    """Rotation changes nothing; units add d times their logarithm, as in any density."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(40, planted.shape[1]))
    turn, _ = np.linalg.qr(rng.normal(size=(planted.shape[1],) * 2))
    want = lasso(atoms, 0.1).fit(planted).score_samples(planted)
    turned = lasso(atoms @ turn, 0.1).fit(planted @ turn).score_samples(planted @ turn)
    np.testing.assert_allclose(turned, want, rtol=1e-2)  # Lasso codes have a duality gap
    assert turned.mean() == pytest.approx(want.mean(), rel=1e-3)
    scaled = lasso(atoms, 0.1 * 1000).fit(1000 * planted).score_samples(1000 * planted)
    unit = planted.shape[1] * np.log(1000)
    np.testing.assert_allclose(scaled + unit, want, rtol=1e-6)


def test_noise_of_the_fit_counts_as_one_observation(planted, fitted):
    """Were a fit's noise a hundred times less, all it says of others would cost some nats."""
    estimator = copy.copy(fitted["autoencoder"]).set_params(resolution=1e-6)
    want = estimator.score_samples(planted)
    estimator.noise_variance_ = estimator.noise_variance_ / 100
    change = estimator.score_samples(planted) - want
    assert np.abs(change).max() < np.log(100)
    # it has the weight of one of d observations, of which codes have the scale
    assert change.min() < -0.1 * np.log(100)


def test_a_feature_silent_in_training_may_fire(planted):
    estimator = make_estimator().fit(planted)
    estimator.feature_density_ = np.zeros(32)
    assert np.isfinite(estimator.score(planted))
    estimator.feature_density_ = np.ones(32)
    assert np.isfinite(estimator.score(planted))


@pytest.mark.parametrize("solver", ["autoencoder", "lasso"])
def test_an_exact_reconstruction_has_a_finite_score(solver):
    """Residuals that are exactly zero: without the dither the density would be infinite."""
    X = np.eye(4)[np.arange(40) % 4]
    estimator = make_estimator(
        n_components=4, solver=solver, dict_init=np.eye(4), fit_intercept=False, alpha=1e-3
    ).fit(X)
    estimator.transform_alpha = 0.0
    estimator.transform_algorithm = "omp"
    estimator.transform_n_nonzero_coefs = 1
    estimator.noise_variance_ = 0.0
    score = estimator.score(X)
    assert np.isfinite(score)
    assert score > estimator.score(1.01 * X)


@pytest.mark.slow
def test_score_prefers_an_alpha_inside_a_wide_grid():
    X = make_superposition(3000, 32, 64, l0=2.0, noise=0.1, random_state=0)[0].astype(np.float32)
    train, test = X[:2000], X[2000:]
    alphas = alpha_grid(train, n_alphas=5)
    scores, explained = [], []
    for alpha in alphas:
        estimator = make_estimator(
            n_components=64, alpha=alpha, max_iter=15, batch_size=50, learning_rate_init=6e-3
        ).fit(train)
        scores.append(estimator.score(test))
        residual = test - estimator.inverse_transform(estimator.transform(test))
        explained.append(1 - residual.var() / test.var())
    assert 0 < np.argmax(scores) < len(alphas) - 1
    assert scores[0] < max(scores) - 1 > scores[-1]
    assert np.argmax(explained) == 0  # why explained variance cannot choose


def test_resolution_is_a_share_of_the_variance_and_may_change_after_fit(planted):
    variance = np.mean((planted - planted.mean(axis=0)) ** 2)
    estimator = make_estimator(max_iter=1, alpha=0.01).fit(planted)
    assert estimator.variance_ == pytest.approx(variance)
    for resolution in (0.01, 0.5):
        estimator.set_params(resolution=resolution)
        got = estimator.score_samples(planted[:50])
        np.testing.assert_allclose(got, reference(estimator, planted[:50]), rtol=1e-9)
    with pytest.raises(ValueError, match="'resolution' parameter"):
        estimator.set_params(resolution=0).score(planted)


def test_copies_of_sparse_neurons_do_not_win():
    """Activations sparse in their own basis: a residual of zero must not beat everything."""
    rng = np.random.default_rng(0)
    X = rng.exponential(size=(4000, 16)) * (rng.random((4000, 16)) < 0.1)
    copies = make_estimator(
        n_components=16, solver="lasso", dict_init=np.eye(16), fit_intercept=False
    )
    scores = [copies.set_params(alpha=alpha).fit(X).score(X) for alpha in (1e-6, 1e-5, 1e-4)]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-3)  # no reward for more digits


def test_alpha_auto_is_a_tenth_of_the_centred_rms_norm(planted):
    rms = np.sqrt(np.mean(np.sum((planted - planted.mean(axis=0)) ** 2, axis=1)))
    assert make_estimator(max_iter=1).fit(planted).alpha_ == pytest.approx(0.1 * rms)
    assert make_estimator(max_iter=1, alpha=0.7).fit(planted).alpha_ == 0.7
    grid = alpha_grid(planted)
    assert grid.shape == (8,)
    np.testing.assert_allclose(grid[[0, -1]], [0.1 * rms / 8, 0.8 * rms])
    np.testing.assert_allclose(grid[1:] / grid[:-1], grid[1] / grid[0])
    other = alpha_grid(10 * planted + 3, n_alphas=3)
    np.testing.assert_allclose(other, [10 * grid[0], rms, 10 * grid[-1]])


# -- statistics that are taken when score asks ------------------------------------------------


@pytest.mark.parametrize("rows", [slice(0, None, 2), slice(7, 8)])
def test_samples_that_have_changed_since_fit_are_noticed(planted, rows):
    X = planted.copy()
    estimator = make_estimator(max_iter=1).fit(X)
    X[rows] = np.nan
    with pytest.raises(ValueError, match="X has been changed in place since fit"):
        estimator.score(planted)
    assert np.isfinite(estimator.transform(planted)).all()


def test_a_stream_in_one_buffer_goes_on_after_fit(planted):
    """The statistics of a fit can no longer be taken: they begin anew, and a warning says so."""
    buffer = planted.copy()
    estimator = make_estimator(max_iter=1).fit(buffer)
    buffer[:] = planted[::-1]
    with pytest.warns(UserWarning, match="statistics for score begin anew"):
        estimator.partial_fit(buffer)
    assert estimator.n_samples_seen_ == len(planted) and np.isfinite(estimator.score(planted))
