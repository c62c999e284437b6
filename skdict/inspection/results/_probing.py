"""Sparse probing: how well k features together tell whether a sample has a label."""

from collections.abc import Mapping
from numbers import Real

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.utils import Bunch

from ..._core.data.finite import check_entries_finite
from ...metrics._rows import as_rows, float64_block, row_blocks
from ...utils._arrays import as_vector
from ...utils._sklearn_compat import Interval, validate_params
from ._detectors import evaluate_feature_detectors, select_feature_detectors
from ._named_labels import named_labels
from ._parts import two_parts

SCORES = ("precision", "recall", "f1", "average_precision", "roc_auc")


@validate_params(
    {"test_size": [Interval(Real, 0, 1, closed="neither")]}, prefer_skip_nested_validation=True
)
def sparse_probing(codes, labels, *, n_features=(1, 2, 5, 10), test_size=0.5):
    r"""Probe for labels with k features, where a label is spread over several of them.

    This is k-sparse probing as in [1]_ and [2]_. For each label, on the first rows, the k columns
    are chosen whose means differ most between the samples with the label and the others,

    .. math:: \left| \operatorname{mean}(z_j \mid y = 1)
              - \operatorname{mean}(z_j \mid y = 0) \right|

    and a logistic regression on these columns is fitted to the same rows. The scores are those on
    the last rows. If rows are tokens in the order of their documents, at most one document is in
    both parts.

    A number alone says little: give the neurons, principal components and codes of random atoms
    at the same L0 as well, and look at the density of what was chosen. Frequent labels are often
    found in dense directions, where principal components are better than any sparse code.

    Parameters
    ----------
    codes : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_components), or dict
        Codes of the activations; or several such matrices of the same samples, as a dict by name,
        to compare. Negative entries count as they are.

    labels : {array-like, sparse matrix} of bool of shape (n_samples, n_labels), or mapping
        The labels of each sample, as in `feature_report`.

    n_features : sequence of int, default=(1, 2, 5, 10)
        Numbers k of columns to choose. Where a matrix has fewer, all of them are taken.

    test_size : float, default=0.5
        Fraction of the rows, the last ones, to measure the scores on.

    Returns
    -------
    table : :class:`~sklearn.utils.Bunch`
        Columns with a row for each label, matrix and k, so ``pandas.DataFrame(table)`` is a table.

        label : ndarray of str objects
            Name of the label.
        codes : ndarray of str objects
            Name of the matrix; "codes" if it has none.
        n_features : ndarray of int64
            k.
        base_rate, base_f1 : ndarray of float64
            Fraction of the samples with the label, and the F1 of marking every sample.
        precision, recall, f1 : ndarray of float64
            Of marking the samples whose probability exceeds a threshold, the one of greatest F1 on
            the first rows.
        average_precision, roc_auc : ndarray of float64
            Over all thresholds. nan, like `f1`, where a part has no sample with the label, or
            none without.
        density : ndarray of float64
            Fraction of the samples on which a chosen column is not zero, mean over the columns.
        features : list of ndarray of int64
            The chosen columns, the greatest difference first; of equal ones the lowest.
        coefficients : list of ndarray of float64
            Weights of these columns in the log-odds, per unit of the code.

    Raises
    ------
    ValueError
        If an argument is not a matrix, if they differ in their number of rows, if `codes` contains
        NaN or infinity, or `labels` anything but true and false (1 and 0).

    Warns
    -----
    UserWarning
        If a label is constant in one of the two parts.

    See Also
    --------
    feature_report : The best single feature of each label.

    Notes
    -----
    The chosen columns are divided by their standard deviation before the logistic regression
    (:class:`~sklearn.linear_model.LogisticRegression`, C=1), so that its penalty does not depend
    on the unit of the codes. [2]_ does not scale, and probes on as many samples with the label as
    without; here samples are taken as they are, and the scores are those of rare labels.

    References
    ----------
    .. [1] Gurnee, W. et al. "Finding Neurons in a Haystack: Case Studies with Sparse Probing",
       Transactions on Machine Learning Research, 2023, arXiv:2305.01610.
    .. [2] Karvonen, A. et al. "SAEBench: A Comprehensive Benchmark for Sparse Autoencoders in
       Language Model Interpretability", 2025, arXiv:2503.09532.

    Examples
    --------
    A label that is spread over three features:

    >>> import numpy as np
    >>> from skdict.inspection import sparse_probing
    >>> rng = np.random.default_rng(0)
    >>> codes = rng.random((600, 20)) * (rng.random((600, 20)) < 0.1)
    >>> is_digit = (codes[:, [3, 7, 11]] > 0).any(axis=1)
    >>> table = sparse_probing(codes, is_digit[:, None], n_features=[1, 3])
    >>> table.features[1]
    array([ 3, 11,  7])
    >>> table.f1.round(2), table.base_f1.round(2)
    (array([0.53, 0.99]), array([0.4, 0.4]))
    """
    names, labels = named_labels(labels)
    sizes = _check_sizes(n_features)
    matrices = _check_matrices(codes, len(labels))
    parts = two_parts(names, labels, test_size)
    labelled = [labels[part] for part in parts]
    rows, halves, chosen = [], {}, {}
    for name, matrix in matrices.items():
        halves[name] = [matrix[part] for part in parts]
        chosen[name] = _ranked(halves[name][0], labelled[0])
        if issparse(matrix):
            halves[name] = [half.tocsc() for half in halves[name]]  # columns follow
    for k, label in enumerate(names):
        for name, of_name in halves.items():
            for size in sizes:
                found = _probe(of_name, [half[:, k] for half in labelled], chosen[name][k, :size])
                rows.append({"label": label, "codes": name, "n_features": size} | found)
    texts, lists = ("label", "codes"), ("features", "coefficients")
    return Bunch(
        **{
            name: [row[name] for row in rows]
            if name in lists
            else np.array([row[name] for row in rows], dtype=object if name in texts else None)
            for name in rows[0]
        }
    )


