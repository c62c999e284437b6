"""Architectures by name: those of skdict, and those that others register."""

import copy

from ...parameters import python_number
from ...registry import Registry
from .base import Architecture

ARCHITECTURES = Registry("architecture")


def register(name):
    """Class decorator: make an architecture available as ``architecture=name``.

    Parameters
    ----------
    name : str
        A name that no other architecture has.

    Returns
    -------
    decorator : callable
        Takes a subclass of `Architecture`, whose constructor can be called without arguments,
        and returns it.

    Raises
    ------
    TypeError
        If the name is not a string, or what is decorated is not a subclass of `Architecture` or
        cannot be called without arguments.
    ValueError
        If another class has the name.

    Examples
    --------
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> from skdict.decomposition.architectures import Architecture, register
    >>> @register("unpenalised")
    ... class Unpenalised(Architecture):
    ...     pass
    >>> X = [[0.5, 1.5], [1.0, 0.0], [0.0, 2.0]]
    >>> SparseAutoencoderDictionary(4, architecture="unpenalised").fit(X).transform(X).shape
    (3, 4)
    """
    if not isinstance(name, str):
        raise TypeError(f"register takes a name, as in @register('mine'); got {name!r}.")

    def decorator(cls):
        if not (isinstance(cls, type) and issubclass(cls, Architecture)):
            raise TypeError(f"register({name!r}) takes a subclass of Architecture; got {cls!r}.")
        cls()  # by name it is made of its defaults
        return ARCHITECTURES.register(name)(cls)

    return decorator


def make_architecture(given, n_nonzero_coefs=None):
    """A new, valid architecture, by name or like an instance.

    ``n_nonzero_coefs`` is its k, if it has one and leaves it open.

    Raises
    ------
    ValueError
        If a hyper-parameter has no valid value, or k is given twice, as different numbers.
    """
    architecture = ARCHITECTURES[given]() if isinstance(given, str) else copy.deepcopy(given)
    given_params = architecture.get_params()
    architecture.set_params(**{k: python_number(value) for k, value in given_params.items()})
    architecture.validate()
    if n_nonzero_coefs is not None and "k" in architecture.get_params():
        if architecture.k not in (None, n_nonzero_coefs):
            raise ValueError(
                f"n_nonzero_coefs={n_nonzero_coefs}, but architecture={given!r} has "
                f"k={given.k}. Give only one of them, or the same number twice."
            )
        architecture.k = n_nonzero_coefs
    return architecture
