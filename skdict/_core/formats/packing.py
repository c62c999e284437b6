"""Plain containers as JSON and named tensors, and back, to the last bit.

What JSON has no word for is an object with one key that begins with "$".
"""

import math

import numpy as np
import torch

from ..distributed.rows import OwnRows
from ..models.architectures import ARCHITECTURES, Architecture
from ..tensors import from_numpy
from .tensors import FormatError

# Kinds of ndarray that a safetensors file holds, beside bool.
NUMBERS = "iufb"


def pack(value, name, tensors):
    """What JSON can hold of a value; its arrays go into ``tensors``.

    Parameters
    ----------
    value : object
        Numbers, strings, arrays of them, tensors and architectures, in dicts, lists and tuples.
        `OwnRows` of arrays are for a state that several processes write.
    name : str
        Of the value: arrays in it are named after it.
    tensors : dict of str to tensor
        To which arrays are added; `OwnRows` as they are.

    Returns
    -------
    packed : object

    Raises
    ------
    TypeError
        If there is something else in it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu()
        return {"$tensor": name}
    if isinstance(value, np.ndarray):
        if value.dtype.kind in NUMBERS:
            tensors[name] = from_numpy(np.ascontiguousarray(value).reshape(value.shape))
            return {"$tensor": name}
        if all(isinstance(entry, str) for entry in value.flat) and value.ndim == 1:
            return {"$strings": value.tolist()}
    if isinstance(value, OwnRows):
        tensors[name] = value
        return {"$rows": name}
    if isinstance(value, Architecture):
        params = pack(value.get_params(), name, tensors)
        return {"$architecture": name_of(value), "params": params}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: pack(part, f"{name}.{key}", tensors) for key, part in value.items()}
        return {
            "$items": [
                [pack(key, name, tensors), pack(part, f"{name}.{key}", tensors)]
                for key, part in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        packed = [pack(part, f"{name}.{i}", tensors) for i, part in enumerate(value)]
        return {"$tuple": packed} if isinstance(value, tuple) else packed
    raise TypeError(f"{name} is a {type(value).__name__}, which cannot be written as plain data.")


def name_of(architecture):
    """The name that an architecture is registered by."""
    name = getattr(architecture, "name", None)
    if ARCHITECTURES.get(name) is not type(architecture):
        raise TypeError(
            f"The architecture {architecture!r} has no name to write down. Give its class one "
            "with skdict.decomposition.architectures.register."
        )
    return name


def unpack(packed, tensors):
    """Undo `pack`; arrays come back as ndarrays.

    Parameters
    ----------
    packed : object
    tensors : Tensors

    Returns
    -------
    value : object
        With what ``tensors.rows`` gives for each `OwnRows`.

    Raises
    ------
    ValueError
        If it is nothing that `pack` gives, or a tensor is missing.
    """
    if isinstance(packed, list):
        return [unpack(part, tensors) for part in packed]
    if not isinstance(packed, dict):
        return packed
    word = next((key for key in packed if key.startswith("$")), None)
    if word is None:
        return {key: unpack(part, tensors) for key, part in packed.items()}
    content = packed[word]
    try:
        return _UNPACK[word](content, packed, tensors)
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{tensors.where}: {word}: {content!r} is not known: {error}.") from None


def _tensor(name, _, tensors):
    tensor = tensors.take(name, kind="any", finite=False)
    return tensor.clone().numpy()  # memory of its own: the file may be mapped


def _architecture(name, packed, tensors):
    if name not in ARCHITECTURES:
        raise FormatError(
            f"{tensors.where}: the architecture {name!r} is not known here; there are "
            f"{list(ARCHITECTURES)}. Import what registers it first."
        )
    architecture = ARCHITECTURES[name](**unpack(packed["params"], tensors))
    architecture.validate()
    return architecture


_UNPACK = {
    "$tensor": _tensor,
    "$rows": lambda name, _, tensors: tensors.rows(name),
    "$float": lambda text, *_: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[text],
    "$strings": lambda strings, *_: np.array([str(each) for each in strings], dtype=object),
    "$tuple": lambda parts, _, tensors: tuple(unpack(parts, tensors)),
    "$items": lambda items, _, tensors: {
        unpack(key, tensors): unpack(part, tensors) for key, part in items
    },
    "$architecture": _architecture,
}
