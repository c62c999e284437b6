"""Lasso codes: every way to find them beside scikit-learn, their certificate beside numpy."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.decomposition import sparse_encode

from skdict._core.coding.lasso import Lasso
from skdict._core.kernels import Support
from skdict._core.kernels.cpu import gram
from skdict._core.kernels.cpu import lasso as lasso_on_cpu
from skdict._core.kernels.reference.working_sets import solve_working_sets

WAYS = ("one by one", "together", "together in torch")


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Choose a way to find codes: that of the CPU, of large dictionaries, of CUDA."""
    if request.param != "one by one":
        monkeypatch.setattr(gram, "GRAM_BYTES", 0)
    if request.param == "together in torch":
        monkeypatch.setattr(lasso_on_cpu, "solve_by_loops", solve_working_sets)


def make_problem(dtype=torch.float64, n_samples=40, n=150, d=40, seed=0):
    """Samples that are sparse in atoms, and noise."""
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(n, d))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = rng.exponential(2.0, (n_samples, n)) * (rng.random((n_samples, n)) < 0.03)
    x = codes @ atoms + 0.1 * rng.normal(size=(n_samples, d))
    return torch.tensor(x, dtype=dtype), torch.tensor(atoms, dtype=dtype)


def dense(support, values):
    codes = np.zeros(support.shape)
    codes[support.rows.numpy(), support.indices.numpy()] = values.numpy()
    return codes


def objective(x, atoms, codes, alpha):
    x, atoms = (np.asarray(a, np.float64) for a in (x, atoms))
    return 0.5 * ((x - codes @ atoms) ** 2).sum(axis=1) + alpha * np.abs(codes).sum(axis=1)


def relative_gap(x, atoms, codes, alpha, positive):
    """Duality gap over objective, by the definition: the best s with s·r feasible."""
    x, atoms = (np.asarray(a, np.float64) for a in (x, atoms))
    gaps = []
    for sample, code, primal in zip(x, codes, objective(x, atoms, codes, alpha), strict=True):
        residual = sample - code @ atoms
        correlation = atoms @ residual
        largest = max((correlation if positive else np.abs(correlation)).max(), 1e-300)
        square = residual @ residual
        scale = min(max(sample @ residual / max(square, 1e-300), 0), alpha / largest)
        dual = scale * sample @ residual - 0.5 * scale**2 * square
        gaps.append((primal - dual) / primal if primal > 0 else 0.0)
    return np.array(gaps)


