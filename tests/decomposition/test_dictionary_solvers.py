"""The objective and the solvers against independent truth: sklearn's estimators and numpy."""

import numpy as np
import pytest
import torch
from dictionary_testing import SOLVERS, debiased, fit_sklearns, make_estimator, objective
from sklearn.linear_model import Lasso, OrthogonalMatchingPursuit

from skdict._core.data.source import Source

# Lasso on a handful of coherent atoms.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("transform_alpha", [None, 0.02, 0.5])
def test_lasso_codes_are_those_of_sklearns_lasso(planted, fitted, solver, transform_alpha):
    """sklearn's Lasso divides the squared error by what are features here."""
    estimator = make_estimator()
    vars(estimator).update(vars(fitted[solver]))
    estimator.set_params(transform_algorithm="lasso", transform_alpha=transform_alpha)
    X = planted[:40]
    codes = estimator.transform(X)
    alpha = estimator.alpha_ if transform_alpha is None else transform_alpha
    lasso = Lasso(alpha / 16, positive=True, fit_intercept=False, tol=1e-12, max_iter=100_000)
    lasso.fit(estimator.components_.T, (X - estimator.intercept_).T)
    assert np.count_nonzero(codes) > 10
    for x, code, best_code in zip(X, codes, lasso.coef_, strict=True):
        best = objective(estimator, x[None], best_code[None], alpha)
        tolerance = 1e-4 * np.sum((x - estimator.intercept_) ** 2)  # sklearn's on the gap
        assert best - 1e-9 <= objective(estimator, x[None], code[None], alpha) < best + tolerance


def test_lasso_codes_satisfy_the_optimality_conditions(planted, fitted):
    estimator = fitted["lasso"]
    codes = estimator.transform(planted)
    residual = planted - estimator.intercept_ - codes @ estimator.components_
    correlation = residual @ estimator.components_.T
    assert (codes >= 0).all()
    assert correlation.max() <= 1.05 * estimator.alpha_
    active = codes > 0.05
    assert active.any()
    np.testing.assert_allclose(correlation[active], estimator.alpha_, rtol=0.1)


