"""Matching of features: planted permutations, all against plain numpy and all assignments."""

import itertools
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.inspection import FeatureMatchDisplay, match_features
from skdict.inspection.structure import _matching
from skdict.metrics import _rows


def random_codes(seed, n=80, n_components=7, density=0.4):
    rng = np.random.default_rng(seed)
    active = rng.random((n, n_components)) < density
    return active * rng.exponential(size=active.shape)


def correlations(a, b):
    return np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :]


@pytest.mark.parametrize(("n_a", "n_b"), [(5, 5), (4, 6), (6, 4)])
def test_against_all_assignments(n_a, n_b):
    rng = np.random.default_rng(n_a)
    a, b = rng.normal(size=(n_a, 3)), rng.normal(size=(n_b, 3))
    cosines = a @ b.T / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    match = match_features(a, b, threshold=0.5)
    assert_array_equal(match.best, cosines.argmax(axis=1))
    assert_allclose(match.best_similarity, cosines.max(axis=1))
    assert_allclose(match.median_best_similarity, np.median(cosines.max(axis=1)))

    if n_a <= n_b:
        totals = {p: cosines[range(n_a), p].sum() for p in itertools.permutations(range(n_b), n_a)}
        assert_array_equal(match.partner, max(totals, key=totals.get))
    else:
        totals = {p: cosines[p, range(n_b)].sum() for p in itertools.permutations(range(n_a), n_b)}
        expected = np.full(n_a, -1)
        expected[list(max(totals, key=totals.get))] = range(n_b)
        assert_array_equal(match.partner, expected)
    matched = match.partner >= 0
    assert matched.sum() == min(n_a, n_b)
    assert_allclose(match.similarity[matched], cosines[matched, match.partner[matched]])
    assert np.isnan(match.similarity[~matched]).all()
    assert match.shared_fraction == np.mean(np.nan_to_num(match.similarity, nan=-2) >= 0.5)
    assert 0 < match.shared_fraction < 1
    assert (match.n_dead_a, match.n_dead_b) == (0, 0)
    assert len(pd.DataFrame(match)) == n_a


def test_planted_permutation_of_atoms():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(30, 10))
    order = rng.permutation(30)
    match = match_features(a, 3 * a[order] + 0.01 * rng.normal(size=a.shape))
    assert_array_equal(order[match.partner], np.arange(30))
    assert_array_equal(match.best, match.partner)
    assert match.shared_fraction == 1
    opposite = match_features(np.eye(3), -np.eye(3))  # is not the same
    assert_array_equal(opposite.best_similarity, 0)


CONTAINERS = {
    "ndarray": np.asarray,
    "csr_array": sp.csr_array,
    "csr_matrix": sp.csr_matrix,
    "csc": sp.csc_array,
    "tensor": torch.from_numpy,
    "csr tensor": lambda codes: torch.from_numpy(codes).to_sparse_csr(),
    "DataFrame": pd.DataFrame,
    "float32": lambda codes: sp.csr_array(codes.astype(np.float32)),
}


@pytest.mark.parametrize("of_b", CONTAINERS)
@pytest.mark.parametrize("of_a", ["ndarray", "csr_matrix"])
@pytest.mark.parametrize("block_size", [16, 2**22])
def test_codes_against_corrcoef(monkeypatch, of_a, of_b, block_size):
    monkeypatch.setattr(_rows, "BLOCK_SIZE", block_size)
    monkeypatch.setattr(_matching, "BLOCK_SIZE", block_size)
    a, b = random_codes(0, n_components=5), random_codes(1)
    b[:, 3] += 2 * a[:, 1]
    match = match_features(CONTAINERS[of_a](a), CONTAINERS[of_b](b), by="codes")
    expected = correlations(a, b)
    assert_array_equal(match.best, expected.argmax(axis=1))
    assert_allclose(match.best_similarity, expected.max(axis=1), rtol=1e-6)
    assert_allclose(match.similarity, expected[range(5), match.partner], rtol=1e-6, atol=1e-9)
    assert match.best[1] == 3


