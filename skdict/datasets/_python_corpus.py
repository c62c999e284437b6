"""The Python standard library as a corpus, read from the running interpreter."""

import platform
import sysconfig
import zlib
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from ..utils._sklearn_compat import StrOptions, validate_params

_EXCLUDED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "_bundled"}
_TARGET_NAMES = ["source", "documentation"]


def _is_held_out(name):
    """Split by the file's name alone: the same file is on the same side everywhere."""
    return zlib.crc32(name.encode()) % 10 == 0


def _source_files():
    """Yield (name, text) of every module of the standard library outside its own tests."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _EXCLUDED_FOLDERS.isdisjoint(relative.parts) and relative.name != "topics.py":
            try:
                yield relative.as_posix(), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a few modules declare another encoding on purpose


def _documentation_topics():
    """Yield (name, text) of the language reference as `help()` shows it, one topic each."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return
    for topic, text in sorted(topics.items()):
        yield f"pydoc_data/topics/{topic}", text


@validate_params(
    {"subset": [StrOptions({"train", "test", "all"})]}, prefer_skip_nested_validation=True
)
def load_python_corpus(*, subset="train"):
    """Load the source and the documentation of the running interpreter's standard library.

    The texts are the modules of the standard library without its tests and bundled wheels,
    and the topics of the language reference that ``help()`` shows. Nothing is downloaded, so
    the texts are those of the Python version that runs.

    The split is by file: a document is held out when the CRC-32 of its name is divisible by
    ten, about one in ten, and the same file is held out in every Python version. The model of
    :func:`load_one_layer_transformer` saw the training subset of Python 3.11.

    Parameters
    ----------
    subset : {"train", "test", "all"}, default="train"
        Which documents to load: those to learn from, those held out, or both.

    Returns
    -------
    corpus : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the following attributes.

        data : list of str, length n_documents
            The texts, with line breaks as ``"\\n"``.
        filenames : list of str, length n_documents
            The path of each module below the standard library's folder, in POSIX form, or
            ``"pydoc_data/topics/<topic>"``.
        target : ndarray of shape (n_documents,), dtype int64
            0 for a module's source, 1 for a documentation topic.
        target_names : list of str
            The meaning of `target`: ``["source", "documentation"]``.
        DESCR : str
            A description of the loaded subset.

    Raises
    ------
    ValueError
        If `subset` is none of the three names.

    See Also
    --------
    python_token_labels : What each token of these texts is: comment, keyword, parameter, ...

    Examples
    --------
    >>> from skdict.datasets import load_python_corpus
    >>> corpus = load_python_corpus(subset="test")
    >>> corpus.target_names
    ['source', 'documentation']
    >>> len(corpus.data) == len(corpus.filenames) == len(corpus.target)
    True
    """
    documents = [
        (name, text, target)
        for target, source in enumerate((_source_files(), _documentation_topics()))
        for name, text in source
        if text.strip() and (subset == "all" or _is_held_out(name) == (subset == "test"))
    ]
    target = np.array([target for _, _, target in documents], dtype=np.int64)
    n_characters = sum(len(text) for _, text, _ in documents)
    return Bunch(
        data=[text for _, text, _ in documents],
        filenames=[name for name, _, _ in documents],
        target=target,
        target_names=list(_TARGET_NAMES),
        DESCR=(
            f"Standard library of Python {platform.python_version()}, subset {subset!r}: "
            f"{np.sum(target == 0)} modules and {np.sum(target == 1)} documentation topics, "
            f"{n_characters:,} characters."
        ),
    )
