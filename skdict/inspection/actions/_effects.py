"""The effect of a feature on the next token's log-probability, measured and to first order."""

from functools import partial

import numpy as np
import torch
from scipy.sparse import csc_array
from scipy.stats import spearmanr
from sklearn.utils import Bunch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..._core.language.evaluation import evaluation_mode
from ..._core.language.hooks import read_activation
from ..._core.language.next_token import (
    counted_predictions,
    log_probabilities,
    next_token_logits,
)
from ..._core.language.windows import TokenWindows
from ...metrics._rows import as_rows, to_numpy
from ...utils._warnings import warn
from ..codes._active import check_indices
from ..codes._directions import feature_directions
from ..codes._stream import nonzero_entries
from ._language import Language, first_rows
from ._logits import lacks_forward_derivative


def feature_effects(pipeline, texts, features, *, rows=None):
    """Measure the effect of features on the prediction of the next token, where they are active.

    With :math:`y` the next token, the effect measured by ablation is

    .. math:: \\log p(y \\mid x) - \\log p(y \\mid x - z_j d_j)

    in nats: the feature's part :math:`z_j d_j` is subtracted from the layer's activation
    :math:`x` at every token of the window, and the dictionary's error is kept. It is positive
    where the feature helps. The first-order approximation of the same effect is the attribution

    .. math:: \\sum_{t} z_{tj} \\, \\nabla_{x_t} \\log p(y \\mid x) \\cdot d_j

    over the tokens :math:`t` of the window up to the one at which :math:`y` is predicted; if no
    attention follows the layer, only that token contributes. Where both rank the tokens alike,
    the feature acts directly: its effect is proportional to its code.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; an :class:`~skdict.feature_extraction.ActivationExtractor` on a causal language
        model, then a dictionary with `inverse_transform`.

    texts : list, ndarray or Series of str
        Documents.

    features : array-like of int of shape (n_selected,)
        Which features.

    rows : list of array-like of int, length n_selected, default=None
        For each feature, the rows of the extractor's activations of `texts` at which to measure
        the effect, for instance those of `top_activations`; all rows by default. Only the
        windows that contain these rows are run, so few rows cost little.

    Returns
    -------
    effects : list of :class:`~sklearn.utils.Bunch`, length n_selected
        For each of `features`, in their order:

        rows : ndarray of shape (n_found,), int64
            The rows, ascending, on which the feature is active and which have a next token.
        activations : ndarray of shape (n_found,), float64
            The feature's code.
        ablation : ndarray of shape (n_found,), float64
            The measured effect in nats.
        attribution : ndarray of shape (n_found,), float64
            The first-order effect in nats.
        agreement : float
            Spearman's rank correlation of the two; nan for fewer than three rows.

    Raises
    ------
    TypeError
        If `pipeline` is not a Pipeline of these two steps.
    ValueError
        If the model is not causal or has no logits, the layer does not influence them, or a
        feature or row is out of range.

    Warns
    -----
    UserWarning
        If an operation of the model has no forward-mode derivative; the attribution is then nan.

    See Also
    --------
    logit_attribution : The first-order effect of features on all logits.

    Notes
    -----
    Codes are kept only for windows that contain requested rows, so memory grows with `rows`, not
    with `texts`.

    If attention follows the layer, both numbers include the effect of removing the feature at
    earlier tokens of the window.

    Each batch is run with the feature and without it, so that both runs round alike. The
    attribution is a forward-mode derivative, taken in a third run. Fused attention and experts
    may not support forward mode.

    The extractor splits long texts into windows, or truncates them; truncated tokens have no
    rows.

    References
    ----------
    Bricken et al., "Towards Monosemanticity" (2023), feature ablations. Attribution: Syed et
    al., "Attribution Patching Outperforms Automated Circuit Discovery" (2023).

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.feature_extraction import ActivationExtractor
    >>> from skdict.inspection import feature_effects
    >>> extractor = ActivationExtractor(
    ...     load_one_layer_transformer().path, "transformer.h.0.mlp.act"
    ... )
    >>> texts = ["import numpy as np", "for i in range(10):"]
    >>> pipeline = make_pipeline(extractor, PCA(2)).fit(texts)
    >>> (effect,) = feature_effects(pipeline, texts, [0])
    >>> effect.rows.shape == effect.ablation.shape == effect.attribution.shape
    True
    """
    language = Language(pipeline)
    of = "features of the dictionary"
    features = check_indices(features, language.n_components, name="features", of=of)
    language.check_causal()
    return measured_effects(language, texts, features, rows)


