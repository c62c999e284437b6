"""The nearest features of the dictionary."""

import numpy as np

from ...codes._gather import nearest_by_correlation, nearest_by_cosine
from .._schema import Ragged

N_LISTED = 10


def gather(context):
    """The nearest by cosine of the atoms, and by correlation of the codes."""
    columns = context.columns
    found = {}
    if context.atoms is not None:
        found["cosine"] = _listed(*nearest_by_cosine(context.atoms, columns, N_LISTED))
    by_activity = nearest_by_correlation(context.codes, columns, N_LISTED)
    return found | {"correlation": _listed(*by_activity)}


def _listed(index, values):
    """As columns "features" and "values", without values that are not finite."""
    finite = np.isfinite(values)
    bounds = np.append(0, np.cumsum(finite.sum(axis=1)))
    return {"features": Ragged(index[finite], bounds), "values": Ragged(values[finite], bounds)}
