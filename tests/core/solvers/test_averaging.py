"""The average of a stream's parameters."""

from math import comb

import numpy as np
import torch

from skdict._core.solvers.averaging import POWER, Average


def test_weights_are_binomial_coefficients():
    """C(t + P - 1, P) at step t, of which the sum is C(t + P, P + 1)."""
    steps = torch.randn(20, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    atoms, intercept = steps[0].clone(), steps[0, 0].clone()
    average = Average([atoms, intercept])
    for step in steps:
        atoms.copy_(step)
        intercept.copy_(step[0])
        average.update()
    weights = [comb(t + POWER - 1, POWER) for t in range(1, 21)]
    want = np.average(steps, axis=0, weights=weights)
    np.testing.assert_allclose(average.values[0], want)
    np.testing.assert_allclose(average.values[1], want[0])

    average.restart(torch.tensor([False, True, False]))
    want[1] = steps[-1, 1]
    np.testing.assert_allclose(average.values[0], want)

    other = Average([atoms.clone(), intercept.clone()])
    other.load_state_dict(average.state_dict(), torch.device("cpu"))
    atoms += 1
    average.update()
    np.testing.assert_allclose(other.values[0], want)  # with tensors of its own
