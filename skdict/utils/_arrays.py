"""The edge between arrays and tensors: validation on the way in, the same kind on the way out."""

import contextlib
import math
import mmap

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from .._core.kernels import csr_tensor
from .._core.tensors import from_numpy
from ._sklearn_compat import align_sparse_interface

# Rows are read, checked and returned in blocks of about this many bytes.
BLOCK_BYTES = 1 << 24
# To read a row of a memory map makes up to a megabyte around it resident.
ROWS_TO_MAP = 512


# Tensors of these are computed with as they are.
TENSOR_DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
# What the others become: torch has no arithmetic for them.
WIDER = {
    torch.uint16: torch.int64,
    torch.uint32: torch.int64,
    torch.uint64: torch.float64,
}


def as_numbers(X, name):
    """X of any shape as an array of real numbers: all arrays come in here or by `as_matrix`.

    Parameters
    ----------
    X : array-like, sparse matrix or torch.Tensor
    name : str
        What the caller calls it.

    Returns
    -------
    X : ndarray, CSR matrix or tensor
        Of booleans, integers, or floating-point numbers of at most eight bytes. Not copied where
        that is possible. A tensor is a plain one, without a gradient.

    Raises
    ------
    TypeError, ValueError
        If X holds anything but real numbers, or cannot be read.
    """
    return _check_dtype(_read(X, name, "an array"), name, "an array")


def as_matrix(X, name, *, min_samples=1, estimator=None, allow_nd=False):
    """X as a matrix of real numbers, with rows and columns; otherwise as `as_numbers`.

    Parameters
    ----------
    min_samples : int
        How many rows it has at least.
    estimator : estimator or None
        Who needs them.
    allow_nd : bool
        Whether it may have more axes than two. Else it may also be a sparse CSR tensor.
    """
    what = "an array" if allow_nd else "a matrix"
    X = _read(X, name, what, csr_tensors=not allow_nd)
    if X.ndim < 2 or (X.ndim > 2 and not allow_nd):
        kind = "tensor" if isinstance(X, torch.Tensor) else "array"
        raise ValueError(
            f"{name} must be {what}, but has shape {tuple(X.shape)}. Expected 2D array, got "
            f"{X.ndim}D {kind} instead. Reshape your data to (n_samples, n_features): a single "
            f"row with {name}.reshape(1, -1), a single column with {name}.reshape(-1, 1)."
        )
    by = "" if estimator is None else f" by {type(estimator).__name__}"
    rows = "one row" if min_samples == 1 else f"{min_samples} rows"
    for size, unit, minimum in ((X.shape[0], "sample", min_samples), (X.shape[1], "feature", 1)):
        if size < minimum:
            raise ValueError(
                f"{name} must be {what} with at least {rows} and one column, but has {size} "
                f"{unit}(s) (shape={tuple(X.shape)}) while a minimum of {minimum} is required{by}."
            )
    return _check_dtype(X, name, what)


def as_vector(X, name):
    """X, one-dimensional or a column, as an ndarray of float64 of shape (n,)."""
    X = _check_dtype(_read(X, name, "an array", csr_tensors=True), name, "an array")
    if X.ndim != 1 and (X.ndim != 2 or X.shape[1] != 1):
        raise ValueError(
            f"{name} must be one-dimensional, but has shape {tuple(X.shape)}. Give a list of "
            "numbers."
        )
    if isinstance(X, torch.Tensor):
        X = X.to_dense().to("cpu", torch.float64).numpy()
    elif sp.issparse(X):
        X = X.toarray()
    return X.astype(np.float64).ravel()


def to_ndarray(X):
    """A tensor as an ndarray, in float32 if it is bfloat16; all else as it is."""
    if not isinstance(X, torch.Tensor):
        return X
    return (X.float() if X.dtype == torch.bfloat16 else X).cpu().numpy()


