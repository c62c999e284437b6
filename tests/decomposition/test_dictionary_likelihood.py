"""score: against numpy, against numerical integration, and what it selects."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dictionary_testing import SOLVERS, make_estimator
from dictionary_testing import debiased as plainly_debiased
from scipy.integrate import quad
from scipy.stats import norm

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary, SparseCodes, alpha_grid
from skdict.decomposition._likelihood import debiased


def reference(estimator, X, noise_variance=None, *, signed=False):
    """The equation of `score_samples`, sample by sample, feature by feature."""
    codes = estimator.transform(X)
    magnitudes, residuals = plainly_debiased(estimator, X, codes)
    n, tau2 = estimator.n_samples_seen_, estimator.resolution * estimator.variance_
    variance = (estimator.noise_variance_ if noise_variance is None else noise_variance) + tau2
    p = (estimator.feature_density_ * n + 0.5) / (n + 1)
    m = estimator.feature_magnitude_
    values = []
    for code, z, residual in zip(codes, magnitudes, residuals, strict=True):
        value = -0.5 * X.shape[1] * np.log(2 * np.pi * variance)
        value -= (residual @ residual + X.shape[1] * tau2) / (2 * variance)
        for j in range(len(z)):
            if code[j] == 0:
                value += np.log(1 - p[j])
            else:
                value += np.log(p[j] / m[j]) - abs(z[j]) / m[j]
                value += 0.5 * np.log(2 * np.pi * variance) - (np.log(2) if signed else 0)
        values.append(value)
    return np.array(values)


@pytest.mark.parametrize("solver", SOLVERS)
def test_scores_are_the_equation(planted, fitted, solver):
    estimator, X = fitted[solver], planted[:50]
    got = estimator.score_samples(X)
    assert got.shape == (50,)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, reference(estimator, X), rtol=1e-9)
    _, residual = plainly_debiased(estimator, X, estimator.transform(X))
    for n in (1, 2, 50):  # their own noise, and that of the fit as one more sample
        own = (np.mean(residual[:n] ** 2) * n + estimator.noise_variance_) / (n + 1)
        want = reference(estimator, X[:n], own).mean()
        assert estimator.score(X[:n]) == pytest.approx(want, rel=1e-9)
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
    """A model of one atom."""
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
    return estimator


@pytest.mark.parametrize("alpha", [1e-3, 0.2])
@pytest.mark.parametrize("n_features", [1, 2, 5])
def test_laplace_is_exact_far_from_zero(n_features, alpha):
    """One atom: the posterior of an active code is a Gaussian, cut where the code is zero.

    Well away from the cut, and where the inactive code has no posterior mass, Laplace's method
    must agree with integration over the code, whatever the alpha that has shrunk it. Left out is
    that the prior moves the mode from least squares by σ² / m, which is worth σ² / 2m².
    """
    variance, magnitude, density = 0.01, 2.0, 0.3
    model = one_atom(n_features, noise_variance=variance, magnitude=magnitude, density=density)
    model.set_params(transform_alpha=alpha)
    (atom,), intercept = model.components_, model.intercept_
    rng = np.random.default_rng(1)
    for z in (1.0, 1.7, 4.0):
        x = intercept + z * atom + 0.1 * rng.normal(size=n_features)

        def density_of_x(code, x=x):
            return np.exp(norm.logpdf(x, intercept + code * atom, np.sqrt(variance)).sum())

        active, _ = quad(
            lambda code, f=density_of_x: np.exp(-code / magnitude) / magnitude * f(code),
            z - 1,
            z + 1,
            epsabs=0,
            epsrel=1e-12,
        )
        exact = np.log((1 - density) * density_of_x(0.0) + density * active)
        exact -= variance / (2 * magnitude**2)
        assert model.score_samples(x[None])[0] == pytest.approx(exact, abs=1e-6)


def test_laplace_is_exact_where_the_feature_is_off():
    """Two dimensions, and the activation on the other side: only the inactive code is left."""
    model = one_atom(2, noise_variance=0.01, magnitude=2.0, density=0.3)
    x = model.intercept_ - 1.5 * model.components_[0]
    exact = np.log(0.7) + norm.logpdf(x, model.intercept_, 0.1).sum()
    assert not model.transform(x[None]).any()
    assert model.score_samples(x[None])[0] == pytest.approx(exact, abs=1e-9)


def lasso(atoms, alpha):
    """A dictionary of these atoms, which are not learned."""
    return make_estimator(n_components=len(atoms), solver="lasso", dict_init=atoms, alpha=alpha)


@pytest.mark.slow
@pytest.mark.parametrize(("n_features", "l0"), [(64, 2.0), (96, 6.0)])
def test_the_true_atoms_score_best_with_the_true_sparsity(n_features, l0):
    """An L1 penalty makes codes too small, the more the sparser: that is no noise."""
    X, atoms, code = make_superposition(2000, n_features, 192, l0=l0, noise=0.05, random_state=0)
    estimator = lasso(atoms, 0.1).set_params(n_components=192, fit_intercept=False).fit(X[:1000])
    scores, found = [], []
    for alpha in alpha_grid(X, 10):
        estimator.set_params(alpha=alpha).fit(X[:1000])
        scores.append(estimator.score(X[1000:]))
        found.append(np.count_nonzero(estimator.transform(X[1000:])) / 1000)
    assert found[np.argmax(scores)] == pytest.approx(np.count_nonzero(code) / 2000, rel=0.25)
    assert found[0] > 4 * l0 and found[-1] < l0 / 2


def test_debiased_codes_of_orthogonal_atoms_are_least_squares():
    rng = np.random.default_rng(0)
    atoms, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    code = rng.exponential(size=(50, 8)) * (rng.random((50, 8)) < 0.3)
    X, noise = code @ atoms, torch.as_tensor(0.01 * rng.normal(size=(50, 8)))
    shrunk = torch.as_tensor(np.maximum(code - 0.1, 0))
    found, residual = debiased(
        SparseCodes.of(shrunk), torch.as_tensor(X) + noise - shrunk @ atoms, torch.as_tensor(atoms)
    )
    want = np.where(shrunk > 0, (X + noise.numpy()) @ atoms.T, 0)
    np.testing.assert_allclose(found.dense(), want, atol=1e-12)
    np.testing.assert_allclose(residual, X + noise.numpy() - want @ atoms, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-18])
def test_debiased_codes_are_the_plain_ones_and_never_worse(dtype, scale):
    """Against the reference of these tests, for codes of both signs, empty ones and exact ones."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(12, 5, generator=generator, dtype=dtype)
    codes = torch.randn(40, 12, generator=generator, dtype=dtype) * scale
    codes[torch.rand(40, 12, generator=generator) < 0.7] = 0
    codes[:3] = 0
    X = codes @ atoms + scale * torch.randn(40, 5, generator=generator, dtype=dtype)
    X[5] = codes[5] @ atoms
    before = X - codes @ atoms
    found, residual = debiased(SparseCodes.of(codes), before, atoms)
    model = SimpleNamespace(components_=atoms.double().numpy(), intercept_=0)
    want, left = plainly_debiased(model, X, codes)
    tol = 1e-5 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(found.dense() / scale, want / scale, atol=tol)
    np.testing.assert_allclose(residual / scale, left / scale, atol=tol)
    error = residual.double().square().sum(dim=1)
    assert (error <= (1 + tol) * before.double().square().sum(dim=1)).all()
    assert (found.dense().sign() == codes.sign()).all()


