"""What a dashboard is gathered from, checked."""

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from ..._core.language.texts import check_texts
from ..actions._language import Language
from ..codes._active import selected
from ..codes._collecting import collect_codes
from ..codes._store import as_feature_codes
from ..codes._tokens import writable


def checked_codes(codes, features, images):
    """The codes, which know their tokens, and the features as an array."""
    codes = as_feature_codes(codes)
    if codes.tokens is None or (images is None and "token" not in codes.tokens):
        raise ValueError(
            "codes must know the token of each row. Give tokens to collect_codes or "
            "FeatureCodes.from_matrix, or of a store its texts to collect_codes; for pictures "
            "give images, and tokens['document']."
        )
    columns = selected(features, codes.n_components)
    if len(columns) == 0 or len(np.unique(columns)) < len(columns):
        raise ValueError(
            "features must be at least one feature, and each only once, but is "
            f"{columns.tolist()!r:.80}."
        )
    return codes, columns


def language_of(pipeline, codes):
    """The Language of a pipeline, and why it gives neither effects nor logits; None if it does."""
    language = Language(pipeline)
    if codes.texts is None or codes.provenance.get("unit") == "document":
        raise ValueError(
            "codes must be those of tokens, with their texts, to measure effects by the pipeline. "
            "Give dictionary=pipeline[1:] instead, or what collect_codes(pipeline, texts) returns."
        )
    reason = language.why_not_causal()
    if reason is not None:
        reason = (
            "No logits and no effects on the next token: these need a causal language model, "
            f"but {type(language.model).__name__} is not one: {writable(reason):.300}"
        )
    return language, reason


def shown_codes(language, texts):
    """The codes of texts to show whole; None if there are none."""
    if len(texts) == 0:
        return None
    if language is None:
        raise ValueError("show_texts need a pipeline that reads them. Give pipeline.")
    whole = clone(language.extractor).set_params(long_documents="window")
    steps = [("extractor", whole), ("dictionary", language.dictionary)]
    return collect_codes(Pipeline(steps), check_texts(texts, name="show_texts"))
