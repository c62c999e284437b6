"""Orthogonal matching pursuit against scikit-learn and non-negative least squares."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.linear_model import orthogonal_mp
from test_lasso import dense, make_problem

from skdict._core.coding.omp import OrthogonalMatchingPursuit
from skdict._core.kernels.cpu import gram

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture(params=["one by one", "together"])
def way(request, monkeypatch):
    if request.param == "together":
        monkeypatch.setattr(gram, "GRAM_BYTES", 0)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 4, 25])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_signed_codes_are_sklearns(dtype, k):
    x, atoms = make_problem(dtype)
    codes = dense(*OrthogonalMatchingPursuit(atoms, k, positive=False)(x))
    expected = orthogonal_mp(atoms.double().numpy().T, x.double().numpy().T, n_nonzero_coefs=k).T
    if dtype == torch.float64:
        np.testing.assert_allclose(codes, expected, atol=1e-9)
    assert (np.count_nonzero(codes, axis=1) == k).all()
    error, least = (((x.numpy() - z @ atoms.numpy()) ** 2).sum(axis=1) for z in (codes, expected))
    np.testing.assert_allclose(error, least, rtol=1e-2 if k == 25 else 1e-4, atol=1e-5)


def plain_non_negative(sample, atoms, k):
    """As it is defined: the atom of the largest correlation joins, non-negative least squares."""
    support, code = [], np.zeros(len(atoms))
    for _ in range(2 * k):
        correlation = atoms @ (sample - code @ atoms)
        correlation[support] = -1
        if len(support) == k or correlation.max() <= 1e-12:
            break
        support.append(int(correlation.argmax()))
        code[:] = 0
        code[support] = nnls(atoms[support].T, sample)[0]
        support = [j for j in support if code[j] > 0]
    return code


@pytest.mark.parametrize("k", [1, 4, 25])
def test_non_negative_codes(k):
    x, atoms = make_problem()
    codes = dense(*OrthogonalMatchingPursuit(atoms, k)(x))
    expected = [plain_non_negative(sample, atoms.numpy(), k) for sample in x.numpy()]
    np.testing.assert_allclose(codes, expected, atol=1e-9)
    assert (codes >= 0).all()
    assert np.count_nonzero(codes, axis=1).max() <= k


@pytest.mark.parametrize("positive", [True, False])
def test_a_number_for_each_sample(positive):
    x, atoms = make_problem()
    numbers = torch.arange(40) % 6
    pursuit = OrthogonalMatchingPursuit(atoms, 6, positive=positive)
    codes = dense(*pursuit(x, numbers))
    for k in range(6):
        expected = dense(*pursuit(x[numbers == k], torch.full((int((numbers == k).sum()),), k)))
        np.testing.assert_allclose(codes[numbers == k], expected, atol=1e-12)
        assert np.count_nonzero(expected, axis=1).max() <= k


@pytest.mark.parametrize("positive", [True, False])
def test_ends_at_an_error(positive):
    x, atoms = make_problem()
    pursuit = OrthogonalMatchingPursuit(atoms, 40, square_tol=0.8, positive=positive)
    codes = dense(*pursuit(x))
    error = ((x.numpy() - codes @ atoms.numpy()) ** 2).sum(axis=1)
    assert error.max() <= 0.8
    fewer = OrthogonalMatchingPursuit(atoms, 40, square_tol=1.6, positive=positive)
    assert np.count_nonzero(codes) > np.count_nonzero(dense(*fewer(x)))


@pytest.mark.parametrize("positive", [True, False])
def test_degenerate_samples_and_atoms(positive):
    """More atoms than the rank allows: it ends, with what least squares can do."""
    x, atoms = make_problem(n=12)
    x[3] = 0
    atoms = torch.cat([atoms[:6], atoms[:6], 0 * atoms[:3], 2 * atoms[:6]])
    codes = dense(*OrthogonalMatchingPursuit(atoms, 21, positive=positive)(x))
    assert np.isfinite(codes).all()
    assert not codes[3].any()
    assert np.count_nonzero(codes, axis=1).max() <= 6
    for sample, code in zip(x.numpy(), codes, strict=True):
        error = np.linalg.norm(sample - code @ atoms.numpy())
        if positive:
            assert error == pytest.approx(nnls(atoms.T.numpy(), sample)[1], rel=1e-6)
        else:
            weights = np.linalg.lstsq(atoms.T.numpy(), sample)[0]
            assert error == pytest.approx(np.linalg.norm(sample - weights @ atoms.numpy()))


def plain_pursuit(sample, atoms, k, positive):
    """As it is defined, on atoms of norm 1: what an atom's norm changes is how soon it joins."""
    norms = np.linalg.norm(atoms, axis=1)
    unit = atoms / norms[:, None]
    support, code = [], np.zeros(len(atoms))
    for _ in range(2 * k):
        correlation = unit @ (sample - code @ unit)
        correlation = correlation if positive else np.abs(correlation)
        correlation[support] = 0
        correlation[correlation <= 1e-12 * np.linalg.norm(sample)] = 0
        if len(support) == k or not correlation.any():
            break
        support.append(int((correlation * norms).argmax()))
        code[:] = 0
        if positive:
            code[support] = nnls(unit[support].T, sample)[0]
        else:
            code[support] = np.linalg.lstsq(unit[support].T, sample)[0]
        support = [j for j in support if code[j] != 0]
    return code / norms


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_atoms_of_any_norm(dtype, positive):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 6))
    norms = 10.0 ** rng.integers(-12, 13, (10, 1))
    atoms = rng.normal(size=(10, 6)) * norms
    pursuit = OrthogonalMatchingPursuit(torch.tensor(atoms, dtype=dtype), 6, positive=positive)
    codes = dense(*pursuit(torch.tensor(x, dtype=dtype)))
    expected = np.stack([plain_pursuit(sample, atoms, 6, positive) for sample in x])
    tolerance = 1e-8 if dtype == torch.float64 else 1e-3
    np.testing.assert_allclose(codes * norms.T, expected * norms.T, atol=tolerance)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize(("of_x", "of_atoms"), [(900, -50), (-900, 50), (-50, 900), (50, -900)])
def test_powers_of_two_change_nothing(of_x, of_atoms, positive):
    x, atoms = make_problem(n=30, d=10)
    expected = dense(*OrthogonalMatchingPursuit(atoms, 5, positive=positive)(x))
    of_x, of_atoms = 2.0**of_x, 2.0**of_atoms
    codes = dense(*OrthogonalMatchingPursuit(atoms * of_atoms, 5, positive=positive)(x * of_x))
    np.testing.assert_array_equal(codes, expected / of_atoms * of_x)


def test_the_error_to_end_at_is_in_the_units_of_x():
    x, atoms = make_problem()
    expected = dense(*OrthogonalMatchingPursuit(atoms, 40, square_tol=0.8)(x))
    scale = 2.0**400
    pursuit = OrthogonalMatchingPursuit(atoms, 40, square_tol=0.8 * scale**2)
    np.testing.assert_array_equal(dense(*pursuit(x * scale)), expected * scale)
