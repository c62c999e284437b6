"""Solvers and dictionaries as plain containers of ndarrays, and back on a device."""

import torch

from ..coding import Encoder
from ..dictionary import Dictionary
from ..distributed.strategy import ALONE
from ..tensors import as_arrays, as_tensors, mapped

# Of a dictionary that training leaves; what it has besides is of other libraries.
OF_TRAINING = ("components", "intercept", "alpha", "architecture", "state")
# Of these, what has a row for each component in all of its tensors.
OF_ROWS = ("components", "encoder", "state")


def dictionary_state(dictionary, of_rows=None):
    """A dictionary that training has left, on its memory where that is on the CPU.

    Parameters
    ----------
    dictionary : Dictionary
    of_rows : callable, optional
        Applied to each tensor with a row for each component.

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
    if of_rows is not None:
        for name in OF_ROWS:
            parts[name] = mapped(parts[name], torch.Tensor, of_rows)
    return as_arrays(parts)


def dictionary_from_state(state, device, of_rows=None):
    """Undo `dictionary_state`, on a device; ``of_rows`` is applied as there."""
    parts = on_device(state, device)
    if of_rows is not None:
        for name in OF_ROWS:
            parts[name] = mapped(parts[name], torch.Tensor, of_rows)
    if parts["encoder"] is not None:
        parts["encoder"] = Encoder(**parts["encoder"])
    return Dictionary(**parts)


def solver_from_state(kind, state, device, strategy=ALONE):
    """A solver of a class, as its ``state_dict`` has it, on a device.

    With a strategy by which processes hold different atoms the state is that of this one.
    """
    return kind.from_state_dict(state, device, strategy)


def on_device(state, device):
    """Nested containers with tensors on a device where there were ndarrays."""
    return _moved(as_tensors(state), device)


def _moved(state, device):
    if isinstance(state, torch.Tensor):
        return state.to(device)
    if isinstance(state, dict):
        return {name: _moved(part, device) for name, part in state.items()}
    return state
