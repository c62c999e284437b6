"""Detection: given the explanation, is the feature active in this window?"""

import numpy as np

from .._prompts import LINE_BREAK
from ._base import PerWindow, in_batches, register


@register("detection")
class Detection(PerWindow):
    """Asks in which windows the feature is active, given its explanation."""

    system = (
        "You are told what a feature of a neural network is active on, and see numbered excerpts "
        f"of text, in which {LINE_BREAK} stands for a line break. Give for each excerpt the "
        "probability that the feature is active on any of its tokens. Answer with a JSON list of "
        "numbers from 0 to 1, one per excerpt in their order, and nothing else."
    )
    shot = (
        "Active on: names of colours\n\n1: two green hats\n2: the door is open\n3: it was golden",
        "[1, 0, 0.7]",
    )

    def questions(self, active, inactive, rng):
        """All windows, mixed."""
        truth = np.repeat([True, False], [len(active), len(inactive)])
        return in_batches(active + inactive, truth, rng)

    def answer_by_rule(self, question, rules):
        """Whether the rule holds on any token of each window."""
        holds, first = rules.holds(question.explanation, question.examples)
        return np.logical_or.reduceat(holds, first).astype(np.float64)
