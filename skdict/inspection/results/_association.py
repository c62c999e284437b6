"""Which features go together with what is known of the samples: tests and held-out effects."""

from numbers import Real

import numpy as np
from scipy.sparse import csc_array, csr_array, issparse
from scipy.stats import false_discovery_control, norm, t
from sklearn.utils import Bunch

from ...metrics._rows import check_finite, to_numpy
from ...utils._sklearn_compat import Interval, StrOptions, validate_params
from ..codes._active import check_indices
from ..codes._whole import whole_matrix
from ._parts import random_parts
from ._ranks import (
    Ranked,
    Strata,
    cluster_test,
    column_blocks,
    permutation_test,
    placement_interval,
)
from ._targets import as_groups, as_target


@validate_params(
    {
        "target": [StrOptions({"auto", "classes", "numeric"})],
        "test_size": [Interval(Real, 0, 1, closed="neither")],
        "confidence": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def feature_association(
    codes,
    y,
    features=None,
    *,
    groups=None,
    target="auto",
    test_size=0.5,
    confidence=0.95,
    random_state=0,
):
    r"""Test which features go together with labels, classes or numbers of the samples.

    Every feature is tested on one part of the samples, and its effect is measured, with a
    confidence interval, on the other part: the effects of the features that the tests pick out are
    not exaggerated by the picking. All statistics are of ranks, so that neither the unit nor the
    skewness of codes matters.

    With ranks :math:`r_i` of the codes of a feature (ties share their mean rank; the zeros are one
    large tie) and :math:`n_1` of :math:`n` samples with a label, the effect is the rank-biserial
    correlation

    .. math:: \delta = 2 \, \mathrm{AUC} - 1, \qquad
        \mathrm{AUC} = \frac{\sum_{i: y_i = 1} r_i - n_1 (n_1 + 1) / 2}{n_1 (n - n_1)}
        = \Pr(z > z') + \tfrac{1}{2} \Pr(z = z')

    for the code z of a sample with the label and z' of one without: 1 if every sample with the
    label is above every other one, 0 if it makes no difference, -1 if it is below. Classes are
    tested one against the rest, and each feature is reported for the class of its smallest p. For
    numbers the effect is Spearman's correlation of codes and y.

    Parameters
    ----------
    codes : FeatureCodes, or matrix of shape (n_samples, n_components)
        Codes of the activations; or activations, to test neurons. The entries of a matrix are
        ranked as they are, negative ones too. Zeros need neither time nor memory if it is sparse.

    y : array-like of shape (n_samples,)
        What is known of each sample: true or false, classes (names or whole numbers), or numbers.

    features : int or array-like of int, default=None
        Which columns of the codes to test; all of them by default.

    groups : array-like of shape (n_samples,), default=None
        The document, author or picture that each sample comes from, as names or whole numbers.
        Samples of a group are not taken to be independent. By default the documents of
        FeatureCodes with tokens; otherwise every sample is independent.

    target : {"auto", "classes", "numeric"}, default="auto"
        What y is. "auto": numbers if any of them is not whole, classes otherwise.

    test_size : float, default=0.5
        Fraction of the samples (of the groups, if given) to measure effects on. They are drawn at
        random.

    confidence : float, default=0.95
        Probability with which an interval contains the effect.

    random_state : int, RandomState instance or None, default=0
        Determines the two parts.

    Returns
    -------
    association : :class:`~sklearn.utils.Bunch`
        ``pandas.DataFrame(association)`` is a table with a row per feature.

        feature : ndarray of int64
            The features.
        prevalence : ndarray of float64
            Fraction of all samples whose code is not zero.
        label : ndarray
            The class that the row is about: the greater one of two, the one with the smallest p of
            several. Not there for numbers.
        prevalence_with, prevalence_without : ndarray of float64
            Fraction of the samples of this class, and of the others, whose code is not zero. Not
            there for numbers.
        effect, z, p_value : ndarray of float64
            Effect, standardised statistic and two-sided p on the part that is tested. With several
            classes p is multiplied by their number. z and p are nan if the code is constant.
        q_value : ndarray of float64
            p after the correction of Benjamini and Hochberg over all features: among the features
            with a q of at most 0.05, at most 5 % are expected to be false.
        test_effect, test_low, test_high : ndarray of float64
            Effect on the other part, and its confidence interval.
        test_auc : ndarray of float64
            ``(1 + test_effect) / 2``. Not there for numbers.
        test_p_value : ndarray of float64
            Two-sided p on the other part, of the same class.
        kruskal : ndarray of float64
            With several classes that do not vary within groups: the statistic H of Kruskal and
            Wallis, of all classes at once, on the part that is tested.
        target : str
            "binary", "multiclass" or "numeric".
        unit : str
            "samples"; "groups" if each group was made one sample; "samples within groups" if
            samples were compared within their group.

    Raises
    ------
    TypeError
        If `y` has neither numbers nor names.
    ValueError
        If `codes` is not a matrix, `y` or `groups` does not have an entry for each row, there is
        NaN or infinity, a part has only one class, or there are more than 100 classes.

    See Also
    --------
    k_sparse_probe : How well k features together predict labels, beside what has to be beaten.
    feature_report : The best feature of each of many labels, as a detector.

    Notes
    -----
    **The test.** The statistic is the sum :math:`T = \sum_i a_i b_i` of centred ranks of codes and
    centred labels (or ranks of y). If y is shuffled, its moments are

    .. math:: \mathrm{E} \, T = 0, \quad
        \mathrm{E} \, T^2 = \frac{\sum a_i^2 \sum b_i^2}{n - 1}, \quad
        \mathrm{E} \, T^3 = \frac{n \sum a_i^3 \sum b_i^3}{(n - 1)(n - 2)}

    :math:`z = T / \sqrt{\mathrm{E} T^2}` is that of the Mann-Whitney test with correction for ties
    (without one for continuity), and for numbers :math:`\rho \sqrt{n - 1}`. The normal
    distribution would be far too optimistic where a rare feature meets a rare label: 15
    coincidences where three are expected have a normal p of 4e-12, and in truth one of 1e-6. p is
    therefore twice the tail of the gamma distribution with the same three moments (Pearson's type
    III), or of the normal one where that is greater, after a correction for continuity by half
    the step of the sum that one active sample makes. As Fisher's exact test, it is conservative
    for features that are active on few samples.

    **Groups.** Tokens of a document are not independent, and a test that takes them to be so finds
    in any two topics a difference of all features.

    - If y is the same on all samples of each group, each group is made one sample: its code is the
      mean over its samples. (The maximum would grow with the length of a document. Pool the codes
      yourself, and leave out `groups`, for another way.)
    - Otherwise samples are compared within their group only, as in van Elteren's test: ranks and
      labels are centred in each group, and the sums T of the groups, with weights
      :math:`1 / (n_g + 1)`, are added. Groups with a single label add nothing. Of two p-values the
      greater one is reported: that of shuffling y within groups, which is valid if the samples of
      a group are exchangeable; and that of Student's t of the sums of the groups, which is valid
      whatever the dependence inside (runs of equal labels, for instance), but needs tens of groups
      on which a feature is active. Differences between groups count for nothing: a feature that
      is active in whole documents, whatever their tokens, is not associated.

    **The intervals.** For classes, DeLong's with a sample of either side added at both ends
    (Agresti and Caffo), for numbers that of Bonett and Wright; within groups, Student's with the
    variance over groups or that of shuffling times ``1 - effect**2``, whichever is greater.

    References
    ----------
    .. [1] Benjamini, Y. and Hochberg, Y. "Controlling the False Discovery Rate", 1995.
    .. [2] van Elteren, P. "On the combination of independent two-sample tests of Wilcoxon", 1960.
    .. [3] DeLong, E. et al. "Comparing the areas under two or more correlated receiver operating
       characteristic curves", 1988.
    .. [4] Mielke, P. and Berry, K. "Permutation Methods", 2007, on Pearson's type III.
    .. [5] Bonett, D. and Wright, T. "Sample size requirements for estimating Pearson, Kendall and
       Spearman correlations", 2000.

    Examples
    --------
    Feature 3 is active more often where the label holds:

    >>> import numpy as np
    >>> from skdict.inspection import feature_association
    >>> rng = np.random.default_rng(0)
    >>> y = rng.random(400) < 0.3
    >>> codes = rng.random((400, 10)) * (rng.random((400, 10)) < 0.1)
    >>> codes[:, 3] *= 1 + y
    >>> codes[:, 3] += y * (rng.random(400) < 0.5)
    >>> found = feature_association(codes, y)
    >>> np.flatnonzero(found.q_value < 0.05)
    array([3])
    >>> found.test_auc[3].round(2), found.test_low[3].round(2), found.test_high[3].round(2)
    (np.float64(0.74), np.float64(0.31), np.float64(0.62))
    """
    codes, counted, documents = whole_matrix(codes)
    n_rows = codes.shape[0] if counted is None else len(counted)
    columns, features = _columns(codes, features)
    y, classes = as_target(y, n_rows, target, counted)
    groups = as_groups(documents if groups is None else groups, n_rows, counted)
    unit = "samples"
    if groups is not None:
        columns, y, groups = _pooled(columns, y, groups)
        unit = "groups" if groups is None else "samples within groups"
    parts = random_parts(len(y), groups, test_size, random_state)
    tested, held_out = (
        _Part(columns[rows], y[rows], None if groups is None else groups[rows], classes)
        for rows in parts
    )
    found = tested.tests()
    label = found.pop("label")
    interval = held_out.intervals(label, confidence)
    table = Bunch(feature=features, prevalence=np.diff(columns.indptr) / len(y))
    if classes is not None:
        table.label = classes[label]
        table.prevalence_with, table.prevalence_without = _prevalences(columns, y, label)
    table |= found
    table["q_value"] = _false_discovery_rates(found["p_value"])
    table |= {f"test_{name}": values for name, values in interval.items()}
    table = Bunch(**table)
    if classes is not None:
        table.test_auc = (1 + table.test_effect) / 2
    kind = "numeric" if classes is None else "binary" if len(classes) == 2 else "multiclass"
    return Bunch(**table, target=kind, unit=unit)


def _columns(codes, features):
    """The columns asked for as a csc_array of float64 without stored zeros, and their indices."""
    n_components = codes.shape[1]
    if features is None:
        features = np.arange(n_components)
    else:
        features = [features] if isinstance(features, int) else features
        of = "columns of codes"
        features = check_indices(features, n_components, name="features", of=of)
        codes = codes[:, features]
    columns = csc_array(codes if issparse(codes) else csr_array(_dense(codes)), dtype=np.float64)
    columns = columns.copy() if columns is codes else columns
    check_finite(columns.data, "codes")
    columns.sum_duplicates()
    columns.eliminate_zeros()
    return columns, features


def _dense(codes):
    return codes if isinstance(codes, np.ndarray) else to_numpy(codes)


def _pooled(columns, y, groups):
    """Means of groups that have one y each, as samples of their own; or all as it is."""
    n_groups = groups.max() + 1
    least, greatest = np.full(n_groups, np.inf), np.full(n_groups, -np.inf)
    np.minimum.at(least, groups, y)
    np.maximum.at(greatest, groups, y)
    if (least < greatest).any():
        return columns, y, groups
    n = len(groups)
    sums = csr_array((np.ones(n), (groups, np.arange(n))), shape=(n_groups, n))
    columns = (sums @ columns).tocsc()
    columns.data /= np.bincount(groups)[columns.indices]
    columns.eliminate_zeros()  # entries may cancel
    return columns, least.astype(y.dtype), None


def _prevalences(columns, y, label):
    """Fraction of the samples with a feature's class, and of the others, where it is not zero."""
    feature = np.repeat(np.arange(columns.shape[1]), np.diff(columns.indptr))
    has = y[columns.indices] == label[feature]
    n_with = np.bincount(y, minlength=label.max() + 1)[label]
    return (
        np.bincount(feature, has, minlength=columns.shape[1]) / n_with,
        np.bincount(feature, ~has, minlength=columns.shape[1]) / (len(y) - n_with),
    )


def _false_discovery_rates(p):
    """Of Benjamini and Hochberg, over the p that are numbers."""
    rates, tested = np.full(len(p), np.nan), ~np.isnan(p)
    if tested.any():
        rates[tested] = false_discovery_control(p[tested])
    return rates


class _Part:
    """Some of the samples, and the statistics of all features on them.

    Parameters
    ----------
    columns : csc_array of shape (n_rows, n_features)
    y : ndarray of shape (n_rows,)
        Numbers, or indices of classes.
    groups : ndarray of int64 of shape (n_rows,), or None
    classes : ndarray or None
    """

    def __init__(self, columns, y, groups, classes):
        self.columns, self.y, self.classes = columns, y, classes
        self.clustered = groups is not None
        if self.clustered:
            groups = np.unique(groups, return_inverse=True)[1]
        self.strata = strata = Strata.of(groups, len(y))
        if classes is None:
            self.labels, self.scores = [None], [strata.ranks(y)]
        else:  # of two classes the second tells all
            self.labels = [1] if len(classes) == 2 else list(range(len(classes)))
            self.scores = [strata.centred((y == k).astype(np.float64)) for k in self.labels]
        if not all(np.any(score) for score in self.scores):
            where = " within its groups" if self.clustered else ""
            raise ValueError(
                f"y does not vary{where}, or has not all of its classes, among the {len(y)} rows "
                "of one of the two parts. Give more rows, or leave out rare classes."
            )

    def tests(self):
        """Columns effect, z, p_value and label, for each feature the label of its smallest p."""
        found = {name: [] for name in ("effect", "z", "p_value", "label", "kruskal")}
        for block in column_blocks(self.columns):
            ranked = Ranked(self.columns[:, block], self.strata)
            tests = [self._test(ranked, score) for score in self.scores]
            effect, z, p, total = (np.array(values) for values in zip(*tests, strict=True))
            with np.errstate(invalid="ignore"):  # of equal p, 0 perhaps, the greatest z
                least = np.where(p == np.fmin.reduce(p), np.abs(z), -1)
            best = np.nan_to_num(least, nan=-1).argmax(axis=0)[None]
            for name, values in (("effect", effect), ("z", z), ("p_value", p)):
                found[name].append(np.take_along_axis(values, best, axis=0)[0])
            found["label"].append(np.array([label or 0 for label in self.labels])[best[0]])
            if len(self.labels) > 1 and not self.clustered:
                found["kruskal"].append(self._kruskal(ranked, total))
        found = {name: np.concatenate(parts) for name, parts in found.items() if parts}
        found["p_value"] = np.minimum(found["p_value"] * len(self.scores), 1)
        return found

    def _test(self, ranked, scores):
        """Effect, z, p and the sum of rank times score of each column."""
        products = ranked.products(scores)
        total = ranked.by_column(products)
        step = 0.0 if self.classes is None else 1.0
        z, p = permutation_test(ranked, products, scores, step=step)
        if self.clustered:
            z_clusters, p_clusters = cluster_test(ranked, products)
            with np.errstate(invalid="ignore"):
                greater = p_clusters > p
            z, p = np.where(greater, z_clusters, z), np.where(greater, p_clusters, p)
        return self._effect(ranked, total, scores)[0], z, p, total

    def _effect(self, ranked, total, scores):
        """The effect, and what the sum is divided by for it."""
        if self.classes is None:
            squares = ranked.by_column(ranked.squares) * np.sum(scores**2)
            whole = np.sqrt(squares)
        else:
            whole = np.full(ranked.n_columns, self._greatest(scores).sum())
        with np.errstate(invalid="ignore", divide="ignore"):
            return total / np.where(whole > 0, whole, np.nan), whole

    def _greatest(self, scores):
        """The greatest sum of rank times score that each stratum can have, of a class."""
        n = self.strata.sizes
        n_labelled = self.strata.sums(scores > 0)  # where all have it, scores are 0
        return n_labelled * (n - n_labelled) / (2 * (n + 1))

    def _kruskal(self, ranked, total):
        n = len(self.y)
        between = (total**2 / np.bincount(self.y)[self.labels][:, None]).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (n - 1) * between / ranked.by_column(ranked.squares)

    def intervals(self, label, confidence):
        """Columns effect, low, high and p_value, each feature for the label given."""
        found = {name: [] for name in ("effect", "low", "high", "p_value")}
        for block in column_blocks(self.columns):
            ranked = Ranked(self.columns[:, block], self.strata)
            columns = {name: np.full(ranked.n_columns, np.nan) for name in found}
            for which, scores in zip(self.labels, self.scores, strict=True):
                here = np.full(ranked.n_columns, True) if which is None else label[block] == which
                if here.any():
                    for name, values in self._interval(ranked, which, scores, confidence).items():
                        columns[name][here] = values[here]
            for name, values in columns.items():
                found[name].append(values)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _interval(self, ranked, which, scores, confidence):
        effect, _, p, total = self._test(ranked, scores)
        if self.clustered:
            low, high = self._of_groups(ranked, scores, total, confidence)
        elif which is None:
            low, high = _of_spearman(effect, len(scores), confidence)
        else:
            n_labelled = np.full(ranked.n_columns, np.count_nonzero(self.y == which))
            has = self.y[ranked.row] == which
            auc, error = placement_interval(ranked, has, n_labelled)
            error *= norm.isf((1 - confidence) / 2)
            low, high = 2 * (auc - error) - 1, 2 * (auc + error) - 1
        return {
            "effect": effect,
            "low": np.maximum(low, -1),
            "high": np.minimum(high, 1),
            "p_value": p,
        }

    def _of_groups(self, ranked, scores, total, confidence):
        """The interval from the variance over groups or of shuffling, whichever is greater.

        That of shuffling is there for features that are active in few groups, whose variance over
        groups can be 0. It is too great for a large effect, hence the factor.
        """
        effect, whole = self._effect(ranked, total, scores)
        products = ranked.products(scores)
        second = self.strata.sums(scores**2)
        if self.classes is None:  # the sum is divided by the root of two sums over groups
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = np.sqrt(second.sum() / ranked.by_column(ranked.squares))
            of_segment = ranked.squares * ratio[ranked.column] / 2
            of_segment = of_segment + second[ranked.stratum] / ratio[ranked.column] / 2
            elsewhere = (second**2).sum() - ranked.by_column(second[ranked.stratum] ** 2)
            elsewhere = elsewhere / (4 * ratio**2)
        else:
            parts = self._greatest(scores)
            of_segment = parts[ranked.stratum]
            elsewhere = (parts**2).sum() - ranked.by_column(of_segment**2)
        residual = products - effect[ranked.column] * of_segment
        variance = ranked.by_column(residual**2) + effect**2 * np.maximum(elsewhere, 0)
        shuffled = second / np.maximum(self.strata.sizes - 1, 1)
        shuffled = ranked.by_column(ranked.squares * shuffled[ranked.stratum])
        n_groups = np.count_nonzero(second)
        shuffled *= np.maximum(1 - effect**2, 1 / max(n_groups, 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.sqrt(np.maximum(variance, shuffled)) / whole
        error = error * t.isf((1 - confidence) / 2, max(n_groups - 1, 1))
        return effect - error, effect + error


def _of_spearman(effect, n_rows, confidence):
    """Bonett and Wright's interval of a Spearman correlation."""
    error = norm.isf((1 - confidence) / 2) * np.sqrt((1 + effect**2 / 2) / max(n_rows - 3, 1))
    middle = np.arctanh(np.clip(effect, -1 + 1e-12, 1 - 1e-12))
    return np.tanh(middle - error), np.tanh(middle + error)