def measured_effects(language, texts, features, rows=None, *, attribute=True):
    """`feature_effects` of a Language whose model is known to be causal."""
    windows = language.windows(texts)
    bounds = first_rows(windows)
    if rows is None:
        rows = [np.arange(bounds[-1])] * len(features)
    if len(rows) != len(features):
        raise ValueError(
            f"rows must have one array for each of {len(features)} features, but has {len(rows)}."
        )
    rows = [
        np.unique(check_indices(each, bounds[-1], name=f"rows[{i}]", of="rows of texts"))
        for i, each in enumerate(rows)
    ]
    directions = feature_directions(language.dictionary, features)
    # keep codes only for (feature, window) pairs that contain a requested row
    pairs = [(i, w) for i, each in enumerate(rows) for w in _windows_of(each, bounds)]
    wanted = np.array(pairs, dtype=np.int64).reshape(-1, 2) @ [len(windows), 1]
    # tensors created in inference mode cannot be differentiated
    with torch.inference_mode(False), evaluation_mode(language.model):
        codes, is_followed = _codes(language, windows, bounds, wanted, features)
        found = []
        for i, selected in enumerate(rows):
            active = selected[is_followed[selected]]
            found.append(active[_column(codes, i, active) > 0])
        ablations, slopes = _run_without(
            language, windows, bounds, found, codes, directions, attribute=attribute
        )
    effects = []
    for i, active in enumerate(found):
        effects.append(
            Bunch(
                rows=active,
                activations=_column(codes, i, active),
                ablation=ablations[i],
                attribution=slopes[i],
                agreement=_rank_correlation(ablations[i], slopes[i]),
            )
        )
    return effects


def _rank_correlation(a, b):
    if len(a) < 3 or np.ptp(a) == 0 or not np.ptp(b) > 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def _windows_of(rows, bounds):
    """The distinct windows that contain the rows."""
    return np.unique(np.searchsorted(bounds, rows, side="right") - 1)


def _column(matrix, i, rows):
    """Dense values of column `i` of a CSC matrix at ascending rows, float64 of (n_rows,)."""
    start, stop = matrix.indptr[i : i + 2]
    stored, values = matrix.indices[start:stop], matrix.data[start:stop]
    place = np.searchsorted(stored, rows)
    inside = place < len(stored)
    column = np.zeros(len(rows))
    hit = np.flatnonzero(inside)[stored[place[inside]] == rows[inside]]
    column[hit] = values[place[hit]]
    return column


@torch.no_grad()
def _codes(language, windows, bounds, wanted, features):
    """Codes of the features in the windows that are asked for, one batch of windows at a time.

    Parameters
    ----------
    bounds : ndarray of int64 of shape (n_windows + 1,)
        From `first_rows`.
    wanted : ndarray of int64, sorted
        Keys ``i * n_windows + w`` of the pairs of the i-th feature and window w to keep codes of.
    features : ndarray of int64 of shape (n_selected,)

    Returns
    -------
    codes : csc_array of float64 of shape (n_rows, n_selected)
        Zero outside the wanted pairs.
    is_followed : ndarray of bool of shape (n_rows,)
        Whether the next token has a row too; False in windows that no pair asks for.
    """
    is_followed = np.zeros(bounds[-1], dtype=bool)
    entries = [(np.empty(0, np.int64),) * 2 + (np.empty(0),)]  # row, feature, code
    for batch, forward, _, kept in language.batches(windows, np.unique(wanted % len(windows))):
        activations = read_activation(
            language.model, language.layer, forward, side=language.side, call=language.call or 0
        )
        rows = np.concatenate([np.arange(bounds[w], bounds[w + 1]) for w in batch])
        window = np.repeat(batch, bounds[np.add(batch, 1)] - bounds[batch])
        is_followed[rows] = counted_predictions(kept)[kept].cpu().numpy()
        codes = as_rows(language.dictionary.transform(to_numpy(activations[kept])), "codes")
        at, feature, values = nonzero_entries(codes, features)
        is_wanted = np.isin(feature * len(windows) + window[at], wanted)
        entries.append((rows[at[is_wanted]], feature[is_wanted], values[is_wanted]))
    rows, feature, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    shape = (bounds[-1], len(features))
    return csc_array((values.astype(np.float64), (rows, feature)), shape=shape), is_followed