def _read(X, name, what, *, csr_tensors=False):
    """X as an ndarray, CSR matrix or plain tensor of whatever dtype."""
    if isinstance(X, torch.Tensor):
        return _read_tensor(X, name, what, csr_tensors)
    if hasattr(X, "get_params"):
        raise TypeError(
            f"{name} must be {what} of real numbers, but is a {type(X).__name__}. Give what "
            "its transform returns, or its components_ where atoms are needed. If a dictionary is "
            "needed, and it is a Pipeline that starts with an extractor, give pipeline[1:]."
        )
    if np.ma.is_masked(X):
        raise ValueError(
            f"{name} is a masked array with {np.ma.count_masked(X)} masked entries. Leave out "
            f"their rows, or fill them: {name}.filled(0)."
        )
    with _naming(name, what):
        X = check_array(
            X,
            accept_sparse="csr",
            dtype=None,
            ensure_2d=False,
            allow_nd=True,
            ensure_all_finite=False,
            ensure_min_samples=0,
            ensure_min_features=0,
            input_name=name,
        )
    if sp.issparse(X) and not X.has_canonical_format:  # entries are sums of several
        X = X.copy()
        X.sum_duplicates()
    return X


def _read_tensor(X, name, what, csr_tensors):
    found = None
    if X.is_nested:
        found = "is a nested tensor: its rows differ in length"
    elif type(X).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        found = f"is a {type(X).__name__}, which is more than a tensor of numbers"
    elif torch.nn.parameter.is_lazy(X):
        found = "is a parameter that has no values yet"
    elif X.device.type == "meta":
        found = "is on the device 'meta': it has a shape, but no values"
    if found:
        raise TypeError(f"{name} must be {what} of real numbers, but {found}.")
    if X.layout != torch.strided and not (csr_tensors and X.layout == torch.sparse_csr):
        other = f" or {name}.to_sparse_csr()" if csr_tensors else ""
        raise TypeError(
            f"{name} is a sparse tensor (layout {X.layout}), which is not supported. Use "
            f"{name}.to_dense(){other}."
        )
    X = X.detach()
    if type(X) is not torch.Tensor:
        X = X.as_subclass(torch.Tensor)
    if X.is_quantized:
        X = X.dequantize()
    if X.layout == torch.sparse_csr:
        parts = X.crow_indices(), X.col_indices(), X.values()
        with _naming(name, what):
            csr_tensor(*parts, X.shape, check_invariants=True)
        return X
    return X.resolve_neg() if X.is_neg() else X


def _check_dtype(X, name, what):
    """The same of a dtype that everything here computes with."""
    if isinstance(X, torch.Tensor):
        if X.is_complex():
            raise ValueError(f"Complex data not supported: {name} has dtype {X.dtype}.")
        if X.dtype in WIDER:
            return X.to(WIDER[X.dtype])
        if X.dtype not in TENSOR_DTYPES:
            raise TypeError(
                f"{name} must be {what} of real numbers, but is a tensor of dtype {X.dtype}. "
                f"Convert it first, with its scale if it has one: {name}.float()."
            )
        return X
    if X.dtype == object:
        if any(issubclass(kind, str | bytes) for kind in set(map(type, X.flat))):
            place, word = next(at for at in np.ndenumerate(X) if isinstance(at[1], str | bytes))
            axes = ("row", "column") if X.ndim == 2 else ("entry",)
            where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, place, strict=False))
            at = f" at {where}" if where else ""
            raise TypeError(
                f"{name} must be {what} of real numbers, but has a {type(word).__name__}{at}. "
                "Leave out what is no number, or convert it."
            )
        with _naming(name, what):
            X = X.astype(np.float64)
    if X.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} must be {what} of real numbers, but has entries of dtype {X.dtype}."
        )
    if X.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # what does not fit becomes infinite
            return X.astype(np.float64)
    return X if X.dtype.isnative else X.astype(X.dtype.newbyteorder("="))


