"""The codes of a corpus with their tokens, kept once."""

import json
from functools import cached_property
from html import escape

import numpy as np
from scipy.sparse import csc_array, csr_array, issparse, vstack
from sklearn.utils import Bunch

from ...metrics._rows import as_rows
from ._active import positive_block
from ._active import selected as selected_features
from ._files import load_columns, save_columns
from ._moments import Moments
from ._tokens import check_tokens

# Entries of a block of codes: 48 MB of rows, columns and values.
BLOCK_ENTRIES = 2**22


class FeatureCodes:
    """Where features are active in a corpus: codes, tokens and where they come from, kept once.

    Every function of :mod:`skdict.inspection` takes one instead of a matrix of codes. It is made
    by :func:`collect_codes` in one pass of the model, by `from_matrix` from codes that exist, or
    by `load` from a folder, whose files are mapped into memory. Only positive codes are kept:
    12 bytes for each at most, against 4 for each of all features and tokens.

    Parameters
    ----------
    matrix : matrix of shape (n_rows, n_components)
        Codes. Use `from_matrix`, which checks what it is given.

    tokens : dict of ndarray, default=None
        As in the attributes.

    texts : sequence of str, default=None
        As in the attributes.

    counted : ndarray of bool, default=None
        As in the attributes.

    provenance : dict, default=None
        As in the attributes.

    moments : object, default=None
        Number, sum, sum of squares and maximum of each feature's codes; found when needed if
        None.

    near_misses : :class:`~sklearn.utils.Bunch`, default=None
        As in the attributes.

    is_clean : bool, default=False
        Whether `matrix` is a csr_array of positive codes with ascending columns.

    Attributes
    ----------
    shape : tuple of int
        (n_rows, n_components).

    n_rows : int
        Number of rows, one per token (or document, or place).

    n_components : int
        Number of features.

    tokens : dict of ndarray of shape (n_rows,), or None
        Columns as `ActivationExtractor.tokens` returns them.

    texts : sequence of str, or None
        The texts of the tokens.

    counted : ndarray of shape (n_rows,), bool
        False for rows that were left out by a rule of :func:`collect_codes`. They have no codes,
        and no statistic counts them; their tokens are still shown around others.

    n_counted : int
        Number of the others, of which densities are fractions.

    provenance : dict
        Model, layer, dictionary, tokens, versions and the date, as far as known; values can be
        written as JSON.

    near_misses : :class:`~sklearn.utils.Bunch` or None
        ``indptr`` (n_components + 1,), and of feature j in ``indptr[j]:indptr[j + 1]`` the
        ``rows`` on which it is inactive but closest to active, in descending order of the
        ``scores``. ``name`` says what these are: "pre_activations", or "projections" on the atom.

    See Also
    --------
    collect_codes : Makes one from texts or activations.

    Examples
    --------
    >>> from skdict.inspection import FeatureCodes, feature_statistics
    >>> codes = FeatureCodes.from_matrix([[0.0, 2.0], [0.5, 0.0], [0.0, 4.0]])
    >>> codes
    FeatureCodes(n_rows=3, n_components=2)
    >>> feature_statistics(codes).maximum
    array([0.5, 4. ])
    """

    def __init__(
        self,
        matrix,
        *,
        tokens=None,
        texts=None,
        counted=None,
        provenance=None,
        moments=None,
        near_misses=None,
        is_clean=False,
    ):
        self._matrix, self._is_clean = matrix, is_clean
        self.shape = tuple(map(int, matrix.shape))
        self.n_rows, self.n_components = self.shape
        self.tokens, self.texts = tokens, texts
        self.counted = np.ones(self.n_rows, dtype=bool) if counted is None else counted
        self.provenance = {} if provenance is None else provenance
        self.near_misses = near_misses
        if moments is not None:
            self.moments = moments

    @classmethod
    def from_matrix(cls, codes, *, tokens=None, texts=None, counted=None, provenance=None):
        """Make one of codes that exist.

        Parameters
        ----------
        codes : {array-like, sparse matrix, torch.Tensor} of shape (n_rows, n_components)
            Only their positive entries are looked at. Dense codes, such as a memory map, are
            read in blocks of rows.

        tokens : mapping, default=None
            For each row "document", an ascending number, and "token", its text. With "position",
            the token's place in what the model saw together, examples end with that. With
            "start" and "end", the token's characters, spaces are shown as in the text.

        texts : sequence of str, default=None
            The texts of the tokens.

        counted : array-like of bool of shape (n_rows,), default=None
            False for rows to leave out; their codes are ignored.

        provenance : dict, default=None
            What is known of the codes; values must be such as JSON can hold.

        Returns
        -------
        codes : FeatureCodes

        Raises
        ------
        ValueError, TypeError
            If `codes` is not a matrix, `tokens` or `counted` have another number of rows, there
            are fewer `texts` than documents, or JSON cannot hold `provenance`.
        """
        matrix = as_rows(codes, "codes")
        n_rows = matrix.shape[0]
        if counted is not None:
            counted = np.asarray(counted)
            if counted.dtype != bool or counted.shape != (n_rows,) or not counted.any():
                raise ValueError(
                    f"counted must be true or false for each of {n_rows} rows, and true for at "
                    f"least one, but has dtype {counted.dtype}, shape {counted.shape} and "
                    f"{np.count_nonzero(counted)} entries that are true."
                )
        if tokens is not None:
            tokens = check_tokens(tokens, n_rows, needs=("document",))
        _check_texts_and_provenance(texts, tokens, provenance)
        return cls(matrix, tokens=tokens, texts=texts, counted=counted, provenance=provenance)

    @property
    def n_counted(self):
        """Number of rows that count."""
        return int(np.count_nonzero(self.counted))

    def __len__(self):
        return self.n_rows

    def __repr__(self):
        return f"FeatureCodes(n_rows={self.n_rows}, n_components={self.n_components})"

    def _repr_html_(self):
        """What is known of the codes, as a table."""
        known = {"rows": self.n_rows, "features": self.n_components, "rows that count": None}
        known["rows that count"] = self.n_counted
        lines = (
            f"<tr><th style='text-align: left'>{escape(str(name))}</th>"
            f"<td style='text-align: left'>{escape(str(value))}</td></tr>"
            for name, value in (known | self.provenance).items()
        )
        return f"<table><caption>FeatureCodes</caption>{''.join(lines)}</table>"

    def blocks(self):
        """Read the codes in blocks of rows.

        Yields
        ------
        first : int
            Index of the block's first row.
        codes : csr_array of shape (n_block_rows, n_components)
            Its positive codes, with ascending columns in each row. Do not change it.
        """
        matrix, all_count = self._matrix, bool(self.counted.all())
        for start, stop in self._bounds():
            if self._is_clean:
                yield start, _rows_of(matrix, start, stop)
                continue
            block = _rows_of(matrix, start, stop) if issparse(matrix) else matrix[start:stop]
            block = positive_block(block, "codes")
            if not (all_count or self.counted[start:stop].all()):
                block = _without(block, ~self.counted[start:stop])
            yield start, block

    def _bounds(self):
        n_rows, n_components = self.shape
        if not issparse(self._matrix):
            step = max(1, BLOCK_ENTRIES // n_components)
            yield from ((i, min(i + step, n_rows)) for i in range(0, n_rows, step))
            return
        indptr, start = self._matrix.indptr, 0
        while start < n_rows:
            stop = int(np.searchsorted(indptr, indptr[start] + BLOCK_ENTRIES, side="right")) - 1
            stop = min(max(stop, start + 1), n_rows)
            yield start, stop
            start = stop

    def columns(self, features):
        """The codes of some features.

        Parameters
        ----------
        features : int, array-like of int, boolean mask, or None
            None is all.

        Returns
        -------
        codes : csc_array of float64 of shape (n_rows, n_selected)
            With ascending rows in each column.
        """
        features = selected_features(features, self.n_components)
        features, place = np.unique(features, return_inverse=True)
        found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
        for first, rows, selected, values in self.entries(features):
            found.append((first + rows, selected, values))
        rows, selected, values = map(np.concatenate, zip(*found, strict=True))
        order = np.argsort(selected, kind="stable")
        indptr = np.searchsorted(selected[order], np.arange(len(features) + 1))
        parts = values[order].astype(np.float64), rows[order], indptr
        return csc_array(parts, shape=(self.n_rows, len(features)))[:, place]

    def entries(self, features=None):
        """Read the entries of some features, block by block.

        Parameters
        ----------
        features : ndarray of int64 of shape (n_selected,), default=None
            Each once. None is all.

        Yields
        ------
        first : int
            Index of the block's first row.
        rows : ndarray of int64 of shape (n_entries,)
            Rows in the block, ascending.
        selected : ndarray of int64 of shape (n_entries,)
            Index in `features`.
        values : ndarray of shape (n_entries,)
        """
        place = None
        if features is not None and not np.array_equal(features, np.arange(self.n_components)):
            place = np.full(self.n_components, -1)
            place[features] = np.arange(len(features))
        for first, block in self.blocks():
            rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
            selected, values = block.indices, block.data
            if place is not None:
                selected = place[selected]
                kept = np.flatnonzero(selected >= 0)
                rows, selected, values = rows[kept], selected[kept], values[kept]
            # int64: callers multiply the indices
            yield first, rows, selected.astype(np.int64), values

    def to_csr(self):
        """All positive codes as one matrix.

        Returns
        -------
        codes : csr_array of shape (n_rows, n_components)
            What is clean already is not copied; codes on disk stay mapped. Do not change it.
        """
        if self._is_clean:
            return self._matrix
        return vstack([block for _, block in self.blocks()], format="csr")

    @cached_property
    def moments(self):
        """Number, sum, sum of squares and maximum of each feature's codes."""
        moments = Moments(self.n_components)
        for _, _, features, values in self.entries():
            moments.update(features, values)
        moments.n_rows = self.n_counted
        return moments

    def pooled(self, how="max"):
        """The codes of documents instead of tokens.

        Parameters
        ----------
        how : {"max", "mean"}, default="max"
            A document's code: the greatest of its tokens, or their mean.

        Returns
        -------
        codes : FeatureCodes of shape (n_documents, n_components)
            Row i is that of the i-th document; their texts are the tokens.

        Raises
        ------
        ValueError
            If there are no tokens, or `how` is something else.
        """
        if how not in ("max", "mean"):
            raise ValueError(f"how must be 'max' or 'mean', but is {how!r}.")
        if self.tokens is None:
            raise ValueError("There are no tokens that tell which document a row belongs to.")
        document = self.tokens["document"]
        if document.min(initial=0) < 0:
            raise ValueError(
                f"tokens['document'] has {document.min()}, but row i of the pooled codes is that "
                "of document i. Number the documents from 0."
            )
        n = int(document.max(initial=-1)) + 1
        n = n if self.texts is None else max(n, len(self.texts))
        n_tokens = np.bincount(document, weights=self.counted, minlength=n)
        parts = []
        for first, block in self.blocks():
            of_rows = document[first : first + block.shape[0]]
            parts.append(_pooled_rows(block, of_rows, n, how))
        pooled = _joined(parts, how)
        if how == "mean":
            pooled.data /= np.repeat(np.maximum(n_tokens, 1), np.diff(pooled.indptr))
        names = [f"document {i}" for i in range(n)] if self.texts is None else self.texts
        token = np.empty(n, dtype=object)
        token[:] = list(names)[:n]
        tokens = {"document": np.arange(n), "token": token}
        return FeatureCodes(
            pooled,
            tokens=tokens,
            texts=self.texts,
            counted=n_tokens > 0,
            provenance=self.provenance | {"unit": "document", "pooling": how},
            is_clean=True,
        )

    def save(self, path):
        """Write a folder that `load` reads.

        Parameters
        ----------
        path : str or path-like
            A new folder, or an empty one. It appears when it is complete. Of the tokens,
            "token" and the columns of integers are kept.

        Returns
        -------
        path : pathlib.Path

        Raises
        ------
        FileExistsError
            If the folder holds files, or is a file.
        """
        return save_columns(self, path)

    @classmethod
    def load(cls, path, *, verify=False):
        """Open a folder that `save` or :func:`collect_codes` has written.

        Parameters
        ----------
        path : str or path-like

        verify : bool, default=False
            Whether to read all files and compare their checksums. Sizes are always compared.

        Returns
        -------
        codes : FeatureCodes
            Its codes and tokens stay on disk and are mapped into memory.

        Raises
        ------
        FileNotFoundError
            If there is no such folder, or a file of it is missing.
        ValueError
            If it was not completed, is damaged, or is of another format.
        """
        return cls(**load_columns(path, verify=verify), is_clean=True)


def _check_texts_and_provenance(texts, tokens, provenance):
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of str, but is one str, {texts!r:.40}.")
    if texts is not None and tokens is not None:
        n_documents = int(tokens["document"].max(initial=-1)) + 1
        if len(texts) < n_documents:
            raise ValueError(
                f"There are {len(texts)} texts, but tokens['document'] goes to {n_documents - 1}. "
                "Give the text of each document."
            )
    try:
        json.dumps({} if provenance is None else provenance)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"provenance must have values that JSON can hold: str, int, float, bool, list, dict, "
            f"None. {error}."
        ) from error


