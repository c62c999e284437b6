"""Schedules, unit-norm atoms, revival."""

import pytest
import torch

from skdict._core.architectures import ARCHITECTURES
from skdict._core.autoencoder import Autoencoder
from skdict._core.optim import UnitNormAdam, learning_rate_factor, normalize_, revive
from skdict._core.train import Schedule, Training, train


def make_autoencoder(n=12, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    atoms = normalize_(torch.randn(n, d, generator=generator))
    return Autoencoder.from_dictionary(atoms, ARCHITECTURES["relu"](), encoder_scale=0.1)


def test_learning_rate_rises_stays_and_falls_to_almost_zero():
    factors = [learning_rate_factor(step, 100, warmup=0.1, decay=0.2) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[50] == 1.0
    assert factors[99] == pytest.approx(1 / 20)
    assert factors == sorted(factors[:50]) + sorted(factors[50:], reverse=True)


@pytest.mark.parametrize("n_steps", [1, 2, 7, 1000])
def test_schedules_are_positive_and_bounded_for_any_length(n_steps):
    schedule = Schedule(alpha=2.0, learning_rate=0.5, n_steps=n_steps)
    for step in range(n_steps):
        assert 0 < schedule.learning_rate_at(step) <= 0.5
        assert 0 < schedule.alpha_at(step) <= 2.0
    assert schedule.alpha_at(n_steps) == 2.0


def test_a_step_moves_atoms_along_the_sphere_only():
    autoencoder = make_autoencoder()
    training = Training(autoencoder, torch.Generator().manual_seed(0))
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    before = autoencoder.dictionary.detach().clone()
    objective, _ = autoencoder.objective(x, 0.1, None)
    (objective / 64).backward()
    gradient = autoencoder.dictionary.grad.clone()
    assert (gradient * before).sum(dim=1).abs().max() > 1e-3  # there is something to remove
    training.optimizer.step(0.01)
    norms = torch.linalg.vector_norm(autoencoder.dictionary, dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    first_moment = training.optimizer._adam.state[autoencoder.dictionary]["exp_avg"]
    assert (first_moment * before).sum(dim=1).abs().max() < 1e-6


def test_gradient_norm_is_clipped():
    autoencoder = make_autoencoder()
    for parameter in autoencoder.parameters:
        parameter.requires_grad_()
        parameter.grad = torch.full_like(parameter, 1e3)
    optimizer = UnitNormAdam(autoencoder, max_norm=1.0)
    optimizer.step(1e-3)
    moments = [state["exp_avg"] for state in optimizer._adam.state.values()]
    norm = torch.sqrt(sum(((m / 0.1) ** 2).sum() for m in moments))
    torch.testing.assert_close(norm, torch.tensor(1.0), rtol=1e-3, atol=0)


def test_revive_points_dead_features_at_badly_reconstructed_samples():
    autoencoder = make_autoencoder()
    training = Training(autoencoder, torch.Generator().manual_seed(0))
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    training.step(x, Schedule(alpha=0.1, learning_rate=1e-3, n_steps=10))
    dead = torch.zeros(12, dtype=torch.bool)
    dead[[2, 7]] = True
    loss = torch.zeros(50)
    loss[[10, 20]] = 1.0  # only these two can be drawn
    untouched = autoencoder.dictionary[~dead].detach().clone()
    alive_norm = autoencoder.encoder_weight[~dead].norm(dim=1).mean()
    revive(autoencoder, training.optimizer, dead, x, loss, torch.Generator().manual_seed(0))

    expected = normalize_((x - autoencoder.intercept.detach())[[10, 20]])
    cosines = autoencoder.dictionary[dead].detach() @ expected.T
    torch.testing.assert_close(cosines.max(dim=1).values, torch.ones(2))
    assert sorted(cosines.argmax(dim=1).tolist()) == [0, 1]
    torch.testing.assert_close(
        autoencoder.encoder_weight[dead], 0.2 * alive_norm * autoencoder.dictionary[dead]
    )
    assert torch.equal(autoencoder.encoder_bias[dead], torch.zeros(2))
    assert torch.equal(autoencoder.dictionary[~dead], untouched)
    for parameter in autoencoder.parameters[:3]:
        for name in ("exp_avg", "exp_avg_sq"):
            moment = training.optimizer._adam.state[parameter][name]
            assert not moment[dead].any()
            assert moment[~dead].any()


def test_revival_brings_silenced_features_back():
    """Features that cannot fire at the start are alive at the end, only because of revival."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 8, generator=generator)
    alive = {}
    for revivals in (Schedule.REVIVALS, ()):
        autoencoder = make_autoencoder(n=16, d=8)
        autoencoder.encoder_bias[:8] = -100.0
        training = Training(autoencoder, torch.Generator().manual_seed(0))
        schedule = Schedule(alpha=0.05, learning_rate=3e-3, n_steps=200)
        object.__setattr__(schedule, "REVIVALS", revivals)
        list(
            train(
                training,
                schedule,
                lambda i: x[i],
                len(x),
                n_passes=20,
                batch_size=200,
                shuffle=True,
            )
        )
        alive[bool(revivals)] = int((autoencoder.infer(x) > 0).any(dim=0).sum())
    assert alive == {True: 16, False: 8}


def test_sparse_and_dense_path_train_alike(monkeypatch):
    """Five steps in float64 from the same start: the path does not matter."""
    x = torch.randn(500, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for dense_above in (-1.0, 2.0):
        monkeypatch.setattr("skdict._core.train.DENSE_ABOVE", dense_above)
        start = make_autoencoder()
        autoencoder = Autoencoder(*(p.double() for p in start.parameters), start.architecture)
        training = Training(autoencoder, torch.Generator().manual_seed(0))
        schedule = Schedule(alpha=0.1, learning_rate=1e-2, n_steps=5)
        list(
            train(
                training,
                schedule,
                lambda i: x[i],
                500,
                n_passes=1,
                batch_size=100,
                shuffle=True,
            )
        )
        results.append([p.detach() for p in autoencoder.parameters])
    for dense, sparse in zip(*results, strict=True):
        torch.testing.assert_close(sparse, dense, rtol=1e-10, atol=1e-12)


def test_training_resumes_exactly_from_its_state():
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(1))
    schedule = Schedule(alpha=0.1, learning_rate=1e-2)
    one = Training(make_autoencoder(), torch.Generator().manual_seed(0))
    options = {"n_passes": 2, "batch_size": 100, "shuffle": True}
    list(train(one, schedule, lambda i: x[i], 300, **options))
    other = Training.from_state_dict(one.state_dict(), torch.device("cpu"))
    for training in (one, other):
        list(train(training, schedule, lambda i: x[i], 300, **options))
    for a, b in zip(one.autoencoder.parameters, other.autoencoder.parameters, strict=True):
        assert torch.equal(a, b)
