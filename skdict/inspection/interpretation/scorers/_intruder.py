"""Intruder: in which of five windows is the feature not active?"""

from dataclasses import replace

import numpy as np

from .._prompts import CLOSE, LINE_BREAK, OPEN, excerpt, numbered, parse_numbers
from ._base import Question, Scorer, register

N_WINDOWS = 5  # including the intruder


@register("intruder")
class Intruder(Scorer):
    """Asks which of five windows is the one without activity; needs no explanation."""

    chance = 1 / N_WINDOWS
    needs_explanation = False
    others = ("corrected",)
    system = (
        f"You see {N_WINDOWS} numbered excerpts of text, in which {LINE_BREAK} stands for a "
        f"line break. In all but one, the tokens marked {OPEN}so{CLOSE} are those on which one "
        "and the same feature of a neural network is active. In the other one, the intruder, the "
        "feature is not active, and the marks mean nothing. Which is the intruder? Answer with a "
        "JSON list that holds its number, and nothing else."
    )
    shot = (
        f"1: two{OPEN} green{CLOSE} hats\n2: the{OPEN} blue{CLOSE} door\n"
        f"3: a{OPEN} coat{CLOSE} of wool\n4: it was{OPEN} white{CLOSE}\n"
        f"5:{OPEN} red{CLOSE} wine",
        "[3]",
    )

    def questions(self, active, inactive, rng):
        """A question for every second inactive window."""
        return [_question(active, foil, rng) for foil in inactive[: len(inactive) // 2]]

    def content(self, question, grid):
        """The windows, numbered, with highlights."""
        return numbered([excerpt(e, grid, marks=True) for e in question.examples])

    def parse(self, completion, question):
        """The index of the intruder."""
        return parse_numbers(completion, 1, low=1, high=len(question.examples)) - 1

    def answer_by_rule(self, question, rules):
        """The window whose highlighted tokens are farthest from the mean of the others."""
        profiles = rules.profiles(question.examples)
        mean_of_others = (profiles.sum(axis=0) - profiles) / (len(profiles) - 1)
        return np.array([np.linalg.norm(profiles - mean_of_others, axis=1).argmax()])

    def measure(self, truth, answers):
        """Accuracy, and accuracy corrected for chance."""
        accuracy = np.mean(np.concatenate(truth) == np.concatenate(answers))
        return {"score": accuracy, "corrected": (accuracy - self.chance) / (1 - self.chance)}


def _question(active, foil, rng):
    """Active windows with similar peaks and an inactive one, at a random place.

    The inactive one, the intruder, is highlighted in the pattern of another active window.
    """
    n_shown = N_WINDOWS - 1
    start = rng.integers(len(active) - n_shown + 1)
    shown, others = active[start : start + n_shown], active[:start] + active[start + n_shown :]
    pattern = np.flatnonzero(others[rng.integers(len(others))].marked)
    marked = np.zeros_like(foil.marked)
    marked[(pattern + rng.integers(len(marked))) % len(marked)] = True
    place = rng.integers(N_WINDOWS)
    shown.insert(place, replace(foil, marked=marked))
    return Question(shown, np.array([place]))
