"""Objects whose hyper-parameters can be read, set, searched over and compared."""

import inspect
from contextlib import suppress
from numbers import Integral, Real

import numpy as np


class Parameterized:
    """Base of classes that keep the arguments of their constructor untouched, by name.

    It follows scikit-learn's protocol of parameters, so that `sklearn.base.clone` copies such an
    object, and an estimator that holds one under ``name`` has parameters ``name__parameter``. A
    subclass names its parameters in the signature of ``__init__``, which stores them and does
    nothing else: values are checked in `validate`, as they can change until they are used.
    """

    @classmethod
    def _signature(cls):
        """Parameters of the constructor, `inspect.Parameter` by name."""
        if cls.__init__ is object.__init__:
            return {}
        _, *parameters = inspect.signature(cls.__init__).parameters.values()
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(
                    f"{cls.__name__}.__init__ takes {parameter}, but its parameters need names. "
                    "Write them out in its signature."
                )
        return {parameter.name: parameter for parameter in parameters}

    def get_params(self, deep=True):
        """Hyper-parameters by name.

        Parameters
        ----------
        deep : bool, default=True
            Without effect, as no hyper-parameter has its own.

        Returns
        -------
        params : dict
        """
        return {name: getattr(self, name) for name in self._signature()}

    def set_params(self, **params):
        """Set hyper-parameters by name.

        Parameters
        ----------
        **params : dict
            New values.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If there is no hyper-parameter of such a name.
        """
        for name, value in params.items():
            if name not in self._signature():
                raise ValueError(
                    f"Invalid parameter {name!r} for {self!r}. Valid parameters are: "
                    f"{list(self._signature())}."
                )
            setattr(self, name, value)
        return self

    def validate(self):
        """Check the hyper-parameters, when they are used.

        Raises
        ------
        ValueError
            If one is not what it must be.
        """

    def require(self, name, is_met, expected):
        """Say what is wrong with a hyper-parameter, if it is: for use in `validate`.

        Parameters
        ----------
        name : str
        is_met : bool
            Whether its value is as expected.
        expected : str
            What it must be, as in "an int of at least 1".

        Raises
        ------
        ValueError
            Unless ``is_met``.
        """
        if not is_met:
            raise ValueError(
                f"The {name!r} parameter of {type(self).__name__} must be {expected}. Got "
                f"{getattr(self, name)!r} instead."
            )

    def __eq__(self, other):
        if type(self) is not type(other):
            return NotImplemented
        return self.get_params() == other.get_params()

    __hash__ = None  # parameters can change

    def __repr__(self):
        """What is not at its default."""
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if repr(value) != repr(self._signature()[name].default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


def is_number(value):
    """Whether the value is a real number, and not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_count(value):
    """Whether the value is an integer of at least 1, and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


def python_number(value):
    """The int, float or bool that a number of another type is; anything else as it is.

    Small integers of NumPy's overflow, unsigned ones have no negative, half-precision numbers
    round what is computed with them, and torch takes none of them for a size.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    for kind, python in ((Integral, int), (Real, float)):
        if isinstance(value, kind):
            with suppress(OverflowError):  # of a fraction that is too large: refused later
                return python(value)
    return value
