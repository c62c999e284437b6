"""An estimator's codes and reconstructions, in blocks of rows."""

import copy

import numpy as np
import torch
from sklearn.pipeline import Pipeline

from ..utils._arrays import read_only
from ..utils._sklearn_compat import plain_output
from ._rows import to_numpy

# Entries per block of rows, of codes or of activations: 256 MB in float32 where they are dense.
BLOCK_SIZE = 2**26
# Rows of the first block, and the least number of rows of every other block but the last.
MIN_ROWS = 1024


def check_dictionary(dictionary, condition=""):
    """Raise a TypeError unless the dictionary has `transform` and `inverse_transform`.

    `condition` begins the message: when the dictionary needs them.
    """
    for method in ("transform", "inverse_transform"):
        if hasattr(dictionary, method):
            continue
        raise TypeError(
            f"{condition}dictionary must be a fitted estimator with transform and "
            f"inverse_transform, but {_who_lacks(method, dictionary)} has no method {method}. For "
            "a Pipeline that starts with an extractor, give pipeline[1:]."
        )
    if getattr(last_step(dictionary), "is_transcoder_", False):
        raise TypeError(
            f"{condition}dictionary must reconstruct what it reads, but it is a transcoder, which "
            "predicts another activation of the model. Compare that with what its reconstruct "
            "gives."
        )


def last_step(dictionary):
    """The step of a Pipeline that makes the codes, or the estimator itself."""
    return last_step(dictionary[-1]) if isinstance(dictionary, Pipeline) else dictionary


def reads_rows(dictionary):
    """Whether reconstructions depend on rows, and not on their codes alone.

    So it is with published dictionaries that normalise each row, or add a linear map of it.
    """
    of_rows = ("input_normalization_", "skip_coef_")
    return any(getattr(dictionary, name, None) is not None for name in of_rows)


def reconstructed(dictionary, rows, codes):
    """What the codes of rows give back of them."""
    if not reads_rows(last_step(dictionary)):
        return dictionary.inverse_transform(codes)
    if isinstance(dictionary, Pipeline):
        before, last = dictionary[:-1], dictionary[-1]
        return before.inverse_transform(reconstructed(last, before.transform(rows), codes))
    return dictionary.reconstruct(rows, codes)


def _who_lacks(method, estimator):
    """Name of the class that lacks the method: the estimator's, or that of a Pipeline's step."""
    for _, step in estimator.steps if isinstance(estimator, Pipeline) else ():
        if step not in (None, "passthrough") and not hasattr(step, method):
            return _who_lacks(method, step)
    return type(estimator).__name__


def can_have_sparse_codes(dictionary):
    """Whether the codes of an estimator, or of a Pipeline that ends in one, can be sparse."""
    if isinstance(dictionary, Pipeline):
        return can_have_sparse_codes(dictionary[-1])
    return "sparse_output" in getattr(dictionary, "get_params", dict)()


def with_sparse_codes(dictionary):
    """The same fitted dictionary with CSR codes if it can make them; the original is unchanged.

    It is a shallow copy, so that fitted arrays are shared. `inverse_transform` takes its codes.
    """
    if not can_have_sparse_codes(dictionary):
        return dictionary
    if isinstance(dictionary, Pipeline):
        *steps, (name, last) = dictionary.steps
        return Pipeline([*steps, (name, with_sparse_codes(last))])
    return plain_output(copy.copy(dictionary)).set_params(sparse_output=True)


def coding_blocks(dictionary, X):
    """Yield (rows, codes, reconstruction) of `X`, one block of rows after the other.

    `dictionary` is a fitted estimator with `transform` and `inverse_transform`; each is called
    once per block. `X` is a matrix of any kind that can be sliced by rows.
    """
    check_dictionary(dictionary)
    start, n_rows = 0, MIN_ROWS
    while start < X.shape[0]:
        stop = min(start + n_rows, X.shape[0])
        rows = X.iloc[start:stop] if hasattr(X, "iloc") else X[start:stop]
        codes = dictionary.transform(read_only(rows))
        yield rows, codes, reconstructed(dictionary, rows, codes)
        start, n_rows = stop, max(MIN_ROWS, BLOCK_SIZE // max(codes.shape[1], X.shape[1]))


def reconstruction_function(dictionary):
    """The dictionary as a function from activations to reconstructions, (n_tokens, n_features).

    It takes and returns tensors; in between, the dictionary computes with NumPy on the CPU.
    """
    if hasattr(dictionary, "transform"):
        dictionary = with_sparse_codes(dictionary)

        def function(X):
            blocks = [np.asarray(block) for _, _, block in coding_blocks(dictionary, X)]
            return np.concatenate(blocks)

    elif callable(dictionary):
        function = dictionary
    else:
        raise TypeError(
            "dictionary must be a fitted estimator with transform and inverse_transform, or a "
            f"function, but is a {type(dictionary).__name__}."
        )

    def reconstruct(activations):
        X = to_numpy(activations)
        X_hat = np.asarray(function(X))
        if X_hat.shape != X.shape:
            raise ValueError(
                f"dictionary reconstructs activations of shape {X.shape} with shape "
                f"{X_hat.shape}. Name the layer that it was fitted on."
            )
        X_hat = torch.as_tensor(X_hat, device="cpu").to(activations)
        return without_gradient(X_hat, activations)

    return reconstruct


def without_gradient(values, activations):
    """`values` computed by NumPy from `activations`; requesting their gradient is an error."""
    return _ComputedByNumPy.apply(activations, values)


class _ComputedByNumPy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, activations, values):
        return values

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError(
            "The gradient through the replaced activations is not known: the dictionary computes "
            "with NumPy. If you do not need it, freeze the parameters before the layer by "
            "requires_grad_(False), or call the model under torch.no_grad(). Steering by a "
            "strength has a gradient."
        )

    @staticmethod
    def jvp(ctx, *tangents):
        return _ComputedByNumPy.backward(ctx, None)