def as_feature_codes(codes, tokens=None, *, name="codes"):
    """What a user gave as codes, as FeatureCodes.

    Parameters
    ----------
    codes : FeatureCodes, or {array-like, sparse matrix, torch.Tensor}
    tokens : mapping, default=None
        Of the rows; those of FeatureCodes by default.
    name : str
        What the user calls the codes.

    Returns
    -------
    codes : FeatureCodes
    """
    if isinstance(codes, FeatureCodes):
        if tokens is not None:
            raise ValueError(
                f"{name} is FeatureCodes with tokens of its own. Leave tokens out."
                if codes.tokens is not None
                else f"{name} is FeatureCodes without tokens. Give them to FeatureCodes."
            )
        return codes
    codes = as_rows(codes, name)
    return FeatureCodes.from_matrix(codes, tokens=tokens)


def _rows_of(matrix, start, stop):
    """Rows of a csr_array, which share its memory."""
    begin, end = matrix.indptr[start], matrix.indptr[stop]
    indptr = (matrix.indptr[start : stop + 1] - begin).astype(matrix.indices.dtype)
    parts = matrix.data[begin:end], matrix.indices[begin:end], indptr
    return csr_array(parts, shape=(stop - start, matrix.shape[1]))


def _without(block, rows):
    """A csr_array without the entries of some rows."""
    counts = np.where(rows, 0, np.diff(block.indptr))
    kept = np.repeat(~rows, np.diff(block.indptr))
    indptr = np.append(0, np.cumsum(counts))
    return csr_array((block.data[kept], block.indices[kept], indptr), shape=block.shape)


def _pooled_rows(block, document, n_documents, how):
    """Codes (n_documents, n_components) of the documents that the rows of a block belong to."""
    rows = np.repeat(document, np.diff(block.indptr))
    key = rows.astype(np.int64) * block.shape[1] + block.indices
    keys, place = np.unique(key, return_inverse=True)
    values = np.zeros(len(keys))
    (np.maximum if how == "max" else np.add).at(values, place, block.data)
    rows, columns = np.divmod(keys, block.shape[1])
    indptr = np.searchsorted(rows, np.arange(n_documents + 1))
    return csr_array((values, columns, indptr), shape=(n_documents, block.shape[1]))


def _joined(parts, how):
    pooled = parts[0]
    for part in parts[1:]:
        pooled = pooled.maximum(part) if how == "max" else pooled + part
    pooled.sort_indices()
    return pooled


def near_misses_of(codes, feature):
    """Near misses of one feature.

    Returns
    -------
    near : Bunch
        ``rows`` and their scores, which are called ``codes.near_misses.name``.
    """
    near = codes.near_misses
    part = slice(*near.indptr[feature : feature + 2])
    return Bunch(rows=near.rows[part], **{near.name: near.scores[part]})
