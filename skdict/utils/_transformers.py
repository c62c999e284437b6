"""transformers, imported where it is needed and not before."""

from contextlib import contextmanager


def import_transformers(what):
    """Import transformers, or raise an ImportError that says `what` needs it and how to get it."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"{what} needs transformers, which is not installed. Install it with: "
            'pip install "skdict[transformers]"'
        ) from error
    return transformers


@contextmanager
def no_progress_bar():
    """Hide the bar that transformers shows while it loads weights, during a ``with`` block."""
    logging = import_transformers("Loading a model").utils.logging
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
