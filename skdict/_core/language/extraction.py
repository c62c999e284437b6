"""From the activations of windows or samples, which come in any order, to rows in order."""

import numpy as np


def stack_rows(results, inputs):
    """Put the rows of all inputs into one array, in the order of the inputs.

    Parameters
    ----------
    results : iterable of (int, ndarray of shape (n_positions, n_features))
        Index of an input, and the activations at all its positions. Each input comes once.

    inputs : TokenWindows or Samples

    Returns
    -------
    rows : ndarray of shape (n_rows, n_features), dtype float32
    """
    rows = None
    for item, activations in results:
        if rows is None:
            stop = np.cumsum(inputs.n_rows(len(activations)))
            rows = np.empty((stop[-1], activations.shape[1]), dtype=np.float32)
        selected = inputs.select(item, activations)
        rows[stop[item] - len(selected) : stop[item]] = selected
    return rows


def pool_rows(results, inputs, pooling):
    """Reduce the rows of each text or sample to one.

    Parameters
    ----------
    results, inputs
        As in `stack_rows`.

    pooling : {"mean", "max", "last"}

    Returns
    -------
    pooled : ndarray of shape (n_documents, n_features), dtype float32
    """
    pooled = None
    n_documents = inputs.document[-1] + 1
    n_rows = np.zeros(n_documents, dtype=np.int64)
    last_item = np.full(n_documents, -1)
    for item, activations in results:
        if pooled is None:
            start = -np.inf if pooling == "max" else 0
            pooled = np.full((n_documents, activations.shape[1]), start, dtype=np.float32)
        document = inputs.document[item]
        rows = inputs.select(item, activations)
        if len(rows) == 0:  # a window of special tokens
            continue
        if pooling == "mean":
            pooled[document] += rows.sum(axis=0)
            n_rows[document] += len(rows)
        elif pooling == "max":
            np.maximum(pooled[document], rows.max(axis=0), out=pooled[document])
        elif item > last_item[document]:  # later windows of a document are later items
            pooled[document] = rows[-1]
            last_item[document] = item
    return pooled / n_rows[:, None].astype(np.float32) if pooling == "mean" else pooled
