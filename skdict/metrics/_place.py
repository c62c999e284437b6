"""Where a function works: a Pipeline, a Site, or a model with a layer."""

import torch
from sklearn.pipeline import Pipeline

from .._core.language.site import Site
from ..utils._extractors import extractor_of

# What may be given first.
PLACES = [torch.nn.Module, Site, Pipeline]


def at_site(function, model, given, **options):
    """The site, and what is given beside it.

    A Site stands for model and layer, a Pipeline for these and the dictionary, and then the
    others move up: ``steer(pipeline, features)``, ``steer(site, dictionary, features)``.

    Parameters
    ----------
    function : str
        Name of the function, for messages.
    model : torch.nn.Module, Site or Pipeline
    given : dict
        By name what follows: "layer", "dictionary" and others; None is not given.
    **options : dict
        Of a Site, for a model; None is not given.

    Returns
    -------
    site : Site
        Of one layer.
    values : list
        The dictionary, and the others of `given` after it.

    Raises
    ------
    TypeError
        If something is missing, or given twice.
    ValueError
        If the Site has several layers, or rows of the extractor are pooled.
    """
    names, values = list(given), [value for value in given.values() if value is not None]
    n_stood_for = 2 if isinstance(model, Pipeline) else 1 if isinstance(model, Site) else 0
    kind = type(model).__name__ if n_stood_for else "model"
    needed = names[n_stood_for:]
    if len(values) != len(needed):
        after = ", ".join(needed) or "nothing"
        raise TypeError(
            f"After a {kind}, {function}() takes {after}, but {len(values)} of these "
            f"{'is' if len(values) == 1 else 'are'} given."
        )
    options = {name: value for name, value in options.items() if value is not None}
    if n_stood_for == 0:
        layer, *values = values
        if not isinstance(layer, str):
            raise TypeError(f"layer must be a str, but is a {type(layer).__name__}.")
        return Site(model, layer, **options), values
    if options:
        raise TypeError(f"The {kind} has its own {' and '.join(options)}: leave that out.")
    if isinstance(model, Site):
        _ = model.one_place
        return model, values
    return site_of(model), [model[1:], *values]


def site_of(pipeline):
    """The site of the extractor that a Pipeline starts with."""
    extractor = extractor_of(pipeline)
    if extractor is None:
        raise TypeError(
            "A Pipeline that says where has to start with an ActivationExtractor, but this one "
            f"is {pipeline!r:.200}. Give model, layer and dictionary instead."
        )
    if extractor.pooling is not None:
        raise ValueError(
            f"The Pipeline's extractor has pooling={extractor.pooling!r}: its rows are not "
            "activations that could be replaced. Use pooling=None."
        )
    return extractor.site()
