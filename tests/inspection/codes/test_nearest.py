"""The nearest features, against all similarities."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skdict.inspection.codes import _gather


@pytest.mark.parametrize("n_atoms", [40, 600])
def test_by_cosine(n_atoms, monkeypatch):
    monkeypatch.setattr(_gather, "PRODUCTS", 7 * n_atoms)
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(n_atoms, 16)) * rng.uniform(1e-3, 9, (n_atoms, 1))
    atoms[3] = 0
    columns = rng.permutation(n_atoms)[:25]
    columns[:2] = 3, 5
    index, cosine = _gather.nearest_by_cosine(atoms, columns, 4)
    with np.errstate(invalid="ignore"):
        unit = np.nan_to_num(atoms / np.linalg.norm(atoms, axis=1, keepdims=True))
    expected = unit @ unit.T
    np.fill_diagonal(expected, -1)
    order = np.argsort(-expected, axis=1)[:, :4]
    for i, j in enumerate(columns):
        if j == 3:
            assert (index[i] == -1).all() and np.isneginf(cosine[i]).all()
        else:
            assert_array_equal(index[i], order[j])
            assert_allclose(cosine[i], expected[j, order[j]], atol=1e-6)
