"""Warnings that point at the line of the caller."""

import contextlib
import os
import sys
import warnings
from pathlib import Path

import joblib
import sklearn

# Files whose frames are not the caller's: this package, and what wraps or calls its functions.
_INSIDE = (
    str(Path(__file__).parents[1]) + os.sep,
    *(str(Path(module.__file__).parent) + os.sep for module in (sklearn, joblib)),
    contextlib.__file__,
)


def warn(message, category=UserWarning):
    """`warnings.warn`, at the line that called the package."""
    frame, stacklevel = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn(message, category, stacklevel=stacklevel)
