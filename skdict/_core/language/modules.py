"""Find a module of a model by its dotted path."""

import difflib

import torch


class NoSuchModuleError(ValueError):
    """A path names no module of a model."""


def find_module(model, layer):
    """Return the submodule of a model that a dotted path names.

    Parameters
    ----------
    model : torch.nn.Module
        The model to look in.

    layer : str
        Dotted path as in ``model.named_modules()``, such as "transformer.h.0.mlp". The
        empty string is the model itself.

    Returns
    -------
    module : torch.nn.Module

    Raises
    ------
    ValueError
        If there is no such submodule; the message lists the nearest names.
    """
    return way_to(model, layer)[-1]


def _of_torchscript(layer, module):
    return (
        f"layer={layer!r} is of a {type(module).__name__}, and TorchScript does not call hooks. "
        "Give the module that it was made from."
    )


def way_to(model, layer):
    """Return the modules on the way down to a layer: the model first, the layer itself last.

    Parameters and exceptions are those of `find_module`.
    """
    names = layer.split(".") if layer else []
    way = [model]
    try:
        for depth in range(len(names)):
            if isinstance(way[-1], torch.jit.ScriptModule):
                raise ValueError(_of_torchscript(layer, way[-1]))
            way.append(model.get_submodule(".".join(names[: depth + 1])))
        # a traced module is called by Python, which does call its hooks
        is_traced = isinstance(way[-1], torch.jit.TopLevelTracedModule)
        if isinstance(way[-1], torch.jit.ScriptModule) and not is_traced:
            raise ValueError(_of_torchscript(layer, way[-1]))
        return way
    except AttributeError:
        names = [name for name, _ in model.named_modules() if name]
        nearest = [name for name in names if name.endswith(f".{layer}")][:5]
        nearest += difflib.get_close_matches(layer, names, n=5, cutoff=0)
        hint = f"The nearest names are {list(dict.fromkeys(nearest))}. " if nearest else ""
        raise NoSuchModuleError(
            f"layer={layer!r} names no submodule of {type(model).__name__}. {hint}All names: "
            "[name for name, _ in model.named_modules()]. A state that only the model's output "
            'has needs a wrapper, see "Your own model and tokenizer" in the user guide.'
        ) from None
