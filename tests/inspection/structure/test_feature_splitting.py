"""Splitting of features: planted families, and all against plain loops over pairs."""

import sys

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skdict.inspection import FeatureSplittingDisplay, feature_splitting
from skdict.inspection.structure import _splitting


def random_codes(seed, n_components, n=120, density=0.3):
    rng = np.random.default_rng(seed)
    active = rng.random((n, n_components)) < density * rng.random(n_components)
    return active * rng.exponential(size=active.shape)


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) if (a @ b) else 0.0


def masked_cosine(a, b):
    return max(cosine(a[a > 0], b[a > 0]), cosine(a[b > 0], b[b > 0]))


@pytest.mark.parametrize("block_size", [20, 2**22])
@pytest.mark.parametrize("threshold", [0.2, 0.5])
@pytest.mark.parametrize("min_active", [1, 8])
def test_against_loops(monkeypatch, threshold, min_active, block_size):
    monkeypatch.setattr(_splitting, "BLOCK_SIZE", block_size)
    levels = [random_codes(k, n) for k, n in enumerate((6, 9, 13))]
    levels[1][:, 0] = levels[0][:, 0]
    splitting = feature_splitting(*levels, threshold=threshold, min_active=min_active)
    for k, (parents, children) in enumerate([levels[:2], levels[1:]]):
        n_active = [(codes > 0).sum(axis=0) for codes in (parents, children)]
        assert_array_equal(splitting.n_active[k], n_active[0])
        for i, a in enumerate(parents.T):
            expected = np.array([masked_cosine(a, b) for b in children.T])
            linked = (expected >= threshold) & (n_active[1] >= min_active)
            if n_active[0][i] < min_active:
                assert splitting.n_children[k][i] == 0
                assert np.isnan(splitting.recall[k][i])
                assert np.isnan(splitting.activation_recall[k][i])
                continue
            assert_allclose(splitting.links[k][[i]].toarray()[0], np.where(linked, expected, 0))
            assert splitting.n_children[k][i] == linked.sum()
            covered = (children[:, linked] > 0).any(axis=1)
            assert_allclose(splitting.recall[k][i], covered[a > 0].mean())
            assert_allclose(splitting.activation_recall[k][i], a[covered].sum() / a.sum())
    assert 0 < splitting.links[0].nnz < 6 * 9
    assert len(splitting.links) == len(splitting.recall) == 2
    assert len(splitting.n_active) == 3


@pytest.mark.parametrize(
    "convert",
    [
        sp.csr_array,
        sp.csr_matrix,
        sp.csc_array,
        torch.from_numpy,
        lambda codes: torch.from_numpy(codes).to_sparse_csr(),
        np.ndarray.tolist,
    ],
)
def test_containers(convert):
    codes = random_codes(0, 5), random_codes(0, 8)
    expected = feature_splitting(*codes)
    found = feature_splitting(*map(convert, codes))
    assert_array_equal(found.links[0].toarray(), expected.links[0].toarray())
    assert_array_equal(found.recall[0], expected.recall[0])


def test_planted_family():
    """A concept that is one feature, then two by kind, then four by kind and strength."""
    rng = np.random.default_rng(0)
    n = 5000
    kind, strong = rng.integers(8, size=n), rng.random(n) < 0.5
    strength = np.where(strong, 3, 1) + rng.random(n)
    others = random_codes(1, 3, n=n, density=0.1)
    of_kinds = [np.where(kind == k, strength, 0) for k in (0, 1)]
    narrow = np.column_stack([np.where(kind < 2, strength, 0), others])
    middle = np.column_stack([*of_kinds, others])
    wide = np.column_stack(
        [np.where(s, code, 0) for code in of_kinds for s in (strong, ~strong)] + [others]
    )
    splitting = feature_splitting(narrow, middle, wide)
    assert_array_equal(splitting.n_children[0], [2, 1, 1, 1])
    assert_array_equal(splitting.links[0][[0]].indices, [0, 1])
    assert_array_equal(splitting.links[1][[0]].indices, [0, 1])
    assert_array_equal(splitting.links[1][[1]].indices, [2, 3])
    for recall in (*splitting.recall, *splitting.activation_recall):
        assert_allclose(recall, 1)
    # Without the child for strong cases half of the samples are lost, and more of the activation.
    without = feature_splitting(middle[:, :1], wide[:, 1:2])
    expected = strength[(kind == 0) & ~strong].sum() / strength[kind == 0].sum()
    assert_allclose(without.recall[0], (~strong[kind == 0]).mean())
    assert_allclose(without.activation_recall[0], expected)
    assert expected < 0.35


def test_dense_parents_have_children_by_chance():
    """What the documentation says of independent features."""
    rng = np.random.default_rng(0)
    n = 200_000
    for density in (0.1, 0.5):
        parent = rng.exponential(size=n) * (rng.random(n) < density)
        child = rng.exponential(size=n) * (rng.random(n) < 0.01)
        (links,) = feature_splitting(parent[:, None], child[:, None], threshold=0.01).links
        assert_allclose(links.data, np.sqrt(density) / 2, rtol=0.1)


