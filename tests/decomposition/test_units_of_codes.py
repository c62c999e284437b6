"""Whatever the units of the codes of a loaded dictionary: the same scores, objectives and fits."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from skdict._core.formats import Record, Weights
from skdict._core.models.architectures import AbsTopK, JumpReLU, ReLU, TopK
from skdict._core.normalization import RowNormalization
from skdict.decomposition import (
    SparseAutoencoderDictionary,
    amortisation_gap,
    compare_dictionaries,
)
from skdict.decomposition._records import estimator_from
from skdict.inspection import replace_activations
from skdict.inspection.codes._nearness import Nearness
from skdict.io import load_dictionary, save_dictionary

D, N = 12, 30


def rows(n=200, seed=1):
    return np.random.default_rng(seed).normal(size=(n, D)) * 1.5 + 0.3


def loaded(architecture=None, *, units="source", **given):
    draw = np.random.default_rng(0).normal
    weights = {
        "encoder": draw(size=(N, D)) / 6,
        "encoder_bias": draw(size=N) / 3,
        "decoder": draw(size=(N, D)) * np.linspace(0.05, 0.4, N)[:, None],
        "decoder_bias": draw(size=D) / 9,
        **given,
    }
    weights = {
        k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in weights.items()
    }
    dictionary = Weights(**weights).dictionary(units=units, dtype=torch.float64)
    record = Record(dictionary, architecture or ReLU())
    return estimator_from(record, SparseAutoencoderDictionary)


def both(*args, **given):
    return [loaded(*args, units=units, **given) for units in ("source", "unit")]


CASES = {
    "relu": (ReLU(), {}),
    "threshold": (JumpReLU(), {"threshold": np.linspace(0, 0.5, N)}),
    "top-k": (TopK(4), {"k": 4}),
    "top-k, ranked by norms": (TopK(4), {"k": 4, "ranks_by_norm": True}),
    "absolute": (AbsTopK(4), {"k": 4, "selection": "absolute"}),
}


@pytest.mark.parametrize("name", CASES)
def test_scores_do_not_depend_on_units(name):
    architecture, given = CASES[name]
    X = rows(1000)
    source, unit = (each.calibrate(X) for each in both(architecture, **given))
    assert source.score(X) == pytest.approx(unit.score(X), rel=1e-9)
    np.testing.assert_allclose(source.feature_magnitude_, unit.feature_magnitude_)
    assert source.noise_variance_ == pytest.approx(unit.noise_variance_)


def test_score_of_normalised_rows_is_that_of_scaled_atoms():
    """With the atoms of each row as s D, whose norms are s: the formula in the docstring."""
    X = rows(50) * np.linspace(0.2, 5, 50)[:, None]
    estimator = loaded(normalization=RowNormalization("row_norm")).calibrate(X)
    codes, found = estimator.transform(X), estimator.reconstruct(X)
    scale = np.linalg.norm(X, axis=1) / np.sqrt(D)
    p = (estimator.feature_density_ * 50 + 0.5) / 51
    m, tau = estimator.feature_magnitude_, estimator.resolution * estimator.variance_
    s = estimator.noise_variance_ + tau
    codes = codes * estimator.component_norms_
    on = np.log(p / (m * scale[:, None])) - codes / m + 0.5 * np.log(2 * np.pi * s)
    expected = np.where(codes > 0, on, np.log1p(-p)).sum(axis=1)
    noise = multivariate_normal(cov=s * np.eye(D))
    expected += noise.logpdf(X - found) - D * tau / (2 * s)
    np.testing.assert_allclose(estimator.score_samples(X), expected)


def test_coders_go_by_unit_atoms():
    X = rows()
    source, unit = both()
    for algorithm, options in (
        ("lasso", {"transform_alpha": 0.2}),
        ("threshold", {"transform_alpha": 0.2}),
        ("omp", {"transform_n_nonzero_coefs": 3}),
    ):
        for each in (source, unit):
            each.set_params(transform_algorithm=algorithm, **options)
        np.testing.assert_allclose(
            source.transform(X) * source.component_norms_, unit.transform(X), atol=1e-10
        )


def test_coders_leave_out_what_a_skip_adds():
    skip = np.random.default_rng(2).normal(size=(D, D)) / 9
    estimator = loaded(skip=skip).set_params(transform_algorithm="lasso", transform_alpha=1e-6)
    np.testing.assert_allclose(estimator.reconstruct(rows()), rows(), atol=1e-2)


@pytest.mark.parametrize("name", ["relu", "absolute"])
def test_amortisation_gap(name):
    architecture, given = CASES[name]
    source, unit = (amortisation_gap(e, rows(), alpha=0.1) for e in both(architecture, **given))
    for coder in ("encoder", "lasso", "omp"):
        np.testing.assert_allclose(source[coder].objective, unit[coder].objective, rtol=1e-6)
    slack = 1 + 1e-3 + source.lasso.gap
    assert (source.lasso.objective <= source.encoder.objective * slack).all()
    assert source.omp.squared_error.mean() < source.encoder.squared_error.mean()


def test_amortisation_gap_needs_an_objective():
    with pytest.raises(ValueError, match="calibrate"):
        amortisation_gap(loaded(), rows())
    with pytest.raises(ValueError, match="normalises each row"):
        amortisation_gap(loaded(normalization=RowNormalization("row_norm")), rows(), alpha=0.1)


def test_comparison():
    source, unit = (each.set_params(transform_alpha=1.0) for each in both())
    options = {"transform_algorithms": ["encoder", "lasso"], "budgets": [3]}
    table = compare_dictionaries({"source": source, "unit": unit}, rows(), rows(seed=2), **options)
    for column in ("l0", "objective", "explained_variance"):
        values = np.asarray(table[column]).reshape(2, 2)
        np.testing.assert_allclose(values[0], values[1], rtol=1e-6)
    normalised = loaded(normalization=RowNormalization("row_norm"))
    normalised.set_params(transform_alpha=1.0)
    table = compare_dictionaries({"normalised": normalised}, rows(), 100 * rows(seed=2), **options)
    assert np.asarray(table["l0"])[1] == pytest.approx(3, rel=0.1)


def test_alpha_of_normalised_rows_does_not_depend_on_their_scale():
    normalization = RowNormalization("layer_norm", eps=0.0, ddof=1)
    small, large = (
        loaded(normalization=normalization).calibrate(factor * rows()).alpha_
        for factor in (1, 1000)
    )
    assert small == pytest.approx(large)


def test_statistics_that_partial_fit_goes_on_from():
    """Those of the calibration are in the units of codes before, those of the portion after."""
    X = rows(2000)
    source, unit = (copy.deepcopy(e).calibrate(X) for e in both())
    for each in (source, unit):
        each.set_params(random_state=0).partial_fit(X[:100])
    np.testing.assert_allclose(source.feature_magnitude_, unit.feature_magnitude_, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_units_of_our_own_files(name, tmp_path):
    architecture, given = CASES[name]
    X = rows()
    source, unit = (each.calibrate(X) for each in both(architecture, **given))
    save_dictionary(source, tmp_path / "saved")
    found = load_dictionary(tmp_path / "saved", units="unit")
    assert not hasattr(found, "component_norms_")
    np.testing.assert_array_equal(found.transform(X) != 0, source.transform(X) != 0)
    np.testing.assert_allclose(found.transform(X), unit.transform(X))
    np.testing.assert_allclose(found.feature_magnitude_, unit.feature_magnitude_)
    assert found.score(X) == pytest.approx(unit.score(X))


def test_normalised_dictionaries_of_our_own_files(tmp_path):
    source, unit = both(normalization=RowNormalization("row_norm"))
    save_dictionary(source, tmp_path / "saved")
    found = load_dictionary(tmp_path / "saved", units="unit")
    np.testing.assert_allclose(found.transform(rows()), unit.transform(rows()))


@pytest.mark.parametrize("units", ["source", "unit"])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"k": 4},
        {"k": 20, "ranks_by_norm": True},
        {"ranks_by_norm": True},
        {"ranks_by_norm": True, "threshold": 0.1},
        {"scales_by_norm": True, "threshold": 0.1},
    ],
)
def test_latents_that_decode_to_nothing(given, units, tmp_path):
    decoder = np.random.default_rng(0).normal(size=(N, D)) * np.linspace(0.2, 3, N)[:, None]
    decoder[3] = decoder[7] = 0
    architecture = TopK(given["k"]) if "k" in given else JumpReLU()
    estimator = loaded(architecture, units=units, decoder=decoder, **given)
    assert all(bool(tensor.isfinite().all()) for tensor in estimator.dictionary_.tensors)
    codes = estimator.transform(rows())
    assert np.isfinite(codes).all() and codes.any()
    if "ranks_by_norm" in given or "scales_by_norm" in given:  # p n is not above θ
        assert not codes[:, [3, 7]].any()
    assert np.isfinite(estimator.calibrate(rows()).score(rows()))
    save_dictionary(estimator, tmp_path / "saved")
    np.testing.assert_array_equal(load_dictionary(tmp_path / "saved").transform(rows()), codes)


def test_an_error_that_is_kept_is_that_of_each_row():
    normalization = RowNormalization("layer_norm", eps=1e-5, ddof=1)
    estimator, X = loaded(normalization=normalization), rows()
    codes = estimator.transform(X)
    feature = int((codes > 0).sum(axis=0).argmax())
    without = codes.copy()
    without[:, feature] = 0
    expected = X + estimator.reconstruct(X, without) - estimator.reconstruct(X)
    model = torch.nn.Sequential(torch.nn.Identity())
    options = {"scale": {feature: 0.0}, "keep_error": True}
    with torch.no_grad(), replace_activations(model, "0", estimator, **options):
        found = model(torch.from_numpy(X))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_near_misses_of_signed_codes_are_those_of_largest_absolute_value():
    estimator = loaded(AbsTopK(4), k=4, selection="absolute")
    at, features, values = Nearness(estimator).above(rows(), np.full(N, -np.inf))
    scores = np.zeros((len(rows()), N))
    scores[at, features] = values
    weight, bias = estimator.encoder_coef_, estimator.encoder_intercept_
    expected = abs(rows() @ weight.T + bias)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    active = estimator.transform(rows()) != 0
    assert (
        np.where(active, scores, np.inf).min(axis=1) >= np.where(active, 0, scores).max(1)
    ).all()
