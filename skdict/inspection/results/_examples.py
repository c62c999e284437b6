"""The rows on which a feature is most active, and the text around them."""

from numbers import Integral
from typing import NamedTuple

import numpy as np
from sklearn.utils import Bunch

from ..._core.language.texts import check_text_sequence
from ...utils._random import check_random_state
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._active import check_indices, selected
from ..codes._gather import survey
from ..codes._store import as_feature_codes, near_misses_of
from ..codes._tokens import token_columns


@validate_params(
    {
        "n_top": [Interval(Integral, 1, None, closed="left")],
        "n_intervals": [Interval(Integral, 0, None, closed="left")],
        "n_per_interval": [Interval(Integral, 1, None, closed="left")],
        "n_random": [Interval(Integral, 0, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def top_activations(
    codes,
    features=None,
    *,
    n_top=10,
    n_intervals=0,
    n_per_interval=5,
    n_random=0,
    random_state=0,
):
    """Find rows that show what a feature responds to: most active, random, and near misses.

    A feature is active where its code is positive.

    Parameters
    ----------
    codes : FeatureCodes, or {array-like, sparse matrix, torch.Tensor} of shape \
            (n_samples, n_components)
        As :func:`collect_codes` finds them, or any matrix of codes. It is read in blocks of rows.

    features : int or array-like of int of shape (n_selected,), default=None
        Which features to look at; all of them by default.

    n_top : int, default=10
        Maximum number of most active rows per feature.

    n_intervals : int, default=0
        Number of intervals of equal width, from 0 to the feature's greatest code. The top rows
        show only the strongest activations; the intervals show weaker ones too.

    n_per_interval : int, default=5
        Maximum number of rows sampled from each interval.

    n_random : int, default=0
        Maximum number of rows sampled from all rows on which the feature is active.

    random_state : int, RandomState instance or None, default=0
        Determines the samples. They do not depend on the block size.

    Returns
    -------
    tops : list of :class:`~sklearn.utils.Bunch`, length n_selected
        For each of `features`, in their order:

        rows : ndarray of shape (n_found,), int64
            Rows in descending order of the code; ties in ascending order of the row. ``n_found``
            is less than `n_top` if the feature is active on fewer rows.
        codes : ndarray of shape (n_found,), float64
            The feature's code on these rows.
        intervals : list of :class:`~sklearn.utils.Bunch`, length `n_intervals`
            `rows` and `codes` of each interval, the lowest first.
        random : :class:`~sklearn.utils.Bunch`
            `rows` and `codes`.
        near_misses : :class:`~sklearn.utils.Bunch` or None
            The `rows` on which the feature is inactive but closest to active, in descending order
            of their `pre_activations` by the encoder, or of their `projections`
            :math:`x \\cdot d_j` on the atom for dictionaries without one; as many as
            :func:`collect_codes` was asked for. None for codes that it did not find.

    Raises
    ------
    ValueError
        If `codes` is not a matrix or contains NaN or infinity, or if a feature is out of range.

    See Also
    --------
    context_snippets : The text around the rows.
    feature_statistics : Density, greatest value and histogram of every feature.

    Examples
    --------
    >>> from skdict.inspection import top_activations
    >>> codes = [[0.0, 2.0], [0.5, 0.0], [0.0, 3.0], [0.0, 1.0]]
    >>> for top in top_activations(codes, [1, 0], n_top=2):
    ...     print(top.rows, top.codes)
    [2 0] [3. 2.]
    [1] [0.5]
    """
    codes = as_feature_codes(codes)
    columns = selected(features, codes.n_components)
    once, place = np.unique(columns, return_inverse=True)
    found = survey(
        codes,
        once,
        n_top=n_top,
        n_intervals=n_intervals,
        n_per_interval=n_per_interval,
        n_random=n_random,
        seed=check_random_state(random_state).randint(2**31),
    )
    has_near = codes.near_misses is not None
    return [
        Bunch(
            **_codes(found["top"][i]),
            intervals=[
                _codes(of_interval)
                for of_interval in found["intervals"][i * n_intervals : (i + 1) * n_intervals]
            ],
            random=_codes(found["random"][i]),
            near_misses=near_misses_of(codes, feature) if has_near else None,
        )
        for i, feature in zip(place, columns, strict=True)
    ]


def _codes(entries):
    rows, codes = entries
    return Bunch(rows=rows, codes=codes)


class Snippet(NamedTuple):
    """A token in its context.

    Parameters
    ----------
    before : str
        The text before the token.
    token : str
        The token's text.
    after : str
        The text after the token.
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
    """Show tokens in their texts, with the characters around them.

    Parameters
    ----------
    texts : sequence of str
        The texts of the activations.

    tokens : mapping
        The token of each row of the activations, as the method `tokens` of an
        :class:`~skdict.feature_extraction.ActivationExtractor` returns it: arrays of length
        n_rows under "document", "start", "end", and if there is one "token", which else is what
        the text has there.

    rows : array-like of int of shape (n_snippets,)
        Which rows, for instance those that `top_activations` found.

    before, after : int, default=40 and 20
        Maximum number of characters before and after the token. Line breaks are kept.

    Returns
    -------
    snippets : list of Snippet
        Named tuples ``(before, token, after)``, in the order of `rows`.

    Raises
    ------
    ValueError
        If a row is out of range, or the tokens are not those of `texts`.

    Notes
    -----
    If a long text was run in windows, the characters before the token may reach back beyond what
    the model saw.

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
    texts = check_text_sequence(texts)
    names = ("document", "start", "end", *(["token"] if "token" in tokens else []))
    tokens = token_columns(tokens, names)
    n_tokens = min(len(column) for column in tokens.values())
    rows = check_indices(rows, n_tokens, name="rows", of="tokens")
    snippets = []
    for row in rows:
        document, start, end = (int(tokens[key][row]) for key in ("document", "start", "end"))
        text = texts[document] if 0 <= document < len(texts) else ""
        if not (0 <= document < len(texts) and 0 <= start <= end <= len(text)):
            raise ValueError(
                f"tokens puts row {row} at characters {start} to {end} of text {document}, which "
                f"do not exist: texts has {len(texts)} entries. Pass the texts that the tokens "
                "were taken from."
            )
        snippets.append(
            Snippet(
                text[max(0, start - before) : start],
                str(tokens["token"][row]) if "token" in tokens else text[start:end],
                text[end : end + after],
            )
        )
    return snippets
