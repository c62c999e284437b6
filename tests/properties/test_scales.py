"""Data of any scale, shape and mean: finite and consistent, or refused or warned of by name."""

import warnings

import numpy as np
import pytest
from calls import make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outcomes import is_clear, words_of

from skdict import metrics
from skdict.decomposition import SparseAutoencoderDictionary, alpha_grid, sparse_encode

SETTINGS = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@st.composite
def matrices(draw):
    """Matrices as activations are, and as nobody hopes that they are."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    n_rows, n_columns = draw(st.integers(1, 40)), draw(st.integers(1, 8))
    X = rng.normal(size=(n_rows, n_columns))
    X *= rng.random(X.shape) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    X[:, rng.random(n_columns) < draw(st.sampled_from([0, 0, 0.5, 1.0]))] = 1.0  # constant
    X[rng.random(n_rows) < draw(st.sampled_from([0, 0, 0.1]))] *= 1000  # massive
    X[rng.random(n_rows) < draw(st.sampled_from([0, 0, 0.3]))] = X[0]  # repeated
    X = X + draw(st.sampled_from([0, 0, 0, 1, 1e3, 1e6, 1e12]))
    dtype = draw(st.sampled_from([np.float64, np.float32]))
    exponent = draw(st.integers(-300, 300) if dtype == np.float64 else st.integers(-44, 38))
    with np.errstate(all="ignore"):
        X = (X * 10.0 ** draw(st.sampled_from([0, 0, exponent]))).astype(dtype)
    X[~np.isfinite(X)] = np.finfo(dtype).max
    return X


alphas = st.one_of(
    st.sampled_from([0.0, 1e-300, 1e-30, 1e-8, 0.1, 1.0, 10.0, 1e8, 1e30, 1e300]),
    st.floats(0, 1e30),
)


def refused(call, names=("X", "alpha", "dictionary", "Codes of", "n_components", "dict_init")):
    """The result; None if it is refused for a reason that is said. Any other error is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except (ValueError, TypeError) as error:
            assert any(is_clear(error, name) for name in names), words_of(error)
    return None


def finite(value):
    return np.isfinite(np.asarray(value, dtype=np.float64)).all()


def check_sparse_encode(X, alpha, algorithm, positive):
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(5, X.shape[1])).astype(X.dtype)
    options = {"algorithm": algorithm, "alpha": alpha, "positive": positive}
    if algorithm == "omp":
        options |= {"n_nonzero_coefs": 2, "alpha": None}
    codes = refused(lambda: sparse_encode(X, atoms, **options))
    if codes is None:
        return
    assert finite(codes)
    assert codes.shape == (len(X), 5)
    assert not positive or (codes >= 0).all()
    if algorithm != "lasso":
        return
    _, gap = refused(lambda: sparse_encode(X, atoms, return_gap=True, **options))
    # the certificate, by hand, in numbers that have room
    x, z, D = (part.astype(np.longdouble) for part in (X, codes, atoms))
    residual = x - z @ D
    square, along = (residual**2).sum(axis=1), (x * residual).sum(axis=1)
    objective = square / 2 + alpha * np.abs(z).sum(axis=1)
    zero = (x**2).sum(axis=1) / 2
    # no code is worse than none, by more than rounding
    known = ~np.isnan(gap)
    room = 1e-3 if X.dtype == np.float32 else 1e-6
    assert (objective <= zero * (1 + room))[known & (gap <= 1e-4)].all()
    correlation = residual @ D.T
    largest = (correlation if positive else np.abs(correlation)).max(axis=1)
    with np.errstate(all="ignore"):
        most = np.where(largest > 0, alpha / largest, np.inf)
        scale = np.minimum(np.maximum(along / square, 0), most)
        certificate = 1 - (scale * along - scale**2 * square / 2) / objective
    right = known & (objective > 0) & np.isfinite(certificate)
    claimed = gap[right].astype(np.longdouble)
    assert (claimed >= certificate[right] - room).all()


