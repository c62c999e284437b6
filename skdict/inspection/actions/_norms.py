"""Norms whose scale is held fixed while the model is differentiated, and their gain."""

import math
from functools import partial

import torch
from torch.autograd import forward_ad

from ..._core.language.hooks import Hooks


def norms_of(model):
    """The norms: `torch.nn.LayerNorm`, and modules whose class name ends in "RMSNorm"."""
    return [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")
    ]


def linear_norms(model, *, unit_scale=False):
    """Let norms pass gradients back as linear maps, in a ``with`` block; values stay as they are.

    Parameters
    ----------
    model : torch.nn.Module
    unit_scale : bool, default=False
        Whether the map leaves out the scale that each token is divided by. By default it is the
        token's own, held fixed.
    """

    def make_linear(module, args, kwargs, output):
        given = [*args, *kwargs.values()]
        if len(given) > 1:
            return None
        wide = torch.promote_types(given[0].dtype, torch.float32)
        x, axes = given[0].to(wide), axes_of(module, output)
        if isinstance(module, torch.nn.LayerNorm):
            x = x - x.mean(axes, keepdim=True)
        epsilon = epsilon_of(module)
        linear = gain(module, output).to(wide) * (1 + epsilon) ** 0.5 * x
        if not unit_scale:
            linear = linear * (x.detach().square().mean(axes, keepdim=True) + epsilon).rsqrt()
        return output.detach() + (linear - linear.detach()).to(output.dtype)

    return Hooks(
        [
            partial(module.register_forward_hook, make_linear, with_kwargs=True)
            for module in norms_of(model)
        ]
    )


def axes_of(module, output):
    return tuple(range(-len(getattr(module, "normalized_shape", output.shape[-1:])), 0))


def fixed_scales(model):
    """Hold the scale of norms fixed in forward-mode derivatives, in a ``with`` block."""

    def fix(module, args, kwargs, output):
        given = [*args, *kwargs.values()]
        x, x_tangent = forward_ad.unpack_dual(given[0])
        if x_tangent is None or len(given) > 1:
            return None
        y = forward_ad.unpack_dual(output).primal
        wide = torch.promote_types(x.dtype, torch.float32)  # x^2 can overflow in half precision
        x, x_tangent = x.to(wide), x_tangent.to(wide)
        epsilon, axes = epsilon_of(module), axes_of(module, y)
        if isinstance(module, torch.nn.LayerNorm):
            x = x - x.mean(axes, keepdim=True)
            x_tangent = x_tangent - x_tangent.mean(axes, keepdim=True)
        of_norm = gain(module, y).to(wide) * (1 + epsilon) ** 0.5
        scale = (x.square().mean(axes, keepdim=True) + epsilon).rsqrt()
        return forward_ad.make_dual(y, (of_norm * scale * x_tangent).to(y.dtype))

    return Hooks(
        [
            partial(module.register_forward_hook, fix, with_kwargs=True)
            for module in norms_of(model)
        ]
    )


def gain(module, like):
    """The factor that a norm applies to normalised activations: its weight, or 1 + weight, ...

    Measured by calling the norm, without hooks, on a normalised probe and on its negative: their
    difference does not contain the bias.
    """
    shape = getattr(module, "normalized_shape", like.shape[-1:])
    width = math.prod(shape)
    probe = torch.ones(width, dtype=torch.float32, device="cpu")
    probe[1::2] = -1
    if width % 2 and width > 1:  # an odd width needs three other values for mean 0 and square 1
        probe[-3:] = 0.5**0.5 * probe.new_tensor([1.0, 1.0, -2.0])
    probe = probe.reshape(1, *shape).to(like)
    return (module.forward(probe) - module.forward(-probe))[0] / (2 * probe[0])


def epsilon_of(module):
    for name in ("eps", "variance_epsilon"):
        if getattr(module, name, None) is not None:
            return getattr(module, name)
    return 0.0
