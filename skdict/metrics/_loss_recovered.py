"""What a language model loses when a layer's activations are replaced by reconstructions."""

import inspect
import sys
import warnings
from functools import partial
from numbers import Integral

import numpy as np
import torch
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import Bunch, gen_batches
from torch.nn import functional

from ..utils._modules import evaluation_mode, read_activation, replace_activation
from ..utils._sklearn_compat import Interval, StrOptions, validate_params
from ._coding import coding_blocks

# Logits at a time, in the cross-entropy: 4 MB in float32, which a cache holds.
LOGITS_BLOCK_SIZE = 2**20


@validate_params(
    {
        "model": [torch.nn.Module],
        "layer": [str],
        "tokenizer": [callable],
        "side": [StrOptions({"input", "output"})],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def loss_recovered(
    model, layer, dictionary, texts, *, tokenizer, side="output", max_length=None, batch_size=16
):
    """Cross-entropy of the dictionary model, against the model's own and two ablations.

    The dictionary model is the language model with the activations of one layer replaced by
    their reconstruction. With :math:`L` its cross-entropy, :math:`L_\\mathrm{clean}` that of
    the model itself and :math:`L_\\mathrm{ablated}` that of the model with these activations
    replaced by zero, or by their mean, the loss recovered is

    .. math::
        \\frac{L_\\mathrm{ablated} - L}{L_\\mathrm{ablated} - L_\\mathrm{clean}}

    that is 1 if nothing is lost, 0 if the reconstruction is worth no more than the ablation.
    Zero ablation flatters: where it breaks the model, a large loss looks small next to it. Read
    the differences in nats as well.

    Parameters
    ----------
    model : torch.nn.Module
        Causal language model, called with token ids of shape (n_sequences, length) and, if its
        ``forward`` takes one, an ``attention_mask``; returns logits of shape (n_sequences,
        length, vocabulary), as a tensor or as the attribute ``logits``. It is run in evaluation
        mode on the device where it is, and left as it was.

    layer : str
        Dotted path of the layer whose activations, of shape (n_sequences, length,
        n_features), are replaced.

    dictionary : estimator or callable
        A fitted estimator (or Pipeline) with `transform` and `inverse_transform`, or a function
        that returns the reconstruction. Given activations of shape (n_tokens, n_features), an
        ndarray of dtype float32 (float64 if the model's are).

    texts : array-like of str
        Documents.

    tokenizer : callable
        Tokenizer of the model, with the calling convention of Hugging Face's.

    side : {"output", "input"}, default="output"
        Whether what the layer returns or what it is given is replaced.

    max_length : int, default=None
        Number of tokens per window, special tokens included. By default the context length of
        the model (``model.config.max_position_embeddings``) or of the tokenizer
        (``tokenizer.model_max_length``), whichever is less.

    batch_size : int, default=16
        Windows per forward pass. There are four and a part of one per batch. Changes the
        results by rounding only.

    Returns
    -------
    results : :class:`~sklearn.utils.Bunch`
        Cross-entropies and divergence in nats per predicted token.

        loss_recovered_zero : float
            Loss recovered against zero ablation, the field's usual number.
        loss_recovered_mean : float
            Loss recovered against mean ablation.
        cross_entropy_clean : float
            Of the model itself.
        cross_entropy_dictionary : float
            Of the dictionary model.
        cross_entropy_zero : float
            With zeros as activations.
        cross_entropy_mean : float
            With the mean activation, over the replaced tokens of `texts`, at each of them.
        delta_cross_entropy : float
            ``cross_entropy_dictionary - cross_entropy_clean``.
        kl_divergence : float
            Of the dictionary model's next-token distribution from the model's,
            :math:`\\mathrm{KL}(p_\\mathrm{clean} \\Vert p)`.
        n_replaced : int
            Number of tokens whose activations were replaced.
        n_predictions : int
            Number of next-token predictions that the means are taken over.

    Raises
    ------
    TypeError
        If the model returns no logits, or `texts` is a single string or has other entries.
    ValueError
        If there is no such layer, its activations or the reconstructions have another shape, or
        no text has two tokens to predict one from the other.

    Notes
    -----
    A text longer than the context is cut into windows that do not overlap; each is opened (and
    closed) by the special tokens that the tokenizer puts around a text. Tokens that are not
    special (the unknown token is not) are the content. Replaced are the activations at content
    tokens; special tokens and padding keep theirs. Counted is the prediction of a content token
    at the content token before it: predictions at a special token, which the replacement does
    not reach, and of one are left out. Windows with no prediction to count are left out
    altogether.

    A loss recovered is nan, with an `UndefinedMetricWarning`, if the ablation changes nothing,
    and says little if it hardly does.

    Examples
    --------
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.metrics import loss_recovered
    >>> language = load_one_layer_transformer()
    >>> results = loss_recovered(
    ...     language.model,
    ...     "transformer.h.0.mlp.act",
    ...     lambda X: X,  # a perfect dictionary
    ...     ["import numpy as np", "for i in range(10):"],
    ...     tokenizer=language.tokenizer,
    ... )
    >>> results.loss_recovered_zero, results.delta_cross_entropy
    (1.0, 0.0)
    """
    length = _window_length(model, tokenizer, max_length)
    windows = _windows(_check_texts(texts), tokenizer, length)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    forward = _forward(model)
    variants = ("clean", "dictionary", "zero", "mean")
    totals = dict.fromkeys(variants, 0.0)
    kl_divergence, n_replaced, n_predictions = 0.0, 0, 0

    with evaluation_mode(model), torch.no_grad():
        mean = _mean_activation(model, layer, side, forward, _batches(windows, batch_size, device))
        replacements = {
            "dictionary": lambda activations: _reconstruct(dictionary, activations),
            "zero": torch.zeros_like,
            "mean": lambda activations: mean.to(activations).expand_as(activations),
        }
        for ids, attended, content in _batches(windows, batch_size, device):
            # A prediction is counted where this token and the next are content.
            next_ids = ids.roll(-1, dims=1)
            counted = functional.pad(content[:, :-1] & content[:, 1:], (0, 1))
            n_replaced += int(content.sum())
            n_predictions += int(counted.sum())
            clean = _logits(forward(ids, attended), ids)
            totals["clean"] += _cross_entropy(clean, next_ids, counted)
            for variant, function in replacements.items():
                at_content = _at_content(function, content, layer)
                with replace_activation(model, layer, at_content, side=side):
                    logits = _logits(forward(ids, attended), ids)
                totals[variant] += _cross_entropy(logits, next_ids, counted)
                if variant == "dictionary":
                    kl_divergence += _kl_divergence(clean, logits, counted)

    ce = {variant: total / n_predictions for variant, total in totals.items()}
    return Bunch(
        loss_recovered_zero=_recovered(ce, "zero"),
        loss_recovered_mean=_recovered(ce, "mean"),
        **{f"cross_entropy_{variant}": ce[variant] for variant in variants},
        delta_cross_entropy=ce["dictionary"] - ce["clean"],
        kl_divergence=kl_divergence / n_predictions,
        n_replaced=n_replaced,
        n_predictions=n_predictions,
    )


def _check_texts(texts):
    if isinstance(texts, str):
        raise TypeError("texts must be a list of strings, but is a single string. Use [text].")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must be strings, but texts[{i}] is a {type(text).__name__}.")
    if not texts:
        raise ValueError("texts is empty. Give at least one text.")
    return texts


def _window_length(model, tokenizer, max_length):
    context = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if max_length is None:
        return min(context or sys.maxsize, getattr(tokenizer, "model_max_length", sys.maxsize))
    if context is not None and max_length > context:
        raise ValueError(
            f"max_length={max_length} is more than the {context} tokens of the model's context."
        )
    return max_length


def _windows(texts, tokenizer, max_length):
    """Token ids, and whether each token is content, of every window with a counted prediction.

    Sorted by length, so that batches need little padding.
    """
    encoded = tokenizer(texts, return_special_tokens_mask=True, verbose=False)
    special_ids = set(getattr(tokenizer, "all_special_ids", ()))
    special_ids.discard(getattr(tokenizer, "unk_token_id", None))  # stands for text
    special_ids = np.array(sorted(special_ids), dtype=np.int64)
    windows = []
    for ids, added in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        ids, added = np.asarray(ids, dtype=np.int64), np.asarray(added, dtype=bool)
        if added.all():
            continue
        content = ~(added | np.isin(ids, special_ids))
        # What the tokenizer adds around the text goes around each of its windows.
        first, last = np.flatnonzero(~added)[[0, -1]]
        before, after = slice(0, first), slice(last + 1, None)
        n_content = max_length - (len(ids) - (last + 1 - first))
        if n_content < 2:
            raise ValueError(
                f"max_length={max_length} leaves no room for two tokens beside the special "
                f"tokens of the tokenizer. Use at least {max_length - n_content + 2}."
            )
        for start in range(first, last + 1, n_content):
            inside = slice(start, min(start + n_content, last + 1))
            window = [
                np.concatenate([array[before], array[inside], array[after]])
                for array in (ids, content)
            ]
            if (window[1][:-1] & window[1][1:]).any():
                windows.append(window)
    if not windows:
        raise ValueError(
            "texts has no prediction to count: no text has two successive tokens that are not "
            "special tokens."
        )
    return sorted(windows, key=lambda window: len(window[0]))


def _batches(windows, batch_size, device):
    """Yield token ids, attention mask and content mask, (n_sequences, length), padded right."""
    for rows in gen_batches(len(windows), batch_size):
        batch = windows[rows]
        shape = len(batch), len(batch[-1][0])
        ids = np.zeros(shape, dtype=np.int64)
        attended, content = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        for i, (window_ids, window_content) in enumerate(batch):
            ids[i, : len(window_ids)] = window_ids
            attended[i, : len(window_ids)] = 1
            content[i, : len(window_ids)] = window_content
        yield tuple(torch.from_numpy(array).to(device) for array in (ids, attended, content))


def _forward(model):
    """The model as a function of token ids and attention mask."""
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    takes_mask = takes_any or "attention_mask" in parameters
    # Keys and values are kept for generation only.
    options = {"use_cache": False} if "use_cache" in parameters else {}

    def forward(ids, attended):
        mask = {"attention_mask": attended} if takes_mask else {}
        return model(ids, **mask, **options)

    return forward


def _mean_activation(model, layer, side, forward, batches):
    """Mean activation at the content tokens, float64 of shape (n_features,)."""
    total, n_tokens = 0.0, 0
    for ids, attended, content in batches:
        activations = read_activation(model, layer, partial(forward, ids, attended), side=side)
        at_content = _content_activations(activations, content, layer)
        total = total + at_content.sum(dim=0, dtype=torch.float64)
        n_tokens += len(at_content)
    return total / n_tokens


def _content_activations(activations, content, layer):
    """The activations at content tokens, (n_tokens, n_features)."""
    if activations.ndim != 3 or activations.shape[:2] != content.shape:
        raise ValueError(
            f"The activation at layer={layer!r} must have shape (n_sequences, length, "
            f"n_features), here {(*content.shape, 'n_features')}, but has shape "
            f"{tuple(activations.shape)}."
        )
    return activations[content]


def _at_content(function, content, layer):
    """A function of (n_tokens, n_features), applied where the content is and nowhere else.

    Good for one forward pass.
    """
    called = False

    def replace(activations):
        nonlocal called
        if called:
            raise ValueError(
                f"layer={layer!r} is called more than once in a forward pass, so it has no "
                "single activation. Name a module that is called once."
            )
        called = True
        at_content = _content_activations(activations, content, layer)
        return activations.masked_scatter(content[..., None], function(at_content))

    return replace


def _reconstruct(dictionary, activations):
    """The dictionary's reconstruction of a tensor (n_tokens, n_features), as a tensor like it."""
    dtype = torch.promote_types(activations.dtype, torch.float32)  # numpy has no bfloat16
    X = activations.to("cpu", dtype).numpy()
    if hasattr(dictionary, "transform"):
        blocks = [np.asarray(block) for _, _, block in coding_blocks(dictionary, X)]
        reconstruction = np.concatenate(blocks)
    elif callable(dictionary):
        reconstruction = np.asarray(dictionary(X))
    else:
        raise TypeError(
            "dictionary must be a fitted estimator with transform and inverse_transform, or a "
            f"function, but is a {type(dictionary).__name__}."
        )
    if reconstruction.shape != X.shape:
        raise ValueError(
            f"dictionary reconstructs activations of shape {X.shape} with shape "
            f"{reconstruction.shape}. Was it fitted on the activations of another layer?"
        )
    return torch.as_tensor(reconstruction).to(activations)


def _logits(output, ids):
    logits = getattr(output, "logits", output)
    if not isinstance(logits, torch.Tensor) or logits.shape[:2] != ids.shape:
        raise TypeError(
            f"model returns a {type(output).__name__} without logits of shape (n_sequences, "
            "length, vocabulary). Give a causal language model with its language modelling head, "
            "as transformers.AutoModelForCausalLM loads it."
        )
    return logits


def _cross_entropy(logits, next_ids, counted):
    """Sum over the counted predictions, in nats."""
    total = 0.0
    for rows, block in _blocks(logits):
        losses = functional.cross_entropy(block, next_ids.flatten()[rows], reduction="none")
        total += losses[counted.flatten()[rows]].sum(dtype=torch.float64).item()
    return total


def _kl_divergence(clean, logits, counted):
    """Sum over the counted predictions of the divergence from the clean model's, in nats."""
    total = 0.0
    for (rows, p), (_, q) in zip(_blocks(clean), _blocks(logits), strict=True):
        log_p, log_q = p.log_softmax(dim=-1), q.log_softmax(dim=-1)
        divergences = log_q.sub_(log_p).mul_(log_p.exp_()).sum(dim=-1).neg_()
        total += divergences[counted.flatten()[rows]].sum(dtype=torch.float64).item()
    return total


def _blocks(logits):
    """Yield (slice, logits of these positions) over the positions of all sequences."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits = logits.flatten(0, 1)
    for rows in gen_batches(len(logits), max(1, LOGITS_BLOCK_SIZE // logits.shape[1])):
        yield rows, logits[rows].to(dtype)


def _recovered(ce, ablation):
    lost = ce[ablation] - ce["clean"]
    if lost == 0:
        warnings.warn(
            f"Loss recovered is undefined (nan): {ablation} ablation changes nothing.",
            UndefinedMetricWarning,
            stacklevel=4,
        )
        return float("nan")
    return (ce[ablation] - ce["dictionary"]) / lost
