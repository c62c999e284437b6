"""A dictionary inside of a model: what takes the place of activations, as tensors."""

from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import issparse

from .._core.gradients import without_gradient
from .._core.torch_state import differentiable_torch
from ..utils._arrays import read_only
from ._coding import (
    BLOCK_SIZE,
    MIN_ROWS,
    check_dictionary,
    coding_blocks,
    reconstructed,
    split_dictionary,
    with_sparse_codes,
)
from ._rows import as_rows, to_numpy

BY_NUMPY = "the dictionary computes with NumPy."


def in_model(dictionary):
    """A dictionary's reconstructions, and the parts of features in them, of tensors.

    Parameters
    ----------
    dictionary : estimator
        Fitted, with `transform` and `inverse_transform`, or a Pipeline that ends in one.

    Returns
    -------
    replacement : InTorch or InNumPy
        In torch where the dictionary can, and no step of a Pipeline stands before it.
    """
    before, coder = split_dictionary(dictionary)
    in_torch = before is None and hasattr(coder, "tensor_codes")
    return InTorch(coder) if in_torch else InNumPy(dictionary)


def reconstruction_function(dictionary):
    """The dictionary as a function from activations to reconstructions, (n_tokens, n_features).

    It takes and returns tensors. Gradients pass where the dictionary, or the function that is
    given instead of one, computes with torch.
    """
    if hasattr(dictionary, "transform"):
        check_dictionary(dictionary)
        return in_model(dictionary).reconstruct
    if callable(dictionary):
        return _Function(dictionary)
    raise TypeError(
        "dictionary must be a fitted estimator with transform and inverse_transform, or a "
        f"function, but is a {type(dictionary).__name__}."
    )


class InTorch:
    """A dictionary with `tensor_codes`: all stays on the device, in sparse codes.

    Parameters
    ----------
    coder : estimator
    """

    def __init__(self, coder):
        self.coder = coder

    def reconstruct(self, activations, factors=None):
        """Reconstructions of activations.

        Parameters
        ----------
        activations : tensor of shape (n_tokens, n_features)
        factors : ndarray of shape (n_components,), default=None
            What codes are multiplied by.

        Returns
        -------
        reconstructions : tensor of shape (n_tokens, n_features)
        """

        def of_block(dictionary, x, codes):
            return dictionary.reconstruct(x, codes)

        return self._by_blocks(of_block, activations, factors)

    def part(self, activations, factors):
        """Σ_j f_j z_j d_j: the parts of features in the reconstructions, times factors.

        Parameters and returns are those of `reconstruct`.
        """

        def of_block(dictionary, x, codes):
            parts, scale = codes.decode(dictionary.atoms), dictionary.scale_of(x)
            return parts if scale is None else parts * scale

        return self._by_blocks(of_block, activations, factors)

    @differentiable_torch()
    def _by_blocks(self, of_block, activations, factors):
        dtype = torch.float64 if activations.dtype == torch.float64 else torch.float32
        dictionary = self.coder.dictionary_
        if activations.shape[1] != dictionary.n_inputs:
            raise ValueError(
                f"dictionary has atoms of {dictionary.n_inputs} features, but the layer's "
                f"activations have {activations.shape[1]}. Name the layer that it was fitted on."
            )
        dictionary = dictionary.to(dtype, activations.device)
        if factors is not None:
            factors = torch.as_tensor(factors, dtype=dtype, device=activations.device)
        step = max(MIN_ROWS, BLOCK_SIZE // max(dictionary.shape))
        found = []
        for x in activations.to(dtype).split(step):
            codes = self.coder.tensor_codes(x)
            if factors is not None:
                codes = replace(codes, values=codes.values * factors[codes.support.indices])
            found.append(of_block(dictionary, x, codes))
        return found[0] if len(found) == 1 else torch.cat(found)


class InNumPy:
    """A dictionary that computes with NumPy, or has steps before it that do.

    Parameters
    ----------
    dictionary : estimator
    """

    def __init__(self, dictionary):
        self.dictionary = with_sparse_codes(dictionary)

    def reconstruct(self, activations, factors=None):
        """As `InTorch.reconstruct`."""
        X = to_numpy(activations)
        if factors is None:
            blocks = [np.asarray(block) for _, _, block in coding_blocks(self.dictionary, X)]
            return _like(np.concatenate(blocks), activations)
        return _like(self._of_codes(X, self._scaled(X, factors)), activations)

    def part(self, activations, factors):
        """As `InTorch.part`."""
        X = to_numpy(activations)
        codes = self._scaled(X, factors)
        return _like(self._of_codes(X, codes) - self._of_codes(X, 0 * codes), activations)

    def _scaled(self, X, factors):
        codes = as_rows(self.dictionary.transform(read_only(X)), "codes")
        factors = np.asarray(factors, dtype=codes.dtype)
        return codes.multiply(factors).tocsr() if issparse(codes) else codes * factors

    def _of_codes(self, X, codes):
        return np.asarray(reconstructed(self.dictionary, read_only(X), codes))


class _Function:
    """A function from activations to reconstructions that is given instead of a dictionary."""

    def __init__(self, function):
        self.function = function

    def __call__(self, activations):
        dtype = torch.promote_types(activations.dtype, torch.float32)
        found = self.function(activations.to(dtype))
        if isinstance(found, torch.Tensor):
            return _of_shape(found, activations)
        return _like(np.asarray(found), activations)


def _like(X_hat, activations):
    """What NumPy has made of activations, as a tensor of their kind; it has no gradient."""
    _of_shape(X_hat, activations)
    X_hat = torch.as_tensor(X_hat, device="cpu").to(activations)
    return without_gradient(X_hat, activations, BY_NUMPY)


def _of_shape(X_hat, activations):
    if X_hat.shape != activations.shape:
        raise ValueError(
            f"dictionary reconstructs activations of shape {tuple(activations.shape)} with shape "
            f"{tuple(X_hat.shape)}. Name the layer that it was fitted on."
        )
    return X_hat
