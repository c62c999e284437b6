"""Files at the root say the same of versions."""

import re
from pathlib import Path

import pytest

import skdict

ROOT = Path(__file__).parents[1]


def found(pattern, name):
    """All that a pattern finds in a file at the root."""
    matches = re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert matches, f"{name} says nothing of {pattern}"
    return matches


def test_pre_commit_runs_the_ruff_of_the_constraints():
    (version,) = found(r"^ruff==(\S+)$", "constraints.txt")
    assert set(found(r'"ruff==([^"]+)"', ".pre-commit-config.yaml")) == {version}


def test_ci_runs_the_versions_of_python_that_are_declared():
    (matrix,) = found(r"python-version: \[(.*)\]$", ".github/workflows/ci.yml")
    declared = found(r'"Programming Language :: Python :: (3\.\d+)"', "pyproject.toml")
    assert re.findall(r"3\.\d+", matrix) == declared
    assert found(r'^requires-python = ">=(.*)"$', "pyproject.toml") == declared[:1]


@pytest.mark.parametrize("name", ["pyproject.toml", "CITATION.cff"])
def test_the_version_is_that_of_the_package(name):
    assert found(r'^version(?: = |: )"?([\w.]+)"?$', name) == [skdict.__version__]


def test_the_readme_cites_as_the_citation_file_does():
    cited = {"title": found(r'^title: "(.*)"$', "CITATION.cff")[0], "version": skdict.__version__}
    assert dict(found(r"^  (title|version) += \{(.*)\},?$", "README.md")) == cited


def test_what_the_tests_import_is_pinned():
    """Everything that the extras name has a version in constraints.txt."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = text.split("[project.optional-dependencies]")[1].split("\nbench =")[0]
    needed = {name.lower() for name in re.findall(r'"([\w-]+)>=', extras)}
    pinned = {name.lower() for name in found(r"^([\w-]+)==", "constraints.txt")}
    assert needed <= pinned, needed - pinned


def test_every_test_file_has_a_name_of_its_own():
    """pytest imports them by name, as there are no packages in tests."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), {name for name in names if names.count(name) > 1}