@pytest.mark.parametrize("n_nonzero_coefs", [None, 1, 3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_omp_codes_are_those_of_sklearns_omp(planted, fitted, solver, n_nonzero_coefs):
    estimator = make_estimator()
    vars(estimator).update(vars(fitted[solver]))
    estimator.set_params(transform_algorithm="omp", transform_n_nonzero_coefs=n_nonzero_coefs)
    X = planted[:40]
    codes = estimator.transform(X)
    k = n_nonzero_coefs or 1  # a tenth of 16 features
    omp = OrthogonalMatchingPursuit(n_nonzero_coefs=k, fit_intercept=False)
    omp.fit(estimator.components_.T, (X - estimator.intercept_).T)
    assert (np.count_nonzero(codes, axis=1) == k).all()
    np.testing.assert_allclose(codes, omp.coef_, atol=1e-8)


@pytest.mark.filterwarnings("ignore:Orthogonal matching pursuit ended prematurely")
def test_more_nonzero_coefs_than_there_can_be(planted, fitted):
    estimator = make_estimator(n_components=5, solver="lasso", transform_algorithm="omp")
    codes = estimator.set_params(transform_n_nonzero_coefs=99).fit(planted).transform(planted)
    centred = planted - estimator.intercept_
    weights = np.linalg.lstsq(estimator.components_.T, centred.T)[0]
    np.testing.assert_allclose(codes, weights.T, atol=1e-6)


def test_dictionary_learning_is_sklearns(planted):
    estimator = make_estimator(solver="dictionary_learning").fit(planted)
    by_hand, atoms = fit_sklearns(planted, estimator.alpha_, max_iter=4)
    np.testing.assert_allclose(estimator.components_, atoms, atol=1e-12)
    np.testing.assert_allclose(estimator.intercept_, planted.mean(axis=0), atol=1e-12)
    assert estimator.n_iter_ == 4
    assert estimator.n_steps_ == by_hand.n_steps_ == 24


def test_dictionary_learning_stops_by_sklearns_criterion(planted):
    options = {"solver": "dictionary_learning", "tol": 0.9, "max_iter": 50}
    estimator = make_estimator(**options, early_stopping=True).fit(planted)
    assert estimator.n_iter_ < 50


def test_exemplars_are_centred_samples_of_unit_norm(planted):
    estimator = make_estimator(solver="lasso").fit(planted)
    samples = planted - planted.mean(axis=0)
    samples /= np.linalg.norm(samples, axis=1, keepdims=True)
    cosines = estimator.components_ @ samples.T
    np.testing.assert_allclose(cosines.max(axis=1), 1)
    assert len(set(cosines.argmax(axis=1))) == 32  # without replacement
    np.testing.assert_allclose(estimator.intercept_, planted.mean(axis=0), atol=1e-12)
    assert (estimator.n_iter_, estimator.n_steps_, estimator.loss_curve_) == (1, 0, [])


@pytest.mark.parametrize("n_components", [32, "auto"])
def test_exemplars_given_as_dict_init(planted, n_components):
    atoms = np.random.default_rng(0).normal(size=(32, 16))
    before = atoms.copy()
    estimator = make_estimator(solver="lasso", n_components=n_components, dict_init=atoms)
    estimator.fit(planted)
    unit = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    np.testing.assert_allclose(estimator.components_, unit)
    np.testing.assert_array_equal(atoms, before)
    assert estimator.dict_init is atoms


def test_dict_init_is_where_training_starts(planted):
    atoms = np.random.default_rng(0).normal(size=(32, 16))
    unit = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    options = {"dict_init": atoms, "max_iter": 1, "batch_size": 600}
    autoencoder = make_estimator(**options, learning_rate_init=1e-9).fit(planted)
    np.testing.assert_allclose(autoencoder.components_, unit, atol=1e-6)
    other = make_estimator(**options, solver="dictionary_learning").fit(planted)
    cosines = (other.components_ * unit).sum(axis=1)
    assert np.median(cosines) > 0.8  # one step away


def test_the_encoder_is_what_the_docstring_says(planted, fitted):
    estimator = fitted["autoencoder"]
    pre_activations = (planted - estimator.intercept_) @ estimator.encoder_coef_.T
    codes = np.maximum(0, pre_activations + estimator.encoder_intercept_)
    np.testing.assert_allclose(estimator.transform(planted), codes, atol=1e-12)
    np.testing.assert_allclose(
        estimator.inverse_transform(codes),
        codes @ estimator.components_ + estimator.intercept_,
        atol=1e-12,
    )
    np.testing.assert_allclose(np.linalg.norm(estimator.components_, axis=1), 1)


@pytest.mark.parametrize("solver", SOLVERS)
def test_statistics_are_those_of_the_training_codes(planted, fitted, solver):
    estimator = fitted[solver]
    codes = estimator.transform(planted)
    counts = (codes > 0).sum(axis=0)
    np.testing.assert_allclose(estimator.feature_density_, counts / 600)
    codes, residual = debiased(estimator, planted, codes)
    overall = codes.sum() / counts.sum()
    np.testing.assert_allclose(
        estimator.feature_magnitude_, (codes.sum(axis=0) + overall) / (counts + 1)
    )
    assert estimator.noise_variance_ == pytest.approx(np.mean(residual**2))
    assert estimator.n_samples_seen_ == 600


@pytest.mark.parametrize("solver", SOLVERS)
def test_statistics_come_from_a_part_of_many_samples(planted, solver, monkeypatch):
    by_encoder = solver in ("autoencoder", "kmeans")
    limit = "N_ENCODED_SAMPLES" if by_encoder else "N_SPARSE_CODED_SAMPLES"
    monkeypatch.setattr(f"skdict.decomposition._code_statistics.{limit}", 150)
    estimator = make_estimator({"max_iter": 1}, solver=solver).fit(planted)
    assert estimator.n_samples_seen_ == 150
    density = (estimator.transform(planted[::4]) > 0).mean(axis=0)
    np.testing.assert_allclose(estimator.feature_density_, density)


def test_the_loss_curve_ends_at_the_objective(planted):
    """The learning rate has decayed: the parameters hardly move during the last pass."""
    estimator = make_estimator(max_iter=20).fit(planted)
    by_hand = objective(estimator, planted, estimator.transform(planted), estimator.alpha_)
    assert len(estimator.loss_curve_) == 20
    assert estimator.loss_curve_[-1] == pytest.approx(by_hand, rel=0.02)
    assert estimator.loss_curve_[-1] < 0.8 * estimator.loss_curve_[0]


def test_the_losses_are_the_objective_in_the_units_of_the_data(planted):
    """Hardly moving parameters: what is recorded equals the class docstring's objective."""
    estimator = make_estimator(warm_start=True).fit(planted)
    by_hand = objective(estimator, planted, estimator.transform(planted), estimator.alpha_)
    estimator.set_params(learning_rate_init=1e-14, max_iter=1, batch_size=10).fit(planted)
    assert estimator.loss_curve_ == [pytest.approx(by_hand, rel=1e-9)]
    # of the samples that are not held out "auto" would be another
    estimator.set_params(alpha=estimator.alpha_)
    estimator.set_params(early_stopping=True, validation_fraction=0.25).fit(planted)
    parts = 0.75 * estimator.loss_curve_[0] + 0.25 * estimator.validation_loss_curve_[0]
    assert parts == pytest.approx(by_hand, rel=1e-9)
    assert estimator.loss_curve_[0] != pytest.approx(by_hand, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("factor", [2.0**10, 1 / 300])
@pytest.mark.parametrize("alpha", [0.3, "auto"])
def test_scale(planted, solver, factor, alpha):
    """c X with c alpha gives the same atoms and c times the codes."""
    small = make_estimator(solver=solver, alpha=alpha).fit(planted)
    if alpha != "auto":
        alpha = factor * alpha
    large = make_estimator(solver=solver, alpha=alpha).fit(factor * planted)
    np.testing.assert_allclose(large.components_, small.components_, atol=1e-6)
    np.testing.assert_allclose(large.intercept_, factor * small.intercept_, atol=1e-6 * factor)
    codes = small.transform(planted)
    got = large.transform(factor * planted) / factor
    np.testing.assert_allclose(got, codes, atol=1e-5 * codes.max())
    assert large.alpha_ == pytest.approx(factor * small.alpha_)
    np.testing.assert_allclose(
        large.loss_curve_, factor**2 * np.array(small.loss_curve_), rtol=1e-6
    )
    # the density of a scaled variable
    change = large.score(factor * planted) - small.score(planted)
    assert change == pytest.approx(-16 * np.log(factor), abs=1e-3)


@pytest.mark.parametrize("factor", [1e-25, 1e25])
@pytest.mark.parametrize("solver", SOLVERS)
def test_scales_whose_square_float32_cannot_hold(planted, solver, factor):
    X = planted.astype(np.float32)
    plain = make_estimator(solver=solver).fit(X)
    scaled = make_estimator(solver=solver).fit(X * np.float32(factor))
    np.testing.assert_allclose(scaled.components_, plain.components_, atol=1e-3)
    change = scaled.score(X * np.float32(factor)) - plain.score(X)
    assert change == pytest.approx(-16 * np.log(factor), abs=0.05)


@pytest.mark.parametrize("solver", SOLVERS)
def test_translation(planted, solver):
    """X + t moves the intercept by t, and nothing else."""
    shift = np.random.default_rng(0).normal(size=16)
    here = make_estimator(solver=solver).fit(planted)
    there = make_estimator(solver=solver).fit(planted + shift)
    np.testing.assert_allclose(there.components_, here.components_, atol=1e-6)
    np.testing.assert_allclose(there.intercept_, here.intercept_ + shift, atol=1e-7)
    np.testing.assert_allclose(
        there.transform(planted + shift), here.transform(planted), atol=1e-5
    )
    assert there.alpha_ == pytest.approx(here.alpha_)


def test_far_from_the_origin_in_float32(planted):
    """Activations of a residual stream lie far out: no digits may be lost on the way."""
    near = planted.astype(np.float32)
    far = (planted + 1000).astype(np.float32)
    here, there = make_estimator().fit(near), make_estimator().fit(far)
    codes = here.transform(near)
    # the data themselves are rounded to 6e-5
    np.testing.assert_allclose(there.transform(far), codes, atol=0.02 * codes.max())
    assert there.noise_variance_ == pytest.approx(here.noise_variance_, rel=0.01)


@pytest.mark.parametrize("solver", SOLVERS)
def test_without_an_intercept(planted, solver):
    estimator = make_estimator(solver=solver, fit_intercept=False).fit(planted)
    np.testing.assert_array_equal(estimator.intercept_, np.zeros(16))
    rms = np.sqrt(((planted - planted.mean(axis=0)) ** 2).sum(axis=1).mean())
    assert estimator.alpha_ == pytest.approx(0.1 * rms)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_training_sees_data_of_unit_scale(planted, fit_intercept):
    """One learning rate serves data of any scale: E‖x‖² = n_features, about the intercept."""
    estimator = make_estimator(fit_intercept=fit_intercept).partial_fit(planted + 3)
    centre = (planted + 3).mean(axis=0) if fit_intercept else 0
    scale = estimator._stream.solver.scale
    assert scale == pytest.approx(np.sqrt(np.mean((planted + 3 - centre) ** 2)))


def test_the_intercept_is_learned(planted, fitted):
    intercept = fitted["autoencoder"].intercept_
    moved = np.abs(intercept - planted.mean(axis=0)).max()
    assert 1e-4 < moved < 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("solver", SOLVERS)
def test_random_state(planted, fitted, solver):
    again = make_estimator(solver=solver).fit(planted)
    generator = make_estimator(solver=solver, random_state=np.random.RandomState(0)).fit(planted)
    other = make_estimator(solver=solver, random_state=1).fit(planted)
    for name in ("components_", "intercept_", "feature_density_"):
        want = getattr(make_estimator(solver=solver).fit(planted), name)
        np.testing.assert_array_equal(getattr(again, name), want)
        np.testing.assert_array_equal(getattr(generator, name), want)
    assert not np.allclose(other.components_, again.components_, atol=1e-2)


def test_the_state_of_torch_and_numpy_is_left_alone(planted):
    """sklearn's Lasso draws from numpy's global state, so the other solvers cannot promise it."""
    state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    estimator = make_estimator().fit(planted)
    estimator.partial_fit(planted).transform(planted)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_equal(np.random.get_state(), numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("solver", ["autoencoder", "dictionary_learning"])
def test_shuffle(planted, solver):
    initial = np.random.default_rng(0).normal(size=(32, 16))
    options = {"solver": solver, "max_iter": 1, "dict_init": initial}
    plain = make_estimator(**options, shuffle=False).fit(planted)
    other_seed = make_estimator(**options, shuffle=False, random_state=1).fit(planted)
    shuffled = make_estimator(**options, shuffle=True).fit(planted)
    if solver == "autoencoder":  # sklearn also draws the atoms that replace unused ones
        np.testing.assert_allclose(plain.components_, other_seed.components_, atol=1e-7)
    assert not np.allclose(plain.components_, shuffled.components_)


def test_shuffling_off_takes_the_rows_in_their_order(planted, monkeypatch):
    seen = []
    plain = Source.__getitem__
    monkeypatch.setattr(Source, "__getitem__", lambda self, i: seen.append(i) or plain(self, i))
    make_estimator(shuffle=False, max_iter=1).fit(planted)
    batches = [index for index in seen if isinstance(index, torch.Tensor)]
    atoms, biases, *batches = batches  # what the initial ones are drawn from
    assert (len(atoms), len(biases)) == (32, 600)
    np.testing.assert_array_equal(torch.cat(batches)[:600], np.arange(600))


@pytest.mark.parametrize(
    ("solver", "n_samples", "n_components"),
    [
        ("autoencoder", 2000, 64),  # four times the columns
        ("autoencoder", 600, 37),  # an atom for 16 rows
        ("autoencoder", 40, 16),
        ("lasso", 600, 37),
        ("lasso", 40, 16),
        ("lasso", 10, 10),  # it starts from rows
        ("dictionary_learning", 40, 16),
    ],
)
def test_number_of_components(planted, solver, n_samples, n_components):
    estimator = make_estimator({"n_components": "auto", "max_iter": 1}, solver=solver)
    estimator.fit(planted[np.arange(n_samples) % len(planted)])
    assert estimator.components_.shape == (n_components, 16)
    assert estimator.transform(planted[:3]).shape == (3, n_components)
    assert len(estimator.get_feature_names_out()) == n_components


def test_a_batch_larger_than_the_data_and_batches_that_do_not_divide_it(planted):
    for batch_size, n_steps in ((10_000, 4), (600, 4), (599, 8), (7, 4 * 86)):
        estimator = make_estimator(batch_size=batch_size).fit(planted)
        assert estimator.n_steps_ == n_steps
        assert estimator.n_iter_ == 4


def test_without_a_penalty(planted):
    """alpha = 0 learns to reconstruct."""
    estimator = make_estimator(alpha=0.0, max_iter=40).fit(planted)
    assert estimator.alpha_ == 0.0
    residual = planted - estimator.inverse_transform(estimator.transform(planted))
    assert residual.var() < 0.1 * planted.var(axis=0).mean()


def test_a_penalty_that_silences_everything(planted):
    estimator = make_estimator(alpha=1e3, max_iter=20, learning_rate_init=0.03).fit(planted)
    codes = estimator.transform(planted)
    assert np.mean(codes > 0) < 0.01
    assert np.isfinite(estimator.score(planted))
