"""Operations with gradients, each of which is computed at the support alone."""

import torch
import torch.nn.functional as F

from .operations import (
    add_at_,
    residual_products,
    sampled_product,
    transposed_product,
    weighted_sums,
)


def encode_at(centred, weight, bias, intercept, support):
    """Pre-activations ``centred @ weight.T + bias``, at the support or (None) everywhere.

    Parameters
    ----------
    centred : tensor of shape (B, d)
        x - intercept, as data: no gradient.
    weight : tensor of shape (n, d)
    bias : tensor of shape (n,)
    intercept : tensor of shape (d,)
        What was subtracted. Its gradient is ``-weight.T @ Σ_rows dL/dp``, a matrix-vector
        product, so that dL/dx, a B×d×n product, is never formed.
    support : Support or None
        If it comes from `select`, then for the same samples and weight.

    Returns
    -------
    pre_activations : tensor of shape (nnz,), or (B, n) without a support
        Differentiable in weight, bias and intercept.
    """
    return _EncodeAt.apply(centred, weight, bias, intercept, support)


def decode(values, support, dictionary):
    """Weighted sums of atoms, ``z @ dictionary``. Differentiable in values and dictionary.

    In the values in forward mode too, and as often as wanted.

    Returns
    -------
    reconstruction : tensor of shape (B, d)
    """
    return _Decode.apply(values, support, dictionary)


def products_at(x, weight, support, known=None):
    """Entries of ``x @ weight.T`` at the support: (nnz,). Differentiable in x alone.

    In forward mode too, and as often as wanted: it is linear, and `decode` is its adjoint.

    Parameters
    ----------
    x : tensor of shape (B, d)
    weight : tensor of shape (n, d)
    support : Support
    known : tensor of shape (nnz,), default=None
        To be returned instead, where it is known what they are (plus what does not depend on x).
    """
    return _ProductsAt.apply(x, weight, support, known)


def half_squared_error(centred, intercept, decoded):
    """½‖centred - decoded‖², summed, and the residual itself.

    ``centred`` is x - intercept, as data; differentiable in intercept and decoded.

    Returns
    -------
    error : tensor, scalar
    residual : tensor of the shape of decoded
        Not differentiable.
    """
    return _HalfSquaredError.apply(centred, intercept, decoded)


def reconstruction_error(values, support, dictionary, centred, intercept):
    """`half_squared_error` of `decode`, in one: the gradient of all is the residual itself.

    Differentiable in values, dictionary and intercept.
    """
    return _ReconstructionError.apply(values, support, dictionary, centred, intercept)


class _EncodeAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx, centred, weight, bias, intercept, support):
        ctx.save_for_backward(centred, weight)
        ctx.support = support
        if support is None:
            return F.linear(centred, weight, bias)
        products = support.products
        if products is None:
            products = sampled_product(centred, weight, support)
        return products + bias[support.indices]

    @staticmethod
    def backward(ctx, grad):
        centred, weight = ctx.saved_tensors
        grad_weight = transposed_product(grad, ctx.support, centred)
        if ctx.support is None:
            grad_bias = grad.sum(dim=0)
        else:
            grad_bias = add_at_(grad.new_zeros(len(weight)), ctx.support.indices, grad)
        return None, grad_weight, grad_bias, -(weight.T @ grad_bias), None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, support, dictionary):
        ctx.save_for_backward(values, dictionary)
        ctx.save_for_forward(values, dictionary)
        ctx.set_materialize_grads(False)  # no zeros of the size of the dictionary in `jvp`
        ctx.support = support
        return weighted_sums(values, support, dictionary)

    @staticmethod
    def backward(ctx, grad_output):
        if grad_output is None:
            return None, None, None
        values, dictionary = ctx.saved_tensors
        grad_values = products_at(grad_output, dictionary, ctx.support)
        grad_dictionary = None
        if ctx.needs_input_grad[2]:
            grad_dictionary = transposed_product(values, ctx.support, grad_output)
        return grad_values, None, grad_dictionary

    @staticmethod
    def jvp(ctx, tangent_values, _, tangent_dictionary):
        values, dictionary = ctx.saved_tensors
        terms = [(tangent_values, dictionary), (values, tangent_dictionary)]
        return sum(decode(z, ctx.support, d) for z, d in terms if z is not None and d is not None)


class _ProductsAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, support, known):
        ctx.save_for_backward(weight)
        ctx.save_for_forward(weight)
        ctx.support = support
        return sampled_product(x, weight, support) if known is None else known.clone()

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return decode(grad, ctx.support, weight), None, None, None

    @staticmethod
    def jvp(ctx, x, *_):
        return products_at(x, ctx.saved_tensors[0], ctx.support)


class _ReconstructionError(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, support, dictionary, centred, intercept):
        products = None
        if ctx.needs_input_grad[0]:
            residual, products = residual_products(centred, values, support, dictionary)
        else:
            decoded = weighted_sums(values, support, dictionary)
            residual = torch.sub(centred, decoded, out=decoded)
        ctx.save_for_backward(values, products, residual)
        ctx.support = support
        ctx.mark_non_differentiable(residual)
        return 0.5 * torch.linalg.vector_norm(residual).square(), residual

    @staticmethod
    def backward(ctx, grad, _):
        values, products, residual = ctx.saved_tensors
        grad_values = grad_dictionary = grad_intercept = None
        if ctx.needs_input_grad[0]:
            grad_values = products * -grad
        if ctx.needs_input_grad[2]:
            grad_dictionary = transposed_product(values * -grad, ctx.support, residual)
        if ctx.needs_input_grad[4]:
            grad_intercept = residual.sum(dim=0) * -grad
        return grad_values, None, grad_dictionary, None, grad_intercept


class _HalfSquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx, centred, intercept, decoded):
        residual = centred - decoded
        ctx.save_for_backward(residual)
        ctx.mark_non_differentiable(residual)
        return 0.5 * torch.linalg.vector_norm(residual).square(), residual

    @staticmethod
    def backward(ctx, grad, _):
        (residual,) = ctx.saved_tensors
        grad_decoded = residual * -grad
        return None, grad_decoded.sum(dim=tuple(range(residual.dim() - 1))), grad_decoded
