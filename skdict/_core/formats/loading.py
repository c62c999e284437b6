"""Which format files are of, and what they hold."""

import difflib

from .base import FORMATS
from .config import shorten
from .tensors import FormatError


def detect(files):
    """The name of the format of files.

    Parameters
    ----------
    files : Files

    Returns
    -------
    name : str

    Raises
    ------
    ValueError
        If it is none of the formats, or more than one.
    """
    found = [name for name, kind in FORMATS.items() if kind.detect(files)]
    if len(found) == 1:
        return found[0]
    if found:
        raise FormatError(
            f"{files.where} may be of the formats {shorten(found)}. Say which with format=, or "
            "name the folder of one dictionary with path=."
        )
    problems = " ".join(("", *files.problems[:2]))
    raise FormatError(
        f"{files.where} is of no format that is known here. It has {shorten(files.names)}."
        f"{problems} Known "
        f"are {shorten([f'{n} ({kind.looks})' for n, kind in FORMATS.items()], 40)}. Name the "
        "folder of one dictionary with path=, or the format with format=."
    )


def read(files, name, request):
    """Read a dictionary from files of a format.

    Parameters
    ----------
    files : Files
    name : str
        A format, or "auto".
    request : Request

    Returns
    -------
    record : Record
        Its source has the "format" too.
    """
    if name == "auto":
        name = detect(files)
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, 1)
        meant = f" Is {near[0]!r} meant?" if near else ""
        raise ValueError(f"format must be 'auto' or one of {list(FORMATS)}, not {name!r}.{meant}")
    if request.scale is not None and not FORMATS[name].scales:
        raise ValueError(f"scale={request.scale} is not used for files of format {name!r}.")
    record = FORMATS[name].read(files, request)
    files.check_unchanged()
    record.activation = {k: v for k, v in record.activation.items() if v is not None}
    record.source = _source(record.source, name, files.place)
    return record


def _source(source, name, place):
    """Provenance: what a file says of itself, and where it was found.

    What has been written anew keeps the name of its first format, and where it came from first.
    """
    found = {"format": name} | source
    if (
        place
        and "repo" in source
        and any(source.get(key) != value for key, value in place.items())
    ):
        found["converted_from"] = {key: source.get(key) for key in place}
    return found | place
