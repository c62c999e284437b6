"""Explanations by a language model, and its answers to the scorers' questions."""

import json
import re

import numpy as np

from .._prompts import CLOSE, LINE_BREAK, OPEN, excerpt, messages, shown, without_thoughts

_EXPLANATION = re.compile(r"^[^\w\n]*explanation[^\w\s:]*\s*:\s*", re.IGNORECASE | re.MULTILINE)
# Markdown emphasis of the heading, alone or with the phrase, and of the whole phrase. Other marks
# belong to the phrase: features can be about "==" or "(".
_BOLD_HEADING = re.compile(
    r"^([^\w\n*]*)(\*{1,3})(explanation\s*:|explanation\s*:.+?(?=\2\s*$))\2",
    re.IGNORECASE | re.MULTILINE,
)
_BOLD_PHRASE = re.compile(r"(\*{1,2}|`)((?:(?!\1).)+)\1", re.DOTALL)
_OPENED_FENCE = re.compile(r"\A\s*```\w*\n")

EXPLAIN = (
    "You study one feature of a neural network that reads text token by token. You see excerpts "
    f"of text, in which {LINE_BREAK} stands for a line break. Tokens on which the feature is "
    f"active are marked {OPEN}so{CLOSE}; below the excerpt they are listed again, with the "
    "strength of the activity from 1 to 10. In some excerpts, without marks, the feature is not "
    "active, although they may look alike. Say in one short phrase what the feature is active on: "
    "which tokens, and in which context if it matters. It must fit the marked tokens and exclude "
    "the others. Your answer ends with a line of the form\nExplanation: <phrase>"
)
_SHOT = (
    f"Active:\n1: a coat of {OPEN} red{CLOSE} wool and two{OPEN} green{CLOSE} hats\n"
    '   strengths: " red" 9, " green" 7\n'
    f'2: the {OPEN}blue{CLOSE} door\n   strengths: "blue" 10\n\n'
    "Not active:\n3: a coat of thick wool and two hats",
    "Explanation: names of colours",
)


class LanguageModelExplainer:
    """Explains, and answers questions, by asking a language model.

    Parameters
    ----------
    asker : Asker
    grid : WindowGrid
    """

    def __init__(self, asker, grid):
        self._asker = asker
        self._grid = grid

    def explain(self, examples):
        """Return the `Answer` whose value is the explanation, a str.

        Parameters
        ----------
        examples : list of Example
            Active ones first, in descending order of their greatest activation.
        """
        asked = messages(EXPLAIN, _SHOT, _content(examples, self._grid))
        return self._asker.ask(asked, parse_explanation)

    def answer(self, scorer, question):
        """Return the `Answer` to a question of a scorer."""
        content = scorer.content(question, self._grid)
        if question.explanation is not None:
            content = f"Active on: {question.explanation}\n\n{content}"
        return self._asker.ask(
            messages(scorer.system, scorer.shot, content),
            lambda completion: scorer.parse(completion, question),
            logprobs=scorer.needs_logprobs,
        )

    @staticmethod
    def to_json(explanation):
        """The explanation as JSON can hold it."""
        return explanation

    @staticmethod
    def from_json(stored):
        """The explanation that was stored."""
        return stored


def _content(examples, grid):
    highest = max(example.activations.max() for example in examples)
    parts, titles = [], {True: "Active:", False: "\nNot active:"}
    for number, example in enumerate(examples, start=1):
        is_active = bool(example.marked.any())
        if is_active in titles:
            parts.append(titles.pop(is_active))
        parts.append(f"{number}: {excerpt(example, grid, marks=True)}")
        if is_active:
            strengths = np.ceil(10 * example.activations / highest).astype(int)
            pieces = zip(grid.pieces(example.rows), strengths, strict=True)
            listed = [
                f"{json.dumps(shown(piece), ensure_ascii=False)} {strength}"
                for piece, strength in pieces
                if strength > 0
            ]
            parts.append(f"   strengths: {', '.join(listed)}")
    return "\n".join(parts)


def parse_explanation(text):
    """The phrase after the last "Explanation:", or the whole text without this heading."""
    text = _without_fence(without_thoughts(text))
    phrase = _EXPLANATION.split(_BOLD_HEADING.sub(r"\1\3", text))[-1]
    phrase = " ".join(phrase.split())
    if not phrase.strip("*"):
        raise ValueError("There is no explanation in it.")
    whole = _BOLD_PHRASE.fullmatch(phrase)
    return whole[2] if whole else phrase


def _without_fence(text):
    """The text without the fences of a code block around it."""
    text = _OPENED_FENCE.sub("", text)
    # not by a regular expression, which would scan the white space after every line break
    inside = text.rstrip().removesuffix("```")
    end = len(inside.rstrip())
    closed = len(inside) < len(text.rstrip()) and "\n" in inside[end:]
    return inside[:end] if closed else text
