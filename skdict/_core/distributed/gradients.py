"""Sums over processes with the gradients that belong to them.

A reconstruction is the sum of what the atoms of each process give. All processes then compute the
same error from it, so that its gradient is already complete in each; the gradient by what all of
them share, the intercept, is the sum of theirs. These are the two operators "g" and "f" of
Megatron-LM (Shoeybi et al. 2019).
"""

import torch

from ..kernels import half_squared_error


def summed(tensor, ranks):
    """Sum over the processes; the gradient passes as it is."""
    return tensor if ranks.size == 1 else _Summed.apply(tensor, ranks)


def shared(tensor, ranks):
    """The tensor as it is; its gradient is summed over the processes."""
    return tensor if ranks.size == 1 else _Shared.apply(tensor, ranks)


def error_of_sum(decoded, centred, intercept, ranks):
    """`half_squared_error` of the sum of what the processes have decoded.

    Its value is zero in all processes but the first, so that objectives can be summed over
    processes; its gradient is the same in all.
    """
    error, residual = half_squared_error(centred, intercept, summed(decoded, ranks))
    return (error if ranks.rank == 0 else error - error.detach()), residual


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, ranks):
        return ranks.sum_(tensor.clone())

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, ranks):
        ctx.ranks = ranks
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, grad):
        return ctx.ranks.sum_(grad.clone()), None
