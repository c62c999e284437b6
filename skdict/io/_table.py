"""The table of formats."""

from .._core.formats import FORMATS


def formats():
    """The file formats that dictionaries can be read from, and written in.

    Returns
    -------
    table : list of dict
        Of each format "name", "description", "files" (what it is recognised by) and "writes".

    Examples
    --------
    >>> from skdict.io import formats
    >>> {"skdict", "sentence_transformers"} <= {row["name"] for row in formats() if row["writes"]}
    True
    """
    return [
        {
            "name": name,
            "description": kind.description,
            "files": kind.looks,
            "writes": kind.writes,
        }
        for name, kind in FORMATS.items()
    ]