@torch.no_grad()
def _run_without(language, windows, bounds, rows, codes, directions, *, attribute):
    """Run the model without each feature, in the windows with its rows.

    Each batch is run with the feature as well: rounding depends on the batch, and must be the
    same in both. With `attribute` a third run gives the derivative.

    Parameters
    ----------
    rows : list of ndarray of int64
        For each feature the rows to measure at, ascending; the feature is active on all of them.
    codes : csc_array of shape (n_rows, n_selected)
    directions : ndarray of shape (n_selected, n_features)

    Returns
    -------
    ablations : list of ndarray of the rows' shapes
        Log-probability of the next token with the feature, minus that without it.
    slopes : list of ndarray of the rows' shapes
        Derivative of the log-probability along the feature's part; nan without `attribute`.
    """
    pairs = [(i, w) for i, each in enumerate(rows) for w in _windows_of(each, bounds)]
    cut, places = _cut_windows(windows, bounds, rows, pairs)
    ablations, slopes = ([np.full(len(each), np.nan) for each in rows] for _ in range(2))
    for batch, forward, ids, kept in language.batches(cut):
        amount = np.zeros(kept.shape)  # the feature's code at each token, (n_pairs, length)
        counted = torch.zeros_like(kept)
        for k, pair in enumerate(batch):
            i, w = pairs[pair]
            at = np.flatnonzero(cut.kept[pair])
            amount[k, at] = _column(codes, i, bounds[w] + np.arange(len(at)))
            counted[k, places[pair][1]] = True
        part = _Part(amount, directions[[pairs[pair][0] for pair in batch]])
        run = partial(_run, language, forward, ids, counted)
        # clone: later modules may modify the activations in place
        found = [(ablations, run(torch.clone) - run(lambda x, part=part: x - part.like(x)))]
        slope = _slope(language, run, part) if attribute else None
        attribute = slope is not None
        if attribute:
            found.append((slopes, slope))
        lengths = [len(places[pair][1]) for pair in batch]
        for results, values in found:
            for pair, of_pair in zip(batch, values.split(lengths), strict=True):
                results[pairs[pair][0]][places[pair][0]] = of_pair.numpy()
    return ablations, slopes


def _cut_windows(windows, bounds, rows, pairs):
    """A window for each pair, cut off after the token that follows its last row.

    Returns
    -------
    cut : TokenWindows
    places : list of (slice, ndarray of int64)
        For each pair, which of the feature's rows are in the window, and at which positions.
    """
    document, token_ids, kept, places = [], [], [], []
    for i, w in pairs:
        here = slice(*np.searchsorted(rows[i], bounds[w : w + 2]))
        positions = np.flatnonzero(windows.kept[w])[rows[i][here] - bounds[w]]
        stop = positions[-1] + 2
        document.append(windows.document[w])
        token_ids.append(windows.token_ids[w][:stop])
        kept.append(windows.kept[w][:stop])
        places.append((here, positions))
    return TokenWindows(document, token_ids, kept, pad_id=windows.pad_id), places


class _Part:
    """What a feature adds to the activations of each run: its code times its direction.

    Parameters
    ----------
    amount : ndarray of float64 of shape (n_runs, length)
        The feature's code at each token.
    directions : ndarray of float64 of shape (n_runs, n_features)
    """

    def __init__(self, amount, directions):
        # float32: not every device has float64
        self.amount = torch.from_numpy(amount).to(torch.float32)
        self.directions = torch.from_numpy(directions).to(torch.float32)

    def like(self, activations):
        """The part, (n_runs, length, n_features); multiplied out on the activations' device."""
        amount, directions = (x.to(activations.device) for x in (self.amount, self.directions))
        return (amount[..., None] * directions[:, None]).to(activations)


def _run(language, forward, ids, counted, function):
    """Log-probabilities of the next tokens with `function` of the activations, (n_counted,)."""
    logits = next_token_logits(language.run_replaced(function, forward), ids)
    return log_probabilities(logits, ids, counted).to("cpu", torch.float64)


def _slope(language, run, part):
    """Derivative of the log-probabilities along the part; None, with a warning, if it has none."""

    def perturb(activations):
        return forward_ad.make_dual(activations, part.like(activations))

    try:
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            slope = forward_ad.unpack_dual(run(perturb)).tangent
    except (NotImplementedError, RuntimeError) as error:
        if not lacks_forward_derivative(error):
            raise
        warn(
            f"The attribution is nan: {type(language.model).__name__} has no forward-mode "
            f"derivative ({error}). Load it with plain attention and experts "
            "(attn_implementation='eager', experts_implementation='eager')."
        )
        return None
    if slope is None:
        raise ValueError(
            f"layer={language.layer!r} has no influence on the logits. Name a layer that has."
        )
    return slope
