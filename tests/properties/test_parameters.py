"""Numeric parameters of all public functions: numbers of any kind, and what is no number."""

from collections import Counter
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from numbers_given import PARAMETERS
from outcomes import check_all, outcome_of, verdict_on

# The same number, in another type: the same result.
INTEGERS = (np.int8, np.uint8, np.int16, np.int64, np.uint64, lambda n: np.array([n])[0])
REALS = (np.float16, np.float32, np.float64, np.longdouble)
# The same result or a refusal.
SCALARS = (np.array, torch.tensor)
NO_NUMBERS = (1j, "1", b"1", object(), {}, np.datetime64("2020"), Decimal("0.5"), float("-inf"))
NOT_FINITE = (float("nan"), np.float32("nan"), np.longdouble("1e4000"))


def cases(function, name):
    """What to give for a parameter: (value, whether it is the good one: yes, maybe, no)."""
    if name in function.integers:
        good, outside = function.integers[name]
        yield from ((kind(good), "yes") for kind in INTEGERS)
        bad = [good + 0.5, float(good), True, np.True_, float("inf"), Fraction(1, 2)]
    else:
        good, outside = function.reals[name]
        yield from ((kind(good), "yes") for kind in REALS)
        yield Fraction(good), "maybe"
        bad = [True, np.True_, 10**400]
        bad += [] if name in function.infinite else [float("inf")]
    no_numbers = NO_NUMBERS
    if name in function.lists:  # then what could be an array is one
        bad = [value for value in bad if not isinstance(value, bool | np.bool_)]
        no_numbers = [value for value in no_numbers if not isinstance(value, Decimal)]
    else:
        bad += [[good], np.array([good])]
    if name == "random_state":  # scikit-learn's: True is a seed
        bad = [value for value in bad if not isinstance(value, bool | np.bool_)]
    if name not in function.optional:
        bad.append(None)
    yield from ((kind(good), "maybe") for kind in SCALARS)
    not_finite = [x for x in NOT_FINITE if np.isnan(x) or name not in function.infinite]
    yield from ((value, "no") for value in (*outside, *bad, *no_numbers, *not_finite))


def verdicts(public, name, part=slice(None)):
    """Counts of the verdicts on a parameter, and its faults in words."""
    function, counts, faults = PARAMETERS[public], Counter(), []
    good = (function.integers | function.reals)[name][0]
    reference, error = outcome_of(lambda: function.function(**{name: good}))
    assert error is None, error
    for value, is_good in [*cases(function, name)][part]:
        references = () if is_good == "no" else (reference,)
        verdict, why = verdict_on(
            lambda value: function.function(**{name: value}), value, name, references
        )
        if is_good == "yes" and verdict == "refused":
            verdict = "wrong"
        counts[verdict] += 1
        if verdict in ("unclear", "wrong"):
            faults.append(f"{public}({name}={value!r:.40}): {verdict}: {why}")
    return counts, faults


ALL = [(public, name) for public, f in PARAMETERS.items() for name in f.integers | f.reals]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(ALL)), ids=[f"{f} {name}" for f, name in ALL])
def test_some_values(number):
    # each parameter meets other ones
    _, faults = verdicts(*ALL[number], slice(number % 10, None, 10))
    assert not faults, "\n".join(faults)


@pytest.mark.enumeration
def test_all_parameters(capsys):
    check_all((verdicts(*each) for each in ALL), f"{len(ALL)} numeric parameters", capsys)
