"""The rows on which a feature is most active, and the text around them."""

from numbers import Integral
from typing import NamedTuple

from sklearn.utils import Bunch

from .._core.language.texts import check_text_sequence
from ..utils._random import check_random_state
from ..utils._sklearn_compat import Interval, validate_params
from ._active import check_indices
from ._blocks import CodedBlocks
from ._collect import survey
from ._nearness import Nearness
from ._tokens import token_columns


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
    """Find rows that show what features stand for: the most active, others, and near misses.

    A feature is active where its code is positive. With a `dictionary`, codes are made in
    blocks of rows and forgotten, so the memory does not grow with the number of rows.

    Parameters
    ----------
    X : {array-like, sparse matrix, torch.Tensor} of shape (n_samples, n_components), or texts
        Codes of the activations, or neurons in the place of features. With a `dictionary`,
        activations of shape (n_samples, n_features), a memory map for instance; or texts, where
        it is a Pipeline that starts with an
        :class:`~skdict.feature_extraction.ActivationExtractor`.

    features : array-like of int of shape (n_selected,), default=None
        Which columns of the codes to look at; all of them by default.

    dictionary : estimator, default=None
        A fitted estimator (or Pipeline) with `transform`; for near misses an encoder or
        `inverse_transform` as well.

    n_top : int, default=10
        Most rows per feature.

    n_intervals : int, default=0
        Intervals of equal width, from 0 to the feature's greatest code. The top rows show a
        feature at its clearest; the intervals show what else it is active on.

    n_per_interval : int, default=5
        Most rows drawn at random in each interval.

    n_random : int, default=0
        Most rows drawn at random from all on which the feature is active.

    n_near_misses : int, default=0
        Most rows on which the feature is not active, but nearest to it. Needs a `dictionary`. If
        its codes are made by an encoder, those with the greatest pre-activation; of other
        dictionaries, those that lie furthest along the atom, with the greatest
        :math:`x \\cdot d_j` above 0.

    random_state : int, RandomState instance or None, default=0
        Decides what is drawn. The same rows are drawn however the codes are blocked.

    Returns
    -------
    tops : list of :class:`~sklearn.utils.Bunch`, length n_selected
        For each of `features`, in their order:

        rows : ndarray of shape (n_found,), int64
            Rows of `X` (for texts, of their tokens), the most active first and of equally
            active ones the earlier first. ``n_found`` is less than `n_top` where fewer rows
            are active.
        activations : ndarray of shape (n_found,), float64
            The feature's code on each of them.
        intervals : list of :class:`~sklearn.utils.Bunch`, length `n_intervals`
            `rows` and `activations` of each interval, the lowest first.
        random : :class:`~sklearn.utils.Bunch`
            `rows` and `activations`.
        near_misses : :class:`~sklearn.utils.Bunch`
            `rows`, and of each the encoder's pre-activation in `pre_activations` or
            :math:`x \\cdot d_j` in `projections`, the greatest first.

    Raises
    ------
    ValueError
        If `X` is no matrix or contains NaN or infinity in these columns, if a feature is none of
        its columns, or if near misses are asked for without a dictionary.

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
                "n_near_misses needs a dictionary, and X as activations: codes of 0 do not tell "
                "which is near to being active."
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
                f"is not there: texts has {len(texts)} entries. Pass the texts that the tokens "
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
