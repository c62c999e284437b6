"""What skdict promises of every fit and of every parameter."""

from numbers import Real

import numpy as np
import pytest
from sklearn.base import BaseEstimator

from skdict.utils._sklearn_compat import (
    Interval,
    fit_context,
    python_number,
    python_numbers,
    validate_params,
)

NESTED = {"prefer_skip_nested_validation": True}


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (np.int8(-3), -3),
        (np.uint8(200), 200),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.float16(0.1), 0.0999755859375),
        (np.float32(0.1), 0.10000000149011612),
        (np.longdouble(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.bool_(True), True),
    ],
)
def test_scalars_become_numbers_of_pythons(value, want):
    assert python_number(value) == want
    assert type(python_number(value)) is type(want)
    assert type(python_numbers(lambda x: x)(value)) is type(want)
    assert type(python_numbers(lambda *, x: x)(x=value)) is type(want)


def test_anything_else_stays_what_it_is():
    for value in (3, 0.5, True, None, "auto", np.arange(3), np.array(3), [np.int8(3)]):
        assert python_number(value) is value


def test_a_validated_function_sees_numbers_of_pythons():
    @validate_params({"n": [Interval(Real, 1, None, closed="left")]}, **NESTED)
    def double(n):
        """Twice n."""
        return 2 * n

    assert double(np.int8(100)) == 200
    assert double.__doc__ == "Twice n."
    with pytest.raises(ValueError, match="'n' parameter of"):
        double(np.int8(0))


class Learner(BaseEstimator):
    _parameter_constraints: dict = {"size": "no_validation", "error": "no_validation"}

    def __init__(self, size=3, error=None):
        self.size = size
        self.error = error

    @fit_context(**NESTED)
    def fit(self, X, y=None):
        self.n_features_in_ = X
        self.kind_ = type(self.size)
        del self.__dict__["former_"]
        if self.error is not None:
            raise self.error
        return self


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit()])
def test_a_fit_that_fails_puts_everything_back(error):
    learner = Learner(np.int8(3), error)
    learner.n_features_in_, learner.former_ = 1, [1.0]
    before = dict(vars(learner))
    with pytest.raises(type(error)):
        learner.fit(2)
    assert vars(learner) == before
    assert type(learner.size) is np.int8


def test_a_fit_sees_numbers_of_pythons_and_leaves_the_parameters_as_they_are():
    size = np.uint8(3)
    learner = Learner(size)
    learner.former_ = None
    assert learner.fit(2) is learner
    assert learner.kind_ is int
    assert learner.size is size
    assert not hasattr(learner, "former_")
