"""Every body in the table against the reference, and every reference against dense formulas."""

from importlib import import_module

import pytest
import torch

from skdict._core import kernels
from skdict._core.kernels import Support, _dispatch
from skdict._core.kernels._dispatch import TABLE, body
from skdict._core.kernels.cpu.products import few_rows_in_bfloat16

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.float64]


def function(module, operation):
    return getattr(import_module(f"skdict._core.kernels.{module}"), operation)


def bodies(operation):
    """The reference, and the others that run on the CPU."""
    modules = {m for m in TABLE[operation].values() if not m.startswith("triton.")}
    modules = sorted(modules - {TABLE[operation]["any"]})
    return function(TABLE[operation]["any"], operation), [function(m, operation) for m in modules]


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def sparse_codes(n_rows=20, n=12, dtype=torch.float64, seed=0):
    """Codes with a row and a column of zeros."""
    codes = randn(n_rows, n, seed=seed, dtype=dtype).relu()
    codes[3], codes[:, 4] = 0, 0
    return codes, *Support.of(codes)


def close(found, expected, dtype):
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("operation", TABLE)
def test_every_operation_has_a_reference_and_every_entry_is_there(operation):
    assert TABLE[operation].keys() <= {"any", "cpu", "cuda"}
    assert TABLE[operation]["any"].startswith("reference.")
    for module in TABLE[operation].values():
        if module.startswith("triton."):
            pytest.importorskip("triton")
        assert callable(function(module, operation))


def test_devices_without_a_body_take_the_reference():
    for operation in TABLE:
        reference, _ = bodies(operation)
        assert body(operation, torch.device("xpu")) is reference
        assert body(operation, CPU) is not reference


def test_operations_go_by_the_table(monkeypatch):
    _, support, values = sparse_codes()
    monkeypatch.setitem(_dispatch.TABLE, "weighted_sums", {"any": TABLE["sampled_product"]["any"]})
    monkeypatch.setattr(
        "skdict._core.kernels.reference.products.weighted_sums", lambda *_: "the reference"
    )
    assert kernels.weighted_sums(values, support, randn(12, 5)) == "the reference"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", [1 << 24, 7])
def test_products(dtype, block, monkeypatch):
    codes, support, values = sparse_codes(dtype=dtype)
    monkeypatch.setattr("skdict._core.kernels.reference.products.BLOCK_ELEMENTS", block)
    left, table = randn(20, 5, dtype=dtype, seed=1), randn(12, 5, dtype=dtype, seed=2)
    reference, others = bodies("weighted_sums")
    for weighted_sums in (reference, *others):
        close(weighted_sums(values, support, table), codes @ table, dtype)
    reference, others = bodies("sampled_product")
    for sampled_product in (reference, *others):
        close(sampled_product(left, table, support), (left @ table.T)[codes != 0], dtype)
    reference, others = bodies("residual_products")
    residual = left - codes @ table
    for residual_products in (reference, *others):
        found = residual_products(left, values, support, table)
        close(found[0], residual, dtype)
        close(found[1], (residual @ table.T)[codes != 0], dtype)
    rows = randn(len(values), 3, dtype=dtype, seed=3)
    expected = (codes != 0).to(dtype).T.new_zeros(12, 3)
    for row, index in zip(rows, support.indices, strict=True):
        expected[index] += row
    reference, others = bodies("add_at_")
    for add_at_ in (reference, *others):
        table = rows.new_zeros(12, 3)
        assert add_at_(table, support.indices, rows) is table
        close(table, expected, dtype)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n_rows", [0, 1, 4, 5])  # up to four are multiplied in one pass
