"""The three operations against a plain dense reference: outputs and every gradient."""

import numpy as np
import pytest
import torch

from skdict._core.kernels import (
    add_at_,
    decode,
    encode_at,
    half_squared_error,
    reconstruction_error,
    select,
)
from skdict._core.kernels.cpu import select as select_on_cpu
from skdict._core.kernels.cpu.eight_bits import Rounded, uncertainty
from skdict._core.kernels.cpu.encode import _estimate
from skdict._core.kernels.cpu.instructions import cpu_has_bfloat16
from skdict._core.kernels.cpu.search import LANES
from skdict._core.kernels.reference.select import select as select_plainly
from skdict._core.models.architectures import ARCHITECTURES
from skdict._core.models.architectures.base import keep_largest
from skdict._core.models.autoencoder import Autoencoder

B, D, N = 23, 7, 31


def tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in shapes]


@pytest.mark.parametrize("path", ["sparse", "dense"])
def test_operations_pass_gradcheck(path):
    centred, weight, bias, dictionary = tensors((B, D), (N, D), (N,), (N, D))
    intercept = torch.zeros(D, dtype=torch.float64)
    support = select(centred, weight, bias - 1) if path == "sparse" else None
    values = encode_at(centred, weight, bias, intercept, support).detach()
    for tensor in (weight, bias, dictionary, values, intercept):
        tensor.requires_grad_()
    gradcheck = torch.autograd.gradcheck
    assert gradcheck(lambda v, d: decode(v, support, d), (values, dictionary))
    # what is given as data, x - intercept, does follow the intercept in these
    x = centred
    assert gradcheck(lambda w, b: encode_at(x, w, b, intercept.detach(), support), (weight, bias))
    assert gradcheck(
        lambda v, d: reconstruction_error(v, support, d, x, intercept)[0], (values, dictionary)
    )