def _check_sizes(n_features):
    sizes = as_vector(n_features, "n_features")
    if (
        not len(sizes)
        or not (np.isfinite(sizes) & (sizes >= 1) & (sizes == np.floor(sizes))).all()
    ):
        raise ValueError(
            f"n_features={n_features!r}: give a sequence of numbers of columns, each at least 1."
        )
    return sizes.astype(np.int64).tolist()


def _check_matrices(codes, n_samples):
    """A dict from names to checked matrices."""
    several = isinstance(codes, Mapping) and not issparse(codes)  # a DOK matrix is a dict too
    if several and not codes:
        raise ValueError("codes is an empty dict. Give at least one matrix.")
    matrices = {}
    for key, given in codes.items() if several else [("codes", codes)]:
        name = f"codes[{key!r}]" if several else "codes"
        matrix = as_rows(given, name)
        check_entries_finite(matrix, name)
        if matrix.shape[0] != n_samples:
            raise ValueError(
                f"{name} has {matrix.shape[0]} rows, but labels has {n_samples}. Give both with "
                "one row per sample."
            )
        matrices[str(key)] = matrix
    return matrices


def _ranked(matrix, labels):
    """Columns in descending order of the difference of means, (n_labels, n_components)."""
    if issparse(matrix):
        total, of_label = _sums(csr_array(matrix, dtype=np.float64), labels)
    else:
        blocks = [(float64_block(matrix, rows), labels[rows]) for rows in row_blocks(matrix)]
        total, of_label = map(sum, zip(*(_sums(*block) for block in blocks), strict=True))
    n_labelled = labels.sum(axis=0)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant label has no difference
        differences = of_label / n_labelled - (total - of_label) / (len(labels) - n_labelled)
    return np.argsort(-np.abs(differences), axis=1, kind="stable")


def _sums(block, labels):
    """Sum of each column, (n_components,), and over the samples of each label."""
    return np.asarray(block.sum(axis=0)).ravel(), np.asarray((block.T @ labels.astype(float)).T)


def _probe(halves, labelled, columns):
    """The scores of a logistic regression on some columns, as entries of a row of the table.

    Parameters
    ----------
    halves : list of two matrices
        The rows to select on, and those to report on.
    labelled : list of two ndarrays of bool
    columns : ndarray of int64 of shape (k,)
    """
    (train, test), (known, true) = [_dense(half, columns) for half in halves], labelled
    n_active, n_entries = np.count_nonzero(train) + np.count_nonzero(test), train.size + test.size
    row = {"base_rate": true.mean(), "base_f1": np.nan, **dict.fromkeys(SCORES, np.nan)}
    if known.all() or not known.any():
        return row | {"density": np.nan, "features": columns[:0], "coefficients": np.zeros(0)}
    scale = train.std(axis=0)
    scale[scale == 0] = 1
    probe = LogisticRegression(max_iter=1000).fit(train / scale, known)
    row |= {"density": n_active / n_entries, "features": columns}
    row["coefficients"] = probe.coef_[0] / scale
    inside, outside = (probe.predict_proba(half / scale)[:, 1:] for half in (train, test))
    detector = select_feature_detectors(inside, known[:, None])
    scores = evaluate_feature_detectors(detector, outside, true[:, None])
    row |= {name: scores[name][0] for name in ("base_f1", "precision", "recall", "f1")}
    if 0 < true.mean() < 1:
        row["average_precision"] = average_precision_score(true, outside)
        row["roc_auc"] = roc_auc_score(true, outside)
    return row


def _dense(matrix, columns):
    """Some columns, in C order whatever kind the matrix is: sums are then the same."""
    if issparse(matrix):
        return matrix[:, columns].toarray(order="C").astype(np.float64)
    return np.ascontiguousarray(float64_block(matrix, (slice(None), columns.tolist())))
