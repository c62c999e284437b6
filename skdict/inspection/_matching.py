"""Which features of two dictionaries are the same."""

from numbers import Real

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array, issparse
from sklearn.utils import Bunch, gen_batches

from ..metrics._rows import BLOCK_SIZE, as_matrix, check_finite, float64_block, row_blocks, varies
from ..utils._sklearn_compat import Interval, StrOptions, validate_params
from ._directions import unit_directions

# A column counts as constant if its variance is less than this fraction of its mean square: the
# rounding error of the squares of centred values.
CONSTANT_CENTRED = 1e-24


@validate_params(
    {
        "by": [StrOptions({"atoms", "encoders", "codes"})],
        "threshold": [Interval(Real, -1, 1, closed="both")],
    },
    prefer_skip_nested_validation=True,
)
def match_features(a, b, *, by="atoms", threshold=0.7):
    """Match the features of two dictionaries.

    Features that come back with another seed, solver or model are more likely to be the
    model's than the method's. Each feature of `a` gets its most similar feature of `b`, which
    several may share, and a partner of its own, by the one-to-one assignment of the largest
    total similarity (Hungarian algorithm).

    Parameters
    ----------
    a, b : estimator or array-like
        The two dictionaries. With ``by="codes"`` matrices (arrays, sparse matrices, tensors) of
        shape (n_samples, n_components): codes of the same samples, row by row, by the one and
        the other. With activations of two models as codes their neurons are matched, which is
        what features should be compared with. Otherwise fitted estimators, Pipelines that end
        in one, or arrays of directions of shape (n_components, n_features).

    by : {"atoms", "encoders", "codes"}, default="atoms"
        What is compared.

        - "atoms": the atoms, ``components_``, by their cosine. Both dictionaries have to be of
          the same activations: the same layer of the same model.
        - "encoders": the encoders' weights, ``encoder_coef_``, likewise.
        - "codes": the codes, by their Pearson correlation over the samples. The dictionaries
          may be of different layers or models; the samples have to be the same tokens.

        All are signed: codes are non-negative, so opposite directions are not the same feature.

    threshold : float, default=0.7
        Least similarity with its partner for a feature to count as shared, in [-1, 1].

    Returns
    -------
    match : :class:`~sklearn.utils.Bunch`
        Of the features of `a`, arrays of shape (n_components_a,):

        partner : ndarray of int64
            The feature of `b` that is assigned to it, and to no other; -1 where there is none:
            the feature is dead, or `b` has fewer.
        similarity : ndarray of float64
            Similarity with the partner, in [-1, 1]; nan where there is none.
        best : ndarray of int64
            The most similar feature of `b`, the first of equals; -1 for dead features.
        best_similarity : ndarray of float64
            Similarity with it; nan for dead features.

        And over the features of `a` that are alive:

        shared_fraction : float
            Fraction whose similarity with their partner is at least `threshold`.
        median_best_similarity : float
            Median of ``best_similarity``.
        n_dead_a, n_dead_b : int
            Number of dead features, which are not matched and do not count: with
            ``by="codes"`` those that are constant over the samples (never active, as a rule),
            otherwise zero directions, and those with ``feature_density_`` 0 where an estimator
            has that attribute.

    Raises
    ------
    TypeError
        If an estimator has no atoms or no encoder.
    ValueError
        If the shapes do not go together, or if there is NaN or infinity.

    See Also
    --------
    skdict.metrics.dictionary_recovery : Mean cosine with true atoms.
    FeatureMatchDisplay : The distribution of the best similarities.

    Notes
    -----
    ``median_best_similarity`` of codes is what [1]_ calls universality: 0.72 for features of
    two transformers, 0.46 for their neurons. ``shared_fraction`` is the overlap of seeds of
    [2]_, who ask for the same partner by atoms as by encoders.

    With ``by="codes"`` two features that are each active on a few samples correlate by chance
    where these coincide, and the best of many has some similarity in any case. The level of
    chance is that of codes in another order, ``match_features(a, b[permutation], by="codes")``.

    The matrix of similarities, n_components_a by n_components_b in float64, is held in memory;
    sparse codes stay sparse, others are read by blocks of rows.

    References
    ----------
    .. [1] Bricken et al., "Towards Monosemanticity: Decomposing Language Models With Dictionary
       Learning", Transformer Circuits Thread, 2023.
    .. [2] Paulo and Belrose, "Sparse Autoencoders Trained on the Same Data Learn Different
       Features", 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from skdict.inspection import match_features
    >>> a = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.9, 0.1]])
    >>> b = np.array([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> match = match_features(a, b)
    >>> match.partner, match.best
    (array([1, 0, 2]), array([1, 0, 0]))
    >>> round(match.shared_fraction, 3), round(match.median_best_similarity, 3)
    (0.667, 1.0)

    The same directions, found by different models, can only be seen in the codes:

    >>> codes = np.random.default_rng(0).exponential(size=(100, 3))
    >>> match_features(codes, 5 * codes[:, [2, 0, 1]], by="codes").partner
    array([1, 2, 0])
    """
    if by == "codes":
        similarity, alive_a, alive_b = _correlations(as_matrix(a, "a"), as_matrix(b, "b"))
    else:
        attribute = {"atoms": "components_", "encoders": "encoder_coef_"}[by]
        a, alive_a = unit_directions(a, "a", attribute)
        b, alive_b = unit_directions(b, "b", attribute)
        if a.shape[1] != b.shape[1]:
            raise ValueError(
                "a and b must have the same number of features (columns), but have "
                f"{a.shape[1]} and {b.shape[1]}. Match dictionaries of different activations by "
                "their codes of the same samples, with by='codes'."
            )
        similarity = np.clip(a @ b.T, -1, 1)

    rows, columns = np.flatnonzero(alive_a), np.flatnonzero(alive_b)
    if len(rows) < len(alive_a) or len(columns) < len(alive_b):
        similarity = similarity[np.ix_(rows, columns)]
    match = Bunch(
        partner=np.full(len(alive_a), -1),
        similarity=np.full(len(alive_a), np.nan),
        best=np.full(len(alive_a), -1),
        best_similarity=np.full(len(alive_a), np.nan),
    )
    if similarity.size:
        best = similarity.argmax(axis=1)
        match.best[rows] = columns[best]
        match.best_similarity[rows] = np.take_along_axis(similarity, best[:, None], axis=1)[:, 0]
        cost = np.negative(similarity, out=similarity)  # no second matrix of this size
        matched, partner = linear_sum_assignment(cost)
        match.partner[rows[matched]] = columns[partner]
        match.similarity[rows[matched]] = -cost[matched, partner]
    n_shared = np.count_nonzero(match.similarity >= threshold)
    match.shared_fraction = float(n_shared / len(rows)) if len(rows) else np.nan
    found = match.best_similarity[~np.isnan(match.best_similarity)]
    match.median_best_similarity = float(np.median(found)) if len(found) else np.nan
    match.n_dead_a, match.n_dead_b = len(alive_a) - len(rows), len(alive_b) - len(columns)
    return match


