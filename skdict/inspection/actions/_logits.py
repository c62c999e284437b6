"""The weights of features on the logits of the next token, direct and total."""

from contextlib import ExitStack
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import Bunch, gen_batches
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..._core.language.evaluation import evaluation_mode
from ..._core.language.next_token import next_token_logits, output_embeddings
from ..._core.language.texts import check_texts
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._directions import feature_directions
from ._direct import direct_map
from ._language import Language
from ._norms import fixed_scales

# Weights in a block of features: 128 MB in float64.
N_LOGITS = 2**24


def logit_weights(pipeline, features=None, *, texts=None, path="direct"):
    """Weights of features on the logits of the next token: what they raise and lower.

    The direct weights are those of the path along the residual stream, past the attention and
    the MLPs that follow,

    .. math:: w_j = s \\, (d_j M C \\odot \\gamma) \\, U^\\top

    with the atom :math:`d_j`, the final norm's weights :math:`\\gamma` and the unembedding
    :math:`U`. :math:`C` subtracts the mean if the norm is a LayerNorm and is the identity if it
    is an RMSNorm. :math:`M` leads from the layer to the residual stream: it is the identity if
    the layer is the residual stream itself (a block, or what the final norm is given) or what
    an MLP or attention adds to it, and the MLP's last matrix if the layer is inside the MLP,
    after its non-linearity. Norms on the way (after the MLP in Gemma) count as the final one
    does. The inverse scale :math:`s` of the norms differs from token to token; without texts it
    is left out (:math:`s = 1`), as in a model with folded norms; with texts it is averaged over
    their tokens, and the weights are in logits per unit of code.

    The total weights are the mean derivative of the logits over all tokens of `texts`,

    .. math:: w_j = \\frac{1}{T} \\sum_{t=1}^{T} \\frac{\\partial \\ell_t}{\\partial x} d_j

    where the feature is added at all tokens, along all paths from the layer's activation
    :math:`x` to the logits :math:`\\ell_t`, with the scale of each norm held fixed. After the
    last attention and MLP nothing but the direct path is left, and both are the same.

    A constant added to all logits changes no probability, so each :math:`w_j` is shifted to a
    median of 0. What the model does to logits after the unembedding, such as a cap, is left out
    of the direct weights.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; an :class:`~skdict.feature_extraction.ActivationExtractor` on a causal language
        model, then a dictionary with `inverse_transform`.

    features : int or array-like of int of shape (n_selected,), default=None
        Which features; all of them by default.

    texts : list, ndarray or Series of str, default=None
        Texts to average over. One or two hundred tokens are enough for a last layer, where only
        the norm's scale varies. The total weights need them.

    path : {"direct", "total"}, default="direct"
        The direct path costs one product; for the total, the model runs once per feature, or per
        neuron of the layer if there are fewer of these.

    Returns
    -------
    weights : :class:`~sklearn.utils.Bunch`

        feature : ndarray of shape (n_selected,), int64
            The features.
        weights : ndarray of shape (n_selected, n_vocabulary), float32
            The :math:`w_j`: change of each token's logit per unit of code.
        vocabulary : ndarray of shape (n_vocabulary,), str objects
            The text of each token; for special tokens the name.

    Raises
    ------
    TypeError
        If `pipeline` is not a Pipeline of these two steps.
    ValueError
        If the model is not causal or has no logits, a feature is out of range, `texts` has only
        special tokens or is missing for the total, or there is no direct path: where a
        non-linearity follows the layer before the residual stream, as inside a gated MLP, or
        where the model does not name its unembedding (``get_output_embeddings``).

    See Also
    --------
    top_logits : The greatest and least weights alone, of any number of features.
    feature_effects : The effect of features on the prediction of the actual next token.

    Notes
    -----
    Weights are per unit of the code. Of a dictionary that normalises each row, that is a unit of
    the normalised row: multiply by the row's scale for what it does to that row's logits.

    The direct path is found by derivatives of the model with the gradient cut where a block's
    attention and MLP return, and tried: it has to be the same map at all tokens of a short text,
    and to mix none of them. Blocks are the entries of the outermost `torch.nn.ModuleList`.

    The scale is held fixed in modules of class `torch.nn.LayerNorm` and in those whose class name
    ends in "RMSNorm". Other normalisations, and those called with more than one tensor, are
    differentiated fully.

    References
    ----------
    Bricken et al., "Towards Monosemanticity" (2023), logit weights. nostalgebraist, "interpreting
    GPT: the logit lens" (2020), the direct path. Elhage et al., "A Mathematical Framework for
    Transformer Circuits" (2021), the direct path and the folded norm.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.feature_extraction import ActivationExtractor
    >>> from skdict.inspection import logit_weights
    >>> extractor = ActivationExtractor(
    ...     load_one_layer_transformer().path, "transformer.h.0.mlp.act"
    ... )
    >>> texts = ["import numpy as np", "for i in range(10):"]
    >>> pipeline = make_pipeline(extractor, PCA(2)).fit(texts)
    >>> logit_weights(pipeline).weights.shape
    (2, 4096)
    """
    language, features, texts = _checked(pipeline, features, texts, path)
    directions = feature_directions(language.dictionary, features)
    blocks = list(weight_blocks(language, directions, texts, path))
    weights = np.concatenate(blocks) if blocks else np.empty((0, 0), np.float32)
    return Bunch(
        feature=features,
        weights=weights,
        vocabulary=vocabulary(language.tokenizer, weights.shape[1]),
    )


