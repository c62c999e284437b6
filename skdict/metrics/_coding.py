"""An estimator's codes and reconstructions, in blocks of rows."""

import copy

import torch
from sklearn.pipeline import Pipeline

from .._core.data.reading import as_float64
from ..utils._arrays import read_only
from ..utils._sklearn_compat import plain_output

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


def split_dictionary(dictionary):
    """Split off the step of a dictionary that makes the codes.

    Returns
    -------
    before : Pipeline or None
        The steps before it, if there are any.
    coder : estimator
    """
    if not isinstance(dictionary, Pipeline):
        return None, dictionary
    *steps, (name, last) = [
        (name, step) for name, step in dictionary.steps if step not in (None, "passthrough")
    ]
    before, last = split_dictionary(last)
    if before is not None:
        steps.append((name, before))
    return Pipeline(steps) if steps else None, last


def last_step(dictionary):
    """The step of a Pipeline that makes the codes, or the estimator itself."""
    return split_dictionary(dictionary)[1]


def reads_rows(dictionary):
    """Whether reconstructions depend on rows, and not on their codes alone.

    So it is with published dictionaries that normalise each row, or add a linear map of it.
    """
    of_rows = ("input_normalization_", "skip_coef_")
    return any(getattr(dictionary, name, None) is not None for name in of_rows)


def reconstructed(dictionary, rows, codes):
    """What the codes of rows give back of them."""
    before, coder = split_dictionary(dictionary)
    if not reads_rows(coder):
        return dictionary.inverse_transform(codes)
    if before is None:
        return coder.reconstruct(rows, codes)
    return before.inverse_transform(coder.reconstruct(before.transform(rows), codes))


def scale_of_rows(dictionary, rows):
    """How many atoms a unit of a code adds to each row, where the dictionary normalises rows.

    Parameters
    ----------
    dictionary : estimator
    rows : ndarray of shape (n_rows, n_features)
        What the dictionary is given.

    Returns
    -------
    scale : ndarray of float64 of shape (n_rows,), or None
        None is 1.
    """
    before, coder = split_dictionary(dictionary)
    normalise = getattr(coder, "input_normalization_", None)
    if normalise is None:
        return None
    rows = as_float64(rows if before is None else before.transform(rows))
    return normalise(torch.from_numpy(rows))[2][:, 0].numpy()


def check_rows_have_one_scale(dictionary):
    """Raise a ValueError if a unit of a code is another amount for each row."""
    if getattr(last_step(dictionary), "input_normalization_", None) is not None:
        raise ValueError(
            "This dictionary normalises each row, so that a unit of a code is another amount "
            "for each token. Multiply codes instead: replace_activations with scale=."
        )


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
