"""A model made linear in its layers' activations: what depends on them otherwise stands still."""

import sys
from functools import partial

import torch

from ..._core.language.hooks import Hooks, run_replaced
from ._direct import branches
from ._norms import axes_of, epsilon_of, gain, norms_of


class FrozenModel:
    """Runs of one prompt in which attention patterns, scales of norms and MLPs stand still.

    The first runs record what each attention, norm and MLP does. In later ones, whatever the
    activations are that replace those of the layers, attention moves values by the recorded
    queries and keys, norms divide by the recorded scales, and MLPs that hold none of the layers
    return what they returned. So the logits are an affine function of the layers' activations,
    as far as the layers are not before another non-linearity.

    Parameters
    ----------
    model : torch.nn.Module
    forward : callable
        Runs the prompt.
    places : list of dict
        "layer", "side" and "call" of each layer, as `run_replaced` takes them.
    """

    def __init__(self, model, forward, places):
        self.model, self._forward, self.places = model, forward, places
        self._kept, self._n_calls, self._records = {}, {}, True
        with torch.no_grad():
            with self._frozen([]):
                forward()
            attention = {module for module, _ in self._kept}
            self._blind = [
                branch
                for branch in branches(model, [place["layer"] for place in places])
                if attention.isdisjoint(branch.modules())
            ]
            self._kept.clear()
            self.activations = [None] * len(places)
            with self._frozen(self._blind):
                self._replaced([partial(self._keep, i) for i in range(len(places))])
        self._records = False

    def _keep(self, i, activation):
        self.activations[i] = activation.detach().clone()
        return activation

    def run(self, functions):
        """The model's output with a function of the activation at each place."""
        self._n_calls.clear()
        with self._frozen(self._blind):
            return self._replaced(functions)

    def _replaced(self, functions):
        forward = self._forward
        for place, function in zip(self.places, functions, strict=True):
            forward = partial(
                run_replaced,
                self.model,
                place["layer"],
                function,
                forward,
                side=place["side"],
                call=place["call"],
            )
        return forward()

    def _frozen(self, blind):
        self._n_calls.clear()
        norms = [
            partial(norm.register_forward_hook, self._norm, with_kwargs=True)
            for norm in norms_of(self.model)
        ]
        mlps = [partial(module.register_forward_hook, self._mlp) for module in blind]
        return Hooks([*norms, *mlps, *self._attention_functions()])

    def _constants(self, module, make):
        """What was recorded of this call of a module."""
        call = module, self._n_calls.setdefault(module, 0)
        self._n_calls[module] += 1
        if self._records:
            self._kept[call] = make()
        return self._kept[call]

    def _norm(self, module, args, kwargs, output):
        given = [*args, *kwargs.values()]
        if len(given) > 1:
            return None
        wide = torch.promote_types(given[0].dtype, torch.float32)
        x, axes = given[0].to(wide), axes_of(module, output)
        if isinstance(module, torch.nn.LayerNorm):
            x = x - x.mean(axes, keepdim=True)
        epsilon = epsilon_of(module)
        by = gain(module, output).to(wide) * (1 + epsilon) ** 0.5

        def make():
            scale = (x.square().mean(axes, keepdim=True) + epsilon).rsqrt()
            return scale, output.to(wide) - by * scale * x

        scale, offset = self._constants(module, make)
        return (by * scale * x + offset).to(output.dtype)

    def _mlp(self, module, args, output):
        return self._constants(module, lambda: output)

    def _attention_functions(self):
        """Replacements of the functions by which transformers computes attention."""
        transformers = sys.modules.get("transformers.modeling_utils")
        if transformers is None:
            return
        functions = transformers.ALL_ATTENTION_FUNCTIONS
        configs = [getattr(module, "config", None) for module in self.model.modules()]
        for name in {getattr(config, "_attn_implementation", None) for config in configs}:
            if name is not None:
                yield partial(_Entry, functions, name, self._attention)

    def _attention(self, former, module, query, key, value, *args, **kwargs):
        if former is None:  # eager attention is a function of each model's file
            former = sys.modules[type(module).__module__].eager_attention_forward
        query, key = self._constants(module, lambda: (query.detach(), key.detach()))
        return former(module, query, key, value, *args, **kwargs)


class _Entry:
    """Another function in a registry of transformers, until `remove` is called."""

    def __init__(self, registry, name, function):
        self._registry, self._name = registry, name
        self._was_local = name in registry._local_mapping
        self._former = registry.get(name, None)
        registry[name] = partial(function, self._former)

    def remove(self):
        if self._was_local:
            self._registry[self._name] = self._former
        else:
            self._registry._local_mapping.pop(self._name, None)