def test_score_turns_and_scales_with_the_data(planted):
    """Rotation changes nothing; units add d times their logarithm, as in any density."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(40, planted.shape[1]))
    turn, _ = np.linalg.qr(rng.normal(size=(planted.shape[1],) * 2))
    want = lasso(atoms, 0.1).fit(planted).score(planted)
    turned = lasso(atoms @ turn, 0.1).fit(planted @ turn).score(planted @ turn)
    assert turned == pytest.approx(want, rel=1e-3)  # Lasso codes have a duality gap
    scaled = lasso(atoms, 0.1 * 1000).fit(1000 * planted).score(1000 * planted)
    assert scaled + planted.shape[1] * np.log(1000) == pytest.approx(want, rel=1e-6)


def test_the_noise_of_the_scored_samples_is_the_most_likely_one(planted):
    """Codes that are empty have no volume, so that nothing but the residual depends on it."""
    estimator = lasso(np.eye(planted.shape[1]), 0.1).fit(planted).set_params(transform_alpha=1e6)
    assert not estimator.transform(planted).any()
    X = 3 * planted
    score, own = estimator.score(X), np.mean((X - estimator.intercept_) ** 2)
    estimator.noise_variance_ = own
    assert score == pytest.approx(estimator.score_samples(X).mean(), abs=1e-3)
    for factor in (0.5, 0.9, 1.1, 2.0):
        estimator.noise_variance_ = factor * own
        assert estimator.score_samples(X).mean() < score - 1e-3


def test_residuals_of_the_fit_do_not_decide_the_score_of_others(planted, fitted):
    """As if a dictionary had its samples by heart."""
    estimator = copy.copy(fitted["autoencoder"]).set_params(resolution=1e-3)
    score, of_samples = estimator.score(planted), estimator.score_samples(planted).mean()
    estimator.noise_variance_ = estimator.noise_variance_ / 100
    assert estimator.score(planted) == pytest.approx(score, abs=0.1)
    assert estimator.score_samples(planted).mean() < of_samples - 20


def test_a_feature_silent_in_training_may_fire(planted):
    estimator = make_estimator().fit(planted)
    estimator.feature_density_ = np.zeros(32)
    assert np.isfinite(estimator.score(planted))
    estimator.feature_density_ = np.ones(32)
    assert np.isfinite(estimator.score(planted))


@pytest.mark.parametrize("solver", ["autoencoder", "lasso"])
def test_an_exact_reconstruction_has_a_finite_score(solver):
    """Residuals that are exactly zero: σ² = 0 would have an infinite density."""
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
