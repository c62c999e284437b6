"""Metrics of reconstructions."""

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning

from ..utils._warnings import warn
from ._rows import as_lazy_rows, check_finite, float64_block, row_blocks


class ReconstructionSums:
    """Sums over rows, in float64, from which the reconstruction metrics are computed.

    Sums are taken about the first row, so that the variance of data far from the origin keeps its
    precision and that of constant data is exactly zero.
    """

    def __init__(self):
        self.n_samples = 0

    def update(self, X, X_reconstructed):
        """Add rows; both arguments are float64 ndarrays of shape (n_rows, n_features)."""
        if self.n_samples == 0:
            self.origin = X[0].copy()
            self.centred_sum = np.zeros(X.shape[1])
            self.centred_square = self.residual_square = 0.0
            self.reconstruction_square = self.cross = 0.0
        centred = X - self.origin
        residual = X - X_reconstructed
        self.n_samples += len(X)
        self.centred_sum += centred.sum(axis=0)
        self.centred_square += np.vdot(centred, centred)
        self.residual_square += np.vdot(residual, residual)
        self.reconstruction_square += np.vdot(X_reconstructed, X_reconstructed)
        self.cross += np.vdot(X, X_reconstructed)
        for name, block, square in (
            ("X", X, self.centred_square),
            ("X_reconstructed", X_reconstructed, self.reconstruction_square),
        ):
            if not np.isfinite(square):
                check_finite(block, name)
                raise ValueError(f"The squares of {name} overflow in float64. Scale it down.")

    @classmethod
    def from_matrices(cls, X, X_reconstructed):
        X = as_lazy_rows(X, "X")
        X_reconstructed = as_lazy_rows(X_reconstructed, "X_reconstructed")
        if X.shape != X_reconstructed.shape:
            raise ValueError(
                "X and X_reconstructed must have the same shape, but have shapes "
                f"{tuple(X.shape)} and {tuple(X_reconstructed.shape)}."
            )
        sums = cls()
        for rows in row_blocks(X):
            sums.update(float64_block(X, rows), float64_block(X_reconstructed, rows))
        return sums

    def explained_variance(self):
        mean = self.centred_sum / self.n_samples
        total_square = self.centred_square - self.n_samples * np.vdot(mean, mean)
        if total_square > 0:
            return float(1 - self.residual_square / total_square)
        return 1.0 if self.residual_square == 0 else 0.0

    def shrinkage(self):
        if self.cross == 0:
            warn(
                "shrinkage is undefined (nan): X and X_reconstructed are orthogonal, or one of "
                "them is zero.",
                UndefinedMetricWarning,
            )
            return float("nan")
        return float(self.reconstruction_square / self.cross)


def explained_variance(X, X_reconstructed):
    """Fraction of the activations' variance that the reconstruction explains.

    .. math::
        1 - \\frac{\\mathbb{E} \\lVert x - \\hat{x} \\rVert^2}
                  {\\mathbb{E} \\lVert x \\rVert^2 - \\lVert \\mathbb{E} x \\rVert^2}

    It is 1 for a perfect reconstruction, 0 for the mean of `X` and negative for a worse one. It
    equals ``sklearn.metrics.r2_score(X, X_reconstructed, multioutput="variance_weighted")``.
    Unlike `sklearn.metrics.explained_variance_score` it does not forgive a constant offset of
    the reconstruction.

    Parameters
    ----------
    X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
        Activations. They are read in blocks of rows, so a memory map need not fit in memory.
        Sums are accumulated in float64 for all dtypes.

    X_reconstructed : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
        Their reconstructions.

    Returns
    -------
    explained_variance : float
        At most 1. For a constant `X`, whose variance is zero, it is 1 if the reconstruction is
        perfect and 0 otherwise, as in `sklearn.metrics.r2_score`.

    Raises
    ------
    ValueError
        If the shapes differ or are not two-dimensional, or if there is NaN or infinity.

    Notes
    -----
    Three other quantities have the same name and are not comparable: the mean over samples of
    each sample's own ratio, which frequent small activations dominate; a denominator with the
    square of the scalar mean of all entries, which counts differences between the features' means
    as variance; and a denominator without the mean, which counts the mean itself.

    Examples
    --------
    >>> import numpy as np
    >>> from skdict.metrics import explained_variance
    >>> X = np.array([[1.0, 0.0], [3.0, 4.0]])
    >>> explained_variance(X, [[1.0, 1.0], [3.0, 4.0]])
    0.9
    >>> explained_variance(X, np.broadcast_to(X.mean(axis=0), X.shape))
    0.0
    """
    return ReconstructionSums.from_matrices(X, X_reconstructed).explained_variance()


def shrinkage(X, X_reconstructed):
    """Relative reconstruction bias: the factor by which the norm of reconstructions is too small.

    .. math::
        \\gamma = \\operatorname*{argmin}_{\\gamma'}
            \\mathbb{E} \\lVert \\hat{x} / \\gamma' - x \\rVert^2
        = \\frac{\\mathbb{E} \\lVert \\hat{x} \\rVert^2}{\\mathbb{E} [\\hat{x} \\cdot x]}

    1 means no bias. Below 1, dividing the reconstructions by :math:`\\gamma` would bring them
    closer to the activations, as is typical of codes with an L1 penalty (equation 10 of [1]_).
    Norms are taken about the origin, so the value is always close to 1 if the intercept accounts
    for most of the norm.

    Parameters
    ----------
    X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
        Activations.

    X_reconstructed : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_features)
        Their reconstructions.

    Returns
    -------
    shrinkage : float
        :math:`\\gamma`; nan, with an `UndefinedMetricWarning`, if the denominator is zero.

    Raises
    ------
    ValueError
        If the shapes differ or are not two-dimensional, or if there is NaN or infinity.

    References
    ----------
    .. [1] S. Rajamanoharan et al., "Improving Dictionary Learning with Gated Sparse
       Autoencoders", 2024. https://arxiv.org/abs/2404.16014

    Examples
    --------
    >>> import numpy as np
    >>> from skdict.metrics import shrinkage
    >>> X = np.array([[1.0, 0.0], [3.0, 4.0]])
    >>> shrinkage(X, 0.75 * X)
    0.75
    """
    return ReconstructionSums.from_matrices(X, X_reconstructed).shrinkage()
