"""Optimiser, schedules, unit-norm atoms, revival of dead features."""

import torch


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
            along = (dictionary.grad * dictionary).sum(dim=1, keepdim=True)
            dictionary.grad.addcmul_(along, dictionary, value=-1)
        torch.nn.utils.clip_grad_norm_(self.autoencoder.parameters, self.max_norm)
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            normalize_(dictionary)

    def reset_rows(self, rows):
        """Forget the moments of some components."""
        for parameter in self.autoencoder.parameters[:3]:
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in self._adam.state[parameter]:
                    self._adam.state[parameter][moment][rows] = 0

    def state_dict(self):
        """A copy of Adam's state, on the CPU."""
        state = self._adam.state_dict()
        state["state"] = {
            key: {name: value.cpu().clone() for name, value in moments.items()}
            for key, moments in state["state"].items()
        }
        return state

    def load_state_dict(self, state):
        self._adam.load_state_dict(state)


def normalize_(dictionary):
    """Give every row unit norm, in place; a zero row stays zero."""
    norm = torch.linalg.vector_norm(dictionary, dim=1, keepdim=True)
    return dictionary.div_(norm.clamp_min_(torch.finfo(dictionary.dtype).tiny))


@torch.no_grad()
def revive(autoencoder, optimizer, dead, x, loss, generator):
    """Point dead features at samples that are badly reconstructed.

    As in "Towards Monosemanticity": samples are drawn with probability proportional to their
    squared loss; the atom becomes the centred sample, scaled to unit norm, the encoder row the
    same direction at 0.2 times the mean norm of the rows that are alive, the bias zero, and
    Adam's state of the feature is forgotten.

    Parameters
    ----------
    dead : tensor of shape (n_components,), bool
    x : tensor of shape (n_samples, n_features)
        Samples to draw from.
    loss : tensor of shape (n_samples,)
        Their objective.
    generator : torch.Generator
        On the CPU, so that the draw does not depend on the device.
    """
    rows = dead.nonzero()[:, 0]
    if len(rows) == 0:
        return
    weights = loss.square().double().cpu()
    if not weights.sum() > 0:
        return
    with_replacement = len(rows) > int((weights > 0).sum())
    drawn = torch.multinomial(weights, len(rows), with_replacement, generator=generator)
    directions = normalize_(x[drawn.to(x.device)] - autoencoder.intercept)
    norms = torch.linalg.vector_norm(autoencoder.encoder_weight, dim=1)
    alive_norm = norms[~dead].mean() if bool((~dead).any()) else norms.mean()
    autoencoder.dictionary[rows] = directions
    autoencoder.encoder_weight[rows] = 0.2 * alive_norm * directions
    autoencoder.encoder_bias[rows] = 0
    optimizer.reset_rows(rows)
