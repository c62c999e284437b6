"""Packages that are no requirements, imported where they are needed and not before."""

from contextlib import contextmanager


@contextmanager
def optional(package, what, install):
    """Import a package in a ``with`` block; an ImportError says why not and what to do.

    Parameters
    ----------
    package : str
    what : str
        Who needs it.
    install : str
        What pip installs it by.
    """
    try:
        yield
    except ImportError as error:
        if is_missing(error, package):
            raise ImportError(
                f"{what} needs {package}, which is not installed. Install it with: "
                f"pip install {install}"
            ) from error
        raise ImportError(
            f"{what} needs {package}, which is there but cannot be imported: "
            f"{error or type(error).__name__}. Repair it, or install it anew with: "
            f"pip install {install} --force-reinstall"
        ) from error


def is_missing(error, package):
    """Whether an ImportError says that a package is not there, and not what is wrong with it."""
    return isinstance(error, ModuleNotFoundError) and error.name == package
