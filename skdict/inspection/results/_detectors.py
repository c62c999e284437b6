"""Features as detectors of labels: the best one for each label, and its held-out scores."""

from numbers import Real

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils import Bunch

from ...utils._sklearn_compat import Interval, validate_params
from ..codes._active import active_rows, check_indices
from ..codes._whole import of_counted, whole_matrix
from ._best_label import f1_of
from ._named_labels import boolean_labels


@validate_params(
    {"min_precision": [Interval(Real, 0, 1, closed="both")]}, prefer_skip_nested_validation=True
)
def select_feature_detectors(codes, token_labels, *, min_precision=0.0):
    """Find, for each label, the feature and threshold that detect it best.

    Feature :math:`j` with threshold :math:`t \\ge 0` predicts that a sample has the label if
    :math:`z_j > t`. Among all features and thresholds, the pair :math:`(j, t)` with the greatest
    F1 score is selected,

    .. math:: F_1 = \\frac{2 \\, n_\\mathrm{true}}{n_\\mathrm{detected} + n_\\mathrm{labelled}}

    The search is exact; its cost is proportional to the number of positive codes and of labels
    of their samples. The scores are maxima and therefore optimistic: report those of
    `evaluate_feature_detectors` on other samples.

    Parameters
    ----------
    codes : FeatureCodes, or matrix of shape (n_samples, n_components)
        Codes of the activations; or the activations themselves, for the best single neurons.
        Negative entries never detect. Stack ``[codes, -codes]`` if the sign has no meaning.

    token_labels : {array-like, sparse matrix} of bool of shape (n_samples, n_labels)
        The labels of each token (or other sample), any number of them, such as the `data` of
        :func:`~skdict.datasets.python_token_labels`.

    min_precision : float, default=0.0
        Least precision of a detector, in [0, 1].

    Returns
    -------
    detectors : :class:`~sklearn.utils.Bunch`
        Arrays of shape (n_labels,), so ``pandas.DataFrame(detectors)`` is a table.

        feature : ndarray of int64
            Index of the feature, the lowest in case of a tie; -1 if no sample has the label, or
            if no feature that is active on such a sample reaches `min_precision`.
        threshold : ndarray of float64
            The label is detected where the code is greater than this; 0 for any activity. It
            lies half-way between two codes; of thresholds with equal F1 it is the highest. nan
            if `feature` is -1.
        precision : ndarray of float64
            Fraction of the detected samples that have the label; nan if none is detected.
        recall : ndarray of float64
            Fraction of the samples with the label that are detected; nan if none has it.
        f1 : ndarray of float64
            Harmonic mean of the two; 0 if nothing is detected, nan if no sample has the label.
        base_rate : ndarray of float64
            Fraction of the samples that have the label: the precision of guessing.
        base_f1 : ndarray of float64
            F1 of marking every sample, :math:`2 r / (1 + r)` at a base rate of :math:`r`: what
            any detector has to exceed. nan if no sample has the label.

    Raises
    ------
    ValueError
        If `codes` or `token_labels` is not a matrix, if they differ in their number of rows, if
        `codes` contains NaN or infinity, or `token_labels` anything but true and false (1 and 0).

    See Also
    --------
    evaluate_feature_detectors : Scores of the detectors on other samples.
    k_sparse_probe : Detectors of several features, where a label is spread over them.

    Examples
    --------
    >>> from skdict.inspection import select_feature_detectors
    >>> codes = [[0.0, 3.0], [0.1, 2.0], [0.7, 0.0], [0.9, 1.0]]
    >>> is_keyword = [[True], [True], [False], [False]]
    >>> detectors = select_feature_detectors(codes, is_keyword)
    >>> detectors.feature, detectors.threshold, detectors.f1
    (array([1]), array([1.5]), array([1.]))
    """
    codes, labels = check_codes_and_labels(codes, token_labels)
    n_labels = labels.shape[1]
    n_labelled = np.count_nonzero(labels, axis=0)
    feature = np.full(n_labels, -1)
    threshold = np.full(n_labels, np.nan)
    n_detected, n_true = np.zeros(n_labels, np.int64), np.zeros(n_labels, np.int64)
    best_f1 = np.zeros(n_labels)

    labels = csr_array(labels)
    label_dtype = np.min_scalar_type(n_labels)  # numpy sorts small integers in linear time
    for j, (rows, values) in enumerate(active_rows(codes, np.arange(codes.shape[1]))):
        order = np.argsort(-values)
        values, of_rows = values[order], labels[rows[order]]
        if of_rows.nnz == 0:
            continue
        # for each active row, the number of rows that are at least as active
        ends = np.flatnonzero(np.append(values[1:] != values[:-1], True)) + 1
        at_least = np.repeat(ends, np.diff(ends, prepend=0))
        # One entry per label of an active row, sorted by label and then by descending code. Just
        # above the best threshold lies a row with the label, so only such rows are candidates.
        label = of_rows.indices.astype(label_dtype)
        by_label = np.argsort(label, kind="stable")
        label = label[by_label]
        detected = np.repeat(at_least, np.diff(of_rows.indptr))[by_label]
        bounds = np.searchsorted(label, np.arange(n_labels + 1))
        true = np.arange(1, len(label) + 1) - bounds[label]
        f1 = f1_of(true, detected, n_labelled[label])
        f1[true / detected < min_precision] = 0

        present = np.flatnonzero(np.diff(bounds))
        greatest = np.maximum.reduceat(f1, bounds[present])
        for k in present[greatest > best_f1[present]]:
            i = bounds[k] + f1[bounds[k] : bounds[k + 1]].argmax()
            feature[k], best_f1[k] = j, f1[i]
            n_true[k], n_detected[k] = true[i], detected[i]
            threshold[k] = _threshold(values, detected[i])
    return _table(feature, threshold, n_true, n_detected, n_labelled, codes.shape[0])


