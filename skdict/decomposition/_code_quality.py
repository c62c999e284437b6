"""What codes of rows are worth, and their statistics, from one coding of the rows."""

from dataclasses import dataclass

import torch

from .._core.torch_state import plain_torch
from ._likelihood import CodeStatistics, debiased

# Rows that are coded at a time: what is made of them stays in cache.
N_ROWS_AT_A_TIME = 256


@dataclass
class CodeQuality:
    """Sums over rows, their codes and what these leave over.

    Parameters
    ----------
    statistics : CodeStatistics
    sums : tensor of shape (n_features,), float64
        Σ (x - o) over the rows, with an origin o.
    squares : float
        Σ ‖x - o‖².
    error : float
        Σ ‖x - x̂‖².
    """

    statistics: CodeStatistics
    sums: torch.Tensor
    squares: float = 0.0
    error: float = 0.0

    @property
    def l0(self):
        """Mean number of non-zero entries of a code."""
        return float(self.statistics.counts.sum() / self.statistics.n_samples)

    @property
    def varies(self):
        """Whether the rows differ: else there is no variance to explain."""
        return self._variance > 0

    @property
    def explained_variance(self):
        """As `skdict.metrics.explained_variance`: of rows that do not vary 1 or 0."""
        return 1 - self.error / self._variance if self.varies else float(self.error == 0)

    @property
    def silent(self):
        """Fraction of the features that are active on none of the rows."""
        return float((self.statistics.counts == 0).mean())

    @property
    def _variance(self):
        """Σ ‖x - x̄‖²."""
        return self.squares - float(self.sums.square().sum()) / self.statistics.n_samples


@plain_torch()
def quality_of(coding, rows, n_most=None, *, origin=None, also=None, warns=False):
    """`CodeQuality` of the rows of a source.

    Parameters
    ----------
    coding : Coding
    rows : Source
    n_most : int or None
        Look at no more than so many of them, evenly spread.
    origin : tensor or ndarray of shape (n_features,), or None
        A point among the rows, for the precision of the sums; None takes the first row.
    also : callable or None
        Is given the `debiased` codes of each block, as coefficients of unit atoms, and their
        residual, to save another coding.
    warns : bool
        Whether to warn of codes that are not as good as wanted.
    """
    n_most = len(rows) if n_most is None else n_most
    index = rows.spread(n_most)
    origin = torch.as_tensor(rows[:1][0] if origin is None else origin, device=rows.device)
    dictionary = coding.dictionary.to(rows.dtype, rows.device)
    statistics = CodeStatistics.empty(len(dictionary.components))
    quality = CodeQuality(statistics, torch.zeros_like(origin, dtype=torch.float64))
    with coding.threads(rows, N_ROWS_AT_A_TIME), coding.coder(rows, warns=warns) as code:
        for chunk in index.split(N_ROWS_AT_A_TIME):
            x = rows[chunk]
            codes = code(x)
            residual, codes = dictionary.residual(x, codes), dictionary.unit_codes(codes)
            quality.error += float(residual.double().square().sum())
            codes, residual = debiased(codes, residual, dictionary.code_effects)
            statistics.update(codes, residual)
            if also is not None:
                also(codes, residual)
            x = (x - origin).double()
            quality.sums += x.sum(dim=0)
            quality.squares += float(x.square().sum())
    return quality
