"""The sparse-coding model that a fitted dictionary implies, and its log-likelihood.

    x + η = b + z D + ε + η;   z_j = 0 with probability 1 - p_j, else ~ Exp(mean m_j)
    ε ~ N(0, σ² I), the residual;   η ~ N(0, τ² I), a dither that sets the resolution

The code is integrated out by Laplace's method around the code found for x, with atoms taken as
orthogonal, so that each active feature contributes a factor (2πs²)^½, where s² = σ² + τ²:

    E_η log p(x + η) ≈ -d/2 log(2πs²) - (‖x - b - z D‖² + dτ²) / 2s²
                       + Σ_{z_j ≠ 0} [log p_j - log m_j - |z_j| / m_j + ½ log(2πs²)]
                       + Σ_{z_j = 0} log(1 - p_j)

This is a two-part description length with its sign turned: nats for the residual plus nats for
the code, of a description that is exact up to the resolution τ.

Without the dither the density of real activations has no maximum worth choosing by. Those behind
a ReLU are sparse in the basis of the neurons themselves: as alpha falls the dictionary turns into
that basis, the residual vanishes, and log σ² rewards each further digit of it without end.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from .._core.kernels import add_at_
from .._core.tensors import from_numpy

# τ² as a fraction of the data's variance per column. benchmarks/score_curve.py shows the score
# for others: on the embedded transformer's neurons they choose the same alpha.
RESOLUTION = 0.03


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


def model_of(fitted, device):
    """What `log_likelihood` takes from the fitted attributes of an estimator."""
    return {
        "density": from_numpy(fitted.feature_density_).to(device),
        "magnitude": from_numpy(fitted.feature_magnitude_).to(device),
        "noise_variance": fitted.noise_variance_,
        "resolution_variance": fitted.resolution_variance_,
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
        σ².
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
    n_features = residual.shape[1]
    total_variance = noise_variance + resolution_variance
    log_volume = math.log(2 * math.pi * total_variance)
    off = torch.log1p(-p)
    on = torch.log(p) - torch.log(magnitude) + 0.5 * log_volume - off - signed * math.log(2)
    # of each entry of a code, what it costs instead of the zero that it might be
    index, values = codes.support.indices, codes.values.abs().to(on.dtype)
    of_entries = on[index] * (values != 0) - values * magnitude.reciprocal()[index]
    of_codes = add_at_(of_entries.new_zeros(len(codes)), codes.support.rows, of_entries)
    squares = residual.to(on.dtype).square().sum(dim=1) + n_features * resolution_variance
    return -0.5 * n_features * log_volume - squares / (2 * total_variance) + off.sum() + of_codes
