"""Communities of features: planted ones are found, and chance is told from structure."""

import sys

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import hypergeom, poisson
from sklearn.metrics import adjusted_rand_score

from skdict.inspection import (
    FeatureMapDisplay,
    feature_communities,
    match_features,
)
from skdict.inspection.structure import _communities


def independent(seed, n=3000, n_components=60):
    rng = np.random.default_rng(seed)
    active = rng.random((n, n_components)) < rng.uniform(0.01, 0.2, n_components)
    return active * rng.exponential(size=active.shape)


def planted(seed, n=3000, sizes=(20, 15, 10, 5), n_single=10):
    """Codes whose features are active in one context each, and features without a context."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    context = rng.integers(2 * len(sizes), size=n)
    active = (context[:, None] == groups) & (rng.random((n, len(groups))) < 0.3)
    active |= rng.random(active.shape) < 0.01
    active = np.column_stack([active, rng.random((n, n_single)) < 0.02])
    order = rng.permutation(active.shape[1])
    truth = np.append(groups, np.full(n_single, -1))[order]
    return (active * rng.exponential(size=active.shape))[:, order], truth


def naive_graph(codes, n_neighbors, min_active, max_false_edges):
    """phi of edges, pair by pair."""
    active = codes > 0
    n, m = active.shape
    counts = active.sum(axis=0)
    eligible = np.flatnonzero(counts >= min_active)
    n_pairs = len(eligible) * (len(eligible) - 1) / 2
    phi = np.zeros((m, m))
    for i in eligible:
        for j in eligible:
            together, expected = (active[:, i] & active[:, j]).sum(), counts[i] * counts[j] / n
            chance = poisson.sf(together - 1, expected) * n_pairs
            if i != j and together > expected and chance <= max_false_edges:
                phi[i, j] = np.corrcoef(active[:, i], active[:, j])[0, 1]
    graph = np.zeros_like(phi)
    for i in range(m):
        for j in np.argsort(-phi[i], kind="stable")[:n_neighbors]:
            graph[i, j] = graph[j, i] = max(phi[i, j], graph[i, j])
    return graph


@pytest.mark.parametrize("block_size", [100, 2**22])
@pytest.mark.parametrize(
    ("n_neighbors", "min_active", "max_false_edges"),
    [(100, 1, 1.0), (3, 40, 100.0), (2, 1, np.inf)],
)
def test_graph_against_loops(monkeypatch, n_neighbors, min_active, max_false_edges, block_size):
    monkeypatch.setattr(_communities, "BLOCK_SIZE", block_size)
    codes, _ = planted(0, n=500, sizes=(6, 4), n_single=4)
    options = (n_neighbors, min_active, max_false_edges)
    expected = naive_graph(codes, *options)
    found = feature_communities(
        codes,
        n_neighbors=n_neighbors,
        min_active=min_active,
        max_false_edges=max_false_edges,
        n_null=2,
        random_state=0,
    )
    assert_allclose(found.graph.toarray(), expected, atol=1e-12)
    assert np.count_nonzero(expected) > 0
    assert_array_equal(found.groups == -1, ~expected.any(axis=1))


def test_planted_communities_are_found():
    codes, truth = planted(0)
    found = feature_communities(codes, random_state=0)
    assert adjusted_rand_score(truth, found.groups) > 0.99
    assert_array_equal(np.bincount(found.groups[found.groups >= 0]), [20, 15, 10, 5])
    assert found.modularity > found.null_modularity.max() + 0.2
    assert found.modularity_z > 10
    expected = (found.modularity - found.null_modularity.mean()) / found.null_modularity.std(
        ddof=1
    )
    assert_allclose(found.modularity_z, expected)

    nodes = np.flatnonzero(found.groups >= 0)
    network = nx.from_scipy_sparse_array(found.graph)
    groups = [set(np.flatnonzero(found.groups == k)) for k in range(4)]
    expected = nx.community.modularity(network.subgraph(nodes), groups, weight=None)
    assert_allclose(found.modularity, expected)


@pytest.mark.parametrize("seed", range(3))
def test_independent_features_have_no_edges(seed):
    found = feature_communities(independent(seed), random_state=0)
    assert found.graph.nnz / 2 <= 5  # one is expected, at most
    many = feature_communities(independent(seed), max_false_edges=np.inf, random_state=0)
    assert many.graph.nnz / 2 > 300
    assert many.modularity > 0.1  # which means nothing:
    assert abs(many.modularity_z) < 4
    assert abs(many.modularity - many.null_modularity.mean()) < 0.03


def test_number_of_false_edges():
    """Over many draws it is no more than asked for, and not much less for rare features."""
    rng = np.random.default_rng(0)
    n_edges = [
        feature_communities(
            rng.random((2000, 40)) < 0.03, n_neighbors=40, max_false_edges=20, n_null=2
        ).graph.nnz
        / 2
        for _ in range(20)
    ]
    assert 5 < np.mean(n_edges) < 20


def test_poisson_tail_is_on_the_safe_side():
    """Against the exact distribution, where the tail is small enough to make an edge."""
    n = 1000
    for n_i in (5, 50, 300):
        for n_j in (10, 100, 600):
            together = np.arange(n_i * n_j // n + 1, min(n_i, n_j) + 1)
            exact = hypergeom.sf(together - 1, n, n_i, n_j)
            approximate = poisson.sf(together - 1, n_i * n_j / n)
            small = approximate < 1e-3
            assert (approximate[small] >= exact[small]).all()


def test_random_graphs_keep_degrees():
    codes, _ = planted(0)
    graph = feature_communities(codes, random_state=0).graph
    network = nx.from_scipy_sparse_array(graph)
    rewired = _communities._rewired(network, np.random.RandomState(0))
    assert dict(rewired.degree()) == dict(network.degree())
    kept = set(map(frozenset, network.edges)) & set(map(frozenset, rewired.edges))
    assert len(kept) < 0.5 * network.number_of_edges()


@pytest.mark.slow
def test_random_state():
    codes, _ = planted(1)
    first, second = (feature_communities(codes, random_state=3) for _ in range(2))
    other = feature_communities(codes, random_state=4)
    assert_array_equal(first.null_modularity, second.null_modularity)
    assert_array_equal(first.groups, second.groups)
    assert (first.null_modularity != other.null_modularity).any()


@pytest.mark.parametrize(
    "convert",
    [
        sp.csr_array,
        sp.csr_matrix,
        sp.csc_array,
        torch.from_numpy,
        lambda codes: torch.from_numpy(codes).to_sparse_csr(),
        lambda codes: np.where(codes > 0, 100 * codes, -1),  # how active does not matter
    ],
)
def test_containers(convert):
    codes, _ = planted(0, n=600, sizes=(8, 5))
    expected = feature_communities(codes, n_null=2, random_state=0)
    found = feature_communities(convert(codes), n_null=2, random_state=0)
    assert_array_equal(found.groups, expected.groups)
    assert_array_equal(found.graph.toarray(), expected.graph.toarray())


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((20, 4)),
        np.ones((20, 4)),
        np.eye(20),
        np.ones((20, 1)),
        np.column_stack([np.ones(45), np.random.default_rng(45).random((45, 2))[:, 1] < 0.3]),
        np.column_stack([np.ones(103), np.arange(103) % 3 == 0]),
    ],
    ids=["dead", "always active", "never together", "single", "one always", "one of 103"],
)
def test_nothing_to_find(codes):
    found = feature_communities(codes, min_active=1)
    assert_array_equal(found.groups, -1)
    assert found.graph.shape == (codes.shape[1], codes.shape[1])
    assert found.graph.nnz == 0
    assert np.isnan([found.modularity, found.modularity_z, *found.null_modularity]).all()


@pytest.mark.parametrize("n_components", [2, 3, 6])
def test_graphs_whose_edges_cannot_be_moved(n_components):
    codes = np.zeros((1000, n_components))
    codes[:50] = 1
    found = feature_communities(codes, random_state=0)
    assert_array_equal(found.groups, 0)
    assert found.graph.nnz == n_components * (n_components - 1)
    assert found.modularity == 0
    assert np.isnan([found.modularity_z, *found.null_modularity]).all()


@pytest.mark.parametrize(
    ("codes", "options", "message"),
    [
        (np.diag([1, np.nan]), {}, "codes contains NaN"),
        (np.ones(3), {}, "codes must be a matrix"),
        (np.eye(3), {"n_neighbors": 0}, "'n_neighbors' parameter"),
        (np.eye(3), {"min_active": 0}, "'min_active' parameter"),
        (np.eye(3), {"max_false_edges": 0}, "'max_false_edges' parameter"),
        (np.eye(3), {"n_null": 1}, "'n_null' parameter"),
        (np.eye(3), {"random_state": "x"}, "'random_state' parameter"),
    ],
)
def test_bad_input(codes, options, message):
    with pytest.raises(ValueError, match=message):
        feature_communities(codes, **options)


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def clusters(seed, n=15):
    rng = np.random.default_rng(seed)
    centres = 3 * np.eye(3, 8)
    return np.concatenate([c + 0.3 * rng.normal(size=(n, 8)) for c in centres])


def test_map_keeps_neighbours_together(plt):
    atoms = clusters(0)
    atoms[7] = 0
    labels = np.repeat([2, 0, 1], 15)
    scales = np.random.default_rng(1).uniform(0.1, 9, (45, 1))  # norms do not matter
    display = FeatureMapDisplay.from_estimator(
        scales * atoms, groups=labels, method="tsne", random_state=0
    )
    assert_array_equal(np.isnan(display.positions).any(axis=1), np.arange(45) == 7)
    alive = np.delete(np.arange(45), 7)
    places = display.positions[alive]
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[alive][distances.argmin(axis=1)] == labels[alive]).all()
    assert sorted(display.scatters_) == ["0 (15)", "1 (15)", "2 (14)"]
    assert_array_equal(display.scatters_["1 (15)"].get_offsets(), display.positions[30:])
    assert display.ax_.get_xlabel() == "t-SNE 1"
    again = FeatureMapDisplay.from_estimator(scales * atoms, method="tsne", random_state=0)
    assert_array_equal(again.positions, display.positions)


def test_map_of_many_groups(plt):
    labels = np.append(np.repeat(np.arange(10), np.arange(20, 10, -1)), [-1, -1])
    _, ax = plt.subplots()
    display = FeatureMapDisplay(np.zeros((len(labels), 2)), labels).plot(ax=ax)
    assert display.ax_ is ax
    expected = ["none (2)", "others (36)", *(f"{k} ({20 - k})" for k in range(7))]
    assert list(display.scatters_) == expected
    colors = {tuple(points.get_facecolor()[0]) for points in display.scatters_.values()}
    assert len(colors) == len(expected)


@pytest.mark.parametrize("method", ["auto", "umap"])
def test_umap(plt, monkeypatch, method):
    """Its place is taken by one that notes how it is called."""
    calls = []

    class UMAP:
        def __init__(self, **options):
            calls.append(options)

        def fit_transform(self, X):
            return X[:, :2]

    monkeypatch.setitem(sys.modules, "umap", type(sys)("umap"))
    sys.modules["umap"].UMAP = UMAP
    sys.modules["umap"].__spec__ = object()
    atoms = clusters(0)
    display = FeatureMapDisplay.from_estimator(atoms, method=method, random_state=0)
    (options,) = calls
    assert options.pop("random_state") >= 0
    assert options == {"n_neighbors": 15, "min_dist": 0.05, "metric": "cosine"}
    unit = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    assert_allclose(display.positions, unit[:, :2])
    assert display.ax_.get_ylabel() == "UMAP 2"


def test_without_umap(plt, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        FeatureMapDisplay.from_estimator(clusters(0), method="umap")
    display = FeatureMapDisplay.from_estimator(clusters(0), random_state=0)
    assert display.ax_.get_xlabel() == "t-SNE 1"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureMapDisplay(np.zeros((3, 3))), r"shape \(n_components, 2\)"),
        (lambda: FeatureMapDisplay(np.zeros((3, 2)), [0, 1]), "groups must be 3 integers"),
        (lambda: FeatureMapDisplay(np.zeros((2, 2)), [0.5, 1]), "groups must be 2 integers"),
        (lambda: FeatureMapDisplay.from_estimator(np.eye(4), method="pca"), "method must be one"),
        (lambda: FeatureMapDisplay.from_estimator(np.eye(4, 3)), "four features.* 3 of 4"),
        (
            lambda: FeatureMapDisplay.from_estimator(clusters(0), groups=[1], method="tsne"),
            "groups must be 45 integers",
        ),
    ],
)
def test_map_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_map_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'FeatureMapDisplay.*pip install "skdict\[plot\]"'):
        FeatureMapDisplay(np.zeros((2, 2))).plot()


@pytest.mark.parametrize(
    "atoms",
    [
        np.tile([1.0, 2.0, 3.0], (8, 1)),
        np.outer(np.arange(1, 9), [1.0, 2.0]),  # of several lengths
        np.tile([1e200, 2e200], (8, 1)),
        np.ones((8, 1)),
    ],
)
def test_map_of_one_direction(plt, atoms):
    """t-SNE would divide by a spread of 0, and end the process."""
    with pytest.raises(ValueError, match="all 8 of estimator that are alive point the same way"):
        FeatureMapDisplay.from_estimator(atoms, method="tsne")


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_map_of_extreme_lengths(plt, scale):
    """Atoms whose squared length is infinite, or 0, are neither dead nor without direction."""
    expected = FeatureMapDisplay.from_estimator(clusters(0), method="tsne", random_state=0)
    atoms = clusters(0) * np.where(np.arange(len(clusters(0))) % 2, 1, scale)[:, None]
    display = FeatureMapDisplay.from_estimator(atoms, method="tsne", random_state=0)
    assert np.isfinite(display.positions).all() == np.isfinite(expected.positions).all()
    match = match_features(atoms, clusters(0))
    assert match.n_dead_a == 0
    assert_allclose(match.best_similarity, 1)


@pytest.mark.parametrize("n_same", [3, 7, 39])
def test_map_of_few_directions(plt, n_same):
    rng = np.random.default_rng(0)
    atoms = np.vstack([np.tile([1.0, 0, 0], (n_same, 1)), rng.normal(size=(5, 3))])
    display = FeatureMapDisplay.from_estimator(atoms, method="tsne", random_state=0)
    assert np.isfinite(display.positions).all()
