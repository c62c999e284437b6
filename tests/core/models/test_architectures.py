"""Every architecture against a plain dense reference: objective and every gradient."""

import pytest
import torch
from training_testing import codes_of

from skdict._core.models.architectures import ARCHITECTURES, JumpReLU, Matryoshka
from skdict._core.models.autoencoder import Autoencoder
from skdict._core.solvers.autoencoder_training import Training
from skdict._core.solvers.schedule import Schedule

B, D, N, K = 23, 7, 32, 4
ALPHA = 0.3


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


# The equations, written out on dense matrices; autograd does the rest, dL/dx included.
def relu(x, dictionary, pre, intercept):
    codes = pre.clamp(min=0)
    return 0.5 * ((x - codes @ dictionary - intercept) ** 2).sum() + ALPHA * codes.sum()


def topk(x, dictionary, pre, intercept):
    codes = pre.clamp(min=0)
    codes = torch.where(codes >= codes.sort(dim=1).values[:, -K:][:, :1], codes, 0)
    return 0.5 * ((x - codes @ dictionary - intercept) ** 2).sum()


def batch_largest(pre):
    codes = pre.clamp(min=0)
    return torch.where(codes >= codes.flatten().sort().values[-K * B], codes, 0)


def batch_topk(x, dictionary, pre, intercept):
    return 0.5 * ((x - batch_largest(pre) @ dictionary - intercept) ** 2).sum()


