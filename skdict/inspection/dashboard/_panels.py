"""What a dashboard shows of each feature, as plain numbers and strings."""

from itertools import pairwise

import numpy as np

from ...metrics._rows import unit_rows
from ..actions._direct import has_direct_path
from ..actions._effects import measured_effects
from ..actions._logits import extremes, lacks_forward_derivative, vocabulary, weight_blocks
from ..codes._directions import feature_directions, split_dictionary
from ..codes._gather import codes_at, nearest_by_correlation, nearest_by_cosine, survey
from ..codes._store import near_misses_of
from ..codes._tokens import shown_tokens, token_table
from ..results._statistics import statistics_of

N_BINS = 50  # bins of a feature's histogram
N_LISTED = 10  # logits up and down, neurons, neighbours
N_RANDOM, N_NEAR_MISSES = 10, 10
N_BEFORE, N_AFTER = 12, 6  # tokens of context in a snippet
N_OF_TOKEN = 256  # features listed per token of a shown text; dense dictionaries have more
TEXT_FOR_LOGITS = 2000  # characters that the derivative of the logits is averaged over


def gather(codes, dictionary, columns, *, n_top, n_intervals, n_per_interval, seed, language=None):
    """Gather the panels of some features.

    Parameters
    ----------
    codes : FeatureCodes
        With tokens and near misses; with a `language`, with texts.
    dictionary : estimator
    columns : ndarray of int64 of shape (n_selected,)
        The features.
    n_top, n_intervals, n_per_interval : int
    seed : int
    language : Language, default=None
        With a causal model: adds logits and effects on the next token.

    Returns
    -------
    panels : dict
        "statistics" as `feature_statistics` returns them, "n_active" of all features, "tokens",
        "near_by" (the scores that near misses are ranked by), "missing" (messages about panels
        that could not be made), and "features", a list of dicts ready for JSON.
    """
    atoms = feature_directions(dictionary, np.arange(codes.n_components))
    found = survey(
        codes,
        columns,
        n_top=n_top,
        n_intervals=n_intervals,
        n_per_interval=n_per_interval,
        n_random=N_RANDOM,
        n_bins=N_BINS,
        seed=seed,
    )
    near = [near_misses_of(codes, j) for j in columns]
    found["near_misses"] = [(each.rows, each[codes.near_misses.name]) for each in near]
    statistics = statistics_of(codes, columns, found["histogram"].result())
    snippets = _Snippets(codes.tokens, _centres(found, n_intervals))
    features = [_numbers(statistics, i) for i in range(len(columns))]
    _add_snippets(features, snippets, found, codes, columns, language)
    _add_neighbours(features, atoms, columns, codes)
    _add_neurons(features, atoms[columns])
    _add_encoder(features, dictionary, columns)
    missing = (
        [] if language is None else _add_logits(features, language, codes.texts, atoms[columns])
    )
    return {
        "statistics": statistics,
        "n_active": codes.moments.count,
        "tokens": snippets.table(),
        "near_by": codes.near_misses.name,
        "missing": missing,
        "features": features,
    }


def number(x):
    """Round to four significant digits; None if `x` is not finite."""
    return float(f"{x:.4g}") if np.isfinite(x) else None


def _numbers(statistics, i):
    """How often and how strongly the i-th feature is active."""
    return {
        "density": number(statistics.density[i]),
        "n_active": int(statistics.n_active[i]),
        "maximum": number(statistics.maximum[i]),
        "mean": number(statistics.mean[i]),
        "histogram": statistics.histogram[i].tolist(),
    }


def _centres(found, n_intervals):
    """Rows to show snippets of: {kind: for each feature a list of groups of rows}."""
    intervals = [rows for rows, _ in found["intervals"]]
    return {
        "top": [[rows] for rows, _ in found["top"]],
        "intervals": [
            intervals[i * n_intervals : (i + 1) * n_intervals] for i in range(len(found["top"]))
        ],
        "random": [[rows] for rows, _ in found["random"]],
        "near": [[rows] for rows, _ in found["near_misses"]],
    }


