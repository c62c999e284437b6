"""Codes of any number of rows, one block at a time, so that memory does not grow with them."""

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn import config_context

from ..._core.language.texts import check_texts, text_portions
from ...metrics._coding import with_sparse_codes
from ...metrics._rows import as_rows, check_finite, to_numpy
from ...utils import _arrays
from ...utils._arrays import read_only
from ...utils._extractors import extractor_of
from ._active import check_indices
from ._directions import n_components_of

# Entries of codes per block: 64 MB in float32 if they are dense.
BLOCK_SIZE = 2**24


class CodedBlocks:
    """The codes of activations or texts, in blocks of rows. Can be iterated over repeatedly.

    Parameters
    ----------
    X : matrix, or texts
        Codes. With a `dictionary`, activations, or the input of its ActivationExtractor if it is
        a Pipeline that starts with one.

    dictionary : fitted estimator with `transform`, or None

    Attributes
    ----------
    n_components : int
        Number of columns of the codes.
    """

    def __init__(self, X, dictionary=None):
        self.extractor = None
        if dictionary is None:
            self.X = as_rows(X, "X")
            self.n_components = self.X.shape[1]
        else:
            if not hasattr(dictionary, "transform"):
                raise TypeError(
                    "dictionary must be a fitted estimator with transform, but is a "
                    f"{type(dictionary).__name__}. Leave it out to give codes as X."
                )
            self.extractor = extractor_of(dictionary)
            if self.extractor is None:
                self.X = as_rows(X, "X")
            else:
                is_text = self.extractor.tokenizer is not None
                self.X = check_texts(X) if is_text else _arrays.as_matrix(X, "X", allow_nd=True)
                dictionary = dictionary[1:]
            self.n_components = n_components_of(dictionary)
        self.dictionary = None if dictionary is None else with_sparse_codes(dictionary)
        # keep a DataFrame: steps of the dictionary may check its column names
        has_names = hasattr(X, "iloc") and hasattr(dictionary, "feature_names_in_")
        self._frame = X if has_names and self.extractor is None else None

    def columns(self, features, name="features"):
        """`features` as an array of indices; None means all."""
        if features is None:
            return np.arange(self.n_components)
        return check_indices(features, self.n_components, name=name, of="columns of codes")

    def __iter__(self):
        """Yield (index of the first row, the dictionary's input or None, codes).

        Rows are rows of the codes: a step of the dictionary may return more or fewer rows than
        it is given.
        """
        first = 0
        for X in self._matrices():
            for start in range(0, X.shape[0], step := self._n_rows(X)):
                given, codes = None, X[start : start + step]
                if self.dictionary is not None:
                    given = (
                        codes if self._frame is None else self._frame.iloc[start : start + step]
                    )
                    codes = as_rows(transformed(self.dictionary, given), "codes")
                yield first, given, codes
                first += codes.shape[0]

    def _matrices(self):
        if self.extractor is None:
            yield self.X
        elif self.extractor.tokenizer is not None:
            for start, stop in text_portions(self.X):
                yield as_rows(self.extractor.transform(self.X[start:stop]), "activations")
        else:
            start, n_samples = 0, int(self.extractor.batch_size)
            while start < self.X.shape[0]:
                some = self.X[start : start + n_samples]
                activations = as_rows(self.extractor.transform(some), "activations")
                yield activations
                start += n_samples
                # estimate the rows per sample from the portion just run
                n_rows = activations.shape[0] / some.shape[0]
                size = BLOCK_SIZE / (n_rows * max(self.n_components, activations.shape[1]))
                n_samples = max(int(self.extractor.batch_size), int(size))

    def _n_rows(self, X):
        width = X.nnz / X.shape[0] if issparse(X) else X.shape[1]
        if self.dictionary is not None:
            width = max(width, self.n_components)
        return max(1, int(BLOCK_SIZE / max(width, 1)))


def transformed(estimator, X):
    """`estimator.transform(X)` as an array unless `set_output` says otherwise; X is read-only."""
    with config_context(transform_output="default"):
        return estimator.transform(read_only(X))


def active_entries(codes, columns):
    """The positive entries of some columns, as `nonzero_entries` returns them."""
    rows, features, values = nonzero_entries(codes, columns)
    active = values > 0
    if active.all():
        return rows, features, values
    return rows[active], features[active], values[active]


def nonzero_entries(codes, columns):
    """The non-zero entries of some columns.

    Parameters
    ----------
    codes : matrix from `as_rows`
    columns : ndarray of int64

    Returns
    -------
    rows : ndarray of int64 of shape (n_nonzero,), ascending
    features : ndarray of int64 of shape (n_nonzero,)
        Index in `columns`.
    values : ndarray of shape (n_nonzero,)
    """
    if len(columns) != codes.shape[1] or (columns != np.arange(len(columns))).any():
        codes = codes[:, torch.from_numpy(columns) if isinstance(codes, torch.Tensor) else columns]
    if issparse(codes):
        if not codes.has_canonical_format:
            codes = codes.copy()
            codes.sum_duplicates()
        rows = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))
        # int64: callers multiply the indices, and SciPy's int32 would overflow
        features, values = codes.indices.astype(np.int64), codes.data
        check_finite(values, "codes")
        if values.all():
            return rows, features, values
        nonzero = np.flatnonzero(values)
        return rows[nonzero], features[nonzero], values[nonzero]
    if isinstance(codes, torch.Tensor):
        codes = to_numpy(codes)
    check_finite(codes, "codes")
    rows, features = np.nonzero(codes)
    return rows, features, codes[rows, features]
