"""The tokens that the page shows: stretches of rows around examples, each string stored once."""

from collections import Counter

import numpy as np

from ..codes._tokens import read_after, writable

N_CHUNK = 2**15  # tokens in a chunk, which the page parses at once


def window_edges(tokens):
    """Where what the model saw together begins, and at the end the number of rows.

    Parameters
    ----------
    tokens : dict
        From `check_tokens`.

    Returns
    -------
    edges : ndarray of int64 of shape (n_windows + 1,)
    """
    new = np.diff(tokens["document"]) != 0
    if "position" in tokens:  # long texts are run in several windows
        new |= np.diff(tokens["position"]) != 1
    return np.flatnonzero(np.concatenate([[True], new, [True]]))


def around(rows, edges, n_before, n_after):
    """First rows, and rows behind the last, of what is shown around each of some rows."""
    window = np.searchsorted(edges, rows, side="right") - 1
    first = np.maximum(rows - n_before, edges[window])
    return first, np.minimum(rows + n_after + 1, edges[window + 1])


def names_of(tokens, rows):
    """How tokens read in their text.

    Parameters
    ----------
    tokens : dict
        From `with_previous_end`.
    rows : ndarray of int64

    Returns
    -------
    names : list of str
        Distinct.
    index : ndarray of int64 of the rows' shape
        Which of the names each token has.
    """
    distinct = {}
    number = [distinct.setdefault(str(token), len(distinct)) for token in tokens["token"][rows]]
    number = np.array(number, dtype=np.int64)
    cut = np.full(len(rows), -2)  # shown as it is
    if "previous_end" in tokens:
        start, end = tokens["start"][rows], tokens["end"][rows]
        # characters that were shown before, or -1 if there is a space before the token
        behind = np.maximum(tokens["previous_end"][rows] - start, -1)
        cut = np.where(end > start, behind, -2)
    pairs, pair_of = np.unique(np.stack([number, cut]), axis=1, return_inverse=True)
    texts, names = list(distinct), {}
    name_of = [
        names.setdefault(
            writable(texts[k] if c == -2 else read_after(c, texts[k], 0, 1)), len(names)
        )
        for k, c in pairs.T.tolist()
    ]
    return list(names), np.array(name_of, dtype=np.int64)[pair_of.ravel()]


def stretches_of(used, edges, document):
    """Stretches of used rows that the model saw together.

    Parameters
    ----------
    used : ndarray of bool of shape (n_rows,)
    edges : ndarray of int64
        From `window_edges`.
    document : ndarray of int64 of shape (n_rows,)

    Returns
    -------
    first, length, document : ndarray of int64 of shape (n_stretches,)
    """
    is_first = np.zeros(len(used) + 1, dtype=bool)
    is_first[edges] = True
    is_first[1:] |= np.append(used[1:] != used[:-1], True)
    bounds = np.flatnonzero(is_first)
    first, length = bounds[:-1], np.diff(bounds)
    keep = used[first]
    return first[keep], length[keep], document[first[keep]]


def token_table(tokens, first, length):
    """The tokens of stretches in chunks, for a chunk is parsed at once.

    Returns
    -------
    chunks : list of dict
        "stretch", "names" and "ids" as `_schema` describes them.
    """
    chunks, start = [], 0
    total = np.cumsum(length)
    while start < len(first):
        before = total[start] - length[start]
        stop = max(start + 1, int(np.searchsorted(total, before + N_CHUNK, side="right")))
        part = slice(start, stop)
        before = np.cumsum(length[part]) - length[part]
        rows = np.arange(length[part].sum()) + np.repeat(first[part] - before, length[part])
        names, index = names_of(tokens, rows)
        by_count = [k for k, _ in Counter(index.tolist()).most_common()]  # frequent ones are short
        place = np.empty(len(names), dtype=np.int64)
        place[by_count] = np.arange(len(names))
        chunks.append(
            {
                "stretch": start,
                "names": [names[k] for k in by_count],
                "ids": place[index].tolist(),
            }
        )
        start = stop
    return chunks


def only_stretches(table, rows):
    """A table of tokens without the stretches that hold none of some rows.

    Parameters
    ----------
    table : dict
        The content's "tokens".
    rows : ndarray of int64

    Returns
    -------
    table : dict
    """
    first = np.array(table["first"], dtype=np.int64)
    length = np.array(table["length"], dtype=np.int64)
    keep = np.unique(np.searchsorted(first, rows, side="right") - 1)
    part = table | {
        key: np.array(table[key], dtype=np.int64)[keep].tolist()
        for key in ("first", "length", "document")
    }
    if "chunks" not in table:
        shown = {str(k) for k in part["document"]}
        part["pictures"] = {k: each for k, each in table["pictures"].items() if k in shown}
        return part
    chunks = []
    starts = [chunk["stretch"] for chunk in table["chunks"]] + [len(first)]
    for chunk, start, stop in zip(table["chunks"], starts[:-1], starts[1:], strict=True):
        here = np.flatnonzero((keep >= start) & (keep < stop))
        if len(here) == 0:
            continue
        place = np.repeat(np.isin(np.arange(start, stop), keep), length[start:stop])
        ids, index = np.unique(np.array(chunk["ids"])[place], return_inverse=True)
        chunks.append(
            {
                "stretch": int(here[0]),
                "names": [chunk["names"][k] for k in ids],
                "ids": index.tolist(),
            }
        )
    return part | {"chunks": chunks}