class _Snippets:
    """The tokens around chosen rows, within what the model saw together.

    All snippets refer to one table of tokens, in which each row that is shown occurs once.

    Parameters
    ----------
    tokens : dict
        From `check_tokens`.
    centres : dict
        From `_centres`.

    Attributes
    ----------
    rows : list of ndarray of int64
        For each feature, the rows of all its snippets, ascending.
    """

    def __init__(self, tokens, centres):
        self.tokens, self.centres = tokens, centres
        document = tokens["document"]
        new = np.diff(document) != 0
        if "position" in tokens:  # long texts are run in several windows
            new |= np.diff(tokens["position"]) != 1
        edges = np.flatnonzero(np.concatenate([[True], new, [True]]))
        self.first = np.repeat(edges[:-1], np.diff(edges))
        self.stop = np.repeat(edges[1:], np.diff(edges))
        n_features = len(centres["top"])
        self.rows = [self._all_rows(i) for i in range(n_features)]
        used = np.zeros(len(document), dtype=bool)
        for rows in self.rows:
            used[rows] = True
        self.used = np.flatnonzero(used)
        self.place = np.cumsum(used) - 1

    def _range(self, row):
        return max(self.first[row], row - N_BEFORE), min(self.stop[row], row + N_AFTER + 1)

    def _all_rows(self, i):
        ranges = [
            np.arange(*self._range(row))
            for groups in self.centres.values()
            for rows in groups[i]
            for row in rows
        ]
        return np.unique(np.concatenate(ranges)) if ranges else np.empty(0, np.int64)

    def of(self, i, codes, effects):
        """Snippets of the i-th feature.

        Parameters
        ----------
        codes : ndarray of float64
            The feature's codes at ``rows[i]``.
        effects : dict of int to float
            Effect on the next token at some rows.

        Returns
        -------
        snippets : dict of str to list of list of list
            For each kind and group the snippets ``[start in the table, length, place of the
            centre, codes, effects]``. Codes and effects are flat lists ``[place in the snippet,
            value, place, value, ...]``. An effect is listed at the token whose probability it
            changes, the one after the active token.
        """

        def snippet(row):
            start, stop = (int(edge) for edge in self._range(row))
            values = codes[np.searchsorted(self.rows[i], np.arange(start, stop))]
            active = [x for k in np.flatnonzero(values > 0) for x in (int(k), number(values[k]))]
            changed = [
                x
                for k in range(start, stop - 1)
                if k in effects
                for x in (k + 1 - start, number(effects[k]))
            ]
            return [int(self.place[start]), stop - start, int(row) - start, active, changed]

        return {
            kind: [[snippet(row) for row in rows] for rows in groups[i]]
            for kind, groups in self.centres.items()
        }

    def words(self, i):
        """Up to five distinct tokens among the most active ones of a feature."""
        return list(dict.fromkeys(shown_tokens(self.tokens, self.centres["top"][i][0])))[:5]

    def table(self):
        """The tokens of all snippets."""
        document = self.tokens["document"][self.used].tolist()
        return token_table(shown_tokens(self.tokens, self.used), document)


def _add_snippets(features, snippets, found, codes, columns, language):
    """Examples in context, and with a `language` the effects at the most active tokens."""
    values = codes_at(codes, columns, snippets.rows)
    effects = [{}] * len(columns)
    if language is not None:
        rows = [groups[0] for groups in snippets.centres["top"]]
        measured = measured_effects(language, codes.texts, columns, rows)
        effects = [dict(zip(e.rows.tolist(), e.ablation, strict=True)) for e in measured]
    for i, feature in enumerate(features):
        feature["snippets"] = snippets.of(i, values[i], effects[i])
        feature["near_values"] = [number(value) for value in found["near_misses"][i][1]]
        feature["words"] = snippets.words(i)
        feature["effect"] = number(np.mean([*effects[i].values()])) if effects[i] else None


def _add_neighbours(features, atoms, columns, codes):
    """The nearest features by cosine of the atoms and by correlation of the codes."""
    by_cosine = nearest_by_cosine(atoms, columns, N_LISTED)
    by_correlation = nearest_by_correlation(codes, columns, N_LISTED)
    for i, feature in enumerate(features):
        feature["cosine"] = _pairs(by_cosine[0][i], by_cosine[1][i])
        feature["correlation"] = _pairs(by_correlation[0][i], by_correlation[1][i])


def _add_neurons(features, atoms):
    """The greatest entries of each atom in absolute value, as [neuron, entry, share of L1 norm].

    The shares of a zero atom are 0.
    """
    n = min(N_LISTED, atoms.shape[1])
    order = np.argsort(-abs(atoms), axis=1, kind="stable")[:, :n]
    for feature, atom, neurons in zip(features, atoms, order, strict=True):
        total = abs(atom).sum() or 1.0
        feature["neurons"] = [
            [int(j), number(atom[j]), number(abs(atom[j]) / total)] for j in neurons
        ]


