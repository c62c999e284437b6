"""The certificate of Lasso codes is true whatever the size of samples, atoms and alpha.

Objective and duality gap are computed again in exact rational numbers, which have no range.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso as SklearnLasso

from skdict._core.coding.lasso import Lasso
from skdict._core.kernels import Support
from skdict._core.kernels.cpu import gram

DTYPES = {torch.float64: 300, torch.float32: 30}  # and the powers of ten that they reach


def fractions(array):
    return np.array([Fraction(float(value)) for value in np.ravel(array)]).reshape(np.shape(array))


def objective(x, atoms, codes, alpha):
    residual = x - codes @ atoms
    return residual @ residual / 2 + alpha * np.abs(codes).sum()


def relative_gap(x, atoms, codes, alpha, positive):
    """By the definition: of the dual points s·r those with D (s r) <= alpha, and the best."""
    residual = x - codes @ atoms
    correlations = atoms @ residual if positive else np.abs(atoms @ residual)
    square, along, largest = residual @ residual, x @ residual, max(correlations)
    scale = max(along / square, 0) if square else 0
    if largest * scale > alpha:
        scale = alpha / largest
    primal = objective(x, atoms, codes, alpha)
    dual = scale * along - scale**2 * square / 2
    return float(1 - dual / primal) if primal else 0.0


def code(atoms, alpha, x, way, **options):
    """Dense codes and gaps of the rows of x."""
    with pytest.MonkeyPatch.context() as patch:
        if way == "together":
            patch.setattr(gram, "GRAM_BYTES", 0)
        support, values, gaps = Lasso(atoms, alpha, **options)(x)
    assert values.dtype == x.dtype
    assert torch.isfinite(values).all() and (values != 0).all()
    return support.dense(values), gaps.numpy()


@st.composite
def problems(draw, dtype, spread):
    """Samples, atoms and alpha; the norms of atoms differ by ``spread`` powers of ten."""
    reach = DTYPES[dtype]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    if draw(st.booleans()):
        x, atoms = rng.normal(size=(3, d)), rng.normal(size=(n, d))
    else:  # zeros, ties, atoms that are equal, opposite, orthogonal
        x, atoms = rng.integers(-2, 3, (3, d)) * 1.0, rng.integers(-1, 2, (n, d)) * 1.0
    room = reach - spread
    x = x * 10.0 ** draw(st.integers(-reach, reach))
    of_atoms = draw(st.integers(-room, room)) + rng.integers(-spread, spread + 1, (n, 1))
    atoms = atoms * 10.0**of_atoms
    x, atoms = torch.tensor(x, dtype=dtype), torch.tensor(atoms, dtype=dtype)
    largest = np.abs(fractions(x) @ fractions(atoms).T).max()
    of_largest = draw(st.sampled_from([0.0, 1e-15, 1e-9, 1e-6, 1e-3, 0.1, 0.5, 2.0, 1e10]))
    alpha = float(min(largest * Fraction(of_largest), Fraction(1e300)))
    return x, atoms, alpha, float(Fraction(alpha) / largest) if largest else of_largest


@pytest.mark.slow
@pytest.mark.parametrize("way", ["one by one", "together"])
@pytest.mark.parametrize("spread", [0, 12])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gap_is_that_of_the_codes_and_of_alpha(dtype, spread, way):
    @settings(max_examples=60, derandomize=True, deadline=None, database=None)
    @given(problem=problems(dtype, spread), positive=st.booleans())
    def check(problem, positive):
        x, atoms, alpha, of_largest = problem
        codes, gaps = code(atoms, alpha, x, way, positive=positive, tol=1e-6)
        assert not positive or (codes >= 0).all()
        x, atoms, codes, exact = *map(fractions, (x, atoms, codes)), Fraction(alpha)
        # a residual below the rounding of what it is the difference of has no digits
        tolerance = 1e-12 / max(of_largest, 1e-10)
        for sample, z, gap in zip(x, codes, gaps, strict=True):
            expected = relative_gap(sample, atoms, z, exact, positive)
            assert gap == pytest.approx(expected, abs=tolerance)
            if of_largest >= 2:
                assert not z.any() and gap == 0

    check()


@pytest.mark.parametrize("way", ["one by one", "together"])
def test_no_codes_are_better_by_more_than_the_gap(way):
    """Scikit-learn's are not, and the samples are coded as well at every scale."""

    @settings(max_examples=30, derandomize=True, deadline=None, database=None)
    @given(
        problem=problems(torch.float64, 0),
        positive=st.booleans(),
        max_iter=st.sampled_from([1, 1000]),
    )
    def check(problem, positive, max_iter):
        x, atoms, alpha, of_largest = problem
        codes, gaps = code(atoms, alpha, x, way, positive=positive, max_iter=max_iter)
        exact = fractions(atoms)
        unit, of_atoms = (float(t.abs().max()) or 1.0 for t in (x, atoms))
        are_numbers = Fraction(1e-290) < Fraction(unit) / Fraction(of_atoms) < Fraction(1e300)
        if of_largest >= 1e-6 and max_iter > 1 and are_numbers:
            assert gaps.max() <= 1e-4
        scaled_atoms = atoms.numpy() / of_atoms
        for sample, z, gap in zip(x.numpy(), fractions(codes), gaps, strict=True):
            theirs = np.zeros(len(atoms))
            scaled_alpha = Fraction(alpha) / Fraction(unit) / Fraction(of_atoms)
            if 1e-6 < scaled_alpha < 1e6:
                reference = SklearnLasso(
                    float(scaled_alpha) / len(sample),
                    positive=positive,
                    fit_intercept=False,
                    tol=1e-10,
                    max_iter=10_000,
                )
                theirs = reference.fit(scaled_atoms.T, sample / unit).coef_
            of_codes = Fraction(unit) / Fraction(of_atoms)
            theirs = fractions(theirs) * of_codes
            ours, other = (
                objective(fractions(sample), exact, codes, Fraction(alpha))
                for codes in (z, theirs)
            )
            assert other >= ours * (1 - Fraction(gap) - Fraction(1e-9))

    check()


