"""Warnings that point at the line of the caller."""

import contextlib
import contextvars
import os
import sys
import warnings
import weakref
from pathlib import Path

import joblib
import sklearn

from ._sklearn_compat import BaseSearchCV

# Files whose frames are not the caller's: this package, and what wraps or calls its functions.
_INSIDE = (
    str(Path(__file__).parents[1]) + os.sep,
    *(str(Path(module.__file__).parent) + os.sep for module in (sklearn, joblib)),
    contextlib.__file__,
)


_is_quiet = contextvars.ContextVar("_is_quiet", default=False)


@contextlib.contextmanager
def quiet():
    """Context in which `warn` is silent in this thread; filters of warnings are of all threads."""
    token = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(token)


def warn(message, category=UserWarning):
    """`warnings.warn`, at the line that called the package."""
    if _is_quiet.get():
        return
    frame, stacklevel = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn(message, category, stacklevel=stacklevel)


# Of a search of scikit-learn's, what has been said of its fits.
_said = weakref.WeakKeyDictionary()


def warn_once(message, key):
    """`warn`, but not again of the same ``key`` in a fit of the same search.

    scikit-learn's searches let every fit warn. Fits in other processes or threads do not know of
    each other.
    """
    search = _search_around(sys._getframe(1))
    said = set() if search is None else _said.setdefault(search, set())
    if key not in said:
        warn(message)
        said.add(key)


def _search_around(frame):
    """The search that has called this, such as a GridSearchCV, or None."""
    while frame is not None:
        search = frame.f_locals.get("self") if frame.f_code.co_name == "fit" else None
        if isinstance(search, BaseSearchCV):
            return search
        frame = frame.f_back
    return None
