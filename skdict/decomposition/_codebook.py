"""k-means codebooks: every sample is coded by the nearest codeword."""

import numpy as np
import torch
from sklearn.cluster import KMeans

from .._core.kernels.scaling import unit_factors


class Codebooks:
    """Codebooks of scikit-learn's k-means, each for what those before it leave over.

    One of them is vector quantisation, several are residual quantisation (Juang and Gray,
    "Multiple stage vector quantization for speech coding", ICASSP 1982): a sample is the sum of
    one codeword of each. As a dictionary, the atom of a codeword is its direction and its code is
    its norm, or zero.

    Parameters
    ----------
    sizes : list of int
        Number of codewords of each.
    mean : tensor of shape (n_features,)
        Subtracted from the data; becomes the intercept.
    scale : float
        Brings the data to E‖x‖² = n_features, so that no square overflows.
    max_iter : int
        Passes over the data, at most, for each codebook.
    random_state : RandomState
    verbose : int, default=0
        That of scikit-learn's.
    """

    def __init__(self, sizes, mean, scale, *, max_iter, random_state, verbose=0):
        self.sizes = sizes
        self.mean = mean
        self.scale = scale
        self.max_iter = max_iter
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, rows):
        residual = ((rows[:] - self.mean) / self.scale).cpu().numpy()
        codewords, n_iter = [], []
        for size in self.sizes:
            # of a thousand codewords k-means++ takes longer than all the passes from samples
            # drawn at random, and ends no better
            kmeans = KMeans(
                size,
                init="random",
                n_init=1,
                max_iter=self.max_iter,
                random_state=self.random_state,
                verbose=self.verbose,
            ).fit(residual)
            residual -= kmeans.cluster_centers_[kmeans.labels_]
            codewords.append(kmeans.cluster_centers_)
            n_iter.append(kmeans.n_iter_)
        codewords = np.concatenate(codewords)
        norms = np.linalg.norm(codewords, axis=1)
        return {
            "components_": codewords / np.where(norms > 0, norms, 1)[:, None],
            "codeword_norms_": self.scale * norms,
            "codebook_sizes_": np.array(self.sizes),
            "intercept_": self.mean.cpu().numpy(),
            "n_iter_": sum(n_iter),
            "n_steps_": sum(n_iter),
            "loss_curve_": [],
        }


def quantise(x, atoms, norms, sizes):
    """Codes of centred rows x (B, d): for each codebook the norm of the nearest codeword.

    Parameters
    ----------
    atoms, norms : tensors of shape (n, d) and (n,)
        Directions and norms of the codewords, one codebook after the other.
    sizes : sequence of int

    Returns
    -------
    codes : tensor of shape (B, n)
    """
    codes = x.new_zeros(len(x), len(atoms))
    first = 0
    for size in sizes:
        book, norm = atoms[first : first + size], norms[first : first + size]
        # ‖x - norm u‖² is least where norm (u·x - norm / 2) is largest; nothing may overflow
        relative = norm / norm.max().clamp_min(torch.finfo(x.dtype).tiny)
        unit = unit_factors(torch.maximum(x.abs().amax(dim=1, keepdim=True), norm.max()))
        nearest = (relative * ((x * unit) @ book.T - 0.5 * norm * unit)).argmax(dim=1)
        codes[torch.arange(len(x), device=x.device), first + nearest] = norm[nearest]
        x = x - norm[nearest, None] * book[nearest]
        first += size
    return codes
