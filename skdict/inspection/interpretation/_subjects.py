"""What is drawn for a feature or a neuron: windows, and the questions about them."""

import zlib
from typing import NamedTuple

import numpy as np

from ._windows import Activity, TooFewWindows
from .scorers import IN_ORDER

FEATURES, NEURONS, _MATCHING, SHUFFLING, _OTHER_SCORERS = 1, 2, 3, 4, 5  # seeds of generators


class Drawn(NamedTuple):
    """The windows of a feature or neuron, and the questions about them.

    Parameters
    ----------
    n_active_windows : int
    split : str
        As in `Sample`; empty if there are too few windows.
    shown : list of Example
        The windows to explain: active ones in descending order of their peaks, then inactive ones.
    questions : dict of str to list of Question
        The questions of each scorer, without explanation.
    reason : str
        Why there are no windows; otherwise empty.
    """

    n_active_windows: int
    split: str
    shown: list
    questions: dict
    reason: str = ""


class Drawing:
    """Draws the windows and the questions about a feature or a neuron.

    What is drawn does not depend on which other features, or which scorers, are asked for.

    Parameters
    ----------
    grid : WindowGrid
    scorers : list of Scorer
    seed : int
    sizes : dict
        As for `WindowGrid.draw`.
    """

    def __init__(self, grid, scorers, seed, **sizes):
        self._grid = grid
        self._seed = seed
        self._sizes = sizes
        asked = {scorer.name: scorer for scorer in scorers}
        # up to the last that is asked for, since they share a generator
        names = [scorer.name for scorer in IN_ORDER]
        n_shared = max((names.index(name) + 1 for name in asked if name in names), default=0)
        self._shared = [asked.pop(scorer.name, None) or scorer() for scorer in IN_ORDER[:n_shared]]
        self._others = list(asked.values())
        self._wanted = {scorer.name for scorer in scorers}

    def __call__(self, index, activity, *, seeded_for):
        """What is `Drawn` for a feature (seeded for FEATURES) or a neuron (for NEURONS)."""
        seed = [self._seed, seeded_for, index]
        rng = np.random.default_rng(seed)
        try:
            sample = self._grid.draw(activity, rng, **self._sizes)
        except TooFewWindows as error:
            return Drawn(error.n_active, "", [], {}, str(error))
        shown = [*sample.explain_active[::-1], *sample.explain_inactive]
        shown = self._grid.examples(np.array(shown), activity)
        active = self._grid.examples(sample.score_active, activity)
        inactive = self._grid.examples(sample.score_inactive, activity)
        questions = {}
        for scorer in self._shared:
            questions[scorer.name] = scorer.questions(active, inactive, rng)
        for scorer in self._others:
            own = [*seed, _OTHER_SCORERS, zlib.crc32(scorer.name.encode())]
            questions[scorer.name] = scorer.questions(active, inactive, np.random.default_rng(own))
        questions = {name: asked for name, asked in questions.items() if name in self._wanted}
        return Drawn(sample.n_active, sample.split, shown, questions)


def match_neurons(n_active, features, counts, seed):
    """For each feature, draw a neuron that is active on at least as many rows, if there is one.

    Parameters
    ----------
    n_active : ndarray of int64 of shape (n_neurons,)
        On how many rows each neuron is active.
    features, counts : sequence of int
        The features, and on how many rows each is active.
    seed : int

    Returns
    -------
    neurons : ndarray of int64, one for each feature
    """
    neurons = []
    for feature, n_rows in zip(features, counts, strict=True):
        eligible = np.flatnonzero(n_active >= min(n_rows, n_active.max()))
        neurons.append(np.random.default_rng([seed, _MATCHING, feature]).choice(eligible))
    return np.array(neurons, dtype=np.int64)


def greatest(activity, n_rows):
    """The `n_rows` rows with the greatest activations."""
    kept = np.sort(np.argsort(-activity.values, kind="stable")[:n_rows])
    return Activity(activity.rows[kept], activity.values[kept])
