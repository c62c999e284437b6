"""What is loaded is an estimator as any other: copied, saved, cloned, checked and trained."""

import copy
import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from skdict.io import load_dictionary, save_dictionary

GOLDEN = Path(__file__).parent / "golden"
# One of each way to select, with what only other libraries have.
LOADED = {
    "relu": "interplm-relusae",
    "topk": "sparsify-topk",
    "threshold": "overcomplete-batchtopk",
    "layer norm": "openai-topk-layernorm",
    "norms": "sparsify-topk-freedecoder",
    "signed": "sparsify2407-signed",
    "transcoder": "sparsify-skiptranscoder",
}
CHECKED = {"relu": None, "topk": 1, "threshold": 1}


def load(name):
    return load_dictionary(GOLDEN / LOADED[name])


def rows(name):
    return np.load(GOLDEN / LOADED[name] / "expected.npz")["X"].astype(np.float32)


def through_skops(obj, folder):
    io = pytest.importorskip("skops.io")
    data = io.dumps(obj)
    types = io.get_untrusted_types(data=data)
    assert not [each for each in types if "._" in each]
    return io.loads(data, trusted=types)


WAYS = {
    "pickle": lambda obj, folder: pickle.loads(pickle.dumps(obj)),
    "joblib": lambda obj, folder: joblib.load(joblib.dump(obj, folder / "file")[0]),
    "copy": lambda obj, folder: copy.copy(obj),
    "deepcopy": lambda obj, folder: copy.deepcopy(obj),
    "skops": through_skops,
}


def assert_same(one, other, X):
    np.testing.assert_array_equal(one.transform(X), other.transform(X))
    np.testing.assert_array_equal(one.reconstruct(X), other.reconstruct(X))
    assert one.source_ == other.source_
    assert one.activation_ == other.activation_
    assert type(vars(one).get("input_normalization_")) is type(
        vars(other).get("input_normalization_")
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LOADED)
def test_it_comes_back(name, way, tmp_path):
    loaded, X = load(name), rows(name)
    assert_same(WAYS[way](loaded, tmp_path), loaded, X)


@pytest.mark.parametrize("name", LOADED)
def test_our_own_format_holds_it(name, tmp_path):
    loaded, X = load(name), rows(name)
    save_dictionary(loaded, tmp_path / "saved")
    again = load_dictionary(tmp_path / "saved")
    assert_same(again, loaded, X)
    assert vars(again).keys() == vars(loaded).keys()
    if name == "transcoder":
        return
    loaded.calibrate(X)
    save_dictionary(loaded, tmp_path / "saved", overwrite=True)
    assert load_dictionary(tmp_path / "saved").score(X) == loaded.score(X)


@pytest.mark.parametrize("name", LOADED)
def test_clones_and_names_of_columns(name):
    loaded, X = load(name), rows(name)
    cloned = clone(loaded)
    assert not hasattr(cloned, "components_")
    assert repr(cloned.get_params()) == repr(loaded.get_params())
    pd = pytest.importorskip("pandas")
    frame = loaded.set_output(transform="pandas").transform(X)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(loaded.get_feature_names_out())


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fit_and_partial_fit_train_it(name):
    X = np.random.default_rng(0).normal(size=(500, rows(name).shape[1])).astype(np.float32)
    loaded = load(name)
    before = loaded.components_.copy()
    loaded.set_params(max_iter=1, random_state=0, device="cpu").partial_fit(X)
    assert loaded.components_.shape == before.shape
    assert not np.array_equal(loaded.components_, before)
    cosines = (loaded.components_ * before).sum(axis=1)
    assert np.median(cosines) > 0.9  # it went on from them
    assert np.isfinite(loaded.score(X))
    loaded.fit(X)
    assert np.median(np.abs((loaded.components_ * before).sum(axis=1))) < 0.9  # and began anew


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(  # which have as little as one atom: of k no more
    [load(name).set_params(max_iter=1, n_nonzero_coefs=k) for name, k in CHECKED.items()]
)
def test_sklearn_checks(estimator, check):
    check(estimator)
