"""sanity_controls: every number recomputed from public methods, and the truth on planted data."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA

from skdict.datasets import load_one_layer_transformer, make_superposition
from skdict.decomposition import (
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    sanity_controls,
)
from skdict.decomposition._controls import _shuffled
from skdict.decomposition._held import FrozenDecoder, FrozenEncoder, SoftFrozenDecoder
from skdict.feature_extraction import ActivationExtractor
from skdict.metrics import dictionary_recovery, explained_variance

X, ATOMS, _ = make_superposition(
    n_samples=2500, n_features=12, n_components=24, l0=2.0, random_state=0
)
TRAIN, TEST = X[:2000], X[2000:]
K = 2
HELD = ("frozen decoder", "soft-frozen decoder", "frozen encoder")
NAMES = (*HELD, "random atoms", "PCA", "neurons")


def topk(**params):
    return SparseAutoencoderDictionary(
        24, architecture="topk", n_nonzero_coefs=K, **{"max_iter": 15} | params
    )


def recovery(dictionary, X):
    return dictionary_recovery(dictionary.components_, ATOMS)


@pytest.fixture(scope="module")
def table():
    return sanity_controls(
        topk(), TRAIN, TEST, metrics=["explained_variance", recovery], n_seeds=2, random_state=0
    )


def row(table, control, metric):
    found = table[(table.control == control) & (table.metric == metric)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.mark.slow
def test_rows(table):
    assert isinstance(table, pd.DataFrame)
    assert list(table.control) == [n for n in ("trained", *NAMES) for _ in range(2)]
    assert list(table.metric) == ["explained_variance", "recovery"] * 7
    assert dict(zip(table.control, table.n_fits, strict=True)) == {
        "trained": 2,
        **dict.fromkeys(NAMES, 2),
        "PCA": 1,
        "neurons": 1,
    }


@pytest.mark.slow
def test_the_controls_are_below_on_planted_recovery(table):
    of_recovery = table[table.metric == "recovery"].iloc[1:]
    assert set(of_recovery.verdict) == {"better"}
    assert row(table, "trained", "recovery")["mean"] > 0.85


@pytest.mark.slow
def test_all_have_the_same_l0(table):
    np.testing.assert_allclose(table.l0, K, rtol=0.03)


@pytest.mark.slow
def test_the_numbers_of_the_trained_dictionary_are_those_of_its_fits(table):
    seeds = np.random.RandomState(0).randint(2**31 - 1, size=2).tolist()
    values = []
    for seed in seeds:
        fitted = topk(random_state=seed).fit(TRAIN)
        values.append(explained_variance(TEST, fitted.reconstruct(TEST)))
    found = row(table, "trained", "explained_variance")
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["std"] == pytest.approx(np.std(values, ddof=1))
    assert np.isnan(found.difference) and np.isnan(found.noise) and found.verdict == ""


@pytest.mark.slow
def test_differences_noise_and_verdicts(table):
    for metric in ("explained_variance", "recovery"):
        trained = row(table, "trained", metric)
        for name in NAMES:
            found = row(table, name, metric)
            assert found.difference == trained["mean"] - found["mean"]
            assert found.noise == pytest.approx(2 * math.hypot(trained["std"], found["std"]))
            expected = "within noise"
            if abs(found.difference) > found.noise:
                expected = "better" if found.difference > 0 else "worse"
            assert found.verdict == expected


@pytest.mark.parametrize("name", ["PCA", "neurons"])
@pytest.mark.slow
def test_fixed_directions_keep_the_greatest_projections(table, name):
    mean = TRAIN.mean(axis=0)
    directions = PCA().fit(TRAIN).components_ if name == "PCA" else np.eye(12)
    codes = (TEST - mean) @ directions.T
    order = np.argsort(-np.abs(codes), axis=1)
    np.put_along_axis(codes, order[:, K:], 0, axis=1)
    expected = explained_variance(TEST, codes @ directions + mean)
    found = row(table, name, "explained_variance")
    assert found["mean"] == pytest.approx(expected, abs=1e-3)
    assert found["std"] == 0


@pytest.mark.parametrize("kind", [FrozenDecoder, SoftFrozenDecoder, FrozenEncoder])
@pytest.mark.slow
def test_held_parts_are_random_and_stay(kind):
    """Of two fits with one seed and different lengths, what is held is the same."""
    params = topk(dict_init="random", random_state=3).get_params()
    short, long = (kind(**params).set_params(max_iter=n).fit(TRAIN) for n in (1, 6))
    if kind is FrozenDecoder:
        np.testing.assert_array_equal(short.components_, long.components_)
        assert not np.array_equal(short.encoder_coef_, long.encoder_coef_)
    if kind is FrozenEncoder:
        weights = short.encoder_coef_, long.encoder_coef_
        units = [w / np.linalg.norm(w, axis=1, keepdims=True) for w in weights]
        np.testing.assert_allclose(*units, atol=1e-9)
        assert not np.allclose(short.components_, long.components_, atol=1e-3)
    if kind is SoftFrozenDecoder:
        frozen = FrozenDecoder(**params).set_params(max_iter=1).fit(TRAIN).components_
        cosine = (long.components_ * frozen).sum(axis=1)
        assert 0.8 - 1e-9 <= cosine.min() < 0.81


@pytest.mark.slow
def test_alpha_is_searched_for_the_same_l0_and_the_estimator_is_left_alone():
    relu = SparseAutoencoderDictionary(24, max_iter=8, random_state=7)
    before = relu.get_params()
    table = sanity_controls(relu, TRAIN, TEST, metrics="dead_fraction", n_seeds=2, random_state=1)
    assert relu.get_params() == before and not hasattr(relu, "components_")
    l0 = table.l0[0]
    np.testing.assert_allclose(table.l0[1:4], l0, rtol=0.08)
    assert set(table.l0[4:]) <= {math.ceil(l0)}


def test_an_l0_out_of_reach_is_warned_of():
    dense = SparseAutoencoderDictionary(
        60, solver="lasso", transform_algorithm="threshold", transform_alpha=1e-6
    )
    with pytest.warns(UserWarning, match=r"The control 'PCA' has an L0 of 12, .* one of [23]\d"):
        sanity_controls(dense, TRAIN, TEST, n_seeds=2, random_state=0)


def test_other_solvers_have_the_controls_without_training():
    kmeans = SparseAutoencoderDictionary(8, solver="kmeans", max_iter=2)
    table = sanity_controls(kmeans, TRAIN, TEST, n_seeds=2, random_state=0)
    assert list(table.control[::2]) == ["trained", "random atoms", "PCA", "neurons"]
    assert list(table.metric[:2]) == ["score", "explained_variance"]


def test_it_is_reproducible_and_takes_tensors():
    dictionary = SparseAutoencoderDictionary(8, solver="kmeans", max_iter=2)
    first, second = (
        sanity_controls(dictionary, train, test, n_seeds=2, random_state=0)
        for train, test in ((TRAIN, TEST), (torch.from_numpy(TRAIN), torch.from_numpy(TEST)))
    )
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"metrics": "shrinkage"}, ValueError, "neither greater nor less is better"),
        ({"metrics": []}, ValueError, "metrics is empty"),
        ({"metrics": [recovery, recovery]}, ValueError, "'recovery' twice"),
        ({"metrics": [3]}, TypeError, "neither a name nor a callable"),
        ({"metrics": {"a": lambda d, X: X}}, TypeError, "'a' must return a number"),
        ({"metrics": "delta_cross_entropy"}, ValueError, "give the extractor"),
        ({"n_seeds": 1}, ValueError, "'n_seeds' parameter"),
        ({"X_test": TEST[:, :5]}, ValueError, "X_test has 5"),
        ({"estimator": PCA(2)}, ValueError, "'estimator' parameter"),
        ({"estimator": SparseAutoencoderDictionaryCV()}, ValueError, "'estimator' parameter"),
    ],
)
def test_bad_input(params, error, message):
    given = {"estimator": topk(max_iter=1), "X_train": TRAIN, "X_test": TEST} | params
    given.setdefault("n_seeds", 2)
    estimator, *arrays = (given.pop(name) for name in ("estimator", "X_train", "X_test"))
    with pytest.raises(error, match=message):
        sanity_controls(estimator, *arrays, **given)


def test_a_shuffled_model_has_the_same_weights_at_other_places():
    layers = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    before = [parameter.detach().clone() for parameter in layers.parameters()]
    extractor = ActivationExtractor(layers, "1", tokenizer=None)
    shuffled = _shuffled(extractor, np.random.RandomState(0))
    pairs = zip(before, layers.parameters(), shuffled.model.parameters(), strict=True)
    for old, kept, permuted in pairs:
        assert torch.equal(old, kept)
        assert torch.equal(old.flatten().sort().values, permuted.flatten().sort().values)
    assert not torch.equal(before[0], next(shuffled.model.parameters()))
    assert type(shuffled) is type(extractor) and shuffled.layer == "1"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dictionary has learned", "ignore:The control")
def test_with_an_extractor_the_model_is_shuffled_and_can_be_measured():
    folder = load_one_layer_transformer().path
    extractor = ActivationExtractor(folder, "layers.0.mlp.act")
    texts = ["import numpy as np\n", "for i in range(10):\n    print(i)\n", "x = [1, 2]\n"] * 4
    dictionary = SparseAutoencoderDictionary(
        16, architecture="topk", n_nonzero_coefs=4, max_iter=3
    )
    table = sanity_controls(
        dictionary,
        texts,
        texts[:3],
        metrics=["explained_variance", "delta_cross_entropy"],
        n_seeds=2,
        extractor=extractor,
        random_state=0,
    )
    assert table.control.iloc[-1] == "shuffled model"
    assert table.metric.iloc[-1] == "explained_variance"  # a shuffled model has nothing to lose
    clean = row(table, "neurons", "delta_cross_entropy")
    trained = row(table, "trained", "delta_cross_entropy")
    assert clean.difference == clean["mean"] - trained["mean"]  # less is better


def test_it_works_on_a_fitted_estimator_as_on_its_clone():
    dictionary = SparseAutoencoderDictionary(8, solver="kmeans", max_iter=2)
    fitted = clone(dictionary).fit(TRAIN)
    tables = [
        sanity_controls(d, TRAIN, TEST, n_seeds=2, random_state=0) for d in (dictionary, fitted)
    ]
    pd.testing.assert_frame_equal(*tables)
