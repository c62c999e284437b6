"""Solvers and dictionaries as plain containers of ndarrays, and back on a device."""

import torch

from ..coding import Encoder
from ..dictionary import Dictionary
from ..tensors import as_arrays, as_tensors

# Of a dictionary that training leaves; what it has besides is of other libraries.
OF_TRAINING = ("components", "intercept", "alpha", "architecture", "state")


def dictionary_state(dictionary):
    """A dictionary that training has left, on its memory where that is on the CPU.

    Parameters
    ----------
    dictionary : Dictionary

    Returns
    -------
    state : dict

    Raises
    ------
    TypeError
        If it codes by something else than an `Encoder`.
    """
    encoder = dictionary.encoder
    if encoder is not None and not isinstance(encoder, Encoder):
        raise TypeError(
            f"A dictionary that codes by {type(encoder).__name__} cannot be kept with the state "
            "of its training: only an Encoder can."
        )
    parts = {name: getattr(dictionary, name) for name in OF_TRAINING}
    parts["encoder"] = None if encoder is None else dict(vars(encoder))
    return as_arrays(parts)


def dictionary_from_state(state, device):
    """Undo `dictionary_state`, on a device."""
    parts = on_device(state, device)
    if parts["encoder"] is not None:
        parts["encoder"] = Encoder(**parts["encoder"])
    return Dictionary(**parts)


def solver_from_state(kind, state, device):
    """A solver of a class, as its ``state_dict`` has it, on a device."""
    solver = kind.from_state_dict(state)
    return solver if device.type == "cpu" else solver.copy_to(device)


def on_device(state, device):
    """Nested containers with tensors on a device where there were ndarrays."""
    return _moved(as_tensors(state), device)


def _moved(state, device):
    if isinstance(state, torch.Tensor):
        return state.to(device)
    if isinstance(state, dict):
        return {name: _moved(part, device) for name, part in state.items()}
    return state
