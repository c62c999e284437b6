"""Labels of tokens from strings, regular expressions and functions."""

import re
from collections.abc import Mapping

from sklearn.utils import Bunch

from ..._core.language.spans import as_spans, tokens_in_spans
from ..._core.language.texts import check_text_sequence


def label_tokens(texts, tokens, labels):
    """Label the tokens of texts by strings, regular expressions or functions of the text.

    A token has a label if all its non-space characters lie in spans of that label. A token of
    white space only has it if all its characters do; a token without characters never has it.

    Parameters
    ----------
    texts : sequence of str, length n_documents
        The texts.

    tokens : mapping of str to array-like of shape (n_tokens,), dtype int
        The place of each token: "document", the index of its text, and "start" and "end", the
        offsets of its first character and after its last, as the method `tokens` of an
        :class:`~skdict.feature_extraction.ActivationExtractor` returns them.

    labels : dict of str to str, re.Pattern or callable
        What each label covers: all occurrences of a string, the matches of a compiled regular
        expression by its `finditer`, or the spans (start, end) that a function of the text
        returns.

    Returns
    -------
    labels : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n_tokens, n_labels), dtype bool
            Whether the token has the label.
        target_names : list of str, length n_labels
            The labels.

    Raises
    ------
    TypeError
        If `labels` is not a dict, or an entry is not a string, pattern or function.
    ValueError
        If a string is empty, a function returns anything but spans inside the text, or the
        tokens are not those of the texts.

    See Also
    --------
    skdict.datasets.python_token_labels : Labels of Python sources.
    feature_report : Which features detect the labels.

    Examples
    --------
    >>> import re
    >>> from skdict.inspection import label_tokens
    >>> texts = ["x = 12  # twelve"]
    >>> tokens = {"document": [0, 0, 0, 0], "start": [0, 1, 3, 6], "end": [1, 3, 6, 16]}
    >>> label_tokens(texts, tokens, {"equals": "=", "digits": re.compile(r"[0-9]+")}).data
    array([[False, False],
           [ True, False],
           [False,  True],
           [False, False]])
    """
    if not isinstance(labels, Mapping) or not labels:
        raise TypeError(
            "labels must be a dict from names to strings, patterns or functions, but is "
            f"{labels!r:.80}."
        )
    texts = check_text_sequence(texts)
    finders = {name: _finder(name, what) for name, what in labels.items()}
    spans = [
        {name: _check_spans(find(text), name, i, text) for name, find in finders.items()}
        for i, text in enumerate(texts)
    ]
    names = list(finders)
    return Bunch(data=tokens_in_spans(texts, tokens, spans, names), target_names=names)


def _finder(name, what):
    """A function from a text to the spans of a label."""
    if isinstance(what, str):
        if not what:
            raise ValueError(f"labels[{name!r}] is an empty string. Give the text to look for.")
        lookahead = re.compile(f"(?=({re.escape(what)}))")  # occurrences may overlap
        return lambda text: [match.span(1) for match in lookahead.finditer(text)]
    if isinstance(what, re.Pattern):
        return lambda text: [match.span() for match in what.finditer(text)]
    if callable(what):
        return what
    raise TypeError(
        f"labels[{name!r}] must be a str, a compiled regular expression or a function of the "
        f"text, but is a {type(what).__name__}."
    )


def _check_spans(spans, name, i, text):
    try:
        spans = as_spans(list(spans))
        outside = (spans < 0).any() or (spans > len(text)).any()
        outside |= (spans[:, 0] > spans[:, 1]).any()
    except (TypeError, ValueError):
        outside = True
    if outside:
        raise ValueError(
            f"labels[{name!r}] of text {i} returned {spans!r:.80}, but pairs (start, end) of "
            f"characters between 0 and {len(text)} are needed."
        )
    return spans
