"""From files to a fitted transformer."""

from numbers import Integral
from pathlib import Path

import torch

from .._core.formats import Request
from .._core.formats.hub import open_files
from ..decomposition import SparseAutoencoderDictionary
from ..decomposition._records import load
from ..utils._sklearn_compat import StrOptions, validate_params


@validate_params(
    {
        "path_or_repo": [str, Path],
        "path": [str, None],
        "format": [str],
        "layer": [Integral, None],
        "units": [StrOptions({"source", "unit"})],
        "components": ["array-like", None],
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

    Warns
    -----
    UserWarning
        If the library gives the dictionary other rows than activations, as rows of a common norm.

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
    """
    files = open_files(
        path_or_repo, path, revision=revision, local_files_only=local_files_only, token=token
    )
    request = Request(units, layer, components, torch.float32)
    return load(files, request, SparseAutoencoderDictionary, format)
