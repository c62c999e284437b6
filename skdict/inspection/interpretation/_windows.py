"""Windows of tokens: texts are cut into them, and some are drawn to explain and to score."""

import hashlib
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
        As the argument `tokens` of `interpret_features`.
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
        self._window_of = np.repeat(np.arange(len(self.first)), self._length)  # (n_rows,)
        # the windows that contain each token, ascending: pairs sorted by token, then window
        order = np.argsort(self.token_id, kind="stable")
        token, window = self.token_id[order], self._window_of[order]
        other = np.append(True, (np.diff(token) != 0) | (np.diff(window) != 0))[: len(order)]
        self._sorted_id, self._holding = token[other], window[other]
        self._by_length = np.argsort(self._length, kind="stable")
        self._changed, self._behind = self._find_changed()

    def digest(self):
        """Identifies the tokens."""
        digest = hashlib.sha256()
        columns = (self.first, self._halves["documents"], self.token_id, self._start, self._end)
        for column in columns:
            digest.update(np.ascontiguousarray(column).tobytes())
        for start in range(0, len(self._token), 2**16):
            digest.update("\0".join(map(str, self._token[start : start + 2**16])).encode())
        return digest.hexdigest()

    def examples(self, windows, activity):
        """Windows as a list of examples, with their active tokens marked."""
        lengths = self._length[windows]
        stop = np.cumsum(lengths)
        rows = np.arange(lengths.sum()) + np.repeat(self.first[windows] - stop + lengths, lengths)
        activations = np.zeros(len(rows))
        if len(activity.rows):
            at = np.minimum(activity.rows.searchsorted(rows), len(activity.rows) - 1)
            is_active = activity.rows[at] == rows
            activations[is_active] = activity.values[at[is_active]]
        marked, stop = activations > 0, stop.tolist()
        parts = [slice(a, b) for a, b in zip([0, *stop], stop, strict=False)]
        return [Example(rows[part], activations[part], marked[part]) for part in parts]

    def token(self, row):
        """The text of a token."""
        return str(self._token[row])

    def pieces(self, rows):
        """The texts of the tokens of a window, a list; joined they are its text.

        Parameters
        ----------
        rows : ndarray of int64
            Those of an example.
        """
        first, stop = rows[0], rows[-1] + 1
        pieces = [*map(str, self._token[first:stop].tolist())]
        a, b = self._changed.searchsorted((first, stop)).tolist()
        for row, behind in zip(self._changed[a:b].tolist(), self._behind[a:b], strict=True):
            token, start, end = pieces[row - first], self._start[row], self._end[row]
            pieces[row - first] = read_after(behind, token, start, end)
        return pieces

    def _find_changed(self):
        """Tokens that read otherwise than they are named, and where the text before them ends.

        Returns
        -------
        rows : ndarray of int64 of shape (n_changed,)
        behind : ndarray of int64 of shape (n_changed,)
        """
        start, end = self._start, self._end
        has_text = end > start
        # a running maximum in each window; tokens without characters do not count
        behind = np.append(0, np.where(has_text, end, start.min(initial=0))[:-1])
        behind[self.first] = start[self.first]
        offset = self._window_of * (np.ptp(np.append(behind, 0)) + 1)
        behind = np.maximum.accumulate(behind + offset) - offset
        rows = np.flatnonzero(has_text & (start != behind))
        return rows, behind[rows]

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
        is_active[self._window_of[activity.rows]] = True
        idle = self._distinct & ~is_active

        for split, half in self._halves.items():  # noqa: B007
            explain, score = half[window], ~half[window]
            n_here = [np.count_nonzero(these) for these in (explain, score, idle & ~half)]
            if min(n_here) >= MIN_WINDOWS:
                break
        else:
            raise TooFewWindows(
                f"active in {len(window)} windows and inactive in {np.count_nonzero(idle)}, but "
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
        """Distinct active windows: their index, greatest code, and the token id of that code.

        Of several tokens with the greatest code, the id is that of the last.
        """
        rows, values = activity
        if len(rows) == 0:
            return np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)
        of_row = self._window_of[rows]
        first = np.flatnonzero(np.diff(of_row, prepend=-1))
        n_active = np.diff(first, append=len(rows))
        peak = np.maximum.reduceat(values, first)
        is_peak = np.flatnonzero(values == np.repeat(peak, n_active))
        last = is_peak[np.searchsorted(is_peak, first + n_active) - 1]
        kept = self._distinct[of_row[first]]
        return of_row[first][kept], peak[kept], self.token_id[rows[last]][kept]

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
            a, b = self._sorted_id.searchsorted((token, token + 1))
            holding = self._holding[a:b]
            length = lengths[len(drawn)]
            distance = abs(self._length[holding] - length)
            near = pool[holding] & (distance <= length // _LENGTH_TOLERANCE)
            if near.any():
                holding, distance = holding[near], distance[near]
                nearest = holding[distance == distance.min()]
                drawn.append(nearest[rng.integers(len(nearest))])
                pool[drawn[-1]] = False
        order = self._by_length[pool[self._by_length]]
        left = _ByLength(order, self._length[order])
        for length in lengths[len(drawn) :].tolist():
            if left:
                drawn.append(left.draw(length, rng))
        return rng.permutation(np.array(drawn, dtype=np.int64))


class _ByLength:
    """Windows to draw from without repetition, by their lengths.

    Parameters
    ----------
    windows, lengths : ndarray of int64
        Ascending in length and, among equal ones, by their numbers.
    """

    def __init__(self, windows, lengths):
        first = np.flatnonzero(np.diff(lengths, prepend=-1))
        bounds = np.append(first, len(windows))
        self._left = {
            length: windows[a:b]
            for length, a, b in zip(lengths[first].tolist(), bounds, bounds[1:], strict=False)
        }

    def __bool__(self):
        return bool(self._left)

    def draw(self, length, rng):
        """Draw one of those that are closest to a length."""
        distance = min(abs(other - length) for other in self._left)
        nearest = [n for n in {length - distance, length + distance} if n in self._left]
        windows = self._left[nearest[0]]
        if len(nearest) == 2:
            windows = np.sort(np.concatenate([self._left[n] for n in nearest]))
        drawn = windows[rng.integers(len(windows))]
        for n in nearest:
            there = self._left[n]
            at = there.searchsorted(drawn)
            if at < len(there) and there[at] == drawn:
                self._left[n] = np.concatenate((there[:at], there[at + 1 :]))
                if len(there) == 1:
                    del self._left[n]
        return drawn


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
