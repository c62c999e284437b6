"""The edge between arrays and tensors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn import config_context

import skdict
from skdict._core.coding import SparseCodes
from skdict._core.data import source
from skdict._core.data.source import Source
from skdict.utils._arrays import (
    as_matrix,
    as_numbers,
    check_activations,
    collect_dense,
    collect_sparse,
)

CPU = torch.device("cpu")
X = np.arange(60, dtype=np.float32).reshape(20, 3)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of four rows of three float32."""
    monkeypatch.setattr(source, "BLOCK_BYTES", 4 * 3 * 4)


def codes_of(rows, n_columns=5):
    """Blocks of codes: column j of row i is i + j, where that is a multiple of three."""
    for block, x in rows.blocks(n_columns):
        codes = torch.arange(block.start, block.stop)[:, None] + torch.arange(n_columns)
        yield block, SparseCodes.of(torch.where(codes % 3 == 0, codes, 0).to(x))


EXPECTED = np.arange(20)[:, None] + np.arange(5)
EXPECTED = np.where(EXPECTED % 3 == 0, EXPECTED, 0)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float64, torch.float64),
        (np.float32, torch.float32),
        (np.float16, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
    ],
)
def test_half_precision_is_widened_block_by_block(dtype, expected):
    values = X.astype(dtype) if isinstance(dtype, type) else torch.tensor(X).to(dtype)
    checked = check_activations(None, values)
    assert checked.dtype == dtype  # not before
    rows = Source(checked, CPU)
    assert rows.dtype == expected
    assert rows[:2].dtype == expected


def test_nothing_is_copied_whole():
    checked = check_activations(None, X)
    assert np.shares_memory(checked, X)
    tensor = torch.tensor(X)
    assert check_activations(None, tensor).data_ptr() == tensor.data_ptr()


def test_what_is_computed_from_a_memory_map_is_no_longer_one(tmp_path):
    """NumPy gives it the type of a memory map, without the file."""
    np.save(tmp_path / "x.npy", X.astype(np.float16))
    widened = np.load(tmp_path / "x.npy", mmap_mode="r").astype(np.float32)
    assert isinstance(widened, np.memmap)
    np.testing.assert_array_equal(Source(check_activations(None, widened), CPU)[:], X)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array])
def test_collect_for_arrays(kind):
    rows = Source(kind(X), CPU)
    dense = collect_dense(codes_of(rows), 20, 5, rows)
    assert type(dense) is np.ndarray
    np.testing.assert_array_equal(dense, EXPECTED)
    sparse = collect_sparse(codes_of(rows), 20, 5, rows)
    assert isinstance(sparse, sp.csr_matrix)
    assert sparse.dtype == np.float32
    assert sparse.indices.dtype == sparse.indptr.dtype == np.int32
    assert sparse.nnz == np.count_nonzero(EXPECTED)
    assert sparse.has_canonical_format
    np.testing.assert_array_equal(sparse.toarray(), EXPECTED)
    with config_context(sparse_interface="sparray"):
        assert isinstance(collect_sparse(codes_of(rows), 20, 5, rows), sp.csr_array)


@pytest.mark.usefixtures("small_blocks")
def test_collect_for_tensors():
    rows = Source(torch.tensor(X), CPU)
    dense = collect_dense(codes_of(rows), 20, 5, rows)
    sparse = collect_sparse(codes_of(rows), 20, 5, rows)
    assert sparse.layout == torch.sparse_csr
    assert len(sparse.values()) == np.count_nonzero(EXPECTED)
    np.testing.assert_array_equal(dense.numpy(), EXPECTED)
    np.testing.assert_array_equal(sparse.to_dense().numpy(), EXPECTED)


def test_collect_nothing():
    """Rows without a single non-zero."""
    for kind in (np.asarray, torch.tensor):
        rows = Source(kind(X), CPU)
        blocks = [(block, SparseCodes.of(torch.zeros(len(x), 5))) for block, x in rows.blocks()]
        sparse = collect_sparse(iter(blocks), 20, 5, rows)
        assert sparse.shape == (20, 5)
        assert (sparse.nnz if sp.issparse(sparse) else len(sparse.values())) == 0


@pytest.mark.parametrize("growing", [False, True])
def test_collect_rows_of_unequal_density(growing):
    """What is gathered outgrows what the first rows let expect."""
    rng = np.random.default_rng(0)
    density = np.linspace(0, 1, 20)[:, None] if growing else np.linspace(1, 0, 20)[:, None]
    codes = torch.tensor(rng.random((20, 5)) < density, dtype=torch.float32)
    rows = Source(X, CPU)
    blocks = [(slice(i, i + 1), SparseCodes.of(codes[i : i + 1])) for i in range(20)]
    sparse = collect_sparse(iter(blocks), 20, 5, rows)
    np.testing.assert_array_equal(sparse.toarray(), codes.numpy())


@pytest.mark.slow
def test_torch_does_not_warn_of_its_csr_tensors():
    """It would do so once a process, at the first of them: a new process is needed."""
    code = """if True:
        import warnings
        import torch
        from skdict._core.data.source import Source
        from skdict._core.coding import SparseCodes
        from skdict.utils._arrays import collect_sparse
        warnings.simplefilter("error")
        rows = Source(torch.eye(3), torch.device("cpu"))
        filters = list(warnings.filters)
        blocks = ((block, SparseCodes.of(x)) for block, x in rows.blocks())
        print(collect_sparse(blocks, 3, 3, rows).layout)
        assert warnings.filters == filters
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(skdict.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "torch.sparse_csr\n"
    assert done.stderr == ""


@pytest.mark.parametrize("column", ["x", b"x", "1.5"])
def test_the_place_of_a_word_is_said(column):
    frame = pd.DataFrame(X).assign(word=0.5).astype({"word": object})
    frame.loc[7, "word"] = column
    word = type(column).__name__
    with pytest.raises(TypeError, match=rf"X must .* has a {word} at row 7, column 3\. Leave out"):
        as_matrix(frame, "X")
    with pytest.raises(TypeError, match=rf"v must .* has a {word} at entry 7\. Leave out"):
        as_numbers(frame["word"], "v")


def test_dates_beside_numbers_are_refused_in_few_words():
    frame = pd.DataFrame(X).assign(date=pd.Timestamp("2020-01-01"))
    with pytest.raises(TypeError, match=r"X must .* no dtype in common") as caught:
        as_matrix(frame, "X")
    assert len(str(caught.value)) < 200