def _add_encoder(features, dictionary, columns):
    """Cosine of encoder row and atom, and the encoder's bias, if there is an encoder."""
    _, last = split_dictionary(dictionary)
    weights = getattr(last, "encoder_coef_", None)
    if weights is None:
        return
    atoms = last.components_  # in the encoder's input space, after a Pipeline's other steps
    weights, atoms = (unit_rows(rows.astype(np.float64)) for rows in (weights, atoms))
    cosine = (weights * atoms).sum(axis=1)
    cosine[~(weights.any(axis=1) & atoms.any(axis=1))] = np.nan
    for feature, j in zip(features, columns, strict=True):
        feature["encoder"] = [number(cosine[j]), number(last.encoder_intercept_[j])]


def _add_logits(features, language, texts, atoms):
    """The tokens whose logits rise and fall the most, and a histogram of all weights.

    Returns
    -------
    missing : list of str
        Why there are no logits, if the model has no forward-mode derivative.
    """
    some, size = [], 0
    for text in texts:
        some.append(text[:TEXT_FOR_LOGITS])
        size += len(some[-1])
        if size >= TEXT_FOR_LOGITS:
            break
    words, first = None, 0
    path = "direct" if has_direct_path(language) else "total"
    try:
        for weights in weight_blocks(language, atoms, some, path):
            if words is None:
                words = vocabulary(language.tokenizer, weights.shape[1])
            found = zip(weights, *extremes(weights, N_LISTED), strict=True)
            for feature, of_feature in zip(features[first:], found, strict=False):
                feature["logits"] = _logits(*of_feature, words)
            first += len(weights)
    except (NotImplementedError, RuntimeError) as error:
        if not lacks_forward_derivative(error):
            raise
        return [f"No logits: {error}"]
    return []


def _logits(weights, raised, raised_weights, lowered, lowered_weights, words):
    counts, edges = np.histogram(weights, bins=40)
    return {
        "up": [[words[k], number(w)] for k, w in zip(raised, raised_weights, strict=True)],
        "down": [[words[k], number(w)] for k, w in zip(lowered, lowered_weights, strict=True)],
        "counts": counts.tolist(),
        "range": [number(edges[0]), number(edges[-1])],
    }


def _pairs(index, values):
    return [[int(j), number(v)] for j, v in zip(index, values, strict=True) if np.isfinite(v)]


def shown_texts(codes):
    """Tokens of texts with the features that are active on each, in descending order of code.

    Returns
    -------
    shown : list, one per text, of [token, [feature, code, feature, code, ...]] per token
    """
    tokens = codes.tokens
    document = tokens["document"]
    shown = shown_tokens(tokens, np.arange(len(document)))
    texts = [[] for _ in range(document[-1] + 1)]
    for first, block in codes.blocks():
        for k, (start, stop) in enumerate(pairwise(block.indptr)):
            features, values = block.indices[start:stop], block.data[start:stop]
            order = np.argsort(-values, kind="stable")[:N_OF_TOKEN]
            active = [x for i in order for x in (int(features[i]), number(values[i]))]
            texts[document[first + k]].append([shown[first + k], active])
    return texts


def density_histogram(density):
    """Histogram of log10 densities, in bins of width 0.25, and the number of dead features."""
    alive = np.log10(density[density > 0])
    low = np.floor(alive.min(initial=-1))
    edges = np.arange(low, 0.25, 0.25)
    counts, _ = np.histogram(alive, bins=edges)
    return {"low": float(low), "counts": counts.tolist(), "dead": int((density == 0).sum())}


def best_labels(codes, columns, target_names, data):
    """The label that each feature detects best by being active, and its F1.

    Parameters
    ----------
    codes : FeatureCodes
    columns : ndarray of int64 of shape (n_selected,)
    target_names : list of str, length n_labels
    data : ndarray of bool of shape (n_rows, n_labels)

    Returns
    -------
    names, scores : list, length n_selected
        None for features that are never active on a token with a label.
    """
    data = data.astype(np.int64)
    together = np.zeros((len(columns), data.shape[1]), dtype=np.int64)
    n_active = np.zeros(len(columns), dtype=np.int64)
    for first, block in codes.blocks():
        active = (block > 0).astype(np.int64)[:, columns]
        n_active += active.sum(axis=0)
        together += active.T @ data[first : first + block.shape[0]]
    f1 = 2 * together / np.maximum(n_active[:, None] + data.sum(axis=0), 1)
    best = f1.argmax(axis=1)
    best_f1 = f1.max(axis=1)
    names = [
        target_names[k] if score > 0 else None for k, score in zip(best, best_f1, strict=True)
    ]
    scores = [score if name else None for name, score in zip(names, best_f1, strict=True)]
    return names, scores
