"""The Pareto display: what is drawn is what was measured."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict.metrics import DictionaryScorer, ParetoDisplay


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(40, 5))


def test_from_estimators(plt, X):
    grid = [PCA(k).fit(X) for k in (3, 1, 2)]  # not in the order of L0
    pipeline = make_pipeline(StandardScaler(), PCA(2)).fit(X)
    display = ParetoDisplay.from_estimators({"grid": grid, "one": pipeline}, X)
    assert display.group.tolist() == ["grid", "grid", "grid", "one"]
    assert_array_equal(display.l0, [3, 1, 2, 2])
    scorer = DictionaryScorer(("explained_variance",))
    expected = [scorer(pca, X)["explained_variance"] for pca in (*grid, pipeline)]
    assert_array_equal(display.explained_variance, expected)

    assert list(display.lines_) == ["grid", "one"]
    assert_array_equal(display.lines_["grid"].get_xdata(), [1, 2, 3])
    assert_array_equal(display.lines_["grid"].get_ydata(), np.sort(expected[:3]))
    assert display.lines_["grid"].get_color() != display.lines_["one"].get_color()
    assert display.lines_["grid"].get_marker() != display.lines_["one"].get_marker()
    assert display.figure_ is display.ax_.figure
    assert display.ax_.get_xscale() == "log"
    assert "L0" in display.ax_.get_xlabel()
    assert "xplained variance" in display.ax_.get_ylabel()
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["grid", "one"]


def test_from_cv_results(plt, X):
    search = GridSearchCV(
        PCA(), {"n_components": [1, 2]}, scoring=DictionaryScorer(), refit=False, cv=2
    ).fit(X)
    display = ParetoDisplay.from_cv_results({"PCA": search.cv_results_})
    assert_array_equal(display.l0, search.cv_results_["mean_test_l0"])
    assert_array_equal(
        display.explained_variance, search.cv_results_["mean_test_explained_variance"]
    )
    assert list(display.lines_) == ["PCA"]


def test_drawing_into_given_axes(plt, X):
    _, ax = plt.subplots()
    display = ParetoDisplay([1, 2], [0.1, 0.2], ["a", "a"])
    assert display.plot(ax=ax) is display
    assert display.ax_ is ax
    assert ParetoDisplay.from_estimators({"PCA": PCA(2).fit(X)}, X, ax=ax).ax_ is ax


def test_points_that_a_logarithmic_axis_cannot_show(plt):
    display = ParetoDisplay([0.0, 2.0], [0.0, 0.5], ["a", "a"]).plot()
    assert_array_equal(display.lines_["a"].get_xdata(), [2.0])
    assert_array_equal(display.l0, [0.0, 2.0])


def test_a_line_goes_through_those_that_no_other_of_the_group_beats(plt):
    l0 = [2.0, 4.0, 2.0, 4.0, 3.0, 8.0, 3.0]
    variance = [0.3, 0.4, 0.5, 0.6, 0.55, 0.6, 0.1]
    display = ParetoDisplay(l0, variance, ["a"] * 6 + ["b"]).plot()
    assert_array_equal(display.lines_["a"].get_xydata(), [[2, 0.5], [3, 0.55], [4, 0.6]])
    assert_array_equal(display.beaten_["a"].get_xydata(), [[2, 0.3], [4, 0.4], [8, 0.6]])
    assert display.beaten_["a"].get_linestyle() == "None"
    assert display.beaten_["a"].get_color() == display.lines_["a"].get_color()
    assert list(display.beaten_) == ["a"]
    assert len(display.ax_.get_legend().get_texts()) == 2


def test_many_groups_stay_distinct(plt):
    n = 14
    display = ParetoDisplay(np.ones(n), np.ones(n), [f"group {i}" for i in range(n)]).plot()
    looks = {(line.get_color(), line.get_marker()) for line in display.lines_.values()}
    assert len(looks) == n


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    display = ParetoDisplay([1.0], [0.5], ["a"])
    with pytest.raises(ImportError, match=r'pip install "skdict\[plot\]"'):
        display.plot()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ParetoDisplay([1, 2], [0.5], ["a"]), ValueError, r"same length.*\(2,\)"),
        (lambda: ParetoDisplay([[1]], [[0.5]], [["a"]]), ValueError, "one-dimensional"),
        (
            lambda: ParetoDisplay.from_estimators([PCA()], np.ones((2, 2))),
            TypeError,
            "estimators must be a dict .* is a list",
        ),
        (
            lambda: ParetoDisplay.from_estimators({}, np.ones((2, 2))),
            ValueError,
            "estimators is empty",
        ),
        (
            lambda: ParetoDisplay.from_estimators({"a": []}, np.ones((2, 2))),
            ValueError,
            r"estimators\['a'\] is empty",
        ),
        (
            lambda: ParetoDisplay.from_cv_results({"a": {"mean_test_l0": [1]}}),
            ValueError,
            r"cv_results\['a'\] has no entry 'mean_test_explained_variance'",
        ),
        (
            lambda: ParetoDisplay.from_cv_results({"mean_test_l0": np.ones(3)}),
            TypeError,
            r"cv_results\['mean_test_l0'\] must be a dict",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_points_that_could_not_be_measured_are_left_out(plt):
    """The sparsest of them would hide the next point on the front."""
    l0, variance = [1.0, 2.0, np.nan, 4.0, 5.0], [np.nan, 0.5, 0.9, 0.4, 0.8]
    display = ParetoDisplay(l0, variance, ["a"] * 5).plot()
    assert_array_equal(display.lines_["a"].get_xdata(), [2, 5])
    assert_array_equal(display.beaten_["a"].get_xdata(), [4])
    display = ParetoDisplay([1.0, 2.0], [np.nan, np.nan], ["a", "a"]).plot()
    assert len(display.lines_["a"].get_xdata()) == 0
    assert not display.beaten_
