"""Data and parameters at the limits of floating point: right, warned of or refused."""

import warnings

import numpy as np
import pytest
import torch
from dictionary_testing import SOLVERS, make_estimator
from sklearn.datasets import load_wine
from sklearn.exceptions import ConvergenceWarning

from skdict._core.coding import Encoder
from skdict._core.data.source import Source
from skdict._core.models.architectures import ARCHITECTURES
from skdict.datasets import make_superposition
from skdict.decomposition import (
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    alpha_grid,
    amortisation_gap,
)
from skdict.decomposition._alpha import location_and_scale
from skdict.decomposition._code_quality import N_ROWS_AT_A_TIME
from skdict.metrics import explained_variance

CPU = torch.device("cpu")


def location_and_scale_of(X):
    mean, rms = location_and_scale(Source(X, CPU))
    return mean.numpy(), rms


@pytest.fixture(scope="module")
def X():
    """Of unit variance: (1000, 12), float64."""
    X = make_superposition(1000, 12, 20, l0=1.5, noise=0.05, random_state=0)[0]
    return X / X.std()


# -- few samples that are massive ----------------------------------------------------------


@pytest.mark.parametrize("factor", [100, 1000, 1e6])
@pytest.mark.parametrize("n_massive", [1, 5, 100])
def test_massive_samples_do_not_decide_the_scale(X, n_massive, factor):
    massive = np.zeros(len(X), dtype=bool)
    massive[np.random.default_rng(0).choice(len(X), n_massive, replace=False)] = True
    data = X.copy()
    data[massive] = factor * np.linalg.norm(X, axis=1).mean() * np.eye(12)[0]
    with pytest.warns(UserWarning, match=f"{n_massive} of the 1000 samples of X are massive"):
        mean, rms = location_and_scale_of(data)
    others = X[~massive]
    np.testing.assert_allclose(mean, others.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(rms, np.sqrt(others.var(axis=0).sum()), rtol=1e-12)
    with pytest.warns(UserWarning, match="are massive"):
        np.testing.assert_allclose(alpha_grid(data, 3)[1], 0.1 * rms, rtol=1e-12)


@pytest.mark.slow
def test_massive_samples_leave_the_others_their_codes(X):
    massive = np.arange(len(X)) % 200 == 7
    data = X.copy()
    data[massive] = 1000 * np.linalg.norm(X, axis=1).mean() * np.eye(12)[0]
    explained = []
    for samples in (data, X[~massive]):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*are massive")
            estimator = SparseAutoencoderDictionary(20, random_state=0).fit(samples)
        codes = estimator.transform(X[~massive])
        explained.append(explained_variance(X[~massive], estimator.inverse_transform(codes)))
    assert explained[0] > explained[1] - 0.1


@pytest.mark.parametrize(
    "data",
    [
        np.random.default_rng(0).normal(size=(200, 5)),
        np.random.default_rng(0).standard_t(3, size=(2000, 5)),
        # all but a few are equal: those are all that there is to learn from
        np.repeat(np.eye(5), [4, 3, 0, 0, 193], axis=0),
        np.repeat(1000 * np.eye(5), [1, 1, 1, 1, 1], axis=0),
    ],
    ids=["normal", "heavy tails", "mostly equal", "few"],
)
def test_all_samples_of_other_data_count(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, rms = location_and_scale_of(data)
    np.testing.assert_allclose(mean, data.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(rms, np.sqrt(data.var(axis=0).sum()), rtol=1e-12)


@pytest.mark.filterwarnings("ignore:.*are massive")
def test_explained_variance_is_of_all_samples(X):
    data = X.copy()
    data[3] *= 1e4
    gap = amortisation_gap(SparseAutoencoderDictionary(20, random_state=0).fit(data), data)
    total = ((data - data.mean(axis=0)) ** 2).sum()
    want = 1 - gap.lasso.squared_error.sum() / total
    np.testing.assert_allclose(gap.lasso.explained_variance, want, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:.*are massive")
def test_a_fit_codes_no_more_samples_at_once_than_a_block(X, monkeypatch):
    data = X.copy()
    data[3] *= 1e4
    seen = []

    encode = Encoder.__call__
    monkeypatch.setattr(
        Encoder, "__call__", lambda self, x: seen.append(len(x)) or encode(self, x)
    )
    estimator = SparseAutoencoderDictionary(20, random_state=0, max_iter=2).fit(data)
    assert estimator.noise_variance_ > estimator.variance_  # looked at
    assert max(seen) <= N_ROWS_AT_A_TIME < len(data) < sum(seen)


# -- samples far from the origin, and constant columns --------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_constant_column_does_not_hide_the_others(X, solver):
    data = np.hstack([X, np.full((len(X), 1), 1e8)]).astype(np.float32)
    params = {} if solver == "lasso" else {"max_iter": 10}  # the others would have no effect
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("default", category=ConvergenceWarning)
        estimator = make_estimator(solver=solver, **params).fit(data)
    codes = estimator.transform(data)
    without = make_estimator(solver=solver, **params).fit(data[:, :-1])
    X_hat = without.inverse_transform(without.transform(data[:, :-1]))
    assert explained_variance(data[:, :-1], estimator.inverse_transform(codes)[:, :-1]) > (
        explained_variance(data[:, :-1], X_hat) - 0.05
    )


def test_atoms_begin_as_samples_however_far_from_the_origin(X):
    data = (X + 1e5).astype(np.float32)
    atoms = SparseAutoencoderDictionary(
        50, solver="lasso", dict_init="exemplars", random_state=0
    ).fit(data)
    centred = data - data.mean(axis=0, dtype=np.float64)
    directions = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert ((atoms.components_ @ directions.T).max(axis=1) > 0.99).all()


@pytest.mark.parametrize(("dtype", "mean"), [(np.float32, 1e6), (np.float64, 1e15)])
def test_samples_whose_differences_are_in_the_last_digits(X, dtype, mean):
    data = (X + mean).astype(dtype)
    with pytest.warns(UserWarning, match="so far from the origin that torch.float.* Subtract"):
        estimator = SparseAutoencoderDictionary(20, max_iter=10, random_state=0).fit(data)
    X_hat = estimator.inverse_transform(estimator.transform(data)).astype(np.float64)
    assert explained_variance(data.astype(np.float64), X_hat) > 0.7


@pytest.mark.parametrize("value", [0.1, 1e6 / 3, 1e-300, 1e300, 5e-324])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_samples_have_no_dictionary(value, dtype):
    if not 0 < abs(dtype(value)) < np.inf:
        pytest.skip("not a number of this dtype")
    data = np.full((300, 4), value, dtype=dtype)
    data[::7] = np.nextafter(data[0], np.array(0, dtype))  # the last digit is rounding
    with pytest.raises(ValueError, match="zero variance" if value != 5e-324 else "too small"):
        SparseAutoencoderDictionary(4, random_state=0).fit(data)


# -- near the limits of the dtype ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("dtype", "factor"),
    [
        (np.float32, 2.0**-80),
        (np.float32, 2.0**80),
        (np.float64, 2.0**-400),
        (np.float64, 2.0**400),
    ],
)
def test_a_change_of_units_changes_nothing(X, solver, dtype, factor):
    one, other = (
        make_estimator(solver=solver, n_components=20).fit((scale * X).astype(dtype))
        for scale in (1, factor)
    )
    np.testing.assert_allclose(other.components_, one.components_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(other.alpha_ / factor, one.alpha_, rtol=1e-12)
    np.testing.assert_allclose(other.noise_variance_ / factor**2, one.noise_variance_, rtol=1e-5)
    codes = [e.transform((s * X).astype(dtype)) for e, s in ((one, 1), (other, factor))]
    np.testing.assert_allclose(codes[1] / dtype(factor), codes[0], rtol=1e-4, atol=1e-5)
    scores = one.score(X.astype(dtype)), other.score((factor * X).astype(dtype))
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("dtype", "factor", "how"),
    [
        (np.float32, 1e-40, "small"),
        (np.float32, 1e-35, "small"),
        (np.float32, 1e37, "large"),
        (np.float64, 1e-300, "small"),
        (np.float64, 1e-160, "small"),
        (np.float64, 1e155, "large"),
        (np.float64, 1e300, "large"),
        (np.float64, 1e308, "large"),
    ],
)
def test_scales_that_cannot_be_computed_with_are_refused(X, solver, dtype, factor, how):
    data = (np.clip(X, -1, 1) * factor).astype(dtype)
    with pytest.raises(ValueError, match=f"X is too {how} to compute with in torch.float.*Multip"):
        make_estimator(solver=solver).fit(data)


# -- trainings that diverge --------------------------------------------------------------------

DIVERGED = r"Training has diverged: after \d+ steps, objective .*Lower learning_rate_init"


@pytest.mark.slow
@pytest.mark.parametrize("learning_rate", [1e8, 1e12, 1e30])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_training_that_diverges_raises(X, dtype, architecture, learning_rate):
    estimator = make_estimator(
        architecture=architecture, learning_rate_init=learning_rate, n_nonzero_coefs=2
    )
    for fit in (estimator.fit, estimator.partial_fit):
        with pytest.raises(ValueError, match=DIVERGED):
            fit(X.astype(dtype))
        assert not hasattr(estimator, "components_")


@pytest.mark.parametrize(
    "params", [{"fit_intercept": False}, {"early_stopping": True}, {"shuffle": False}]
)
def test_a_training_that_diverges_raises_whatever_else_is_asked(X, params):
    estimator = make_estimator(learning_rate_init=1e20, **params)
    with pytest.raises(ValueError, match=DIVERGED):
        estimator.fit(X.astype(np.float32))
    with pytest.raises(ValueError, match=DIVERGED):
        SparseAutoencoderDictionaryCV(8, alphas=2, cv=2, learning_rate_init=1e20).fit(X)


@pytest.mark.parametrize("learning_rate", [1e30, 1e38, 1e300])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_training_of_one_step_that_diverges_raises(X, architecture, learning_rate):
    """No objective is seen after the step: the dictionary itself tells."""
    estimator = make_estimator(
        architecture=architecture,
        learning_rate_init=learning_rate,
        max_iter=1,
        batch_size=len(X),
        fit_intercept=False,
    )
    for fit in (estimator.fit, estimator.partial_fit):
        with pytest.raises(ValueError, match=DIVERGED):
            fit(X.astype(np.float32))


def test_a_portion_that_diverges_leaves_what_was_learned(X):
    estimator = make_estimator().fit(X)
    before, codes = estimator.components_.copy(), estimator.transform(X)
    with pytest.raises(ValueError, match=DIVERGED):
        estimator.set_params(learning_rate_init=1e20).partial_fit(X)
    np.testing.assert_array_equal(estimator.components_, before)
    np.testing.assert_array_equal(estimator.transform(X), codes)
    estimator.set_params(learning_rate_init="auto").partial_fit(X)
    assert np.isfinite(estimator.score(X))


def test_a_dictionary_that_is_worse_than_none_is_warned_of(X):
    with pytest.warns(ConvergenceWarning, match="leave .* times the squared error of no codes"):
        estimator = make_estimator(learning_rate_init=3.0).fit(X)
    residual = X - estimator.inverse_transform(estimator.transform(X))
    assert (residual**2).sum() > 1.5 * ((X - X.mean(axis=0)) ** 2).sum()


def test_an_early_stop_is_no_divergence(X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator = make_estimator(early_stopping=True, alpha=0.2).fit(X)
    assert np.isfinite(estimator.score(X))


def test_few_steps_are_no_divergence():
    X = load_wine().data  # one column is most of it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator = SparseAutoencoderDictionary(random_state=0)
        for portion in np.array_split(X, 4):
            estimator.partial_fit(portion)
    error = X - estimator.inverse_transform(estimator.transform(X))
    assert np.mean(error**2) > X.var(axis=0).mean()  # not yet better than nothing
    with pytest.warns(UserWarning, match=r"or \d steps are too few.*raise max_iter"):
        estimator = SparseAutoencoderDictionary(
            52, fit_intercept=False, max_iter=3, random_state=0
        )
        estimator.set_params(early_stopping=False).fit(X)


def test_portions_of_another_scale_or_place_are_no_divergence(X):
    for portion in (1000 * X, X + 50, X[:1] + 3):
        estimator = make_estimator().partial_fit(X)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            estimator.partial_fit(portion)


# -- alphas from none to huge ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("alpha", [0.0, 1e-300, 1e-10, 1e4, 1e30, 1e300])
@pytest.mark.parametrize(
    "params",
    [
        *({"architecture": architecture} for architecture in sorted(ARCHITECTURES)),
        *({"solver": solver} for solver in SOLVERS[1:]),
    ],
    ids=lambda params: next(iter(params.values())),
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_alphas_of_any_size(X, params, alpha, dtype):
    data = X[:300].astype(dtype)
    estimator = make_estimator(alpha=alpha, **params).fit(data)
    codes = estimator.transform(data)
    for value in (estimator.components_, codes, estimator.score(data), *estimator.loss_curve_):
        assert np.isfinite(value).all()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["relu", "jumprelu"])
def test_the_larger_alpha_the_sparser(X, architecture):
    l0 = []
    for alpha in (0.3, 1e4, 1e30, 1e300):
        estimator = SparseAutoencoderDictionary(
            20, alpha=alpha, architecture=architecture, max_iter=5, random_state=0
        )
        codes = estimator.fit_transform(X.astype(np.float32))
        l0.append(np.count_nonzero(codes) / len(codes))
    assert l0[1] < l0[0]
    assert max(l0[2:]) <= l0[1] + 0.01


def test_a_dictionary_without_active_features_is_warned_of(X):
    with pytest.warns(UserWarning, match=r"No feature is active .* alpha_=1e\+05 is too large"):
        estimator = make_estimator(solver="alternating", alpha=1e5).fit(X)
    assert not estimator.transform(X).any()


def test_an_empty_dictionary_is_not_put_down_to_an_alpha_without_effect():
    equal = np.repeat(np.random.default_rng(0).laplace(size=(300, 6))[:3], 100, axis=0)
    estimator = SparseAutoencoderDictionary(
        8, architecture="batch_topk", n_nonzero_coefs=2, max_iter=3, random_state=0
    ).set_params(early_stopping=False)
    with pytest.warns(UserWarning, match="No feature is active .* exceeds the threshold"):
        estimator.fit(equal)


@pytest.mark.parametrize("solver", ["autoencoder", "alternating"])
def test_a_portion_that_overflows_is_refused(X, solver):
    """Whatever solver: no dictionary with entries that are no numbers."""
    X = X.astype(np.float32)
    estimator = make_estimator(solver=solver).partial_fit(X)
    before = estimator.components_.copy()
    with (
        warnings.catch_warnings(action="error", category=UserWarning),
        pytest.raises(ValueError, match=r"Training has diverged: .* is not finite"),
    ):
        estimator.partial_fit(1e30 * X)
    np.testing.assert_array_equal(estimator.components_, before)


def test_codes_that_were_not_trained_tell_nothing_of_the_training(X):
    """Those of a threshold add up to many times the sample where there are many atoms."""
    params = {"n_components": 512, "transform_algorithm": "threshold", "transform_alpha": 0.0}
    with warnings.catch_warnings(action="error"):
        estimator = make_estimator(**params).fit(X)
    residual = X - estimator.inverse_transform(estimator.transform(X))
    assert (residual**2).sum() > 200 * X.var(axis=0).sum() * len(X)


def test_a_warning_of_no_codes_names_what_decides_them(X):
    params = {"architecture": "topk", "transform_algorithm": "lasso", "transform_alpha": 1e3}
    with pytest.warns(UserWarning, match=r"No feature .* transform_alpha=1e\+03 is too large"):
        make_estimator(**params).fit(X)
    with pytest.warns(UserWarning, match="is too large for the scale of X. Take") as caught:
        make_estimator(solver="lasso", alpha=1e3).fit(X)  # its atoms are not learned
    assert "steps" not in str(caught[0].message) and "max_iter" not in str(caught[0].message)
