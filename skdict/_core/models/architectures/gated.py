"""Gate and magnitude apart."""

import torch

from .base import Architecture
from .registry import register


@register("gated")
class Gated(Architecture):
    """Gate and magnitude apart (Rajamanoharan et al. 2024, "Improving Dictionary Learning ...").

    z = max(0, e^{r_j} p + c_j) where p > 0, else 0. The gate gets its gradient from the penalty
    α Σ_j max(0, p_j) and from the error of max(0, p) as a code, with the dictionary held fixed.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> from skdict.decomposition.architectures import Gated
    >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
    >>> sae = SparseAutoencoderDictionary(16, architecture=Gated(), random_state=0)
    >>> sae.fit(X).transform(X).shape
    (1000, 16)
    """

    distributed = True

    def initial_state(self, zeros):
        return {"log_gain": zeros.clone(), "shift": zeros.clone()}

    def values(self, pre_activations, state, n_rows):
        magnitude = torch.relu(pre_activations * state["log_gain"].exp() + state["shift"])
        return torch.where(pre_activations > 0, magnitude, 0)

    def objective(self, pre_activations, state, alpha, target):
        gate = torch.relu(pre_activations)
        values = self.values(pre_activations, state, len(target.centred))
        error, residual = self.error(values, target)
        fixed = target._replace(
            dictionary=target.dictionary.detach(), intercept=target.intercept.detach()
        )
        error_of_gate, _ = self.error(gate, fixed)
        return error + error_of_gate + alpha * gate.sum(), values, residual

    def rescale(self, state, rows, factor):
        state["shift"][rows] *= factor

    def in_units(self, state, factor):
        return {**state, "shift": factor * state["shift"]}

    def fold(self, weight, bias, state):
        gain = state["log_gain"].exp()
        shift = state["shift"]
        return gain[:, None] * weight, gain * bias + shift, shift.clamp_min(0)

    def undo_fold(self, weight, bias, state):
        gain = state["log_gain"].exp()
        return weight / gain[:, None], (bias - state["shift"]) / gain

    def unfold(self, bias, threshold):
        state = self.initial_state(torch.zeros_like(bias))
        if threshold is not None:
            bias, state["shift"] = bias - threshold, threshold
        return bias, state
