"""Whatever the caller has set in torch and NumPy, results are the same and so are the settings."""

import contextlib
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from calls import CALLS
from outcomes import check_all, outcome_of, verdict_on


@contextlib.contextmanager
def setting(set_value, value, before):
    set_value(value)
    try:
        yield
    finally:
        set_value(before)


@contextlib.contextmanager
def generators():
    """Other states of the global generators."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        np.random.seed(99)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002


@contextlib.contextmanager
def warning_filters():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", "nothing says this")
        yield


# Results of another dtype are not asked for: the arrays that are given decide.
STATES = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device meta": lambda: torch.device("meta"),
    "default dtype float64": lambda: setting(
        torch.set_default_dtype, torch.float64, torch.float32
    ),
    "default dtype bfloat16": lambda: setting(
        torch.set_default_dtype, torch.bfloat16, torch.float32
    ),
    "two threads": lambda: setting(torch.set_num_threads, 2, torch.get_num_threads()),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "generators": generators,
    "filters of warnings": warning_filters,
}


def verdicts(name, states):
    """Counts of the verdicts on a function, and its faults in words."""
    call, counts, faults = CALLS[name], Counter(), []
    for kind in ("int64",) if call.integers else ("float64", "float32", "tensor"):
        X = torch.tensor(call.clean) if kind == "tensor" else call.clean.astype(kind)
        want, error = outcome_of(call.function, X)
        assert error is None, error
        for state in states:
            if state == "autocast" and name.startswith(("steer", "ActivationExtractor")):
                continue  # a model of the user's is run as the user wants it
            with STATES[state]():
                verdict, why = verdict_on(call.function, X, call.name, (want,), tolerance(state))
            verdict = "wrong" if verdict == "refused" else verdict
            counts[verdict] += 1
            if verdict != "right":
                faults.append(f"{name} of {kind} under {state}: {verdict}: {why}")
    return counts, faults


def tolerance(state):
    """Sums by another number of threads are rounded otherwise; all else is equal to the digit."""
    return {"rtol": 1e-4, "atol": 1e-6} if state == "two threads" else {"rtol": 0, "atol": 0}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_some_states(name):
    # each function meets other ones
    first = list(CALLS).index(name) % 6
    _, faults = verdicts(name, [*STATES][first::6])
    assert not faults, "\n".join(faults)


@pytest.mark.enumeration
def test_all_states(capsys):
    what = f"{len(CALLS)} functions x {len(STATES)} states"
    check_all((verdicts(name, STATES) for name in CALLS), what, capsys)
