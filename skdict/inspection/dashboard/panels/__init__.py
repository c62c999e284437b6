"""The panels of the page: one file that gathers and one that draws, of the same name, each.

A panel's module has ``gather(context)``, which returns a dict of columns with one entry per
feature, as `_schema.encoded_features` takes them; the page finds them under the panel's name. It
may have ``gather_page(context)`` too, which returns what the page has once. The ``.js`` file
beside it registers how they are drawn. There is nothing else to do for a new panel.
"""

from importlib import import_module
from pkgutil import iter_modules


def all_panels():
    """Modules of the panels by name."""
    names = sorted(each.name for each in iter_modules(__path__))
    return {name: import_module(f"{__name__}.{name}") for name in names}