@pytest.mark.slow
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("alpha", [0.03, 0.3, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_objective_and_certificate(dtype, alpha, positive):
    x, atoms = make_problem(dtype)
    tol = 1e-8 if dtype == torch.float64 else 1e-4
    support, values, gaps = Lasso(atoms, alpha, positive=positive, tol=tol)(x)
    assert values.dtype == dtype and gaps.dtype == torch.float64
    assert (values != 0).all()
    assert not positive or (values > 0).all()
    codes = dense(support, values)
    certificate = relative_gap(x, atoms, codes, alpha, positive)
    assert certificate.max() <= tol
    np.testing.assert_allclose(gaps, certificate, atol=1e-12)
    expected = sparse_encode(
        x.double().numpy(),
        atoms.double().numpy(),
        algorithm="lasso_lars",
        alpha=alpha,
        positive=positive,
        max_iter=1000,
    )
    best, ours = (objective(x, atoms, z, alpha) for z in (expected, codes))
    assert (ours <= best * (1 + tol)).all()
    np.testing.assert_allclose(ours, best, rtol=1e-6)
    if dtype == torch.float64:
        np.testing.assert_allclose(codes, expected, atol=1e-4)


@pytest.mark.usefixtures("way")
def test_orthonormal_atoms_shrink():
    x, _ = make_problem()
    support, values, _ = Lasso(torch.eye(40).double(), 0.25, tol=1e-12)(x)
    np.testing.assert_allclose(dense(support, values), (x - 0.25).clamp_min(0), atol=1e-12)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("positive", [True, False])
def test_degenerate_samples_and_atoms(positive):
    """Samples of zeros and dictionaries with zero, duplicate and opposite atoms, of any norm."""
    x, atoms = make_problem()
    x[3] = 0
    atoms = torch.cat([atoms, atoms[:20], -atoms[20:30], 3 * atoms[30:40], 0 * atoms[:5]])
    support, values, gaps = Lasso(atoms, 0.3, positive=positive, tol=1e-8)(x)
    codes = dense(support, values)
    assert gaps.max() <= 1e-8
    assert not codes[3].any()
    assert not codes[:, -5:].any()
    np.testing.assert_allclose(gaps, relative_gap(x, atoms, codes, 0.3, positive), atol=1e-12)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("positive", [True, False])
def test_alpha_above_all_correlations_gives_zeros(positive):
    x, atoms = make_problem()
    alpha = float((x @ atoms.T).abs().max())
    support, values, gaps = Lasso(atoms, alpha, positive=positive)(x)
    assert len(values) == 0 and support.shape == (40, 150)
    assert (gaps == 0).all()


@pytest.mark.slow
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("n", [25, 150])
def test_without_penalty_codes_are_those_of_least_squares(n):
    """Of the least penalty that can be told from none, 1e-6 of the largest correlation."""
    x, atoms = make_problem(n=n)
    for positive in (True, False):
        support, values, _ = Lasso(atoms, 0.0, positive=positive, tol=1e-9)(x)
        residual = x.numpy() - dense(support, values) @ atoms.numpy()
        for sample, left in zip(x.numpy(), residual, strict=True):
            if positive:
                least = nnls(atoms.T.numpy(), sample)[1]
            else:
                weights = np.linalg.lstsq(atoms.T.numpy(), sample)[0]
                least = np.linalg.norm(sample - weights @ atoms.numpy())
            assert np.linalg.norm(left) == pytest.approx(least, abs=1e-3)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("positive", [True, False])
def test_any_start_leads_to_the_same_codes(positive):
    x, atoms = make_problem()
    lasso_codes = Lasso(atoms, 0.3, positive=positive, tol=1e-10)
    expected = dense(*lasso_codes(x)[:2])
    start = torch.randn(40, 150, generator=torch.Generator().manual_seed(0)).double()
    start[start < 1.0] = 0
    for codes in (start, -start, torch.tensor(expected)):
        active = codes != 0
        indptr = torch.nn.functional.pad(active.sum(dim=1).cumsum(0), (1, 0))
        support = Support(indptr, active.nonzero()[:, 1], 150)
        found = dense(*lasso_codes(x, (support, codes[active]))[:2])
        np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("n_rows", [1, 3, 7])  # four at most are multiplied in one pass
def test_codes_do_not_depend_on_other_rows(n_rows, dtype):
    x, atoms = make_problem(dtype, n_samples=30)
    coder = Lasso(atoms, 0.3)
    together = dense(*coder(x)[:2])
    few_by_few = np.concatenate([dense(*coder(rows)[:2]) for rows in x.split(n_rows)])
    atol = 1e-7 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(few_by_few, together, atol=atol)


@pytest.mark.usefixtures("way")
def test_few_iterations_give_an_honest_gap():
    x, atoms = make_problem(n=150, d=40)
    support, values, gaps = Lasso(atoms, 0.01, max_iter=1, tol=1e-9)(x)
    assert gaps.max() > 1e-3
    expected = relative_gap(x, atoms, dense(support, values), 0.01, True)
    np.testing.assert_allclose(gaps, expected, atol=1e-12)


def test_scan_in_few_bits_is_bounded():
    """The error of the products that the search begins with is no more than its bound."""
    x, atoms = make_problem(torch.float32, n_samples=500)
    x *= torch.logspace(-3, 3, 500)[:, None]
    products, error = lasso_on_cpu.Correlations(atoms)(x)
    off = (torch.from_numpy(products).double() - x.double() @ atoms.double().T).abs().amax(dim=1)
    error = torch.from_numpy(error)
    assert (off <= error).all()
    assert (error <= 0.05 * torch.linalg.vector_norm(x, dim=1)).all()


def test_certificate_survives_a_lowered_precision_of_products():
    x, atoms = make_problem(torch.float32)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        support, values, gaps = Lasso(atoms, 0.3)(x)
    finally:
        torch.set_float32_matmul_precision(before)
    expected = relative_gap(x, atoms, dense(support, values), 0.3, True)
    np.testing.assert_allclose(gaps, expected, atol=1e-12)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_pieces_do_not_matter(n_threads, monkeypatch):
    x, atoms = make_problem(n_samples=50)
    expected = Lasso(atoms, 0.1)(x)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    monkeypatch.setattr(gram, "PIECE_ELEMENTS", 150 * 7)
    found = Lasso(atoms, 0.1)(x)
    assert torch.equal(found[0].indices, expected[0].indices)
    torch.testing.assert_close(found[1], expected[1])
