"""What a feature does to the prediction of the token that comes next, measured and predicted."""

import numpy as np
import torch
from scipy.sparse import csc_array
from scipy.stats import spearmanr
from sklearn.utils import Bunch, gen_batches

from ..metrics._loss_recovered import next_token_logits
from ..metrics._rows import as_matrix, to_numpy
from ..utils._modules import evaluation_mode, replace_activation
from ..utils._texts import TokenWindows
from ._active import check_indices
from ._blocks import active_entries
from ._interventions import feature_directions
from ._language import Language, first_rows

# Tokens whose gradient is multiplied with all atoms at once.
ROWS_AT_ONCE = 1024


def feature_effects(pipeline, texts, features, *, rows=None):
    """Measure what features do to the prediction of the next token, where they are active.

    With :math:`y` the token that comes next, measured by ablation is

    .. math:: \\log p(y \\mid x) - \\log p(y \\mid x - z_j d_j)

    in nats, where the feature's part :math:`z_j d_j` is taken out of the layer's activation
    :math:`x` at every token of the window and what the dictionary does not explain is kept. It
    is positive where the feature helps. Beside it stands the same to first order, the
    attribution

    .. math:: z_j \\, \\nabla_x \\log p(y \\mid x) \\cdot d_j

    which one backward pass gives for all features. Where the two rank the tokens alike, the
    feature acts directly, and attribution, which is cheap, can be trusted.

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
        If `pipeline` is no such Pipeline, or the model has no logits.
    ValueError
        If the model is not causal, a feature is none of the dictionary's, or a row none of the
        activations.

    See Also
    --------
    logit_attribution : What features do to all logits, to first order.

    Notes
    -----
    What is kept of the codes is that of windows with wanted rows; the memory grows with `rows`,
    and not with `texts`.

    In a layer that attention follows, what is measured at a token includes that the feature is
    missing at earlier tokens of the window.

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
    language.check_causal()
    directions = feature_directions(language.dictionary, features)
    # of a feature, only what is in windows with wanted rows is kept
    pairs = [(i, w) for i, each in enumerate(rows) for w in _windows_of(each, bounds)]
    wanted = np.array(pairs, dtype=np.int64).reshape(-1, 2) @ [len(windows), 1]
    with evaluation_mode(language.model):
        codes, attribution, log_p = _run_clean(
            language, windows, bounds, wanted, features, directions
        )
        found = []
        for i, selected in enumerate(rows):
            active = selected[~np.isnan(log_p[selected])]
            found.append(active[_column(codes, i, active) > 0])
        ablated = _run_ablated(language, windows, bounds, found, codes, directions)
    effects = []
    for i, (active, log_p_ablated) in enumerate(zip(found, ablated, strict=True)):
        ablation = log_p[active] - log_p_ablated
        predicted = _column(attribution, i, active)
        effects.append(
            Bunch(
                rows=active,
                activations=_column(codes, i, active),
                ablation=ablation,
                attribution=predicted,
                agreement=_rank_correlation(ablation, predicted),
            )
        )
    return effects


def _rank_correlation(a, b):
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
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


def _next_tokens(ids, kept):
    """Where a kept token is followed by a kept one, and which that is; (n_windows, length)."""
    counted = torch.zeros_like(kept)
    counted[:, :-1] = kept[:, :-1] & kept[:, 1:]
    return counted, ids.roll(-1, dims=1)


def _log_probabilities(logits, counted, next_ids):
    """Log-probability of the next token at each counted position, (n_counted,)."""
    at = logits[counted]
    at = at.to(torch.promote_types(at.dtype, torch.float32))
    return at.log_softmax(dim=-1).gather(1, next_ids[counted][:, None])[:, 0]


def _run_clean(language, windows, bounds, wanted, features, directions):
    """Codes and attribution, CSC (n_rows, n_selected), and log-probabilities of next tokens.

    Of the wanted pairs of a feature and a window, which come as ascending numbers i * n_windows
    + w; elsewhere there are zeros. In windows that are in no pair, log-probabilities are nan.
    """
    log_p = np.full(bounds[-1], np.nan)
    entries = [(np.empty(0, np.int64),) * 2 + (np.empty(0),) * 2]  # row, feature, code, effect
    for batch, forward, ids, kept in language.batches(windows, np.unique(wanted % len(windows))):
        taken = []

        def take(activations, taken=taken):
            taken.append(activations.detach().requires_grad_())
            return taken[-1]

        counted, next_ids = _next_tokens(ids, kept)
        with (
            torch.enable_grad(),
            replace_activation(language.model, language.layer, take, side=language.side),
        ):
            logits = next_token_logits(forward(), ids)
            found = _log_probabilities(logits, counted, next_ids)
            (gradient,) = torch.autograd.grad(found.sum(), taken)
        rows = np.concatenate([np.arange(bounds[w], bounds[w + 1]) for w in batch])
        window = np.repeat(batch, bounds[np.add(batch, 1)] - bounds[batch])
        log_p[rows[counted[kept].cpu().numpy()]] = found.detach().double().cpu().numpy()
        codes = language.dictionary.transform(to_numpy(taken[0][kept]))
        codes = as_matrix(codes, "codes")
        at, feature, values = active_entries(codes, features)
        is_wanted = np.isin(feature * len(windows) + window[at], wanted)
        at, feature, values = at[is_wanted], feature[is_wanted], values[is_wanted]
        gradient, slopes = gradient[kept].double().cpu().numpy(), np.empty(len(at))
        for part in gen_batches(len(gradient), ROWS_AT_ONCE):
            entries_of_part = slice(*np.searchsorted(at, [part.start, part.stop]))
            i, j = at[entries_of_part] - part.start, feature[entries_of_part]
            slopes[entries_of_part] = (gradient[part] @ directions.T)[i, j]
        entries.append((rows[at], feature, values, values * slopes))
    rows, feature, values, attribution = (
        np.concatenate(parts) for parts in zip(*entries, strict=True)
    )
    shape = (bounds[-1], len(features))
    matrices = [
        csc_array((data.astype(np.float64), (rows, feature)), shape=shape)
        for data in (values, attribution)
    ]
    return *matrices, log_p


@torch.no_grad()
def _run_ablated(language, windows, bounds, rows, codes, directions):
    """Log-probabilities of next tokens without a feature, at some rows of each feature."""
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
    log_p = [np.empty(len(each)) for each in rows]
    for batch, forward, ids, kept in language.batches(cut):
        counted = torch.zeros_like(kept)
        removed = np.zeros((*kept.shape, directions.shape[1]), dtype=np.float32)
        for k, pair in enumerate(batch):
            i, w = pairs[pair]
            at = np.flatnonzero(cut.kept[pair])
            part = _column(codes, i, bounds[w] + np.arange(len(at)))
            removed[k, at] = np.outer(part, directions[i])
            counted[k, places[pair][1]] = True

        def ablate(activations, removed=removed):
            return activations - torch.from_numpy(removed).to(activations)

        with replace_activation(language.model, language.layer, ablate, side=language.side):
            logits = next_token_logits(forward(), ids)
        found = _log_probabilities(logits, counted, ids.roll(-1, dims=1))
        lengths = [len(places[pair][1]) for pair in batch]
        parts = found.double().cpu().split(lengths)
        for pair, values in zip(batch, parts, strict=True):
            log_p[pairs[pair][0]][places[pair][0]] = values.numpy()
    return log_p
