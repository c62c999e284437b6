"""The Python standard library as a corpus, read from the running interpreter."""

import sysconfig
import zlib
from pathlib import Path

_EXCLUDED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "_bundled"}
_SUBSETS = ("train", "test", "all")


def _is_held_out(name):
    """Split by the file's name alone: the same file is on the same side everywhere."""
    return zlib.crc32(name.encode()) % 10 == 0


def _source_files():
    """Yield (name, text) of every module of the standard library outside its own tests."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _EXCLUDED_FOLDERS.isdisjoint(relative.parts) and relative.name != "topics.py":
            try:
                yield relative.as_posix(), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a few modules declare another encoding on purpose


def _documentation_topics():
    """Yield (name, text) of the language reference as `help()` shows it, one topic each."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return
    for topic, text in sorted(topics.items()):
        yield f"pydoc_data/topics/{topic}", text


def load_python_corpus(*, subset="train"):
    from sklearn.utils import Bunch

    documents = [*_source_files(), *_documentation_topics()]
    documents = [
        (name, text)
        for name, text in documents
        if text.strip() and (subset == "all" or _is_held_out(name) == (subset == "test"))
    ]
    return Bunch(filenames=[name for name, _ in documents], data=[text for _, text in documents])
