"""How fit goes on and stops: early stopping, warm start, streams, callbacks."""

import copy
import io
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from dictionary_testing import (
    SOLVERS,
    debiased,
    fit_sklearns,
    fitted_attributes,
    make_estimator,
)
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict._core.solvers import alternating
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.metrics import DictionaryScorer, dictionary_recovery, explained_variance_scorer

# Lasso on a handful of coherent atoms.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

STREAMING = ("autoencoder", "dictionary_learning")
PARAMETERS = ("components_", "intercept_", "encoder_coef_", "encoder_intercept_")


def assert_same_parameters(one, other):
    for name in PARAMETERS:
        if hasattr(other, name):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


class Recorder:
    """A callback that remembers what it is given, and stops after some passes."""

    def __init__(self, stop_after=None, fail_after=None):
        self.stop_after = stop_after
        self.fail_after = fail_after
        self.events = []
        self.fitted = []
        self.X = []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        self.events.append(("end", context.task_name, context.task_id))
        self.X.append(X)
        if context.task_name != "pass":
            return False
        self.fitted.append(fitted_estimator)
        if len(self.fitted) == self.fail_after:
            raise KeyboardInterrupt
        return len(self.fitted) == self.stop_after


# -- early stopping --------------------------------------------------------------------------


def test_early_stopping_returns_to_the_best_pass(planted, monkeypatch):
    objectives = iter([5.0, 4.0, 3.0, 3.5, 2.9999, 3.2, 1.0])
    monkeypatch.setattr(
        "skdict._core.training.loop.mean_objective",
        lambda *args: next(objectives),
    )
    recorder = Recorder()
    estimator = make_estimator(early_stopping=True, max_iter=7, n_iter_no_change=3, tol=1e-3)
    estimator.set_callbacks(recorder).fit(planted)
    # the fifth pass is the best, but no better than the third by a thousandth
    assert estimator.validation_loss_curve_ == [5.0, 4.0, 3.0, 3.5, 2.9999, 3.2]
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 6
    assert_same_parameters(estimator, recorder.fitted[4])
    assert not np.array_equal(estimator.components_, recorder.fitted[5].components_)
    assert estimator.n_samples_seen_ == 540


def test_by_default_all_passes_are_made_and_the_best_one_is_kept(planted, monkeypatch):
    objectives = iter([5.0, 3.0, 4.0, 4.0, 4.0])
    monkeypatch.setattr(
        "skdict._core.training.loop.mean_objective",
        lambda *args: next(objectives),
    )
    recorder = Recorder()
    estimator = make_estimator(early_stopping="auto", max_iter=5, tol=0.5, n_iter_no_change=1)
    estimator.set_callbacks(recorder).fit(planted)
    assert estimator.validation_loss_curve_ == [5.0, 3.0, 4.0, 4.0, 4.0]
    assert_same_parameters(estimator, recorder.fitted[1])


def test_early_stopping_holds_samples_out(planted):
    """Samples that are never trained on: far away, they pull nothing towards them."""
    estimator = make_estimator(early_stopping=True, max_iter=30, n_iter_no_change=2, tol=0.5)
    estimator.fit(planted)
    assert estimator.n_iter_ < 30
    assert len(estimator.validation_loss_curve_) == len(estimator.loss_curve_)
    assert estimator.n_steps_ == estimator.n_iter_ * 6  # 540 of 600 samples, 100 a step
    for fraction, n_batches in ((0.5, 3), (0.999, 1), (1e-9, 6)):
        estimator = make_estimator(early_stopping=True, validation_fraction=fraction, max_iter=1)
        assert estimator.fit(planted).n_steps_ == n_batches


def test_early_stopping_of_two_samples(planted):
    estimator = make_estimator(early_stopping=True).fit(planted[:2])
    assert np.isfinite(estimator.validation_loss_curve_).all()


def test_without_early_stopping_all_passes_are_made(planted):
    estimator = make_estimator(tol=0.9, n_iter_no_change=1, max_iter=6).fit(planted)
    assert estimator.n_iter_ == 6
    assert not hasattr(estimator, "validation_loss_curve_")


# -- warm start ------------------------------------------------------------------------------


def test_warm_start_goes_on(planted):
    estimator = make_estimator(warm_start=True).fit(planted)
    first = copy.deepcopy(estimator)
    estimator.set_params(learning_rate_init=1e-9, max_iter=1).fit(planted)
    for name in PARAMETERS:
        np.testing.assert_allclose(getattr(estimator, name), getattr(first, name), atol=1e-6)
    assert estimator.n_iter_ == 1  # of the last fit
    assert estimator.n_steps_ == 6
    estimator.set_params(warm_start=False).fit(planted)  # back to where it came from
    assert np.abs(estimator.components_ - first.components_).max() > 0.01