@pytest.mark.parametrize("path", ["sparse", "dense"])
def test_gradient_of_the_intercept(path):
    """It enters through x - b, which the operations take as data."""
    x, weight, bias, dictionary, start = tensors((B, D), (N, D), (N,), (N, D), (D,))
    support = select(x - start, weight, bias) if path == "sparse" else None
    mask = torch.zeros(B, N, dtype=torch.bool)
    if support is not None:
        mask[support.rows, support.indices] = True
    else:
        mask[:] = True

    reference = start.clone().requires_grad_()
    codes = ((x - reference) @ weight.T + bias) * mask
    (0.5 * (x - reference - codes @ dictionary).square().sum() + codes.sin().sum()).backward()

    for split in (False, True):
        intercept = start.clone().requires_grad_()
        centred = x - start
        values = encode_at(centred, weight, bias, intercept, support)
        if split:
            decoded = decode(values, support, dictionary)
            error, residual = half_squared_error(centred, intercept, decoded)
        else:
            error, residual = reconstruction_error(values, support, dictionary, centred, intercept)
        (error + values.sin().sum()).backward()
        torch.testing.assert_close(intercept.grad, reference.grad, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(residual, x - start - (codes @ dictionary).detach())


def dense_mask(indptr, indices, n):
    rows = torch.repeat_interleave(torch.arange(len(indptr) - 1), indptr.diff())
    mask = torch.zeros(len(indptr) - 1, n, dtype=torch.bool)
    mask[rows, indices] = True
    assert mask.sum() == len(indices)  # none twice
    return mask


@pytest.mark.slow
@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("n", "k"),
    [(1, None), (33, None), (1000, None), (1, 1), (33, 5), (128, 128), (1000, 32), (1000, 300)],
)
def test_search_of_the_cpu_finds_what_the_plain_one_finds(n, k, dtype, n_threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    monkeypatch.setattr(select_on_cpu, "BLOCK_ELEMENTS", 20 * n)  # several blocks, one not full
    x, weight, bias = (tensor.to(dtype) for tensor in tensors((131, 3), (n, 3), (n,)))
    x[7] = 0
    bias -= 0.5
    found = select_on_cpu.select_rows(x, weight, bias, k)
    expected = select_plainly(x, weight, bias, k)
    assert found[1].dtype == torch.int64
    assert found[0].equal(expected[0])
    masks = [
        dense_mask(torch.cat([torch.zeros(1, dtype=torch.int64), c.cumsum(0)]), i, n)
        for c, i in (found, expected)
    ]
    if dtype != torch.bfloat16 or k is None:
        assert masks[0].equal(masks[1])
    else:  # ties may be broken in favour of another
        pre = torch.nn.functional.linear(x, weight, bias)
        for row, one, other in zip(pre, *masks, strict=True):
            assert row[one].sort().values.equal(row[other].sort().values)


def test_search_breaks_ties_and_keeps_the_number():
    x = torch.ones(5, 1, dtype=torch.float64)
    weight = torch.tensor([0.0, 1, 1, 1, 2, -1, 1, -0.0, 1])[:, None].double()
    counts, indices = select_on_cpu.select_rows(x, weight, torch.zeros(9).double(), 3)
    assert counts.tolist() == [3] * 5
    assert indices.view(5, 3)[0].tolist() == [1, 2, 4]


def test_search_does_not_hide_what_is_not_a_number():
    x = torch.tensor([[torch.nan], [1.0], [-1.0]])
    for k in (None, 1):
        counts, _ = select_on_cpu.select_rows(x, torch.ones(4, 1), torch.zeros(4), k)
        assert counts.tolist() == [4 if k is None else 1, 4 if k is None else 1, 0]


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (33, 5), (1000, 32), (1000, 300), (40, 40)])
def test_search_in_8_bits_finds_the_largest_of_the_rounded(n, k, n_threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    monkeypatch.setattr(select_on_cpu, "BLOCK_ELEMENTS", 20 * n)
    x, weight, bias = (tensor.float() for tensor in tensors((131, 64), (n, 64), (n,)))
    x[7] = 0
    weight[0] = 0
    counts, indices = select_on_cpu.select_in_8_bits(x, weight, bias - 0.5, k)
    rounded = []
    for rows in (x.double(), weight.double()):
        scale = (rows.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-30)
        rounded.append((rows / scale).round() * scale)
    pre = torch.nn.functional.linear(*rounded, bias.double() - 0.5)
    found = indices.tensor_split(counts.cumsum(0)[:-1])
    for row, positions in zip(pre, found, strict=True):
        assert len(positions.unique()) == len(positions)
        largest = row.topk(k).values
        torch.testing.assert_close(
            row[positions].sort(descending=True).values,
            largest[: len(positions)],
            rtol=1e-6,
            atol=1e-6,
        )
        assert (largest[len(positions) :] < 1e-6).all()


@pytest.mark.slow
def test_search_in_8_bits_declines_what_they_cannot_hold():
    x, weight, bias = (tensor.float() for tensor in tensors((50, 64), (20, 64), (20,)))
    assert select_on_cpu.select_in_8_bits(x, weight, bias, 3) is not None
    for entry in (1e3, torch.nan, torch.inf):
        peaked = x.clone()
        peaked[:, 0] = entry
        assert select_on_cpu.select_in_8_bits(peaked, weight, bias, 3) is None
        assert select(peaked, weight, bias, 3).shape == (50, 20)  # by other means


def test_search_in_8_bits_finds_nearly_what_an_exact_one_finds(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    x, weight, bias = (tensor.float() for tensor in tensors((200, 512), (1000, 512), (1000,)))
    largest = torch.nn.functional.linear(x, weight, bias).topk(32).indices
    found = select(x, weight, bias, 32).indices.view(200, 32)
    shared = sum(torch.isin(*rows).sum() for rows in zip(found, largest, strict=True))
    assert shared > 0.97 * largest.numel()


def test_threads_that_search_leave_the_number_of_threads_alone():
    before = torch.get_num_threads()
    select_on_cpu.select_rows(torch.ones(100, 2), torch.ones(3, 2), torch.zeros(3), None)
    assert torch.get_num_threads() == before
    assert torch.rand(300, 300).mm(torch.rand(300, 300)).shape == (300, 300)


def test_rows_without_any_active_feature_decode_to_zero():
    x, weight, dictionary = tensors((4, D), (N, D), (N, D))
    x[1] = 0
    support = select(x, weight, torch.full((N,), -1e-9, dtype=x.dtype))
    zeros = torch.zeros(N, dtype=x.dtype)
    values = encode_at(x, weight, zeros, torch.zeros(D, dtype=x.dtype), support)
    assert torch.equal(decode(values, support, dictionary)[1], torch.zeros_like(x[1]))


def test_data_get_no_gradient():
    """x is data: the B×d×n product dL/dx is never formed, on either path."""
    x, weight, bias, intercept = tensors((B, D), (N, D), (N,), (D,))
    x.requires_grad_()
    for support in (select(x, weight, bias), None):
        weight.requires_grad_().grad = None
        encode_at(x, weight, bias, intercept, support).sum().backward()
        assert x.grad is None
        assert weight.grad is not None


def scan_in(bits, monkeypatch):
    """Have the CPU scan in 8 bits, in bfloat16 (16), or in float32."""
    module = "skdict._core.kernels.cpu.select"
    monkeypatch.setattr(f"{module}.cpu_has", lambda _: bits == 8)
    monkeypatch.setattr(f"{module}.cpu_has_bfloat16", lambda: bits == 16)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_low_precision_scan_misses_nothing(monkeypatch, scale, bits):
    """Rounded operands with the bound added select a superset, and not a much larger one."""
    generator = torch.Generator().manual_seed(0)
    x = scale * torch.randn(300, 64, generator=generator)
    weight = torch.randn(500, 64, generator=generator) / 8
    bias = -2 * scale * torch.rand(500, generator=generator)
    exact = (x.double() @ weight.double().T + bias.double()) > 0
    scan_in(bits, monkeypatch)
    support = select(x, weight, bias)
    selected = dense_mask(support.indptr, support.indices, 500)
    assert not (exact & ~selected).any()
    assert exact.sum() <= selected.sum() < 1.1 * exact.sum()
    assert (support.products is None) == (bits == 16)
    if bits == 8:
        wanted = (x.double() @ weight.double().T)[selected]
        torch.testing.assert_close(support.products.double(), wanted, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("bits", [8, 16])
def test_low_precision_scan_misses_nothing_where_all_is_rounded_the_same_way(monkeypatch, bits):
    """Most entries of x and of the weight lose almost half a unit in their last place."""
    scan_in(bits, monkeypatch)
    lost = 1 + 0.99 * 2.0**-8 if bits == 16 else 100.49 / 127
    one = torch.ones(32)
    x, weight = torch.cat([lost * one, one]), torch.cat([lost * one, -one])
    x, weight = x.repeat(3, 1), weight.repeat(4, 1)
    bias = torch.full((4,), -32 * (lost**2 - 1) + 1e-3)  # small: its own rounding is
    assert (x.double() @ weight.double().T + bias > 0).all()
    assert len(select(x, weight, bias).indices) == 12
    assert len(select(x, weight, bias - 0.5).indices) == 0


def test_bounds_of_products_in_8_bits_hold_for_rows_that_rounding_makes_longer():
    """A peak makes the unit large, and all other entries are rounded up by nearly half of it."""
    row = torch.full((1, 200_000), 0.51)
    row[0, 0] = 127
    rounded = Rounded.of(row)
    exact = float(row.double().square().sum())
    of_rows = [t.numpy() for t in (rounded.scale, rounded.size, uncertainty(rounded))]
    of_atoms = (t.numpy() for t in (rounded.scale, rounded.size, rounded.error, torch.zeros(1)))
    products = rounded.codes.int().square().sum(dim=1, dtype=torch.int32).numpy()
    upper, lanes = np.empty(1, np.float32), np.empty(LANES, np.int32)
    _estimate(products, *(array[0] for array in of_rows), *of_atoms, upper, lanes)
    lower = lanes.view(np.float32)[0]
    assert 0 <= lower <= exact <= upper[0]


@pytest.mark.parametrize("where", ["x", "weight", "bias"])
def test_scan_in_8_bits_does_not_hide_what_is_not_a_number(where, monkeypatch):
    scan_in(8, monkeypatch)
    operands = {"x": torch.ones(1, 2), "weight": torch.ones(4, 2), "bias": torch.full((4,), -9.0)}
    operands[where][0] = torch.nan
    assert 0 in select(**operands).indices


def test_low_precision_scan_changes_neither_objective_nor_gradients(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 16), (16,), (64,), (100, 16)]
    dictionary, intercept, bias, x = (torch.randn(*s, generator=generator) for s in shapes)
    results = []
    for bits in (32, 8, 16):
        scan_in(bits, monkeypatch)
        parameters = [
            p.clone().requires_grad_() for p in (dictionary, 0.5 * dictionary, bias - 2, intercept)
        ]
        autoencoder = Autoencoder(*parameters, ARCHITECTURES["relu"]())
        centred = x - intercept
        objective, _, _ = autoencoder.objective(centred, 0.3, autoencoder.select(centred))
        objective.backward()
        results.append([objective, *(p.grad for p in parameters)])
    for exact, *rounded in zip(*results, strict=True):
        for low in rounded:
            torch.testing.assert_close(low, exact, rtol=1e-5, atol=1e-4)


def test_low_precision_scan_of_the_largest(monkeypatch):
    """Few of the k largest are swapped, for entries as large up to rounding; gradients are exact
    for those that are selected."""
    monkeypatch.setattr("skdict._core.kernels.cpu.select.cpu_has_bfloat16", lambda: True)
    generator = torch.Generator().manual_seed(0)
    shapes = [(500, 64), (500, 64), (500,), (64,), (300, 64)]
    *parameters, x = (torch.randn(*s, generator=generator) / 8 for s in shapes)
    topk = ARCHITECTURES["topk"](k=10)
    autoencoder = Autoencoder(*(p.requires_grad_() for p in parameters), topk)
    centred = x - parameters[3].detach()
    support = autoencoder.select(centred)
    assert torch.equal(support.indptr, torch.arange(301) * 10)
    selected = dense_mask(support.indptr, support.indices, 500)
    pre = centred @ parameters[1].T + parameters[2]
    exact = keep_largest(pre, topk.k) > 0
    assert (selected & exact).sum() > 0.95 * exact.sum()
    for row in (selected != exact).any(dim=1).nonzero()[:, 0]:
        assert pre[row][exact[row]].min() - pre[row][selected[row]].min() < 0.02

    objective, _, _ = autoencoder.objective(centred, 0.0, support)
    objective.backward()
    dictionary, weight, bias, intercept = (p.detach().clone().requires_grad_() for p in parameters)
    codes = torch.relu((x - intercept) @ weight.T + bias) * selected
    expected = 0.5 * (x - intercept - codes @ dictionary).square().sum()
    expected.backward()
    torch.testing.assert_close(objective, expected, rtol=1e-5, atol=1e-5)
    for got, want in zip(parameters, (dictionary, weight, bias, intercept), strict=True):
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-4, atol=1e-4)


def test_sums_at_an_index_that_repeats():
    table, index = torch.arange(8.0).reshape(4, 2), torch.tensor([2, 0, 2, 2])
    rows = torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0], [3.0, 4.0]])
    want = torch.tensor([[10.0, 21.0], [2.0, 3.0], [108.0, 211.0], [6.0, 7.0]])
    torch.testing.assert_close(add_at_(table.clone(), index, rows), want, rtol=0, atol=0)


def test_a_torch_that_does_not_tell_what_the_cpu_can(monkeypatch):
    """The functions that do are not public, and may go."""
    x, weight, bias = tensors((B, D), (N, D), (N,))
    want = select(x.float(), weight.float(), bias.float(), 3)
    for name in ("_is_vnni_supported", "_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    cpu_has_bfloat16.cache_clear()
    assert not cpu_has_bfloat16()
    got = select(x.float(), weight.float(), bias.float(), 3)
    cpu_has_bfloat16.cache_clear()
    assert len(got.indices) == len(want.indices)
