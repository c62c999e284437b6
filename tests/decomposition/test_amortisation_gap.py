"""What the encoder loses, against sparse coding by hand."""

import numpy as np
import pytest
import torch
from dictionary_testing import make_estimator
from sklearn.linear_model import Lasso

from skdict.decomposition import AmortisationGapDisplay, amortisation_gap, sparse_encode
from skdict.metrics import explained_variance


@pytest.fixture(scope="module")
def result(planted, fitted):
    return amortisation_gap(fitted["autoencoder"], planted)


def test_encoder_is_what_transform_gives(planted, fitted, result):
    estimator = fitted["autoencoder"]
    codes = estimator.transform(planted)
    error = ((planted - estimator.inverse_transform(codes)) ** 2).sum(axis=1)
    np.testing.assert_allclose(result.encoder.squared_error, error)
    np.testing.assert_allclose(result.encoder.l0, np.count_nonzero(codes, axis=1))
    objective = 0.5 * error + estimator.alpha_ * codes.sum(axis=1)
    np.testing.assert_allclose(result.encoder.objective, objective)
    expected = explained_variance(planted, estimator.inverse_transform(codes))
    assert result.encoder.explained_variance == pytest.approx(expected)
    assert result.alpha == estimator.alpha_


def test_lasso_is_the_optimum(planted, fitted, result):
    estimator = fitted["autoencoder"]
    lasso = Lasso(estimator.alpha_ / 16, positive=True, fit_intercept=False, tol=1e-12)
    centred = planted - estimator.intercept_
    codes = lasso.fit(estimator.components_.T, centred.T).coef_
    best = 0.5 * ((centred - codes @ estimator.components_) ** 2).sum(axis=1)
    best += estimator.alpha_ * codes.sum(axis=1)
    np.testing.assert_allclose(result.lasso.objective, best, rtol=1e-4)
    assert result.lasso.gap.max() <= 1e-4
    assert (result.lasso.objective <= result.encoder.objective * (1 + 1e-4)).all()


def test_pursuit_has_as_many_nonzeros_as_the_encoder(planted, fitted, result):
    estimator = fitted["autoencoder"]
    assert (result.omp.l0 <= result.encoder.l0).all()
    assert result.omp.l0.mean() > 0.95 * result.encoder.l0.mean()  # few need fewer
    assert result.omp.explained_variance > result.encoder.explained_variance
    rows = np.flatnonzero(result.encoder.l0 == 3)
    codes = sparse_encode(
        planted[rows] - estimator.intercept_,
        estimator.components_,
        algorithm="omp",
        n_nonzero_coefs=3,
    )
    error = ((planted[rows] - estimator.inverse_transform(codes)) ** 2).sum(axis=1)
    np.testing.assert_allclose(result.omp.squared_error[rows], error)


def test_other_alphas_and_kinds(planted, fitted):
    estimator = fitted["autoencoder"]
    result = amortisation_gap(estimator, torch.tensor(planted), alpha=0.5)
    assert result.alpha == 0.5
    assert result.lasso.l0.mean() < amortisation_gap(estimator, planted).lasso.l0.mean()


def test_transform_algorithm_does_not_matter(planted, fitted, result):
    estimator = make_estimator()
    vars(estimator).update(vars(fitted["autoencoder"]))
    estimator.set_params(transform_algorithm="omp")
    again = amortisation_gap(estimator, planted)
    np.testing.assert_array_equal(again.encoder.objective, result.encoder.objective)


def test_without_an_encoder(planted, fitted):
    with pytest.raises(ValueError, match=r"has no encoder \(solver='lasso'\)"):
        amortisation_gap(fitted["lasso"], planted)


def test_display(planted, fitted, result):
    plt = pytest.importorskip("matplotlib.pyplot")
    display = AmortisationGapDisplay.from_estimator(fitted["autoencoder"], planted)
    left, right = display.axes_
    assert sum(bar.get_height() for bar in left.patches) == pytest.approx(1)
    heights = [bar.get_height() for bar in right.patches]
    expected = [result[name].explained_variance for name in ("encoder", "lasso", "omp")]
    np.testing.assert_allclose(heights, expected)
    _, axes = plt.subplots(1, 2)
    assert AmortisationGapDisplay(result).plot(axes=axes).figure_ is axes[0].figure
    plt.close("all")