def test_warm_start_on_other_data_keeps_the_intercept_it_learned(planted):
    estimator = make_estimator(warm_start=True).fit(planted)
    intercept = estimator.intercept_.copy()
    estimator.set_params(learning_rate_init=1e-9, max_iter=1).fit(planted + 1)
    np.testing.assert_allclose(estimator.intercept_, intercept, atol=1e-6)


def test_warm_start_gives_dictionary_learning_its_atoms(planted):
    estimator = make_estimator(solver="dictionary_learning", warm_start=True).fit(planted)
    atoms = estimator.components_.copy()
    estimator.set_params(max_iter=1).fit(planted)
    _, want = fit_sklearns(planted, estimator.alpha_, max_iter=1, dict_init=atoms)
    np.testing.assert_allclose(estimator.components_, want, atol=1e-10)


def test_warm_start_between_solvers(planted):
    """The autoencoder can start from the atoms of another solver."""
    estimator = make_estimator(solver="dictionary_learning", warm_start=True).fit(planted)
    atoms = estimator.components_.copy()
    estimator.set_params(solver="autoencoder", learning_rate_init=1e-9, max_iter=1).fit(planted)
    np.testing.assert_allclose(estimator.components_, atoms, atol=1e-6)


def test_warm_start_needs_the_same_shape(planted):
    estimator = make_estimator(warm_start=True).fit(planted)
    message = r"components_ of the previous fit \(warm_start\) has shape \(32, 16\), but .*40, 16"
    with pytest.raises(ValueError, match=message):
        estimator.set_params(n_components=40).fit(planted)
    with pytest.raises(ValueError, match="X has 15 features, but"):
        estimator.set_params(n_components=32).fit(planted[:, 1:])
    estimator.set_params(n_components="auto").fit(planted)
    assert estimator.components_.shape == (32, 16)


# -- streams ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("solver", STREAMING)
def test_a_stream_is_pickled_in_the_middle_and_goes_on_identically(planted, solver):
    estimator = make_estimator(solver=solver)
    for start in (0, 200):
        estimator.partial_fit(planted[start : start + 200])
    for restored in (pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)):
        assert_same_parameters(restored, estimator)
        one, other = copy.deepcopy(estimator), restored
        for start in (400, 0):
            one.partial_fit(planted[start : start + 200])
            other.partial_fit(planted[start : start + 200])
        assert_same_parameters(one, other)
        assert fitted_attributes(one) == fitted_attributes(other)
        np.testing.assert_array_equal(one.feature_density_, other.feature_density_)
        assert one.noise_variance_ == other.noise_variance_


@pytest.mark.usefixtures("one_thread")
def test_a_stream_is_deterministic_and_independent_of_transform(planted):
    one, other = make_estimator(), make_estimator()
    for start in (0, 200, 400):
        one.partial_fit(planted[start : start + 200])
        other.partial_fit(planted[start : start + 200]).transform(planted)
        other.score(planted)
    assert_same_parameters(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("solver", STREAMING)
def test_a_stream_learns(planted, solver):
    estimator = make_estimator(solver=solver, learning_rate_init=0.01)
    scores = []
    for n_portions in range(1, 41):
        start = 100 * (n_portions % 6)
        estimator.partial_fit(planted[start : start + 100])
        assert estimator.n_iter_ == n_portions
        scores.append(explained_variance_scorer(estimator, planted))
    assert scores[-1] > 0.4
    assert scores[-1] > scores[0] + 0.2 or solver == "dictionary_learning"
    assert estimator.n_steps_ == 40
    assert len(estimator.loss_curve_) == (40 if solver == "autoencoder" else 0)
    np.testing.assert_allclose(np.linalg.norm(estimator.components_, axis=1), 1)


def test_batches_of_a_stream_do_not_depend_on_its_portions():
    X = np.random.default_rng(0).normal(size=(40_000, 2)).astype(np.float32)
    # 64 samples a step up to 4,096, then 128, 256, 512; from 32,768 on 1,024
    want = 64 + 3 * 32 + 8
    for size in (4096, 20_000, 40_000):
        stream = SparseAutoencoderDictionary(4, random_state=0)
        for start in range(0, len(X), size):
            stream.partial_fit(X[start : start + size])
        assert abs(stream.n_steps_ - want) <= 4  # some batches are not full


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["relu", "topk"])
def test_a_stream_comes_near_a_fit(architecture):
    """Without decay of the learning rate, and with few rows, a little is lost."""
    X, atoms, _ = make_superposition(
        n_samples=26_000, n_features=32, n_components=96, l0=3, random_state=0
    )
    X, X_test = X[:24_000].astype(np.float32), X[24_000:].astype(np.float32)
    k = {} if architecture == "relu" else {"n_nonzero_coefs": 3}
    params = {"architecture": architecture, "random_state": 0, "alpha": 0.1, **k}
    fitted = SparseAutoencoderDictionary(96, max_iter=4, **params).fit(X)
    stream = SparseAutoencoderDictionary(96, **params)
    for _ in range(4):
        for start in range(0, len(X), 3000):
            stream.partial_fit(X[start : start + 3000])
    variance = [explained_variance_scorer(each, X_test) for each in (fitted, stream)]
    assert variance[1] > variance[0] - 0.03
    recovery = [dictionary_recovery(atoms, each.components_) for each in (fitted, stream)]
    assert recovery[1] > recovery[0] - 0.07
    alive = [each.transform(X_test).any(axis=0).mean() for each in (fitted, stream)]
    assert alive[1] > alive[0] - 0.03


