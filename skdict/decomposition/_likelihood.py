"""The sparse-coding model that a fitted dictionary implies, and its log-likelihood.

    x + η = b + z D + ε + η;   z_j = 0 with probability 1 - p_j, else ~ Exp(mean m_j)
    ε + η ~ t_ν(0, s₀² I);   s₀² = σ² + τ²:  σ² the noise of the fit,  η ~ N(0, τ² I) a dither

Student's t is a Gaussian whose variance is unknown and each sample's own, a priori about s₀² with
the weight of ν observations. So a sample is not held to the noise of others: the residual is
described at the scale that it has,

    s² = (ν s₀² + ‖x - b - z D‖² + dτ²) / (ν + d)

The code is integrated out by Laplace's method around the code found for x, with atoms taken as
orthogonal, so that each active feature contributes a factor (2πs²)^½:

    E_η log p(x + η) ≈ log Γ((ν + d)/2) - log Γ(ν/2) - d/2 log(πνs₀²)
                       - (ν + d)/2 log(1 + (‖x - b - z D‖² + dτ²) / νs₀²)
                       + Σ_{z_j ≠ 0} [log p_j - log m_j - |z_j| / m_j + ½ log(2πs²)]
                       + Σ_{z_j = 0} log(1 - p_j)

This is a two-part description length with its sign turned: nats for the residual plus nats for
the code, of a description that is exact up to the resolution τ.

Why not one variance for all, that of the fit: where data differ from those of the fit (a fold of
other files, an autoencoder that knows its samples by heart) their residuals are larger, a Gaussian
punishes that by the square, and the sparsest code, whose noise is largest, wins. Why not one
variance for all samples that are scored: the score of a sample would depend on others, and a few
with large residuals would decide it.

Without the dither the density of real activations has no maximum worth choosing by. Those behind
a ReLU are sparse in the basis of the neurons themselves: as alpha falls the dictionary turns into
that basis, the residual vanishes, and log s² rewards each further digit of it without end.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from .._core.kernels import add_at_
from .._core.tensors import from_numpy

# ν: what is known of a sample's noise before it is seen counts as one of its d coordinates.
DEGREES_OF_FREEDOM = 1


@dataclass
class CodeStatistics:
    """Sums over samples from which the parameters of the model are estimated.

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
        """Add samples: `SparseCodes` of B of them, and their residual (B, n_features)."""
        counts, magnitudes = codes.column_sums()
        self.counts = self.counts + counts.cpu().numpy()
        self.magnitudes = self.magnitudes + magnitudes.cpu().numpy()
        self.squared_error += float(residual.double().square().sum())
        self.n_samples += len(codes)

    def decay(self, n_samples):
        """Shrink what is remembered to the weight of ``n_samples`` samples, if it has more."""
        factor = min(1.0, n_samples / self.n_samples) if self.n_samples else 1.0
        self.counts = factor * self.counts
        self.magnitudes = factor * self.magnitudes
        self.squared_error *= factor
        self.n_samples *= factor

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


def model_of(fitted, resolution, device):
    """What `log_likelihood` takes from the fitted attributes of an estimator."""
    return {
        "density": from_numpy(fitted.feature_density_).to(device),
        "magnitude": from_numpy(fitted.feature_magnitude_).to(device),
        "noise_variance": fitted.noise_variance_,
        "resolution_variance": resolution * fitted.variance_,
        "n_samples": fitted.n_samples_seen_,
    }


def log_likelihood(
    codes,
    residual,
    *,
    density,
    magnitude,
    noise_variance,
    resolution_variance,
    n_samples,
    signed=False,
):
    """Log-likelihood of samples under the sparse-coding model, in nats.

    Parameters
    ----------
    codes : SparseCodes
    residual : tensor of shape (B, n_features)
    density, magnitude : tensor of shape (n_components,)
        p_j and m_j.
    noise_variance : float
        σ², about which a sample's own is expected.
    resolution_variance : float
        τ².
    n_samples : int
        Number of samples that ``density`` was estimated on; p_j is smoothed by half a
        pseudo-count (Krichevsky and Trofimov, 1981), so that a feature silent in training may
        fire.
    signed : bool
        Whether codes may be negative: then each active feature also costs its sign, log 2.

    Returns
    -------
    log_likelihood : tensor of shape (B,)
    """
    p = (density * n_samples + 0.5) / (n_samples + 1)
    off = torch.log1p(-p)
    on = torch.log(p) - torch.log(magnitude) - off - signed * math.log(2)
    of_noise, log_volume = _of_noise(residual.to(on.dtype), noise_variance, resolution_variance)
    # of each entry of a code, what it costs instead of the zero that it might be
    rows, index = codes.support.rows, codes.support.indices
    values, rate = codes.values.abs().to(on.dtype), magnitude.reciprocal()
    of_entries = (on[index] + 0.5 * log_volume[rows]) * (values != 0) - values * rate[index]
    return add_at_(of_noise + off.sum(), rows, of_entries)


def _of_noise(residual, noise_variance, resolution_variance):
    """Log-density of residuals (B, d), and log 2πs² of each; both of shape (B,)."""
    nu, d = DEGREES_OF_FREEDOM, residual.shape[1]
    prior = nu * (noise_variance + resolution_variance)
    squares = residual.square().sum(dim=1) + d * resolution_variance
    constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d / 2 * math.log(math.pi * prior)
    density = constant - (nu + d) / 2 * torch.log1p(squares / prior)
    return density, torch.log(2 * math.pi * (prior + squares) / (nu + d))