@pytest.mark.parametrize("way", ["one by one", "together"])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("power", [-1000, -400, 400, 1000])
def test_powers_of_two_change_nothing(power, positive, way):
    rng = np.random.default_rng(0)
    x, atoms = torch.tensor(rng.normal(size=(20, 6))), torch.tensor(rng.normal(size=(15, 6)))
    factor = 2.0**power
    expected, expected_gaps = code(atoms, 0.3, x, way, positive=positive)
    codes, gaps = code(atoms, 0.3 * factor, x * factor, way, positive=positive)
    assert torch.equal(codes, expected * factor)
    np.testing.assert_array_equal(gaps, expected_gaps)
    codes, gaps = code(atoms * factor, 0.3 * factor, x, way, positive=positive)
    assert torch.equal(codes, expected / factor)
    np.testing.assert_array_equal(gaps, expected_gaps)


@pytest.mark.parametrize("way", ["one by one", "together"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_orthogonal_atoms_of_any_norm(dtype, way):
    """max(0, x·d - alpha) / |d|², by hand."""
    norms = torch.tensor([1e6, 1.0, 1e-3, 1e3], dtype=dtype)
    x = torch.tensor([[1.0, 0.5, 200.0, -1.0]], dtype=dtype)
    for alpha in (0.1, 0.02):
        codes, gaps = code(torch.diag(norms), alpha, x, way, tol=1e-6)
        best = (x[0] * norms - alpha).clamp_min(0) / norms**2
        if dtype == torch.float64:
            torch.testing.assert_close(codes[0], best, rtol=1e-6, atol=0)
            assert gaps[0] <= 1e-6
        ours, least = (
            objective(*map(fractions, (x[0], torch.diag(norms), z)), Fraction(alpha))
            for z in (codes[0], best)
        )
        assert 1 - least / ours <= gaps[0]


@pytest.mark.parametrize("way", ["one by one", "together"])
@pytest.mark.parametrize("start", [1e-300, 1e20, 1e300, -1e300])
def test_any_start(start, way):
    x = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    indptr, indices = torch.tensor([0, 2]), torch.tensor([0, 1])
    values = torch.full((2,), start, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        if way == "together":
            patch.setattr(gram, "GRAM_BYTES", 0)
        coder = Lasso(torch.eye(2, dtype=torch.float64), 0.1, positive=False)
        support, values, gaps = coder(x, (Support(indptr, indices, 2), values))
    np.testing.assert_allclose(support.dense(values), [[0.9, -0.4]], rtol=1e-9)
    assert gaps[0] <= 1e-9


@pytest.mark.parametrize("way", ["one by one", "together"])
def test_codes_that_do_not_fit_are_finite_and_have_an_honest_gap(way):
    """The best code is 5/6 · 1e40: in float32 the largest number there is comes nearest."""
    x, atoms = torch.full((1, 6), 1e20), torch.full((1, 6), 1e-20)
    codes, gaps = code(atoms, 1.0, x, way)
    assert codes[0, 0] == torch.finfo(torch.float32).max
    expected = relative_gap(*map(fractions, (x[0], atoms, codes[0])), Fraction(1), True)
    assert gaps[0] == pytest.approx(expected) and gaps[0] > 0.5
    codes, gaps = code(atoms.double(), 1.0, x.double(), way)
    assert codes[0, 0] == pytest.approx(5 / 6e-40, rel=1e-6) and gaps[0] <= 1e-4


@pytest.mark.parametrize("way", ["one by one", "together"])
def test_atoms_that_are_nothing_beside_others_leave_the_gap_unknown(way):
    """The second would explain all, but is lost in the range of float64."""
    x, atoms = torch.ones(1, 1).double(), torch.tensor([[-1e200], [1e-200]], dtype=torch.float64)
    assert np.isnan(code(atoms, 0.0, x, way)[1]).all()


@pytest.mark.parametrize("way", ["one by one", "together"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_it_ends_where_a_dictionary_has_diverged(bad, way):
    rng = np.random.default_rng(0)
    x, atoms = torch.tensor(rng.normal(size=(20, 6))), torch.tensor(rng.normal(size=(300, 6)))
    atoms[3, 2] = bad
    with pytest.MonkeyPatch.context() as patch:
        if way == "together":
            patch.setattr(gram, "GRAM_BYTES", 0)
        gaps = Lasso(atoms, 0.1, positive=False)(x)[2]
    assert gaps.isnan().all()