@pytest.mark.parametrize("solver", STREAMING)
def test_the_first_portion_fixes_alpha(planted, solver):
    estimator = make_estimator(solver=solver).partial_fit(planted[:300])
    alpha = estimator.alpha_
    estimator.partial_fit(3 * planted[300:])
    assert estimator.alpha_ == alpha


@pytest.mark.parametrize("solver", STREAMING)
def test_a_stream_after_fit_goes_on_from_it(planted, solver):
    estimator = make_estimator(solver=solver, max_iter=10).fit(planted)
    before = copy.deepcopy(estimator)
    estimator.set_params(learning_rate_init=1e-9).partial_fit(planted[:100] + 0.3)
    np.testing.assert_allclose(estimator.intercept_, before.intercept_, atol=1e-6)
    assert estimator.alpha_ == before.alpha_
    assert (estimator.n_iter_, estimator.n_steps_) == (11, before.n_steps_ + 1)
    assert estimator.loss_curve_[:10] == before.loss_curve_
    if solver == "autoencoder":
        for name in PARAMETERS:
            np.testing.assert_allclose(getattr(estimator, name), getattr(before, name), atol=1e-6)
    else:
        assert np.median((estimator.components_ * before.components_).sum(axis=1)) > 0.9
    # what the fit found out about the codes is not forgotten over one small portion
    assert estimator.n_samples_seen_ == 700


def test_fit_after_a_stream_starts_anew(planted):
    estimator = make_estimator().partial_fit(planted).fit(planted)
    np.testing.assert_allclose(
        estimator.components_, make_estimator().fit(planted).components_, atol=1e-7
    )
    assert estimator.n_iter_ == 4


def test_the_statistics_of_a_stream_decay(planted, monkeypatch):
    monkeypatch.setattr("skdict.decomposition._learned.STREAM_MEMORY", 150)
    portions = np.split(planted, 3)
    estimator = make_estimator()
    counts, error, n_samples = np.zeros(32), 0.0, 0
    for portion in portions:
        estimator.partial_fit(portion)
        codes = estimator.transform(portion)
        factor = min(1, 150 / n_samples) if n_samples else 1
        _, residual = debiased(estimator, portion, codes)
        counts = factor * counts + (codes > 0).sum(axis=0)
        error = factor * error + np.sum(residual**2) / 16
        n_samples = factor * n_samples + 200
        np.testing.assert_allclose(estimator.feature_density_, counts / n_samples)
        assert estimator.noise_variance_ == pytest.approx(error / n_samples)
        assert estimator.n_samples_seen_ == n_samples
    assert n_samples == 350


@pytest.mark.parametrize("solver", STREAMING)
def test_a_stream_keeps_the_dtype_it_began_with(planted, solver):
    for first, then in ((np.float32, np.float64), (np.float64, np.float32)):
        estimator = make_estimator(solver=solver).partial_fit(planted.astype(first))
        estimator.partial_fit(planted.astype(then))
        estimator.partial_fit(torch.tensor(planted.astype(then)))
        assert estimator.components_.dtype == estimator.intercept_.dtype == first


def test_portions_of_one_sample(planted):
    with pytest.raises(ValueError, match="1 sample"):
        make_estimator().partial_fit(planted[:1])
    with pytest.raises(ValueError, match="1 sample"):  # it has to measure the scale anew
        make_estimator().fit(planted).partial_fit(planted[:1])
    estimator = make_estimator().partial_fit(planted)
    before = estimator.components_.copy()
    estimator.partial_fit(planted[:1])
    assert not np.array_equal(estimator.components_, before)


