"""Spans of characters, and the tokens of a language model that lie in them."""

import numpy as np

_IS_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])  # U+3000 is the last space


def code_points(text):
    """Return the code point of each character, uint32 of shape (n_characters,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def is_space_mask(text):
    """Return which characters are white space, bool of shape (n_characters,)."""
    return _IS_SPACE[np.minimum(code_points(text), len(_IS_SPACE) - 1)]


def as_spans(spans):
    """Return pairs as an int64 array of shape (n_spans, 2)."""
    spans = np.asarray(spans).reshape(-1, 2)
    if spans.size and spans.dtype.kind not in "iu":
        raise TypeError(f"Spans must be integers, but have dtype {spans.dtype}.")
    return spans.astype(np.int64)


def inside_spans(spans, n_characters):
    """Return which characters lie in any of the spans, bool of shape (n_characters,)."""
    opened = np.bincount(spans[:, 0], minlength=n_characters + 1)
    closed = np.bincount(spans[:, 1], minlength=n_characters + 1)
    return np.cumsum(opened - closed)[:-1] > 0


def tokens_in_spans(texts, tokens, spans, labels):
    """Return which tokens lie in the spans of which label.

    A token lies in spans if all its characters do, white space not counted. A token that is
    nothing but white space does if all of it does, and a token without characters never does.

    Parameters
    ----------
    texts : list of str

    tokens : mapping of str to array-like of shape (n_tokens,)
        "document", "start" and "end" of each.

    spans : list of dict of str to ndarray of shape (n_spans, 2)
        For each text and label, the first character of a span and the one after its last.

    labels : list of str

    Returns
    -------
    data : ndarray of shape (n_tokens, n_labels), dtype bool

    Raises
    ------
    ValueError
        If the tokens do not belong to the texts.
    """
    document, start, end = _check_tokens(texts, tokens)
    data = np.zeros((len(document), len(labels)), dtype=bool)
    by_document = np.argsort(document, kind="stable")
    bounds = np.searchsorted(document[by_document], np.arange(len(texts) + 1))
    for i, text in enumerate(texts):
        rows = by_document[bounds[i] : bounds[i + 1]]
        data[rows] = _of_text(text, spans[i], start[rows], end[rows], labels)
    return data


def _of_text(text, spans, start, end, labels):
    """Return the boolean matrix (n_tokens, n_labels) of the tokens of one text."""

    def count(mask):  # how many characters of each token are in the mask
        below = np.append(0, np.cumsum(mask))
        return below[end] - below[start]

    is_visible = ~is_space_mask(text)
    n_visible, n_characters = count(is_visible), end - start
    is_blank = (n_visible == 0) & (n_characters > 0)
    result = np.zeros((len(start), len(labels)), dtype=bool)
    for j, label in enumerate(labels):
        if len(spans[label]):
            inside = inside_spans(spans[label], len(text))
            result[:, j] = (n_visible > 0) & (count(inside & is_visible) == n_visible)
            result[:, j] |= is_blank & (count(inside) == n_characters)
    return result


def _check_tokens(texts, tokens):
    """Return document, start and end of each token as int64; raise if one is out of range."""
    columns = []
    for key in ("document", "start", "end"):
        try:
            column = np.asarray(tokens[key])
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"tokens has no entry {key!r}. It must map 'document', 'start' and 'end' to "
                "arrays of shape (n_tokens,), as ActivationExtractor.tokens(texts) does."
            ) from error
        if column.ndim != 1 or (column.size and not np.issubdtype(column.dtype, np.integer)):
            raise ValueError(
                f"tokens[{key!r}] must be a 1-D array of integers, got shape {column.shape} and "
                f"dtype {column.dtype}."
            )
        columns.append(column.astype(np.int64))
    document, start, end = columns
    if not len(document) == len(start) == len(end):
        raise ValueError(
            "tokens['document'], ['start'] and ['end'] must have one length, got "
            f"{len(document)}, {len(start)} and {len(end)}."
        )
    outside = (document < 0) | (document >= len(texts))
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(
            f"tokens['document'][{i}] is {document[i]}, but there are {len(texts)} texts. Pass "
            "the texts that the tokens were taken from."
        )
    length = np.array([len(text) for text in texts], dtype=np.int64)[document]
    outside = (start < 0) | (start > end) | (end > length)
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(
            f"Token {i} covers the characters {start[i]} to {end[i]} of document {document[i]}, "
            f"which has {length[i]}. Pass the texts that the tokens were taken from."
        )
    return document, start, end