@contextlib.contextmanager
def _naming(name, what):
    """Errors of conversions say what could not be converted."""
    try:
        yield
    except np.exceptions.DTypePromotionError as error:  # which names the type of every column
        raise TypeError(
            f"{name} must be {what} of real numbers, but its columns have no dtype in common, as "
            "dates and numbers have none. Leave out or convert what is no number."
        ) from error
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} must be {what} of real numbers, but: {error}") from error


def _as_floating(X):
    """Half precision stays what it is, integers become float64."""
    if isinstance(X, torch.Tensor):
        return X if X.is_floating_point() else X.to(torch.float64)
    return X if X.dtype.kind == "f" else X.astype(np.float64)


def check_activations(estimator, X, *, reset=False, min_samples=1, name="X"):
    """Validate X without copying it whole and without losing where it lives.

    Parameters
    ----------
    estimator : estimator or None
        Gets or is checked for ``n_features_in_`` and ``feature_names_in_``.
    X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        A tensor is dense or sparse CSR.
    reset : bool
        Whether the estimator learns its number of features from X.
    min_samples : int

    Returns
    -------
    X : ndarray, CSR matrix or tensor
        In floating point: integers become float64. Half precision and memory maps stay what
        they are.

    Raises
    ------
    TypeError
        If X is a sparse tensor of another layout than CSR.
    ValueError
        As `sklearn.utils.check_array`; NaN and infinity are named with row and column.
    """
    matrix = _as_floating(as_matrix(X, name, min_samples=min_samples, estimator=estimator))
    if not (hasattr(X, "dtype") or hasattr(X, "iloc")):  # a list, or a frame of polars
        matrix = matrix.astype(np.float64, copy=False)
    if estimator is not None:
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    check_entries_finite(matrix, name)
    return matrix


def check_codes(X, n_components, *, name="X"):
    """Validate codes of shape (n_samples, n_components) for `inverse_transform`."""
    X = _as_floating(as_matrix(X, name))
    if X.shape[1] != n_components:
        raise ValueError(
            f"{name} has {X.shape[1]} columns, but the dictionary has {n_components} components. "
            "inverse_transform expects what transform returned."
        )
    check_entries_finite(X, name)
    return X


def check_entries_finite(X, name):
    """Raise a ValueError that names the first NaN or infinity with its place."""
    if sp.issparse(X) or getattr(X, "layout", None) == torch.sparse_csr:
        values = X.data if sp.issparse(X) else X.values()
        position = _first_not_finite(values)
        if position is not None:
            _raise_not_finite(name, values[position], _place_in_csr(X, position))
        return
    step = max(1, BLOCK_BYTES // max(math.prod(X.shape[1:]) * X.dtype.itemsize, 1))
    for start in range(0, X.shape[0], step):
        values = X[start : start + step]
        position = _first_not_finite(values)
        if position is not None:
            row, *place = map(int, np.unravel_index(position, values.shape))
            _raise_not_finite(name, values[row, *place], (start + row, *place))
        release_pages(X)


def release_pages(X):
    """Let go of the pages of a memory map that have been read; the file and its cache stay.

    They would count as resident memory of the process until others need the memory. Pages of a
    private map ("c") may have been written to, and are kept.
    """
    while getattr(X, "_mmap", None) is None:  # what is computed from a memory map has none
        X = getattr(X, "base", None)
        if X is None:
            return
    if X.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        X._mmap.madvise(mmap.MADV_DONTNEED)


def read_only(X):
    """A view of an ndarray that cannot be written to, and a copy of a sparse matrix.

    For estimators that are not ours: scikit-learn's that are told to work in place copy what they
    cannot write to. The caller's array stays what it is.
    """
    if sp.issparse(X):
        return X.copy()
    if isinstance(X, np.ndarray):
        X = X.view()
        X.flags.writeable = False
    return X


def _first_not_finite(values):
    """Position of the first NaN or infinity in the flattened values, or None."""
    if isinstance(values, torch.Tensor):
        bad = (~torch.isfinite(values)).flatten().nonzero()[:1]
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum(dtype=np.float64)):  # certainly all finite
                return None
        bad = np.flatnonzero(~np.isfinite(values))[:1]
    return int(bad[0]) if len(bad) else None


