import platform
import subprocess
import sys
import sysconfig
import zlib
from pathlib import Path

import numpy as np
import pytest

from skdict.datasets import load_python_corpus


@pytest.fixture(scope="module")
def corpora():
    return {subset: load_python_corpus(subset=subset) for subset in ("train", "test", "all")}


@pytest.mark.slow
def test_fields_are_aligned(corpora):
    for subset, corpus in corpora.items():
        assert len(corpus.data) == len(corpus.filenames) == len(corpus.target) > 0
        assert corpus.target.dtype == np.int64
        assert all(isinstance(text, str) and text.strip() for text in corpus.data)
        assert platform.python_version() in corpus.DESCR and repr(subset) in corpus.DESCR
        assert f"{sum(map(len, corpus.data)):,} characters" in corpus.DESCR


def test_split_is_by_file_and_disjoint(corpora):
    train, test, everything = (corpora[key] for key in ("train", "test", "all"))
    assert set(train.filenames).isdisjoint(test.filenames)
    assert len(set(everything.filenames)) == len(everything.filenames)
    assert sorted(train.filenames + test.filenames) == sorted(everything.filenames)
    texts = dict(zip(everything.filenames, everything.data, strict=True))
    for corpus in (train, test):
        assert all(
            texts[name] == text for name, text in zip(corpus.filenames, corpus.data, strict=True)
        )


def test_about_one_in_ten_is_held_out(corpora):
    n_files = {subset: len(corpus.data) for subset, corpus in corpora.items()}
    n_characters = {subset: sum(map(len, c.data)) for subset, c in corpora.items()}
    assert 0.05 < n_files["test"] / n_files["all"] < 0.15
    assert 0.05 < n_characters["test"] / n_characters["all"] < 0.15


def test_split_depends_on_the_name_alone(corpora):
    """The rule the embedded model was trained with; changing it would leak held-out files."""
    assert all(zlib.crc32(name.encode()) % 10 == 0 for name in corpora["test"].filenames)
    assert all(zlib.crc32(name.encode()) % 10 != 0 for name in corpora["train"].filenames)


def test_texts_are_the_files(corpora):
    corpus = corpora["all"]
    root = Path(sysconfig.get_path("stdlib"))
    name = "json/decoder.py"
    text = corpus.data[corpus.filenames.index(name)]
    assert text == (root / name).read_text(encoding="utf-8")
    parts = {part for name in corpus.filenames for part in Path(name).parts[:-1]}
    assert parts.isdisjoint({"test", "tests", "site-packages", "_bundled"})


def test_targets_tell_source_from_documentation(corpora):
    corpus = corpora["all"]
    assert corpus.target_names == ["source", "documentation"]
    for name, target in zip(corpus.filenames, corpus.target, strict=True):
        assert name.endswith(".py") == (target == 0)
        assert name.startswith("pydoc_data/topics/") == (target == 1)


@pytest.mark.slow
def test_order_is_deterministic(corpora):
    again = load_python_corpus(subset="test")
    assert again.filenames == corpora["test"].filenames
    assert again.data == corpora["test"].data
    assert load_python_corpus().filenames == corpora["train"].filenames


@pytest.mark.parametrize("subset", ["validation", None, 0, ["train"]])
def test_unknown_subset(subset):
    with pytest.raises(ValueError, match="'subset' parameter of load_python_corpus"):
        load_python_corpus(subset=subset)


@pytest.mark.slow
def test_import_is_light():
    code = (
        "import sys, skdict.datasets; "
        "print([name for name in ('torch', 'transformers', 'matplotlib') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
