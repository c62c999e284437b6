"""The Triton kernels: on a GPU where there is one, else on the CPU by Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

# Runs in its own process: Triton decides at import whether it interprets.
CHECK = """
import torch
from skdict._core import kernels
from skdict._core.kernels.triton import products

device = "cuda" if torch.cuda.is_available() else "cpu"
generator = torch.Generator().manual_seed(0)


def close(got, want, dtype):
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4}[dtype]
    torch.testing.assert_close(got.cpu(), want, rtol=tolerance, atol=tolerance)


# features: less than a block, one block, several with a rest; entries: none to several blocks
for B, d, n in ((7, 5, 40), (5, 256, 33), (9, 600, 100)):
    for dtype in (torch.float32, torch.float64):
        mask = torch.rand(B, n, generator=generator) < torch.linspace(0, 1, B)[:, None]
        mask[:, 3] = False  # a component that is never active
        indptr = torch.nn.functional.pad(mask.sum(dim=1).cumsum(0), (1, 0))
        support = kernels.Support(indptr, mask.nonzero()[:, 1], n)
        left, right = (torch.randn(m, d, generator=generator, dtype=dtype) for m in (B, n))
        values = torch.randn(len(support.indices), generator=generator, dtype=dtype)
        z = torch.zeros(B, n, dtype=dtype)
        z[support.rows, support.indices] = values
        on = kernels.Support(indptr.to(device), support.indices.to(device), n)
        values, left_on, right_on = (t.to(device) for t in (values, left, right))
        close(products.weighted_sums(values, on, right_on), z @ right, dtype)
        close(products.sampled_product(left_on, right_on, on), (left @ right.T)[mask], dtype)
        columns, rows, order = (t.to(device) for t in support.transposed)
        transposed = kernels.Support(columns, rows, B)
        got = products.weighted_sums(values[order], transposed, left_on)
        close(got, z.T @ left, dtype)

empty = torch.zeros(4, dtype=torch.int64, device=device)
nothing = torch.zeros(0, dtype=torch.int64, device=device)
table = torch.ones(2, 3, device=device)
none = kernels.Support(empty, nothing, 2)
assert not products.weighted_sums(table.new_zeros(0), none, table).any()
assert products.sampled_product(table.new_zeros(3, 3), table, none).shape == (0,)
print("checked")
"""


@pytest.mark.slow
def test_kernels_equal_dense_products():
    environment = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    run = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "checked"