def test_a_bad_portion_does_no_harm(planted):
    estimator = make_estimator().partial_fit(planted)
    state = pickle.dumps(estimator)
    bad = planted.copy()
    bad[3, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        estimator.partial_fit(bad)
    one, other = estimator.partial_fit(planted), pickle.loads(state).partial_fit(planted)
    np.testing.assert_allclose(one.components_, other.components_, atol=1e-12)


def test_another_solver_goes_on_with_the_atoms(planted):
    """Nothing of the encoder remains: it would not fit the atoms that are learned now."""
    estimator = make_estimator().partial_fit(planted)
    estimator.set_params(solver="dictionary_learning").partial_fit(planted)
    assert not hasattr(estimator, "encoder_coef_")
    codes = make_estimator(solver="lasso", dict_init=estimator.components_).fit(planted)
    codes.intercept_ = estimator.intercept_
    np.testing.assert_allclose(estimator.transform(planted), codes.transform(planted), atol=0.05)
    estimator.set_params(solver="autoencoder").partial_fit(planted)
    assert hasattr(estimator, "encoder_coef_")


# -- callbacks -------------------------------------------------------------------------------


def test_callbacks_see_every_pass(planted):
    recorder = Recorder()
    estimator = make_estimator(max_iter=3).set_callbacks(recorder).fit(planted)
    passes = [(kind, "pass", task) for task in range(3) for kind in ("begin", "end")]
    assert recorder.events == [
        "setup",
        ("begin", "fit", 0),
        *passes,
        ("end", "fit", 0),
        "teardown",
    ]
    assert all(X.shape == (600, 16) for X in recorder.X)
    for n_passes, fitted in enumerate(recorder.fitted, start=1):
        assert fitted.n_iter_ == len(fitted.loss_curve_) == n_passes
        assert fitted.n_steps_ == 6 * n_passes
        assert fitted.loss_curve_ == estimator.loss_curve_[:n_passes]
        assert np.isfinite(fitted.score(planted))
    assert_same_parameters(recorder.fitted[-1], estimator)
    assert not np.array_equal(recorder.fitted[0].components_, estimator.components_)


def test_a_callback_stops_fit(planted):
    estimator = make_estimator(max_iter=5).set_callbacks(Recorder(stop_after=2)).fit(planted)
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 2
    assert estimator.n_steps_ == 12


@pytest.mark.usefixtures("one_thread")
def test_callbacks_change_nothing(planted):
    plain = make_estimator().fit(planted)
    watched = make_estimator().set_callbacks(Recorder()).fit(planted)
    assert_same_parameters(watched, plain)
    assert fitted_attributes(watched) == fitted_attributes(plain)


@pytest.mark.parametrize("solver", SOLVERS)
def test_progress_bar(planted, solver, capsys):
    pytest.importorskip("rich")
    make_estimator({"max_iter": 2}, solver=solver).set_callbacks(ProgressBar()).fit(planted)
    out = capsys.readouterr().out
    assert "SparseAutoencoderDictionary - fit" in out
    assert "100%" in out


@pytest.mark.parametrize("solver", SOLVERS)
def test_scoring_monitor(planted, solver):
    monitor = ScoringMonitor(scoring=DictionaryScorer(("score", "l0")))
    estimator = make_estimator({"max_iter": 3}, solver=solver).set_callbacks(monitor).fit(planted)
    logs = monitor.get_logs().data
    n_passes = 3 if solver in ("autoencoder", "alternating") else 0
    assert [log["task_name"] for log in logs] == ["fit"] + ["pass"] * n_passes
    assert logs[0]["score"] == pytest.approx(estimator.score(planted))
    l0 = np.count_nonzero(estimator.transform(planted)) / 600
    assert logs[0]["l0"] == pytest.approx(l0)
    if n_passes:
        assert logs[-1]["score"] == pytest.approx(logs[0]["score"])
        assert len({log["score"] for log in logs}) == 3


@pytest.mark.parametrize("as_kind", [np.asarray, pd.DataFrame, torch.tensor, sp.csr_array])
def test_scoring_monitor_of_every_kind_of_data(planted, as_kind):
    monitor = ScoringMonitor(scoring={"ev": explained_variance_scorer})
    estimator = make_estimator(max_iter=1).set_callbacks(monitor)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="X does not have valid feature names")
        for y in (None, np.arange(600)):
            X = as_kind(planted)
            if isinstance(X, pd.DataFrame):
                X.columns = [f"neuron{i}" for i in range(16)]
            estimator.fit(X, y)
            want = explained_variance_scorer(estimator, X)
            logs = monitor.get_logs().data
            assert [log["ev"] for log in logs] == [pytest.approx(want)] * 2


