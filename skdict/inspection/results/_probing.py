"""k-sparse probing: how well k features predict a label, beside what has to be beaten."""

from collections.abc import Mapping
from numbers import Real

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.utils import Bunch

from ..._core.data.finite import check_entries_finite
from ...metrics._rows import as_rows, float64_block, row_blocks, to_numpy
from ...utils._arrays import as_vector
from ...utils._random import check_random_state
from ...utils._sklearn_compat import Interval, validate_params
from ...utils._warnings import warn
from ..codes._whole import of_counted, whole_matrix
from ._controls import controls_of
from ._detectors import evaluate_feature_detectors, select_feature_detectors
from ._named_labels import named_labels
from ._parts import labels_of_one_side, random_parts
from ._targets import as_groups, as_target, has_one_axis

SCORES = ("precision", "recall", "f1", "average_precision", "roc_auc")


@validate_params(
    {
        "controls": [Mapping, None],
        "test_size": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def k_sparse_probe(
    codes, y, *, X, k=(1, 2, 5, 16), controls=None, groups=None, test_size=0.5, random_state=0
):
    r"""Predict labels from k features, and from k columns of what features have to beat.

    This is k-sparse probing as in [1]_ and [2]_. For each label, on one part of the samples, the k
    columns are chosen whose means differ most between the samples with the label and the others,

    .. math:: \left| \operatorname{mean}(z_j \mid y = 1)
              - \operatorname{mean}(z_j \mid y = 0) \right|

    and a logistic regression on these columns is fitted to the same samples. The scores are those
    on the other part.

    Such a number alone says nothing of a dictionary: dense directions and random ones predict many
    labels, too [3]_. The same is therefore always done with the neurons, with principal
    components, and with random atoms at the same L0, and the table says how dense the chosen
    columns are. If features are not better than these, it is not the dictionary that knows.

    Parameters
    ----------
    codes : FeatureCodes, or matrix of shape (n_samples, n_components)
        Codes of the activations. Negative entries count as they are.

    y : array-like of shape (n_samples,), matrix of shape (n_samples, n_labels), or mapping
        Classes, each of which is probed for against the rest (of two only the greater one); or
        any number of labels, as in `feature_report`.

    X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_neurons)
        The activations that the codes are of.

    k : int or sequence of int, default=(1, 2, 5, 16)
        Numbers of columns to choose. Where a matrix has fewer, all of them are taken.

    controls : dict of str to matrix of shape (n_samples, any), default=None
        More representations of the same samples to probe: codes of a dictionary whose decoder was
        frozen at random, for instance, or of another dictionary.

    groups : array-like of shape (n_samples,), default=None
        The document that each sample comes from. Samples of a group are in the same part. By
        default the documents of FeatureCodes with tokens.

    test_size : float, default=0.5
        Fraction of the samples (of the groups, if given), drawn at random, to measure scores on.

    random_state : int, RandomState instance or None, default=0
        Determines the two parts and the random atoms.

    Returns
    -------
    table : :class:`~sklearn.utils.Bunch`
        Columns with a row for each label, representation and k, so ``pandas.DataFrame(table)`` is
        a table.

        label : ndarray of str objects
            Name of the label.
        representation : ndarray of str objects
            "features"; "neurons", the columns of `X`; "PCA", its 100 leading principal components;
            "random atoms", as many as there are features; or a name of `controls`.
        k : ndarray of int64
            The number of columns.
        base_rate, base_f1 : ndarray of float64
            Fraction of the samples with the label, and the F1 of marking every sample.
        precision, recall, f1 : ndarray of float64
            Of marking the samples whose probability exceeds a threshold, the one of greatest F1 on
            the part that the probe is fitted to.
        average_precision, roc_auc : ndarray of float64
            Over all thresholds. nan, like `f1`, where a part has no sample with the label, or
            none without.
        density : ndarray of float64
            Fraction of the samples on which a chosen column is not zero, mean over the columns.
        l0 : ndarray of float64
            Mean number of columns of the representation that are not zero on a sample.
        chosen : list of ndarray of int64
            The chosen columns, the greatest difference first; of equal ones the lowest.
        coefficients : list of ndarray of float64
            Weights of these columns in the log-odds, per unit of the code.

    Raises
    ------
    ValueError
        If an argument is not a matrix, if they differ in their number of rows, if there is NaN or
        infinity, or if a matrix `y` has anything but true and false (1 and 0).

    Warns
    -----
    UserWarning
        If a label is constant in one of the two parts.

    See Also
    --------
    feature_report : The best single feature of each label.
    feature_association : Tests of all features against one label.

    Notes
    -----
    The random atoms have independent normal entries. The code of a sample are its greatest
    projections on them, as many as the codes have non-zeros on average, after the mean of `X` is
    subtracted. That takes a product of `X` with as many directions as there are features. Codes by
    matching pursuit in random atoms have predicted less in our measurements (`benchmarks`).

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
    .. [3] "Sanity Checks for Sparse Autoencoders: Do SAEs Beat Random Baselines?", 2026,
       arXiv:2602.14111.

    Examples
    --------
    A label that is spread over three features:

    >>> import numpy as np
    >>> from skdict.inspection import k_sparse_probe
    >>> rng = np.random.default_rng(0)
    >>> codes = rng.random((600, 20)) * (rng.random((600, 20)) < 0.1)
    >>> X = codes @ rng.normal(size=(20, 12))
    >>> y = (codes[:, [3, 7, 11]] > 0).any(axis=1)
    >>> table = k_sparse_probe(codes, y, X=X, k=[1, 3])
    >>> for name, k, f1 in zip(table.representation, table.k, table.f1):
    ...     print(f"{name}, k = {k}: {f1:.2f}")
    features, k = 1: 0.52
    features, k = 3: 1.00
    neurons, k = 1: 0.56
    neurons, k = 3: 0.67
    PCA, k = 1: 0.66
    PCA, k = 3: 0.68
    random atoms, k = 1: 0.42
    random atoms, k = 3: 0.46
    """
    codes, counted, documents = whole_matrix(codes)
    matrices, n_rows = _check_matrices(codes, X, controls, counted)
    n_samples = codes.shape[0]
    names, labels = _labels(y, n_rows, counted)
    sizes = _check_sizes(k)
    random_state = check_random_state(random_state)
    groups = as_groups(documents if groups is None else groups, n_rows, counted)
    parts = random_parts(n_samples, groups, test_size, random_state)
    _warn_of_one_side(names, labels, parts)
    matrices = _with_controls(matrices, parts[0], random_state)

    labelled = [labels[part] for part in parts]
    rows = {name: [] for name in names}
    for name, matrix in matrices.items():
        halves = [matrix[part] for part in parts]
        chosen = _ranked(halves[0], labelled[0])
        l0 = _n_nonzero(matrix) / n_samples
        if issparse(matrix):
            halves = [half.tocsc() for half in halves]  # columns follow
        for i, label in enumerate(names):
            for size in sizes:
                row = {"label": label, "representation": name, "k": size}
                row |= _probe(halves, [half[:, i] for half in labelled], chosen[i, :size])
                rows[label].append(row | {"l0": l0})
    rows = [row for of_label in rows.values() for row in of_label]
    texts, lists = ("label", "representation"), ("chosen", "coefficients")
    return Bunch(
        **{
            name: [row[name] for row in rows]
            if name in lists
            else np.array([row[name] for row in rows], dtype=object if name in texts else None)
            for name in rows[0]
        }
    )


def _labels(y, n_samples, counted):
    """Names and a boolean matrix of the rows that count, from classes or from several labels."""
    if has_one_axis(y):
        indices, classes = as_target(y, n_samples, "classes", counted)
        first = 1 if len(classes) == 2 else 0  # of two classes the second tells all
        names = np.array([str(name) for name in classes[first:]], dtype=object)
        return names, indices[:, None] == np.arange(first, len(classes))
    names, labels = named_labels(y, "y")
    if len(labels) != n_samples:
        raise ValueError(
            f"y has {len(labels)} rows, but codes has {n_samples}. Give both with one row per "
            "sample."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"y has labels of the same name: {sorted(names)!r:.200}. Rename them.")
    return names, of_counted(labels, counted)


def _check_sizes(k):
    sizes = as_vector([k] if np.ndim(k) == 0 else k, "k")
    if (
        not len(sizes)
        or not (np.isfinite(sizes) & (sizes >= 1) & (sizes == np.floor(sizes))).all()
    ):
        raise ValueError(
            f"k={k!r}: give a number of columns, or a sequence of them, each at least 1."
        )
    return sizes.astype(np.int64).tolist()


def _check_matrices(codes, X, controls, counted):
    """The rows that count of the user's matrices, by representation, and how many there were."""
    n_rows = codes.shape[0] if counted is None else len(counted)
    given = {"codes": codes, "X": X}
    given |= {f"controls[{name!r}]": matrix for name, matrix in (controls or {}).items()}
    taken = {"features", "neurons", "PCA", "random atoms"} & {str(name) for name in controls or {}}
    if taken:
        raise ValueError(f"controls has {sorted(taken)}, which are there already. Rename them.")
    matrices = {}
    for name, matrix in given.items():
        if name != "codes":
            matrix = as_rows(matrix, name)
            if matrix.shape[0] != n_rows:
                raise ValueError(
                    f"{name} has {matrix.shape[0]} rows, but codes has {n_rows}. Give both with "
                    "one row per sample."
                )
        check_entries_finite(matrix, name)
        matrix = to_numpy(matrix) if isinstance(matrix, torch.Tensor) else matrix
        matrices[name] = matrix if name == "codes" else of_counted(matrix, counted)
    names = ["features", "neurons", *map(str, controls or {})]
    return dict(zip(names, matrices.values(), strict=True)), n_rows


def _warn_of_one_side(names, labels, parts):
    found = labels_of_one_side(names, labels, parts)
    if found is not None:
        warn(
            f"Of two parts that were drawn at random, of {len(parts[0])} and {len(parts[1])} "
            f"rows, one has no row with the label, or none without: {found}. Their scores are "
            "nan. Give more rows (more groups, if they are given), or leave rare labels out."
        )


def _with_controls(matrices, selecting, random_state):
    """Features, neurons, principal components, random atoms at equal L0, then the user's."""
    codes, X = matrices.pop("features"), matrices.pop("neurons")
    l0 = max(1, round(_n_nonzero(codes) / codes.shape[0]))
    own = controls_of(X, selecting, codes.shape[1], l0, random_state)
    return {"features": codes} | own | matrices


def _n_nonzero(matrix):
    return np.count_nonzero(matrix.data if issparse(matrix) else matrix)


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
        return row | {"density": np.nan, "chosen": columns[:0], "coefficients": np.zeros(0)}
    scale = train.std(axis=0)
    scale[scale == 0] = 1
    probe = LogisticRegression(solver="newton-cholesky").fit(train / scale, known)
    row |= {"density": n_active / n_entries, "chosen": columns}
    row["coefficients"] = probe.coef_[0] / scale
    inside, outside = (probe.predict_proba(half / scale)[:, 1:] for half in (train, test))
    detector = select_feature_detectors(inside, known[:, None])
    scores = evaluate_feature_detectors(outside, true[:, None], detector)
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
