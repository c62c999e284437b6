"""What a feature does to the prediction of the token that comes next, measured and predicted."""

import numpy as np
import torch
from scipy.sparse import csc_array
from scipy.stats import spearmanr
from sklearn.utils import Bunch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._core.language.hooks import evaluation_mode, read_activation, run_replaced
from .._core.language.next_token import (
    counted_predictions,
    log_probabilities,
    next_token_logits,
)
from .._core.language.windows import TokenWindows
from ..metrics._rows import as_matrix, to_numpy
from ..utils._warnings import warn
from ._active import check_indices
from ._blocks import nonzero_entries
from ._directions import feature_directions
from ._language import Language, first_rows
from ._logits import lacks_forward_derivative


def feature_effects(pipeline, texts, features, *, rows=None):
    """Measure what features do to the prediction of the next token, where they are active.

    With :math:`y` the token that comes next, measured by ablation is

    .. math:: \\log p(y \\mid x) - \\log p(y \\mid x - z_j d_j)

    in nats, where the feature's part :math:`z_j d_j` is taken out of the layer's activation
    :math:`x` at every token of the window and what the dictionary does not explain is kept. It
    is positive where the feature helps. Beside it stands the same to first order, the
    attribution

    .. math:: \\sum_{t} z_{tj} \\, \\nabla_{x_t} \\log p(y \\mid x) \\cdot d_j

    over the tokens :math:`t` of the window up to the one at which :math:`y` is predicted; where
    no attention follows the layer, that token alone counts. Where the two rank the tokens
    alike, the feature acts directly: what it does grows in proportion to its code.

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
        For each feature, the rows of the extractor's activations of `texts` at which the
        effect is wanted, such as `top_activations` finds them; all rows by default. Only the
        windows that they are in are run again, so few rows cost little.

    Returns
    -------
    effects : list of :class:`~sklearn.utils.Bunch`, length n_selected
        For each of `features`, in their order:

        rows : ndarray of shape (n_found,), int64
            The rows, ascending, on which the feature is active and a next token is there to be
            predicted.
        activations : ndarray of shape (n_found,), float64
            The feature's code.
        ablation : ndarray of shape (n_found,), float64
            Measured, in nats.
        attribution : ndarray of shape (n_found,), float64
            To first order, in nats.
        agreement : float
            Spearman's rank correlation of the two; nan for fewer than three rows.

    Raises
    ------
    TypeError
        If `pipeline` is no such Pipeline.
    ValueError
        If the model is not causal or has no logits, the layer does not act on them, a feature
        is none of the dictionary's, or a row none of the activations.

    Warns
    -----
    UserWarning
        If an operation of the model has no forward-mode derivative: the attribution is nan.

    See Also
    --------
    logit_attribution : What features do to all logits, to first order.

    Notes
    -----
    What is kept of the codes is that of windows with wanted rows; the memory grows with `rows`,
    and not with `texts`.

    In a layer that attention follows, both include that the feature is missing at earlier
    tokens of the window.

    Each batch is run with the feature and without it, so that both are rounded alike. The
    attribution is a forward-mode derivative, taken in a third run. Fused attention and experts may
    have none.

    The extractor cuts long texts into windows or at the end; what it leaves out has no rows.

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
    # of a feature, only what is in windows with wanted rows is kept
    pairs = [(i, w) for i, each in enumerate(rows) for w in _windows_of(each, bounds)]
    wanted = np.array(pairs, dtype=np.int64).reshape(-1, 2) @ [len(windows), 1]
    # tensors made in inference mode have no derivatives
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
    """The windows that rows are in, once each."""
    return np.unique(np.searchsorted(bounds, rows, side="right") - 1)


def _column(matrix, i, rows):
    """A column of a CSC matrix at ascending rows, dense."""
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
    """Codes, CSC (n_rows, n_selected), and the rows whose next token has a row too.

    Of the wanted pairs of a feature and a window, which come as ascending numbers i * n_windows
    + w; elsewhere there are zeros and no rows.
    """
    is_followed = np.zeros(bounds[-1], dtype=bool)
    entries = [(np.empty(0, np.int64),) * 2 + (np.empty(0),)]  # row, feature, code
    for batch, forward, _, kept in language.batches(windows, np.unique(wanted % len(windows))):
        activations = read_activation(language.model, language.layer, forward, side=language.side)
        rows = np.concatenate([np.arange(bounds[w], bounds[w + 1]) for w in batch])
        window = np.repeat(batch, bounds[np.add(batch, 1)] - bounds[batch])
        is_followed[rows] = counted_predictions(kept)[kept].cpu().numpy()
        codes = as_matrix(language.dictionary.transform(to_numpy(activations[kept])), "codes")
        at, feature, values = nonzero_entries(codes, features)
        is_wanted = np.isin(feature * len(windows) + window[at], wanted)
        entries.append((rows[at[is_wanted]], feature[is_wanted], values[is_wanted]))
    rows, feature, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    shape = (bounds[-1], len(features))
    return csc_array((values.astype(np.float64), (rows, feature)), shape=shape), is_followed


@torch.no_grad()
def _run_without(language, windows, bounds, rows, codes, directions, *, attribute):
    """What becomes of the prediction of next tokens without a feature, at some rows of each.

    Each batch is run with the feature too: in another one the numbers would be rounded otherwise.

    Returns
    -------
    ablations : list of ndarray
        Log-probabilities with the feature, less those without it.
    slopes : list of ndarray
        Derivative of the log-probability along the feature's part; without `attribute` nan.
    """
    # one run for each pair of a feature and a window, up to the last token that is asked for
    pairs = [(i, w) for i, each in enumerate(rows) for w in _windows_of(each, bounds)]
    stops, places = [], []
    for i, w in pairs:
        here = slice(*np.searchsorted(rows[i], bounds[w : w + 2]))
        positions = np.flatnonzero(windows.kept[w])[rows[i][here] - bounds[w]]
        stops.append(positions[-1] + 2)  # with the token that comes next
        places.append((here, positions))
    cut = TokenWindows(
        [windows.document[w] for _, w in pairs],
        [windows.token_ids[w][:stop] for (_, w), stop in zip(pairs, stops, strict=True)],
        [windows.kept[w][:stop] for (_, w), stop in zip(pairs, stops, strict=True)],
        pad_id=windows.pad_id,
    )
    ablations, slopes = ([np.full(len(each), np.nan) for each in rows] for _ in range(2))
    for batch, forward, ids, kept in language.batches(cut):
        counted = torch.zeros_like(kept)
        part = np.zeros((*kept.shape, directions.shape[1]), dtype=np.float32)
        for k, pair in enumerate(batch):
            i, w = pairs[pair]
            at = np.flatnonzero(cut.kept[pair])
            code = _column(codes, i, bounds[w] + np.arange(len(at)))
            part[k, at] = np.outer(code, directions[i])
            counted[k, places[pair][1]] = True

        def run(function, forward=forward, ids=ids, counted=counted):
            output = run_replaced(
                language.model, language.layer, function, forward, side=language.side
            )
            logits = next_token_logits(output, ids)
            return log_probabilities(logits, ids, counted).to("cpu", torch.float64)

        def keep(activations):
            return activations.clone()  # what comes next may work in place

        def ablate(activations, part=part):
            return activations - torch.from_numpy(part).to(activations)

        def perturb(activations, part=part):
            return forward_ad.make_dual(activations, torch.from_numpy(part).to(activations))

        found = [(ablations, run(keep) - run(ablate))]
        if attribute:
            try:
                with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
                    slope = forward_ad.unpack_dual(run(perturb)).tangent
            except (NotImplementedError, RuntimeError) as error:
                if not lacks_forward_derivative(error):
                    raise
                attribute = False
                warn(
                    f"The attribution is nan: {type(language.model).__name__} has no forward-mode "
                    f"derivative ({error}). Load it with plain attention and experts "
                    "(attn_implementation='eager', experts_implementation='eager')."
                )
        if attribute:
            if slope is None:
                raise ValueError(
                    f"layer={language.layer!r} has no influence on the logits. Name a layer "
                    "that has."
                )
            found.append((slopes, slope))
        lengths = [len(places[pair][1]) for pair in batch]
        for results, values in found:
            for pair, of_pair in zip(batch, values.split(lengths), strict=True):
                results[pairs[pair][0]][places[pair][0]] = of_pair.numpy()
    return ablations, slopes
