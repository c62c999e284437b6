"""What a fit tells while it goes on: lines, and how long it will take."""

import logging
import pickle
import re

import numpy as np
import pytest
from dictionary_testing import SOLVERS, make_estimator

from skdict._core.training import pace
from skdict.decomposition import SparseAutoencoderDictionaryCV, _reports, _search
from skdict.metrics import dead_fraction, explained_variance, mean_l0

NUMBER = r"([-+0-9.e]+)"
QUALITY = re.compile(rf"L0 {NUMBER}, explained variance {NUMBER}, dead {NUMBER}%")
ESTIMATE = "passes over 600 samples will take about"


def lines_of(capsys):
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if line.startswith("[SparseAutoencoderDictionary]")]


@pytest.mark.parametrize("solver", SOLVERS)
def test_verbose_tells_what_the_codes_are_worth(planted, capsys, solver):
    params = {} if solver == "lasso" else {"max_iter": 3}
    estimator = make_estimator(solver=solver, verbose=1, **params).fit(planted)
    lines = lines_of(capsys)
    in_passes = solver in ("autoencoder", "alternating", "dictionary_learning")
    assert len(lines) == (3 if in_passes else 1)
    codes = estimator.transform(planted)
    l0, explained, dead = map(float, QUALITY.search(lines[-1]).groups())
    assert l0 == pytest.approx(mean_l0(codes), rel=1e-2)
    reconstruction = estimator.inverse_transform(codes)
    assert explained == pytest.approx(explained_variance(planted, reconstruction), abs=1e-3)
    assert dead == pytest.approx(100 * dead_fraction(codes), abs=0.1)
    assert "of held-out samples" not in lines[-1]
    if in_passes:
        for i, line in enumerate(lines):
            assert f"pass {i + 1}/3: objective " in line and "rows/s" in line
            assert (" left" in line) == (i < 2)
    if estimator.loss_curve_:
        shown = [float(re.search(f"objective {NUMBER}", line)[1]) for line in lines]
        np.testing.assert_allclose(shown, estimator.loss_curve_, rtol=1e-5)
    elif in_passes:  # scikit-learn's own batches: the objective falls towards that of its codes
        shown = float(re.search(f"objective {NUMBER}", lines[-1])[1])
        residual = np.square(planted - reconstruction).sum(axis=1).mean() / 2
        expected = residual + estimator.alpha_ * codes.sum(axis=1).mean()
        assert shown == pytest.approx(expected, rel=0.2)
    pickle.loads(pickle.dumps(estimator))


def test_verbose_tells_of_held_out_samples_and_portions(planted, capsys):
    for solver in ("autoencoder", "alternating"):
        estimator = make_estimator(solver=solver, verbose=1, early_stopping=True, max_iter=2)
        estimator.fit(planted)
        lines = lines_of(capsys)
        held_out = estimator.validation_loss_curve_[1]
        assert f"{estimator.loss_curve_[1]:.6g}, of held-out samples {held_out:.6g}" in lines[1]
        estimator.partial_fit(planted)
        (line,) = lines_of(capsys)
        assert "portion 3: objective" in line and QUALITY.search(line)


def test_nothing_is_printed_unless_asked_for(planted, capsys):
    for solver in SOLVERS:
        params = {} if solver == "lasso" else {"max_iter": 1}
        make_estimator(solver=solver, **params).fit(planted)
    make_search().fit(planted)
    assert not capsys.readouterr().out


def test_lines_change_no_result(planted):
    quiet, loud = (make_estimator(max_iter=2, verbose=v).fit(planted) for v in (0, 1))
    np.testing.assert_array_equal(quiet.components_, loud.components_)


# -- how long it will take ---------------------------------------------------------------------


def test_the_first_steps_tell_how_long_all_take(monkeypatch):
    now = iter([100.0, 102.0])  # after the first step, which compiles, and after ten more
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(now))
    told = []
    clock = pace.Pace(5000, told.append)
    for n_rows in [999, *([10] * 10)]:
        assert not told
        clock.after_step(n_rows)
    for _ in range(5):
        clock.after_step(10)
    assert told == [100.0]  # 2 s for 100 rows


@pytest.mark.parametrize("solver", ["autoencoder", "alternating", "dictionary_learning"])
def test_long_fits_are_announced(planted, capsys, caplog, monkeypatch, solver):
    estimator = make_estimator(solver=solver, max_iter=4)
    with caplog.at_level(logging.INFO, "skdict"):
        estimator.fit(planted)
        assert not caplog.records  # well under a minute
        monkeypatch.setattr(_reports, "LONG", 0)
        estimator.fit(planted)
        (record,) = caplog.records
        assert f"4 {ESTIMATE}" in record.getMessage() and record.levelno == logging.INFO
        assert not capsys.readouterr().out
        estimator.set_params(verbose=1).fit(planted)
    assert len(caplog.records) == 1
    assert sum(ESTIMATE in line for line in lines_of(capsys)) == 1


def make_search(**params):
    options = {"alphas": [0.2, 0.3], "cv": 3, "max_iter": 4, "batch_size": 100, "random_state": 0}
    return SparseAutoencoderDictionaryCV(32, **options | params)


def test_a_search_tells_of_its_fits(planted, capsys):
    search = make_search(verbose=1).fit(planted)
    lines = capsys.readouterr().out.splitlines()
    of_fits = [line for line in lines if line.startswith("[SparseAutoencoderDictionaryCV] fold")]
    assert len(of_fits) == 6
    for line, score in zip(of_fits, search.scores_.T.ravel(), strict=True):
        assert float(re.search(f"score {NUMBER}", line)[1]) == pytest.approx(score, rel=1e-5)
    assert "fold 2/3, alpha=0.2: score" in of_fits[2]
    assert sum("pass" in line for line in lines) == 4  # of the last fit
    search.set_params(verbose=2).fit(planted)
    assert capsys.readouterr().out.count("] pass ") == 3 * (4 + 1) + 4


def test_a_search_is_announced_as_a_whole(planted, monkeypatch):
    class TwoSeconds:
        def __init__(self, n_rows, tell):
            self.tell = tell

        def after_step(self, n_rows):
            self.tell(2.0)

    told = []
    monkeypatch.setattr(_reports, "Pace", TwoSeconds)
    monkeypatch.setattr(_search, "announce", lambda caller, seconds, what: told.append(seconds))
    make_search(cv=2).fit(planted)
    # two folds of half of the samples, 4 passes and 1, and all samples 4 times; the first fit
    # of it, which alone is asked, has half of the samples 4 times, at 3 steps a pass
    assert told == [2.0 * (2 * 0.5 * (4 + 1) + 4) / (0.5 * 4)] * 12
