"""Arrays as the input of a model that does not take texts."""

import math

import numpy as np
import torch


class Samples:
    """Samples of one shape, with the methods of `TokenWindows`.

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

    token_ids = None
    usual_axis = None  # arrays have no usual axis for features

    @property
    def kind(self):
        """What the layer's width may depend on."""
        return self.X.shape[1:], self.X.dtype.kind

    def content(self, sample):
        """Return what the model is given of a sample, an array."""
        return self.X[sample]

    def first(self):
        """Return one sample, enough to see the shape of a layer's activation."""
        return Samples(self.X[:1])

    def probes(self, network):
        """Return two samples, to try whether a batch changes them; see `TokenWindows.probes`."""
        others = (i for i in range(1, len(self.X)) if not np.array_equal(self.X[i], self.X[0]))
        other = next(others, None)
        if other is None:
            return [], False
        return [(False, Samples(self.X[[0, other]]))], True

    def dtypes(self, network):
        """Return the dtypes in which the samples may be given, to be tried in this order."""
        if self.X.dtype.kind in "biu":
            return (
                [torch.int64] if network.takes_only_token_ids else [torch.int64, *network.dtypes]
            )
        return network.dtypes

    def explain(self, error, network, layer):
        """Raise a clearer error than torch's, if the cause is known."""
        if not isinstance(error, IndexError | RuntimeError):
            return
        message = (
            f"The model cannot be run on X, which has dtype {self.X.dtype}, shape {self.X.shape} "
            f"and entries from {self.X.min()} to {self.X.max()}: {error}."
        )
        modules = network.module.modules()
        n_ids = [m.num_embeddings for m in modules if isinstance(m, torch.nn.Embedding)]
        if n_ids:
            message += (
                f" It looks up token ids in embeddings of {', '.join(map(str, n_ids))} rows: give "
                "them as integers, X.astype(int)."
            )
        raise ValueError(message) from error

    def n_rows(self, n_positions):
        """Number of rows of each sample, the same for all."""
        return np.full(len(self), n_positions)

    def positions(self, grid):
        """Return the place of each row, a dict of arrays; see `ActivationExtractor.positions`.

        Parameters
        ----------
        grid : tuple of int
            Shape of the activation of one sample, without its features.
        """
        n_rows = math.prod(grid)
        axes = np.indices(grid).reshape(len(grid), n_rows)
        named = zip(self._axis_names(len(grid)), axes, strict=True)
        return {
            "document": np.repeat(self.document, n_rows),
            **{name: np.tile(axis, len(self)) for name, axis in named},
        }

    def _axis_names(self, n_axes):
        if n_axes == 1:  # integers are token ids, and what comes from larger samples are patches
            is_series = self.X.dtype.kind == "f" and self.X.ndim < 4
            return ["time" if is_series else "position"]
        if n_axes > 3:
            return [f"axis_{axis}" for axis in range(1, n_axes + 1)]
        return ["z", "y", "x"][3 - n_axes :]

    def select(self, sample, activations):
        """Select the rows of a sample from its activations: all of them."""
        return activations

    def arguments(self, network, batch, dtype):
        """Return positional and keyword arguments of the model for some samples."""
        return (torch.from_numpy(self.X[batch]).to(network.device, dtype),), {}

    def split(self, activation, batch, feature_axis):
        """Split the activation of a batch into one array (n_positions, n_features) per sample."""
        if activation.ndim < 2 or len(activation) != len(batch):
            raise ValueError(
                f"The layer gives shape {tuple(activation.shape)} for {len(batch)} samples, but "
                "(n_samples, n_features), (n_samples, n_positions, n_features) or (n_samples, "
                "n_channels, height, width) is needed. Name another layer, or its other side."
            )
        activation = activation.movedim(feature_axis, -1)
        rows = activation.flatten(1, -2) if activation.ndim > 2 else activation[:, None]
        return list(rows.float().cpu().numpy())