@validate_params(
    {"n_top": [Interval(Integral, 1, None, closed="left")]}, prefer_skip_nested_validation=True
)
def top_logits(pipeline, features=None, *, n_top=10, texts=None, path="direct"):
    """Tokens whose logits features raise and lower the most.

    The weights are those of `logit_weights`. They are computed for a block of features at a time
    and not kept, so that memory does not grow with features times vocabulary.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; an :class:`~skdict.feature_extraction.ActivationExtractor` on a causal language
        model, then a dictionary with `inverse_transform`.

    features : int or array-like of int of shape (n_selected,), default=None
        Which features; all of them by default.

    n_top : int, default=10
        Tokens of each kind.

    texts : list, ndarray or Series of str, default=None
        As in `logit_weights`.

    path : {"direct", "total"}, default="direct"
        As in `logit_weights`.

    Returns
    -------
    top : :class:`~sklearn.utils.Bunch`

        feature : ndarray of shape (n_selected,), int64
            The features.
        raised, lowered : ndarray of shape (n_selected, n_top), int64
            Token ids of the greatest weights, descending, and of the least, ascending.
        raised_weights, lowered_weights : ndarray of shape (n_selected, n_top), float32
            Their weights.
        vocabulary : ndarray of shape (n_vocabulary,), str objects
            The text of each token; for special tokens the name.

    Raises
    ------
    TypeError, ValueError
        As `logit_weights`.

    See Also
    --------
    logit_weights : The weights on all tokens.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.feature_extraction import ActivationExtractor
    >>> from skdict.inspection import top_logits
    >>> extractor = ActivationExtractor(
    ...     load_one_layer_transformer().path, "transformer.h.0.mlp.act"
    ... )
    >>> texts = ["import numpy as np", "for i in range(10):"]
    >>> pipeline = make_pipeline(extractor, PCA(2)).fit(texts)
    >>> top = top_logits(pipeline, 0, n_top=3)
    >>> top.vocabulary[top.raised].shape
    (1, 3)
    """
    language, features, texts = _checked(pipeline, features, texts, path)
    directions = feature_directions(language.dictionary, features)
    found, n_vocabulary = [], 0
    for weights in weight_blocks(language, directions, texts, path):
        n_vocabulary = weights.shape[1]
        found.append(extremes(weights, n_top))
    if not found:
        found = [extremes(np.empty((0, n_top), np.float32), n_top)]
    raised, raised_weights, lowered, lowered_weights = map(
        np.concatenate, zip(*found, strict=True)
    )
    return Bunch(
        feature=features,
        raised=raised,
        raised_weights=raised_weights,
        lowered=lowered,
        lowered_weights=lowered_weights,
        vocabulary=vocabulary(language.tokenizer, n_vocabulary),
    )


