"""architecture="topk": at most k non-zeros, no shrinkage, trained through "relu"."""

import pickle

import numpy as np
import pytest
from dictionary_testing import make_estimator
from sklearn.base import clone

from skdict._core.models.architectures import ReLU, TopK
from skdict._core.solvers.schedule import Schedule
from skdict._core.training.loop import no_improvement
from skdict.datasets import make_superposition
from skdict.metrics import explained_variance, mean_l0, mean_max_cosine, shrinkage


@pytest.fixture(scope="module")
def topk(planted):
    """Not to be changed."""
    return make_estimator(architecture="topk", n_nonzero_coefs=3).fit(planted)


def test_codes_are_the_largest_pre_activations(planted, topk):
    codes = topk.transform(planted)
    pre = (planted - topk.intercept_) @ topk.encoder_coef_.T + topk.encoder_intercept_
    expected = np.zeros_like(pre)
    for row, values in enumerate(pre):
        largest = np.argsort(values)[-3:]
        expected[row, largest] = np.maximum(values[largest], 0)
    np.testing.assert_allclose(codes, expected, rtol=1e-10, atol=1e-12)
    sparse = clone(topk).set_params(sparse_output=True).fit(planted).transform(planted)
    np.testing.assert_array_equal(sparse.toarray(), codes)


def test_codes_of_a_row_do_not_depend_on_other_rows(planted, topk):
    rows = np.vstack([topk.transform(row[None]) for row in planted[:50]])
    np.testing.assert_allclose(rows, topk.transform(planted)[:50], rtol=1e-10, atol=1e-12)


def test_number_of_non_zeros(planted, topk):
    assert topk.n_nonzero_coefs_ == 3
    default = make_estimator(architecture="topk", max_iter=1).fit(np.tile(planted, (1, 3)))
    assert default.n_nonzero_coefs_ == 4  # a tenth of 48 features
    assert make_estimator(architecture="topk", max_iter=1).fit(planted).n_nonzero_coefs_ == 1
    all_of_them = make_estimator(architecture="topk", n_nonzero_coefs=32, max_iter=1).fit(planted)
    assert mean_l0(all_of_them.transform(planted)) > 1.5  # as far as positive
    relu = make_estimator(max_iter=1).fit(planted)
    assert not hasattr(relu, "n_nonzero_coefs_")
    assert not hasattr(
        clone(topk).set_params(architecture="relu").fit(planted), "n_nonzero_coefs_"
    )


def test_more_non_zeros_than_components(planted):
    with pytest.raises(ValueError, match=r"n_nonzero_coefs=33 is larger than .* components, 32"):
        make_estimator(architecture="topk", n_nonzero_coefs=33).fit(planted)


def test_what_was_fitted_decides_about_the_codes(planted, topk):
    """Not parameters that have been set since."""
    changed = pickle.loads(pickle.dumps(topk)).set_params(architecture="relu", n_nonzero_coefs=9)
    np.testing.assert_array_equal(changed.transform(planted), topk.transform(planted))
    assert changed.score(planted) == topk.score(planted)


def test_training_begins_as_relu():
    topk = TopK(5)
    schedule = Schedule(alpha=0.1, learning_rate=1e-3, n_steps=10)
    kinds = [type(topk.variant_at(schedule.progress_at(step))) for step in range(10)]
    assert kinds == [ReLU] * 5 + [TopK] * 5
    stream = Schedule(alpha=0.1, learning_rate=1e-3, n_steps=None)
    kinds = [type(topk.variant_at(stream.progress_at(step))) for step in range(1000)]
    assert kinds == [ReLU] * 160 + [TopK] * 840
    for n_steps in (None, 10):
        goes_on = Schedule(alpha=0.1, learning_rate=1e-3, n_steps=n_steps, from_scratch=False)
        assert topk.variant_at(goes_on.progress_at(0)) is topk


@pytest.mark.parametrize("stream", [False, True])
def test_relu_goes_on_as_topk(planted, stream):
    """With the encoder and the atoms that there are."""
    relu = make_estimator(max_iter=10, warm_start=True).fit(planted)
    atoms, coef = relu.components_.copy(), relu.encoder_coef_.copy()
    relu.set_params(architecture="topk", n_nonzero_coefs=3, max_iter=1, learning_rate_init=1e-6)
    topk = relu.partial_fit(planted) if stream else relu.fit(planted)
    assert topk.n_nonzero_coefs_ == 3
    assert mean_l0(topk.transform(planted)) <= 3
    for now, before in ((topk.components_, atoms), (topk.encoder_coef_, coef)):
        np.testing.assert_allclose(now, before, atol=1e-3)
    if stream:  # and another k begins a new stream
        topk.set_params(n_nonzero_coefs=2).partial_fit(planted)
        assert topk.n_nonzero_coefs_ == 2
        assert mean_l0(topk.transform(planted)) <= 2


def test_early_stopping_waits_for_k_non_zeros(planted):
    """Held-out error of k non-zeros rises while the L1 penalty does; that is no reason to stop."""
    options = {"architecture": "topk", "n_nonzero_coefs": 2, "early_stopping": True}
    alpha = 4 * make_estimator(max_iter=1).fit(planted).alpha_
    estimator = make_estimator(
        **options, alpha=alpha, max_iter=20, n_iter_no_change=3, tol=0.0
    ).fit(planted)
    curve = estimator.validation_loss_curve_
    assert any(no_improvement(curve[:n], 0.0, 3) for n in range(1, 11))  # it did rise
    assert len(curve) >= 10 + 3  # the first half, and three passes with k non-zeros
    assert mean_l0(estimator.transform(planted)) <= 2


@pytest.mark.slow
def test_planted_atoms_are_found_and_codes_do_not_shrink():
    X, dictionary, _ = make_superposition(10_000, 32, 96, l0=3.0, random_state=0)
    fitted = {
        architecture: make_estimator(
            n_components=96, architecture=architecture, n_nonzero_coefs=4, max_iter=20
        ).fit(X)
        for architecture in ("relu", "topk")
    }
    codes = {name: estimator.transform(X) for name, estimator in fitted.items()}
    assert mean_max_cosine(fitted["topk"].components_, dictionary) > 0.95
    assert (fitted["topk"].feature_density_ > 0).all()
    assert mean_l0(codes["topk"]) < mean_l0(codes["relu"])
    variance, shrunk = {}, {}
    for name, estimator in fitted.items():
        reconstruction = estimator.inverse_transform(codes[name])
        variance[name] = explained_variance(X, reconstruction)
        shrunk[name] = shrinkage(X - estimator.intercept_, reconstruction - estimator.intercept_)
    assert variance["topk"] > variance["relu"]
    assert shrunk["relu"] < shrunk["topk"]
