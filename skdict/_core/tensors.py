"""Between tensors and ndarrays, and what is the same up to rounding."""

import numpy as np
import torch

# Values are equal that differ by no more than so many roundings of the larger.
ROUNDINGS = 4


def from_numpy(array):
    """`torch.from_numpy`, with a copy where torch must not share: read-only or backwards."""
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()
    return torch.from_numpy(array)


def as_arrays(state):
    """Dicts, lists and tuples with ndarrays where they had tensors; copied only from a GPU."""
    return _mapped(state, torch.Tensor, lambda tensor: tensor.detach().cpu().numpy())


def as_tensors(state):
    """Undo `as_arrays`, with tensors that can be written to."""
    return _mapped(state, np.ndarray, from_numpy)


def _mapped(state, kind, function):
    """Nested containers with a function applied to all that is of a kind."""
    if isinstance(state, kind):
        return function(state)
    if isinstance(state, dict):
        return {key: _mapped(value, kind, function) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_mapped(value, kind, function) for value in state)
    return state


def away_from(x, mean):
    """Which rows of x (B, n_features) differ from a mean by more than rounding: (B,), bool."""
    rounding = ROUNDINGS * torch.finfo(mean.dtype).eps * mean.abs()
    return ((x - mean).abs() > rounding).any(dim=1)
