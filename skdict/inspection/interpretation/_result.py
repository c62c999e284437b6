"""The result of an interpretation: columns with an entry for each feature."""

import numpy as np
from sklearn.utils import Bunch


def make_result(rows, scorers):
    """The result of `interpret_features`, a Bunch of arrays.

    Parameters
    ----------
    rows : list of Row
    scorers : list of Scorer
    """
    with_neurons = any("neuron" in row.explained for row in rows)
    own = [row.explained["own"] for row in rows]
    result = Bunch(
        feature=np.array([row.feature for row in rows], dtype=np.int64),
        explanation=_texts(side["explanation"] for side in own),
        reason=_texts(_reason(row, "own", scorers) for row in rows),
        n_active_windows=np.array([side["n_active_windows"] for side in own], dtype=np.int64),
        split=_texts(side["split"] for side in own),
    )
    for scorer in scorers:
        result |= _scores(rows, scorer, with_neurons)
    if with_neurons:
        result.neuron = np.array([row.neuron for row in rows], dtype=np.int64)
        result.neuron_explanation = _texts(row.explained["neuron"]["explanation"] for row in rows)
        result.neuron_reason = _texts(_reason(row, "neuron", scorers) for row in rows)
    costs = [row.cost for row in rows]
    for name in ("n_requests", "n_cached", "n_failures", "prompt_tokens", "completion_tokens"):
        result[name] = np.array([getattr(cost, name) for cost in costs], dtype=np.int64)
    result.tokens_estimated = np.array([cost.is_estimate for cost in costs], dtype=bool)
    return result


def _scores(rows, scorer, with_neurons):
    """The columns of a scorer, a dict."""
    name = scorer.name

    def column(source, key):
        return [row.scores[name, source][key] for row in rows]

    columns = {name: np.array(column("own", "score"), dtype=np.float64)}
    columns[f"{name}_chance"] = np.full(len(rows), scorer.chance, dtype=np.float64)
    if scorer.needs_explanation:
        columns[f"{name}_shuffled"] = np.array(column("shuffled", "score"), dtype=np.float64)
    if with_neurons:
        columns[f"{name}_neuron"] = np.array(column("neuron", "score"), dtype=np.float64)
    for key in ("n_items", "failure_rate", *scorer.others):
        dtype = np.int64 if key == "n_items" else np.float64
        columns[f"{name}_{key}"] = np.array(column("own", key), dtype=dtype)
    return columns


def _reason(row, source, scorers):
    """Why the explanation or a score is missing, a str."""
    side = row.explained[source]
    impossible = [
        f"{scorer.name}: {scorer.none_possible}"
        for scorer in scorers
        if side["explanation"] and row.scores[scorer.name, source]["n_items"] == 0
    ]
    return "; ".join([*impossible, *filter(None, [side["reason"]])])


def _texts(values):
    return np.array([*values, None], dtype=object)[:-1]  # dtype object even if empty


def score_columns(table):
    """The scores of a table such as the result of `interpret_features`.

    Parameters
    ----------
    table : mapping or DataFrame
        For each scorer NAME a column NAME, one NAME_chance by which it is found, and optionally
        NAME_shuffled and NAME_neuron.

    Returns
    -------
    scores : dict of str to dict
        For each scorer "chance", a float, and "score", "shuffled" and "neuron", ndarrays of
        float64 or None.
    """
    scores = {}
    for column in table:
        name = str(column).removesuffix("_chance")
        if name == column or name not in table:
            continue
        chance = np.asarray(table[column], dtype=np.float64)
        scores[name] = {"chance": float(chance[0]) if len(chance) else np.nan}
        for key, there in (
            ("score", name),
            ("shuffled", f"{name}_shuffled"),
            ("neuron", f"{name}_neuron"),
        ):
            values = np.asarray(table[there], dtype=np.float64) if there in table else None
            scores[name][key] = values
    return scores
