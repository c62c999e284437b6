"""A learned threshold for each feature."""

import math

import torch

from ...distributed.strategy import sum_over_processes
from ...parameters import is_number
from .base import Architecture, threshold_of
from .registry import register
from .relu import ReLU

# Bound of the logarithms of threshold and price: with a target that cannot be reached both would
# diverge.
MAX_LOG = 10.0


@register("jumprelu")
class JumpReLU(Architecture):
    """A learned threshold for each feature, under an L0 penalty (Rajamanoharan et al. 2024).

    z = p where p > θ_j, else 0; penalty (α²/2) ‖z‖₀. A feature with unit atom lowers the error by
    z²/2, so that the penalty asks, as the L1 penalty does, for a correlation of at least α with
    the residual. With a target k the penalty is multiplied by a price: while a code has more than
    k non-zeros on average, the price and all thresholds rise, while it has fewer, they fall.

    Thresholds get straight-through gradients from the pre-activations that are within half a
    bandwidth of them. The first three tenths of a fit from scratch, while alpha rises, train a
    `ReLU`.

    Bandwidth and initial threshold are in the units of training, where E‖x‖² is the number of
    features. The two rates are what logarithms change by in a step, for a relative excess of
    non-zeros of 1; larger ones count as 1.

    Parameters
    ----------
    k : int, default=None
        Mean number of non-zero entries to aim at. None takes the estimator's ``n_nonzero_coefs``;
        where that is None too there is no target, and ``alpha`` decides.
    bandwidth : float, default=0.5
        ε, the width of the window around θ that gives gradients.
    initial_threshold : float, default=0.5
        θ at the start.
    price_rate : float, default=0.02
        Rate of the price. A price alone would swing about the target for the whole run, as
        thresholds follow it slowly, and not at all once the learning rate has decayed.
    threshold_rate : float, default=0.02
        Rate of the thresholds; 0 leaves them to their gradients.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> from skdict.decomposition.architectures import JumpReLU
    >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
    >>> architecture = JumpReLU(k=3, bandwidth=1.0)
    >>> sae = SparseAutoencoderDictionary(16, architecture=architecture, random_state=0)
    >>> sae.fit(X).transform(X).shape
    (1000, 16)
    """

    running_stats = ("log_price",)
    first_variant_until = 0.3
    distributed = True

    def __init__(
        self,
        k=None,
        *,
        bandwidth=0.5,
        initial_threshold=0.5,
        price_rate=0.02,
        threshold_rate=0.02,
    ):
        self.k = k
        self.bandwidth = bandwidth
        self.initial_threshold = initial_threshold
        self.price_rate = price_rate
        self.threshold_rate = threshold_rate

    def validate(self):
        self._require_k()
        for name in ("bandwidth", "initial_threshold"):
            value = getattr(self, name)
            is_met = is_number(value) and 0 < value < math.inf
            self.require(name, is_met, "a finite float above 0")
        for name in ("price_rate", "threshold_rate"):
            value = getattr(self, name)
            is_met = is_number(value) and 0 <= value < math.inf
            self.require(name, is_met, "a finite float of at least 0")

    @property
    def sparsity(self):
        return "k", "alpha"

    def complete(self, n_components, default_k):
        super().complete(n_components, None)  # without k, alpha decides

    def first_variant(self):
        return ReLU()

    def initial_state(self, zeros):
        start = math.log(self.initial_threshold)
        return {"log_threshold": zeros + start, "log_price": zeros.clone()}

    def select(self, scan, state, n_rows):
        return scan(offset=state["log_threshold"].exp() - self.bandwidth / 2)

    def values(self, pre_activations, state, n_rows):
        return _Jump.apply(pre_activations, state["log_threshold"].exp(), self.bandwidth)

    def penalty(self, pre_activations, values, state, alpha):
        threshold = state["log_threshold"].exp()
        steps = _Step.apply(pre_activations, threshold, self.bandwidth)
        return 0.5 * alpha**2 * (state["log_price"].exp() * steps).sum()

    def update_running_stats(self, values, state, n_rows):
        if self.k is not None:
            # stays on the device
            n_active = sum_over_processes(torch.count_nonzero(values > 0)).double()
            excess = (n_active / (n_rows * self.k) - 1).clamp_max(1.0)
            for name, rate in (
                ("log_price", self.price_rate),
                ("log_threshold", self.threshold_rate),
            ):
                state[name].add_(rate * excess).clamp_(-MAX_LOG, MAX_LOG)

    def rescale(self, state, rows, factor):
        state["log_threshold"][rows] += factor.log()

    def in_units(self, state, factor):
        return {**state, "log_threshold": state["log_threshold"] + math.log(factor)}

    def calibrated(self, state, pre_activations):
        if self.k is None:
            return state
        threshold = threshold_of(pre_activations, self.k)
        start = math.log(max(threshold, torch.finfo(pre_activations.dtype).tiny))
        return {**state, "log_threshold": torch.full_like(state["log_threshold"], start)}

    def fold(self, weight, bias, state):
        return weight, bias, state["log_threshold"].exp()

    def unfold(self, bias, threshold):
        state = self.initial_state(torch.zeros_like(bias))
        if threshold is not None:
            start = state["log_threshold"]
            state["log_threshold"] = torch.where(threshold > 0, threshold.log(), start)
        return bias, state


class _Jump(torch.autograd.Function):
    """p where p > θ, else 0; ∂/∂θ = -(θ/ε) [|p - θ| < ε/2]."""

    @staticmethod
    def forward(ctx, pre_activations, threshold, bandwidth):
        ctx.save_for_backward(pre_activations, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(pre_activations > threshold, pre_activations, 0)

    @staticmethod
    def backward(ctx, grad):
        pre_activations, threshold = ctx.saved_tensors
        grad_threshold = _near(pre_activations, threshold, ctx.bandwidth) * grad * -threshold
        grad_pre_activations = torch.where(pre_activations > threshold, grad, 0)
        return grad_pre_activations, grad_threshold.sum_to_size(threshold.shape), None


class _Step(torch.autograd.Function):
    """1 where p > θ, else 0; ∂/∂θ = -(1/ε) [|p - θ| < ε/2], ∂/∂p = 0."""

    @staticmethod
    def forward(ctx, pre_activations, threshold, bandwidth):
        ctx.save_for_backward(pre_activations, threshold)
        ctx.bandwidth = bandwidth
        return (pre_activations > threshold).to(pre_activations.dtype)

    @staticmethod
    def backward(ctx, grad):
        pre_activations, threshold = ctx.saved_tensors
        grad_threshold = -_near(pre_activations, threshold, ctx.bandwidth) * grad
        return None, grad_threshold.sum_to_size(threshold.shape), None


def _near(pre_activations, threshold, bandwidth):
    """The rectangle of width ε and height 1/ε around the threshold."""
    return ((pre_activations - threshold).abs() < bandwidth / 2).to(threshold) / bandwidth
