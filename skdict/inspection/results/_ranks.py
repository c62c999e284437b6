"""Rank statistics of sparse columns: zeros are one tie, whose rank is known without them."""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaincc
from scipy.stats import norm, t

# Stored entries of a block of columns: some 200 MB of ranks, sums and orders.
BLOCK_SIZE = 2**20


def column_blocks(columns):
    """Slices of the columns of a csc_array with about BLOCK_SIZE stored entries each."""
    start = 0
    while start < columns.shape[1]:
        limit = columns.indptr[start] + BLOCK_SIZE
        stop = max(start + 1, int(np.searchsorted(columns.indptr, limit, side="right")) - 1)
        yield slice(start, stop)
        start = stop


@dataclass
class Strata:
    """A partition of the rows.

    Attributes
    ----------
    of_row : ndarray of int64 of shape (n_rows,)
    sizes : ndarray of int64 of shape (n_strata,)
    """

    of_row: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, groups, n_rows):
        """Those of groups; a single one if `groups` is None."""
        of_row = np.zeros(n_rows, np.int64) if groups is None else groups
        return cls(of_row, np.bincount(of_row))

    def sums(self, values):
        """Sum of the values of the rows of each stratum."""
        return np.bincount(self.of_row, values, minlength=len(self.sizes))

    def centred(self, values):
        """Values minus their mean in the row's stratum; they sum to 0 in each."""
        return values - (self.sums(values) / self.sizes)[self.of_row]

    def ranks(self, values):
        """Mid-ranks within strata, over the size plus 1, minus 1/2: from -1/2 to 1/2."""
        order = np.lexsort((values, self.of_row))
        middle = middle_of_runs(self.of_row[order], values[order])
        first = np.append(0, np.cumsum(self.sizes)[:-1])
        ranks = np.empty(len(values))
        ranks[order] = middle - first[self.of_row[order]] + 1
        return ranks / (self.sizes[self.of_row] + 1) - 0.5


def run_bounds(*keys):
    """First and last place of the run of equal keys that each entry is in; keys are sorted."""
    n = len(keys[0])
    changes = np.zeros(n - 1 if n else 0, bool)
    for key in keys:
        changes |= key[1:] != key[:-1]
    starts = np.flatnonzero(np.append(True, changes)) if n else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, n))
    return np.repeat(starts, lengths), np.repeat(starts + lengths - 1, lengths)


def middle_of_runs(*keys):
    first, last = run_bounds(*keys)
    return (first + last) / 2


class Ranked:
    """The stored entries of sparse columns, ranked within strata.

    A *segment* is a column in a stratum where it has stored entries. Elsewhere it is constant, and
    adds nothing to any statistic here.

    Parameters
    ----------
    columns : csc_array of shape (n_rows, n_columns), without stored zeros
    strata : Strata

    Attributes
    ----------
    row, segment : ndarray of int64 of shape (n_entries,)
        By ascending column, stratum and value.
    value : ndarray of shape (n_entries,)
    rank : ndarray of float64 of shape (n_entries,)
        As `Strata.ranks`, over all rows of the stratum, zeros included.
    column, stratum, n_zeros : ndarray of int64 of shape (n_segments,)
    zero_rank : ndarray of float64 of shape (n_segments,)
        The rank of its zeros.
    squares, cubes : ndarray of float64 of shape (n_segments,)
        Sums of squares and cubes of the ranks of all rows of the stratum.
    """

    def __init__(self, columns, strata):
        self.strata, self.n_columns = strata, columns.shape[1]
        column = np.repeat(np.arange(self.n_columns), np.diff(columns.indptr))
        key = column * len(strata.sizes) + strata.of_row[columns.indices]
        order = np.lexsort((columns.data, key))
        key, self.value = key[order], columns.data[order]
        self.row = columns.indices[order]
        keys, starts, counts = np.unique(key, return_index=True, return_counts=True)
        self.column, self.stratum = np.divmod(keys, len(strata.sizes))
        self.segment = np.repeat(np.arange(len(keys)), counts)
        self.start, size = starts, strata.sizes[self.stratum]
        self.n_zeros = size - counts
        self.n_negative = self.sums(self.value < 0)
        self.first, self.last = run_bounds(self.segment, self.value)
        place = (self.first + self.last) / 2 - starts[self.segment] + 1
        place += np.where(self.value > 0, self.n_zeros[self.segment], 0)
        self.rank = place / (size + 1)[self.segment] - 0.5
        self.zero_rank = (self.n_negative + (self.n_zeros + 1) / 2) / (size + 1) - 0.5
        self.squares, self.cubes = (
            self.sums(self.rank**power) + self.n_zeros * self.zero_rank**power for power in (2, 3)
        )

    def sums(self, values):
        """Sum of the values of the entries of each segment."""
        return np.bincount(self.segment, values, minlength=len(self.column))

    def by_column(self, values):
        """Sum of the values of the segments of each column."""
        return np.bincount(self.column, values, minlength=self.n_columns)

    def least_jump(self):
        """Of each column: how far, in ranks, its zeros are from the next value in a stratum."""
        jump = np.full(self.n_columns, np.inf)
        np.minimum.at(jump, self.column, self.n_zeros / 2)
        jump = np.where(np.isfinite(jump), jump, 0)
        return (jump + 0.5) / (self.strata.sizes.max() + 1)

    def products(self, scores):
        """Sum of rank times score over the rows of each segment's stratum.

        Parameters
        ----------
        scores : ndarray of shape (n_rows,)
            They sum to 0 in each stratum, so those of the zeros to minus those of the entries.
        """
        return self.sums((self.rank - self.zero_rank[self.segment]) * scores[self.row])


