"""Dictionaries of other libraries and of skdict: read exactly, and written back.

:func:`load_dictionary` gives a fitted transformer, whatever library wrote the files, and
:func:`save_dictionary` writes one for another library. See :doc:`/user_guide/io`.
"""

from ._loading import load_dictionary
from ._saving import save_dictionary
from ._table import formats

__all__ = ["formats", "load_dictionary", "save_dictionary"]