def _correlations(a, b):
    """Pearson correlations of the columns of two matrices, and which columns vary."""
    if a.shape[0] != b.shape[0]:
        raise ValueError(
            f"a has {a.shape[0]} rows, but b has {b.shape[0]}: with by='codes' both need a row "
            "for each of the same samples. To compare atoms, use by='atoms'."
        )
    products = _sparse_products if issparse(a) and issparse(b) else _dense_products
    covariance, (variance_a, alive_a), (variance_b, alive_b) = products(a, b)
    covariance /= np.sqrt(np.where(alive_a, variance_a, 1))[:, None]
    covariance /= np.sqrt(np.where(alive_b, variance_b, 1))
    return np.clip(covariance, -1, 1, out=covariance), alive_a, alive_b


def _sparse_products(a, b):
    """Covariances, and for each matrix the variances of its columns and where they vary.

    From sums of products, in which codes stay sparse.
    """
    a, b = (csr_array(codes, dtype=np.float64, copy=True) for codes in (a, b))
    n_samples = a.shape[0]
    means, moments = [], []
    for name, codes in (("a", a), ("b", b)):
        codes.sum_duplicates()
        mean_square = codes.power(2).sum(axis=0) / n_samples
        means.append(codes.sum(axis=0) / n_samples)
        check_finite(means[-1], name)
        variance = mean_square - means[-1] ** 2
        moments.append((variance, varies(variance, mean_square, n_samples)))
    covariance = np.empty((a.shape[1], b.shape[1]))
    columns = a.tocsc()
    # a.T @ b as a whole would have up to three numbers for each of its entries.
    for block in gen_batches(a.shape[1], max(1, BLOCK_SIZE // b.shape[1])):
        covariance[block] = (columns[:, block].T @ b).toarray()
        covariance[block] /= n_samples
        covariance[block] -= np.outer(means[0][block], means[1])
    return covariance, *moments


def _dense_products(a, b):
    """The same from centred blocks of rows; of sparse matrices a block is made dense."""
    n_samples = a.shape[0]
    means = []
    for name, codes in (("a", a), ("b", b)):
        total = sum(float64_block(codes, rows).sum(axis=0) for rows in row_blocks(codes))
        means.append(total / n_samples)
        check_finite(means[-1], name)
    covariance = np.zeros((a.shape[1], b.shape[1]))
    squares = [np.zeros(a.shape[1]), np.zeros(b.shape[1])]
    for rows in row_blocks(a if a.shape[1] > b.shape[1] else b):
        centred = [
            float64_block(codes, rows) - mean for codes, mean in zip((a, b), means, strict=True)
        ]
        covariance += centred[0].T @ centred[1]
        for square, block in zip(squares, centred, strict=True):
            square += np.einsum("ij,ij->j", block, block)
    covariance /= n_samples
    moments = []
    for square, mean in zip(squares, means, strict=True):
        variance = square / n_samples
        moments.append((variance, variance > CONSTANT_CENTRED * (variance + mean**2)))
    return covariance, *moments
