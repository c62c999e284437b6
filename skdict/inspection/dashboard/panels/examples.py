"""Examples: rows on which a feature is active, strongly to weakly, and rows where it nearly is."""

import numpy as np

from .._schema import Ragged
from .._tokens import stretches_of, token_table

N_AROUND = 100  # rows before and behind an example that can be shown


def gather(context):
    """Examples as rows, and where the feature is active around them.

    Returns
    -------
    columns : dict
        "top", "random" : rows, the most active first, and sampled from all active ones.
        "intervals" : "counts", active rows in each interval of equal width from 0 to the
        maximum; "sizes", how many are shown of each, and their "rows", interval by interval.
        "near_misses" : "rows" and "values", see the content's "near_by".
        "active" : "rows" where the feature is active around any of these, each as difference to
        the one before, and "values".
    """
    found, n = context.found, context.n_intervals
    intervals = [rows for rows, _ in found["intervals"]]
    sizes = np.array([len(rows) for rows in intervals], dtype=np.int64).reshape(-1, n)
    of_intervals = Ragged(
        np.concatenate([*intervals, np.empty(0, np.int64)]).astype(np.int64),
        np.append(0, np.cumsum(sizes.sum(axis=1))),
    )
    top, random = ([rows for rows, _ in found[kind]] for kind in ("top", "random"))
    near, scores = near_misses(context.codes, context.columns)
    every = [
        np.concatenate([*rows, of_intervals.values[start:stop]])
        for *rows, start, stop in zip(
            top, random, near, of_intervals.bounds[:-1], of_intervals.bounds[1:], strict=True
        )
    ]
    n_around = N_AROUND if context.pictures is None else int(context.edges[-1])  # whole pictures
    context.used, active, values, bounds = context.active_around(every, n_around)
    steps = np.diff(active, prepend=0)
    starts = bounds[:-1][np.diff(bounds) > 0]
    steps[starts] = active[starts]
    histogram = context.histogram
    return {
        "top": Ragged.of(top, np.int64),
        "random": Ragged.of(random, np.int64),
        "intervals": {
            "counts": histogram.reshape(len(histogram), n, -1).sum(axis=2),
            "sizes": sizes,
            "rows": of_intervals,
        },
        "near_misses": {
            "rows": Ragged.of(near, np.int64),
            "values": Ragged.of(scores),
        },
        "active": {"rows": Ragged(steps, bounds), "values": Ragged(values, bounds)},
    }


def gather_page(context):
    """The tokens around all examples, or the pictures that these are from."""
    document = context.tokens["document"]
    first, length, document = stretches_of(context.used, context.edges, document)
    table = {
        "first": first.tolist(),
        "length": length.tolist(),
        "document": document.tolist(),
        "around": N_AROUND,
    }
    if context.pictures is None:
        table["chunks"] = token_table(context.tokens, first, length)
    else:
        table |= context.pictures.of(document)
    near = context.codes.near_misses
    return {"tokens": table, "near_by": None if near is None else near.name}


def near_misses(codes, columns):
    """Rows and scores of near misses, a list of arrays each; empty if none were kept."""
    near = codes.near_misses
    if near is None:
        none = [np.empty(0, np.int64)] * len(columns)
        return none, none
    spans = [slice(*near.indptr[j : j + 2]) for j in columns]
    return [near.rows[each] for each in spans], [near.scores[each] for each in spans]
