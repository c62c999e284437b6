"""From files to a fitted transformer."""

from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch

from .._core.formats import Request
from .._core.formats.hub import open_files
from ..decomposition import SparseAutoencoderDictionary
from ..decomposition._records import load
from ..utils._sklearn_compat import Interval, StrOptions, validate_params


def check_components(components):
    """Numbers of latents as a list of int."""
    found = np.asarray(components)
    if found.ndim != 1 or not len(found) or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(
            f"components must be one or more integers, not {found.dtype} of shape {found.shape}."
        )
    return found.tolist()


@validate_params(
    {
        "path_or_repo": [str, Path],
        "path": [str, None],
        "format": [str],
        "layer": [Integral, None],
        "units": [StrOptions({"source", "unit"})],
        "components": ["array-like", None],
        "scale": [Interval(Real, 0, None, closed="neither"), None],
        "revision": [str, None],
        "local_files_only": ["boolean"],
        "token": [str, None],
    },
    prefer_skip_nested_validation=True,
)
def load_dictionary(
    path_or_repo,
    *,
    path=None,
    format="auto",
    layer=None,
    units="source",
    components=None,
    scale=None,
    revision=None,
    local_files_only=False,
    token=None,
):
    """Load a dictionary that skdict or another library has written, as a fitted transformer.

    The codes and reconstructions are those of the library that wrote it. What cannot be expressed
    is refused with a reason, and so is what may change codes and is not known here.

    Parameters
    ----------
    path_or_repo : str or Path
        A folder or file on this machine, or a repository of a hub, "owner/name".

    path : str, default=None
        The folder or file in it that holds one dictionary.

    format : str, default="auto"
        A name of :func:`formats`. "auto" looks at the names of files and at what is in them.

    layer : int, default=None
        Which layer, of files that hold several, or do not say.

    units : {"source", "unit"}, default="source"
        Of the codes: as the library has them, with the norms of its decoder's rows as
        ``component_norms_``; or such that codes of unit atoms add up to the activation.

    components : array-like of int of shape (n_selected,), default=None
        Load only these latents, in this order, without reading the others where the file allows
        it. Not where the largest latents of a row are kept, whose codes depend on all.

    scale : float, default=None
        What activations are multiplied by before all else, and reconstructions divided by, where
        the dictionary was trained on scaled ones and its files do not hold the factor: those of
        Llama Scope R1-Distill, and of SAELens with ``normalize_activations`` of
        "expected_average_only_in". SAELens' list of releases has it as ``norm_scaling_factor``.

    revision : str, default=None
        Of a repository: a branch, tag or commit. The commit it stands for is kept in ``source_``.

    local_files_only : bool, default=False
        Whether to look only into the cache of the hub, without a network.

    token : str, default=None
        For private repositories.

    Returns
    -------
    dictionary : SparseAutoencoderDictionary
        Fitted. Beside its usual attributes it has ``source_`` and ``activation_``, dicts of what
        the files say of where it comes from, and of what it was trained on. `score` needs
        ``calibrate(X)`` first.

    Raises
    ------
    ValueError
        If the files are of no format or of several, are damaged, or hold what cannot be expressed.
    FileNotFoundError
        If there is no such file, folder, repository or revision; near names are listed.
    ConnectionError
        If a hub cannot be reached.
    ImportError
        If safetensors, PyYAML or huggingface_hub is needed and not installed.

    Warns
    -----
    UserWarning
        If the library gives the dictionary other rows than activations, as rows of a common norm.

    See Also
    --------
    save_dictionary : Write a dictionary.

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
    >>> loaded.source_["format"]
    'skdict'
    """
    files = open_files(
        path_or_repo, path, revision=revision, local_files_only=local_files_only, token=token
    )
    if components is not None:
        components = check_components(components)
    request = Request(units, layer, components, torch.float32, scale)
    return load(files, request, SparseAutoencoderDictionary, format)