def extremes(weights, n_top):
    """Greatest and least entries of each row.

    Parameters
    ----------
    weights : ndarray of float32 of shape (n_rows, n_columns)

    Returns
    -------
    greatest, their_values, least, their_values : ndarray of shape (n_rows, n_top)
        Columns and values; fewer if there are fewer columns.
    """
    rows, n_top = torch.from_numpy(weights), min(n_top, weights.shape[1])
    greatest, least = (rows.topk(n_top, dim=1, largest=largest) for largest in (True, False))
    parts = (greatest.indices, greatest.values, least.indices, least.values)
    return tuple(part.numpy() for part in parts)


def _checked(pipeline, features, texts, path):
    if path not in ("direct", "total"):
        raise ValueError(f"path must be 'direct' or 'total', but is {path!r}.")
    language = Language(pipeline)
    features = language.checked_features(features)
    if texts is None and path == "total":
        raise ValueError("path='total' is a mean over the tokens of texts. Give texts.")
    texts = None if texts is None else check_texts(texts, name="texts")
    language.check_causal()
    return language, features, texts


def weight_blocks(language, directions, texts, path):
    """Yield the weights of blocks of directions, float32 of shape (n_in_block, n_vocabulary).

    For the total with more directions than neurons, the derivatives are taken along the neurons'
    axes, and each direction is a linear combination of these.
    """
    n_directions, n_activations = directions.shape
    if n_directions == 0:
        return
    if path == "direct":
        hidden = directions @ direct_map(language, texts)
        unembedding = output_embeddings(language.model).weight.detach()
        hidden = torch.from_numpy(hidden).to(unembedding.device, torch.float32)
        unembedding = unembedding.to(torch.float32).T
        n_vocabulary = unembedding.shape[1]
    else:
        through_basis = n_directions > n_activations
        basis = np.eye(n_activations) if through_basis else directions
        derivatives = _directional_derivatives(language, texts, basis)
        n_vocabulary = derivatives.shape[1]
    for rows in gen_batches(n_directions, max(1, N_LOGITS // n_vocabulary)):
        if path == "direct":
            weights = (hidden[rows] @ unembedding).cpu().numpy()
        else:
            weights = directions[rows] @ derivatives if through_basis else derivatives[rows]
        weights = weights - np.median(weights, axis=1, keepdims=True)
        yield weights.astype(np.float32)


def lacks_forward_derivative(error):
    """Whether torch's exception means that an operation has no forward-mode derivative."""
    return any(part in str(error) for part in ("forward AD", "forward mode", "jvp"))


def vocabulary(tokenizer, n):
    """The text of each of the first `n` token ids; for special tokens the name."""
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(list(range(min(n, len(tokenizer)))))
    texts = [
        name if i in special else tokenizer.decode([i]) for i, name in enumerate(names)
    ]  # embeddings can have more rows than there are tokens
    return np.array([*texts, *(f"<{i}>" for i in range(len(texts), n))], dtype=object)


def _directional_derivatives(language, texts, directions):
    """Mean derivative of the logits along each direction, float64 of (n_directions, n_logits)."""
    windows = language.windows(texts)
    totals, n_tokens = 0.0, 0
    with ExitStack() as stack:
        # tensors created in inference mode cannot be differentiated
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(evaluation_mode(language.model))
        stack.enter_context(torch.no_grad())  # disables reverse mode only; forward mode works
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the one that supports forward mode
        stack.enter_context(fixed_scales(language.model))
        for _, forward, ids, kept in language.batches(windows):
            n_tokens += int(kept.sum())
            totals = totals + np.stack(
                [_derivative(language, forward, ids, kept, row) for row in directions]
            )
    if n_tokens == 0:
        raise ValueError("texts has only special tokens. Give longer texts.")
    return totals / n_tokens


def _derivative(language, forward, ids, kept, direction):
    """Derivative of a batch's logits along a direction, summed over kept tokens, (n_logits,)."""

    def perturb(activations):
        tangent = torch.tensor(direction, device="cpu").to(activations) * kept[..., None]
        return forward_ad.make_dual(activations, tangent)

    with forward_ad.dual_level():
        logits = next_token_logits(language.site.run_replaced(perturb, forward), ids)
        tangent = forward_ad.unpack_dual(logits).tangent
        if tangent is None:
            raise ValueError(
                f"layer={language.layer!r} has no influence on the logits. Name a layer that has."
            )
        return tangent[kept].sum(dim=0, dtype=torch.float64).cpu().numpy()
