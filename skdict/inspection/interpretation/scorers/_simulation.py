"""Simulation: given the explanation, how active is the feature on each token?"""

import json
import math
import re

import numpy as np

from .._prompts import numbered, shown
from ._base import Question, Scorer, register

_ONE_DIGIT = re.compile(r"\D*(\d)\D*")


@register("simulation")
class Simulation(Scorer):
    """Asks for the activation on each token of a window, given the explanation."""

    needs_logprobs = True
    system = (
        "You are told what a feature of a neural network is active on, and see the numbered "
        "tokens of an excerpt of text. Give for each token how active the feature is there, from "
        "0 (not at all) to 9 (most). Most tokens have 0. Answer with a JSON list of these digits, "
        "one per token in their order, and nothing else."
    )
    shot = (
        'Active on: names of colours\n\n1: "two"\n2: " light"\n3: " green"\n4: " hats"',
        "[0, 3, 9, 0]",
    )

    def questions(self, active, inactive, rng):
        """A question for each window."""
        return [Question([example], example.activations) for example in active + inactive]

    def content(self, question, grid):
        """The tokens, numbered."""
        pieces = grid.pieces(question.examples[0].rows)
        return numbered([json.dumps(shown(piece), ensure_ascii=False) for piece in pieces])

    def parse(self, completion, question):
        """The expected digit of each token."""
        return parse_expected_digits(completion, len(question.truth))

    def answer_by_rule(self, question, rules):
        """1 where the rule holds."""
        holds, _ = rules.holds(question.explanation, question.examples)
        return holds.astype(np.float64)

    def measure(self, truth, answers):
        """Correlation over all tokens; 0 if one of the two is constant."""
        truth, answers = np.concatenate(truth), np.concatenate(answers)
        varies = np.ptp(truth) > 0 and np.ptp(answers) > 0
        return {"score": np.corrcoef(truth, answers)[0, 1] if varies else 0.0}


def parse_expected_digits(completion, n_digits):
    """Expected values of the digits in the last list of a `Completion`, from its logprobs."""
    begin, stop, expected = str(completion).rfind("["), 0, []
    for token, alternatives in completion.logprobs:
        stop += len(token)
        if begin < 0 or stop <= begin or not _ONE_DIGIT.fullmatch(token):
            continue
        digits, weights = [], []
        for other, logprob in {token: 0.0, **alternatives}.items():
            match = _ONE_DIGIT.fullmatch(other)
            if match:
                digits.append(int(match[1]))
                weights.append(math.exp(logprob))
        expected.append(np.average(digits, weights=weights))
    if len(expected) != n_digits:
        raise ValueError(
            f"It must hold a JSON list of {n_digits} digits from 0 to 9, but has {len(expected)}."
        )
    return np.array(expected)
