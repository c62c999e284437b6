"""What a feature does for the prediction of the next token."""

import numpy as np

from ...actions._effects import measured_effects
from .._places import places_of
from .._schema import Ragged


def gather(context):
    """Effects at the most active tokens, measured by ablation, in nats, and their mean.

    "at_top" has one for each of the examples' "top" rows, None where it is not defined.
    """
    if context.language is None:
        return {}
    language, rows = context.language, context.top_rows
    texts, rows = places_of(context.tokens, rows, context.texts, language.extractor)
    means = np.full(len(rows), np.nan)
    if not texts:
        return {"mean": means, "at_top": Ragged.of([np.full(len(each), np.nan) for each in rows])}
    known = [of_feature[of_feature >= 0] for of_feature in rows]
    effects, at_top = measured_effects(language, texts, context.columns, known), []
    for i, (effect, of_feature) in enumerate(zip(effects, rows, strict=True)):
        values = np.full(len(of_feature), np.nan)
        _, place, measured = np.intersect1d(of_feature, effect.rows, return_indices=True)
        values[place] = effect.ablation[measured]
        at_top.append(values)
        if len(effect.rows):
            means[i] = np.mean(effect.ablation)
    return {"mean": means, "at_top": Ragged.of(at_top)}
