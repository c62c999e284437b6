"""The three operations against a plain dense reference: outputs and every gradient."""

import pytest
import torch

from skdict._core.architectures import ARCHITECTURES
from skdict._core.autoencoder import Autoencoder
from skdict._core.sparse import BLOCK_ELEMENTS, decode, encode_at, row_blocks, select

B, D, N = 23, 7, 31


def tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in shapes]


def relu_penalty(codes, alpha):
    return codes, alpha * codes.sum()


def largest_four(codes, alpha):
    return torch.where(codes >= codes.sort(dim=1).values[:, -4:-3], codes, 0), 0.0


ARCHITECTURE_AND_REFERENCE = {
    "relu": (ARCHITECTURES["relu"](), relu_penalty),
    "topk": (ARCHITECTURES["topk"](n_nonzero_coefs=4), largest_four),
}


def test_every_architecture_has_a_reference():
    assert ARCHITECTURE_AND_REFERENCE.keys() == ARCHITECTURES.keys()


def reference_objective(x, dictionary, encoder_weight, encoder_bias, intercept, alpha, rule):
    """The equations, written out; autograd does the rest, dL/dx included."""
    codes = torch.clamp((x - intercept) @ encoder_weight.T + encoder_bias, min=0)
    codes, penalty = rule(codes, alpha)
    residual = x - (codes @ dictionary + intercept)
    return 0.5 * (residual**2).sum() + penalty


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("bias", [0.0, -2.0, -100.0], ids=["half", "few", "none"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_objective_and_all_gradients_equal_the_dense_reference(name, path, bias):
    architecture, rule = ARCHITECTURE_AND_REFERENCE[name]
    x, dictionary, encoder_weight, encoder_bias, intercept = tensors(
        (B, D), (N, D), (N, D), (N,), (D,)
    )
    parameters = [dictionary, encoder_weight, encoder_bias + bias, intercept]
    expected_in = [p.clone().requires_grad_() for p in parameters]
    expected = reference_objective(x, *expected_in, alpha=0.3, rule=rule)
    expected.backward()

    actual_in = [p.clone().requires_grad_() for p in parameters]
    autoencoder = Autoencoder(*actual_in, architecture)
    support = autoencoder.select(x) if path == "sparse" else None
    actual, _ = autoencoder.objective(x, 0.3, support)
    actual.backward()

    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    for name, got, want in zip(
        ("dictionary", "encoder_weight", "encoder_bias", "intercept"),
        actual_in,
        expected_in,
        strict=True,
    ):
        torch.testing.assert_close(
            got.grad, want.grad, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_operations_pass_gradcheck():
    x, weight, bias, dictionary = tensors((B, D), (N, D), (N,), (N, D))
    support = select(x, weight, bias - 1, lambda pre: pre > 0)
    values = encode_at(x, weight, bias, support).detach()
    weight, bias, dictionary, values = (
        t.requires_grad_() for t in (weight, bias, dictionary, values)
    )
    assert torch.autograd.gradcheck(lambda w, b: encode_at(x, w, b, support), (weight, bias))
    assert torch.autograd.gradcheck(lambda v, d: decode(v, support, d), (values, dictionary))


def test_select_finds_what_is_positive_in_every_block():
    n_rows = 2 * (BLOCK_ELEMENTS // 4096) + 3
    assert len(row_blocks(n_rows, 4096)) == 3
    x, weight, bias = tensors((n_rows, 3), (4096, 3), (4096,))
    support = select(x, weight, bias - 4, lambda pre: pre > 0)
    dense = x @ weight.T + bias - 4 > 0
    rows = torch.repeat_interleave(torch.arange(n_rows), support.indptr.diff())
    rebuilt = torch.zeros_like(dense)
    rebuilt[rows, support.indices] = True
    assert torch.equal(rebuilt, dense)


def test_rows_without_any_active_feature_decode_to_zero():
    x, weight, dictionary = tensors((4, D), (N, D), (N, D))
    x[1] = 0
    support = select(x, weight, torch.full((N,), -1e-9, dtype=x.dtype), lambda pre: pre > 0)
    values = encode_at(x, weight, torch.zeros(N, dtype=x.dtype), support)
    assert torch.equal(decode(values, support, dictionary)[1], torch.zeros_like(x[1]))


def test_data_get_no_gradient():
    """x is data: the B×d×n product dL/dx is never formed, on either path."""
    x, weight, bias = tensors((B, D), (N, D), (N,))
    x.requires_grad_()
    support = select(x, weight, bias, lambda pre: pre > 0)
    encode_at(x, weight.requires_grad_(), bias, support).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_low_precision_scan_misses_nothing(monkeypatch, scale):
    """bfloat16 operands with the bound added select a superset, and not a much larger one."""
    generator = torch.Generator().manual_seed(0)
    x = scale * torch.randn(300, 64, generator=generator)
    weight = torch.randn(500, 64, generator=generator) / 8
    bias = -2 * scale * torch.rand(500, generator=generator)
    exact = (x.double() @ weight.double().T + bias.double()) > 0
    monkeypatch.setattr("skdict._core.sparse.cpu_has_bfloat16", lambda: True)
    support = select(x, weight, bias, lambda pre: pre > 0)
    rows = torch.repeat_interleave(torch.arange(300), support.indptr.diff())
    selected = torch.zeros_like(exact)
    selected[rows, support.indices] = True
    assert not (exact & ~selected).any()
    assert exact.sum() < selected.sum() < 1.5 * exact.sum()


def test_low_precision_scan_changes_neither_objective_nor_gradients(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 16), (16,), (64,), (100, 16)]
    dictionary, intercept, bias, x = (torch.randn(*s, generator=generator) for s in shapes)
    results = []
    for low_precision in (False, True):
        monkeypatch.setattr("skdict._core.sparse.cpu_has_bfloat16", lambda low=low_precision: low)
        parameters = [
            p.clone().requires_grad_() for p in (dictionary, 0.5 * dictionary, bias - 2, intercept)
        ]
        autoencoder = Autoencoder(*parameters, ARCHITECTURES["relu"]())
        objective, _ = autoencoder.objective(x, 0.3, autoencoder.select(x))
        objective.backward()
        results.append([objective, *(p.grad for p in parameters)])
    for exact, low in zip(*results, strict=True):
        torch.testing.assert_close(low, exact, rtol=1e-5, atol=1e-4)


def test_low_precision_scan_of_the_largest(monkeypatch):
    """Few of the k largest are swapped, for entries as large up to rounding; gradients are exact
    for those that are selected."""
    monkeypatch.setattr("skdict._core.sparse.cpu_has_bfloat16", lambda: True)
    generator = torch.Generator().manual_seed(0)
    shapes = [(500, 64), (500, 64), (500,), (64,), (300, 64)]
    *parameters, x = (torch.randn(*s, generator=generator) / 8 for s in shapes)
    topk = ARCHITECTURES["topk"](n_nonzero_coefs=10)
    autoencoder = Autoencoder(*(p.requires_grad_() for p in parameters), topk)
    support = autoencoder.select(x)
    assert torch.equal(support.indptr, torch.arange(301) * 10)
    selected = torch.zeros(300, 500, dtype=torch.bool)
    selected.scatter_(1, support.indices.view(300, 10), True)
    pre = x @ parameters[1].T + autoencoder._bias()
    exact = topk.active(pre)
    assert (selected & exact).sum() > 0.95 * exact.sum()
    for row in (selected != exact).any(dim=1).nonzero()[:, 0]:
        assert pre[row][exact[row]].min() - pre[row][selected[row]].min() < 0.02

    objective, _ = autoencoder.objective(x, 0.0, support)
    objective.backward()
    expected_in = [p.detach().clone().requires_grad_() for p in parameters]

    def rule(codes, alpha):
        return codes * selected, 0.0

    expected = reference_objective(x, *expected_in, alpha=0.0, rule=rule)
    expected.backward()
    torch.testing.assert_close(objective, expected, rtol=1e-5, atol=1e-5)
    for got, want in zip(parameters, expected_in, strict=True):
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-4, atol=1e-4)
