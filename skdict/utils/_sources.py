"""X of an estimator as a source of rows."""

from sklearn.utils.validation import validate_data

from .._core.data.source import Source
from ._arrays import check_activations


def source_of(estimator, X, device, *, reset=False, min_samples=1):
    """The rows of X, which is validated: a matrix by `check_activations`, or a stream.

    A stream gives its source by ``__skdict_source__(device)``.

    Parameters
    ----------
    estimator : estimator
    X : array-like, sparse matrix, torch.Tensor, view of a store or stream
    device : torch.device
    reset, min_samples
        As of `check_activations`.

    Returns
    -------
    rows : Source
    """
    if hasattr(X, "__skdict_source__"):
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        return X.__skdict_source__(device)
    X = check_activations(estimator, X, reset=reset, min_samples=min_samples, check_finite=False)
    return Source(X, device)
