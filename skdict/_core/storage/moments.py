"""The moments of rows as they pass by, and of those that are not massive.

Rows are taken in pieces, in float32: of a point near most rows, their squared distances and the
sum of their differences are kept, and summed up in float64. In float64 throughout it would take
several times as long as writing the rows. Sums are over pieces that
begin at fixed rows, so they do not depend on how the rows came.
"""

import numpy as np
import torch

from ..data.statistics import NormHistogram, Spread, Summary
from ..kernels import add_sums_about_

# The centre is estimated from about so many rows, spread over the first piece.
N_CENTRE_ROWS = 65
# Squared norms outside of these are computed in float64: float32 would overflow or lose digits.
SMALL, LARGE = 1e-20, 1e30


class RowMoments:
    """Moments of the rows of one shard, or of some of them.

    Parameters
    ----------
    width : int
    """

    def __init__(self, width):
        self.centre = None
        self._sum = torch.zeros(width, dtype=torch.float64, device="cpu")  # of x - centre
        self._squares = []  # tensors of ‖x - centre‖²; NaN where a row is not finite

    def update(self, x):
        """Add rows (B, width) on the CPU.

        Parameters
        ----------
        x : tensor of floating point
        """
        if self.centre is None:
            self.centre = _centre(x)
        squares = torch.empty(len(x), dtype=torch.float64, device="cpu")
        self._squares.append(squares)
        if not add_sums_about_(self._sum, squares, x, self.centre, SMALL, LARGE):
            self._update_slowly(squares, x)

    def _update_slowly(self, squares, x):
        """The same in float64, without the rows that are not finite."""
        finite = torch.isfinite(x).all(dim=1)
        offset = x.double() - self.centre
        squares.copy_(torch.linalg.vector_norm(offset, dim=1).square())
        squares.masked_fill_(~finite, torch.nan)
        self._sum += offset[finite].sum(dim=0)

    def finish(self, read):
        """The summary of all rows.

        Parameters
        ----------
        read : callable
            Returns rows given by a sorted int64 array of their numbers among those that were
            added. It is called for massive rows only.

        Returns
        -------
        summary : Summary
        """
        squares = torch.cat(self._squares).numpy()
        finite = np.isfinite(squares)
        known = squares if finite.all() else squares[finite]
        histogram = NormHistogram()
        histogram.update(torch.from_numpy(known))
        of_all = self._spread(self._sum, known)
        n_not_finite = len(squares) - len(known)
        threshold = histogram.massive_from()
        if threshold is None:
            return Summary(of_all, of_all, n_not_finite)
        with np.errstate(invalid="ignore"):
            is_massive, is_other = squares >= threshold, squares < threshold
        total = self._sum.clone()
        for index in np.array_split(np.flatnonzero(is_massive), 1 + len(squares) // 4096):
            total -= (read(index).double() - self.centre).sum(dim=0)
        of_others = self._spread(total, squares[is_other])
        # a constant beside massive rows: those are all there is to learn
        return Summary(of_all, of_others if of_others.squares > 0 else of_all, n_not_finite)

    def _spread(self, total, squares):
        n_samples = len(squares)
        if n_samples == 0:
            return Spread(0, self.centre.double(), 0.0, 0.0)
        shift = total / n_samples
        about_centre = float(squares.sum())
        about_mean = max(about_centre - n_samples * float(shift.square().sum()), 0.0)
        return Spread(n_samples, self.centre + shift, about_mean, float(squares.max()) ** 0.5)


def _centre(x):
    """About the median of rows (B, width): (width,), float32; 0 where most are not finite."""
    rows = x[:: -(-len(x) // N_CENTRE_ROWS)].T.float().contiguous().numpy()
    middle = (rows.shape[1] - 1) // 2
    centre = np.partition(rows, middle, axis=1)[:, middle]  # a quarter of the time of torch.median
    return torch.from_numpy(np.where(np.isfinite(centre), centre, np.float32(0)))
