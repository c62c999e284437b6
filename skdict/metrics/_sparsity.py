"""Sparsity of codes: how many features are active, and how often."""

from numbers import Real

import numpy as np
import torch
from scipy.sparse import issparse

from .._core.data.reading import is_store, row_slices
from ..utils._sklearn_compat import Interval, validate_params
from ._rows import as_lazy_rows, as_rows, check_finite, row_blocks

# A feature that is active on more than this fraction of the samples is dense.
DENSE = 0.1


def count_active(codes):
    """Number of non-zero entries of each column, int64 of (n_components,); CSR stays sparse.

    `codes` is from `as_rows`.
    """
    if is_store(codes):
        pieces = row_slices(len(codes), codes.chunk_rows)
        return sum(count_active(as_rows(codes.read(rows), "codes")) for rows in pieces)
    if issparse(codes):
        if not codes.has_canonical_format:  # sum duplicates: they could cancel
            codes = codes.copy()
            codes.sum_duplicates()
        check_finite(codes.data, "codes")
        return np.bincount(codes.indices[codes.data != 0], minlength=codes.shape[1])
    counts = np.zeros(codes.shape[1], dtype=np.int64)
    for rows in row_blocks(codes):
        block = codes[rows]
        check_finite(block, "codes")
        if isinstance(block, torch.Tensor):
            counts += torch.count_nonzero(block, dim=0).cpu().numpy()
        else:
            counts += np.count_nonzero(block, axis=0)
    return counts


def feature_density(codes):
    """Fraction of samples on which each feature is active.

    A feature is active where its code is not zero.

    Parameters
    ----------
    codes : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_components)
        Codes of the activations. Explicitly stored zeros count as zeros.

    Returns
    -------
    density : ndarray of shape (n_components,), float64
        Each in [0, 1].

    Raises
    ------
    ValueError
        If `codes` is not a matrix or contains NaN or infinity.

    Examples
    --------
    >>> from skdict.metrics import feature_density
    >>> feature_density([[0.5, 0.0, 0.0], [2.0, 0.1, 0.0]])
    array([1. , 0.5, 0. ])
    """
    codes = as_lazy_rows(codes, "codes")
    return count_active(codes) / codes.shape[0]


def mean_l0(codes):
    """L0: mean number of active features per sample.

    .. math:: \\mathbb{E} \\lVert z \\rVert_0

    Parameters
    ----------
    codes : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_components)
        Codes of the activations. Explicitly stored zeros count as zeros.

    Returns
    -------
    l0 : float
        Between 0 and n_components (a number of features, not a fraction of them).

    Raises
    ------
    ValueError
        If `codes` is not a matrix or contains NaN or infinity.

    Examples
    --------
    >>> from skdict.metrics import mean_l0
    >>> mean_l0([[0.5, 0.0, 0.0], [2.0, 0.1, 0.0]])
    1.5
    """
    codes = as_lazy_rows(codes, "codes")
    return float(count_active(codes).sum() / codes.shape[0])


def dead_fraction(codes):
    """Fraction of features that are never active.

    On fewer samples more of the rare features look dead: compare values only for equal numbers of
    samples.

    Parameters
    ----------
    codes : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_components)
        Codes of the activations. Explicitly stored zeros count as zeros.

    Returns
    -------
    dead_fraction : float
        In [0, 1].

    Raises
    ------
    ValueError
        If `codes` is not a matrix or contains NaN or infinity.

    Examples
    --------
    >>> from skdict.metrics import dead_fraction
    >>> dead_fraction([[0.5, 0.0, 0.0, 1.0], [2.0, 0.1, 0.0, 0.0]])
    0.25
    """
    return float(np.mean(feature_density(codes) == 0))


@validate_params(
    {"threshold": [Interval(Real, 0, 1, closed="left")]}, prefer_skip_nested_validation=True
)
def dense_fraction(codes, *, threshold=DENSE):
    """Fraction of features that are active on more than a given fraction of the samples.

    Parameters
    ----------
    codes : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_components)
        Codes of the activations. Explicitly stored zeros count as zeros.

    threshold : float, default=0.1
        A feature is dense if its density (see `feature_density`) is above this, in [0, 1).

    Returns
    -------
    dense_fraction : float
        In [0, 1].

    Raises
    ------
    ValueError
        If `codes` is not a matrix or contains NaN or infinity, or if `threshold` is not in [0, 1).

    Examples
    --------
    >>> from skdict.metrics import dense_fraction
    >>> dense_fraction([[0.5, 0.0, 0.0, 0.0], [2.0, 0.1, 0.0, 0.0]], threshold=0.5)
    0.25
    """
    return float(np.mean(feature_density(codes) > threshold))
