"""The ways in which one matrix can be given: those that hold it, and those that hold none.

All hold, or spoil, the same small whole numbers, so that no dtype rounds them.
"""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse as sp
import torch


class Subclass(torch.Tensor):
    """A tensor as libraries wrap them."""


def _quiet(function):
    def quiet(X):
        with warnings.catch_warnings():  # torch says that some layouts are in beta
            warnings.simplefilter("ignore")
            return function(X)

    return quiet


def _with(X, value, dtype=object):
    X = X.astype(dtype)
    X[(1,) * X.ndim] = value
    return X


def _frame(X, dtype=None):
    names = [f"n{j}" for j in range(X.shape[1])] if X.ndim == 2 else None
    return pd.DataFrame(X, columns=names, dtype=dtype) if names else pd.Series(X, dtype=dtype)


def _polars(X):
    if X.ndim == 1:
        return pl.Series("x", X)
    return pl.DataFrame({f"n{j}": X[:, j] for j in range(X.shape[1])})


def _read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def _misaligned(X):
    """The numbers at odd addresses."""
    buffer = np.zeros(X.nbytes + 1, dtype=np.uint8)
    view = buffer[1:].view(X.dtype).reshape(X.shape)
    view[...] = X
    return view


def _tensor(dtype):
    return lambda X: torch.tensor(X).to(dtype)


def _scipy(kind):
    return lambda X: kind(X)


