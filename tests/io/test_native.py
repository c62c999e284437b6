"""skdict's own files: all comes back to the last bit, and what is damaged is refused."""

import json

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict._core.models.architectures import ARCHITECTURES, Matryoshka
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary, SparseAutoencoderDictionaryCV
from skdict.io import load_dictionary, save_dictionary

X = make_superposition(400, 8, 16, l0=2.0, noise=0.05, random_state=0)[0]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CASES = {
    **{name: {"architecture": name, "n_nonzero_coefs": 2} for name in ARCHITECTURES},
    "relu": {},
    "jumprelu": {"architecture": "jumprelu"},
    "instance": {"architecture": Matryoshka(k=2, prefixes=(0.5, 1))},
    "alternating": {"solver": "alternating"},
    "initial atoms": {"dict_init": np.eye(16, 8) + 0.1},
    "generator": {"random_state": np.random.RandomState(0)},
}
OTHERS = {
    "dictionary_learning": {"solver": "dictionary_learning"},
    "kmeans": {"solver": "kmeans", "n_nonzero_coefs": 3},
    "lasso": {"solver": "lasso"},
    "lasso of fixed atoms": {
        "solver": "lasso",
        "dict_init": np.asfortranarray(np.eye(16, 8) + 0.1),
    },
}


def make(**params):
    if params.get("solver") != "lasso":
        params = {"max_iter": 2, **params}
    params = {"random_state": 0, "device": "cpu", **params}
    return SparseAutoencoderDictionary(16, **params)


def assert_same(one, other, X):
    assert type(one) is type(other)
    np.testing.assert_array_equal(one.transform(X), other.transform(X))
    assert one.transform(X).dtype == other.transform(X).dtype
    assert one.score(X) == other.score(X)
    for name in ("components_", "intercept_", "feature_density_", "feature_magnitude_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("alpha_", "noise_variance_", "variance_", "n_iter_", "n_steps_", "loss_curve_"):
        assert getattr(one, name) == getattr(other, name), name
    new = vars(other).keys() - vars(one).keys()
    # held-out samples are not saved, but their score
    assert vars(one).keys() - {"_held_out"} <= vars(other).keys()
    assert new <= {"source_", "activation_", "validation_score_"}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", ["fit", "partial_fit"])
@pytest.mark.parametrize("name", CASES)
def test_round_trip_and_training_that_goes_on(name, how, dtype, tmp_path):
    rows = X.astype(dtype)
    original = getattr(make(**CASES[name]), how)(rows)
    save_dictionary(original, tmp_path / "saved")
    loaded = load_dictionary(tmp_path / "saved")
    assert_same(original, loaded, rows)
    for portion in (rows[:150], rows[150:]):
        if name == "generator" and how == "fit":  # a fresh start would draw from it
            break
        original.partial_fit(portion)
        loaded.partial_fit(portion)
        assert_same(original, loaded, rows)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore:The file has no state")
def test_round_trip_of_other_solvers(name, tmp_path):
    original = make(**OTHERS[name]).fit(X)
    save_dictionary(original, tmp_path / "saved")
    assert_same(original, load_dictionary(tmp_path / "saved"), X)


def test_pipelines_are_refused(tmp_path):
    pipeline = make_pipeline(StandardScaler(), make()).fit(X)
    with pytest.raises(TypeError, match=r"pipeline\[-1\]"):
        save_dictionary(pipeline, tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_of_a_search_the_best_is_saved(tmp_path):
    search = SparseAutoencoderDictionaryCV(
        16, alphas=2, cv=2, max_iter=1, random_state=0, device="cpu"
    ).fit(X)
    save_dictionary(search, tmp_path / "saved")
    assert_same(search.best_estimator_, load_dictionary(tmp_path / "saved"), X)


def test_a_higher_version_is_refused_by_the_name_of_what_it_needs(tmp_path):
    save_dictionary(make().fit(X), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"format_version": 99, "needs_skdict": "7.1"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"format_version=99 needs skdict 7\.1"):
        load_dictionary(tmp_path)