def test_sparse_codes_are_not_made_dense_beside_neurons(monkeypatch):
    codes, neurons = sp.csr_array(random_codes(0)), np.abs(random_codes(1, n_components=6))
    seen = []
    block = _matching.float64_block
    monkeypatch.setattr(_matching, "float64_block", lambda X, r: seen.append(X) or block(X, r))
    there = match_features(codes, neurons, by="codes")
    back = match_features(neurons, codes, by="codes")
    assert seen and not any(sp.issparse(X) for X in seen)
    expected = correlations(codes.toarray(), neurons)
    assert_allclose(there.best_similarity, expected.max(axis=1), rtol=1e-6)
    assert_allclose(back.best_similarity, expected.max(axis=0), rtol=1e-6)


def test_codes_are_not_changed():
    a = sp.csr_array(random_codes(0))
    before = a.copy()
    match_features(a, a, by="codes")
    assert_array_equal(a.data, before.data)


def test_duplicate_and_stored_zero_entries():
    a = sp.csr_array(([1.0, 2.0, 5.0, 0.0], ([0, 0, 1, 2], [0, 0, 1, 0])), shape=(4, 2))
    duplicated = sp.csr_array(
        (np.array([1.0, 2.0, 5.0, 0.0]), np.array([0, 0, 1, 0]), np.array([0, 2, 3, 4, 4])),
        shape=(4, 2),
    )
    match = match_features(duplicated, a, by="codes")
    assert_allclose(match.similarity, 1)


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array])
def test_means_that_dwarf_the_spread(convert):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(500, 3))
    b = a[:, [1, 2, 0]] + 0.5 * rng.normal(size=a.shape)
    offset = 1e6 if convert is np.asarray else 1e3
    match = match_features(convert(a + offset), convert(b + offset), by="codes")
    assert_array_equal(match.partner, [2, 0, 1])
    assert_allclose(match.similarity, correlations(a, b)[range(3), [2, 0, 1]], rtol=1e-6)


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array])
def test_dead_features_of_codes(convert):
    a, b = random_codes(0), random_codes(0)[:, ::-1].copy()
    a[:, 2] = 0
    b[:, 0] = 0
    b[:, 1] = 0.3  # always the same: no correlation is defined
    match = match_features(convert(a), convert(b), by="codes")
    assert (match.n_dead_a, match.n_dead_b) == (1, 2)
    assert (match.partner[2], match.best[2]) == (-1, -1)
    assert np.isnan([match.similarity[2], match.best_similarity[2]]).all()
    # Feature 6 was partner of the column that is 0 now, feature 5 of the constant one.
    assert_allclose(match.similarity[[0, 1, 3, 4]], 1)
    assert not set(match.partner) & {0, 1}
    assert match.shared_fraction == 4 / 6
    kept = np.delete(a, 2, axis=1), b[:, 2:]
    expected = correlations(*kept).max(axis=1)
    assert_allclose(match.median_best_similarity, np.median(expected))


@pytest.mark.parametrize("constant", [0.1, 0.7, 1.1])
def test_constant_features_of_many_samples(constant):
    """The rounding error of the sums is not taken for variance."""
    n_samples = 1_000_000
    codes = np.zeros((n_samples, 2))
    codes[::10, 0], codes[:, 1] = 1, constant
    codes = sp.csr_array(codes)
    match = match_features(codes, codes, by="codes")
    assert (match.n_dead_a, match.n_dead_b) == (1, 1)
    assert_array_equal(match.partner, [0, -1])


def test_all_dead():
    match = match_features(np.zeros((3, 2)), np.eye(2))
    assert np.isnan([match.shared_fraction, match.median_best_similarity]).all()
    assert_array_equal(match.partner, [-1, -1, -1])
    assert (match.n_dead_a, match.n_dead_b) == (3, 0)


