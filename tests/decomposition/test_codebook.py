"""Codes of codebooks: the nearest codeword, whatever its size."""

import numpy as np
import pytest
import torch

from skdict._core.coding import Codebook


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_codeword_at_any_scale(dtype):
    rng = np.random.default_rng(0)
    codewords, x = rng.normal(size=(8, 5)), rng.normal(size=(50, 5))
    norms = np.linalg.norm(codewords, axis=1)
    nearest = ((x[:, None] - codewords) ** 2).sum(axis=2).argmin(axis=1)
    atoms = torch.tensor(codewords / norms[:, None], dtype=dtype)
    limits = torch.finfo(dtype)
    for scale in (1.0, limits.max / 16, limits.tiny * 1e4):
        codebook = Codebook(atoms, torch.tensor(norms * scale).to(dtype), [8])
        codes = codebook(torch.tensor(x * scale, dtype=dtype)).dense()
        np.testing.assert_array_equal((codes != 0).sum(dim=1), 1)
        np.testing.assert_array_equal(codes.argmax(dim=1), nearest)
        np.testing.assert_allclose(codes.amax(dim=1), norms[nearest] * scale, rtol=1e-6)