def permutation_test(ranked, products, scores, *, step=0.0):
    """Standardised sums of rank times score, and p, if rows of a stratum are exchangeable.

    Mean, variance and third moment of a sum under all permutations within the strata are known in
    closed form; its tails are those of the gamma distribution with these moments (Pearson's type
    III), or the normal one's where these are heavier.

    Parameters
    ----------
    ranked : Ranked
    products : ndarray of shape (n_segments,)
    scores : ndarray of shape (n_rows,)
    step : float
        The least difference of two scores, for a correction for continuity: a sum changes at least
        by this times the difference between the rank of the zeros and the next one.

    Returns
    -------
    z, p : ndarray of shape (n_columns,)
        z is without the correction.
        nan for columns that are constant in each stratum.
    """
    strata = ranked.strata
    n = strata.sizes.astype(np.float64)
    second, third = strata.sums(scores**2), strata.sums(scores**3)
    with np.errstate(invalid="ignore", divide="ignore"):
        second = np.where(n > 1, second / (n - 1), 0)
        third = np.where(n > 2, third * n / ((n - 1) * (n - 2)), 0)
        variance = ranked.by_column(ranked.squares * second[ranked.stratum])
        spread = np.sqrt(np.where(variance > 0, variance, np.nan))
        z = ranked.by_column(products) / spread
        skewness = ranked.by_column(ranked.cubes * third[ranked.stratum]) / spread**3
        half_step = step * ranked.least_jump() / 2 / spread
    return z, two_sided(np.sign(z) * np.maximum(np.abs(z) - half_step, 0), skewness)


def two_sided(z, skewness):
    """Twice the tail beyond z: the greater one of the gamma and of the normal distribution."""
    skewness = np.sign(z) * skewness  # of the tail that z is in
    tail = norm.sf(np.abs(z))
    heavy = np.flatnonzero(skewness > 1e-4)
    shape = 4 / skewness[heavy] ** 2
    gamma = gammaincc(shape, shape + np.abs(z[heavy]) * np.sqrt(shape))
    tail[heavy] = np.maximum(tail[heavy], gamma)
    return np.minimum(2 * tail, 1)


def cluster_test(ranked, products):
    """As `permutation_test`, where only the strata are independent of each other.

    The sum is compared with the square root of the sum of its squares over strata, by Student's t
    distribution with as many degrees of freedom as strata have a part in it, minus 1.
    """
    total = ranked.by_column(products)
    square = ranked.by_column(products**2)
    n_strata = ranked.by_column(products != 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = total / np.sqrt(np.where(square > 0, square, np.nan))
    p = np.where(n_strata > 1, 2 * t.sf(np.abs(z), np.maximum(n_strata - 1, 1)), 1.0)
    return z, p


def placement_interval(ranked, labelled, n_labelled):
    """AUC of each column with its standard error by DeLong's method, from a single stratum.

    A sample with the label and one without are added below and above all others (for a rate that
    is the interval of Agresti and Caffo), so that the error is never 0.

    Parameters
    ----------
    ranked : Ranked
        Of one stratum.
    labelled : ndarray of bool of shape (n_entries,)
        Whether the row of each entry has the label, which may depend on the column.
    n_labelled : ndarray of int64 of shape (n_columns,)

    Returns
    -------
    auc, error : ndarray of float64 of shape (n_columns,)
    """
    n_rows = ranked.strata.sizes[0]
    sides = []
    for own, n_own in ((labelled, n_labelled), (~labelled, n_rows - n_labelled)):
        # where samples of one side stand among those of the other: these below, and half the ties
        other, n_other = ~own, (n_rows - n_own)[ranked.column]
        before = np.append(0, np.cumsum(other))
        below = before[ranked.first] - before[ranked.start][ranked.segment]
        ties = before[ranked.last + 1] - before[ranked.first]
        zeros = n_other - ranked.sums(other)  # samples of the other side that are 0
        below = below + np.where(ranked.value > 0, zeros[ranked.segment], 0)
        place = (below + ties / 2 + 1) / (n_other + 2)[ranked.segment]
        of_zeros = (ranked.sums(other & (ranked.value < 0)) + zeros / 2 + 1) / (n_other + 2)
        n_zeros = n_own[ranked.column] - ranked.sums(own)
        total, square = (
            ranked.by_column(ranked.sums(own * place**power) + n_zeros * of_zeros**power)
            for power in (1, 2)
        )
        n_other = n_rows - n_own  # by column; one without entries is constant, its places are 1/2
        empty = ranked.by_column(np.ones(len(ranked.column))) == 0
        total, square = np.where(empty, n_own / 2, total), np.where(empty, n_own / 4, square)
        ends = np.array([0.5 / (n_other + 2), (n_other + 1.5) / (n_other + 2)])
        n = n_own + 2
        mean = (total + ends.sum(axis=0)) / n
        variance = (square + (ends**2).sum(axis=0) - n * mean**2) / (n - 1)
        sides.append((mean, variance / n))
    (auc, of_labelled), (_, of_others) = sides
    return auc, np.sqrt(np.maximum(of_labelled + of_others, 0))