def test_negative_codes_are_not_active():
    codes = random_codes(0, 4), random_codes(1, 6)
    signed = [np.where(c > 0, c, -1.0) for c in codes]
    expected, found = feature_splitting(*codes), feature_splitting(*signed)
    assert_array_equal(found.links[0].toarray(), expected.links[0].toarray())
    assert_array_equal(found.n_active[1], expected.n_active[1])
    assert signed[0].min() == -1  # not changed


@pytest.mark.slow
def test_sparse_codes_never_become_dense():
    """As dense matrices these would need 48 GB each."""
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(3_000_000, size=20_000), rng.integers(2000, size=20_000)
    codes = sp.csr_array((rng.random(20_000), (rows, columns)), shape=(3_000_000, 2000))
    (links,) = feature_splitting(codes, codes, min_active=2).links
    assert_allclose(links.diagonal()[codes.astype(bool).sum(axis=0) >= 2], 1)


@pytest.mark.parametrize(
    ("codes", "options", "error", "message"),
    [
        ([np.eye(3)], {}, ValueError, "at least two dictionaries, but got 1"),
        ([np.eye(3), np.eye(4)], {}, ValueError, r"codes\[0\] has 3 rows, but codes\[1\] has 4"),
        ([np.ones((3, 4)), np.ones((3, 2))], {}, ValueError, "from the narrowest"),
        ([np.eye(2), np.diag([1, np.nan])], {}, ValueError, r"codes\[1\] contains NaN"),
        (
            [sp.csr_array(np.diag([1, np.inf])), np.eye(2)],
            {},
            ValueError,
            r"codes\[0\] contains NaN or infinity",
        ),
        ([np.ones(2), np.eye(2)], {}, ValueError, r"codes\[0\] must be a matrix"),
        ([np.eye(2), np.eye(2)], {"threshold": 0}, ValueError, "'threshold' parameter"),
        ([np.eye(2), np.eye(2)], {"min_active": 0}, ValueError, "'min_active' parameter"),
    ],
)
def test_bad_input(codes, options, error, message):
    with pytest.raises(error, match=message):
        feature_splitting(*codes, **options)


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.fixture
def splitting():
    """0 into 0, 1 and 2, of which 0 and 1 into the same and 2 into nothing."""
    rng = np.random.default_rng(0)
    part = rng.integers(9, size=900)
    strength = 1 + rng.random(900)
    parts = [np.where(part == k, strength, 0) for k in range(6)]
    narrow = np.column_stack([parts[0] + parts[1] + parts[2], parts[3]])
    middle = np.column_stack(parts[:4])
    wide = np.column_stack([parts[0] + parts[1], parts[3], parts[4], parts[5]])
    return feature_splitting(narrow, middle, wide)


def test_display(plt, splitting):
    labels = [{0: "money $x$ in\tforeign places and others"}, ["a", "b"]]
    display = FeatureSplittingDisplay.from_splitting(splitting, 0, names=labels)
    assert [sorted(level) for level in display.nodes] == [[0], [0, 1, 2], [0]]
    assert {edge[:3] for edge in display.edges} == {
        (0, 0, 0),
        (0, 0, 1),
        (0, 0, 2),
        (1, 0, 0),
        (1, 1, 0),
    }
    for level, parent, child, cosine in display.edges:
        assert cosine == splitting.links[level][parent, child]
    assert_array_equal(display.edges_.get_array(), [edge[3] for edge in display.edges])
    texts = [text.get_text() for text in display.ax_.texts]
    assert any(text.startswith("0: money $x$") for text in texts)
    assert {"0: a", "1: b", "2", "2 features", "4 features"} <= set(texts)
    display.figure_.canvas.draw()  # $ is no formula


def test_display_of_the_strongest_children(plt, splitting):
    _, ax = plt.subplots()
    display = FeatureSplittingDisplay.from_splitting(splitting, 0, max_children=1, ax=ax)
    assert display.ax_ is ax
    (first, _) = display.edges
    row = splitting.links[0][[0]]
    assert first[2] == row.indices[row.data.argmax()]
    assert any("(1 of 3 children)" in text.get_text() for text in ax.texts)


def test_display_without_children(plt):
    splitting = feature_splitting(np.eye(20), np.eye(20), min_active=2)
    display = FeatureSplittingDisplay.from_splitting(splitting, 3)
    assert (display.nodes, display.edges) == ([[3]], [])
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FeatureSplittingDisplay([[0]], [(0, 0, 1, 0.5)]), ValueError, "are not in nodes"),
        (lambda: FeatureSplittingDisplay([[0], [1]], [], names=[["a"]]), ValueError, "names"),
        (lambda: FeatureSplittingDisplay([[0], [1]], [], titles=["a"]), ValueError, "titles"),
    ],
)
def test_display_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("feature", [-1, 2, 0.5])
def test_display_of_no_such_feature(splitting, feature):
    with pytest.raises(ValueError, match="feature"):
        FeatureSplittingDisplay.from_splitting(splitting, feature)


def test_display_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'SplittingDisplay.*pip install "skdict\[plot\]"'):
        FeatureSplittingDisplay([[0]], []).plot()