def matryoshka(x, dictionary, pre, intercept):
    codes = batch_largest(pre)
    errors = [
        0.5 * ((x - codes[:, :end] @ dictionary[:end] - intercept) ** 2).sum()
        for end in (N // 16, N // 4, N)
    ]
    return sum(errors) / 3


def jumprelu(x, dictionary, pre, intercept, log_threshold, log_price):
    threshold = log_threshold.exp()
    on = (pre > threshold).double()
    near = ((pre - threshold).abs() < JumpReLU().bandwidth / 2).double()
    # zero, with the derivative that stands for that of the step
    step = -(threshold - threshold.detach()) * near.detach() / JumpReLU().bandwidth
    codes = pre * on + threshold.detach() * step
    penalty = 0.5 * ALPHA**2 * (log_price.detach().exp() * (on + step)).sum()
    return 0.5 * ((x - codes @ dictionary - intercept) ** 2).sum() + penalty


def gated(x, dictionary, pre, intercept, log_gain, shift):
    codes = (pre > 0) * (log_gain.exp() * pre + shift).clamp(min=0)
    gate = pre.clamp(min=0)
    frozen = x - gate @ dictionary.detach() - intercept.detach()
    error = 0.5 * ((x - codes @ dictionary - intercept) ** 2).sum()
    return error + 0.5 * (frozen**2).sum() + ALPHA * gate.sum()


def abs_topk(x, dictionary, pre, intercept):
    sizes = pre.abs()
    codes = torch.where(sizes >= sizes.sort(dim=1).values[:, -K:][:, :1], pre, 0)
    return 0.5 * ((x - codes @ dictionary - intercept) ** 2).sum()


def group_max(x, dictionary, pre, intercept):
    groups = pre.clamp(min=0).view(B, K, N // K)
    codes = torch.where(groups == groups.amax(dim=2, keepdim=True), groups, 0).view(B, N)
    return 0.5 * ((x - codes @ dictionary - intercept) ** 2).sum()


REFERENCES = {
    function.__name__: function
    for function in (
        relu,
        topk,
        batch_topk,
        matryoshka,
        jumprelu,
        gated,
        abs_topk,
        group_max,
    )
}
# architectures learn nothing besides by these names, or a threshold without a gradient
STATE = {"jumprelu": ("log_threshold", "log_price"), "gated": ("log_gain", "shift")}


def make(name, bias=0.0):
    """An autoencoder in float64 with random tensors, all of them requiring a gradient."""
    cls = ARCHITECTURES[name]
    architecture = cls(**({"k": K} if "k" in cls().get_params() else {}))
    state = architecture.initial_state(torch.zeros(N, dtype=torch.float64))
    for i, key in enumerate(STATE.get(name, ())):
        state[key] += 0.3 * draw(N, seed=10 + i)
    tensors = draw(N, D), draw(N, D, seed=1), draw(N, seed=2) + bias, draw(D, seed=3)
    autoencoder = Autoencoder(*tensors, architecture, state)
    for parameter in autoencoder.parameters:
        parameter.requires_grad_()
    return autoencoder


def test_every_architecture_has_a_reference():
    assert REFERENCES.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("bias", [0.0, -2.0, -100.0], ids=["half", "few", "none"])
@pytest.mark.parametrize("name", REFERENCES)
def test_objective_and_all_gradients_equal_the_dense_reference(name, bias, path):
    x = draw(B, D, seed=4)
    expected_in, actual_in = make(name, bias), make(name, bias)
    pre = (x - expected_in.intercept) @ expected_in.encoder_weight.T + expected_in.encoder_bias
    state = [expected_in.state[key] for key in STATE.get(name, ())]
    expected = REFERENCES[name](x, expected_in.dictionary, pre, expected_in.intercept, *state)
    expected.backward()

    centred = x - actual_in.intercept.detach()
    support = actual_in.select(centred) if path == "sparse" else None
    actual, _, residual = actual_in.objective(centred, ALPHA, support)
    actual.backward()

    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    codes = codes_of(actual_in, x)
    if name not in ("batch_topk", "matryoshka"):  # whose threshold is not yet known
        rebuilt = codes @ actual_in.dictionary + actual_in.intercept
        torch.testing.assert_close(residual, (x - rebuilt).detach())
    for tensor, got, want in zip(
        ["dictionary", "encoder_weight", "encoder_bias", *actual_in.state, "intercept"],
        actual_in.tensors,
        expected_in.tensors,
        strict=True,
    ):
        if tensor in actual_in.architecture.running_stats:
            assert got.grad is None
            continue
        want = torch.zeros_like(want) if want.grad is None else want.grad
        torch.testing.assert_close(
            got.grad, want, rtol=1e-10, atol=1e-10, msg=lambda m, tensor=tensor: f"{tensor}: {m}"
        )


@pytest.mark.parametrize("name", ["relu", "jumprelu", "gated"])
def test_codes_of_use_are_those_of_training(name):
    """`fold` and the encoder give the values that the objective was computed with."""
    autoencoder = make(name, -0.5)
    x = draw(B, D, seed=4)
    _, values, _ = autoencoder.objective(x - autoencoder.intercept.detach(), ALPHA, None)
    codes = codes_of(autoencoder, x)
    assert 0 < torch.count_nonzero(codes) < codes.numel() / 2
    torch.testing.assert_close(codes, values)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_goes_on_from_a_folded_encoder(name):
    """`unfold` undoes `fold`: the codes are the same."""
    autoencoder = make(name, -0.5)
    for threshold in (key for key in autoencoder.state if key == "threshold"):
        autoencoder.state[threshold].data += 0.7
    weight, bias, threshold = autoencoder.folded()
    bias, state = autoencoder.architecture.unfold(bias, threshold)
    assert state.keys() == autoencoder.state.keys()
    again = Autoencoder(
        autoencoder.dictionary,
        weight,
        bias,
        autoencoder.intercept,
        autoencoder.architecture,
        state,
    )
    x = draw(B, D, seed=4)
    torch.testing.assert_close(codes_of(again, x), codes_of(autoencoder, x))


def test_batch_topk_threshold_follows_the_smallest_code():
    """The mean number of non-zeros of single samples comes out at k."""
    autoencoder = make("batch_topk")
    looked_at = []
    for seed in range(600):
        x = draw(B, D, seed=100 + seed)
        support = autoencoder.select(x)
        with torch.no_grad():
            _, values, _ = autoencoder.objective(x, 0.0, support)
            autoencoder.architecture.update_running_stats(values[values > 0], autoencoder.state, B)
        assert torch.count_nonzero(values) == K * B
        looked_at.append(len(values))
    # a few too many, but for the batches in which there were too few above the threshold
    assert sorted(looked_at)[len(looked_at) // 2] < 1.5 * K * B
    autoencoder.intercept.data.zero_()
    codes = codes_of(autoencoder, draw(2000, D, seed=5))
    assert torch.count_nonzero(codes) / len(codes) == pytest.approx(K, rel=0.1)


def test_prefixes_reconstruct_by_themselves():
    """The first atoms of a nested dictionary get a gradient from the first error alone too."""
    autoencoder = make("matryoshka")
    assert Matryoshka().prefixes[-1] == 1.0
    x = draw(B, D, seed=4)
    support = autoencoder.select(x)
    fine = support.in_groups([N // 16, N // 4, N])
    assert fine.indptr[::3].equal(support.indptr)
    bounds = [0, N // 16, N // 4, N]
    for row in range(B):
        for group in range(3):
            start, end = fine.indptr[3 * row + group], fine.indptr[3 * row + group + 1]
            inside = fine.indices[start:end]
            assert ((bounds[group] <= inside) & (inside < bounds[group + 1])).all()


@pytest.mark.parametrize("name", ["batch_topk", "matryoshka", "jumprelu"])
def test_what_is_averaged_is_not_changed_by_the_optimiser(name, monkeypatch):
    autoencoder = make(name)
    averaged = [autoencoder.state[key] for key in autoencoder.architecture.running_stats]
    before = [tensor.clone() for tensor in averaged]
    monkeypatch.setattr(type(autoencoder.architecture), "update_running_stats", lambda *_: None)
    training = Training(autoencoder, torch.Generator().manual_seed(0))
    training.step(draw(B, D, seed=4), Schedule(alpha=ALPHA, learning_rate=0.1, from_scratch=False))
    assert averaged
    for tensor, start in zip(averaged, before, strict=True):
        assert torch.equal(tensor, start)


@pytest.mark.parametrize("name", ["relu", "topk", "jumprelu", "gated"])
def test_batches_in_pieces_train_alike(name, monkeypatch):
    """Where samples do not share a budget of non-zeros the pieces' gradients add up to one."""
    results = []
    for max_entries in (1 << 21, 3 * N):
        monkeypatch.setattr("skdict._core.solvers.autoencoder_training.MAX_ENTRIES", max_entries)
        autoencoder = make(name)
        training = Training(autoencoder, torch.Generator().manual_seed(0))
        schedule = Schedule(alpha=ALPHA, learning_rate=0.01, from_scratch=False)
        n_pieces = []
        for seed in range(4):
            n_pieces.append(-(-B // training._rows_at_a_time()))
            objective = training.step(draw(B, D, seed=seed), schedule)
        assert (max(n_pieces) > 1) == (max_entries == 3 * N)
        results.append([objective, *(tensor.detach() for tensor in autoencoder.tensors)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_price_and_thresholds_of_jumprelu_follow_the_target():
    autoencoder = make("jumprelu")
    names = "log_price", "log_threshold"
    for n_active, direction in ((K * B + 5, 1), (K * B - 5, -1), (K * B, 0)):
        before = [autoencoder.state[name].detach().clone() for name in names]
        with torch.no_grad():
            autoencoder.architecture.update_running_stats(
                torch.ones(n_active), autoencoder.state, B
            )
        for name, old in zip(names, before, strict=True):
            change = autoencoder.state[name].detach() - old
            assert torch.equal(change.sign(), torch.full_like(change, direction))
