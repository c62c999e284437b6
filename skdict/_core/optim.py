"""Optimiser, learning-rate schedule, unit-norm atoms."""

import copy
import math
from operator import itemgetter

import torch

from .kernels.scaling import unit_factors


def learning_rate_factor(step, n_steps, warmup, decay):
    """Linear warm-up over the first, linear decay to zero over the last part of training.

    ``warmup`` and ``decay`` are fractions of ``n_steps``.
    """
    rise = (step + 1) / max(warmup * n_steps, 1)
    fall = (n_steps - step) / max(decay * n_steps, 1)
    return min(1.0, rise, fall)


class UnitNormAdam:
    """Adam with clipped gradient norm, for an `Autoencoder` whose atoms have unit norm.

    Each step removes the component of the dictionary's gradient along each atom, which could
    only change the atom's norm, and renormalises the atoms afterwards.
    """

    def __init__(self, autoencoder, max_norm=1.0):
        self.autoencoder = autoencoder
        self.max_norm = max_norm
        self._adam = torch.optim.Adam(autoencoder.parameters, lr=0.0, fused=True)

    def step(self, learning_rate):
        dictionary = self.autoencoder.dictionary
        with torch.no_grad():
            remove_along_(dictionary.grad, dictionary)
        self._clip_gradient()
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            normalize_(dictionary)

    def _clip_gradient(self):
        """By the norm of the gradient of all components, those of other processes included."""
        autoencoder, features = self.autoencoder, self.autoencoder.strategy.features
        if features.size == 1:
            torch.nn.utils.clip_grad_norm_(autoencoder.parameters, self.max_norm)
            return
        grads = [p.grad for p in autoencoder.row_parameters if p.grad is not None]
        squares = features.sum_(torch.nn.utils.get_total_norm(grads).square())
        if autoencoder.intercept.grad is not None:  # the same in all processes
            squares = squares + torch.linalg.vector_norm(autoencoder.intercept.grad).square()
        torch.nn.utils.clip_grads_with_norm_(autoencoder.parameters, self.max_norm, squares.sqrt())

    def reset_rows(self, rows):
        """Forget the moments of some components."""
        for parameter in self.autoencoder.row_parameters:
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in self._adam.state[parameter]:
                    self._adam.state[parameter][moment][rows] = 0

    def state_dict(self):
        return self._adam.state_dict()

    def load_state_dict(self, state):
        """Go on from a state, with tensors of its own; a KeyError if something is missing."""
        for moments in state["state"].values():  # torch would look for them in the next step
            itemgetter("step", "exp_avg", "exp_avg_sq")(moments)
        self._adam.load_state_dict(copy.deepcopy(state))


def remove_along_(vectors, atoms):
    """Take from each row of vectors its component along the unit atom of that row, in place."""
    along = (vectors * atoms).sum(dim=1, keepdim=True)
    return vectors.addcmul_(along, atoms, value=-1)


def normalize_(dictionary):
    """Give every row unit norm, in place; a zero row stays zero.

    A row whose norm overflows has no direction left, and becomes NaN: not zero, which would pass
    for an atom that nothing has changed.
    """
    norm = torch.linalg.vector_norm(dictionary, dim=1, keepdim=True)
    norm.nan_to_num_(nan=math.nan, posinf=math.nan, neginf=math.nan)
    return dictionary.div_(norm.clamp_min_(torch.finfo(dictionary.dtype).tiny))


def fitting_scale(estimate, target):
    """The factor of estimate, both (B, n_features), that fits target best: least squares.

    1 where the estimate is zero.
    """
    largest = estimate.abs().max()
    of_estimate, of_target = unit_factors(largest), unit_factors(target.abs().max())
    estimate, target = estimate * of_estimate, target * of_target
    scale = (estimate * target).sum() / estimate.square().sum() * (of_estimate / of_target)
    return torch.where(largest > 0, scale, 1)
