"""L0, explained variance and silent features of rows, from one coding of them."""

import math
from typing import NamedTuple

import torch

from .._core.torch_state import plain_torch


class CodeQuality(NamedTuple):
    """What codes of rows are worth.

    Parameters
    ----------
    l0 : float
        Mean number of non-zero entries of a code.
    explained_variance : float
        As `skdict.metrics.explained_variance`.
    silent : float
        Fraction of the features that are active on none of the rows.
    """

    l0: float
    explained_variance: float
    silent: float


@plain_torch()
def quality_of(coding, rows, n_most=None, *, also=None):
    """`CodeQuality` of the rows of a source, coded block by block.

    Parameters
    ----------
    coding : Coding
    rows : Source
    n_most : int or None
        Look at no more than so many of them, evenly spread.
    also : callable or None
        Is given the `SparseCodes` and the residual of each block, to save another coding.
    """
    if n_most is not None and len(rows) > n_most:
        every = math.ceil(len(rows) / n_most)
        rows = rows.take(torch.arange(0, len(rows), every, device="cpu"))
    n_components = len(coding.dictionary.components)
    counts = torch.zeros(n_components, dtype=torch.float64, device=rows.device)
    total, square, error = torch.zeros_like(rows[:1].double()[0]), 0.0, 0.0
    # about one of the rows: of data far from the origin the variance keeps its precision
    origin = rows[:1]
    with coding.coded(rows, warns=False) as blocks:
        for x, codes, residual in blocks:
            counts += codes.column_sums()[0]
            error += residual.double().square().sum()
            if also is not None:
                also(codes, residual)
            centred = (x - origin).double()
            total += centred.sum(dim=0)
            square += centred.square().sum()
    n_rows = len(rows)
    variance = float(square) - float(total.square().sum()) / n_rows
    explained = 1 - float(error) / variance if variance > 0 else float(error == 0)
    return CodeQuality(
        float(counts.sum()) / n_rows, explained, float((counts == 0).double().mean())
    )
