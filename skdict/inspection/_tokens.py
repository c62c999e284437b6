"""The tokens behind the rows of activations: their columns, and how they read."""

import numpy as np


def token_columns(tokens, keys):
    """Columns of tokens as arrays, in the order of `keys`.

    Parameters
    ----------
    tokens : mapping of str to array-like of shape (n_tokens,)
        As `ActivationExtractor.tokens` returns it.
    keys : sequence of str

    Returns
    -------
    columns : dict of str to ndarray

    Raises
    ------
    ValueError
        If a column is missing.
    """
    missing = [key for key in keys if key not in tokens]
    if missing:
        raise ValueError(
            f"tokens has no {missing}. Pass what ActivationExtractor.tokens(texts) returns."
        )
    return {key: np.asarray(tokens[key]) for key in keys}


def check_tokens(tokens, n_rows):
    """The columns of tokens as arrays: "document", "token" and, if there, position and spans."""
    others = [key for key in ("position", "start", "end") if key in tokens]
    columns = token_columns(tokens, ["document", "token", *others])
    lengths = {key: len(column) for key, column in columns.items()}
    if set(lengths.values()) != {n_rows}:
        raise ValueError(
            f"There are activations of {n_rows} tokens, but tokens has {lengths} entries. One per "
            "row is needed."
        )
    for key in ("document", *others):
        if columns[key].dtype.kind not in "iu":
            raise ValueError(
                f"tokens[{key!r}] must be integers, but has dtype {columns[key].dtype}. Documents "
                "are numbered by numpy.unique(..., return_inverse=True)."
            )
        columns[key] = columns[key].astype(np.int64)
    document = columns["document"]
    if (np.diff(document) < 0).any():
        raise ValueError("tokens['document'] must be ascending: the tokens text by text.")
    if "start" in columns and "end" in columns:  # where what was read before each token ends
        start, end = columns["start"], columns["end"]
        offset = (document - document[:1]) * (max(end.max(initial=0), 0) + 1)
        before = np.maximum.accumulate(np.append(0, (end + offset)[:-1])) - offset
        first = np.append(True, np.diff(document) != 0)
        columns["behind"] = np.where(first, start, before)
    return columns


def read_after(behind, token, start, end):
    """A token so that it reads, after what ends at `behind`, as the text does.

    Tokenizers may drop the space between tokens, which is put before them here, and give
    several tokens the same characters, of which the first has them. A token that stands for no
    text keeps its name.
    """
    if end <= start:
        return token
    return " " + token if start > behind else token[behind - start :]


def shown_tokens(tokens, rows):
    """What is shown of some of the tokens that `check_tokens` returned, a list of str."""
    shown = map(str, tokens["token"][rows])
    if "behind" in tokens:
        columns = (tokens[key][rows].tolist() for key in ("behind", "start", "end"))
        shown = (
            read_after(behind, token, start, end)
            for token, behind, start, end in zip(shown, *columns, strict=True)
        )
    return [writable(token) for token in shown]


def writable(text):
    """Text without lone surrogates, which no file can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def token_table(tokens, documents):
    """Tokens as the page has them: distinct strings, and of each the string and the document.

    Parameters
    ----------
    tokens : sequence of str
    documents : list of int
    """
    names = {}  # string: place in the list of them
    ids = [names.setdefault(token, len(names)) for token in tokens]
    return {"names": list(names), "ids": ids, "document": documents}
