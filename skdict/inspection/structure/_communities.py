"""Groups of features that are active together."""

from numbers import Integral, Real

import numpy as np
from scipy.sparse import csr_array
from scipy.special import pdtrc
from sklearn.utils import Bunch, gen_batches

from ...metrics._rows import BLOCK_SIZE
from ...utils._random import check_random_state
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._active import positive_entries
from ..codes._whole import whole_matrix

# Edge swaps per edge, to randomise a graph. Each swap moves two edges.
SWAPS_PER_EDGE = 5


@validate_params(
    {
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "min_active": [Interval(Integral, 1, None, closed="left")],
        "max_false_edges": [Interval(Real, 0, None, closed="right")],
        "n_null": [Interval(Integral, 2, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def feature_communities(
    codes, *, n_neighbors=10, min_active=10, max_false_edges=1.0, n_null=10, random_state=0
):
    r"""Find groups of features that are active on the same samples.

    The features are the nodes of a graph. An edge joins two features that are active together
    significantly more often than independent ones. With :math:`n` samples, of which feature i is
    active on :math:`n_i`, and features i and j together on :math:`n_{ij}`, the criterion is

    .. math:: \Pr \left( \mathrm{Poisson}(n_i n_j / n) \ge n_{ij} \right) \cdot n_\mathrm{pairs}
              \le \mathtt{max\_false\_edges}

    Each feature keeps the `n_neighbors` significant neighbours with the highest phi coefficient,
    the Pearson correlation of being active,

    .. math:: \phi_{ij} =
              \frac{n \, n_{ij} - n_i n_j}{\sqrt{n_i (n - n_i) \, n_j (n - n_j)}}

    and there is an edge if either of two features keeps the other. The communities are found by
    the Louvain method [1]_, which searches for the partition of the unweighted graph with the
    highest modularity :math:`Q`.

    Because the partition maximises it, :math:`Q` is also high in random graphs, especially in
    sparse ones. The result therefore includes :math:`Q` of random graphs with the same degrees
    [2]_.

    Parameters
    ----------
    codes : FeatureCodes, or matrix of shape (n_samples, n_components)
        Codes of the activations. A feature is active where its code is positive.

    n_neighbors : int, default=10
        Maximum number of neighbours that a feature keeps. Others may keep it too.

    min_active : int, default=10
        Features that are active on fewer samples get no edges.

    max_false_edges : float, default=1.0
        Maximum expected number of edges if all features and samples were independent (a
        Bonferroni correction). ``inf`` accepts every pair that is active together more often
        than expected.

    n_null : int, default=10
        Number of random graphs.

    random_state : int, RandomState instance or None, default=0
        Determines the order in which the Louvain method visits nodes, and the random graphs.

    Returns
    -------
    communities : :class:`~sklearn.utils.Bunch`
        groups : ndarray of shape (n_components,), int64
            Community of each feature, 0 for the largest; -1 for features without edges, such as
            dead ones.
        graph : csr_array of shape (n_components, n_components), float64
            The symmetric matrix of edges, with their :math:`\phi`.
        modularity : float
            :math:`Q` of the communities; nan if there are no edges.
        null_modularity : ndarray of shape (n_null,), float64
            :math:`Q` of the random graphs with their own communities; nan if edges cannot be
            moved, as in a complete graph.
        modularity_z : float
            Number of standard deviations by which :math:`Q` exceeds the mean of the random
            graphs; nan if undefined.

    Raises
    ------
    ValueError
        If `codes` is not a matrix or contains NaN or infinity.

    See Also
    --------
    FeatureMapDisplay : A map of the atoms, coloured by community.

    Notes
    -----
    The pointwise mutual information, :math:`\log n n_{ij} / (n_i n_j)`, is not used because it is
    highest for the rarest features, whose co-activity is known least. :math:`\phi` lies in
    [-1, 1], and :math:`n \phi^2` is the chi-squared statistic of independence. For rare features
    this is far from its limiting distribution, hence the Poisson tail, an approximation that is
    exact for :math:`n_i \ll n` and conservative for dense features.

    Neighbouring tokens are not independent samples: features of the same document are active
    together more often than others. Such edges are real in the given codes but say less about
    the model. Shuffling does not help; more documents do.

    Co-activities are counted by products of sparse matrices, in blocks of features, so that the
    dense matrix of all pairs is never held.

    References
    ----------
    .. [1] Blondel et al., "Fast unfolding of communities in large networks", Journal of
       Statistical Mechanics, 2008, as in ``networkx.community.louvain_communities``.
    .. [2] Maslov and Sneppen, "Specificity and stability in topology of protein networks",
       Science, 2002, as in ``networkx.double_edge_swap``.

    Examples
    --------
    Ten features, of which either the first or the last five are active:

    >>> import numpy as np
    >>> from skdict.inspection import feature_communities
    >>> rng = np.random.default_rng(0)
    >>> topic = rng.integers(2, size=2000)
    >>> active = rng.random((2000, 10)) < 0.3
    >>> active[:, :5] &= topic[:, None] == 0
    >>> active[:, 5:] &= topic[:, None] == 1
    >>> communities = feature_communities(active, random_state=0)
    >>> communities.groups
    array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    >>> communities.modularity
    0.5
    """
    graph = _coactivity(
        positive_entries(whole_matrix(codes)[0], "codes"), n_neighbors, min_active, max_false_edges
    )
    rng = check_random_state(random_state)
    groups = np.full(graph.shape[0], -1)
    nodes = np.flatnonzero(np.diff(graph.indptr))
    found = Bunch(
        groups=groups,
        graph=graph,
        modularity=np.nan,
        null_modularity=np.full(n_null, np.nan),
        modularity_z=np.nan,
    )
    if not len(nodes):
        return found

    import networkx as nx

    network = nx.from_scipy_sparse_array(graph[nodes][:, nodes])
    members, found.modularity = _louvain(network, rng)
    for k, nodes_of in enumerate(sorted(members, key=lambda each: (-len(each), min(each)))):
        groups[nodes[list(nodes_of)]] = k
    for i in range(n_null):
        try:
            found.null_modularity[i] = _louvain(_rewired(network, rng), rng)[1]
        except nx.NetworkXException:  # too few edges, or no edge can be moved
            break
    spread = found.null_modularity.std(ddof=1)
    if spread > 0:
        found.modularity_z = float((found.modularity - found.null_modularity.mean()) / spread)
    return found


def _coactivity(codes, n_neighbors, min_active, max_false_edges):
    """The symmetric graph with phi coefficients as data, from codes of `positive_entries`."""
    n_samples, n_components = codes.shape
    active = csr_array((np.ones_like(codes.data), codes.indices, codes.indptr), codes.shape)
    counts = active.sum(axis=0)
    candidates = np.flatnonzero(counts >= min_active)
    m, counts = len(candidates), counts[candidates]
    if m < 2:
        return csr_array((n_components, n_components))
    n_pairs = m * (m - 1) / 2
    spread = np.sqrt(counts * (n_samples - counts))
    columns = active.tocsc()[:, candidates]
    active = columns.tocsr()

    edges = []
    for block in gen_batches(m, max(1, BLOCK_SIZE // m)):
        together = (columns[:, block].T @ active).toarray()
        product = np.outer(counts[block], counts)  # integers below 2^53, so exact in float64
        i, j = np.nonzero(n_samples * together > product)
        i, j = i[i + block.start != j], j[i + block.start != j]
        # Pr(X >= k) is Pr(X > k - 1)
        false_edges = pdtrc(together[i, j] - 1, product[i, j] / n_samples) * n_pairs
        i, j = i[false_edges <= max_false_edges], j[false_edges <= max_false_edges]
        excess = n_samples * together[i, j] - product[i, j]
        phi = excess / (spread[block][i] * spread[j])
        order = np.lexsort((-phi, i))
        starts = np.searchsorted(i[order], np.arange(block.stop - block.start))
        rank = np.arange(len(order)) - starts[i[order]]
        kept = order[rank < n_neighbors]
        edges.append((phi[kept], candidates[i[kept] + block.start], candidates[j[kept]]))
    phi, rows, columns = (np.concatenate(parts) for parts in zip(*edges, strict=True))
    graph = csr_array((phi, (rows, columns)), shape=(n_components, n_components))
    return graph.maximum(graph.T).tocsr()


def _louvain(network, rng):
    """The communities, as sets of nodes, and their modularity."""
    from networkx import community

    groups = community.louvain_communities(network, weight=None, seed=_seed(rng))
    return groups, float(community.modularity(network, groups, weight=None))


def _rewired(network, rng):
    """A random graph with the same degree at every node."""
    from networkx.algorithms.swap import double_edge_swap

    n_swaps = SWAPS_PER_EDGE * network.number_of_edges()
    return double_edge_swap(
        network.copy(), nswap=n_swaps, max_tries=100 * n_swaps, seed=_seed(rng)
    )


def _seed(rng):
    return int(rng.randint(np.iinfo(np.int32).max))