class PropagatedRecorder(Recorder):
    max_propagation_depth = None


def test_callbacks_reach_the_dictionary_in_a_search(planted, capsys):
    pytest.importorskip("rich")
    recorder = PropagatedRecorder()
    search = GridSearchCV(
        make_pipeline(StandardScaler(), make_estimator(max_iter=2)),
        {"sparseautoencoderdictionary__alpha": [0.1, 0.4]},
        cv=2,
    )
    search.set_callbacks(recorder, ProgressBar()).fit(planted)
    assert "100%" in capsys.readouterr().out
    assert len(recorder.fitted) == 2 * (2 * 2 + 1)  # passes of candidates in splits, and refit
    assert recorder.events.count("setup") == 1


def test_an_interrupted_fit_leaves_the_former_one(planted):
    estimator = make_estimator(solver="autoencoder").fit(planted)
    codes = estimator.transform(planted)
    before = copy.copy(vars(estimator))
    recorder = Recorder(fail_after=2)
    with pytest.raises(KeyboardInterrupt):
        estimator.set_params(alpha=9.0).set_callbacks(recorder).fit(planted)
    assert recorder.events[-1] == "teardown"
    assert fitted_attributes(estimator) == {name for name in before if name.endswith("_")}
    np.testing.assert_array_equal(estimator.transform(planted), codes)


def test_a_fitted_estimator_with_callbacks_pickles(planted):
    estimator = make_estimator().set_callbacks(Recorder()).fit(planted)
    restored = pickle.load(io.BytesIO(pickle.dumps(estimator)))
    np.testing.assert_array_equal(restored.transform(planted), estimator.transform(planted))
    assert clone(estimator).get_params() == estimator.get_params()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_components", "n_samples", "factor"),
    [
        (64, 3000, 1.0),  # no more than four times the batch
        (256, 3000, 0.5),  # sqrt(4 * 16 / 256)
        (256, 640, 1.0),  # in 80 steps an entry would not get far
    ],
)
def test_automatic_learning_rate(n_components, n_samples, factor):
    X = np.random.default_rng(0).normal(size=(n_samples, 16))
    options = {"batch_size": 16, "max_iter": 2, "random_state": 0}
    automatic = SparseAutoencoderDictionary(n_components, **options).fit(X)
    given = clone(automatic).set_params(learning_rate_init=factor * 0.1 / 4).fit(X)
    np.testing.assert_array_equal(automatic.components_, given.components_)


def test_a_callback_s_dictionary_has_nothing_of_a_former_fit(planted):
    recorder = Recorder()
    estimator = make_estimator(architecture="batch_topk").fit(planted)
    estimator.set_params(architecture="relu").set_callbacks(recorder).fit(planted)
    last = recorder.fitted[-1]
    assert not hasattr(last, "threshold_")
    np.testing.assert_array_equal(last.transform(planted), estimator.transform(planted))


def test_a_callback_s_dictionary_is_not_trained_on(planted):
    """It can go on by itself, from what it was, whatever happens to the fit."""
    recorder = Recorder()
    make_estimator(solver="alternating").set_callbacks(recorder).fit(planted)
    first = recorder.fitted[0]
    assert first.n_steps_ == 6
    assert first.partial_fit(planted[:100]).n_steps_ == 7
    assert first._stream.solver.n_steps == 1


def test_an_estimator_is_not_fitted_while_it_is_fitted_again(planted):
    """Rather than in part; if the fit fails it is what it was before."""
    estimator = make_estimator(architecture="batch_topk").fit(planted)
    before = estimator.transform(planted)

    class Looks(Recorder):
        def on_fit_task_begin(self, estimator, context):
            with pytest.raises(NotFittedError):
                estimator.transform(planted)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimator.set_callbacks(Looks()).fit(planted)
    np.testing.assert_array_equal(estimator.transform(planted), before)


def test_held_out_rows_are_coded_with_one_gram_matrix(planted, monkeypatch):
    """An epoch prepares the Lasso once for each step, and once for all held-out rows."""
    n_made, plain = [], alternating.Lasso

    def lasso(*args, **kwargs):
        n_made.append(1)
        return plain(*args, **kwargs)

    monkeypatch.setattr(alternating, "Lasso", lasso)
    monkeypatch.setattr(alternating.AlternatingSolver, "n_rows_at_a_time", 20)
    params = {"solver": "alternating", "early_stopping": True, "max_iter": 2}
    estimator = make_estimator(**params).fit(planted)
    assert len(estimator.validation_loss_curve_) == len(n_made) == 2
