"""The rows on which a feature is most active, and the text around them."""

from numbers import Integral
from typing import NamedTuple

from sklearn.utils import Bunch

from ..._core.language.texts import check_text_sequence
from ...utils._random import check_random_state
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._active import check_indices
from ..codes._gather import survey
from ..codes._nearness import Nearness
from ..codes._stream import CodedBlocks
from ..codes._tokens import token_columns


@validate_params(
    {
        "n_top": [Interval(Integral, 1, None, closed="left")],
        "n_intervals": [Interval(Integral, 0, None, closed="left")],
        "n_per_interval": [Interval(Integral, 1, None, closed="left")],
        "n_random": [Interval(Integral, 0, None, closed="left")],
        "n_near_misses": [Interval(Integral, 0, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def top_activations(
    X,
    features=None,
    *,
    dictionary=None,
    n_top=10,
    n_intervals=0,
    n_per_interval=5,
    n_random=0,
    n_near_misses=0,
    random_state=0,
):
    """Find rows that show what a feature responds to: most active, random, and near misses.

    A feature is active where its code is positive. With a `dictionary`, codes are computed in
    blocks of rows and not kept, so memory does not grow with the number of rows.

    Parameters
    ----------
    X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_components), or texts
        Codes of the activations; or the activations themselves, for single neurons. With a
        `dictionary`, activations of shape (n_samples, n_features), for instance a memory map; or
        texts (or pictures, or series), if it is a Pipeline that starts with an
        :class:`~skdict.feature_extraction.ActivationExtractor` of these.

    features : array-like of int of shape (n_selected,), default=None
        Which columns of the codes to look at; all of them by default.

    dictionary : estimator, default=None
        A fitted estimator (or Pipeline) with `transform`. Near misses also need an encoder or
        `inverse_transform`.

    n_top : int, default=10
        Maximum number of most active rows per feature.

    n_intervals : int, default=0
        Number of intervals of equal width, from 0 to the feature's greatest code. The top rows
        show only the strongest activations; the intervals show weaker ones too.

    n_per_interval : int, default=5
        Maximum number of rows sampled from each interval.

    n_random : int, default=0
        Maximum number of rows sampled from all rows on which the feature is active.

    n_near_misses : int, default=0
        Maximum number of near misses: rows on which the feature is inactive but closest to
        active. They need a `dictionary`. If its codes are made by an encoder, they are the rows
        with the greatest pre-activation; for other dictionaries, those with the greatest positive
        projection :math:`x \\cdot d_j` on the atom.

    random_state : int, RandomState instance or None, default=0
        Determines the samples. They do not depend on the block size.

    Returns
    -------
    tops : list of :class:`~sklearn.utils.Bunch`, length n_selected
        For each of `features`, in their order:

        rows : ndarray of shape (n_found,), int64
            Rows of `X` (for texts, of their tokens; for pictures and series, of their places) in
            descending order of the code; ties in ascending order of the row. ``n_found`` is less
            than `n_top` if the feature is active on fewer rows.
        activations : ndarray of shape (n_found,), float64
            The feature's code on these rows.
        intervals : list of :class:`~sklearn.utils.Bunch`, length `n_intervals`
            `rows` and `activations` of each interval, the lowest first.
        random : :class:`~sklearn.utils.Bunch`
            `rows` and `activations`.
        near_misses : :class:`~sklearn.utils.Bunch`
            `rows`, and their encoder pre-activations in `pre_activations` or their
            :math:`x \\cdot d_j` in `projections`, in descending order.

    Raises
    ------
    ValueError
        If `X` is not a matrix or contains NaN or infinity in these columns, if a feature is out of
        range, or if near misses are requested without a dictionary.

    See Also
    --------
    context_snippets : The text around the rows.
    feature_statistics : Density, greatest value and histogram of every feature.

    Examples
    --------
    >>> from skdict.inspection import top_activations
    >>> codes = [[0.0, 2.0], [0.5, 0.0], [0.0, 3.0], [0.0, 1.0]]
    >>> for top in top_activations(codes, [1, 0], n_top=2):
    ...     print(top.rows, top.activations)
    [2 0] [3. 2.]
    [1] [0.5]
    """
    blocks = CodedBlocks(X, dictionary)
    columns = blocks.columns(features)
    nearness = None
    if n_near_misses:
        if dictionary is None:
            raise ValueError(
                "n_near_misses needs a dictionary, and activations as X: from codes of 0 one "
                "cannot tell which rows are close to active."
            )
        nearness = Nearness(blocks.dictionary, columns)
    name = "projections" if nearness is None else nearness.name
    found = survey(
        blocks,
        columns,
        n_top=n_top,
        n_intervals=n_intervals,
        n_per_interval=n_per_interval,
        n_random=n_random,
        nearness=nearness,
        n_near_misses=n_near_misses,
        seed=check_random_state(random_state).randint(2**31),
    )
    return [
        Bunch(
            **_activations(found["top"][i]),
            intervals=[
                _activations(of_interval)
                for of_interval in found["intervals"][i * n_intervals : (i + 1) * n_intervals]
            ],
            random=_activations(found["random"][i]),
            near_misses=Bunch(
                rows=found["near_misses"][i][0], **{name: found["near_misses"][i][1]}
            ),
        )
        for i in range(len(columns))
    ]


def _activations(entries):
    rows, activations = entries
    return Bunch(rows=rows, activations=activations)


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
        n_rows under "document", "token", "start" and "end".

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
    tokens = token_columns(tokens, ("document", "token", "start", "end"))
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
                str(tokens["token"][row]),
                text[end : end + after],
            )
        )
    return snippets
