"""The interpretation display: what is drawn is what was scored."""

import sys

import numpy as np
import pandas as pd
import pytest
from interpretation_testing import SCORERS, planted
from numpy.testing import assert_allclose

from skdict.inspection import InterpretationDisplay, interpret_features


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def test_from_interpretation(plt):
    codes, tokens = planted(5)
    codes[100:, 4] = 0  # too few windows: a score is nan
    neurons = np.random.default_rng(0).normal(size=(len(codes), 9))
    result = interpret_features(
        codes, tokens=tokens, window_length=8, scorers=SCORERS, neurons=neurons
    )
    assert np.isnan(result.detection).sum() == 1
    for given in (result, pd.DataFrame(result)):
        display = InterpretationDisplay.from_interpretation(given)
        assert list(display.scores) == list(SCORERS)
        assert list(display.scores["intruder"]) == ["features", "neurons"]
        assert list(display.scores["fuzzing"]) == [
            "features",
            "explanations of other features",
            "neurons",
        ]
        drawn = {}
        for points in display.ax_.collections:
            if points.get_label() != "chance":
                drawn.setdefault(points.get_label(), []).extend(points.get_offsets()[:, 1])
        expected = [result[name] for name in SCORERS]
        assert_allclose(np.sort(drawn["features"]), np.sort(np.ravel(expected))[:-4])
        box = display.boxes_["simulation", "neurons"].get_path().vertices[:, 1]
        quartiles = np.nanquantile(result.simulation_neuron, [0.25, 0.75])
        assert_allclose([box.min(), box.max()], quartiles)
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == ["features", "explanations of other features", "neurons", "chance"]
    assert [text.get_text() for text in display.ax_.get_xticklabels()] == list(SCORERS)
    assert display.figure_ is display.ax_.figure


def test_chance_is_where_it_is(plt):
    scores = {"detection": {"features": [0.7]}, "intruder": {"features": [0.3]}}
    display = InterpretationDisplay(scores).plot()
    lines = [c for c in display.ax_.collections if c.get_label() == "chance"]
    heights = [line.get_segments()[0][:, 1] for line in lines]
    assert_allclose(heights, [[0.5, 0.5], [0.2, 0.2]])


def test_given_axes_and_no_scores_at_all(plt):
    _, ax = plt.subplots()
    display = InterpretationDisplay({"detection": {"features": [np.nan]}}).plot(ax=ax)
    assert display.ax_ is ax


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match="scores is empty"):
        InterpretationDisplay({})
    with pytest.raises(ValueError, match="result has no scores"):
        InterpretationDisplay.from_interpretation({"feature": [1]})
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"skdict\[plot\]"):
        InterpretationDisplay({"detection": {"features": [1.0]}}).plot()
