"""Folders that users name are made, and files are not taken for folders."""

from pathlib import Path

import numpy as np
import pytest

from skdict import SparseAutoencoderDictionary
from skdict._core.making_folders import make_folder
from skdict.callbacks import Checkpoint
from skdict.inspection import collect_codes
from skdict.io import save_dictionary
from skdict.utils._file_cache import FileCache


def test_a_folder_is_made_once(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b", "out")
        assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("below", ["", "b", "b/c"])
def test_the_path_of_a_file_is_refused(tmp_path, below):
    (tmp_path / "a").write_text("text")
    with pytest.raises(
        NotADirectoryError, match=r"out='.*a.*' is a file, or below one\. Give the path"
    ):
        make_folder(tmp_path / "a" / below, "out")
    assert (tmp_path / "a").read_text() == "text"


@pytest.mark.parametrize("url", ["s3://bucket/codes", Path("gs://bucket"), "file:///tmp/codes"])
def test_a_url_is_refused(url, tmp_path, monkeypatch):
    """As a path it would be a folder of that name, here."""
    monkeypatch.chdir(tmp_path)
    X = np.eye(4, 6)
    sae = SparseAutoencoderDictionary(4, max_iter=1, random_state=0).fit(X)
    for write in (
        lambda: make_folder(url, "out"),
        lambda: sae.transform(X, out=url),
        lambda: save_dictionary(sae, url),
        lambda: collect_codes(sae, X, path=url),
        lambda: collect_codes(sae, X).save(url),
        lambda: FileCache(url, "", ""),
        lambda: sae.set_callbacks(Checkpoint(url)).fit(X),
    ):
        with pytest.raises(ValueError, match="is a URL, but these files are kept on this machine"):
            write()
    assert list(tmp_path.iterdir()) == []


def test_drives_and_names_with_colons_are_no_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("C:/codes", "run 1: codes", "a:b/c", "./memory:/codes"):
        make_folder(name, "out")
        assert (tmp_path / name).is_dir()
