"""The average of a stream's parameters."""

from math import comb

import numpy as np
import pytest
import torch

from skdict._core.models.architectures import make_architecture
from skdict._core.models.autoencoder import Autoencoder
from skdict._core.optim import normalize_
from skdict._core.solvers.autoencoder_training import Training
from skdict._core.solvers.averaging import POWER, Average
from skdict._core.solvers.schedule import Schedule


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


def autoencoder_with(name, k):
    atoms = normalize_(torch.randn(32, 8, generator=torch.Generator().manual_seed(0)).double())
    return Autoencoder.from_dictionary(atoms, make_architecture(name, k), encoder_scale=1.0)


@pytest.mark.parametrize("name", ["batch_topk", "matryoshka"])
def test_the_threshold_is_that_of_the_averaged_codes(name):
    """Not the mean of the steps' thresholds: the mean autoencoder has other codes."""
    training = Training(autoencoder_with(name, 3), torch.Generator().manual_seed(0))
    schedule = Schedule(alpha=0.1, learning_rate=0.02, from_scratch=False)
    generator = torch.Generator().manual_seed(1)
    expected = None
    for _ in range(40):
        x = torch.randn(64, 8, generator=generator).double()
        training.step(x, schedule)
        mean = training.averaged()
        pre = torch.relu((x - mean.intercept) @ mean.encoder_weight.T + mean.encoder_bias)
        smallest = pre.flatten().sort(descending=True).values[3 * 64 - 1]
        if expected is None:  # it begins with what training has
            expected = training.autoencoder.state["threshold"][0].clone()
        expected = expected + 0.1 * (smallest - expected)
        torch.testing.assert_close(
            training.averaged().state["threshold"], expected.expand(32), rtol=1e-6, atol=0
        )
    own = training.autoencoder.state["threshold"]
    assert ((own - expected).abs() > 1e-3).all()
    again = Training.from_state_dict(training.state_dict(), torch.device("cpu"))
    training.step(x, schedule)
    threshold = again.averaged().state["threshold"]
    torch.testing.assert_close(threshold, expected.expand(32), rtol=1e-6, atol=0)
    again.step(x, schedule)
    assert torch.equal(again.averaged().state["threshold"], training.averaged().state["threshold"])


@pytest.mark.parametrize("name", ["relu", "topk", "jumprelu", "gated"])
def test_what_steers_the_training_is_not_measured(name):
    training = Training(autoencoder_with(name, 3), torch.Generator().manual_seed(0))
    schedule = Schedule(alpha=0.1, learning_rate=0.02, from_scratch=False)
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1)).double()
    for _ in range(3):
        training.step(x, schedule)
    assert training.measured == {}
    averaged, own = training.averaged().state, training.autoencoder.state
    assert averaged.keys() == own.keys()
    for key in training.autoencoder.architecture.running_stats:
        assert torch.equal(averaged[key], own[key])
