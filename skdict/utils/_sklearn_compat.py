"""The one place that imports scikit-learn's underscored names."""

from sklearn.base import _clone_parametrized as clone_parametrized
from sklearn.base import _fit_context as fit_context
from sklearn.utils import _align_api_if_sparse as align_sparse_interface
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_parameter_constraints,
    validate_params,
)

__all__ = [
    "HasMethods",
    "Interval",
    "StrOptions",
    "align_sparse_interface",
    "clone_parametrized",
    "fit_context",
    "validate_parameter_constraints",
    "validate_params",
]
