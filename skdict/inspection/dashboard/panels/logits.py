"""The logits that a feature raises and lowers."""

import numpy as np

from ...actions._direct import has_direct_path
from ...actions._logits import extremes, lacks_forward_derivative, vocabulary, weight_blocks
from .._places import texts_with_rows

N_LISTED, N_BINS = 10, 40
TEXT_FOR_LOGITS = 2000  # characters that the derivative of the logits is averaged over
HINTS = {"direct": "along the direct path", "total": "along all paths"}


def gather(context):
    """The tokens whose logits rise and fall the most, and a histogram of all weights."""
    language = context.language
    if language is None:
        return {}
    context.logits_path = "direct" if has_direct_path(language) else "total"
    atoms, found = context.atoms[context.columns], []
    texts = texts_with_rows(context.tokens, context.texts)
    try:
        for weights in weight_blocks(language, atoms, _some(texts), context.logits_path):
            found.append((*extremes(weights, N_LISTED), *_histograms(weights)))
    except (NotImplementedError, RuntimeError) as error:
        if not lacks_forward_derivative(error):
            raise
        context.missing.append(f"No logits: {error}")
        return {}
    words = vocabulary(language.tokenizer, weights.shape[1])
    raised, raised_weights, lowered, lowered_weights, low, high, counts = (
        np.concatenate(each) for each in zip(*found, strict=True)
    )
    return {
        "raised": {"tokens": words[raised], "weights": raised_weights},
        "lowered": {"tokens": words[lowered], "weights": lowered_weights},
        "histogram": {"low": low, "high": high, "counts": counts},
    }


def gather_page(context):
    """Along which path the weights are."""
    if context.language is None:
        return {}
    return {"logits_hint": f"per unit of activation, {HINTS[context.logits_path]}"}


def _some(texts):
    some, size = [], 0
    for text in texts:
        some.append(text[:TEXT_FOR_LOGITS])
        size += len(some[-1])
        if size >= TEXT_FOR_LOGITS:
            break
    return some


def _histograms(weights):
    """Least and greatest weight of each row, and the counts in bins of equal width between."""
    low, high = weights.min(axis=1), weights.max(axis=1)
    width = np.where(high > low, high - low, 1)
    bins = ((weights - low[:, None]) * (N_BINS / width[:, None])).astype(np.int64)
    bins = np.minimum(bins, N_BINS - 1) + N_BINS * np.arange(len(weights))[:, None]
    counts = np.bincount(bins.ravel(), minlength=N_BINS * len(weights))
    return low, high, counts.reshape(len(weights), N_BINS)
