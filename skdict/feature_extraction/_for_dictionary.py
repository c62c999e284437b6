"""An extractor for the place that a loaded dictionary was trained on."""

import torch
from sklearn.pipeline import Pipeline

from .._core.language.modules import find_module
from .._core.language.sites import find_place, site_of_hook
from ..utils._warnings import warn
from ._inputs import network_of
from ._row_transform import RowTransform

# What `activation_` may say that an extractor follows.
FOLLOWED = frozenset(
    {
        "model",
        "layer",
        "side",
        "hook",
        "layer_number",
        "transform",
        "scale",
        "context_size",
        "prepend_bos",
        "excluded_tokens",
        "heads",
        # of what a transcoder writes
        "target_layer",
        "target_layers",
        "target_side",
        "hook_out",
    }
)


def extractor_for(kind, dictionary, model, params):
    """The extractor, or a Pipeline of it with the transform of its rows.

    Parameters
    ----------
    kind : type
        The class of extractors.
    dictionary : estimator
    model : str, path, torch.nn.Module or None
    params : dict
        Of the extractor, to be used instead of what the dictionary says.

    Returns
    -------
    extractor : estimator
    """
    known = dict(getattr(dictionary, "activation_", None) or {})
    known = {name: value for name, value in known.items() if value is not None}
    model = known.get("model") if model is None else model
    if model is None:
        raise ValueError(
            "The dictionary does not say of which model it reads activations. Give model=."
        )
    if known.get("layers"):
        raise ValueError(
            f"The dictionary reads {len(known['layers'])} layers at once: "
            f"{', '.join(map(str, known['layers']))}. Make an extractor for each, and put their "
            "columns one after the other, in this order."
        )
    found = {"layer": known.get("layer"), "side": known.get("side", "output")}
    transform = known.get("transform")
    if found["layer"] is None and "layer" not in params:
        if "hook" not in known:
            says = f"; of where it is, it says {known}" if known else ""
            raise ValueError(
                f"The dictionary does not say which layer it reads{says}. Give layer= (and side=)."
            )
        network = network_of(kind(model, "", **{k: v for k, v in params.items() if k != "side"}))
        site = site_of_hook(known["hook"], network.module)
        found = {"layer": site.layer, "side": site.side}
        transform = transform or site.transform
    elif "layer" not in params:
        found["layer"] = _path_in(model, found["layer"])
    if "excluded_tokens" in known:
        found["include_special_tokens"] = not known["excluded_tokens"]
    if "context_size" in known:
        found["max_length"] = int(known["context_size"])
    extractor = kind(model, **{**found, **params})
    ignored = sorted(set(known) - FOLLOWED)
    if ignored:
        warn(
            f"The extractor does not follow {', '.join(ignored)} of the dictionary's activation_: "
            "prepare the rows yourself where that matters."
        )
    steps = row_transform(transform, known.get("scale", 1.0), extractor)
    return extractor if steps is None else Pipeline([("extractor", extractor), ("rows", steps)])


def _path_in(model, layer):
    """The path of a module in a model with a head, of one from the part below, or the reverse.

    Some libraries train on the model without its head: "layers.3" is "model.layers.3" with it.
    """
    prefix = getattr(model, "base_model_prefix", "") + "."
    if not isinstance(model, torch.nn.Module):  # a name: it is not loaded for this
        return layer
    names = {name for name, _ in model.named_modules()}
    paths = (layer, prefix + layer, layer.removeprefix(prefix))
    return next((path for path in paths if path in names), layer)


def row_transform(transform, scale, extractor):
    """What rows of the extractor's module need, or None."""
    if transform is None and scale == 1.0:
        return None
    options = {"scale": float(scale)}
    if transform == "centre_rows":
        options["centre"] = True
    elif transform == "row_norm":
        options["equal_norms"] = True
    elif transform == "divide_by_norm_weight":
        model = network_of(extractor).module
        norm = find_module(model, find_place(model, extractor.layer, extractor.side)[0])
        weight = norm.weight.detach().float().cpu().numpy()
        # norms of Gemma multiply by 1 + weight
        options["divisor"] = 1 + weight if "gemma" in type(norm).__name__.lower() else weight
        bias = getattr(norm, "bias", None)
        if bias is not None:
            options["shift"] = bias.detach().float().cpu().numpy()
    elif transform is not None:
        raise ValueError(f"activation_['transform'] is {transform!r}, which is not known here.")
    return RowTransform(**options)
