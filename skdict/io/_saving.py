"""From a fitted estimator to files."""

from pathlib import Path

from ..decomposition._records import save
from ..utils._sklearn_compat import validate_params


@validate_params(
    {
        "estimator": [object],
        "folder": [str, Path],
        "format": [str],
        "overwrite": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def save_dictionary(estimator, folder, format="skdict", overwrite=False):
    """Write a fitted dictionary for skdict, or for another library.

    The folder appears only when it is complete: files that are there already are kept until the
    new ones are written, and nothing is lost if that fails.

    Parameters
    ----------
    estimator : SparseAutoencoderDictionary, SparseAutoencoderDictionaryCV or a search
        Fitted, or loaded. Of a search, such as `GridSearchCV`, the best estimator is written.
        Where its ``activation_`` says what it was trained on, so do the files.

    folder : str or Path
        Where to write. It is made, with those above it.

    format : str, default="skdict"
        A name of :func:`formats` that "writes". "skdict" keeps all: parameters, statistics and,
        after `partial_fit`, the state of training. Others keep what their library reads.

    overwrite : bool, default=False
        Whether files in the folder may be replaced. Not by others: a folder that holds files of
        other names is refused.

    Raises
    ------
    ValueError
        If the format cannot hold the dictionary, or cannot be written; if ``folder`` is the
        working directory or above it.
    NotFittedError
        If ``estimator`` is not fitted.
    TypeError
        If ``estimator`` is no dictionary. Of a `Pipeline` give the step.
    FileExistsError
        If the folder holds files, and these may not be replaced.
    ImportError
        If safetensors is needed and not installed.

    Warns
    -----
    UserWarning
        If the library gives the same codes, but other reconstructions.

    See Also
    --------
    load_dictionary : Read a dictionary.

    Examples
    --------
    >>> import tempfile
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> from skdict.io import load_dictionary, save_dictionary
    >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
    >>> sae = SparseAutoencoderDictionary(16, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_dictionary(sae, folder)
    ...     loaded = load_dictionary(folder)
    >>> bool((loaded.transform(X) == sae.transform(X)).all())
    True
    """
    save(estimator, Path(folder), format=format, overwrite=overwrite)
