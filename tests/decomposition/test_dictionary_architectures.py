"""Architectures as the estimator's parameter: instances, searches, those of others, bad ones."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary, SparseAutoencoderDictionaryCV
from skdict.decomposition.architectures import (
    Architecture,
    BatchTopK,
    Gated,
    JumpReLU,
    Matryoshka,
    ReLU,
    TopK,
    register,
)

BY_NAME = {
    "relu": ReLU,
    "topk": TopK,
    "batch_topk": BatchTopK,
    "matryoshka": Matryoshka,
    "jumprelu": JumpReLU,
    "gated": Gated,
}


@pytest.fixture(scope="module")
def X():
    return make_superposition(n_samples=800, n_features=12, n_components=24, random_state=0)[
        0
    ].astype(np.float32)


def make(architecture, **params):
    params = {"max_iter": 3, "batch_size": 100, "random_state": 0, **params}
    return SparseAutoencoderDictionary(24, architecture=architecture, **params)


def assert_same_fit(one, other):
    attributes = {name for name in vars(one) if name.endswith("_")}
    assert attributes == {name for name in vars(other) if name.endswith("_")}
    for name in attributes:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("name", BY_NAME)
def test_an_instance_fits_as_its_name(X, name):
    instance, k = BY_NAME[name](), {}
    if "k" in instance.get_params():
        instance.set_params(k=3)
        k = {"n_nonzero_coefs": 3}
    by_name = make(name, **k).fit(X)
    by_instance = make(instance).fit(X)
    assert_same_fit(by_instance, by_name)
    np.testing.assert_array_equal(by_instance.transform(X), by_name.transform(X))
    # k of the architecture left open is the estimator's, and the same number twice is no conflict
    for given in (BY_NAME[name](), instance):
        assert_same_fit(make(given, **k).fit(X), by_name)


def test_without_any_k_a_tenth_of_the_features(X):
    assert make(BatchTopK()).fit(np.tile(X, 2)).n_nonzero_coefs_ == 2
    assert make(JumpReLU()).fit(X).n_nonzero_coefs_ is None


def test_two_different_k(X):
    with pytest.raises(ValueError, match=r"n_nonzero_coefs=4, but .*TopK\(k=3\) has k=3. Give"):
        make(TopK(k=3), n_nonzero_coefs=4).fit(X)


def test_more_than_there_are_components(X):
    with pytest.raises(ValueError, match=r"n_nonzero_coefs=25 is larger .* k of TopK\(k=25\)"):
        make(TopK(k=25)).fit(X)


@pytest.mark.parametrize("stream", [False, True])
def test_a_fit_does_not_change_the_instance(X, stream):
    instance = BatchTopK(rate=0.2)
    estimator = make(instance)
    (estimator.partial_fit if stream else estimator.fit)(X)
    assert estimator.architecture is instance
    assert instance == BatchTopK(rate=0.2)
    codes = estimator.transform(X)
    instance.set_params(k=9)  # nor does the instance change the fit
    estimator.set_params(architecture__rate=0.9)
    np.testing.assert_array_equal(estimator.transform(X), codes)


@pytest.mark.slow
def test_hyper_parameters_matter(X):
    """Each at another value gives another fit, and alone decides about it."""
    pairs = [
        (BatchTopK(k=3), BatchTopK(k=3, rate=0.9)),
        (Matryoshka(k=3), Matryoshka(k=3, prefixes=(0.5, 1))),
        (Matryoshka(k=3, prefixes=[1.0]), Matryoshka(k=3)),
        (JumpReLU(k=3), JumpReLU(k=3, bandwidth=0.1)),
        (JumpReLU(k=3), JumpReLU(k=3, initial_threshold=0.1)),
        (JumpReLU(k=3), JumpReLU(k=3, price_rate=0.5)),
        (JumpReLU(k=3), JumpReLU(k=3, threshold_rate=0.1)),
    ]
    for one, other in pairs:
        fits = [make(architecture, max_iter=6).fit(X) for architecture in (one, other)]
        assert any(
            not np.array_equal(getattr(fits[0], name), getattr(fits[1], name))
            for name in ("components_", "threshold_")
        ), other
    # one prefix, the whole dictionary, is no nesting
    nested, plain = make(Matryoshka(k=3, prefixes=(1.0,))).fit(X), make(BatchTopK(k=3)).fit(X)
    np.testing.assert_allclose(nested.components_, plain.components_, atol=1e-5)
    # where to look changes the time, and in which order sums are taken
    narrow, wide = make(BatchTopK(k=3, margin=0.1)).fit(X), make(BatchTopK(k=3)).fit(X)
    np.testing.assert_allclose(narrow.components_, wide.components_, atol=1e-5)
    np.testing.assert_allclose(narrow.threshold_, wide.threshold_, rtol=1e-4)


def test_search(X):
    search = GridSearchCV(
        make(BatchTopK(k=2)), {"architecture__rate": [0.05, 0.5], "architecture__k": [2, 5]}, cv=2
    ).fit(X)
    found = {(p["architecture__rate"], p["architecture__k"]) for p in search.cv_results_["params"]}
    assert found == {(0.05, 2), (0.05, 5), (0.5, 2), (0.5, 5)}
    assert len(set(search.cv_results_["mean_test_score"])) == 4
    best = search.best_estimator_
    assert best.n_nonzero_coefs_ == best.architecture.k == search.best_params_["architecture__k"]
    assert search.estimator.architecture == BatchTopK(k=2)
    architectures = [ReLU(), TopK(k=3), "gated"]
    search = GridSearchCV(make("relu"), {"architecture": architectures}, cv=2).fit(X)
    assert search.best_params_["architecture"] in architectures


@pytest.mark.parametrize("cls", [SparseAutoencoderDictionary, SparseAutoencoderDictionaryCV])
def test_parameters_of_an_architecture_need_an_instance(X, cls):
    estimator = cls(8, architecture="topk")
    message = r"architecture='topk' is none.*TopK\(\), from skdict.decomposition.architectures"
    with pytest.raises(ValueError, match=message):
        estimator.set_params(architecture__k=2)
    with pytest.raises(ValueError, match=message):
        GridSearchCV(
            make_pipeline(estimator), {f"{cls.__name__.lower()}__architecture__k": [2]}
        ).fit(X)
    with pytest.raises(ValueError, match=r"architecture=None is none.*TopK\(\)"):
        estimator.set_params(architecture=None, architecture__k=2)
    assert estimator.architecture == "topk"
    estimator.set_params(architecture=TopK(), architecture__k=2)
    assert estimator.architecture == TopK(2)
    assert estimator.set_params(architecture__k=3).architecture == TopK(3)
    with pytest.raises(ValueError, match="Invalid parameter 'rate'"):
        estimator.set_params(architecture__rate=0.1)


def test_alpha_by_cross_validation(X):
    instance = JumpReLU(bandwidth=1.0)
    selected = SparseAutoencoderDictionaryCV(
        24, alphas=2, cv=2, architecture=instance, max_iter=2, random_state=0
    ).fit(X)
    assert selected.best_estimator_.architecture == instance
    assert instance == JumpReLU(bandwidth=1.0)
    cloned = clone(selected).set_params(architecture__bandwidth=0.2)
    assert cloned.architecture == JumpReLU(bandwidth=0.2)


def test_parameters_clone_and_show():
    estimator = make(BatchTopK(k=32, rate=0.05))
    cloned = clone(estimator)
    assert cloned.architecture == estimator.architecture
    assert cloned.architecture is not estimator.architecture
    assert estimator.get_params()["architecture__margin"] == 0.9
    assert "architecture=BatchTopK(k=32, rate=0.05)" in repr(estimator)
    assert "BatchTopK(k=32, rate=0.05)" in estimator._repr_html_()


def test_pickles_name_the_public_module(X):
    estimator = make(Matryoshka(k=3)).fit(X)
    data = pickle.dumps(estimator)
    assert b"skdict.decomposition.architectures" in data
    assert b"_core.models.architectures" not in data
    again = pickle.loads(data)
    assert again.architecture == estimator.architecture
    np.testing.assert_array_equal(again.transform(X), estimator.transform(X))
    assert_same_fit(again.partial_fit(X), estimator.partial_fit(X))


def test_a_stream_goes_on_with_an_equal_architecture(X):
    parts = np.array_split(X, 4)

    def stream(*architectures):
        estimator = make("relu")
        for architecture, part in zip(architectures, parts, strict=True):
            estimator.set_params(**architecture).partial_fit(part)
        return estimator

    name = {"architecture": "batch_topk", "n_nonzero_coefs": 3}
    instance = {"architecture": BatchTopK(k=3), "n_nonzero_coefs": None}
    other = {"architecture": BatchTopK(k=3, rate=0.5), "n_nonzero_coefs": None}
    same = stream(name, name, name, name)
    assert_same_fit(stream(name, instance, name, instance), same)
    # another hyper-parameter goes on from the dictionary, with a fresh optimiser
    changed = stream(name, name, other, other)
    assert not np.array_equal(changed.components_, same.components_)
    assert np.abs(changed.components_ - same.components_).max() < 0.5


class Shifted(Architecture):
    """Codes of which a constant is subtracted."""

    def __init__(self, *, shift=0.1):
        self.shift = shift

    def validate(self):
        self.require("shift", self.shift >= 0, "a float of at least 0")

    def initial_state(self, zeros):
        return {"threshold": zeros + self.shift}

    def select(self, scan, state, n_rows):
        return scan(offset=state["threshold"])

    def values(self, pre_activations, state, n_rows):
        return torch.where(pre_activations > state["threshold"], pre_activations, 0)

    def fold(self, weight, bias, state):
        return weight, bias, state["threshold"]

    def unfold(self, bias, threshold):
        return bias, self.initial_state(torch.zeros_like(bias))

    def in_units(self, state, factor):
        return {"threshold": factor * state["threshold"]}


@pytest.mark.usefixtures("registered")
def test_an_architecture_from_outside(X):
    with pytest.raises(ValueError, match=r"among .*'gated'.* Got 'shifted'"):
        make("shifted").fit(X)
    assert register("shifted")(Shifted) is Shifted
    by_name, by_instance = make("shifted").fit(X), make(Shifted(shift=0.5)).fit(X)
    for estimator in (by_name, by_instance, make(Shifted()).partial_fit(X)):
        codes = estimator.transform(X)
        assert codes.any()
        assert (codes[codes > 0] > estimator.threshold_.min()).all()
        again = pickle.loads(pickle.dumps(estimator))
        np.testing.assert_array_equal(again.transform(X), codes)
        again.partial_fit(X)
    assert (by_instance.threshold_ > 4.9 * by_name.threshold_).all()
    assert_same_fit(make(Shifted(shift=0.1)).fit(X), by_name)
    with pytest.raises(ValueError, match=r"'shift' parameter of Shifted .* Got -1"):
        make(Shifted(shift=-1)).fit(X)


@pytest.mark.usefixtures("registered")
def test_registration():
    with pytest.raises(TypeError, match=r"takes a name.*got <class"):
        register(Shifted)
    for wrong in (int, Shifted(), torch.relu):
        with pytest.raises(TypeError, match="takes a subclass of Architecture; got"):
            register("wrong")(wrong)
    with pytest.raises(ValueError, match="architecture named 'topk' exists already"):
        register("topk")(Shifted)

    def define():
        @register("again")
        class Again(Architecture):
            pass

        return Again

    assert define() is not define()  # a cell that is run once more

    class TopK(Architecture):
        """Of the same name as ours, in another module."""

        def __init__(self, k):
            self.k = k

    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        register("mine")(TopK)
    with pytest.raises(ValueError, match=r"must be a str among .* Got 'mine'"):
        make("mine").fit(np.eye(3))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (TopK(k=0), r"'k' parameter of TopK must be None or an int of at least 1. Got 0"),
        (TopK(k=2.0), "'k' parameter .* Got 2.0"),
        (TopK(k=True), "'k' parameter .* Got True"),
        (BatchTopK(rate=0), "'rate' parameter of BatchTopK must be a float above 0 .* Got 0"),
        (BatchTopK(rate="0.1"), "'rate' parameter .* Got '0.1'"),
        (BatchTopK(margin=1.5), "'margin' parameter .* Got 1.5"),
        (Matryoshka(rate=float("nan")), "'rate' parameter of Matryoshka .* Got nan"),
        (Matryoshka(prefixes=()), r"'prefixes' parameter .* ends with 1. Got \(\)"),
        (Matryoshka(prefixes=(0.5,)), r"'prefixes' parameter .* Got \(0.5,\)"),
        (Matryoshka(prefixes=(0.5, 0.2, 1)), "'prefixes' parameter .* Got"),
        (Matryoshka(prefixes=(0.0, 1)), "'prefixes' parameter .* Got"),
        (Matryoshka(prefixes=1), "'prefixes' parameter .* Got 1"),
        (JumpReLU(bandwidth=0), "'bandwidth' parameter of JumpReLU .* Got 0"),
        (JumpReLU(initial_threshold=-1), "'initial_threshold' parameter .* Got -1"),
        (JumpReLU(initial_threshold=np.inf), "'initial_threshold' parameter .* Got inf"),
        (JumpReLU(price_rate=-0.1), "'price_rate' parameter .* Got -0.1"),
        (JumpReLU(threshold_rate=None), "'threshold_rate' parameter .* Got None"),
        ("top_k", "'architecture' parameter .* among .* or an instance of .*Architecture"),
        (TopK, "'architecture' parameter .* Got <class"),
        (None, "'architecture' parameter .* Got None"),
    ],
)
def test_bad_values(X, architecture, message):
    for method in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match=message):
            getattr(make(architecture), method)(X)


@pytest.mark.parametrize(
    "architecture", [TopK(k=1), BatchTopK(k=24), Matryoshka(k=1, prefixes=(1,)), JumpReLU(k=1)]
)
def test_extreme_values(X, architecture):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few steps may leave nothing active
        estimator = make(architecture).fit(X)
    assert np.isfinite(estimator.transform(X)).all()
    assert estimator.n_nonzero_coefs_ == architecture.k
