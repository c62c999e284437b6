"""A sparse autoencoder: its parameters and its forward pass through the three operations."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from ..kernels import encode_at, select


@dataclass
class Autoencoder:
    """Parameters of a dictionary with an amortised encoder.

    Parameters
    ----------
    dictionary : tensor of shape (n_components, n_features)
        The atoms, unit rows.
    encoder_weight : tensor of shape (n_components, n_features)
    encoder_bias : tensor of shape (n_components,)
    intercept : tensor of shape (n_features,)
        Subtracted before the encoder and added after the decoder.
    architecture : Architecture
    extra : dict of str to tensor of shape (n_components,)
        What the architecture learns for each component besides.
    """

    dictionary: torch.Tensor
    encoder_weight: torch.Tensor
    encoder_bias: torch.Tensor
    intercept: torch.Tensor
    architecture: object
    extra: dict = field(default_factory=dict)

    @classmethod
    def from_dictionary(cls, dictionary, architecture, *, encoder_scale):
        """Start from given atoms: encoder rows are the atoms times ``encoder_scale``."""
        n_components, n_features = dictionary.shape
        return cls(
            dictionary=dictionary.clone(),
            encoder_weight=encoder_scale * dictionary,
            encoder_bias=dictionary.new_zeros(n_components),
            intercept=dictionary.new_zeros(n_features),
            architecture=architecture,
            extra=architecture.initial(dictionary.new_zeros(n_components)),
        )

    @property
    def of_components(self):
        """What gradients change, with a row, or an entry, for each component."""
        observed = self.architecture.observed
        extra = [tensor for name, tensor in self.extra.items() if name not in observed]
        return [self.dictionary, self.encoder_weight, self.encoder_bias, *extra]

    @property
    def parameters(self):
        """All that gradients change."""
        return [*self.of_components, self.intercept]

    @property
    def tensors(self):
        """All state, what the architecture observes included."""
        return [
            self.dictionary,
            self.encoder_weight,
            self.encoder_bias,
            *self.extra.values(),
            self.intercept,
        ]

    @torch.no_grad()
    def select(self, centred):
        """Support of the code of x, given x - b (B, n_features); no gradient."""

        def scan(offset=0.0, k=None):
            return select(centred, self.encoder_weight, self.encoder_bias - offset, k)

        return self.architecture.select(scan, self.extra, len(centred))

    def extra_at(self, support):
        """What the architecture learns besides, for each entry of the support."""
        if support is None:
            return self.extra
        return {
            name: tensor.index_select(0, support.indices) for name, tensor in self.extra.items()
        }

    def pre_activations(self, centred, support):
        return encode_at(centred, self.encoder_weight, self.encoder_bias, self.intercept, support)

    def objective(self, centred, alpha, support):
        """Sum over the rows of x of ½‖x - b - z D‖² + penalty(z), or the architecture's own.

        Parameters
        ----------
        centred : tensor of shape (B, n_features)
            x - b, as data.
        alpha : float
        support : Support or None
            From `select`; None computes everywhere, which pays while codes are dense.

        Returns
        -------
        objective : tensor, scalar
        values : tensor of shape (nnz,), or (B, n_components) without a support
            The codes. No gradient.
        residual : tensor of shape (B, n_features)
            x - b - z D. No gradient.
        """
        return self.architecture.objective(self, centred, alpha, support)

    def folded(self):
        """Encoder weight, bias and threshold (or None) for `infer`, without gradient."""
        weight, bias, extra = self.encoder_weight, self.encoder_bias, self.extra
        with torch.no_grad():
            return self.architecture.fold(weight, bias, extra)

    def infer(self, x):
        """Dense code of x (B, n_features), without gradient."""
        return infer(x, *self.folded(), self.intercept, self.architecture)


@torch.no_grad()
def infer(x, weight, bias, threshold, intercept, architecture):
    """Dense code of x (B, n_features) by a folded encoder.

    The intercept is subtracted from the data rather than folded into the bias: x may lie far
    from the origin, where float32 would lose the last digits of the product.
    """
    return architecture.codes(F.linear(x - intercept, weight, bias), threshold)
