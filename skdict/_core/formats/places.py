"""Which layer of a model files are of, as their names, their paths and a request say it."""

import re

from .config import shorten
from .tensors import FormatError


def number_in(pattern, text):
    """The number that a text ends in saying, such as that of a layer in a path.

    Parameters
    ----------
    pattern : str
        A regular expression with one group, of digits. The last match counts.
    text : str

    Returns
    -------
    number : int or None
    """
    found = re.findall(pattern, text)
    return int(found[-1]) if found else None


def layer_number(hook):
    """The number of the layer in a name of TransformerLens, as "blocks.3.hook_resid_post".

    Parameters
    ----------
    hook : str or None

    Returns
    -------
    number : int or None
    """
    return number_in(r"^blocks\.(\d+)\.", hook or "")


def between_hooks(config, request, hook):
    """What the keys of Language-Model-SAEs say of where a dictionary reads and writes.

    Parameters
    ----------
    config : Config
    request : Request
        Its layer has to be that of the hook.
    hook : str or None
        Where it reads.

    Returns
    -------
    activation : dict
        As of a `Record`; with "hook_out" where it writes elsewhere, as a transcoder.
    """
    hook_out = config.get("hook_point_out", hook, str)
    number = layer_number(hook)
    request.check_layer(number, config.where)
    activation = {"hook": hook, "layer_number": number}
    return activation if hook_out == hook else {**activation, "hook_out": hook_out}


def module_and_side(name):
    """The path of a module of transformers, and its side, of "model.layers.3.output".

    Parameters
    ----------
    name : str
        Without a side it is the output.

    Returns
    -------
    module : str
    side : {"input", "output"}
    """
    module, _, side = name.rpartition(".")
    return (module, side) if module and side in ("input", "output") else (name, "output")


def agreed(where, noun, found):
    """What several places say, which has to be the same.

    Parameters
    ----------
    where : str
        The files, in errors.
    noun : str
        What it is, in errors.
    found : dict of str to object
        What each place says; None says nothing.

    Returns
    -------
    value : object
        None if no place says anything.

    Raises
    ------
    ValueError
        If two places differ.
    """
    said = {place: value for place, value in found.items() if value is not None}
    values = list(said.values())
    if any(value != values[0] for value in values[1:]):
        listed = ", ".join(f"{place} says {value!r}" for place, value in said.items())
        raise FormatError(
            f"{where}: the {noun} is not clear: {listed}. Correct the one that is wrong."
        )
    return values[0] if values else None


def file_of_layer(files, names, pattern, layer):
    """The one of several files that is of a layer.

    Parameters
    ----------
    files : Files
    names : list of str
    pattern : str
        What the full name of a file says its layer by, with one group of digits.
    layer : int or None
        What is asked for. None takes the only file.

    Returns
    -------
    name : str
    number : int or None
        The layer; None if neither the name nor the request says it.

    Raises
    ------
    ValueError
        If there is no such file, or more than one.
    """
    if layer is not None and layer < 0:
        raise FormatError(f"layer must be at least 0, not {layer}.")
    numbers = {name: number_in(pattern, files.full(name)) for name in names}
    fitting = names
    if layer is not None:  # those that do not say may be of it
        fitting = [name for name in names if numbers[name] == layer]
        fitting = fitting or [name for name in names if numbers[name] is None]
    if len(fitting) == 1:
        number = numbers[fitting[0]]
        return fitting[0], layer if number is None else number
    layers = sorted({number for number in numbers.values() if number is not None})
    if not fitting:
        raise FormatError(f"{files.where} has no layer {layer}: it has {shorten(layers)}.")
    one = "one with layer= or path=" if layer is None else "the folder of one with path="
    raise FormatError(
        f"{files.where} has several dictionaries, {shorten(fitting)}, of the layers "
        f"{shorten(layers)}. Name {one}."
    )
