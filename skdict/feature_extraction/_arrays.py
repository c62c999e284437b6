"""Arrays as the input of a model that takes no text."""

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils.validation import validate_data

from ..utils._arrays import as_matrix, check_entries_finite


def check_samples(estimator, X, network, *, reset):
    """Validate an array for the model.

    Parameters
    ----------
    estimator : ActivationExtractor
        Gets `n_features_in_` set when `reset` is true, otherwise is compared with.

    X : array-like or torch.Tensor of shape (n_samples, ...)

    network : Network

    reset : bool

    Returns
    -------
    samples : Samples
    """
    samples = as_matrix(X, "X", estimator=estimator, allow_nd=True)
    if sp.issparse(samples):
        raise TypeError("X is a sparse matrix, but models take dense arrays. Use X.toarray().")
    if isinstance(samples, torch.Tensor):
        samples = samples.cpu()
        samples = (samples.float() if samples.dtype == torch.bfloat16 else samples).numpy()
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    if samples.dtype.kind in "biu" and network.takes_token_ids:
        samples = samples.astype(np.int64, copy=False)
    elif samples.dtype not in (np.float32, np.float64):
        samples = samples.astype(np.float32)
    check_entries_finite(samples, "X")
    return Samples(samples)


class Samples:
    """Samples of one shape; the counterpart of `TokenWindows`.

    Parameters
    ----------
    X : ndarray of shape (n_samples, ...)
    """

    def __init__(self, X):
        self.X = X
        self.document = np.arange(len(X))
        self.lengths = np.ones(len(X), dtype=np.int64)

    def __len__(self):
        return len(self.X)

    @property
    def sample_shape(self):
        """Shape of a sample."""
        return self.X.shape[1:]

    def content(self, sample):
        """What the model sees of a sample."""
        return self.X[sample]

    def first(self):
        """One sample, enough to see what a layer gives."""
        return Samples(self.X[:1])

    def n_rows(self, n_positions):
        """Rows of each sample, the same for all."""
        return np.full(len(self), n_positions)

    def select(self, sample, activations):
        """Rows of a sample among its activations: all."""
        return activations

    def arguments(self, network, batch):
        """Return positional and keyword arguments of the model for some samples."""
        inputs = torch.from_numpy(self.X[batch])
        dtype = network.dtype if inputs.is_floating_point() else inputs.dtype
        return (inputs.to(network.device, dtype),), {}

    def split(self, activation, batch):
        """Turn a batch's activation into one array (n_positions, n_features) per sample."""
        if activation.ndim < 2 or len(activation) != len(batch):
            raise ValueError(
                f"The layer gives shape {tuple(activation.shape)} for {len(batch)} samples, but "
                "(n_samples, n_features), (n_samples, n_positions, n_features) or (n_samples, "
                "n_channels, height, width) is needed. Name another layer, or its other side."
            )
        if activation.ndim > 3:
            activation = activation.movedim(1, -1)
        rows = activation.flatten(1, -2) if activation.ndim > 2 else activation[:, None]
        return list(rows.float().cpu().numpy())
