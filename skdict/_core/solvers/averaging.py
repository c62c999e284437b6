"""The average of a stream's parameters, instead of a learning rate that decays."""

import torch

# The weight of a step goes about as this power of its number: the average reaches back over some
# 1 / (POWER + 1) of all steps.
POWER = 8


class Average:
    """Weighted average of parameters over the steps of a stream; the last ones weigh most.

    After step t it moves by (POWER + 1) / (t + POWER) towards the parameters: polynomial-decay
    averaging (Shamir and Zhang, "Stochastic gradient descent for non-smooth optimization", ICML
    2013). A learning rate that decays to zero needs to know the end; this does not.

    Parameters
    ----------
    tensors : list of tensor
        The parameters, which training changes in place. All but the last have an entry for each
        component.

    Attributes
    ----------
    values : list of tensor or None
        The average; None before the first step.
    """

    def __init__(self, tensors):
        self._tensors = [tensor.detach() for tensor in tensors]
        self.values = None
        self.n_steps = 0

    def update(self):
        """Take in the parameters as they are after a step."""
        self.n_steps += 1
        if self.values is None:
            self.values = [tensor.clone() for tensor in self._tensors]
        weight = (POWER + 1) / (self.n_steps + POWER)
        torch._foreach_lerp_(self.values, self._tensors, weight)

    def restart(self, rows):
        """Begin anew for the components (n_components,), bool, that have been resampled."""
        if self.values is not None:
            for value, tensor in zip(self.values[:-1], self._tensors[:-1], strict=True):
                value[rows] = tensor[rows]

    def state_dict(self):
        """The whole state, with the tensors themselves and not copies."""
        return {"values": self.values, "n_steps": self.n_steps}

    def load_state_dict(self, state, device):
        """Go on from a state, with tensors of its own."""
        self.n_steps = state["n_steps"]
        if state["values"] is not None:
            self.values = [value.to(device, copy=True) for value in state["values"]]