# Each with the precision that it is computed in: the result is that of such an ndarray.
DENSE = {
    "float64": ("float64", np.array),
    "float32": ("float32", lambda X: X.astype(np.float32)),
    "float16": ("float32", lambda X: X.astype(np.float16)),
    "longdouble": ("float64", lambda X: X.astype(np.longdouble)),
    "big-endian": ("float64", lambda X: X.astype(">f8")),
    "big-endian float32": ("any", lambda X: X.astype(">f4")),
    "int8": ("float64", lambda X: X.astype(np.int8)),
    "uint8": ("float64", lambda X: X.astype(np.uint8)),
    "uint64": ("float64", lambda X: X.astype(np.uint64)),
    "int64": ("float64", lambda X: X.astype(np.int64)),
    "object": ("float64", lambda X: X.astype(object)),
    "Fortran order": ("float64", np.asfortranarray),
    "backwards": ("float64", lambda X: X[::-1].copy()[::-1]),
    "strided": ("float64", lambda X: np.repeat(X, 2, axis=0)[::2]),
    "read-only": ("float64", _read_only),
    "misaligned": ("float64", _misaligned),
    "masked array, nothing masked": ("float64", np.ma.masked_array),
    "list": ("float64", lambda X: X.tolist()),
    "tuple": ("float64", lambda X: tuple(X.tolist())),
    "list of arrays": ("float64", list),
    "list of tensors": ("float64", lambda X: list(torch.tensor(X))),
    "DataFrame": ("float64", _frame),
    "DataFrame float32": ("float32", lambda X: _frame(X, "float32")),
    "DataFrame Int64": ("float64", lambda X: _frame(X, "Int64")),
    "DataFrame Float32": ("any", lambda X: _frame(X, "Float32")),
    "DataFrame object": ("float64", lambda X: _frame(X, object)),
    "polars": ("float64", _polars),
    "tensor": ("float64", torch.tensor),
    "tensor float32": ("float32", _tensor(torch.float32)),
    "tensor float16": ("float32", _tensor(torch.float16)),
    "tensor bfloat16": ("float32", _tensor(torch.bfloat16)),
    "tensor int8": ("float64", _tensor(torch.int8)),
    "tensor int64": ("float64", _tensor(torch.int64)),
    "tensor uint16": ("float64", _tensor(torch.uint16)),
    "Parameter": ("float64", lambda X: torch.nn.Parameter(torch.tensor(X))),
    "result with a gradient": ("float64", lambda X: torch.tensor(X, requires_grad=True) * 1),
    "subclass": ("float64", lambda X: torch.tensor(X).as_subclass(Subclass)),
    "transposed tensor": ("float64", lambda X: torch.tensor(X.T.copy()).T),
    "negated view": ("float64", lambda X: torch.tensor(-1j * X).conj().imag),
    "inference tensor": ("float64", lambda X: torch.inference_mode()(torch.tensor)(X)),
}
SPARSE = {
    **{
        f"{layout}_{kind}": ("float64", _scipy(getattr(sp, f"{layout}_{kind}")))
        for layout in ("csr", "csc", "coo", "bsr", "dok", "lil", "dia")
        for kind in ("matrix", "array")
    },
    "csr float32": ("float32", lambda X: sp.csr_array(X.astype(np.float32))),
    "csr int8": ("float64", lambda X: sp.csr_array(X.astype(np.int8))),
}
# Right or refused: as the function says, but in one of the two ways.
EITHER = {
    "np.matrix": ("float64", np.matrix),
    "quantised": (
        "any",
        _quiet(lambda X: torch.quantize_per_tensor(torch.tensor(X).float(), 1.0, 0, torch.quint8)),
    ),
    "strings of numbers": ("float64", lambda X: X.astype(str)),
    "tensor csr": ("float64", _quiet(lambda X: torch.tensor(X).to_sparse_csr())),
    "tensor csc": ("float64", _quiet(lambda X: torch.tensor(X).to_sparse_csc())),
    "tensor coo": ("float64", _quiet(lambda X: torch.tensor(X).to_sparse())),
    "tensor bsr": ("float64", _quiet(lambda X: torch.tensor(X).to_sparse_bsr((1, 1)))),
}
# Kinds that hold no matrix of finite real numbers.
BAD = {
    "NaN": lambda X: _with(X, np.nan, float),
    "infinity": lambda X: _with(X, np.inf, float),
    "NaN in float16": lambda X: _with(X, np.nan, np.float16),
    "NaN in longdouble": lambda X: _with(X, np.nan, np.longdouble),
    "beyond float64": lambda X: _with(X, np.longdouble("1e4000"), np.longdouble),
    "None": lambda X: _with(X, None).tolist(),
    "None in an object array": lambda X: _with(X, None),
    "huge int": lambda X: _with(X, 10**400).tolist(),
    "a word": lambda X: _with(X, "a").tolist(),
    "words": lambda X: np.full(X.shape, "a"),
    "bytes": lambda X: np.full(X.shape, b"a"),
    "a dict": lambda X: _with(X, {"a": 1}),
    "dates": lambda X: X.astype("datetime64[s]"),
    "time spans": lambda X: X.astype("timedelta64[s]"),
    "records": lambda X: np.zeros(len(X), dtype=[("a", float), ("b", float)]),
    "ragged": lambda X: [[1.0], *X.tolist()],
    "ragged objects": lambda X: np.array([[1.0], *X.tolist()], dtype=object),
    "complex": lambda X: X * 1j,
    "masked": lambda X: np.ma.masked_array(X, X.flat[0] == X),
    "0-d": lambda X: np.array(1.0),
    "3-d": lambda X: np.zeros((2, 3, 4, 5)),
    "no rows": lambda X: X[:0],
    "empty list": lambda X: [],
    "nothing": lambda X: None,
    "a word alone": lambda X: "a",
    "a number": lambda X: 1.0,
    "a set": lambda X: {1.0, 2.0},
    "a generator": lambda X: (row for row in X),
    "an object": lambda X: object(),
    "a class": lambda X: dict,
    "DataFrame with NA": lambda X: _frame(X, "Float64").mask(X.flat[0] == X),
    "DataFrame of words": lambda X: _frame(X.astype(str)),
    "DataFrame of categories": lambda X: _frame(np.full(X.shape, "a")).astype("category"),
    "DataFrame of dates": lambda X: _frame(X.astype("datetime64[s]")),
    "polars with null": lambda X: _polars(_with(X, np.nan, float)).fill_nan(None),
    "polars of words": lambda X: _polars(X.astype(str)),
    "csr with NaN": lambda X: sp.csr_array(np.atleast_2d(_with(X, np.nan, float))),
    "coo with NaN": lambda X: sp.coo_matrix(np.atleast_2d(_with(X, np.nan, float))),
    "csr complex": lambda X: sp.csr_array(np.atleast_2d(X) * 1j),
    "coo 1-d": lambda X: sp.coo_array(np.arange(5.0)),
    "tensor with NaN": lambda X: torch.tensor(_with(X, np.nan, float)),
    "tensor bfloat16 with infinity": lambda X: torch.tensor(_with(X, np.inf, float)).bfloat16(),
    "tensor 0-d": lambda X: torch.tensor(1.0),
    "tensor 4-d": lambda X: torch.zeros(2, 3, 4, 5),
    "tensor without rows": lambda X: torch.tensor(X[:0]),
    "tensor complex": lambda X: torch.tensor(X * 1j),
    "meta": lambda X: torch.tensor(X, device="meta"),
    "float8": lambda X: torch.tensor(X).to(torch.float8_e4m3fn),
    "list of meta tensors": lambda X: list(torch.tensor(X, device="meta")),
    "nested": _quiet(lambda X: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
    "jagged": _quiet(
        lambda X: torch.nested.nested_tensor(
            [torch.ones(2, 6), torch.ones(3, 6)], layout=torch.jagged
        )
    ),
    "masked tensor": _quiet(
        lambda X: torch.masked.masked_tensor(torch.tensor(X), torch.tensor(X.flat[0] != X))
    ),
}
NOT_FINITE = (
    "NaN",
    "infinity",
    "NaN in float16",
    "NaN in longdouble",
    "beyond float64",
    "None",
    "None in an object array",
    "DataFrame with NA",
    "polars with null",
    "csr with NaN",
    "coo with NaN",
    "tensor with NaN",
    "tensor bfloat16 with infinity",
)
