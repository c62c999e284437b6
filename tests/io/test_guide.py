"""The tables of the guide are those of the code."""

import re
from pathlib import Path

from skdict._core.language.sites import BLOCK_HOOKS
from skdict.io import formats

GUIDE = (Path(__file__).parents[2] / "docs/user_guide/io.rst").read_text(encoding="utf-8")


def rows(start, n):
    """First cells and whole lines of the n-th simple table behind a heading."""
    parts = re.split(r"^=+(?:  =+)+$", GUIDE[GUIDE.index(start) :], flags=re.MULTILINE)
    return parts[3 * n + 2].strip("\n").split("\n")


def names(lines):
    firsts = [re.match(r"(?:``\w+``(?:, )?)*", line)[0] for line in lines]
    return {name for first in firsts for name in re.findall(r"``(\w+)``", first)}


def test_every_format_is_in_the_table():
    assert names(rows("Formats\n----", 0)) == {row["name"] for row in formats()}


def test_every_format_that_is_written_is_in_the_table():
    written = {row["name"] for row in formats() if row["writes"]}
    assert names(rows("Formats\n----", 1)) == written


def test_places():
    lines = rows("Places in a model\n----", 0)
    assert len(lines) == len(BLOCK_HOOKS)
    for line, (hook, places) in zip(lines, BLOCK_HOOKS.items(), strict=True):
        cells = [cell.replace("`", "") for cell in re.split(r"  +", line)]
        expected = [", ".join(filter(None, place)) for place in places.values()]
        assert cells == [hook, *expected]
