"""Mean and scale of activations in one pass, robust to a few massive rows.

Blocks are merged by the formula of Chan, Golub and LeVeque ("Algorithms for computing the sample
variance", The American Statistician 1983) in float64.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..tensors import ROUNDINGS, away_from
from .shuffle import spread_rows

# A row is massive if its norm exceeds this many times the 90th percentile of norms (to a percent),
# and if such rows have more than half of the sum of squares. Those of the first tokens of language
# models do.
MASSIVE = 16
# Number of rows that the centre is estimated from.
N_CENTRE_ROWS = 1001
# Warn if the rounding of the data is more than this fraction of their RMS norm.
MAX_ROUNDING = 0.05
# The percentile is taken from a histogram of squared norms, not from an array with an entry for
# each row. A bin is an exponent with the first so many bits of the mantissa.
MANTISSA_BITS = 6


@dataclass(frozen=True)
class Statistics:
    """Where samples are, and how far they are spread.

    Parameters
    ----------
    n_samples : int
    mean : tensor of shape (n_features,), float64
    rms : float
        Root of the mean squared norm about the mean, sqrt(E‖x - E x‖²).
    warnings : tuple of str
        What to warn the user of.
    """

    n_samples: int
    mean: torch.Tensor
    rms: float
    warnings: tuple = ()


@dataclass(frozen=True)
class Spread:
    """Moments of rows, as they are written down.

    Parameters
    ----------
    n_samples : int
    mean : tensor of shape (n_features,), float64
    squares : float
        Σ ‖x - mean‖².
    largest : float
        About the largest norm of a row about the mean.
    """

    n_samples: int
    mean: torch.Tensor
    squares: float
    largest: float

    @property
    def rms(self):
        return (self.squares / self.n_samples) ** 0.5

    def merged_with(self, other):
        """The moments of the rows of both."""
        n_samples = self.n_samples + other.n_samples
        if n_samples == 0:
            return self
        apart = other.mean - self.mean
        between = float(apart.square().sum()) * self.n_samples * other.n_samples / n_samples
        return Spread(
            n_samples,
            self.mean + apart * (other.n_samples / n_samples),
            self.squares + other.squares + between,
            max(self.largest, other.largest),
        )


class Summary(NamedTuple):
    """What is known of rows before they are read again.

    Parameters
    ----------
    of_all : Spread
        Of the finite rows.
    of_others : Spread
        Of those of them that are not massive.
    n_not_finite : int
        Rows with NaN or infinity.
    """

    of_all: Spread
    of_others: Spread
    n_not_finite: int

    def merged_with(self, other):
        """What is known of the rows of both."""
        return Summary(
            self.of_all.merged_with(other.of_all),
            self.of_others.merged_with(other.of_others),
            self.n_not_finite + other.n_not_finite,
        )


def statistics_of(source):
    """Statistics of all rows of a source, and of those that are not massive.

    Reads the source once, and again only if there are massive rows, or if the rows differ by
    little more than rounding.

    Parameters
    ----------
    source : Source

    Returns
    -------
    of_all, of_others : Statistics
        The same where no rows are massive.

    Raises
    ------
    ValueError
        If a row is not finite. If the rows do not differ: a constant has no dictionary. If their
        scale is one at which their dtype cannot be computed with.
    """
    if source.is_store:
        return _known(source)
    blocks = _reader(source)
    centre = _centre(source, blocks)
    moments = Moments(centre)
    for x in blocks():
        moments.update(x)
    if not (math.isfinite(moments.squares) and torch.isfinite(moments.shift).all()):
        source.check_finite()  # raises, unless only the squares overflow
    source.is_finite = True
    of_all = _checked(moments, source, blocks)
    threshold = moments.massive_from()
    if threshold is None:
        return of_all, of_all
    others, differ = Moments(centre), False
    for x in _not_massive(blocks, centre, threshold):
        others.update(x)
        differ = differ or bool(away_from(x, centre.to(x.dtype)).any())
    if not differ:
        return of_all, of_all
    of_others = _checked(others, source, lambda: _not_massive(blocks, centre, threshold))
    return of_all, _with_warning(of_others, of_all, moments.largest, source)


def _known(source):
    """The statistics of a store, which has the moments of its rows written down."""
    known = source.X.moments()
    blocks = _blocks_of(source)
    if known.n_not_finite:
        source.check_finite()  # names the first
    source.is_finite = True
    of_all = _checked(known.of_all, source, blocks)
    if known.of_others.n_samples == known.of_all.n_samples:
        return of_all, of_all
    # the rows differ beyond rounding, if all do: massive ones are too few to decide that
    of_others = _checked(known.of_others, source, blocks)
    return of_all, _with_warning(of_others, of_all, known.of_all.largest, source)


def _with_warning(of_others, of_all, largest, source):
    """Statistics of the rows that are not massive, with a warning of those that are."""
    warning = (
        f"{of_all.n_samples - of_others.n_samples} of the {len(source)} samples of {source.name} "
        f"are massive, with a norm of up to {largest:.3g} about the mean, where that of "
        f"the others is {of_others.rms:.3g}. They do not count for mean and scale, and so for "
        "alpha='auto', but are learned from. If they are not of interest, as those of first "
        "tokens or padding, leave them out."
    )
    warnings = (*of_all.warnings, warning, *of_others.warnings)
    return Statistics(of_others.n_samples, of_others.mean, of_others.rms, warnings)


class Moments:
    """Number, mean and centred squares of rows, updated block by block.

    Parameters
    ----------
    centre : tensor of shape (n_features,), float64
        A point near most rows. Sums are of differences from it, which are precise far from the
        origin too, and norms about it show which rows are massive.
    """

    def __init__(self, centre):
        self.centre = centre
        self.n_samples = 0
        self.shift = torch.zeros_like(centre)  # mean - centre
        self.squares = 0.0  # sum of ‖x - mean‖²
        self.largest = 0.0  # ‖x - centre‖
        self._offset = centre.new_empty(0, len(centre))
        self._norms = NormHistogram()

    @property
    def mean(self):
        return self.centre + self.shift

    @property
    def rms(self):
        return (self.squares / self.n_samples) ** 0.5

    def update(self, x):
        """Add rows (B, n_features); waits for the device once or twice."""
        if len(x) == 0:
            return
        if len(x) > len(self._offset):  # kept: new memory of this size costs more than the sums
            self._offset = self.centre.new_empty(x.shape)
        offset = torch.sub(x, self.centre, out=self._offset[: len(x)])  # (B, n_features), float64
        norms = torch.linalg.vector_norm(offset, dim=1).cpu()
        self._norms.update(norms.square())
        self.largest = max(self.largest, float(norms.max()))
        mean = offset.mean(dim=0)
        offset -= mean
        squares = torch.linalg.vector_norm(offset).square()
        n_samples = self.n_samples + len(x)
        apart = mean - self.shift
        between = apart.square().sum() * (self.n_samples * len(x) / n_samples)
        self.squares += float(squares + between)
        self.shift = self.shift + apart * (len(x) / n_samples)
        self.n_samples = n_samples

    def massive_from(self):
        """Least squared norm about the centre of a massive row; None if no row is massive."""
        return self._norms.massive_from()


class NormHistogram:
    """Squared norms of rows, counted to a percent: which of them are massive."""

    def __init__(self):
        self._first = 0  # bin that the arrays begin with: most rows are in few of all 131,072
        self._counts, self._sums = np.zeros(0, np.int64), np.zeros(0)

    def update(self, squares):
        """Add squared norms: (B,), float64, on the CPU."""
        if len(squares) == 0:
            return
        squares = squares.numpy()
        bins = squares.view(np.int64) >> (52 - MANTISSA_BITS)
        bins &= (1 << (11 + MANTISSA_BITS)) - 1
        first = int(bins.min())
        bins -= first
        counts = np.bincount(bins)
        self._reach(first, first + len(counts))
        there = slice(first - self._first, first - self._first + len(counts))
        self._counts[there] += counts
        self._sums[there] += np.bincount(bins, weights=squares)

    def _reach(self, first, stop):
        """Have a place for the bins from one to another."""
        if len(self._counts) == 0:
            self._first = first
        before = max(self._first - first, 0)
        after = max(stop - self._first - len(self._counts), 0)
        self._first -= before
        self._counts = np.pad(self._counts, (before, after))
        self._sums = np.pad(self._sums, (before, after))

    def massive_from(self):
        """Least squared norm of a massive row; None if no row is massive."""
        n_samples = int(self._counts.sum())
        n_most = n_samples // 10
        if n_most == 0:
            return None
        bin_of_others = int(np.searchsorted(self._counts.cumsum(), n_samples - n_most))
        first = bin_of_others + 1 + (int(math.log2(MASSIVE**2)) << MANTISSA_BITS)
        if self._sums[first:].sum() <= self._sums.sum() / 2:
            return None
        return float(_value_of_bin(self._first + first))


def _value_of_bin(number):
    """The least number of a bin of `NormHistogram`."""
    return np.int64(number << (52 - MANTISSA_BITS)).view(np.float64)


def _reader(source):
    """Function that returns an iterable of the blocks of a source; a single block is kept."""
    if len(source) <= source.block_size():
        kept = [x for _, x in source.blocks(check=False)]
        return lambda: kept
    return _blocks_of(source)


def _blocks_of(source):
    return lambda: (x for _, x in source.blocks(check=False))


def _centre(source, blocks):
    """Median of rows drawn from all over the source: (n_features,), float64.

    Drawn at random, since evenly spread ones could all be the first of a text.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    index = spread_rows(len(source), min(N_CENTRE_ROWS, len(source)), generator)
    in_memory = blocks()
    x = in_memory[0].cpu()[index] if isinstance(in_memory, list) else source[index].cpu()
    return x.median(dim=0).values.to(source.device, torch.float64)


