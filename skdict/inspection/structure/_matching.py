"""Matching of the features of two dictionaries."""

from numbers import Real

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array, issparse
from sklearn.utils import Bunch, gen_batches

from ...metrics._rows import BLOCK_SIZE, check_finite, float64_block, row_blocks, varies
from ...utils._sklearn_compat import Interval, StrOptions, validate_params
from ..codes._directions import unit_directions
from ..codes._whole import whole_matrices

# A column whose variance is less than this fraction of its mean square counts as constant. It is
# the relative rounding error of squares of centred values.
CONSTANT_CENTRED = 1e-24
# Similarities in a block: 256 MB in float64.
N_SIMILARITIES = 2**25


@validate_params(
    {
        "by": [StrOptions({"atoms", "encoders", "codes"})],
        "threshold": [Interval(Real, -1, 1, closed="both")],
        "assignment": [StrOptions({"one_to_one", "mutual"})],
    },
    prefer_skip_nested_validation=True,
)
def match_features(a, b, *, by="atoms", threshold=0.7, assignment="one_to_one"):
    """Match the features of two dictionaries.

    Features that reappear with another seed, solver or model are more likely to be properties of
    the model than artefacts of the method. Each feature of `a` is matched twice: to its most
    similar feature of `b`, which several features may share, and to a partner of its own.

    Parameters
    ----------
    a, b : estimator or array-like
        The two dictionaries: fitted estimators, Pipelines that end in one, or arrays of
        directions of shape (n_components, n_features). With ``by="codes"``, matrices (arrays,
        sparse matrices, tensors) of shape (n_samples, n_components), or FeatureCodes: the codes
        of the same samples from both dictionaries. Rows that do not count in one of them are
        left out. Given the activations of two models instead of codes, it
        matches their neurons, the baseline for features.

    by : {"atoms", "encoders", "codes"}, default="atoms"
        The similarity.

        - "atoms": cosine of the atoms, ``components_``. Both dictionaries must belong to the
          same layer of the same model.
        - "encoders": cosine of the encoder rows, ``encoder_coef_``, with the same requirement.
        - "codes": Pearson correlation of the codes over the samples. The dictionaries may belong
          to different layers or models, but the samples must be the same tokens.

        All are signed: codes are non-negative, so opposite directions are different features.

    threshold : float, default=0.7
        Least similarity with its partner for a feature to count as shared, in [-1, 1].

    assignment : {"one_to_one", "mutual"}, default="one_to_one"
        Which feature is the partner.

        - "one_to_one": that of the one-to-one assignment with the largest total similarity
          (Hungarian algorithm). Its time grows with the cube of the number of features, and the
          matrix of all similarities is held in memory: for up to some 10,000 features.
        - "mutual": the most similar feature, if that has none more similar in `a` in turn; else
          none. Similarities are computed by blocks, 256 MB at a time, and not kept: for
          dictionaries of any width.

    Returns
    -------
    match : :class:`~sklearn.utils.Bunch`
        For the features of `a`, arrays of shape (n_components_a,):

        partner : ndarray of int64
            The partner in `b`; -1 if the feature is dead, or has none: because `b` has fewer
            features, or because the nearest one is nearer to another feature of `a`.
        similarity : ndarray of float64
            Similarity with the partner, in [-1, 1]; nan without a partner.
        best : ndarray of int64
            The most similar feature of `b`, the lowest in case of a tie; -1 for dead features.
        best_similarity : ndarray of float64
            Similarity with it; nan for dead features.

        And summaries over the living features of `a`:

        shared_fraction : float
            Fraction whose similarity with their partner is at least `threshold`.
        median_best_similarity : float
            Median of ``best_similarity``.
        n_dead_a, n_dead_b : int
            Number of dead features, which are not matched and do not count. With ``by="codes"``
            they are those that are constant over the samples, usually never active; otherwise
            those with a zero direction, or with a ``feature_density_`` of 0 if the estimator has
            this attribute.

    Raises
    ------
    TypeError
        If an estimator lacks atoms or an encoder.
    ValueError
        If the shapes do not fit, or if there is NaN or infinity.

    See Also
    --------
    skdict.metrics.dictionary_recovery : Mean cosine with true atoms.
    FeatureMatchDisplay : The distribution of the best similarities.

    Notes
    -----
    ``median_best_similarity`` of codes is what [1]_ calls universality: 0.72 for features of
    two transformers, 0.46 for their neurons. ``shared_fraction`` is the overlap between seeds of
    [2]_, who require the same partner by atoms and by encoders.

    With ``by="codes"``, two features that are active on few samples correlate by chance if these
    coincide, and the best of many always has some similarity. Shuffled samples give the level of
    chance: ``match_features(a, b[permutation], by="codes")``.

    With ``assignment="one_to_one"``, the matrix of similarities, n_components_a by
    n_components_b in float64, is held in memory.
    Sparse codes stay sparse; dense codes are read in blocks of rows.

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
        a, b = whole_matrices([a, b], ["a", "b"])
    else:
        attribute = {"atoms": "components_", "encoders": "encoder_coef_"}[by]
        a, alive_a = unit_directions(a, "a", attribute)
        b, alive_b = unit_directions(b, "b", attribute)
        if a.shape[1] != b.shape[1]:
            raise ValueError(
                "a and b must have the same number of features (columns), but have "
                f"{a.shape[1]} and {b.shape[1]}. To match dictionaries of different layers or "
                "models, give their codes of the same samples, with by='codes'."
            )

    def similar(block):
        """Similarities of some features of a with all of b, and which are alive."""
        if by == "codes":
            return _correlations(a if block == slice(None) else a[:, block], b)
        return np.clip(a[block] @ b.T, -1, 1), alive_a[block], alive_b

    axis = 1 if by == "codes" else 0
    n_a, n_b = a.shape[axis], b.shape[axis]
    match = (_mutual if assignment == "mutual" else _one_to_one)(similar, n_a, n_b)
    n_alive = n_a - match.n_dead_a
    n_shared = np.count_nonzero(match.similarity >= threshold)
    match.shared_fraction = float(n_shared / n_alive) if n_alive else np.nan
    found = match.best_similarity[~np.isnan(match.best_similarity)]
    match.median_best_similarity = float(np.median(found)) if len(found) else np.nan
    return match


def _mutual(similar, n_a, n_b):
    """Nearest features, and partners that are nearest to each other, block by block."""
    nearest_a, nearest_b = np.full(n_a, -1), np.full(n_b, -1)
    greatest_a, greatest_b = np.full(n_a, np.nan), np.full(n_b, -np.inf)
    n_alive = 0
    for block in gen_batches(n_a, max(1, N_SIMILARITIES // n_b)):
        similarity, alive_a, alive_b = similar(block)
        n_alive += int(alive_a.sum())
        rows = block.start + np.flatnonzero(alive_a)
        if not len(rows) or not alive_b.any():
            continue
        similarity = similarity[alive_a]
        similarity[:, ~alive_b] = -np.inf
        nearest_a[rows] = similarity.argmax(axis=1)
        greatest_a[rows] = similarity.max(axis=1)
        top, value = similarity.argmax(axis=0), similarity.max(axis=0)
        nearer = alive_b & (value > greatest_b)
        nearest_b[nearer], greatest_b[nearer] = rows[top[nearer]], value[nearer]
    is_mutual = (nearest_a >= 0) & (nearest_b[nearest_a] == np.arange(n_a))
    return Bunch(
        partner=np.where(is_mutual, nearest_a, -1),
        similarity=np.where(is_mutual, greatest_a, np.nan),
        best=nearest_a,
        best_similarity=greatest_a,
        n_dead_a=n_a - n_alive,
        n_dead_b=int(n_b - alive_b.sum()),
    )


def _one_to_one(similar, n_a, n_b):
    """Nearest features, and the partners of the assignment with the largest total similarity."""
    similarity, alive_a, alive_b = similar(slice(None))
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
        cost = np.negative(similarity, out=similarity)  # in place: no second matrix of this size
        matched, partner = linear_sum_assignment(cost)
        match.partner[rows[matched]] = columns[partner]
        match.similarity[rows[matched]] = -cost[matched, partner]
    match.n_dead_a, match.n_dead_b = n_a - len(rows), n_b - len(columns)
    return match


def _correlations(a, b):
    """Pearson correlations of the columns of two matrices, and which columns vary."""
    if a.shape[0] != b.shape[0]:
        raise ValueError(
            f"a has {a.shape[0]} rows, but b has {b.shape[0]}: with by='codes' both must have "
            "one row for each of the same samples. To compare atoms, use by='atoms'."
        )
    if issparse(a) and issparse(b):
        covariance, moments_a, moments_b = _sparse_products(a, b)
    elif issparse(a):
        covariance, moments_a, moments_b = _mixed_products(a, b, "a", "b")
    elif issparse(b):
        covariance, moments_b, moments_a = _mixed_products(b, a, "b", "a")
        covariance = covariance.T
    else:
        covariance, moments_a, moments_b = _dense_products(a, b)
    (variance_a, alive_a), (variance_b, alive_b) = moments_a, moments_b
    covariance /= np.sqrt(np.where(alive_a, variance_a, 1))[:, None]
    covariance /= np.sqrt(np.where(alive_b, variance_b, 1))
    return np.clip(covariance, -1, 1, out=covariance), alive_a, alive_b


def _sparse_moments(codes, name):
    """Codes as a canonical csr_array of float64; means, variances and which columns vary.

    The variance is the mean square minus the squared mean, which needs only the stored entries.
    """
    codes = csr_array(codes, dtype=np.float64, copy=True)
    codes.sum_duplicates()
    n_samples = codes.shape[0]
    mean_square = codes.power(2).sum(axis=0) / n_samples
    mean = codes.sum(axis=0) / n_samples
    check_finite(mean, name)
    variance = mean_square - mean**2
    return codes, mean, (variance, varies(variance, mean_square, n_samples))


def _sparse_products(a, b):
    """Covariances (n_components_a, n_components_b), and (variances, which vary) of a and of b."""
    n_samples = a.shape[0]
    a, mean_a, moments_a = _sparse_moments(a, "a")
    b, mean_b, moments_b = _sparse_moments(b, "b")
    covariance = np.empty((a.shape[1], b.shape[1]))
    columns = a.tocsc()
    # by blocks: the sparse product of all columns can take three times the memory of the dense one
    for block in gen_batches(a.shape[1], max(1, BLOCK_SIZE // b.shape[1])):
        covariance[block] = (columns[:, block].T @ b).toarray()
        covariance[block] /= n_samples
        covariance[block] -= np.outer(mean_a[block], mean_b)
    return covariance, moments_a, moments_b


def _mixed_products(sparse, dense, sparse_name, dense_name):
    """As `_sparse_products`, of a sparse and a dense matrix; the sparse one is not made dense.

    It is enough to centre one of two factors of a covariance.
    """
    n_samples = sparse.shape[0]
    sparse, _, moments = _sparse_moments(sparse, sparse_name)
    mean = _mean(dense, dense_name)
    covariance = np.zeros((sparse.shape[1], dense.shape[1]))
    square = np.zeros(dense.shape[1])
    for rows in row_blocks(dense):
        centred = float64_block(dense, rows) - mean
        covariance += sparse[rows].T @ centred
        square += np.einsum("ij,ij->j", centred, centred)
    covariance /= n_samples
    return covariance, moments, _centred_moments(square / n_samples, mean)


def _dense_products(a, b):
    """As `_sparse_products`, of two dense matrices, from centred blocks of rows."""
    n_samples = a.shape[0]
    means = [_mean(a, "a"), _mean(b, "b")]
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
    moments = [
        _centred_moments(square / n_samples, mean)
        for square, mean in zip(squares, means, strict=True)
    ]
    return covariance, *moments


def _mean(codes, name):
    """Means of the columns of a dense matrix, from blocks of rows."""
    total = sum(float64_block(codes, rows).sum(axis=0) for rows in row_blocks(codes))
    mean = total / codes.shape[0]
    check_finite(mean, name)
    return mean


def _centred_moments(variance, mean):
    """Variances of centred columns, and which columns vary."""
    return variance, variance > CONSTANT_CENTRED * (variance + mean**2)
