"""Entries above thresholds, against all pre-activations."""

import pytest
import torch

from skdict._core.kernels import exceeding


@pytest.mark.parametrize("n", [40, 700])  # plain, and by the scan in 8 bits
@pytest.mark.parametrize("level", [-3.0, 0.0, 2.5, -float("inf")])
def test_against_the_product(n, level):
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(rows, 48, generator=generator) for rows in (n, 600))
    weight /= weight.norm(dim=1, keepdim=True)
    bias, threshold = torch.randn(2, n, generator=generator)
    threshold = threshold + level
    p = (x.double() @ weight.double().T + bias.double()).float()
    counts, indices, values = exceeding(weight, bias)(x, threshold)
    expected = p > threshold
    rows = torch.repeat_interleave(torch.arange(len(x)), counts)
    found = torch.zeros_like(expected)
    found[rows, indices] = True
    close = abs(p - threshold) < 1e-5
    assert torch.equal(found | close, expected | close)
    torch.testing.assert_close(values, p[rows, indices], rtol=1e-5, atol=1e-5)
    assert (indices.diff()[rows.diff() == 0] > 0).all()


def test_float64():
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (30, 50))
    bias = torch.zeros(30, dtype=torch.float64)
    counts, _, values = exceeding(weight, bias)(x, bias + 1)
    p = x @ weight.T
    assert torch.equal(counts, (p > 1).sum(dim=1))
    torch.testing.assert_close(values, p[p > 1])
