"""Schedules, unit-norm atoms, training."""

import pytest
import torch
from training_testing import train

from skdict._core.models.architectures import ARCHITECTURES
from skdict._core.models.autoencoder import Autoencoder
from skdict._core.optim import UnitNormAdam, fitting_scale, learning_rate_factor, normalize_
from skdict._core.solvers.autoencoder_training import Training
from skdict._core.solvers.schedule import Schedule


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
    objective, _, _ = autoencoder.objective(x, 0.1, None)
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
    for parameter in autoencoder.tensors:
        parameter.requires_grad_()
        parameter.grad = torch.full_like(parameter, 1e3)
    optimizer = UnitNormAdam(autoencoder, max_norm=1.0)
    optimizer.step(1e-3)
    moments = [state["exp_avg"] for state in optimizer._adam.state.values()]
    norm = torch.sqrt(sum(((m / 0.1) ** 2).sum() for m in moments))
    torch.testing.assert_close(norm, torch.tensor(1.0), rtol=1e-3, atol=0)


def test_sparse_and_dense_path_train_alike(monkeypatch):
    """Five steps in float64 from the same start: the path does not matter."""
    x = torch.randn(500, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for dense_above in (-1.0, 2.0):
        monkeypatch.setattr("skdict._core.solvers.autoencoder_training.DENSE_ABOVE", dense_above)
        start = make_autoencoder()
        autoencoder = Autoencoder(*(p.double() for p in start.tensors), start.architecture)
        training = Training(autoencoder, torch.Generator().manual_seed(0))
        schedule = Schedule(alpha=0.1, learning_rate=1e-2, n_steps=5)
        train(training, schedule, x, n_passes=1, batch_size=100)
        results.append([p.detach() for p in autoencoder.tensors])
    for dense, sparse in zip(*results, strict=True):
        torch.testing.assert_close(sparse, dense, rtol=1e-10, atol=1e-12)


def test_training_resumes_exactly_from_its_state():
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(1))
    schedule = Schedule(alpha=0.1, learning_rate=1e-2)
    one = Training(make_autoencoder(), torch.Generator().manual_seed(0))
    options = {"n_passes": 2, "batch_size": 100}
    train(one, schedule, x, **options)
    other = Training.from_state_dict(one.state_dict(), torch.device("cpu"))
    for training in (one, other):
        train(training, schedule, x, **options)
    for a, b in zip(one.autoencoder.tensors, other.autoencoder.tensors, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fitting_scale(dtype):
    """Least squares, by hand, wherever the squares are; 1 for an estimate of zeros."""
    estimate = torch.tensor([[1.0, 2.0], [0.0, -2.0]], dtype=dtype)
    target = torch.tensor([[3.0, 3.0], [5.0, 0.0]], dtype=dtype)  # 9 / 9
    assert fitting_scale(estimate, target) == 1.0
    assert fitting_scale(estimate, 0.5 * target) == 0.5
    limits = torch.finfo(dtype)
    for size in (limits.max / 8, limits.tiny):
        for other in (size, 1.0, size**0.5):
            scale = fitting_scale(size * estimate, other * target)
            assert scale == pytest.approx(other / size, rel=1e-6)
    assert fitting_scale(0 * estimate, target) == 1.0
