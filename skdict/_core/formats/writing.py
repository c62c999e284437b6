"""Dictionaries in the terms of other libraries, and files for them."""

import json
from typing import NamedTuple

import torch

from ..coding import Encoder
from .tensors import FormatError


class Exported(NamedTuple):
    """z = what is selected of (x - o) W + c;   x̂ = z D + b: float32, contiguous.

    Parameters
    ----------
    encoder : tensor of shape (n_components, n_inputs)
        W transposed.
    encoder_bias : tensor of shape (n_components,)
    decoder : tensor of shape (n_components, n_features)
    decoder_bias : tensor of shape (n_features,)
    threshold : tensor of shape (n_components,) or None
    """

    encoder: torch.Tensor
    encoder_bias: torch.Tensor
    decoder: torch.Tensor
    decoder_bias: torch.Tensor
    threshold: torch.Tensor | None


def check_holds(dictionary, library, *, selections=("positive",), transcodes=False):
    """Refuse a dictionary that another library cannot have.

    Parameters
    ----------
    dictionary : Dictionary
    library : str
        In errors.
    selections : tuple of str
        Of `Encoder`, those that the library has.
    transcodes : bool
        Whether it knows transcoders.

    Raises
    ------
    ValueError
        If there is no encoder, or one of another kind.
    """
    encoder = dictionary.encoder
    if not isinstance(encoder, Encoder):
        what = "has no encoder of an autoencoder"
    elif encoder.selection not in selections:
        what = f"keeps entries by the rule {encoder.selection!r}"
    elif dictionary.normalization is not None:
        what = f"normalises each row ({dictionary.normalization.kind})"
    elif not transcodes and (dictionary.is_transcoder or dictionary.skip is not None):
        what = "is a transcoder"
    elif encoder.divisor is not None and encoder.n_largest is not None:
        what = "ranks latents in other units than those of its codes (code_scale_)"
    else:
        return
    raise FormatError(f"{library} cannot hold a dictionary that {what}. Use format='skdict'.")


def exported(dictionary, offset):
    """The parameters of a dictionary for a library that subtracts a given offset.

    Parameters
    ----------
    dictionary : Dictionary
        One that `check_holds` lets through.
    offset : tensor of shape (n_inputs,) or None
        What the library subtracts from the input; None is nothing. Another offset of the
        dictionary is folded into the encoder's bias, in float64.

    Returns
    -------
    out : Exported
    """
    encoder = dictionary.encoder
    weight, bias, threshold = encoder.weight, encoder.bias, encoder.threshold
    if encoder.divisor is not None:
        factor = 1 / encoder.divisor.double()
        weight, bias = factor[:, None] * weight.double(), factor * bias.double()
        threshold = None if threshold is None else factor * threshold.double()
    own = dictionary.intercept if dictionary.offset is None else dictionary.offset
    given = torch.zeros_like(own) if offset is None else offset
    if not torch.equal(own, given):
        bias = bias.double() + weight.double() @ (given.double() - own.double())
    tensors = weight, bias, dictionary.atoms, dictionary.intercept, threshold
    return Exported(*(None if part is None else _plain(part) for part in tensors))


def _plain(tensor):
    """On the CPU, with memory of its own."""
    tensor = tensor.detach().to("cpu", torch.float32)
    return tensor.clone(memory_format=torch.contiguous_format)


def write_torch(path, state):
    """Write tensors by name as ``torch.save`` does, each contiguous and with its own memory.

    Parameters
    ----------
    path : Path
    state : dict of str to tensor
    """
    torch.save({name: tensor.detach().contiguous() for name, tensor in state.items()}, path)


def write_safetensors(path, state):
    """Write tensors by name as safetensors, each contiguous.

    Parameters
    ----------
    path : Path
    state : dict of str to tensor
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def write_json(path, config):
    """Write a configuration, without what is not known.

    Parameters
    ----------
    path : Path
    config : dict
    """
    path.write_text(json.dumps(_known(config), indent=2) + "\n", encoding="utf-8")


def _known(config):
    if not isinstance(config, dict):
        return config
    return {key: _known(value) for key, value in config.items() if value is not None}
