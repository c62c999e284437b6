"""How well features, and single neurons, detect known labels."""

from numbers import Integral, Real

import numpy as np
from scipy.sparse import issparse
from sklearn.metrics import average_precision_score
from sklearn.utils import Bunch

from ..._core.data.finite import check_entries_finite
from ...metrics._rows import as_rows, float64_block
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._whole import of_counted, whole_matrix
from ._detectors import evaluate_feature_detectors, select_feature_detectors
from ._named_labels import named_labels
from ._parts import two_parts
from ._specificity import activation_specificity


@validate_params(
    {
        "test_size": [Interval(Real, 0, 1, closed="neither")],
        "n_intervals": [Interval(Integral, 1, None, closed="left")],
        "min_precision": [Interval(Real, 0, 1, closed="both")],
    },
    prefer_skip_nested_validation=True,
)
def feature_report(
    codes, token_labels, *, neurons=None, test_size=0.5, n_intervals=10, min_precision=0.0
):
    """Report how well the best feature, and the best single neuron, detect each label.

    For each label, the feature and its threshold are selected on the first rows
    (`select_feature_detectors`), and the scores are measured on the last rows. If rows are tokens
    in the order of their documents, at most one document is in both parts. Rows that are sorted by
    label have to be shuffled before; a warning says so.

    Parameters
    ----------
    codes : FeatureCodes, or matrix of shape (n_samples, n_components)
        Codes of the activations.

    token_labels : {array-like, sparse matrix} of bool of shape (n_samples, n_labels), or mapping
        The labels of each token (or other sample); the columns of a DataFrame are their names. Or
        a mapping with the labels as "data" and their names as "target_names", as `label_tokens`
        and :func:`~skdict.datasets.python_token_labels` return it.

    neurons : matrix of shape (n_samples, n_features), default=None
        The activations themselves. If given, the same is reported for the best single neuron.
        Negative values never detect; for neurons that can be negative, give
        ``numpy.hstack([X, -X])`` to count both signs.

    test_size : float, default=0.5
        Fraction of the rows, the last ones, to measure the scores on.

    n_intervals : int, default=10
        Number of intervals of activation, of equal width from 0 to the maximum.

    min_precision : float, default=0.0
        Minimum precision of a detector on the rows that it is selected on, in [0, 1].

    Returns
    -------
    report : :class:`~sklearn.utils.Bunch`
        Columns with one entry per label, so ``pandas.DataFrame(report)`` is a table.

        label : ndarray of str objects
            Name of the label.
        base_rate : ndarray of float64
            Fraction of the samples with the label: the precision of guessing.
        base_f1 : ndarray of float64
            F1 of marking every sample: what any detector has to exceed.
        feature : ndarray of int64
            The feature; -1 if no feature detects the label. If `neurons` are given, this and the
            following columns exist also with "neuron" in place of "feature".
        feature_threshold : ndarray of float64
            The label is detected where the code is greater.
        feature_precision, feature_recall, feature_f1 : ndarray of float64
            Fraction of the detected samples that have the label; fraction of the samples with
            the label that are detected; the harmonic mean of the two.
        feature_average_precision : ndarray of float64
            Mean precision over all thresholds, weighted by the gain in recall
            (:func:`sklearn.metrics.average_precision_score`).
        feature_correlation : ndarray of float64
            Pearson correlation of code (0 where negative) and label.
        feature_precision_by_interval : list of ndarray of shape (n_intervals,)
            Fraction with the label in each interval of activation, the weakest first; nan for
            empty intervals.

    Raises
    ------
    ValueError
        If an argument is not a matrix, if they differ in their number of rows, or
        `token_labels` contains anything but true and false (1 and 0).

    Warns
    -----
    UserWarning
        If in the first or in the last rows none has a label, or all have it, but not in both.

    See Also
    --------
    k_sparse_probe : Several features together, where a label is spread over them.
    activation_specificity : Precision by interval, with the counts.
    ActivationSpecificityDisplay : Draws it.

    Examples
    --------
    >>> from skdict.inspection import feature_report
    >>> codes = [[0.0, 3.0], [0.9, 0.0], [0.0, 2.0], [0.5, 0.0], [0.0, 2.5], [0.7, 1.0]]
    >>> is_keyword = [[True], [False], [True], [False], [True], [False]]
    >>> report = feature_report(codes, is_keyword)
    >>> report.feature, report.feature_threshold, report.feature_recall
    (array([1]), array([0.]), array([1.]))
    >>> report.feature_precision, report.feature_average_precision
    (array([0.5]), array([1.]))
    """
    codes, counted, _ = whole_matrix(codes)
    n_rows = codes.shape[0] if counted is None else len(counted)
    names, labels = named_labels(token_labels, "token_labels")
    matrices = {"feature": ("codes", codes)}
    if neurons is not None:
        matrices["neuron"] = "neurons", as_rows(neurons, "neurons")
    for name, matrix in matrices.values():
        n = n_rows if name == "codes" else matrix.shape[0]
        if n != len(labels):
            raise ValueError(
                f"{name} has {n} rows, but token_labels has {len(labels)}. Give both with one row "
                "per sample."
            )
    labels = of_counted(labels, counted)
    selecting, reporting = two_parts(names, labels, test_size)
    report = Bunch(label=names)
    for who, (name, matrix) in matrices.items():
        check_entries_finite(matrix, name)
        if who == "neuron":
            matrix = of_counted(matrix, counted)
        detectors = select_feature_detectors(
            matrix[selecting], labels[selecting], min_precision=min_precision
        )
        held_out, true = matrix[reporting], labels[reporting]
        table = evaluate_feature_detectors(held_out, true, detectors)
        report["base_rate"], report["base_f1"] = table.base_rate, table.base_f1
        report[who] = table.feature
        for name in ("threshold", "precision", "recall", "f1"):
            report[f"{who}_{name}"] = table[name]
        if issparse(held_out):
            held_out = held_out.tocsc()  # single columns follow
        graded = [
            _graded(held_out, feature, true[:, k], n_intervals)
            for k, feature in enumerate(table.feature)
        ]
        average_precision, correlation, by_level = zip(*graded, strict=True)
        report[f"{who}_average_precision"] = np.array(average_precision)
        report[f"{who}_correlation"] = np.array(correlation)
        report[f"{who}_precision_by_interval"] = list(by_level)
    return report


def _graded(codes, feature, true, n_intervals):
    """Average precision, correlation and precision by interval; nan if undefined."""
    if feature < 0 or not true.any():
        return np.nan, np.nan, np.full(n_intervals, np.nan)
    code = np.maximum(float64_block(codes, (slice(None), [feature])).ravel(), 0)
    constant = true.all() or (code == code[0]).all()
    return (
        average_precision_score(true, code),
        np.nan if constant else np.corrcoef(code, true)[0, 1],
        activation_specificity(code, true, n_intervals=n_intervals).precision,
    )
