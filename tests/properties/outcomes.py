"""What came of a call: right, refused clearly, unclear, or silently wrong."""

import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import sklearn
import torch
from calls import FITTED, attributes, differences

import skdict

# Whoever raises from here has looked at the input and says what is wrong with it.
OURS = (Path(skdict.__file__).parent, Path(sklearn.__file__).parent / "utils")


def outcome_of(function, *args):
    """The result of a call, or the error that it ends in: (result, error)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*args), None
        except Exception as error:
            return None, error


def is_clear(error, name):
    """Whether an error is a ValueError or TypeError of ours, or scikit-learn's, about `name`."""
    if not isinstance(error, ValueError | TypeError):
        return False
    raised = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    ours = any(raised.is_relative_to(folder) for folder in OURS)
    # what holds codes is called X where activations can take its place
    return ours and (name in str(error) or (name == "X" and str(error).startswith("codes ")))


def words_of(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"


def surroundings():
    """What no call may change: the state of torch and NumPy, and a fitted estimator."""
    return {
        "NumPy's generator": list(np.random.get_state()),  # noqa: NPY002
        "torch's generator": torch.get_rng_state(),
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "number of threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "filters of warnings": str(warnings.filters),
        "estimator": attributes(FITTED),
        "parameters": str(FITTED.get_params()),
        "names": sorted(vars(FITTED)),
    }


def verdict_on(function, given, name, references=(), tolerance=()):
    """The verdict on a call, and why.

    Parameters
    ----------
    references : sequence
        Results of which one is right; none if the call must be refused.
    tolerance : mapping
        How far from it the result may be: "rtol", "atol".

    Returns
    -------
    verdict : {"right", "refused", "unclear", "wrong"}
    why : str
    """
    before = surroundings()
    result, error = outcome_of(function, given)
    changed = differences(surroundings(), before, rtol=0, atol=0)
    if changed:
        return "wrong", f"changes {changed}"
    if error is not None:
        return ("refused" if is_clear(error, name) else "unclear"), words_of(error)
    if not len(references):
        return "wrong", f"gives {str(result)[:60]!r}"
    found = [differences(result, reference, **dict(tolerance)) for reference in references]
    return ("right", "") if not all(found) else ("wrong", f"{found[0][:3]}")


def check_all(verdicts, what, capsys):
    """Print the counts of all verdicts; fail with the faults if there are any.

    Parameters
    ----------
    verdicts : iterable of (counts, faults)
    what : str
        What is counted.
    """
    counts, faults = Counter(), []
    for of_one, its_faults in verdicts:
        counts += of_one
        faults += its_faults
    with capsys.disabled():
        print(f"\n{what}: {dict(counts)}")
    assert not faults, "\n".join(faults)
