"""The rows on which a feature is most active, and the text around them."""

from numbers import Integral
from typing import NamedTuple

import numpy as np
from sklearn.utils import Bunch

from ..metrics._rows import as_matrix
from ..utils._sklearn_compat import Interval, validate_params
from ._active import active_rows, check_indices


@validate_params(
    {"n_top": [Interval(Integral, 1, None, closed="left")]}, prefer_skip_nested_validation=True
)
def top_activations(codes, features, *, n_top=10):
    """Find the rows on which features are most active.

    A feature is active where its code is positive.

    Parameters
    ----------
    codes : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_components)
        Codes of the activations, or activations themselves, whose neurons take the place of
        features.

    features : array-like of int of shape (n_selected,)
        Which columns of `codes` to look at.

    n_top : int, default=10
        Most rows per feature.

    Returns
    -------
    tops : list of :class:`~sklearn.utils.Bunch`, length n_selected
        For each of `features`, in their order:

        rows : ndarray of shape (n_found,), int64
            Rows of `codes`, the most active first and of equally active ones the earlier
            first. ``n_found`` is less than `n_top` where fewer rows are active.
        activations : ndarray of shape (n_found,), float64
            The feature's code on each of them.

    Raises
    ------
    ValueError
        If `codes` is no matrix or contains NaN or infinity in these columns, or if a feature is
        none of its columns.

    Examples
    --------
    >>> from skdict.inspection import top_activations
    >>> codes = [[0.0, 2.0], [0.5, 0.0], [0.0, 3.0], [0.0, 1.0]]
    >>> for top in top_activations(codes, [1, 0], n_top=2):
    ...     print(top.rows, top.activations)
    [2 0] [3. 2.]
    [1] [0.5]
    """
    codes = as_matrix(codes, "codes")
    features = check_indices(features, codes.shape[1], name="features", of="columns of codes")
    tops = []
    for rows, values in active_rows(codes, features):
        if len(values) > n_top:  # all that reach the last place, then sort these few
            reached = values >= np.partition(values, -n_top)[-n_top]
            rows, values = rows[reached], values[reached]
        order = np.argsort(-values, kind="stable")[:n_top]
        tops.append(Bunch(rows=rows[order].astype(np.int64), activations=values[order]))
    return tops


class Snippet(NamedTuple):
    """A token in its context.

    Parameters
    ----------
    before : str
        The text before the token.
    token : str
        The token's text.
    after : str
        The text behind it.
    """

    before: str
    token: str
    after: str


@validate_params(
    {
        "before": [Interval(Integral, 0, None, closed="left")],
        "after": [Interval(Integral, 0, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def context_snippets(texts, tokens, rows, *, before=40, after=20):
    """Cut tokens out of their texts, with the characters around them.

    Parameters
    ----------
    texts : sequence of str
        The texts that the activations are of.

    tokens : mapping
        The token behind each row of the activations, as the method `tokens` of an
        :class:`~skdict.feature_extraction.ActivationExtractor` returns it: arrays of length
        n_rows under "document", "token", "start" and "end".

    rows : array-like of int of shape (n_snippets,)
        Which rows, for instance those that `top_activations` found.

    before, after : int, default=40 and 20
        Most characters of the text before and behind the token. Line breaks are kept.

    Returns
    -------
    snippets : list of Snippet
        Named tuples ``(before, token, after)``, in the order of `rows`.

    Raises
    ------
    ValueError
        If a row is none of `tokens`, or the tokens are not those of `texts`.

    Notes
    -----
    The characters before the token may reach back further than the model saw, where a long text
    was run in windows.

    Examples
    --------
    >>> from skdict.inspection import context_snippets
    >>> tokens = {
    ...     "document": [0, 0, 0],
    ...     "token": ["def", " f", "():"],
    ...     "start": [0, 3, 5],
    ...     "end": [3, 5, 8],
    ... }
    >>> context_snippets(["def f(): pass"], tokens, [1], after=5)
    [Snippet(before='def', token=' f', after='(): p')]
    """
    missing = [key for key in ("document", "token", "start", "end") if key not in tokens]
    if missing:
        raise ValueError(
            f"tokens has no {missing}. Pass what ActivationExtractor.tokens(texts) returns."
        )
    rows = check_indices(rows, len(tokens["document"]), name="rows", of="tokens")
    snippets = []
    for row in rows:
        document, start, end = (int(tokens[key][row]) for key in ("document", "start", "end"))
        if document >= len(texts) or end > len(texts[document]):
            raise ValueError(
                f"tokens puts row {row} at characters {start} to {end} of text {document}, which "
                f"is not there: texts has {len(texts)} entries. Pass the texts that the tokens "
                "were taken from."
            )
        text = texts[document]
        snippets.append(
            Snippet(
                text[max(0, start - before) : start],
                str(tokens["token"][row]),
                text[end : end + after],
            )
        )
    return snippets
