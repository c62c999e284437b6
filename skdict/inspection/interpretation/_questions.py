"""Questions about a feature, independent of who answers them, and the scores of answers."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

# Maximum number of windows in one question.
_BATCH_SIZE = 10
# Number of windows, including the intruder.
N_INTRUDER_WINDOWS = 5
# Score of uninformed answers.
CHANCE = {"detection": 0.5, "fuzzing": 0.5, "intruder": 1 / N_INTRUDER_WINDOWS, "simulation": 0.0}


class Question(NamedTuple):
    """A question with its true answer, which the judge does not see.

    `truth` is a boolean for each example ("detection", "fuzzing"), the index of the intruder
    ("intruder"), or the code at each token of the single example ("simulation").
    """

    kind: str
    examples: list
    truth: np.ndarray
    explanation: object = None


def explain_question(grid, activity, sample):
    """The question for an explanation; active examples first, in descending order of peak."""
    windows = [*sample.explain_active[::-1], *sample.explain_inactive]
    return Question("explain", [grid.example(w, activity) for w in windows], np.empty(0))


def score_questions(kind, active, inactive, rng):
    """The questions of a scorer, without explanation; empty if the windows do not allow any.

    `active` and `inactive` are lists of examples of equal length, `active` in ascending order of
    peak.
    """
    if kind == "detection":
        truth = np.repeat([True, False], [len(active), len(inactive)])
        return _batches(kind, active + inactive, truth, rng)
    if kind == "fuzzing":
        return _fuzzing(active, rng)
    if kind == "intruder":
        return [_intruder(active, foil, rng) for foil in inactive[: len(inactive) // 2]]
    return [Question(kind, [example], example.activations) for example in active + inactive]


def _batches(kind, examples, truth, rng):
    order = rng.permutation(len(examples))
    parts = np.array_split(order, np.ceil(len(order) / _BATCH_SIZE))
    return [Question(kind, [examples[i] for i in part], truth[part]) for part in parts]


def _fuzzing(active, rng):
    """Each window once with right and once with wrong highlights, in different questions."""
    active = [e for e in active if 2 * e.marked.sum() <= len(e.marked)]
    if len(active) < 2:
        return []
    wrong = [replace(e, marked=_misplaced(e.marked, rng)) for e in active]
    is_right = rng.permutation(len(active)) % 2 == 0
    questions = []
    for truth in (is_right, ~is_right):
        shown = [a if right else b for a, b, right in zip(active, wrong, truth, strict=True)]
        questions += _batches("fuzzing", shown, truth, rng)
    return questions


def _misplaced(marked, rng):
    """As many inactive tokens, in the same pattern if it fits, so that it reveals nothing."""
    shifted = [np.roll(marked, shift) for shift in range(1, len(marked))]
    shifted = [wrong for wrong in shifted if not (wrong & marked).any()]
    if shifted:
        return shifted[rng.integers(len(shifted))]
    wrong = np.zeros_like(marked)
    wrong[rng.choice(np.flatnonzero(~marked), marked.sum(), replace=False)] = True
    return wrong


def _intruder(active, foil, rng):
    """Active windows with similar peaks and an inactive one, at a random place.

    The inactive one, the intruder, is highlighted in the pattern of another active window.
    """
    n_shown = N_INTRUDER_WINDOWS - 1
    start = rng.integers(len(active) - n_shown + 1)
    shown, others = active[start : start + n_shown], active[:start] + active[start + n_shown :]
    pattern = np.flatnonzero(others[rng.integers(len(others))].marked)
    marked = np.zeros_like(foil.marked)
    marked[(pattern + rng.integers(len(marked))) % len(marked)] = True
    place = rng.integers(N_INTRUDER_WINDOWS)
    shown.insert(place, replace(foil, marked=marked))
    return Question("intruder", shown, np.array([place]))


def score(kind, questions, values):
    """Score the answers to the questions of one kind.

    Parameters
    ----------
    kind : str
    questions : list of Question
    values : list of (ndarray or None)
        The answers; None for questions without an answer.

    Returns
    -------
    scores : dict
        "score", of the items with an answer; for detection and fuzzing also "auc", for the
        intruder "corrected"; "n_items", and "failure_rate", the fraction without an answer. An
        item is a window, or for the intruder a group of windows.
    """
    n_items = [len(q.truth) if kind in ("detection", "fuzzing") else 1 for q in questions]
    n_failed = sum(n for n, value in zip(n_items, values, strict=True) if value is None)
    answered = [(q.truth, v) for q, v in zip(questions, values, strict=True) if v is not None]
    scores = {"score": np.nan, "n_items": sum(n_items)}
    scores["failure_rate"] = n_failed / sum(n_items) if n_items else np.nan
    truth, value = map(np.concatenate, zip(*answered, strict=True)) if answered else ([], [])
    if kind in ("detection", "fuzzing"):
        scores["auc"] = np.nan
        if len(np.unique(truth)) == 2:
            yes = value > 0.5
            scores["score"] = (np.mean(yes[truth]) + np.mean(~yes[~truth])) / 2
            scores["auc"] = roc_auc_score(truth, value)
    elif kind == "intruder":
        scores["score"] = np.mean(truth == value) if answered else np.nan
        chance = CHANCE["intruder"]
        scores["corrected"] = (scores["score"] - chance) / (1 - chance)
    elif answered:
        varies = np.ptp(truth) > 0 and np.ptp(value) > 0
        scores["score"] = np.corrcoef(truth, value)[0, 1] if varies else 0.0
    return scores
