"""Names in pictures: shown as they are, whatever they look like."""

import io
import warnings

import numpy as np
import pytest

from skdict.inspection import (
    ActivationSpecificityDisplay,
    FeatureDisplay,
    FeatureMapDisplay,
    FeatureMatchDisplay,
    FeatureSplittingDisplay,
    InterpretationDisplay,
    SteeringDisplay,
)
from skdict.metrics import ParetoDisplay
from skdict.utils._drawing import plain

plt = pytest.importorskip("matplotlib.pyplot")
COLUMNS = ("concept_score", "concept_score_error", "cross_entropy")
EFFECT = {
    "feature": [3, 3],
    "strength": [0.0, 1.0],
    **{f"{prefix}{name}": [0.0, 1.0] for name in COLUMNS for prefix in ("", "random_", "other_")},
}
DISPLAYS = {
    "pareto": lambda name: ParetoDisplay([1.0, 2.0], [0.5, 0.6], [name, "other"]),
    "steering": lambda name: SteeringDisplay(EFFECT, name=name),
    "specificity": lambda name: ActivationSpecificityDisplay([0, 1, 2], [3, 1], [1, 2], name),
    "match": lambda name: FeatureMatchDisplay({name: [0.5, 0.7]}),
    "match of the dead": lambda name: FeatureMatchDisplay({name: [np.nan]}),
    "map": lambda name: FeatureMapDisplay([[0.0, 1.0], [1.0, 0.0]], name=name),
    "source": lambda name: InterpretationDisplay({"intruder": {name: [0.5, 0.9]}}),
    "scorer": lambda name: InterpretationDisplay({name: {"features": [0.5, 0.9]}}),
    "node": lambda name: FeatureSplittingDisplay([[0], [0]], [(0, 0, 0, 0.9)], [[name], ["x"]]),
    "level": lambda name: FeatureSplittingDisplay(
        [[0], [0]], [(0, 0, 0, 0.9)], [["x"], ["y"]], [name, "wide"]
    ),
    "feature": lambda name: FeatureDisplay([0, 1], [3], [("x", 1.0)], name=name),
    "token": lambda name: FeatureDisplay([0, 1], [3], [(name, 1.0)]),
}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def texts(figure):
    """All that is written in a figure."""
    return [text.get_text() for text in figure.findobj(plt.Text)]


@pytest.mark.slow
@pytest.mark.parametrize("display", DISPLAYS)
@pytest.mark.parametrize(
    "name",
    [
        r"$\frac{$",
        "$x$",
        "_private",
        "_",
        "a_b^{c}",
        "50 % & #1 ~",
        "<b>bold</b>",
        "\x00\x1b[31m",
        "\ud800",
        "\u202eright",
        "x" * 5000,
    ],
)
def test_names(display, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = DISPLAYS[display](name).plot().figure_
        figure.savefig(io.BytesIO(), format="png", dpi=40)
    assert any(plain(name) in text or plain(name, 100) in text for text in texts(figure))


def test_names_in_legends():
    display = ParetoDisplay([1.0, 2.0, 3.0], [0.5, 0.6, 0.7], ["_a", "$b", ""]).plot()
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["_a", "$b", ""]
    assert list(display.lines_) == ["_a", "$b", ""]


def test_plain():
    assert plain("a\n\\ $_é😀") == "a\n\\ $_é😀"
    assert plain("\x00\ud800\u202e") == r"\x00\ud800\u202e"
    assert plain(3) == "3" and plain("x" * 40) == "x" * 40
    assert plain(f"{'x' * 41}\n{'y' * 40}") == f"{'x' * 39}…\n{'y' * 40}"
