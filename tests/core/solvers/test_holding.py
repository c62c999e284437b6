"""What is held while an autoencoder is trained stays where it may be, and the rest learns."""

import math

import pytest
import torch
from training_testing import train

from skdict._core.models.architectures import make_architecture
from skdict._core.models.autoencoder import Autoencoder
from skdict._core.optim import normalize_
from skdict._core.solvers.autoencoder_training import Training
from skdict._core.solvers.holding import HELD, SOFT_COSINE, Holding
from skdict._core.solvers.schedule import Schedule

N, D = 24, 6


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def trained(hold, *, architecture="relu", learning_rate=0.05):
    """Atoms at the start, and the autoencoder at the end; some features are dead at first."""
    start = normalize_(normal(N, D))
    autoencoder = Autoencoder.from_dictionary(
        start, make_architecture(architecture, None), encoder_scale=0.5
    )
    autoencoder.architecture.complete(N, 3)
    autoencoder.encoder_bias[:8] = -100.0
    training = Training(autoencoder, torch.Generator().manual_seed(0), hold=hold)
    schedule = Schedule(alpha=0.05, learning_rate=learning_rate, n_steps=100)
    train(training, schedule, normal(1000, D, seed=1), n_passes=10, batch_size=100)
    return start, autoencoder


def cosines(rows, others):
    return torch.nn.functional.cosine_similarity(rows.detach(), others, dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["relu", "topk", "batch_topk"])
def test_frozen_atoms_do_not_move_to_the_last_bit(architecture):
    start, autoencoder = trained("decoder", architecture=architecture)
    assert torch.equal(autoencoder.dictionary.detach(), start)
    assert (cosines(autoencoder.encoder_weight, start) < 0.999).any()
    assert (autoencoder.encoder_bias[:8] > -10).all()  # dead features were revived


def test_softly_frozen_atoms_stay_in_their_cones():
    start, autoencoder = trained("soft_decoder")
    cosine = cosines(autoencoder.dictionary, start)
    assert cosine.min() >= SOFT_COSINE - 1e-9
    assert (cosine < SOFT_COSINE + 1e-6).any()  # and would have gone further
    norms = autoencoder.dictionary.detach().norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_a_frozen_encoder_keeps_its_directions_and_learns_their_norms():
    start, autoencoder = trained("encoder")
    weight = autoencoder.encoder_weight.detach()
    norms = weight.norm(dim=1)
    alive = norms > 0
    assert alive.sum() > N / 2
    torch.testing.assert_close(weight[alive] / norms[alive, None], start[alive])
    assert norms[alive].std() > 0
    assert (cosines(autoencoder.dictionary, start) < 0.9).any()


def test_without_a_hold_everything_moves():
    start, autoencoder = trained(None)
    assert (cosines(autoencoder.dictionary, start) < SOFT_COSINE).any()


@pytest.mark.parametrize("hold", HELD)
def test_dead_features_get_their_own_direction_back(hold):
    start, autoencoder = trained(hold, learning_rate=1e-9)
    weight = autoencoder.encoder_weight.detach()
    assert (autoencoder.encoder_bias[:8] > -1).all()
    torch.testing.assert_close(normalize_(weight.clone()), start, rtol=1e-5, atol=1e-5)


def test_the_cone_in_the_plane_is_an_interval_of_angles():
    start_angle = torch.linspace(0, 2 * math.pi, 50, dtype=torch.float64)
    turned = torch.linspace(-3.1, 3.1, 50, dtype=torch.float64)

    def unit(angle):
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    autoencoder = Autoencoder.from_dictionary(
        unit(start_angle), make_architecture("relu", None), encoder_scale=1.0
    )
    holding = Holding("soft_decoder", autoencoder)
    autoencoder.dictionary.copy_(unit(start_angle + turned))
    holding.put_back(autoencoder)
    widest = math.acos(SOFT_COSINE)
    expected = unit(start_angle + turned.clamp(-widest, widest))
    torch.testing.assert_close(autoencoder.dictionary, expected)
