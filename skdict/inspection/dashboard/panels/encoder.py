"""How the encoder differs from the atom."""

import numpy as np

from ....metrics._rows import unit_rows
from ...codes._directions import split_dictionary


def gather(context):
    """Cosine of encoder row and atom, and the encoder's bias, if there is an encoder."""
    if context.dictionary is None:
        return {}
    _, coder = split_dictionary(context.dictionary)
    weights = getattr(coder, "encoder_coef_", None)
    if weights is None:
        return {}
    columns = context.columns
    atoms = coder.components_[columns]  # in the encoder's input space, after other steps
    weights, atoms = (unit_rows(rows.astype(np.float64)) for rows in (weights[columns], atoms))
    cosine = (weights * atoms).sum(axis=1)
    cosine[~(weights.any(axis=1) & atoms.any(axis=1))] = np.nan
    return {"cosine": cosine, "bias": np.asarray(coder.encoder_intercept_)[columns]}