def _raise_not_finite(name, value, place):
    what = "NaN" if np.isnan(float(value)) else "infinity"
    row, *columns = place
    where = f"row {row}" + "".join(f", column {column}" for column in columns)
    raise ValueError(
        f"Input {name} contains {what} ({float(value)}) at {where}. Drop or impute such rows "
        f"first, for instance with {name}[np.isfinite({name}).all(axis=1)]."
    )


def _place_in_csr(X, position):
    """Row and column of one of the values of a CSR matrix or tensor."""
    if sp.issparse(X):
        indptr, indices = X.indptr, X.indices
    else:
        indptr, indices = X.crow_indices().cpu(), X.col_indices()
    return int(np.searchsorted(indptr, position, side="right")) - 1, int(indices[position])


class Rows:
    """Rows of X as dense tensors of one dtype on one device, whatever holds them, in C order.

    Parameters
    ----------
    X : ndarray, memmap, CSR matrix or tensor of shape (n_samples, n_features)
        As `check_activations` returned it.
    device : torch.device
    index : tensor of shape (n_rows,), int64, optional
        The rows that these are, of those of X; all by default.
    """

    def __init__(self, X, device, index=None):
        self.X = X
        self.device = device
        self.index = index
        self.shape = (X.shape[0] if index is None else len(index), X.shape[1])
        is_double = X.dtype in (torch.float64, np.float64)
        self.dtype = torch.float64 if is_double else torch.float32

    def __len__(self):
        return self.shape[0]

    def take(self, index):
        """Those of these rows that an int64 tensor names."""
        index = index if self.index is None else self.index[index]
        return Rows(self.X, self.device, index)

    def __getitem__(self, index):
        """Rows given by a slice or by an int64 tensor: (n_rows, n_features)."""
        if self.index is not None:
            index = self.index[index]
        if isinstance(self.X, torch.Tensor):
            rows = _rows_of_tensor(self.X, index)
            rows = rows.to_dense() if rows.layout == torch.sparse_csr else rows
        elif sp.issparse(self.X):
            rows = self.X[index.numpy() if isinstance(index, torch.Tensor) else index]
            rows = from_numpy(rows.toarray())
        elif isinstance(index, torch.Tensor):
            rows = torch.empty(len(index), self.shape[1], dtype=self.dtype, device="cpu")
            for i in range(0, len(index), ROWS_TO_MAP):
                part = index[i : i + ROWS_TO_MAP].numpy()
                rows[i : i + ROWS_TO_MAP] = from_numpy(self.X[part])
                release_pages(self.X)
        else:
            rows = from_numpy(self.X[index])
            release_pages(self.X)
        # without waiting for a GPU to do what it has been told before
        upload = {"non_blocking": self.device.type == "cuda"}
        return rows.to(device=self.device, dtype=self.dtype, **upload).contiguous()

    def block_size(self, n_columns=0):
        """How many rows there are in a block of `blocks`."""
        width = max(self.shape[1], n_columns, 1)
        return max(1, BLOCK_BYTES // (width * self.dtype.itemsize))

    def blocks(self, n_columns=0):
        """Yield (slice, rows) over all rows; a block holds about `BLOCK_BYTES`.

        ``n_columns`` is the width of what is computed from the rows, if wider than they are.
        """
        step = self.block_size(n_columns)
        for start in range(0, len(self), step):
            block = slice(start, min(start + step, len(self)))
            yield block, self[block]


def _rows_of_tensor(X, index):
    """Rows of a tensor, dense or CSR, given by a slice or by an int64 tensor."""
    if isinstance(index, torch.Tensor):
        index = index.to(X.device)
    if X.layout != torch.sparse_csr:
        return X[index]
    indptr = X.crow_indices()
    starts, counts = indptr[:-1][index], indptr.diff()[index]
    indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    n_entries = int(indptr[-1])
    places = torch.arange(n_entries, dtype=torch.int64, device=X.device)
    places += torch.repeat_interleave(starts - indptr[:-1], counts, output_size=n_entries)
    columns = X.col_indices()[places].to(torch.int64)
    return csr_tensor(indptr, columns, X.values()[places], (len(counts), X.shape[1]))


def take_rows(X, index):
    """Rows of X by an int64 array; without a copy where they are consecutive."""
    if len(index) and (np.diff(index) == 1).all():
        index = slice(int(index[0]), int(index[-1]) + 1)
    if not isinstance(X, torch.Tensor):
        return X[index]
    return _rows_of_tensor(X, index if isinstance(index, slice) else torch.from_numpy(index))


def collect_dense(blocks, n_rows, n_columns, rows):
    """Write blocks of tensors into one array of the kind that ``rows.X`` is.

    Parameters
    ----------
    blocks : iterable of (slice, tensor)
    rows : Rows
        What the blocks were computed from: decides kind, device and dtype of the result.

    Returns
    -------
    array : ndarray or tensor of shape (n_rows, n_columns)
    """
    like_tensor = isinstance(rows.X, torch.Tensor)
    device = rows.X.device if like_tensor else "cpu"
    out = torch.empty((n_rows, n_columns), dtype=rows.dtype, device=device)
    for block, values in blocks:
        out[block] = values
    return out if like_tensor else out.numpy()


class _Gathered:
    """Values of successive rows, in one tensor that grows.

    A list of tensors, joined at the end, would cost gigabytes: each stays in the heap between
    what the blocks need for a moment, and no hole between two is large enough for the next.
    """

    def __init__(self, dtype, n_rows, device):
        self.buffer = torch.empty(0, dtype=dtype, device=device)
        self.n_rows, self.n_values = n_rows, 0

    def append(self, values, n_rows):
        """Take in values, with which there are those of `n_rows` rows."""
        start, self.n_values = self.n_values, self.n_values + len(values)
        if self.n_values > len(self.buffer):  # as if the other rows had as many
            size = math.ceil(1.05 * self.n_values / n_rows * self.n_rows)
            larger = self.buffer.new_empty(size)
            larger[:start] = self.buffer[:start]
            self.buffer = larger
        self.buffer[start : self.n_values] = values

    def values(self):
        """All values, without a copy."""
        return self.buffer[: self.n_values]


def collect_sparse(blocks, n_rows, n_columns, rows):
    """As `collect_dense`, but CSR: only the non-zeros of each block are kept.

    Instead of a tensor a block can have these: how many each row has, their columns (nnz,), in
    any order, and their values (nnz,). That is several times faster.
    """
    counts = torch.empty(n_rows, dtype=torch.int64, device=rows.device)
    indices, data = (_Gathered(dtype, n_rows, rows.device) for dtype in (torch.int32, rows.dtype))
    for block, codes in blocks:
        if isinstance(codes, torch.Tensor):
            mask = codes != 0
            count, columns, values = mask.sum(dim=1), mask.nonzero()[:, 1], codes[mask]
        else:
            count, columns, values = codes
            row = torch.arange(len(count), device=count.device).repeat_interleave(count)
            order = (row * n_columns + columns).argsort()
            columns, values = columns[order], values[order]
        counts[block] = count
        indices.append(columns, block.stop)
        data.append(values, block.stop)
    indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    indices, data = indices.values(), data.values()
    if isinstance(rows.X, torch.Tensor):
        parts = (part.to(rows.X.device) for part in (indptr, indices.long(), data))
        return csr_tensor(*parts, (n_rows, n_columns))
    index_dtype = np.int32 if len(data) < np.iinfo(np.int32).max else np.int64
    arrays = (
        data.cpu().numpy(),
        indices.cpu().numpy().astype(index_dtype, copy=False),
        indptr.cpu().numpy().astype(index_dtype, copy=False),
    )
    return align_sparse_interface(sp.csr_array(arrays, shape=(n_rows, n_columns)))
