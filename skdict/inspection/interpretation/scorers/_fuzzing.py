"""Fuzzing: are the highlighted tokens those on which the feature is active?"""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from .._prompts import CLOSE, LINE_BREAK, OPEN
from ._base import PerWindow, in_batches, register


@register("fuzzing")
class Fuzzing(PerWindow):
    """Asks whether the highlighted tokens are the active ones, given the explanation."""

    marks = True
    none_possible = "too few windows of which at most half is active"
    system = (
        "You are told what a feature of a neural network is active on, and see numbered excerpts "
        f"of text, in which {LINE_BREAK} stands for a line break. In each, some tokens are marked "
        f"{OPEN}so{CLOSE}. Give for each excerpt the probability that the marked tokens are those "
        "on which the feature is active. Answer with a JSON list of numbers from 0 to 1, one per "
        "excerpt in their order, and nothing else."
    )
    shot = (
        f"Active on: names of colours\n\n1: two{OPEN} green{CLOSE} hats\n"
        f"2: a{OPEN} coat{CLOSE} of red wool",
        "[1, 0]",
    )

    def questions(self, active, inactive, rng):
        """Each window once with right and once with wrong highlights, in different questions."""
        active = [e for e in active if 2 * e.marked.sum() <= len(e.marked)]
        if len(active) < 2:
            return []
        wrong = [replace(e, marked=_misplaced(e.marked, rng)) for e in active]
        is_right = rng.permutation(len(active)) % 2 == 0
        questions = []
        for truth in (is_right, ~is_right):
            shown = [a if right else b for a, b, right in zip(active, wrong, truth, strict=True)]
            questions += in_batches(shown, truth, rng)
        return questions

    def answer_by_rule(self, question, rules):
        """On what fraction of each window's highlighted tokens the rule holds."""
        holds, first = rules.holds(question.explanation, question.examples)
        marked = np.concatenate([example.marked for example in question.examples])
        n_held = np.add.reduceat((holds & marked).astype(np.int64), first)
        return n_held / np.add.reduceat(marked.astype(np.int64), first)


def _misplaced(marked, rng):
    """As many inactive tokens, in the same pattern if it fits, so that it reveals nothing."""
    shifted = marked[_shifts(len(marked))]
    shifted = shifted[~(shifted & marked).any(axis=1)]
    if len(shifted):
        return shifted[rng.integers(len(shifted))]
    wrong = np.zeros_like(marked)
    wrong[rng.choice(np.flatnonzero(~marked), marked.sum(), replace=False)] = True
    return wrong


@lru_cache(maxsize=64)
def _shifts(n):
    """Where each entry comes from under each cyclic shift by 1 to n - 1, (n - 1, n)."""
    return (np.arange(n) - np.arange(1, n)[:, None]) % n
