"""Folders that users name."""

import os
import re

# A Path of "s3://bucket" is "s3:/bucket"; "C:/" is a drive.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def check_local(path):
    """Raise a ValueError if a path is a URL: it would be taken for a folder of that name here."""
    if _URL.match(os.fspath(path)):
        raise ValueError(
            f"{os.fspath(path)!r} is a URL, but these files are kept on this machine. Give the "
            "path of a folder, and copy it where you like."
        )


def make_folder(path, name):
    """Make a folder, and those above it, unless it is there.

    Parameters
    ----------
    path : str or Path
    name : str
        Of the parameter that it was given as.

    Raises
    ------
    NotADirectoryError
        If it is a file, or below one.
    ValueError
        If it is a URL.
    """
    check_local(path)
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(
            f"{name}={os.fspath(path)!r} is a file, or below one. Give the path of a folder."
        ) from None
