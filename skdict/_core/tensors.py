"""Between tensors and ndarrays, and what is the same up to rounding."""

from dataclasses import replace

import numpy as np
import torch

from .distributed.rows import OwnRows
from .kernels import linear, products_are
from .torch_state import plain_torch, without_autocast

# Values are equal that differ by no more than so many roundings of the larger.
ROUNDINGS = 4


def from_numpy(array):
    """`torch.from_numpy`, with a copy where torch must not share: read-only or backwards."""
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()
    return torch.from_numpy(array)


class Unchanged:
    """Tells whether tensors still hold what they held, with one pass over them.

    For what has been prepared from arrays that are also the user's. Of a matrix the products of
    its rows with a vector are compared: a change below a 1e-5th of a row's norm passes.

    Parameters
    ----------
    tensors : sequence of tensor
        Matrices and vectors.
    """

    @plain_torch()  # else autocast would round what is compared
    def __init__(self, tensors):
        matrices = [tensor for tensor in tensors if tensor.dim() == 2]
        self.matrices = [(matrix, *_products_of(matrix)) for matrix in matrices]
        self.vectors = [(tensor, tensor.clone()) for tensor in tensors if tensor.dim() == 1]

    @without_autocast()
    def __call__(self):
        return all(
            products_are(vector, _wide(matrix), products, tol)
            for matrix, vector, products, tol in self.matrices
        ) and all(torch.equal(tensor, seen) for tensor, seen in self.vectors)


def _products_of(matrix):
    """A vector (d,), the products of a matrix' rows with it, and by how much they may differ."""
    matrix = _wide(matrix)
    generator = torch.Generator(device="cpu").manual_seed(0)
    options = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
    vector = torch.randn(matrix.shape[1], **options)
    vector += vector.sign()  # away from zero: a change in any one column counts
    vector = vector.to(matrix)
    return vector, linear(vector[None], matrix)[0], 1e-5 * torch.linalg.vector_norm(matrix, dim=1)


def _wide(tensor):
    """In float32 at least: integers and half precision are widened."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def as_arrays(state, *, copy=False):
    """Dicts, lists and tuples with ndarrays where they had tensors.

    Without ``copy`` those of tensors on the CPU are on their memory.
    """

    def as_array(tensor):
        return tensor.detach().to("cpu", copy=copy).numpy()

    return mapped(state, torch.Tensor, as_array)


def as_tensors(state):
    """Undo `as_arrays`, with tensors that can be written to."""
    return mapped(state, np.ndarray, from_numpy)


def mapped(state, kind, function):
    """Nested containers with a function applied to all that is of a kind."""
    if isinstance(state, kind):
        return function(state)
    if isinstance(state, dict):
        return {key: mapped(value, kind, function) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(mapped(value, kind, function) for value in state)
    if isinstance(state, OwnRows):
        return replace(state, values=mapped(state.values, kind, function))
    return state


def away_from(x, mean):
    """Which rows of x (B, n_features) differ from a mean by more than rounding: (B,), bool."""
    rounding = ROUNDINGS * torch.finfo(mean.dtype).eps * mean.abs()
    return ((x - mean).abs() > rounding).any(dim=1)
