"""The loss of a language model whose activations are replaced by reconstructions."""

from collections.abc import Mapping
from functools import partial
from numbers import Integral

import torch
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import Bunch

from .._core.language.evaluation import evaluation_mode
from .._core.language.interventions import edit_rows
from .._core.language.next_token import (
    counted_predictions,
    kl_divergences,
    log_probabilities,
    next_token_logits,
    sees_later_tokens,
)
from .._core.language.site import check_at_tokens
from .._core.language.texts import check_texts
from .._core.language.windows import batches_by_length, tokenize
from ..utils._extractors import extractor_of
from ..utils._sklearn_compat import HasMethods, Interval, StrOptions, validate_params
from ..utils._warnings import warn
from ._in_model import reconstruction_function
from ._place import PLACES, at_site


@validate_params(
    {
        "model": PLACES,
        "tokenizer": [HasMethods(["__call__", "convert_tokens_to_ids"]), None],
        "side": [StrOptions({"input", "output"}), None],
        "call": [Integral, None],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def loss_recovered(
    model,
    layer=None,
    dictionary=None,
    texts=None,
    *,
    tokenizer=None,
    side=None,
    call=None,
    max_length=None,
    batch_size=16,
):
    """Cross-entropy of the dictionary model, against the model's own and two ablations.

    The dictionary model is the language model with the activations of one layer replaced by
    their reconstruction. With :math:`L` its cross-entropy, :math:`L_\\mathrm{clean}` that of
    the model itself and :math:`L_\\mathrm{ablated}` that of the model with these activations
    replaced by zero, or by their mean, the loss recovered is

    .. math::
        \\frac{L_\\mathrm{ablated} - L}{L_\\mathrm{ablated} - L_\\mathrm{clean}}

    which is 1 if nothing is lost, and 0 if the reconstruction is as bad as the ablation. An
    ablation that breaks the model flatters: a large loss looks small beside it. Often that is
    zero ablation, but mean ablation can be the worse one, as in the model that ships with skdict.
    Read the differences in nats as well.

    Parameters
    ----------
    model : Pipeline, Site or torch.nn.Module
        A fitted Pipeline of an :class:`~skdict.feature_extraction.ActivationExtractor` and a
        dictionary: ``loss_recovered(pipeline, texts)``. After a
        :class:`~skdict.feature_extraction.Site` with a tokenizer the dictionary follows, then the
        texts. Or a model itself. It is a causal language model, called with token ids of shape
        (n_sequences, length) and, if its ``forward`` takes one, an ``attention_mask``; returns
        logits of shape (n_sequences, length, vocabulary), as a tensor or as the attribute
        ``logits``. It is run in evaluation mode on the device where it is, and left as it was.

    layer : str, default=None
        Dotted path of the layer whose activations, of shape (n_sequences, length,
        n_features), are replaced, or a name, see :class:`~skdict.feature_extraction.Site`.

    dictionary : estimator, callable, or dict of these, default=None
        A fitted estimator (or Pipeline) with `transform` and `inverse_transform`, or a function
        that returns the reconstruction. A function is given activations of shape (n_tokens,
        n_features), a tensor of dtype float32 (float64 if the model's are). A dictionary of
        skdict computes in torch on the model's device, others with NumPy. Of a Pipeline that
        starts with an :class:`~skdict.feature_extraction.ActivationExtractor` of this layer, the
        steps after it are taken. With several dictionaries, under any names, the forward passes
        that do not depend on them are made once.

    texts : list, ndarray or Series of str, default=None
        Non-empty texts.

    tokenizer : tokenizer of transformers, default=None
        The one that belongs to the model. It is needed with a model, as Pipeline and Site have
        their own; so have they `side` and `call`.

    side : {"output", "input"}, default=None
        Whether the output or the input of the layer is replaced. None is the output.

    call : int, default=None
        Of a layer that a forward pass calls several times, the call to replace the activations
        at: 0, 1, ... from the first, or -1, -2, ... from the last. None for the only one.

    max_length : int, default=None
        Number of tokens per window, special tokens included. By default the context length of
        the model (``model.config.max_position_embeddings``) or of the tokenizer
        (``tokenizer.model_max_length``), whichever is less.

    batch_size : int, default=16
        Windows per forward pass. For each batch there are three passes, a part of one, and one
        per dictionary. Changes the results by rounding only.

    Returns
    -------
    results : :class:`~sklearn.utils.Bunch`, or dict of these with a dict of dictionaries
        Cross-entropies and divergence in nats per predicted token.

        loss_recovered_zero : float
            Loss recovered against zero ablation, the field's usual number.
        loss_recovered_mean : float
            Loss recovered against mean ablation.
        cross_entropy_clean : float
            That of the model itself.
        cross_entropy_dictionary : float
            That of the dictionary model.
        cross_entropy_zero : float
            That with zeros as activations.
        cross_entropy_mean : float
            That with the mean activation of the replaced tokens at each of them.
        delta_cross_entropy : float
            ``cross_entropy_dictionary - cross_entropy_clean``.
        kl_divergence : float
            Of the dictionary model's next-token distribution from the model's,
            :math:`\\mathrm{KL}(p_\\mathrm{clean} \\Vert p)`.
        n_replaced : int
            Number of tokens whose activations were replaced.
        n_predictions : int
            Number of next-token predictions over which the means are taken.

    Raises
    ------
    TypeError
        If the model returns no logits, `dictionary` is not a dictionary, an entry of `texts` is
        not a str, or what is needed after `model` is missing.
    ValueError
        If there is no such layer or call, its activations or the reconstructions have another
        shape, a text is empty, none has two tokens to predict one from the other, the model is
        not causal, or the extractor of a Pipeline reads at another place.

    Notes
    -----
    A text longer than the context is cut into windows that do not overlap. Each has the special
    tokens that the tokenizer adds to a text. All other tokens, the unknown token among them, are
    the content. The activations at content tokens are replaced; special tokens and padding keep
    theirs. A prediction counts if it is made at a content token and the next token is content
    too. Windows without such a prediction are not run.

    A loss recovered is nan, with an `UndefinedMetricWarning`, if the ablation changes nothing,
    and says little if the ablation changes little.

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

    Several at once:

    >>> results = loss_recovered(
    ...     language.model,
    ...     "transformer.h.0.mlp.act",
    ...     {"perfect": lambda X: X, "empty": lambda X: 0 * X},
    ...     ["import numpy as np", "for i in range(10):"],
    ...     tokenizer=language.tokenizer,
    ... )
    >>> results["perfect"].loss_recovered_zero, results["empty"].loss_recovered_zero
    (1.0, 0.0)
    """
    given = {"layer": layer, "dictionary": dictionary, "texts": texts}
    site, (dictionary, texts) = at_site(
        "loss_recovered", model, given, tokenizer=tokenizer, side=side, call=call
    )
    if site.tokenizer is None:
        raise TypeError("loss_recovered needs the model's tokenizer: give tokenizer=.")
    dictionaries = dictionary if isinstance(dictionary, Mapping) else {None: dictionary}
    reconstructions = {
        name: reconstruction_function(_after_extractor(each, site))
        for name, each in dictionaries.items()
    }
    network = site.network
    texts = check_texts(texts, name="texts")
    windows = tokenize(texts, site.tokenizer, network, max_length=max_length)
    if sees_later_tokens(network, site.tokenizer):
        raise ValueError(
            "model must be a causal language model, but what a "
            f"{type(site.model).__name__} predicts depends on later tokens. Its loss on the next "
            "token would mean nothing."
        )
    batches = list(
        batches_by_length(
            _windows_with_predictions(windows),
            windows.lengths,
            batch_size,
            padding=network.takes_attention_mask,
        )
    )
    passes = partial(windows.passes, network, batches)
    with evaluation_mode(site.model), torch.no_grad():
        totals = _measure(site, passes, reconstructions)
    results = _results(totals, dictionaries)
    return results if isinstance(dictionary, Mapping) else results[None]


def _after_extractor(dictionary, site):
    """The steps of a Pipeline after its extractor, which must read at this site."""
    extractor = extractor_of(dictionary)
    if extractor is None:
        return dictionary
    place = {"layer": site.layer, "side": site.side, "call": site.call}
    of_extractor = {name: getattr(extractor.site(), name) for name in place}
    if of_extractor != place:
        theirs, here = (
            ", ".join(f"{name}={value!r}" for name, value in each.items())
            for each in (of_extractor, place)
        )
        raise ValueError(
            f"dictionary is a Pipeline whose extractor reads at {theirs}, but its reconstructions "
            f"would be put at {here}. Give the place of the extractor."
        )
    return dictionary[1:]


def _measure(site, passes, reconstructions):
    """Sums over all predictions, in nats.

    Returns
    -------
    totals : Bunch
        cross_entropy : dict
            Keys are "clean", "zero", "mean" and ("dictionary", name).
        kl_divergence : dict
            Of each name.
        n_replaced, n_predictions : int
    """
    mean = _mean_activation(site, passes())
    replacements = {
        "zero": torch.zeros_like,
        "mean": lambda activations: mean.to(activations).expand_as(activations),
        **{("dictionary", name): function for name, function in reconstructions.items()},
    }
    totals = Bunch(
        cross_entropy=dict.fromkeys(["clean", *replacements], 0.0),
        kl_divergence=dict.fromkeys(reconstructions, 0.0),
        n_replaced=0,
        n_predictions=0,
    )
    for _, forward, ids, content in passes():
        counted = counted_predictions(content)
        totals.n_replaced += int(content.sum())
        totals.n_predictions += int(counted.sum())
        clean = next_token_logits(forward(), ids)
        totals.cross_entropy["clean"] += _cross_entropy(clean, ids, counted)
        for variant, function in replacements.items():
            logits = _replaced_logits(site, forward, ids, content, function)
            totals.cross_entropy[variant] += _cross_entropy(logits, ids, counted)
            if variant not in ("zero", "mean"):
                _, name = variant
                totals.kl_divergence[name] += _sum(kl_divergences(clean, logits, counted))
    return totals


def _results(totals, names):
    """What is returned of each dictionary."""
    ce = {name: total / totals.n_predictions for name, total in totals.cross_entropy.items()}
    lost_zero, lost_mean = _lost(ce, "zero"), _lost(ce, "mean")
    results = {}
    for name in names:
        ce_dictionary = ce["dictionary", name]
        results[name] = Bunch(
            loss_recovered_zero=(ce["zero"] - ce_dictionary) / lost_zero,
            loss_recovered_mean=(ce["mean"] - ce_dictionary) / lost_mean,
            cross_entropy_clean=ce["clean"],
            cross_entropy_dictionary=ce_dictionary,
            cross_entropy_zero=ce["zero"],
            cross_entropy_mean=ce["mean"],
            delta_cross_entropy=ce_dictionary - ce["clean"],
            kl_divergence=totals.kl_divergence[name] / totals.n_predictions,
            n_replaced=totals.n_replaced,
            n_predictions=totals.n_predictions,
        )
    return results


def _windows_with_predictions(windows):
    """Indices of the windows with two successive content tokens."""
    indices = [i for i, kept in enumerate(windows.kept) if (kept[:-1] & kept[1:]).any()]
    if not indices:
        raise ValueError(
            f"texts has no prediction to count: of {len(windows)} windows, the longest of "
            f"{windows.lengths.max()} tokens, none has two successive tokens that are not "
            "special tokens. Give longer texts, or a greater max_length."
        )
    return indices


def _mean_activation(site, passes):
    """Mean activation at the content tokens, float64 of shape (n_features,)."""
    total, n_tokens = 0.0, 0
    for _, forward, _, content in passes:
        activations = site.activation(forward)
        check_at_tokens(activations, content.shape, site.layer)
        at_content = activations[content]  # (n_tokens, n_features)
        total = total + at_content.sum(dim=0, dtype=torch.float64)
        n_tokens += len(at_content)
    return total / n_tokens


def _replaced_logits(site, forward, ids, content, function):
    """Logits of a forward pass with `function` of the activations at content tokens."""

    def replace(activations):
        return edit_rows(activations, content, function)

    return next_token_logits(site.run_replaced(replace, forward), ids)


def _cross_entropy(logits, ids, counted):
    """Sum over the counted predictions, in nats."""
    return -_sum(log_probabilities(logits, ids, counted))


def _sum(values):
    return values.sum(dtype=torch.float64).item()  # waits for the device


def _lost(ce, ablation):
    """Increase of the cross-entropy by the ablation; nan if there is none."""
    if ce[ablation] == ce["clean"]:
        warn(
            f"Loss recovered is undefined (nan): {ablation} ablation changes nothing.",
            UndefinedMetricWarning,
        )
        return float("nan")
    return ce[ablation] - ce["clean"]
