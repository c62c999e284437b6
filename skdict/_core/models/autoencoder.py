"""A sparse autoencoder: its parameters and its forward pass through the three operations."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from ..coding.selection import SELECTIONS
from ..distributed.candidates import largest_of_groups, merge_candidates
from ..distributed.gradients import shared
from ..distributed.strategy import ALONE, Strategy
from ..kernels import Support, encode_at, sampled_product, select
from .architectures import Architecture
from .architectures.base import Target


@dataclass
class Autoencoder:
    """Parameters of a dictionary with an amortised encoder, and its forward pass.

    It holds the tensors, and gives them to its architecture, which decides what is done with them.

    Parameters
    ----------
    dictionary : tensor of shape (n_components, n_features)
        The atoms, unit rows.
    encoder_weight : tensor of shape (n_components, n_features)
    encoder_bias : tensor of shape (n_components,)
    intercept : tensor of shape (n_features,)
        Subtracted before the encoder and added after the decoder.
    architecture : Architecture
    state : dict of str to tensor of shape (n_components,)
        What the architecture learns for each component beside atom and encoder.
    strategy : Strategy
        Says whether these are all components, or those of one of several processes.
    """

    dictionary: torch.Tensor
    encoder_weight: torch.Tensor
    encoder_bias: torch.Tensor
    intercept: torch.Tensor
    architecture: Architecture
    state: dict = field(default_factory=dict)
    strategy: Strategy = ALONE

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
            state=architecture.initial_state(dictionary.new_zeros(n_components)),
        )

    @property
    def row_parameters(self):
        """Parameters whose first axis is the component."""
        running_stats = self.architecture.running_stats
        state = [tensor for name, tensor in self.state.items() if name not in running_stats]
        return [self.dictionary, self.encoder_weight, self.encoder_bias, *state]

    @property
    def parameters(self):
        """All tensors that get gradients."""
        return [*self.row_parameters, self.intercept]

    @property
    def tensors(self):
        """All tensors, the running statistics of the architecture included."""
        return [
            self.dictionary,
            self.encoder_weight,
            self.encoder_bias,
            *self.state.values(),
            self.intercept,
        ]

    @torch.no_grad()
    def select(self, centred):
        """Support of the code of x, given x - b (B, n_features); no gradient."""

        def scan(offset=0.0, k=None, selection="positive"):
            if self.strategy.shards_atoms:
                return self._scan_shard(centred, offset, k, selection)
            if selection == "positive":
                return select(centred, self.encoder_weight, self.encoder_bias - offset, k)
            p = F.linear(centred, self.encoder_weight, self.encoder_bias)
            return Support.of(SELECTIONS[selection](p, None, k))[0]

        with self.strategy.active():
            return self.architecture.select(scan, self.state, len(centred))

    def _scan_shard(self, centred, offset, k, selection):
        """`scan` where other processes hold the other components."""
        weight, bias = self.encoder_weight, self.encoder_bias - offset
        n_largest = None if k is None else min(k, len(bias))
        if selection == "positive":
            support = select(centred, weight, bias, n_largest)
            if k is None:
                return support
            products = support.products
            if products is None:
                products = sampled_product(centred, weight, support)
            return merge_candidates(support, products + bias[support.indices], k, self.strategy)
        p = F.linear(centred, weight, bias)
        if selection == "groups":
            return Support.of(largest_of_groups(p, k, self.strategy))[0]
        support, keys = Support.of(SELECTIONS[selection](p, None, n_largest))
        keys = keys.abs() if selection == "absolute" else keys
        return merge_candidates(support, keys, k, self.strategy)

    @property
    def is_separable(self):
        """Whether `values` finds codes without `select`, of this process's components alone."""
        return self.architecture.n_largest is None or not self.strategy.shards_atoms

    def state_at(self, support):
        """The architecture's state for each entry of the support."""
        if support is None:
            return self.state
        return {
            name: tensor.index_select(0, support.indices) for name, tensor in self.state.items()
        }

    def pre_activations(self, centred, support):
        intercept = shared(self.intercept, self.strategy.features)
        return encode_at(centred, self.encoder_weight, self.encoder_bias, intercept, support)

    def objective(self, centred, alpha, support):
        """The architecture's objective, summed over the rows of x: ½‖x - b - z D‖² + penalty.

        Parameters
        ----------
        centred : tensor of shape (B, n_features)
            x - b, as data.
        alpha : float
        support : Support or None
            From `select`; None computes everywhere, which pays while codes are dense, and which
            `is_separable` has to allow.

        Returns
        -------
        objective : tensor, scalar
            Of the entries of this process. The sum over all processes is that of all entries.
        values : tensor of shape (nnz,), or (B, n_components) without a support
            The codes. No gradient.
        residual : tensor of shape (B, n_features)
            x - b - z D. No gradient.
        """
        target = Target(centred, support, self.dictionary, self.intercept, self.strategy)
        with self.strategy.active():
            objective, values, residual = self.architecture.objective(
                self.pre_activations(centred, support), self.state_at(support), alpha, target
            )
        return objective, values.detach(), residual

    def folded(self):
        """Weight, bias and threshold (or None) of an `Encoder`, without gradient."""
        with torch.no_grad():
            return self.architecture.fold(self.encoder_weight, self.encoder_bias, self.state)
