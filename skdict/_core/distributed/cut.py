"""The largest value that is not among the n largest of all processes, found digit by digit."""

import torch

from .strategy import current, totals

# Bits of a digit: a round counts so many powers of two of digits, 16 KiB.
DIGIT = 11


def largest_cut(values, n_kept):
    """The largest of non-negative values that is not among the ``n_kept`` largest of a batch.

    Of several processes the batch is that of all. The bits of non-negative floats are ordered as
    the floats are, so that the value is found by radix selection: a round for each digit, in
    which processes add up how often each digit occurs. It is exact, and nothing is sent but
    counts.

    Parameters
    ----------
    values : tensor of any shape, at least 0
    n_kept : int
        In proportion to the rows of this process.

    Returns
    -------
    cut : tensor, scalar, or None
        None where all are kept.
    """
    values, strategy = values.flatten(), current()
    n_values, n_kept = totals(len(values), n_kept, values.device)
    if n_values <= n_kept:
        return None
    if strategy.is_alone:
        return values.kthvalue(n_values - n_kept).values
    bits = values.abs().view(_INTEGERS[values.dtype])  # no -0.0
    place, found = n_kept, 0  # how many of the values that are left are larger
    for low in range((8 * values.itemsize - 1) // DIGIT * DIGIT, -1, -DIGIT):
        digits = (bits >> low) & ((1 << DIGIT) - 1)
        counts = strategy.ranks.sum_(torch.bincount(digits, minlength=1 << DIGIT))
        n_above = counts.flip(0).cumsum(0).flip(0) - counts  # with a larger digit
        digit = int(((n_above <= place) & (place < n_above + counts)).nonzero())
        place -= int(n_above[digit])
        bits, found = bits[digits == digit], found | digit << low
    return torch.tensor(found, dtype=bits.dtype, device=bits.device).view(values.dtype)


_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
