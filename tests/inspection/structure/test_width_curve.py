"""The width curve: what is reported is what was measured."""

import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import FeatureAgglomeration
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict.datasets import load_one_layer_transformer, make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import WidthCurveDisplay, width_curve
from skdict.metrics import DictionaryScorer, explained_variance, mean_l0


@pytest.fixture(scope="module")
def X():
    return make_superposition(2000, 16, 24, l0=1.5, noise=0.05, random_state=0)[0]


@pytest.fixture(scope="module")
def dictionaries(X):
    options = {"alpha": 0.2, "batch_size": 64, "max_iter": 10, "random_state": 0}
    return [SparseAutoencoderDictionary(n, **options).fit(X) for n in (24, 6, 48)]


@pytest.mark.slow
def test_against_metrics_one_by_one(X, dictionaries):
    curve = width_curve(dictionaries, X)
    assert_array_equal(curve.n_components, [6, 24, 48])
    for i, k in enumerate((1, 0, 2)):
        codes = dictionaries[k].transform(X)
        reconstruction = dictionaries[k].inverse_transform(codes)
        assert_allclose(curve.explained_variance[i], explained_variance(X, reconstruction))
        assert_allclose(curve.l0[i], mean_l0(codes))
        assert curve.n_alive[i] == np.count_nonzero((codes != 0).any(axis=0))
    assert_allclose(curve.alive_fraction, curve.n_alive / curve.n_components)
    assert curve.explained_variance[1] > curve.explained_variance[0] + 0.1
    assert pd.DataFrame(curve).shape == (3, 5)


def test_dead_features_and_pipelines():
    X = np.random.default_rng(0).normal(size=(60, 4))
    X[:, 3] = 0
    pipeline = make_pipeline(StandardScaler(), PCA(4)).fit(X)
    curve = width_curve((pipeline,), X)
    assert_array_equal([curve.n_components, curve.n_alive], [[4], [3]])
    assert_allclose(curve.alive_fraction, 0.75)


def test_loss_recovered():
    texts = ["import numpy as np\nfor i in range(10):\n    print(i)", "def f(x):\n    return x"]
    extractor = ActivationExtractor(
        load_one_layer_transformer().path, layer="transformer.h.0.mlp.act"
    )
    pipelines = [make_pipeline(extractor, PCA(k, random_state=0)).fit(texts) for k in (8, 2)]
    curve = width_curve(pipelines, texts, loss_recovered=True)
    names = ("loss_recovered_zero", "loss_recovered_mean", "delta_cross_entropy", "l0")
    for i, pipeline in enumerate(pipelines[::-1]):
        expected = DictionaryScorer(names)(pipeline, texts)
        for name in names:
            assert curve[name][i] == expected[name]
    assert curve.loss_recovered_zero[1] > curve.loss_recovered_zero[0]
    display = WidthCurveDisplay(curve)
    assert set(display.curve) == {
        "n_components",
        "explained_variance",
        "loss_recovered_zero",
        "loss_recovered_mean",
        "alive_fraction",
    }


@pytest.mark.parametrize(
    ("estimators", "options", "error", "message"),
    [
        (PCA(), {}, TypeError, "must be a list of fitted dictionaries, but is a PCA"),
        ([], {}, ValueError, "estimators is empty"),
        ([PCA(1)], {}, NotFittedError, "not fitted"),
        (
            [PCA(1).fit(np.eye(3)), FeatureAgglomeration(2).fit(np.eye(3))],
            {},
            TypeError,
            r"estimators\[1\] is a FeatureAgglomeration without components_",
        ),
        (
            [PCA(1).fit(np.eye(3))],
            {"loss_recovered": True},
            TypeError,
            "starts with an ActivationExtractor",
        ),
    ],
)
def test_bad_input(estimators, options, error, message):
    with pytest.raises(error, match=message):
        width_curve(estimators, np.eye(3), **options)


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def test_display(plt, X, dictionaries):
    _, ax = plt.subplots()
    display = WidthCurveDisplay.from_estimators(dictionaries, X, ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    curve = width_curve(dictionaries, X)
    assert list(display.lines_) == ["explained_variance", "alive_fraction"]
    for name, line in display.lines_.items():
        assert_array_equal(line.get_xdata(), curve.n_components)
        assert_array_equal(line.get_ydata(), curve[name])
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["6", "24", "48"]


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ({"n_components": [1]}, "no explained_variance and no alive_fraction"),
        (
            {"n_components": [1], "explained_variance": [1, 2], "alive_fraction": [1]},
            "same length",
        ),
        ({"n_components": 1, "explained_variance": 1, "alive_fraction": 1}, "one-dimensional"),
    ],
)
def test_display_bad_input(curve, message):
    with pytest.raises(ValueError, match=message):
        WidthCurveDisplay(curve)


def test_display_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    curve = {"n_components": [1], "explained_variance": [1.0], "alive_fraction": [1.0]}
    with pytest.raises(ImportError, match=r'WidthCurveDisplay.*pip install "skdict\[plot\]"'):
        WidthCurveDisplay(curve).plot()
