"""What notices that arrays have been edited."""

import pytest
import torch

from skdict._core.tensors import Unchanged


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_change_of_any_one_column_is_noticed(dtype):
    n = 4096
    matrix = torch.full((1, n), n**-0.5, dtype=dtype)  # a unit row
    unchanged = Unchanged([matrix])
    assert unchanged()
    for j in range(n):
        matrix[0, j] = 0
        assert not unchanged(), j
        matrix[0, j] = n**-0.5
    assert unchanged()


def test_autocast_changes_nothing():
    unchanged = Unchanged([torch.randn(8, 5, generator=torch.Generator().manual_seed(0))])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert unchanged()
