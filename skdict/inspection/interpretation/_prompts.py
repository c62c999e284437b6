"""How windows read in prompts, and how lists of numbers in answers are read."""

import math
import re

import numpy as np

LINE_BREAK = "⏎"
OPEN, CLOSE = "«»"
# Highlight marks in the text itself are replaced by similar ones.
_SHOWN_AS = str.maketrans({"\n": LINE_BREAK, "\r": "", OPEN: "‹", CLOSE: "›"})
_LIST = re.compile(r"\[[^\[\]]*\]")
# Reasoning that a server leaves in the text; its opening tag may be part of the prompt.
_THOUGHTS = re.compile(
    r"\A\s*<think>.*?(?:</think>|\Z)|\A.*</think>[ \t]*$", re.DOTALL | re.MULTILINE
)
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


def messages(system, shot, content):
    """The messages of a question: instructions, a worked example, and the question itself."""
    turns = zip(("system", "user", "assistant", "user"), (system, *shot, content), strict=True)
    return [{"role": role, "content": text} for role, text in turns]


def excerpt(example, grid, *, marks):
    """The text of an example; with `marks` its marked tokens are highlighted."""
    pieces = grid.pieces(example.rows)
    if not marks:
        return shown("".join(pieces))
    parts, stop = [], 0
    for at in np.flatnonzero(example.marked).tolist():
        parts += [shown("".join(pieces[stop:at])), OPEN, shown(pieces[at]), CLOSE]
        stop = at + 1
    return "".join([*parts, shown("".join(pieces[stop:]))])


def shown(text):
    """Text with its line breaks shown, and its own highlight marks replaced."""
    return text.translate(_SHOWN_AS)


def numbered(lines):
    """The lines, numbered from 1."""
    return "\n".join(f"{number}: {line}" for number, line in enumerate(lines, start=1))


def without_thoughts(text):
    """The text without the reasoning that a server may leave in it."""
    return _THOUGHTS.sub("", text)


def parse_numbers(text, n_numbers, *, low, high):
    """The last list of `n_numbers` numbers in a text, inside any prose or fences."""
    lists = _LIST.findall(without_thoughts(text))
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
