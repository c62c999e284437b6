"""Check lists of texts, and divide them into portions."""

from collections.abc import Sequence

import numpy as np

# Characters of the texts in a portion, about 40,000 tokens of source code. The activations of one
# portion are in memory at a time.
CHARACTERS_AT_ONCE = 1 << 17

_MOST_NAMED = 100  # entries that an error names


def check_texts(X, name="X", *, may_be_empty=False):
    """Return the texts as a list of non-empty strings.

    Parameters
    ----------
    X : list, tuple or other sequence, one-dimensional ndarray, or pandas or polars Series of str

    name : str, default="X"
        Its name in messages.

    may_be_empty : bool, default=False
        Whether empty strings are left to `refuse_texts`, which the caller calls for all texts
        without tokens.

    Returns
    -------
    texts : list of str

    Raises
    ------
    ValueError, TypeError
        If `X` is anything else or empty, or if an entry is not a text.
    """
    if isinstance(X, str | bytes):
        raise ValueError(
            f"{name} must be a list of texts, but it is a single {type(X).__name__} of length "
            f"{len(X)}. Wrap it in a list: [{name}]."
        )
    if isinstance(X, Sequence):
        texts = list(X)
    elif len(getattr(X, "shape", (0,))) != 1:
        raise ValueError(
            f"{name} must be a one-dimensional list of texts, but it is a {type(X).__name__} of "
            f"shape {tuple(X.shape)}. Pass one column of it; only an ActivationExtractor with "
            "tokenizer=None takes arrays."
        )
    elif hasattr(X, "to_list"):  # Series of pandas and polars
        texts = X.to_list()
    elif isinstance(X, np.ndarray):
        texts = X.tolist()
    else:
        raise TypeError(
            f"{name} must be a list, tuple, one-dimensional array or Series of texts, but it is a "
            f"{type(X).__name__}."
        )
    if not texts:
        raise ValueError(f"{name} is empty: found 0 texts, at least 1 is required.")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            hint = " Decode it first." if isinstance(text, bytes) else " Leave it out or fill it."
            raise TypeError(
                f"{name}[{index}] must be a str, but it is {text!r:.50} of type "
                f"{type(text).__name__}.{hint}"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{name}[{index}] is not valid Unicode: {error}. Read it with errors='replace'."
            ) from None
    if not may_be_empty:
        refuse_texts([i for i, text in enumerate(texts) if not text], texts, "is empty", name)
    return texts


def refuse_texts(indices, texts, reason, name="X"):
    """Raise a ValueError that names all texts that cannot be used, if there are any.

    Parameters
    ----------
    indices : sequence of int
        Those that cannot be used.

    texts : list of str

    reason : str
        What is wrong with each of them, as in "is empty".

    name : str, default="X"
        Name of the texts in the message.
    """
    if len(indices) == 0:
        return
    named = [f"{name}[{i}] ({texts[i]!r:.30})" for i in indices[:_MOST_NAMED]]
    if len(indices) > _MOST_NAMED:
        named.append(f"and {len(indices) - _MOST_NAMED} more")
    one = len(indices) == 1
    raise ValueError(
        f"{name} has {len(indices)} {'text that' if one else 'texts of which each'} {reason}: "
        f"{', '.join(named)}. Leave {'it' if one else 'them'} out."
    )


def text_portions(texts):
    """Yield (start, stop) of portions of texts, of up to `CHARACTERS_AT_ONCE` or one text."""
    start, n_characters = 0, 0
    for index, text in enumerate(texts):
        if index > start and n_characters + len(text) > CHARACTERS_AT_ONCE:
            yield start, index
            start, n_characters = index, 0
        n_characters += len(text)
    yield start, len(texts)


def check_text_sequence(texts):
    """Return the texts as a list of strings, which may be empty; raise a TypeError otherwise."""
    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of str, got a single str. Pass [text].")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must hold str only, got {type(text).__name__} at index {i}.")
    return texts