def _not_massive(blocks, centre, threshold):
    """The blocks without their massive rows."""
    for x in blocks():
        squares = torch.linalg.vector_norm(x - centre, dim=1).square()
        yield x[squares < threshold]


def _checked(moments, source, blocks):
    """The `Statistics` of moments; raises if there is nothing to compute with."""
    warnings = _check_digits(moments, source, blocks)
    _check_range(moments, source)
    return Statistics(moments.n_samples, moments.mean, moments.rms, warnings)


def _check_digits(moments, source, blocks):
    """Raise if the rows are equal, and warn if they nearly are, in the digits of their dtype."""
    eps = torch.finfo(source.dtype).eps
    norm = float(torch.linalg.vector_norm(moments.mean))
    if moments.rms > 10 * eps * norm / MAX_ROUNDING:
        return ()
    least = most = None
    for x in blocks():
        if len(x):
            low, high = x.amin(dim=0), x.amax(dim=0)
            least = low if least is None else torch.minimum(least, low)
            most = high if most is None else torch.maximum(most, high)
    rounding = eps * torch.maximum(least.abs(), most.abs()).double()
    varying = most.double() - least > ROUNDINGS * rounding
    if not varying.any():
        raise ValueError(
            f"{source.name} has zero variance: all {moments.n_samples} samples are equal (norm "
            f"{norm:.3g}). A dictionary needs samples that differ."
        )
    rounding = float(torch.linalg.vector_norm(rounding[varying]))
    if not rounding > MAX_ROUNDING * moments.rms > 0:
        return ()
    return (
        f"{source.name} is so far from the origin that {source.dtype} hardly tells its samples "
        f"apart: they differ by {moments.rms:.3g}, and the last digit of theirs is "
        f"{rounding:.3g}. Subtract the mean before {source.name} is rounded to that dtype.",
    )


def _check_range(moments, source):
    """Raise unless samples in their dtype, and their squares in float64, can be computed with."""
    info, double = torch.finfo(source.dtype), torch.finfo(torch.float64)
    least = max(info.tiny / info.eps, (double.tiny / double.eps) ** 0.5)
    least *= source.n_features**0.5
    most = min(1e-3 * info.max, 1e-4 * double.max**0.5)
    rms, largest = moments.rms, moments.largest
    if least < rms and largest < most:
        return
    how = "large" if largest >= most or not math.isfinite(rms) else "small"
    raise ValueError(
        f"{source.name} is too {how} to compute with in {source.dtype}: the norms of its samples "
        f"about the mean are {rms:.3g} in RMS and at most {largest:.3g}, and should be between "
        f"{least:.0e} and {most:.0e}. Multiply {source.name} by a constant."
    )
