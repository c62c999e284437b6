"""Dead features are revived, duplicates merged, atoms that stand for two directions split."""

import itertools

import pytest
import torch
from training_testing import codes_of, train

from skdict._core.models.architectures import ARCHITECTURES
from skdict._core.models.autoencoder import Autoencoder
from skdict._core.optim import UnitNormAdam, normalize_
from skdict._core.solvers.autoencoder_training import Training
from skdict._core.solvers.resampling import merge_duplicates, revive, split
from skdict._core.solvers.schedule import RESAMPLE_AT, Schedule, resampling_of_stream


def make_autoencoder(n=12, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    atoms = normalize_(torch.randn(n, d, generator=generator))
    return Autoencoder.from_dictionary(atoms, ARCHITECTURES["relu"](), encoder_scale=0.1)


def orthogonal_autoencoder(atoms, bias=-0.1):
    """Encoder rows equal to the given atoms."""
    autoencoder = Autoencoder.from_dictionary(atoms, ARCHITECTURES["relu"](), encoder_scale=1.0)
    autoencoder.encoder_bias += bias
    return autoencoder


def test_revive_points_dead_features_at_badly_reconstructed_samples():
    autoencoder = make_autoencoder()
    training = Training(autoencoder, torch.Generator().manual_seed(0))
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    training.step(x, Schedule(alpha=0.1, learning_rate=1e-3, n_steps=10))
    dead = torch.zeros(12, dtype=torch.bool)
    dead[[2, 7]] = True
    residual = torch.zeros(50, 5)
    residual[[10, 20]] = 3 * x[[10, 20]]  # only these two can be drawn
    untouched = autoencoder.dictionary[~dead].detach().clone()
    alive_norm = autoencoder.encoder_weight[~dead].norm(dim=1).mean()
    revive(autoencoder, training.optimizer, dead, x, residual, torch.Generator().manual_seed(0))

    expected = normalize_((x - autoencoder.intercept.detach())[[10, 20]])
    cosines = autoencoder.dictionary[dead].detach() @ expected.T
    torch.testing.assert_close(cosines.max(dim=1).values, torch.ones(2))
    assert sorted(cosines.argmax(dim=1).tolist()) == [0, 1]
    torch.testing.assert_close(
        autoencoder.encoder_weight[dead], 0.2 * alive_norm * autoencoder.dictionary[dead]
    )
    assert torch.equal(autoencoder.encoder_bias[dead], torch.zeros(2))
    assert torch.equal(autoencoder.dictionary[~dead], untouched)
    for parameter in autoencoder.row_parameters:
        for name in ("exp_avg", "exp_avg_sq"):
            moment = training.optimizer._adam.state[parameter][name]
            assert not moment[dead].any()
            assert moment[~dead].any()


def test_revived_features_do_not_add_more_than_is_missing():
    """Two hundred point at four samples; no more than a hundred come back, and scaled down."""
    generator = torch.Generator().manual_seed(0)
    autoencoder = make_autoencoder(n=300, d=6)
    x = torch.randn(4, 6, generator=generator).repeat(10, 1)
    dead = torch.arange(300) >= 100
    autoencoder.encoder_bias[dead] = -100.0
    before = x - codes_of(autoencoder, x) @ autoencoder.dictionary
    revive(autoencoder, UnitNormAdam(autoencoder), dead, x, before, generator)
    assert int((autoencoder.encoder_bias == 0).sum() - 100) == 100
    after = x - codes_of(autoencoder, x) @ autoencoder.dictionary
    assert after.square().sum() <= before.square().sum()


def test_revival_brings_silenced_features_back():
    """Features that cannot fire at the start are alive at the end, only because of revival."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 8, generator=generator)
    alive = {}
    for resample_at in (RESAMPLE_AT, ()):
        autoencoder = make_autoencoder(n=16, d=8)
        autoencoder.encoder_bias[:8] = -100.0
        training = Training(autoencoder, torch.Generator().manual_seed(0))
        schedule = Schedule(alpha=0.05, learning_rate=3e-3, n_steps=200, resample_at=resample_at)
        train(training, schedule, x, n_passes=20, batch_size=200)
        alive[bool(resample_at)] = int((codes_of(autoencoder, x) > 0).any(dim=0).sum())
    assert alive == {True: 16, False: 8}


def test_duplicates_are_merged_without_changing_the_reconstruction():
    atoms = torch.eye(6, dtype=torch.float64)[[0, 1, 1, 2, 1, 3]]
    autoencoder = orthogonal_autoencoder(atoms)
    autoencoder.encoder_weight[[1, 2, 4]] *= torch.tensor([[0.5], [0.2], [0.3]]).double()
    x = torch.randn(200, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 10
    x = x[(x[:, 1] < 0) | (x[:, 1] > 1)]  # all three are on, or none
    before = codes_of(autoencoder, x) @ autoencoder.dictionary
    alive = torch.ones(6, dtype=torch.bool)
    free = merge_duplicates(autoencoder, alive)
    assert free.tolist() == [False, False, True, False, True, False]
    codes = codes_of(autoencoder, x)
    assert not codes[:, free].any()
    torch.testing.assert_close(codes @ autoencoder.dictionary, before)


@pytest.mark.parametrize("architecture", ["jumprelu", "gated"])
def test_thresholds_follow_what_is_merged_and_split(architecture):
    """Features 0 and 3 are one; another stands for two directions that hardly part."""
    axes = torch.eye(6, dtype=torch.float64)
    autoencoder = orthogonal_autoencoder(axes[[0, 1, 2, 0]])
    autoencoder.architecture = ARCHITECTURES[architecture]()
    start = torch.zeros(4, dtype=torch.float64)
    autoencoder.state = autoencoder.architecture.initial_state(start)
    if architecture == "gated":
        autoencoder.state["shift"] += 0.4
    sides = 1e-6 * torch.tensor([[1.0], [-1.0]]).double() * axes[3]
    x = torch.linspace(0.3, 2, 50)[:, None, None] * (axes[:3, None] + sides).view(1, 6, 6)
    x = x.view(-1, 6)
    optimizer = UnitNormAdam(autoencoder)

    def decoded():
        support = autoencoder.select(x)
        _, values, residual = autoencoder.objective(x, 0.0, support)
        return x - residual, support, values, residual

    before = decoded()[0]
    free = merge_duplicates(autoencoder, torch.ones(4, dtype=torch.bool))
    merged, *observed = decoded()
    torch.testing.assert_close(merged, before)
    none = torch.zeros_like(free)
    assert not split(autoencoder, optimizer, free, none, *observed, torch.Generator()).any()
    torch.testing.assert_close(decoded()[0], before, rtol=1e-4, atol=1e-4)


def test_only_what_is_alike_in_both_atom_and_encoder_is_a_duplicate():
    generator = torch.Generator().manual_seed(0)
    autoencoder = make_autoencoder(n=40, d=20)
    alive = torch.ones(40, dtype=torch.bool)
    assert not merge_duplicates(autoencoder, alive).any()
    assert not merge_duplicates(autoencoder, ~alive).any()
    autoencoder.dictionary[3] = autoencoder.dictionary[1]  # one direction, found in two ways
    autoencoder.encoder_weight[7] = autoencoder.encoder_weight[5]  # found together, written apart
    assert not merge_duplicates(autoencoder, alive).any()
    autoencoder.dictionary[16] = autoencoder.dictionary[15]  # found together, beyond thresholds
    autoencoder.encoder_weight[16] = autoencoder.encoder_weight[15]
    autoencoder.encoder_bias[16] = -1.0
    assert not merge_duplicates(autoencoder, alive).any()
    nearly = autoencoder.dictionary[10] + 0.05 * torch.randn(20, generator=generator)
    autoencoder.dictionary[11] = nearly / nearly.norm()
    autoencoder.encoder_weight[11] = 0.3 * nearly
    weight = autoencoder.encoder_weight.clone()
    alive[11] = False  # a dead feature is nobody's duplicate
    assert not merge_duplicates(autoencoder, alive).any()
    assert torch.equal(autoencoder.encoder_weight, weight)
    alive[11] = True
    assert merge_duplicates(autoencoder, alive).nonzero().tolist() == [[11]]
    torch.testing.assert_close(autoencoder.encoder_weight[10], weight[10] + weight[11])


def test_in_a_chain_none_is_merged_into_one_that_goes():
    angles = torch.tensor([0.0, 0.4, 0.8, 1.2])  # neighbours are alike, others are not
    atoms = torch.stack([angles.cos(), angles.sin()], dim=1)
    free = merge_duplicates(orthogonal_autoencoder(atoms), torch.ones(4, dtype=torch.bool))
    assert free.tolist() == [False, True, False, False]


def split_at(autoencoder, free, x, keep=()):
    support = autoencoder.select(x - autoencoder.intercept)
    _, values, residual = autoencoder.objective(x - autoencoder.intercept, 0.0, support)
    kept = torch.zeros_like(free)
    kept[list(keep)] = True
    optimizer = UnitNormAdam(autoencoder)
    generator = torch.Generator().manual_seed(0)
    return split(autoencoder, optimizer, free, kept, support, values, residual, generator)


def test_an_atom_for_two_directions_is_split_into_them():
    """Atom 2 stands for the third and the fourth axis; feature 5 has nothing to do."""
    axes = torch.eye(8, dtype=torch.float64)
    atoms = torch.cat([axes[:2], normalize_(axes[2:3] + axes[3:4]), axes[4:6], axes[0:1]])
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(0, 6, (400,), generator=generator)
    x = axes[which] * (1 + torch.rand(400, 1, generator=generator, dtype=torch.float64))
    free = torch.tensor([False] * 5 + [True])
    autoencoder = orthogonal_autoencoder(atoms)
    autoencoder.encoder_bias[5] = -100.0
    assert not split_at(autoencoder, free, x).any()
    halves = autoencoder.dictionary[[2, 5]]
    cosines = halves @ axes.T
    assert sorted(cosines.argmax(dim=1).tolist()) == [2, 3]
    assert cosines.max(dim=1).values.min() > 0.95  # codes are shrunk by the bias
    # halves of the encoder too, which where they have not parted add up to the whole
    torch.testing.assert_close(autoencoder.encoder_weight[[2, 5]], 0.5 * halves)
    assert torch.equal(autoencoder.dictionary[[0, 1, 3, 4]], atoms[[0, 1, 3, 4]])


def test_an_atom_for_two_directions_that_is_there_twice():
    axes = torch.eye(4, dtype=torch.float64)
    atoms = normalize_((axes[:1] + axes[1:2]).repeat(2, 1))
    autoencoder = orthogonal_autoencoder(atoms, bias=0.0)
    autoencoder.encoder_weight *= 0.5
    free = merge_duplicates(autoencoder, torch.ones(2, dtype=torch.bool))
    assert free.tolist() == [False, True]
    assert not split_at(autoencoder, free, axes[[0, 1] * 50]).any()
    cosines = autoencoder.dictionary @ axes.T
    torch.testing.assert_close(cosines.max(dim=0).values[:2], torch.ones(2, dtype=torch.float64))


def test_no_feature_is_dead_after_few_samples_or_at_the_end():
    for n_steps in (1, 2, 3, 10, 100):
        schedule = Schedule(alpha=0.1, learning_rate=1e-3, n_steps=n_steps)
        assert not schedule.resamples_at(n_steps - 1, 10**6)
        goes_on = Schedule(alpha=0.1, learning_rate=1e-3, n_steps=n_steps, from_scratch=False)
        assert not any(goes_on.resamples_at(step, 10**6) for step in range(n_steps))
    for n_steps in (30, 60, 100, 300, 1000):
        schedule = Schedule(alpha=0.1, learning_rate=1e-3, n_steps=n_steps)
        steps = [step for step in range(n_steps) if schedule.resamples_at(step, 10**6)]
        assert min(b - a for a, b in itertools.pairwise([-1, *steps])) >= 20
    assert len(steps) == 14
    sizes = (64, 0), (64, 200_000), (1024, 0), (1024, 1_000_000)
    assert [resampling_of_stream(*size) for size in sizes] == [4000, 10_000, 8192, 50_000]
    stream = Schedule(alpha=0.1, learning_rate=1e-3, resample_after=30_000)
    assert [stream.resamples_at(9, n) for n in (29_999, 30_000)] == [False, True]
    x = torch.randn(990, 5, generator=torch.Generator().manual_seed(0))
    autoencoder = make_autoencoder()
    autoencoder.encoder_bias[:6] = -100.0
    training = Training(autoencoder, torch.Generator().manual_seed(0))
    schedule = Schedule(alpha=0.1, learning_rate=1e-6, n_steps=20, min_steps_between_resampling=1)
    for batch in x.split(99):
        training.step(batch, schedule)
    assert (autoencoder.encoder_bias[:6] < -99).all()
    for batch in x.split(99)[:5]:
        training.step(batch, schedule)
    assert (autoencoder.encoder_bias[:6] > -1).all()


def test_what_finds_no_atom_to_split_is_left():
    axes = torch.eye(4)
    x = axes.repeat(20, 1)
    autoencoder = orthogonal_autoencoder(axes.clone(), bias=0.0)  # nothing is left to explain
    free = torch.tensor([False, False, False, True])
    assert torch.equal(split_at(autoencoder, free, x[x[:, 3] == 0]), free)
    autoencoder = orthogonal_autoencoder(normalize_(axes + 0.3))
    everything = split_at(autoencoder, free, x, keep=[0, 1, 2])
    assert torch.equal(everything, free)
    assert torch.equal(split_at(autoencoder, free, x[:8]), free)  # too few samples to tell
    none = torch.zeros(4, dtype=torch.bool)
    assert not split_at(autoencoder, none, x).any()


@pytest.mark.slow
def test_resampling_finds_planted_atoms_that_had_merged():
    """Two true atoms share one, a third is there twice: only resampling gets out of that."""
    generator = torch.Generator().manual_seed(0)
    truth = normalize_(torch.randn(10, 16, generator=generator))
    codes = torch.rand(4000, 10, generator=generator) + 0.5
    codes *= torch.rand(4000, 10, generator=generator) < 0.15
    x = codes @ truth
    start = truth.clone()
    start[0] = normalize_((truth[0] + truth[1])[None])[0]
    start[1] = truth[2]
    found = {}
    for resample_at in (RESAMPLE_AT, ()):
        autoencoder = Autoencoder.from_dictionary(
            start, ARCHITECTURES["relu"](), encoder_scale=1.0
        )
        training = Training(autoencoder, torch.Generator().manual_seed(0))
        schedule = Schedule(alpha=0.1, learning_rate=1e-2, n_steps=400, resample_at=resample_at)
        train(training, schedule, x, n_passes=20, batch_size=200)
        cosines = (truth @ autoencoder.dictionary.detach().T).max(dim=1).values
        found[bool(resample_at)] = int((cosines > 0.95).sum())
    assert found[True] == 10
    assert found[False] < 10
