"""Values without a derivative, for which it is an error to ask for one."""

import torch


def without_gradient(values, given, why):
    """The values, computed from `given` outside of autograd; their derivative is an error.

    Parameters
    ----------
    values : tensor
    given : tensor
        What they have been computed from.
    why : str
        Why there is no derivative.

    Returns
    -------
    values : tensor
        It requires a gradient where `given` does. What asks for it, in reverse or in forward
        mode, gets a NotImplementedError.
    """
    return _WithoutGradient.apply(given, values, why)


class _WithoutGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, given, values, why):
        ctx.why = why
        return values.clone()

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError(
            f"The gradient through the replaced activations is not known: {ctx.why} If you do not "
            "need it, freeze the parameters before the layer by requires_grad_(False), or call "
            "the model under torch.no_grad(). Steering by a strength has a gradient."
        )

    @staticmethod
    def jvp(ctx, *tangents):
        return _WithoutGradient.backward(ctx, None)
