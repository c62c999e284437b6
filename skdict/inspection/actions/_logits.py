"""The first-order effect of a feature on the logits of the next token."""

import math
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from sklearn.utils import Bunch, gen_batches
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..._core.language.evaluation import evaluation_mode
from ..._core.language.hooks import Hooks
from ..._core.language.next_token import next_token_logits
from ...metrics._rows import BLOCK_SIZE
from ..codes._active import check_indices
from ..codes._directions import feature_directions
from ._language import Language


def logit_attribution(pipeline, texts, features=None):
    """Compute the first-order effect of features on the logits of the next token.

    To first order, adding one unit of feature :math:`j` at every token changes the logits by

    .. math::
        w_j = \\frac{1}{T} \\sum_{t=1}^{T} \\frac{\\partial \\ell_t}{\\partial x} d_j

    with the logits :math:`\\ell_t` at the tokens of `texts`, the layer's activations :math:`x`
    and the feature's atom :math:`d_j`. This is the total derivative, along all paths from the
    layer to the logits, with the scale of each layer norm held fixed, as is usual: the
    contributions of a last layer's features then add up to the layer's contribution. In a
    one-layer transformer with neurons :math:`x` it is :math:`d_j W_\\mathrm{out}`, centred,
    times the final norm's weights and mean inverse scale, times the unembedding. A constant
    added to all logits changes no probability, so each :math:`w_j` is shifted to a median of 0.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; an :class:`~skdict.feature_extraction.ActivationExtractor` on a causal language
        model, then a dictionary with `inverse_transform`.

    texts : list, ndarray or Series of str
        Texts to average the derivative over. One or two hundred tokens are enough for a last
        layer, where the derivative varies only with the norm's scale.

    features : array-like of int of shape (n_selected,), default=None
        Which features; all of them by default. The cost is one pass through the model per
        feature, or per neuron of the layer if there are fewer of these.

    Returns
    -------
    attribution : :class:`~sklearn.utils.Bunch`

        feature : ndarray of shape (n_selected,), int64
            The features.
        weights : ndarray of shape (n_selected, n_vocabulary), float32
            The :math:`w_j`: change of each token's logit per unit of code.
        vocabulary : ndarray of shape (n_vocabulary,), str objects
            The text of each token; for special tokens the name.

    Raises
    ------
    TypeError
        If `pipeline` is not a Pipeline of these two steps, or the model has no logits.
    ValueError
        If the model is not causal, a feature is out of range, or `texts` has only special tokens.

    See Also
    --------
    feature_effects : The effect of features on the prediction of the actual next token.

    Notes
    -----
    The scale is held fixed in modules of class `torch.nn.LayerNorm` and in those whose class name
    ends in "RMSNorm". Other normalisations, and those called with more than one tensor, are
    differentiated fully.

    References
    ----------
    Bricken et al., "Towards Monosemanticity" (2023), logit weights.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.feature_extraction import ActivationExtractor
    >>> from skdict.inspection import logit_attribution
    >>> extractor = ActivationExtractor(
    ...     load_one_layer_transformer().path, "transformer.h.0.mlp.act"
    ... )
    >>> texts = ["import numpy as np", "for i in range(10):"]
    >>> pipeline = make_pipeline(extractor, PCA(2)).fit(texts)
    >>> logit_attribution(pipeline, texts).weights.shape
    (2, 4096)
    """
    language = Language(pipeline)
    language.check_causal()
    features = check_indices(
        np.arange(language.n_components) if features is None else features,
        language.n_components,
        name="features",
        of="features of the dictionary",
    )
    directions = feature_directions(language.dictionary, features)
    blocks = list(logit_weights(language, texts, directions))
    weights = np.concatenate(blocks) if blocks else np.empty((0, 0), np.float32)
    return Bunch(
        feature=features,
        weights=weights,
        vocabulary=vocabulary(language.tokenizer, weights.shape[1]),
    )


def logit_weights(language, texts, directions):
    """Yield the weights of blocks of directions, float32 of shape (n_in_block, n_vocabulary).

    With more directions than neurons the derivatives are taken along the neurons' axes, and
    each direction is a linear combination of these.
    """
    n_directions, n_activations = directions.shape
    if n_directions == 0:
        return
    through_basis = n_directions > n_activations
    basis = np.eye(n_activations) if through_basis else directions
    derivatives = _directional_derivatives(language, texts, basis)
    step = max(1, BLOCK_SIZE // derivatives.shape[1])
    for rows in gen_batches(n_directions, step):
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
        stack.enter_context(_fixed_scales(language.model))
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
        logits = next_token_logits(language.run_replaced(perturb, forward), ids)
        tangent = forward_ad.unpack_dual(logits).tangent
        if tangent is None:
            raise ValueError(
                f"layer={language.layer!r} has no influence on the logits. Name a layer that has."
            )
        return tangent[kept].sum(dim=0, dtype=torch.float64).cpu().numpy()


def _fixed_scales(model):
    """Hold the scale of norms fixed in forward-mode derivatives, in a ``with`` block."""

    def fix(module, args, kwargs, output):
        given = [*args, *kwargs.values()]
        x, x_tangent = forward_ad.unpack_dual(given[0])
        if x_tangent is None or len(given) > 1:
            return None
        y = forward_ad.unpack_dual(output).primal
        wide = torch.promote_types(x.dtype, torch.float32)  # x^2 can overflow in half precision
        x, x_tangent = x.to(wide), x_tangent.to(wide)
        shape = getattr(module, "normalized_shape", y.shape[-1:])
        epsilon, axes = _epsilon(module), tuple(range(-len(shape), 0))
        if isinstance(module, torch.nn.LayerNorm):
            x = x - x.mean(axes, keepdim=True)
            x_tangent = x_tangent - x_tangent.mean(axes, keepdim=True)
        gain = _gain(module, shape, y).to(wide) * (1 + epsilon) ** 0.5
        scale = (x.square().mean(axes, keepdim=True) + epsilon).rsqrt()
        return forward_ad.make_dual(y, (gain * scale * x_tangent).to(y.dtype))

    return Hooks(
        [
            partial(module.register_forward_hook, fix, with_kwargs=True)
            for module in model.modules()
            if isinstance(module, torch.nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")
        ]
    )


def _gain(module, shape, like):
    """The factor that a norm applies to normalised activations: its weight, or 1 + weight, ...

    Measured by calling the norm, without hooks, on a normalised probe and on its negative: their
    difference does not contain the bias.
    """
    width = math.prod(shape)
    probe = torch.ones(width, dtype=torch.float32, device="cpu")
    probe[1::2] = -1
    if width % 2 and width > 1:  # an odd width needs three other values for mean 0 and square 1
        probe[-3:] = 0.5**0.5 * probe.new_tensor([1.0, 1.0, -2.0])
    probe = probe.reshape(1, *shape).to(like)
    return (module.forward(probe) - module.forward(-probe))[0] / (2 * probe[0])


def _epsilon(module):
    for name in ("eps", "variance_epsilon"):
        if getattr(module, name, None) is not None:
            return getattr(module, name)
    return 0.0