def evaluate_feature_detectors(codes, token_labels, detectors):
    """Score detectors of labels on samples other than those that they were selected on.

    Parameters
    ----------
    codes : FeatureCodes, or matrix of shape (n_samples, n_components)
        Codes from the same dictionary.

    token_labels : {array-like, sparse matrix} of bool of shape (n_samples, n_labels)
        The labels of each token (or other sample), in the same columns.

    detectors : mapping
        The result of `select_feature_detectors`; "feature" and "threshold" are used.

    Returns
    -------
    detectors : :class:`~sklearn.utils.Bunch`
        As `select_feature_detectors` returns it, with the scores on these samples.

    Raises
    ------
    ValueError
        If `codes` or `token_labels` is invalid as in `select_feature_detectors`, or does not fit
        the detectors: too few columns of `codes`, or another number of labels.

    Examples
    --------
    >>> from skdict.inspection import evaluate_feature_detectors, select_feature_detectors
    >>> detectors = select_feature_detectors([[2.0], [1.0], [0.0]], [[True], [False], [False]])
    >>> held_out = evaluate_feature_detectors(
    ...     [[3.0], [1.7], [0.5], [0.0]], [[True], [False], [False], [True]], detectors
    ... )
    >>> held_out.precision, held_out.recall, held_out.base_rate
    (array([0.5]), array([0.5]), array([0.5]))
    """
    codes, labels = check_codes_and_labels(codes, token_labels)
    feature = np.asarray(detectors["feature"]).astype(np.int64)
    threshold = np.asarray(detectors["threshold"])
    if not len(feature) == len(threshold) == labels.shape[1]:
        raise ValueError(
            f"token_labels has {labels.shape[1]} columns, but there are detectors for "
            f"{len(feature)} labels. Pass the same labels, in the same order, as to "
            "select_feature_detectors."
        )
    n_detected, n_true = np.zeros((2, len(feature)), dtype=np.int64)
    has_feature = np.flatnonzero(feature != -1)
    columns = check_indices(
        feature[has_feature], codes.shape[1], name="detectors", of="columns of codes"
    )
    for k, (rows, values) in zip(has_feature, active_rows(codes, columns), strict=True):
        detected = rows[values > threshold[k]]
        n_detected[k], n_true[k] = len(detected), np.count_nonzero(labels[detected, k])
    n_labelled = np.count_nonzero(labels, axis=0)
    return _table(feature, threshold, n_true, n_detected, n_labelled, len(labels))


def _threshold(values, n_detected):
    """The middle between the last detected value and the next one; 0 if all are detected.

    `values` are in descending order.
    """
    if n_detected == len(values):
        return 0.0
    above, below = values[n_detected - 1], values[n_detected]
    middle = below + (above - below) / 2
    return middle if middle < above else below  # they may be adjacent floating-point numbers


def check_codes_and_labels(codes, token_labels):
    """Codes as a matrix of the rows that count, their labels as a boolean ndarray."""
    codes, counted, _ = whole_matrix(codes)
    labels = boolean_labels(token_labels, "token_labels")
    n_rows = codes.shape[0] if counted is None else len(counted)
    if len(labels) != n_rows:
        raise ValueError(
            f"codes has {n_rows} rows, but token_labels has {len(labels)}. Give both with one "
            "row per sample."
        )
    return codes, of_counted(labels, counted)


def _table(feature, threshold, n_true, n_detected, n_labelled, n_samples):
    with np.errstate(invalid="ignore"):  # 0 / 0 is nan: undefined
        precision, recall = n_true / n_detected, n_true / n_labelled
        f1 = np.where(n_labelled == 0, np.nan, f1_of(n_true, n_detected, n_labelled))
        base_f1 = np.where(n_labelled == 0, np.nan, f1_of(n_labelled, n_samples, n_labelled))
    return Bunch(
        feature=feature,
        threshold=threshold,
        precision=precision,
        recall=recall,
        f1=f1,
        base_rate=n_labelled / n_samples,
        base_f1=base_f1,
    )
