"""A sparse autoencoder: its parameters and the forward pass through the three operations."""

from dataclasses import dataclass

import torch

from .sparse import decode, encode_at, select


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
    architecture : object
        An instance of a class of `ARCHITECTURES`.
    """

    dictionary: torch.Tensor
    encoder_weight: torch.Tensor
    encoder_bias: torch.Tensor
    intercept: torch.Tensor
    architecture: object

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
        )

    @property
    def parameters(self):
        return [self.dictionary, self.encoder_weight, self.encoder_bias, self.intercept]

    def _bias(self):
        """Bias on uncentred x: (x - b) W_encᵀ + b_enc = x W_encᵀ + (b_enc - W_enc b)."""
        return torch.addmv(self.encoder_bias, self.encoder_weight, self.intercept, alpha=-1)

    def select(self, x):
        """Support of the code of x (B, n_features); no gradient."""
        rule = self.architecture
        return select(
            x, self.encoder_weight, self._bias(), rule.active, with_margin=rule.has_margin
        )

    def encode(self, x, support):
        """Code of x at the support, (nnz,), or everywhere, (B, n_components), without one."""
        return self.architecture.values(encode_at(x, self.encoder_weight, self._bias(), support))

    @torch.no_grad()
    def infer(self, x):
        """Dense code of x (B, n_features), without gradient.

        The intercept is subtracted from the data rather than folded into the bias: x may lie
        far from the origin, where float32 would lose the last digits of the product.
        """
        pre_activations = encode_at(
            x - self.intercept, self.encoder_weight, self.encoder_bias, None
        )
        return self.architecture.values(pre_activations)

    def residual(self, x, support):
        """Code of x, as `encode`, and what it leaves: x - b - z D, (B, n_features)."""
        values = self.encode(x, support)
        return values, x - self.intercept - decode(values, support, self.dictionary)

    def objective(self, x, alpha, support):
        """Sum over the rows of x of ½‖x - b - z D‖² + penalty(z).

        Returns
        -------
        objective : tensor, scalar
        values : tensor
            The codes, for whoever counts them.
        """
        values, residual = self.residual(x, support)
        penalty = self.architecture.penalty(values, alpha)
        return 0.5 * residual.square().sum() + penalty.sum(), values