def check_fit(X, solver, alpha):
    estimator = make(
        solver=solver, alpha=alpha, n_components=min(3, len(X)), max_iter=2, batch_size=16
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = refused(lambda: estimator.fit(X))
    if fitted is None:
        assert not hasattr(estimator, "components_")
        return
    assert finite(fitted.components_)
    norms = np.linalg.norm(fitted.components_, axis=1)
    assert (np.isclose(norms, 1, atol=1e-3) | (norms == 0)).all()
    codes = refused(lambda: fitted.transform(X))
    if codes is not None:
        assert finite(codes)
        assert codes.shape == (len(X), len(norms))
        reconstruction = refused(lambda: fitted.inverse_transform(codes))
        assert reconstruction is None or finite(reconstruction)


def check_metrics(X):
    for function in (metrics.explained_variance, metrics.shrinkage):
        value = refused(lambda function=function: function(X, X))
        assert value is None or np.isnan(value) or abs(value - 1) < 1e-6
    density = metrics.feature_density(X)
    np.testing.assert_array_equal(density, (X != 0).mean(axis=0))
    recovery = refused(lambda: metrics.dictionary_recovery(X, X), ("components",))
    if recovery is not None and (np.abs(X).max(axis=1) > 1e-150).all():
        assert recovery == pytest.approx(1, abs=1e-6)


def check_alpha_grid(X):
    grid = refused(lambda: alpha_grid(X, n_alphas=3))
    if grid is not None:
        assert finite(grid)
        assert (np.diff(grid) > 0).all() and grid[0] > 0


encoding = (matrices(), alphas, st.sampled_from(["lasso", "omp", "threshold"]), st.booleans())
SOLVERS = ("autoencoder", "alternating", "dictionary_learning", "kmeans", "lasso")
fitting = (
    matrices(),
    st.sampled_from(SOLVERS),
    st.one_of(st.just("auto"), st.sampled_from([0.0, 1e-30, 0.1, 10.0, 1e30])),
)

test_sparse_encode = pytest.mark.slow(
    settings(max_examples=60, **SETTINGS)(given(*encoding)(check_sparse_encode))
)
test_fit = pytest.mark.slow(settings(max_examples=15, **SETTINGS)(given(*fitting)(check_fit)))
test_metrics = settings(max_examples=60, **SETTINGS)(given(matrices())(check_metrics))
test_alpha_grid = settings(max_examples=60, **SETTINGS)(given(matrices())(check_alpha_grid))

test_sparse_encode_thoroughly = pytest.mark.enumeration(
    settings(max_examples=1500, **SETTINGS)(given(*encoding)(check_sparse_encode))
)
test_fit_thoroughly = pytest.mark.enumeration(
    settings(max_examples=200, **SETTINGS)(given(*fitting)(check_fit))
)
test_metrics_thoroughly = pytest.mark.enumeration(
    settings(max_examples=1500, **SETTINGS)(given(matrices())(check_metrics))
)


@pytest.mark.parametrize("factor", [1e-100, 1e-6, 1.0, 1e6, 1e100])
def test_codes_have_the_scale_of_the_data(factor):
    X = np.random.default_rng(0).normal(size=(30, 4))
    atoms = np.random.default_rng(1).normal(size=(6, 4))
    want = sparse_encode(X, atoms, alpha=0.5)
    got = sparse_encode(factor * X, atoms, alpha=factor * 0.5)
    np.testing.assert_allclose(got / factor, want, rtol=1e-3, atol=1e-3)
    fitted = SparseAutoencoderDictionary(6, max_iter=2, random_state=0).fit(X)
    other = SparseAutoencoderDictionary(6, max_iter=2, random_state=0).fit(factor * X)
    np.testing.assert_allclose(other.components_, fitted.components_, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other.alpha_ / factor, fitted.alpha_, rtol=1e-6)
