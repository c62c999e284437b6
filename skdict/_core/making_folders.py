"""Folders that users name."""

import os


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
    """
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(
            f"{name}={os.fspath(path)!r} is a file, or below one. Give the path of a folder."
        ) from None
