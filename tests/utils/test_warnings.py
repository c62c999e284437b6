"""Where warnings say that they come from."""

import warnings
from pathlib import Path

import numpy as np
import pytest

import skdict
from skdict.decomposition import alpha_grid


@pytest.mark.parametrize("folder", ["skdict_examples", "skdict.py", "elsewhere"])
def test_a_warning_names_the_callers_line_wherever_that_stands(folder):
    path = str(Path(skdict.__file__).parents[1] / folder / "script.py")
    X = np.random.default_rng(0).normal(size=(100, 4))
    X[3] *= 1e6
    code = compile("\n\nalpha_grid(X)", path, "exec")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(code, {"alpha_grid": alpha_grid, "X": X})
    (warning,) = caught
    assert (warning.filename, warning.lineno) == (path, 3)