def test_sparse_codes_never_become_dense():
    """As dense matrices these would need 48 GB each."""
    rng = np.random.default_rng(0)
    rows = rng.integers(3_000_000, size=20_000)
    columns = rng.integers(2000, size=20_000)
    a = sp.csr_array((rng.random(20_000), (rows, columns)), shape=(3_000_000, 2000))
    order = rng.permutation(2000)
    match = match_features(a, a[:, order], by="codes")
    alive = match.partner >= 0
    assert_array_equal(order[match.partner[alive]], np.flatnonzero(alive))
    assert_allclose(match.similarity[alive], 1)


@pytest.fixture(scope="module")
def fitted():
    X, *_ = make_superposition(4000, 16, 24, l0=1.5, noise=0.05, random_state=0)
    saes = [SparseAutoencoderDictionary(24, batch_size=64, random_state=s).fit(X) for s in (0, 1)]
    return X, *saes


@pytest.mark.slow
def test_seeds_share_what_was_planted(fitted):
    X, a, b = fitted
    assert match_features(a, b).shared_fraction > 0.8
    assert match_features(a.transform(X), b.transform(X), by="codes").shared_fraction > 0.8
    encoders = match_features(a, b, by="encoders")
    atoms = match_features(a, b)
    same = (encoders.partner == atoms.partner) & (encoders.similarity >= 0.7)
    assert same.mean() > 0.8
    assert_allclose(
        encoders.best_similarity,
        match_features(a.encoder_coef_, b.encoder_coef_).best_similarity,
    )
    random = np.random.default_rng(0).normal(size=(24, 16))
    assert match_features(a, random).shared_fraction < 0.3
    shuffled = np.random.default_rng(0).permutation(len(X))
    chance = match_features(a.transform(X), b.transform(X)[shuffled], by="codes")
    assert chance.shared_fraction == 0
    assert chance.median_best_similarity < 0.2


@pytest.mark.slow
def test_features_of_another_space_match_by_codes_only(fitted):
    """The same features in a model whose neurons are others: rotated activations."""
    X, a, _ = fitted
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    b = SparseAutoencoderDictionary(24, batch_size=64, random_state=1).fit(X @ rotation)
    of_features = match_features(a.transform(X), b.transform(X @ rotation), by="codes")
    of_neurons = match_features(X, X @ rotation, by="codes")
    assert of_features.median_best_similarity > 0.9
    assert of_neurons.median_best_similarity < 0.7
    assert match_features(a, b).shared_fraction < 0.3


@pytest.mark.slow
def test_pipelines_and_dead_features_of_estimators(fitted):
    X, a, b = fitted
    pipeline = make_pipeline(StandardScaler(with_std=False), b).fit(X)
    assert_array_equal(
        match_features(a, pipeline).partner, match_features(a, pipeline[-1]).partner
    )
    dead = SparseAutoencoderDictionary(24, max_iter=1, random_state=0).fit(X)
    dead.feature_density_ = np.where(np.arange(24) < 5, 0, dead.feature_density_)
    match = match_features(dead, dead)  # what never learned is the same without meaning anything
    assert (match.n_dead_a, match.n_dead_b) == (5, 5)
    assert_array_equal(match.partner, [-1] * 5 + list(range(5, 24)))
    assert match.shared_fraction == 1
    assert match_features(PCA(2).fit(X), a).n_dead_a == 0


