"""Prompts for a language model, and parsers of its answers."""

import json
import math
import re

import numpy as np

from ._questions import N_INTRUDER_WINDOWS

_LINE_BREAK = "⏎"
_OPEN, _CLOSE = "«»"
# Highlight marks in the text itself are replaced by similar ones.
_SHOWN_AS = str.maketrans({"\n": _LINE_BREAK, "\r": "", _OPEN: "‹", _CLOSE: "›"})
_LIST = re.compile(r"\[[^\[\]]*\]")
_EXPLANATION = re.compile(r"^[^\w\n]*explanation[^\w\s:]*\s*:\s*", re.IGNORECASE | re.MULTILINE)
# Markdown emphasis of the heading, alone or with the phrase, and of the whole phrase. Other marks
# belong to the phrase: features can be about "==" or "(".
_BOLD_HEADING = re.compile(
    r"^([^\w\n*]*)(\*{1,3})(explanation\s*:|explanation\s*:.+?(?=\2\s*$))\2",
    re.IGNORECASE | re.MULTILINE,
)
_BOLD_PHRASE = re.compile(r"(\*{1,2}|`)((?:(?!\1).)+)\1", re.DOTALL)
_OPENED_FENCE = re.compile(r"\A\s*```\w*\n")
# Reasoning that a server leaves in the text; its opening tag may be part of the prompt.
_THOUGHTS = re.compile(
    r"\A\s*<think>.*?(?:</think>|\Z)|\A.*</think>[ \t]*$", re.DOTALL | re.MULTILINE
)
_ONE_DIGIT = re.compile(r"\D*(\d)\D*")
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}

_EXPLAIN = (
    "You study one feature of a neural network that reads text token by token. You see excerpts "
    f"of text, in which {_LINE_BREAK} stands for a line break. Tokens on which the feature is "
    f"active are marked {_OPEN}so{_CLOSE}; below the excerpt they are listed again, with the "
    "strength of the activity from 1 to 10. In some excerpts, without marks, the feature is not "
    "active, although they may look alike. Say in one short phrase what the feature is active on: "
    "which tokens, and in which context if it matters. It must fit the marked tokens and exclude "
    "the others. Your answer ends with a line of the form\nExplanation: <phrase>"
)
_DETECTION = (
    "You are told what a feature of a neural network is active on, and see numbered excerpts of "
    f"text, in which {_LINE_BREAK} stands for a line break. Give for each excerpt the probability "
    "that the feature is active on any of its tokens. Answer with a JSON list of numbers from 0 "
    "to 1, one per excerpt in their order, and nothing else."
)
_FUZZING = (
    "You are told what a feature of a neural network is active on, and see numbered excerpts of "
    f"text, in which {_LINE_BREAK} stands for a line break. In each, some tokens are marked "
    f"{_OPEN}so{_CLOSE}. Give for each excerpt the probability that the marked tokens are those "
    "on which the feature is active. Answer with a JSON list of numbers from 0 to 1, one per "
    "excerpt in their order, and nothing else."
)
_INTRUDER = (
    f"You see {N_INTRUDER_WINDOWS} numbered excerpts of text, in which {_LINE_BREAK} stands for a "
    f"line break. In all but one, the tokens marked {_OPEN}so{_CLOSE} are those on which one and "
    "the same feature of a neural network is active. In the other one, the intruder, the feature "
    "is not active, and the marks mean nothing. Which is the intruder? Answer with a JSON list "
    "that holds its number, and nothing else."
)
_SIMULATION = (
    "You are told what a feature of a neural network is active on, and see the numbered tokens of "
    "an excerpt of text. Give for each token how active the feature is there, from 0 (not at all) "
    "to 9 (most). Most tokens have 0. Answer with a JSON list of these digits, one per token in "
    "their order, and nothing else."
)


def _turn(role, content):
    return {"role": role, "content": content}


# One worked example for each kind of question: (question, answer).
_SHOTS = {
    "explain": (
        f"Active:\n1: a coat of {_OPEN} red{_CLOSE} wool and two{_OPEN} green{_CLOSE} hats\n"
        '   strengths: " red" 9, " green" 7\n'
        f'2: the {_OPEN}blue{_CLOSE} door\n   strengths: "blue" 10\n\n'
        "Not active:\n3: a coat of thick wool and two hats",
        "Explanation: names of colours",
    ),
    "detection": (
        "Active on: names of colours\n\n1: two green hats\n2: the door is open\n3: it was golden",
        "[1, 0, 0.7]",
    ),
    "fuzzing": (
        f"Active on: names of colours\n\n1: two{_OPEN} green{_CLOSE} hats\n"
        f"2: a{_OPEN} coat{_CLOSE} of red wool",
        "[1, 0]",
    ),
    "intruder": (
        f"1: two{_OPEN} green{_CLOSE} hats\n2: the{_OPEN} blue{_CLOSE} door\n"
        f"3: a{_OPEN} coat{_CLOSE} of wool\n4: it was{_OPEN} white{_CLOSE}\n"
        f"5:{_OPEN} red{_CLOSE} wine",
        "[3]",
    ),
    "simulation": (
        'Active on: names of colours\n\n1: "two"\n2: " light"\n3: " green"\n4: " hats"',
        "[0, 3, 9, 0]",
    ),
}


