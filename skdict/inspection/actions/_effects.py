"""The effect of a feature on the next token's log-probability, measured and to first order."""

from numbers import Integral

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.utils import Bunch

from ..._core.language.evaluation import evaluation_mode
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._active import check_indices
from ..codes._directions import feature_directions
from ._ablation import Asked, Batch, cut_windows
from ._language import Language, first_rows


@validate_params(
    {"n_steps": [Interval(Integral, 1, None, closed="left")]}, prefer_skip_nested_validation=True
)
def feature_effects(pipeline, texts, features=None, *, rows=None, n_steps=1):
    """Measure the effect of features on the prediction of the next token, where they are active.

    With :math:`y` the next token, the effect measured by ablation is

    .. math:: \\log p(y \\mid x) - \\log p(y \\mid x - z_j d_j)

    in nats: the feature's part :math:`z_j d_j` is subtracted from the layer's activation
    :math:`x` at every token of the window, and the dictionary's error is kept. It is positive
    where the feature helps. The first-order approximation of the same effect is code times
    gradient,

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

    features : int or array-like of int of shape (n_selected,), default=None
        Which features; all of them by default.

    rows : list of array-like of int, length n_selected, default=None
        For each feature, the rows of the extractor's activations of `texts` at which to measure
        the effect, for instance those of `top_activations`; all rows by default. Only the
        windows that contain these rows are run, so few rows cost little.

    n_steps : int, default=1
        Points at which the gradient is taken. With 1 it is taken at the activations themselves.
        With more it is averaged over :math:`x - \\tfrac{s}{n} \\sum_j z_j d_j` for
        :math:`s = 0, \\dots, n - 1`, on the way to the activations without any feature
        (integrated gradients): the first-order effects of all features then add up to the
        effect of removing all of them, as far as the steps are small.

    Returns
    -------
    effects : list of :class:`~sklearn.utils.Bunch`, length n_selected
        For each of `features`, in their order:

        rows : ndarray of shape (n_found,), int64
            The rows, ascending, on which the feature is active and which have a next token.
        codes : ndarray of shape (n_found,), float64
            The feature's code.
        ablation : ndarray of shape (n_found,), float64
            The measured effect in nats.
        first_order : ndarray of shape (n_found,), float64
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

    See Also
    --------
    logit_weights : The weights of features on all logits.

    Notes
    -----
    The texts are gone through once. What comes before the layer runs once for each window, and
    only what follows the layer runs again for each feature. Whether tokens mix after the layer is
    tried on the first window: its activations are changed at every other token. If no logits of
    the tokens between change, single tokens are run and not windows: so it is for the last MLP
    and after it. If attention follows the layer, windows are run up to the last row that is
    asked for, and both numbers include the effect of removing the feature at earlier tokens of
    the window. A model of which the part after the layer cannot be run by itself, which the
    first window tells too, is run whole. Only the predictions that are asked for go through the
    unembedding, if the model says where that is (``get_output_embeddings``).

    The runs with the feature and without it are in the same batch, so that both round alike.

    The gradient is taken in reverse: one pass back for each prediction, whatever the number of
    features. Where no attention follows the layer, one pass back is for all tokens of a batch.

    The extractor splits long texts into windows, or truncates them; truncated tokens have no
    rows.

    References
    ----------
    Bricken et al., "Towards Monosemanticity" (2023), feature ablations. First order: Syed et
    al., "Attribution Patching Outperforms Automated Circuit Discovery" (2023). Integrated
    gradients: Marks et al., "Sparse Feature Circuits" (2024).

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
    >>> (effect,) = feature_effects(pipeline, texts, 0)
    >>> effect.rows.shape == effect.ablation.shape == effect.first_order.shape
    True
    """
    language = Language(pipeline)
    features = language.checked_features(features)
    language.check_causal()
    return measured_effects(language, texts, features, rows, first_order=True, n_steps=n_steps)


def measured_effects(language, texts, features, rows=None, *, first_order=False, n_steps=1):
    """`feature_effects` of a Language whose model is known to be causal."""
    windows = language.windows(texts)
    bounds = first_rows(windows)
    asked = Asked(_checked_rows(rows, len(features), bounds[-1]), bounds[-1])
    directions = feature_directions(language.dictionary, features)
    # float32: not every device has float64
    directions = torch.from_numpy(directions.astype(np.float32)).to(language.network.device)
    windows, first_row = cut_windows(windows, bounds, asked)
    found = [(np.empty(0, np.int64),) * 2 + (np.empty(0),) * 3]
    # tensors created in inference mode cannot be differentiated
    with torch.inference_mode(False), evaluation_mode(language.model):
        for indices in language.indices_of_batches(windows) if len(windows) else ():
            batch = Batch(language, windows, first_row, indices, asked, features, directions)
            slopes = batch.first_order(n_steps) if first_order else np.full(len(batch.row), np.nan)
            found.append((batch.feature, batch.row, batch.code, batch.ablation(), slopes))
    feature, *columns = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((columns[0], feature))
    edges = np.searchsorted(feature[order], np.arange(1, len(features)))
    columns = [np.split(column[order], edges) for column in columns]
    effects = [
        Bunch(
            rows=row,
            codes=code,
            ablation=ablation,
            first_order=slope,
            agreement=_rank_correlation(ablation, slope),
        )
        for row, code, ablation, slope in zip(*columns, strict=True)
    ]
    return effects if len(features) else []


def _checked_rows(rows, n_features, n_rows):
    """The rows of each feature, ascending and distinct; None if all are asked for."""
    if rows is None:
        return None
    if len(rows) != n_features:
        raise ValueError(
            f"rows must have one array for each of {n_features} features, but has {len(rows)}."
        )
    return [
        np.unique(check_indices(each, n_rows, name=f"rows[{i}]", of="rows of texts"))
        for i, each in enumerate(rows)
    ]


def _rank_correlation(a, b):
    if len(a) < 3 or np.ptp(a) == 0 or not np.ptp(b) > 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)
