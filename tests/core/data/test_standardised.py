"""Activations at a common place and scale."""

import numpy as np
import pytest
import torch

from skdict._core.data import source
from skdict._core.data.source import Source
from skdict._core.data.standardised import Standardised


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(3, 2, size=(50, 4))


@pytest.fixture
def data(X):
    rows = Source(X, torch.device("cpu"))
    statistics = rows.statistics()
    return Standardised(rows, statistics.mean, statistics.rms / 2)


def test_rows_have_the_norm_of_their_length(X, data):
    assert (len(data), data.shape, data.n_features) == (50, (50, 4), 4)
    assert data.dtype == torch.float64
    np.testing.assert_allclose(data[:].mean(dim=0), np.zeros(4), atol=1e-14)
    assert float(data[:].square().sum(dim=1).mean()) == pytest.approx(4)
    np.testing.assert_allclose(data.to_data_units(data[:]), X)


def test_every_way_to_read_gives_the_same_rows(X, data, monkeypatch):
    monkeypatch.setattr(source, "BLOCK_BYTES", 8 * 4 * 7)
    want = data.standardise(torch.from_numpy(X))
    np.testing.assert_array_equal(data[5:9], want[5:9])
    np.testing.assert_array_equal(torch.cat(list(data.batches(8))), want)
    drawn = data.draw(10, torch.Generator(device="cpu").manual_seed(0))
    assert (drawn[:, None] == want).all(dim=2).any(dim=1).all()