def messages_and_parser(question, grid):
    """Turn a question into messages and a function that reads the answer.

    Parameters
    ----------
    question : Question
    grid : WindowGrid

    Returns
    -------
    messages : list of dict
        With "role" and "content".
    parse : callable
        From a `Completion` to the value of the answer; raises ValueError if it is unreadable.
    """
    kind, examples = question.kind, question.examples
    if kind == "explain":
        system, content, parse = _EXPLAIN, _explain_content(examples, grid), parse_explanation
    elif kind == "simulation":
        rows = examples[0].rows
        pieces = [json.dumps(_shown(piece), ensure_ascii=False) for piece in grid.pieces(rows)]
        system, content = _SIMULATION, _numbered(pieces)

        def parse(completion):
            return parse_expected_digits(completion, len(rows))

    else:
        marks = kind != "detection"
        content = _numbered([_excerpt(example, grid, marks=marks) for example in examples])
        system = {"detection": _DETECTION, "fuzzing": _FUZZING, "intruder": _INTRUDER}[kind]

        def parse(completion):
            if kind == "intruder":
                return parse_numbers(completion, 1, low=1, high=len(examples)) - 1
            return parse_numbers(completion, len(examples), low=0, high=1)

    if question.explanation is not None:
        content = f"Active on: {question.explanation}\n\n{content}"
    shown, answer = _SHOTS[kind]
    turns = [("system", system), ("user", shown), ("assistant", answer), ("user", content)]
    return [_turn(role, text) for role, text in turns], parse


def _explain_content(examples, grid):
    highest = max(example.activations.max() for example in examples)
    parts, titles = [], {True: "Active:", False: "\nNot active:"}
    for number, example in enumerate(examples, start=1):
        is_active = bool(example.marked.any())
        if is_active in titles:
            parts.append(titles.pop(is_active))
        parts.append(f"{number}: {_excerpt(example, grid, marks=True)}")
        if is_active:
            strengths = np.ceil(10 * example.activations / highest).astype(int)
            pieces = zip(grid.pieces(example.rows), strengths, strict=True)
            listed = [
                f"{json.dumps(_shown(piece), ensure_ascii=False)} {strength}"
                for piece, strength in pieces
                if strength > 0
            ]
            parts.append(f"   strengths: {', '.join(listed)}")
    return "\n".join(parts)


def _excerpt(example, grid, *, marks):
    pieces = [_shown(piece) for piece in grid.pieces(example.rows)]
    if marks:
        pieces = [
            f"{_OPEN}{piece}{_CLOSE}" if marked else piece
            for piece, marked in zip(pieces, example.marked, strict=True)
        ]
    return "".join(pieces)


def _shown(piece):
    return piece.translate(_SHOWN_AS)


def _numbered(lines):
    return "\n".join(f"{number}: {line}" for number, line in enumerate(lines, start=1))


def parse_explanation(text):
    """The phrase after the last "Explanation:", or the whole text without this heading."""
    text = _without_fence(_THOUGHTS.sub("", text))
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


def parse_numbers(text, n_numbers, *, low, high):
    """The last list of `n_numbers` numbers in a text, inside any prose or fences."""
    lists = _LIST.findall(_THOUGHTS.sub("", text))
    for found in reversed(lists):
        numbers = [_number(entry) for entry in found[1:-1].split(",")]
        if len(numbers) == n_numbers and all(low <= number <= high for number in numbers):
            return np.array(numbers)
    raise ValueError(
        f"It must hold a JSON list of {n_numbers} numbers from {low} to {high}, but has "
        + (f"{lists[-1]:.200}." if lists else "no list.")
    )


def _number(entry):
    """A number from a numeral, yes, no, true or false; nan for anything else."""
    entry = entry.strip().strip("\"'").lower()
    try:
        return _WORDS[entry] if entry in _WORDS else float(entry)
    except ValueError:
        return math.nan


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


class LanguageModelJudge:
    """Answers all kinds of questions by asking a language model.

    Parameters
    ----------
    asker : Asker
    grid : WindowGrid
    """

    def __init__(self, asker, grid):
        self._asker = asker
        self._grid = grid

    def answer(self, question):
        """Return the model's `Answer`."""
        messages, parse = messages_and_parser(question, self._grid)
        return self._asker.ask(messages, parse, logprobs=question.kind == "simulation")
