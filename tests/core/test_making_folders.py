"""Folders that users name are made, and files are not taken for folders."""

import pytest

from skdict._core.making_folders import make_folder


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
