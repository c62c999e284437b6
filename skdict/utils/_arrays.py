"""The edge between arrays and tensors: validation on the way in, the same kind on the way out."""

import contextlib
import math

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from .._core.data.finite import check_entries_finite
from .._core.data.reading import is_store
from .._core.kernels import csr_tensor
from ._sklearn_compat import align_sparse_interface

# Dtypes of tensors that are accepted without a conversion.
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
# Dtypes without arithmetic in torch, and what they are converted to.
WIDER = {
    torch.uint16: torch.int64,
    torch.uint32: torch.int64,
    torch.uint64: torch.float64,
}


def as_numbers(X, name):
    """Validate an array of real numbers of any shape. Arrays enter here or by `as_matrix`.

    Parameters
    ----------
    X : array-like, sparse matrix or torch.Tensor
    name : str
        Name of X in errors.

    Returns
    -------
    X : ndarray, CSR matrix or tensor
        Of booleans, integers, or floating-point numbers of at most eight bytes. Copied only if
        it must be converted. A tensor is detached, and of no subclass.

    Raises
    ------
    TypeError, ValueError
        If X has entries that are not real numbers, or cannot be converted to an array.
    """
    return _check_dtype(_read(X, name, "an array"), name, "an array")


def as_matrix(X, name, *, min_samples=1, estimator=None, allow_nd=False):
    """Validate a matrix of real numbers that is not empty; otherwise as `as_numbers`.

    Parameters
    ----------
    min_samples : int
        Minimum number of rows.
    estimator : estimator or None
        Named in the error if there are fewer.
    allow_nd : bool
        Whether X may have more than two axes. If not, it may also be a sparse CSR tensor.
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
    """Validate a vector (n,) or column (n, 1); returns an ndarray (n,) of float64."""
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
    """Convert a tensor to an ndarray, bfloat16 to float32; return anything else unchanged."""
    if not isinstance(X, torch.Tensor):
        return X
    return (X.float() if X.dtype == torch.bfloat16 else X).cpu().numpy()


def _read(X, name, what, *, csr_tensors=False):
    """X as an ndarray, CSR matrix, plain tensor or view of a store; its dtype is not checked."""
    if hasattr(X, "__skdict_rows__"):
        X = X.__skdict_rows__()
    if is_store(X):
        return X
    if hasattr(X, "__skdict_source__"):
        raise TypeError(
            f"{name} must be {what} of real numbers, but is an {type(X).__name__}, which only "
            "fit, transform, score and score_samples of a dictionary take. Write it to disk, with "
            "to_store, and give the store."
        )
    if isinstance(X, torch.Tensor):
        return _read_tensor(X, name, what, csr_tensors)
    if type(X) is np.ndarray and X.dtype.kind in "biuf":
        return X  # so would `check_array`, in a tenth of the time that one row by Lasso takes
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
    if sp.issparse(X) and not X.has_canonical_format:  # the same entry may be stored twice
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
    """X with a real dtype of native byte order and at most eight bytes; raises if it has none."""
    if is_store(X):
        return X
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
        with np.errstate(over="ignore"):  # too large for float64: becomes infinite
            return X.astype(np.float64)
    return X if X.dtype.isnative else X.astype(X.dtype.newbyteorder("="))


@contextlib.contextmanager
def _naming(name, what):
    """Add the name of the array to errors of conversions."""
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
    """Convert integers and booleans to float64; floating point, also half precision, is kept."""
    if is_store(X):
        return X
    if isinstance(X, torch.Tensor):
        return X if X.is_floating_point() else X.to(torch.float64)
    return X if X.dtype.kind == "f" else X.astype(np.float64)


def check_activations(estimator, X, *, reset=False, min_samples=1, name="X", check_finite=True):
    """Validate activations. Floating-point X is not copied and stays on its device.

    Parameters
    ----------
    estimator : estimator or None
        Its ``n_features_in_`` and ``feature_names_in_`` are set, or compared with X.
    X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        A tensor is dense or sparse CSR.
    reset : bool
        Whether these attributes are set rather than compared.
    min_samples : int
    name : str
    check_finite : bool
        Whether to look for NaN and infinity, which reads all of X. `Source.statistics` and
        `Source.blocks` look for them as they read, so a source needs no check here.

    Returns
    -------
    X : ndarray, CSR matrix or tensor
        In floating point: integers become float64. Half precision and memory maps stay what
        they are.

    Raises
    ------
    TypeError
        If X is a sparse tensor of another layout than CSR, or codes in a folder.
    ValueError
        As `sklearn.utils.check_array`; NaN and infinity are named with row and column.
    """
    matrix = _as_floating(as_matrix(X, name, min_samples=min_samples, estimator=estimator))
    if is_store(matrix) and not hasattr(matrix, "moments"):
        raise TypeError(
            f"{name} is a {type(matrix).__name__}, which metrics and inverse_transform read; "
            f"elsewhere give the rows that are needed: {name}[:10_000]."
        )
    if not (hasattr(X, "dtype") or hasattr(X, "iloc")):  # a list, or a frame of polars
        matrix = matrix.astype(np.float64, copy=False)
    if estimator is not None and not _fits_without_names(estimator, X, reset):
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    if check_finite:
        check_entries_finite(matrix, name)
    return matrix


def _fits_without_names(estimator, X, reset):
    """Whether a matrix has no names to compare, and the number of columns that it must have.

    What `validate_data` finds out, too, in the time of half of all that is done for one row.
    """
    has_names = "feature_names_in_" in vars(estimator)
    is_plain = type(X) is np.ndarray and X.ndim == 2 and not reset and not has_names
    return is_plain and X.shape[1] == vars(estimator).get("n_features_in_")


def check_codes(X, n_components, *, name="X"):
    """Validate codes of shape (n_samples, n_components) for `inverse_transform`."""
    X = _as_floating(as_matrix(X, name))
    X = X.read(slice(None)) if is_store(X) else X
    if X.shape[1] != n_components:
        raise ValueError(
            f"{name} has {X.shape[1]} columns, but the dictionary has {n_components} components. "
            "inverse_transform expects what transform returned."
        )
    check_entries_finite(X, name)
    return X


def read_only(X):
    """A view of an ndarray that cannot be written to, and a copy of a sparse matrix.

    Passed to estimators of others, so that none changes the caller's array: those of scikit-learn
    that work in place copy an array that they cannot write to.
    """
    if sp.issparse(X):
        return X.copy()
    if isinstance(X, np.ndarray):
        X = X.view()
        X.flags.writeable = False
    return X


def collect_dense(blocks, n_rows, n_columns, rows):
    """Write the codes of blocks of rows into one array of the kind that ``rows.X`` is.

    Parameters
    ----------
    blocks : iterable of (slice, SparseCodes)
    rows : Source
        What the blocks were computed from: decides kind, device and dtype of the result.

    Returns
    -------
    array : ndarray or tensor of shape (n_rows, n_columns)
    """
    like_tensor = isinstance(rows.X, torch.Tensor)
    device = rows.X.device if like_tensor else "cpu"
    out = torch.zeros((n_rows, n_columns), dtype=rows.dtype, device=device)
    for block, codes in blocks:
        codes.write_to(out[block])
    return out if like_tensor else out.numpy()


class _Gathered:
    """Values of successive rows, in one tensor that grows.

    A list of tensors, joined at the end, fragments the heap: gigabytes were measured.
    """

    def __init__(self, dtype, n_rows, device):
        self.buffer = torch.empty(0, dtype=dtype, device=device)
        self.n_rows, self.n_values = n_rows, 0

    def append(self, values, n_rows):
        """Append values; those of the first ``n_rows`` rows are complete then."""
        start, self.n_values = self.n_values, self.n_values + len(values)
        if self.n_values > len(self.buffer):  # for all rows, at the density so far
            size = math.ceil(1.05 * self.n_values / n_rows * self.n_rows)
            larger = self.buffer.new_empty(size)
            larger[:start] = self.buffer[:start]
            self.buffer = larger
        self.buffer[start : self.n_values] = values

    def values(self):
        """All values, without a copy."""
        return self.buffer[: self.n_values]


def collect_sparse(blocks, n_rows, n_columns, rows):
    """As `collect_dense`, but CSR, with ascending columns in each row and without zeros."""
    counts = torch.empty(n_rows, dtype=torch.int64, device=rows.device)
    indices, data = (_Gathered(dtype, n_rows, rows.device) for dtype in (torch.int32, rows.dtype))
    for block, codes in blocks:
        codes = codes.sorted()
        counts[block] = codes.counts
        indices.append(codes.support.indices, block.stop)
        data.append(codes.values, block.stop)
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
