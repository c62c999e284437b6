"""Where rows of codes are among the rows of their texts, of which they may be some."""

import numpy as np

# Columns that tell where in a document a token is.
OF_PLACE = ("position", "start", "end")


def texts_with_rows(tokens, texts):
    """Yield the texts that rows belong to, in their order; none that is empty."""
    document = np.asarray(tokens["document"])
    for i in document[np.append(True, np.diff(document) != 0)].tolist():
        if texts[i]:
            yield texts[i]


def places_of(tokens, rows, texts, extractor):
    """The texts that rows are of, and the rows that an extractor has of these for the same tokens.

    Parameters
    ----------
    tokens : dict of ndarray of shape (n_rows,)
        Of the codes.
    rows : list of ndarray of int64
    texts : sequence of str
        All of them.
    extractor : ActivationExtractor

    Returns
    -------
    some : list of str
        Those of the documents of the rows.
    places : list of ndarray of int64
        As `rows`. -1 for a special token of an empty text, which a store may have, but which no
        extractor takes.

    Raises
    ------
    ValueError
        If the extractor has no row for such a token.
    """
    document = np.asarray(tokens["document"])
    asked = np.unique(np.concatenate(rows))
    has_text = np.array([bool(texts[i]) for i in document[asked].tolist()], bool)
    places, known = np.full(len(asked), -1), asked[has_text]
    chosen = np.unique(document[known])
    some = [texts[i] for i in chosen.tolist()]
    if some:
        places[has_text] = _places(tokens, known, chosen, extractor.tokens(some))
    return some, [places[np.searchsorted(asked, of_one)] for of_one in rows]


def _places(tokens, rows, chosen, given):
    """Where rows (m,) are in the table ``given`` of the tokens of the chosen documents."""
    document = np.asarray(tokens["document"])
    number = np.searchsorted(chosen, document[rows])
    if set(OF_PLACE) <= set(tokens):
        mine = [np.asarray(tokens[name])[rows] for name in OF_PLACE]
        theirs = [given[name] for name in OF_PLACE]
    else:  # counted from the first row of the document
        first, stop = (np.searchsorted(document, chosen, side) for side in ("left", "right"))
        starts = np.searchsorted(given["document"], np.arange(len(chosen) + 1))
        others = chosen[stop - first != np.diff(starts)]
        if len(others):
            raise ValueError(_another(others[0]))
        mine = [rows - first[number]]
        theirs = [np.arange(starts[-1]) - starts[given["document"]]]
    place = {key: i for i, key in enumerate(_keys(given["document"], *theirs))}
    found = [place.get(key) for key in _keys(number, *mine)]
    if None in found:
        raise ValueError(_another(chosen[number[found.index(None)]]))
    return found


def _keys(*columns):
    return zip(*(np.asarray(column).tolist() for column in columns), strict=True)


def _another(document):
    return (
        f"The rows of codes of document {document} are not those that the extractor of the "
        f"pipeline has of texts[{document}]. Give a pipeline with the extractor that their "
        "activations are from."
    )
