"""The sparse-coding model that a fitted dictionary implies, and its log-likelihood.

    x + η = b + z D + ε + η;   z_j = 0 with probability 1 - p_j, else ~ Exp(mean m_j)
    ε ~ N(0, σ² I), the residual;   η ~ N(0, τ² I), a dither that sets the resolution

Which features are active is what the code found for x says. Their magnitudes are integrated out by
Laplace's method, with atoms taken as orthogonal, so that each active feature contributes a factor
(2πs²)^½, where s² = σ² + τ²:

    E_η log p(x + η) ≈ -d/2 log(2πs²) - (‖x - b - z D‖² + dτ²) / 2s²
                       + Σ_{z_j ≠ 0} [log p_j - log m_j - |z_j| / m_j + ½ log(2πs²)]
                       + Σ_{z_j = 0} log(1 - p_j)

This is a two-part description length with its sign turned: nats for the residual plus nats for
the code, of a description that is exact up to the resolution τ.

Here z are not the magnitudes that were found but those of least squares, about which the posterior
is a Gaussian (`debiased`). An L1 penalty makes all smaller by about alpha. Around such a code,
which is no mode, Laplace's method would count the shrinkage as noise, the more the larger alpha:
with the true atoms of planted data, codes with twice the true L0 had the best score.

`score` takes the noise variance σ² from the samples that are scored: their mean squared residual,
which maximises the density of the residuals. Where they differ from those of the fit (a fold of
other files, an autoencoder that knows its samples by heart) their residuals are larger. With the
noise of the fit that would be punished by the square, and the sparsest code, whose noise is
largest, would win. A variance for each sample forgives too much: on planted data that drift, codes
that are worse than none had the best score.

Without the dither the density of real activations has no maximum worth choosing by. Those behind
a ReLU are sparse in the basis of the neurons themselves: as alpha falls the dictionary turns into
that basis, the residual vanishes, and log s² rewards each further digit of it without end.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from .._core.coding import SparseCodes
from .._core.kernels import add_at_, sampled_product, weighted_sums
from .._core.tensors import from_numpy

# Weight, in samples, of the fit's noise variance beside that of the samples that are scored: one
# sample alone does not decide how large its residual may be, and a hundred do.
N_PSEUDO_SAMPLES = 1


def debiased(codes, residual, atoms):
    """Codes with the same active features and magnitudes nearer to least squares.

    One step along the gradient of the squared error, of the length that is best for each sample:
    least squares itself where atoms are orthogonal. It costs the time of two reconstructions.
    An entry that would change its sign stays as it is, and so does a code for which all this is
    no better.

    Parameters
    ----------
    codes : SparseCodes of shape (B, n_components)
    residual : tensor of shape (B, n_features)
    atoms : tensor of shape (n_components, n_features) or None
        None leaves codes as they are, where one adds another amount to each sample.

    Returns
    -------
    codes : SparseCodes
    residual : tensor of shape (B, n_features)
    """
    if atoms is None:
        return codes, residual
    support, values = codes.support, codes.values
    slope = sampled_product(residual, atoms, support) * (values != 0)  # (nnz,)
    change = weighted_sums(slope, support, atoms)  # (B, n_features), of a step of length 1
    squares = residual.new_zeros(len(codes), dtype=torch.float64)
    squares = add_at_(squares, support.rows, slope.double().square())  # ⟨residual, change⟩
    length = squares / _norms(change).square()
    length = length.nan_to_num(0.0, 0.0, 0.0)  # there is no slope
    better = values + length.to(slope.dtype)[support.rows] * slope
    stays = better.sign() != values.sign()
    better = better.where(~stays, values)
    left = residual + weighted_sums(values - better, support, atoms)
    rows = support.rows[stays].unique()  # all others are better
    rows = rows[_norms(left[rows]) >= _norms(residual[rows])]
    left[rows] = residual[rows]
    is_worse = torch.zeros_like(squares, dtype=torch.bool)
    is_worse[rows] = True
    return SparseCodes(support, better.where(~is_worse[support.rows], values)), left


def _norms(rows):
    """In float64: squares leave the range of float32."""
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)


@dataclass
class CodeStatistics:
    """Sums over samples from which the parameters of the model are estimated.

    Magnitudes and residuals are those of `debiased` codes, as coefficients of unit atoms.

    Parameters
    ----------
    counts : ndarray of shape (n_components,)
        How often each feature was active.
    magnitudes : ndarray of shape (n_components,)
        Sum of each feature's absolute values.
    squared_error : float
        Sum of squared residuals over samples and columns.
    n_samples : float
    """

    counts: np.ndarray
    magnitudes: np.ndarray
    squared_error: float = 0.0
    n_samples: float = 0.0

    @classmethod
    def empty(cls, n_components):
        return cls(counts=np.zeros(n_components), magnitudes=np.zeros(n_components))

    def update(self, codes, residual):
        """Add samples: `debiased` codes of B of them, and their residual (B, n_features)."""
        counts, magnitudes = codes.column_sums()
        self.counts = self.counts + counts.cpu().numpy()
        self.magnitudes = self.magnitudes + magnitudes.cpu().numpy()
        self.squared_error += float(residual.double().square().sum())
        self.n_samples += len(codes)

    def followed_by(self, other, n_remembered):
        """These and later statistics; these with the weight of so many samples at most."""
        factor = min(1.0, n_remembered / self.n_samples) if self.n_samples else 1.0
        return CodeStatistics(
            factor * self.counts + other.counts,
            factor * self.magnitudes + other.magnitudes,
            factor * self.squared_error + other.squared_error,
            factor * self.n_samples + other.n_samples,
        )

    def attributes(self, n_features):
        """Fitted attributes of an estimator, as ndarrays and floats.

        A feature's mean magnitude is shrunk towards the mean over all features by one
        pseudo-observation, which also gives a silent feature a magnitude.
        """
        n = max(self.n_samples, 1.0)
        total = float(self.counts.sum())
        overall = float(self.magnitudes.sum()) / total if total else 1.0
        return {
            "feature_density_": self.counts / n,
            "feature_magnitude_": (self.magnitudes + overall) / (self.counts + 1),
            "noise_variance_": self.squared_error / (n * n_features),
            "n_samples_seen_": round(self.n_samples),
        }


@dataclass
class SparseCodingModel:
    """The model with the parameters of a fit.

    Parameters
    ----------
    density, magnitude : tensor of shape (n_components,)
        p_j and m_j.
    n_samples : int
        Number of samples that ``density`` was estimated on; p_j is smoothed by half a
        pseudo-count (Krichevsky and Trofimov, 1981), so that a feature silent in training may
        fire.
    noise_variance, resolution_variance : float
        σ² of the fit, and τ².
    n_features : int
        d.
    signed : bool
        Whether codes may be negative: then each active feature also costs its sign, log 2.
    """

    density: torch.Tensor
    magnitude: torch.Tensor
    n_samples: int
    noise_variance: float
    resolution_variance: float
    n_features: int
    signed: bool

    @classmethod
    def of(cls, fitted, resolution, *, signed, device):
        """By the fitted attributes of an estimator."""
        return cls(
            density=from_numpy(fitted.feature_density_).to(device),
            magnitude=from_numpy(fitted.feature_magnitude_).to(device),
            n_samples=fitted.n_samples_seen_,
            noise_variance=fitted.noise_variance_,
            resolution_variance=resolution * fitted.variance_,
            n_features=fitted.n_features_in_,
            signed=signed,
        )

    def parts(self, codes, residual, scale=None):
        """What the log-likelihoods of samples are made of, whatever the noise.

        Parameters
        ----------
        codes : SparseCodes
            `debiased`, as coefficients of unit atoms.
        residual : tensor of shape (B, n_features)
            What they leave.
        scale : tensor of shape (B, 1) or None
            What the atoms are multiplied by in each row, where rows are normalised. The factor
            of each active feature is divided by it.

        Returns
        -------
        parts : tensor of shape (B, 3)
            Squared error, number of active features, and the terms of p_j and m_j.
        """
        p = (self.density * self.n_samples + 0.5) / (self.n_samples + 1)
        off = torch.log1p(-p)
        on = torch.log(p) - torch.log(self.magnitude) - off - self.signed * math.log(2)
        # of each entry of a code, what it costs instead of the zero that it might be
        index, is_on = codes.support.indices, (codes.values != 0).to(on.dtype)
        values = codes.values.abs().to(on.dtype)
        cost = on[index] * is_on - values * self.magnitude.reciprocal()[index]
        of_codes = add_at_(
            on.new_zeros(len(codes), 2), codes.support.rows, torch.stack([is_on, cost], dim=1)
        )
        squares = residual.to(on.dtype).square().sum(dim=1, keepdim=True)
        of_codes[:, 1] += off.sum()
        if scale is not None:
            of_codes[:, 1] -= of_codes[:, 0] * torch.where(scale > 0, scale, 1).log().squeeze(1)
        return torch.cat([squares, of_codes], dim=1)

    def log_likelihood(self, parts, noise_variance):
        """In nats, for this σ², of parts (..., 3); it is linear in them."""
        squares, n_active, of_code = parts.unbind(-1)
        variance = noise_variance + self.resolution_variance
        log_volume = math.log(2 * math.pi * variance)
        squares = squares + self.n_features * self.resolution_variance
        return 0.5 * (n_active - self.n_features) * log_volume - squares / (2 * variance) + of_code

    def score(self, total, n_samples):
        """Mean log-likelihood of samples, by the sum (3,) of their parts, with their own noise."""
        own = float(total[0]) / self.n_features
        weight = n_samples + N_PSEUDO_SAMPLES
        noise_variance = (own + N_PSEUDO_SAMPLES * self.noise_variance) / weight
        return float(self.log_likelihood(total / n_samples, noise_variance))