@pytest.mark.parametrize(
    ("a", "b", "options", "error", "message"),
    [
        (np.eye(3), np.eye(2), {}, ValueError, "3 and 2.*by='codes'"),
        (np.ones((3, 2)), np.ones((2, 2)), {"by": "codes"}, ValueError, "a has 3 rows, but b"),
        (np.eye(2), np.full((2, 2), np.nan), {}, ValueError, "b contains NaN"),
        (np.eye(2), np.diag([1, np.inf]), {"by": "codes"}, ValueError, "b contains NaN"),
        (
            sp.csr_array(np.diag([1, np.nan])),
            sp.csr_array(np.eye(2)),
            {"by": "codes"},
            ValueError,
            "a contains NaN",
        ),
        (np.ones(3), np.eye(3), {}, ValueError, "a must be a matrix"),
        (np.eye(3), sp.csr_array(np.eye(3)), {}, TypeError, "b is a sparse matrix.*by='codes'"),
        (np.eye(2), [["x", "y"]], {}, TypeError, "b must be a matrix of real numbers"),
        (np.eye(2), np.eye(2), {"by": "decoders"}, ValueError, "'by' parameter"),
        (np.eye(2), np.eye(2), {"threshold": 2}, ValueError, "'threshold' parameter"),
        (SparseAutoencoderDictionary(2), np.eye(2), {}, NotFittedError, "not fitted"),
        (
            PCA(1).fit(np.eye(2)),
            np.eye(2),
            {"by": "encoders"},
            TypeError,
            "a is a PCA without encoder_coef_",
        ),
    ],
)
def test_bad_input(a, b, options, error, message):
    with pytest.raises(error, match=message):
        match_features(a, b, **options)


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def test_display(plt):
    a, b = random_codes(0), random_codes(1)
    a[:, 2] = 0
    matches = {"one": match_features(a, b, by="codes"), "two": match_features(b, b, by="codes")}
    _, ax = plt.subplots()
    display = FeatureMatchDisplay.from_matches(matches, ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    drawn = display.lines_["one"].get_ydata()
    expected = np.delete(matches["one"].best_similarity, 2)
    assert_allclose(drawn, np.sort(expected)[::-1])
    assert_allclose(display.lines_["one"].get_xdata(), np.arange(1, 7) / 6)
    assert display.lines_["two"].get_label() == "two (median 1.00)"
    looks = {(line.get_color(), line.get_linestyle()) for line in display.lines_.values()}
    assert len(looks) == 2
    assert FeatureMatchDisplay({"dead": [np.nan]}).plot().lines_["dead"].get_label() == "dead"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FeatureMatchDisplay([0.5]), TypeError, "must be a dict"),
        (lambda: FeatureMatchDisplay({}), TypeError, "at least one entry"),
        (lambda: FeatureMatchDisplay({"a": [[0.5]]}), ValueError, r"\['a'\].*shape \(1, 1\)"),
        (
            lambda: FeatureMatchDisplay.from_matches(match_features(np.eye(2), np.eye(2))),
            TypeError,
            "'features': match",
        ),
    ],
)
def test_display_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_display_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'FeatureMatchDisplay.*pip install "skdict\[plot\]"'):
        FeatureMatchDisplay({"a": [0.5]}).plot()


@pytest.mark.parametrize("by", ["atoms", "codes", "sparse codes"])
def test_mutual_neighbours_by_blocks(by, monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.random((30, 12)), rng.random((30, 9))
    a[:, 3], b[:, 5] = 0, 0  # dead
    b[:, :4] = a[:, 5:9] + 0.1 * rng.random((30, 4))
    if by == "atoms":
        a, b = a.T, b.T
    elif by == "sparse codes":
        a, b = sp.csr_array(a), sp.csr_array(b)
    monkeypatch.setattr("skdict.inspection.structure._matching.N_SIMILARITIES", 30)
    options = {"by": "atoms" if by == "atoms" else "codes"}
    found = match_features(a, b, assignment="mutual", **options)
    forth, back = match_features(a, b, **options), match_features(b, a, **options)
    assert_array_equal(found.best, forth.best)
    assert_allclose(found.best_similarity, forth.best_similarity)
    expected = [j if j >= 0 and back.best[j] == i else -1 for i, j in enumerate(forth.best)]
    assert_array_equal(found.partner, expected)
    assert {0, 1, 2, 3} <= set(found.partner) and (found.partner == -1).sum() > 1
    assert found.n_dead_a == found.n_dead_b == 1
    assert_allclose(found.shared_fraction, (found.similarity >= 0.7).sum() / 11)
