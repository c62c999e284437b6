"""The tokens of the rows of activations: validation, and the text that is shown for them."""

import numpy as np


def token_columns(tokens, keys, *, n_rows=None, integers=(), name="tokens"):
    """Columns of a table of tokens or positions as arrays, in the order of `keys`.

    Parameters
    ----------
    tokens : mapping of str to array-like of shape (n_tokens,)
        As `ActivationExtractor.tokens` or `positions` returns it.
    keys : sequence of str
    n_rows : int, default=None
        The number of rows that each column must have.
    integers : collection of str
        Columns that must be integers; they are returned as int64.
    name : {"tokens", "positions"}, default="tokens"
        Which table it is.

    Returns
    -------
    columns : dict of str to ndarray

    Raises
    ------
    ValueError
        If a column is missing, or has another shape or dtype.
    """
    missing = [key for key in keys if key not in tokens]
    if missing:
        raise ValueError(
            f"{name} has no {missing}. Pass what ActivationExtractor.{name}(X) returns."
        )
    columns = {key: np.asarray(tokens[key]) for key in keys}
    shapes = {key: column.shape for key, column in columns.items()}
    if n_rows is not None and set(shapes.values()) != {(n_rows,)}:
        raise ValueError(
            f"There are {n_rows} rows, but {name} has columns of shapes {shapes}. Pass the {name} "
            "of the same X, one per row."
        )
    for key in integers:
        if columns[key].dtype.kind not in "iu":
            raise ValueError(
                f"{name}[{key!r}] must be integers, but has dtype {columns[key].dtype}. To number "
                "documents, use numpy.unique(..., return_inverse=True)."
            )
        columns[key] = columns[key].astype(np.int64)  # small dtypes would overflow in sums
    return columns


def check_tokens(tokens, n_rows, needs=("document", "token")):
    """Validate a table of tokens.

    Parameters
    ----------
    tokens : mapping
        "token", "position", "start" and "end" are used if present.
    n_rows : int
    needs : tuple of str
        Columns that must be there.

    Returns
    -------
    columns : dict of str to ndarray of shape (n_rows,)
        All that have a value for each row.
    """
    integers = ["document", *(key for key in ("position", "start", "end") if key in tokens)]
    checked = [*integers, *({*needs, *(["token"] if "token" in tokens else [])} - {*integers})]
    columns = token_columns(tokens, checked, n_rows=n_rows, integers=integers)
    others = {name: np.asarray(tokens[name]) for name in tokens if name not in columns}
    columns |= {name: column for name, column in others.items() if column.shape == (n_rows,)}
    document = columns["document"]
    if (np.diff(document) < 0).any():
        raise ValueError("tokens['document'] must be ascending. Sort the rows text by text.")
    return columns


def with_previous_end(tokens):
    """The same columns, and where "start" and "end" are known "previous_end".

    Parameters
    ----------
    tokens : dict of ndarray of shape (n_rows,)
        From `check_tokens`.

    Returns
    -------
    columns : dict of ndarray
        "previous_end" is the end offset of the text before each token.
    """
    if not {"start", "end"} <= set(tokens):
        return tokens
    # running maximum of "end" over the tokens before, document by document
    names = "document", "start", "end"
    document, start, end = (np.asarray(tokens[name], np.int64) for name in names)
    offset = (document - document[:1]) * (max(end.max(initial=0), 0) + 1)
    before = np.maximum.accumulate(np.append(0, (end + offset)[:-1])) - offset
    first = np.append(True, np.diff(document) != 0)
    return tokens | {"previous_end": np.where(first, start, before)}


def read_after(previous_end, token, start, end):
    """The text of a token, continuing a text that ends at offset `previous_end`.

    Tokenizers may drop the space before a token, which is restored here, and may give several
    tokens the same characters, which only the first of them shows. A token without characters
    keeps its name.

    Parameters
    ----------
    previous_end : int
        End offset of the text before the token.
    token : str
    start, end : int
        The token's characters.
    """
    if end <= start:
        return token
    return " " + token if start > previous_end else token[previous_end - start :]


def writable(text):
    """Text with lone surrogates escaped, which UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
