"""Windows of tokens: texts are cut into them, and some are drawn to explain and to score."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..codes._tokens import read_after, token_columns

_INTEGERS = ("position", "token_id", "start", "end")
# Minimum number of active windows in each half; otherwise the feature is not interpreted.
MIN_WINDOWS = 5
# A near miss may differ from the wanted length by a fraction of 1 / _LENGTH_TOLERANCE.
_LENGTH_TOLERANCE = 8


@dataclass(frozen=True, eq=False)
class Example:
    """A window as a question shows it. All arrays have shape (n_tokens,).

    Parameters
    ----------
    rows : ndarray of int
        Consecutive rows of the codes.
    activations : ndarray of float64
        The feature's codes; 0 where it is inactive.
    marked : ndarray of bool
        The highlighted tokens.
    """

    rows: np.ndarray
    activations: np.ndarray
    marked: np.ndarray


class Activity(NamedTuple):
    """The rows on which a feature or neuron is active, ascending, and its codes there."""

    rows: np.ndarray
    values: np.ndarray


class Sample(NamedTuple):
    """Windows drawn for a feature; the active ones in ascending order of their peaks."""

    explain_active: np.ndarray
    explain_inactive: np.ndarray
    score_active: np.ndarray
    score_inactive: np.ndarray
    n_active: int  # of all windows
    split: str  # "documents" or "windows": what the two halves do not share


class TooFewWindows(Exception):
    """There are too few windows to interpret a feature; the message says of which kind."""

    def __init__(self, message, n_active):
        super().__init__(message)
        self.n_active = n_active


class WindowGrid:
    """Texts cut into windows without overlap, of tokens that the model saw together.

    Of several windows with the same tokens, such as the licence header of many files, only the
    first is used, so that no text is used both to explain and to score.

    Parameters
    ----------
    tokens : mapping
        As the argument `tokens` of `AutoInterpreter.interpret`.
    n_rows : int
        Rows of the codes.
    window_length : int
        Maximum number of tokens of a window.
    seed : int
        Seed of the split of documents, and of windows, into two halves.
    """

    def __init__(self, tokens, n_rows, window_length, seed):
        keys = ("document", "token", *_INTEGERS)  # documents can have names
        columns = token_columns(tokens, keys, n_rows=n_rows, integers=_INTEGERS)
        document, self._token, position, self.token_id, self._start, self._end = columns.values()
        new = np.ones(n_rows, dtype=bool)  # where a text, or the model's input, begins
        new[1:] = (document[1:] != document[:-1]) | (position[1:] != position[:-1] + 1)
        begin = np.flatnonzero(new)
        place = np.arange(n_rows) - np.repeat(begin, np.diff(begin, append=n_rows))
        self.first = np.flatnonzero(place % window_length == 0)
        self.stop = np.append(self.first[1:], n_rows)
        self._length = self.stop - self.first

        contents = np.empty(len(self.first), dtype=object)
        contents[:] = [part.tobytes() for part in np.split(self.token_id, self.first[1:])]
        self._distinct = np.zeros(len(self.first), dtype=bool)
        self._distinct[np.unique(contents, return_index=True)[1]] = True

        rng = np.random.default_rng(seed)
        self._halves = {
            "documents": _balanced_half(document[self.first], rng),
            "windows": rng.random(len(self.first)) < 0.5,
        }
        self._by_token = np.argsort(self.token_id, kind="stable")
        self._sorted_id = self.token_id[self._by_token]

    def example(self, window, activity, marked=None):
        """A window as an example; by default the active tokens are marked."""
        rows = np.arange(self.first[window], self.stop[window])
        activations = np.zeros(len(rows))
        a, b = np.searchsorted(activity.rows, (rows[0], rows[-1] + 1))
        activations[activity.rows[a:b] - rows[0]] = activity.values[a:b]
        return Example(rows, activations, activations > 0 if marked is None else marked)

    def pieces(self, rows):
        """The texts of consecutive tokens; joined they are the text of the window."""
        pieces, previous_end = [], self._start[rows[0]]
        for row in rows:
            start, end = self._start[row], self._end[row]
            pieces.append(read_after(previous_end, str(self._token[row]), start, end))
            if end > start:
                previous_end = max(previous_end, end)
        return pieces

    def draw(self, activity, rng, *, n_explain, n_score, near_miss_fraction):
        """Draw windows to explain with and, from the other half, windows to score with.

        Returns
        -------
        sample : Sample

        Raises
        ------
        TooFewWindows
            If a half has fewer than `MIN_WINDOWS`.
        """
        window, peak, peak_id = self._peaks(activity)
        is_active = np.zeros(len(self.first), dtype=bool)
        is_active[np.searchsorted(self.first, activity.rows, side="right") - 1] = True
        idle = self._distinct & ~is_active

        for split, half in self._halves.items():  # noqa: B007
            explain, score = half[window], ~half[window]
            n_here = (np.sum(explain), np.sum(score), np.sum(idle & ~half))
            if min(n_here) >= MIN_WINDOWS:
                break
        else:
            raise TooFewWindows(
                f"active in {len(window)} windows and inactive in {np.sum(idle)}, but "
                f"{MIN_WINDOWS} active ones are needed to explain, and {MIN_WINDOWS} active and "
                f"{MIN_WINDOWS} inactive ones to score",
                len(window),
            )

        order = np.argsort(peak, kind="stable")
        ascending = order[explain[order]]
        n_explain = min(n_explain, len(ascending))
        top = ascending[len(ascending) - n_explain // 2 :]
        rest = ascending[: len(ascending) - len(top)]
        shown = np.concatenate([_stratified(rest, n_explain - len(top), rng), top])
        lengths = rng.permutation(self._length[window[shown]])[: n_explain // 2]
        contrast = self._draw_idle(idle & half, peak_id[explain], lengths, near_miss_fraction, rng)

        n_pairs = min(n_score // 2, n_here[1], n_here[2])
        scored = _stratified(order[score[order]], n_pairs, rng)
        lengths = rng.permutation(self._length[window[scored]])
        foils = self._draw_idle(idle & ~half, peak_id[score], lengths, near_miss_fraction, rng)

        drawn = Sample(window[shown], contrast, window[scored], foils, len(window), split)
        both = np.intersect1d(np.concatenate(drawn[:2]), np.concatenate(drawn[2:4]))
        assert len(both) == 0, f"windows {both} are used both to explain and to score"
        return drawn

    def _peaks(self, activity):
        """Distinct active windows: their index, greatest code, and the token id of that code."""
        window = np.searchsorted(self.first, activity.rows, side="right") - 1
        order = np.lexsort((activity.values, window))
        last = order[np.flatnonzero(np.diff(window[order], append=-1))]
        last = last[self._distinct[window[last]]]
        return window[last], activity.values[last], self.token_id[activity.rows[last]]

    def _draw_idle(self, pool, peak_id, lengths, near_miss_fraction, rng):
        """Draw a window of the pool for each of `lengths`, as close to this length as possible.

        Longer windows are more likely to be active, so the length could give inactive windows
        away. A fraction of the windows are near misses, which contain one of the tokens
        `peak_id`.
        """
        pool, drawn = pool.copy(), []
        n_near = round(near_miss_fraction * len(lengths))
        for token in rng.permutation(peak_id):  # with repetitions: once per window with this peak
            if len(drawn) == n_near:
                break
            a, b = np.searchsorted(self._sorted_id, (token, token + 1))
            holding = np.searchsorted(self.first, self._by_token[a:b], side="right") - 1
            holding = np.unique(holding[pool[holding]])
            length = lengths[len(drawn)]
            holding = holding[abs(self._length[holding] - length) <= length // _LENGTH_TOLERANCE]
            if len(holding):
                drawn.append(self._nearest_in_length(holding, length, rng))
                pool[drawn[-1]] = False
        for length in lengths[len(drawn) :]:
            left = np.flatnonzero(pool)
            if len(left) == 0:
                break
            drawn.append(self._nearest_in_length(left, length, rng))
            pool[drawn[-1]] = False
        return rng.permutation(np.array(drawn, dtype=np.int64))

    def _nearest_in_length(self, windows, length, rng):
        distance = abs(self._length[windows] - length)
        return rng.choice(windows[distance == distance.min()])


def _balanced_half(document, rng):
    """Split documents into two halves with about equally many windows; True in one half."""
    _, document, n_windows = np.unique(document, return_inverse=True, return_counts=True)
    half, sizes = np.zeros(len(n_windows), dtype=bool), [0, 0]
    for index in rng.permutation(len(n_windows)):
        smaller = int(sizes[1] < sizes[0])
        half[index] = smaller
        sizes[smaller] += n_windows[index]
    return half[document]


def _stratified(ascending, n, rng):
    """Draw one entry from each of `n` parts of equal size, so that all levels occur."""
    bounds = np.linspace(0, len(ascending), n + 1).astype(np.int64)
    return ascending[rng.integers(bounds[:-1], bounds[1:])]
