"""transformers, imported where it is needed and not before."""

from contextlib import contextmanager

from ..optional import optional


def import_transformers(what):
    """Import transformers, or raise an ImportError that says `what` needs it and how to get it."""
    with optional("transformers", what, '"skdict[transformers]"'):
        import transformers
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