@pytest.mark.parametrize("small_work", [1 << 24, 1])  # in one piece, and in many
def test_linear(n_rows, dtype, small_work, monkeypatch):
    reference, [linear] = bodies("linear")
    x, weight = randn(n_rows, 6, dtype=dtype).T.contiguous().T, randn(20, 12, dtype=dtype)[:, ::2]
    monkeypatch.setattr("skdict._core.kernels.cpu.products.SMALL_WORK", small_work)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for bias in (None, randn(20, seed=1, dtype=dtype)):
        found, expected = linear(x, weight, bias), reference(x, weight, bias)
        assert found.dtype == dtype
        exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
        tolerance = {"rtol": 2.0**-7, "atol": 2.0**-7} if dtype == torch.bfloat16 else {}
        for products in (found, expected):
            torch.testing.assert_close(
                products.double(), exact, **tolerance or {"rtol": 1e-5, "atol": 1e-5}
            )


def test_linear_loses_no_nan():
    _, [linear] = bodies("linear")
    weight = torch.eye(3)
    weight[1, 2], weight[2, 0] = torch.nan, torch.inf
    products = linear(torch.ones(1, 3), weight)[0]
    assert products[0] == 1 and products[1].isnan() and products[2].isinf()


@pytest.mark.parametrize("n_rows", [1, 4])
def test_few_rows_in_bfloat16(n_rows):
    x, table = randn(n_rows, 37, dtype=torch.float32), randn(20, 37, seed=1).bfloat16()
    x[0, :2] = torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8])  # ties, which go to even
    low, products = map(
        torch.from_numpy, few_rows_in_bfloat16(x.numpy(), table.view(torch.int16).numpy())
    )
    assert torch.equal(low, x.bfloat16().float())
    assert torch.equal(products, products.bfloat16().float())
    torch.testing.assert_close(products, low @ table.float().T, rtol=2.0**-8, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_are(dtype):
    vector, weight = randn(12, dtype=dtype, seed=1), randn(20, 24, dtype=dtype)[:, ::2]
    products, tol = weight @ vector, torch.full((20,), 1e-4, dtype=dtype)
    for j in (0, 19):
        changed = weight.clone()
        for amount, expected in ((0.0, True), (2e-4, False), (torch.nan, False)):
            changed[j, 11] = weight[j, 11] + amount / vector[11]
            reference, others = bodies("products_are")
            for products_are in (reference, *others):
                assert products_are(vector, changed, products, tol) is expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("of_atoms", [1.0, 2.0**-100])
def test_unit_rows(dtype, of_atoms):
    x = randn(9, 8, dtype=dtype).T.contiguous().T
    largest, tiny = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    x *= torch.tensor([1, 2, 0.25, 0, 1e-30, 1e30, largest / 4, tiny, tiny / 8], dtype=dtype)[
        :, None
    ]
    reference, others = bodies("unit_rows")
    for alpha in (0.0, 0.3, 1e300):
        expected = reference(x, alpha, of_atoms)
        largest = expected[0].abs().amax(dim=1)
        assert ((largest < 1) & (largest >= 0.5))[torch.tensor([0, 1, 2, 4, 5, 6])].all()
        for unit_rows in others:
            for found, known in zip(unit_rows(x, alpha, of_atoms), expected, strict=True):
                assert found.dtype == known.dtype and torch.equal(found, known)


def test_transpose():
    codes, support, values = sparse_codes()
    reference, others = bodies("transpose")
    for transpose in (reference, *others):
        indptr, rows, order = transpose(support)
        found = Support(indptr, rows, len(codes)).dense(values[order])
        assert torch.equal(found, codes.T)
        assert torch.equal(order, reference(support)[2])  # rows of a column ascend


@pytest.mark.parametrize("k", [None, 3])
def test_select(k):
    x, weight, bias = randn(20, 5), randn(12, 5, seed=1), randn(12, seed=2)
    pre = x @ weight.T + bias
    expected = pre > 0
    if k is not None:
        expected &= pre >= pre.topk(k).values[:, -1:]
    reference, others = bodies("select")
    for select in (reference, *others):
        counts, indices = select(x, weight, bias, k)
        assert torch.equal(counts, expected.sum(dim=1))
        found = torch.zeros_like(expected)
        found[torch.repeat_interleave(torch.arange(20), counts), indices] = True
        assert torch.equal(found, expected)


@pytest.mark.parametrize("block, mask", [(1 << 24, 1 << 30), (24, 100)])
@pytest.mark.parametrize("k", [None, 3])
def test_select_for_cuda_in_blocks(k, block, mask, monkeypatch):
    """In bfloat16 it finds what the reference finds in rounded operands."""
    bfloat16 = import_module("skdict._core.kernels.bfloat16")
    monkeypatch.setattr(bfloat16, "BLOCK_ELEMENTS", block)
    monkeypatch.setattr(bfloat16, "MASK_ELEMENTS", mask)
    shapes = (20, 5), (12, 5), (12,)
    x, weight, bias = (randn(*s, seed=i, dtype=torch.float32) for i, s in enumerate(shapes))
    rounded = bfloat16.rounded(x, weight, bias, raised=k is None)
    expected = bodies("select")[0](*rounded, k)
    for found, wanted in zip(bfloat16.select(x, weight, bias, k), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n_largest, threshold", [(None, False), (None, True), (9, False)])
def test_encode(n_largest, threshold, dtype, monkeypatch):
    monkeypatch.setattr("skdict._core.kernels.cpu.encode.cpu_has", lambda _: True)
    weight, bias = randn(600, 16, dtype=dtype), randn(600, seed=1, dtype=dtype) - 2
    x = randn(100, 16, seed=2, dtype=dtype)
    threshold = randn(600, seed=3, dtype=dtype).abs() if threshold else None
    reference, others = bodies("encode")
    expected = reference(weight, bias, n_largest, threshold)(x)
    pre = x @ weight.T + bias
    codes = pre.relu() if threshold is None else torch.where(pre > threshold, pre, 0)
    if n_largest is not None:
        codes = torch.where(codes >= codes.topk(n_largest).values[:, -1:], codes, 0)
    indptr = torch.nn.functional.pad(expected[0].cumsum(0), (1, 0))
    close(Support(indptr, expected[1], 600).dense(expected[2]), codes, dtype)
    for encode in others:
        counts, indices, values = encode(weight, bias, n_largest, threshold)(x)
        assert torch.equal(counts, expected[0]) and torch.equal(indices, expected[1])
        close(values, expected[2], dtype)


@pytest.mark.parametrize("many_listed", [0, 1000])
@pytest.mark.parametrize("k", [1, 9, 150])
def test_encode_in_pieces_and_steps(k, many_listed, monkeypatch):
    """The scan itself finds the k largest, in one step or two, also more of them than lanes."""
    on_cpu = import_module("skdict._core.kernels.cpu.encode")
    plain = import_module("skdict._core.kernels.reference.encode")
    for name, value in (
        ("PIECE_ELEMENTS", 650 * 30),
        ("BLOCK_ELEMENTS", 650 * 7),
        ("MANY_LISTED", many_listed),
        ("MAX_CANDIDATES", 1),
        ("MAX_LISTED", 1),
    ):
        monkeypatch.setattr(on_cpu, name, value)
    weight, bias = randn(650, 16, dtype=torch.float32), randn(650, seed=1, dtype=torch.float32)
    x = randn(100, 16, seed=2, dtype=torch.float32)
    expected = plain.encode(weight, bias, k, None)(x)
    monkeypatch.setattr(plain, "BLOCK_ELEMENTS", 650 * 7)
    for found in (
        on_cpu.Scan(weight, bias, k, None)._scan(x),
        plain.encode(weight, bias, k, None)(x),
    ):
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
        close(found[2], expected[2], torch.float32)


@pytest.mark.parametrize("power_of_weight", [-20, 0, 40])
@pytest.mark.parametrize("power", [0, -90, 70])
@pytest.mark.parametrize("n_largest", [None, 3])
def test_encode_of_any_scale(n_largest, power, power_of_weight, monkeypatch):
    """A power of two changes no digit of a code, also where squares leave float32's range."""
    monkeypatch.setattr("skdict._core.kernels.cpu.encode.cpu_has", lambda _: True)
    weight, bias = randn(600, 16, dtype=torch.float32), randn(600, seed=1, dtype=torch.float32) - 2
    weight[:560] = torch.eye(16).repeat(35, 1)  # nothing is lost when these are rounded to 8 bits
    x = randn(100, 16, seed=2, dtype=torch.float32)
    x[5] = 0
    reference, others = bodies("encode")
    counts, indices, values = reference(weight, bias, n_largest, None)(x)
    scale, scale_of_weight = 2.0**power, 2.0**power_of_weight
    for encode in (reference, *others):
        code = encode(weight * scale_of_weight, bias * scale * scale_of_weight, n_largest, None)
        found = code(x * scale)
        assert torch.equal(found[0], counts) and torch.equal(found[1], indices)
        close(found[2] / scale / scale_of_weight, values, torch.float32)


@pytest.mark.parametrize("n_rows", [5, 100])
@pytest.mark.parametrize("where", ["weight", "bias"])
@pytest.mark.parametrize("n_largest", [None, 3])
def test_encode_lets_no_nan_vanish(n_largest, where, n_rows, monkeypatch):
    monkeypatch.setattr("skdict._core.kernels.cpu.encode.cpu_has", lambda _: True)
    weight, bias = randn(600, 16, dtype=torch.float32), randn(600, seed=1, dtype=torch.float32) - 2
    {"weight": weight, "bias": bias}[where][7] = torch.nan
    x = randn(n_rows, 16, seed=2, dtype=torch.float32)
    reference, others = bodies("encode")
    for encode in (reference, *others):
        _, indices, values = encode(weight, bias, n_largest, None)(x)
        assert indices[values.isnan()].tolist() == [7] * n_rows


@pytest.mark.parametrize("n_rows", [5, 100])
def test_encode_with_a_threshold_below_zero(n_rows, monkeypatch):
    monkeypatch.setattr("skdict._core.kernels.cpu.encode.cpu_has", lambda _: True)
    weight, bias = randn(600, 16, dtype=torch.float32), torch.full((600,), -4.0)
    x = randn(n_rows, 16, seed=2, dtype=torch.float32)
    reference, others = bodies("encode")
    for encode in (reference, *others):
        counts, _, values = encode(weight, bias, None, torch.full((600,), -0.25))(x)
        assert counts.sum() == (x @ weight.T - 4 > -0.25).sum() and (values < 0).any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outer_products(dtype):
    codes, support, values = sparse_codes(dtype=dtype)
    expected = torch.ones(13, 13, dtype=dtype)
    expected[:12, :12] += 0.5 * codes.T @ codes
    reference, others = bodies("add_outer_products")
    for add_outer_products in (reference, *others):
        matrix = torch.ones(13, 13, dtype=dtype)
        add_outer_products(matrix, support, values, 0.5)
        close(matrix, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_updates_in_turn(dtype):
    dictionary = torch.nn.functional.normalize(randn(7, 5, dtype=dtype))
    a = randn(7, 7, dtype=dtype, seed=1).abs() + torch.eye(7, dtype=dtype)
    b = randn(7, 5, dtype=dtype, seed=2)
    missing = b - a @ dictionary
    used = torch.arange(7) != 3
    expected = dictionary.clone()
    for j in used.nonzero()[:, 0]:
        new = expected[j] + (b[j] - a[j] @ expected) / a[j, j]
        expected[j] = new / torch.linalg.vector_norm(new)
    reference, others = bodies("update_in_turn")
    for update_in_turn in (reference, *others):
        atoms = dictionary.clone()
        update_in_turn(atoms, missing.clone(), a, used)
        close(atoms, expected, dtype)
        # an atom whose update is zero has no direction, and stays
        atom = torch.tensor([[1.0, 0.0]], dtype=dtype)
        update_in_turn(
            atom, torch.tensor([[-2.0, 0.0]], dtype=dtype), 2 * a.new_ones(1, 1), used[:1]
        )
        assert atom.tolist() == [[1.0, 0.0]]


def problem(dtype):
    atoms = torch.nn.functional.normalize(randn(40, 12, dtype=dtype))
    codes = randn(30, 40, dtype=dtype, seed=1).abs() * (randn(30, 40, seed=2) > 1.5)
    x = codes @ atoms + 0.1 * randn(30, 12, dtype=dtype, seed=3)
    return x, atoms


def dense(counts, indices, values, n):
    indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return Support(indptr, indices, n).dense(values)


@pytest.mark.parametrize("gram_bytes", [1 << 30, 0])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lasso(dtype, positive, gram_bytes, monkeypatch):
    monkeypatch.setattr("skdict._core.kernels.cpu.gram.GRAM_BYTES", gram_bytes)
    x, atoms = problem(dtype)
    alpha, ones = torch.linspace(0.05, 1, 30).double(), torch.ones(30).double()
    nothing = Support(torch.zeros(31, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 40)
    start = torch.zeros(0, dtype=torch.float64)
    settings = {"dtype": dtype, "least_alpha": 1e-6, "positive": positive, "max_iter": 100}
    settings["tol"] = {torch.float64: 1e-10, torch.float32: 1e-4}[dtype]
    found = []
    reference, others = bodies("lasso")
    for lasso in (reference, *others):
        *codes, gaps = lasso(atoms, **settings)(x, alpha, ones, nothing, start)
        codes = dense(*codes, 40)
        assert codes.dtype == dtype and gaps.max() <= settings["tol"]
        residual = x - codes @ atoms
        found.append((0.5 * residual.square().sum(dim=1) + alpha * codes.abs().sum(dim=1), codes))
    for objective, codes in found[1:]:
        torch.testing.assert_close(objective, found[0][0], rtol=settings["tol"], atol=1e-12)
        if dtype == torch.float64:
            torch.testing.assert_close(codes, found[0][1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("gram_bytes", [1 << 30, 0])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_omp(dtype, weighted, positive, gram_bytes, monkeypatch):
    monkeypatch.setattr("skdict._core.kernels.cpu.gram.GRAM_BYTES", gram_bytes)
    x, atoms = problem(dtype)
    weights = torch.exp2(-(torch.arange(40) % 3).double()) if weighted else None
    n_nonzero, square_tol = torch.arange(30) % 5, torch.full((30,), 0.05).double()
    rounding = 16 * torch.finfo(dtype).eps
    found = []
    reference, others = bodies("omp")
    for omp in (reference, *others):
        code = omp(atoms, weights, positive=positive, rounding=rounding)
        found.append(dense(*code(x, n_nonzero, square_tol), 40))
        assert ((found[-1] != 0).sum(dim=1) <= n_nonzero).all()
    for codes in found[1:]:
        close(codes, found[0], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (4, 37), (11, 300)])
def test_add_sums_about(dtype, shape):
    x = (randn(*shape, dtype=torch.float32) * 1e-3).to(dtype)
    x[0, 0] = 6e-8  # subnormal in float16
    centre = randn(shape[1], seed=1, dtype=torch.float32)
    before = randn(shape[1], seed=2).double()
    reference, others = bodies("add_sums_about_")
    offset = x.double() - centre.double()
    squares = offset.square().sum(1)
    assert others

    def found_by(add_sums_about_, least, most):
        total, written = before.clone(), torch.empty(len(x), dtype=torch.float64)
        return add_sums_about_(total, written, x, centre, least, most), total, written

    for each in (reference, *others):
        is_added, total, written = found_by(each, 1e-20, 1e30)
        assert is_added is True
        torch.testing.assert_close(total, before + offset.sum(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(written, squares, rtol=1e-5, atol=1e-5)
        largest = float(squares.max())
        for least, most in ((2 * largest, 1e30), (1e-20, largest / 2)):
            is_added, total, written = found_by(each, least, most)
            assert is_added is False
            assert torch.equal(total, before)
            torch.testing.assert_close(written, squares, rtol=1e-5, atol=1e-5)
    for bad in (torch.nan, torch.inf, -torch.inf):
        x[0, -1] = bad
        for each in (reference, *others):
            is_added, total, written = found_by(each, 1e-20, 1e30)
            assert is_added is False
            assert torch.equal(total, before)
            assert written.isfinite().tolist() == [False] + [True] * (len(x) - 1)
