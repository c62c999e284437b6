"""Texts that are shown whole, with the features that are active on each token."""

from itertools import pairwise

import numpy as np

from ...codes._tokens import with_previous_end
from .._schema import listed
from .._tokens import names_of

N_OF_TOKEN = 256  # features listed per token; dense dictionaries have more


def gather(context):
    """Nothing: texts belong to the page, not to a feature."""
    return {}


def gather_page(context):
    """The texts.

    Returns
    -------
    page : dict
        "texts" : list of dict, one per text. "tokens" are strings; "features" and "codes" have a
        list per token, in descending order of the code; "maxima" of these features, by name.
    """
    if context.shown is None:
        return {"texts": []}
    tokens, maximum = with_previous_end(context.shown.tokens), context.codes.moments.maximum
    document = tokens["document"]
    names, index = names_of(tokens, np.arange(len(document)))
    texts = [{"tokens": [], "features": [], "codes": []} for _ in range(document[-1] + 1)]
    for first, codes in context.shown.blocks():
        for k, (start, stop) in enumerate(pairwise(codes.indptr)):
            features, values = codes.indices[start:stop], codes.data[start:stop]
            order = np.argsort(-values, kind="stable")[:N_OF_TOKEN]
            text = texts[document[first + k]]
            text["tokens"].append(names[index[first + k]])
            text["features"].append(features[order].tolist())
            text["codes"].append(listed(values[order]))
    for text in texts:
        mentioned = np.unique([j for features in text["features"] for j in features])
        mentioned = mentioned.astype(np.int64)
        names = map(str, mentioned.tolist())
        text["maxima"] = dict(zip(names, listed(maximum[mentioned]), strict=True))
    return {"texts": texts}
