"""The one place that imports scikit-learn's underscored names.

Its decorators for fits and functions are those of scikit-learn, and hold what skdict promises of
all of them.
"""

import functools

from sklearn.base import _clone_parametrized as clone_parametrized
from sklearn.base import _fit_context
from sklearn.model_selection._search import BaseSearchCV
from sklearn.utils import _align_api_if_sparse as align_sparse_interface
from sklearn.utils._param_validation import (
    HasMethods,
    Options,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils._param_validation import Interval as _Interval
from sklearn.utils._param_validation import validate_params as _validate_params
from sklearn.utils._set_output import _get_output_config

from .._core.parameters import python_number

__all__ = [
    "BaseSearchCV",
    "HasMethods",
    "Interval",
    "Options",
    "StrOptions",
    "align_sparse_interface",
    "clone_parametrized",
    "fit_context",
    "output_container",
    "plain_output",
    "python_numbers",
    "validate_parameter_constraints",
    "validate_params",
]


class Interval(_Interval):
    """scikit-learn's, of numbers that a float can hold, and not of bools."""

    def is_satisfied_by(self, value):
        if isinstance(value, bool) or not isinstance(value, self.type):
            return False
        try:
            return float(value) in self
        except OverflowError:
            return False


def python_numbers(function):
    """Let a function see numbers of Python's where it is given scalars of NumPy's."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(
            *map(python_number, args),
            **{name: python_number(value) for name, value in kwargs.items()},
        )

    return wrapper


def validate_params(parameter_constraints, *, prefer_skip_nested_validation):
    """scikit-learn's, and the function sees numbers of Python's."""

    def decorator(function):
        validated = _validate_params(
            parameter_constraints, prefer_skip_nested_validation=prefer_skip_nested_validation
        )(function)
        return python_numbers(validated)

    return decorator


def fit_context(*, prefer_skip_nested_validation):
    """scikit-learn's, for a method that fits all or nothing.

    If it fails or is interrupted, at whatever point, the estimator is what it was before: its
    attributes are put back. The method must therefore not work in place on what a former fit has
    left. Meanwhile the parameters of the estimator are numbers of Python's.
    """

    def decorator(method):
        in_context = _fit_context(prefer_skip_nested_validation=prefer_skip_nested_validation)(
            method
        )

        @functools.wraps(method)
        def wrapper(estimator, *args, **kwargs):
            before = vars(estimator).copy()
            try:
                parameters = estimator.get_params(deep=False)
                vars(estimator).update(
                    {name: python_number(value) for name, value in parameters.items()}
                )
                result = in_context(estimator, *args, **kwargs)
                vars(estimator).update(parameters)
            except BaseException:
                estimator.__dict__ = before  # no call that could be interrupted in turn
                raise
            return result

        return wrapper

    return decorator


def output_container(estimator):
    """What `set_output` has asked for: "default", "pandas", "polars"."""
    return _get_output_config("transform", estimator)["dense"]


def plain_output(copied):
    """Let a shallow copy of an estimator return arrays, whatever `set_output` has said.

    `set_output` itself would write into a dict that the copy shares with the original.
    """
    copied._sklearn_output_config = {"transform": "default"}
    return copied


def callbacks_of(estimator):
    """What `set_callbacks` has set."""
    return getattr(estimator, "_skl_callbacks", [])
