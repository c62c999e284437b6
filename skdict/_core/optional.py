"""Import optional packages where they are needed, with an error that says how to get them."""

from contextlib import contextmanager


@contextmanager
def optional(package, what, install):
    """Import a package in a ``with`` block; an ImportError says what failed and what to do.

    Parameters
    ----------
    package : str
    what : str
        Who needs it.
    install : str
        What to give to ``pip install``.
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
            f"{what} needs {package}, which is installed but cannot be imported: "
            f"{error or type(error).__name__}. Repair it, or install it again with: "
            f"pip install {install} --force-reinstall"
        ) from error


def is_missing(error, package):
    """Whether an ImportError says that a package is not installed, and not that it is broken."""
    return isinstance(error, ModuleNotFoundError) and error.name == package
