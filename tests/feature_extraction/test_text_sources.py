"""Documents of each kind of source: all of them, from any one on, every so many."""

import gzip
import json

import numpy as np
import pandas
import polars
import pytest
import torch

from skdict.feature_extraction._text_sources import text_source

TEXTS = [f"text {i}" for i in range(23)]


class Dataset:
    """What a `Dataset` of Hugging Face has that is used."""

    def __init__(self, columns):
        self.column_names, self.columns = list(columns), columns

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return {name: column[rows] for name, column in self.columns.items()}


class IterableDataset:
    def __init__(self, texts, column="text"):
        self.texts, self.column = texts, column

    def __iter__(self):
        return ({self.column: text, "n": 1} for text in self.texts)


def jsonl(path, texts, column="text"):
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({column: text}) + "\n" for text in texts)
    return path


def folder(path, texts):
    path.mkdir(parents=True)
    frame = polars.DataFrame({"text": texts[:10], "n": list(range(10))})
    frame.write_parquet(path / "a.parquet", row_group_size=3)
    jsonl(path / "b.jsonl", texts[10:12])
    jsonl(path / "c.jsonl.gz", texts[12:17])
    (path / "d.txt").write_text("\n".join(texts[17:]), encoding="utf-8")
    (path / "README").write_text("not a text")
    return path


KINDS = {
    "list": lambda path, texts: texts,
    "tuple": lambda path, texts: tuple(texts),
    "ndarray": lambda path, texts: np.array(texts, dtype=object),
    "pandas": lambda path, texts: pandas.Series(texts),
    "polars": lambda path, texts: polars.Series(texts),
    "dataset": lambda path, texts: Dataset({"text": texts, "n": texts}),
    "iterable dataset": lambda path, texts: IterableDataset(texts),
    "generator": lambda path, texts: (text for text in texts),
    "folder": lambda path, texts: folder(path / "f", texts),
    "str": lambda path, texts: str(folder(path / "f", texts)),
    "pattern": lambda path, texts: str(folder(path / "f", texts) / "*.*"),
    "paths": lambda path, texts: sorted(folder(path / "f", texts).glob("*.*")),
    "str paths": lambda path, texts: [
        str(each) for each in sorted(folder(path / "f", texts).glob("*.*"))
    ],
    "url": lambda path, texts: f"file://{folder(path / 'f', texts)}",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("skdict.feature_extraction._text_sources.ROWS_AT_ONCE", 4)
    source = text_source(KINDS[kind](tmp_path, TEXTS))
    assert source.first.text == TEXTS[0]
    ways = [(0, 1), (0, 2), (1, 2), (5, 1), (9, 3), (11, 4), (16, 5), (22, 1), (23, 1), (40, 2)]
    for start, step in ways if source.can_be_read_again else ways[4:5]:
        found = [(each.number, each.text) for each in source.documents(start, step)]
        assert found == list(enumerate(TEXTS))[start::step]
    json.dumps(source.identity)
    if not source.can_be_read_again:
        with pytest.raises(ValueError, match="generator, which can be read only once"):
            next(source.documents(0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_identity_is_that_of_the_texts(kind, tmp_path):
    def identity(name, texts):
        return text_source(KINDS[kind](tmp_path / name, texts)).identity

    assert identity("a", TEXTS) == identity("b", TEXTS) != identity("c", ["another", *TEXTS[1:]])


def test_columns_have_to_be_there(tmp_path):
    polars.DataFrame({"body": ["a"], "n": [1]}).write_parquet(tmp_path / "a.parquet")
    jsonl(tmp_path / "b.jsonl", ["a"], "body")
    for texts in (tmp_path / "a.parquet", tmp_path / "b.jsonl", Dataset({"body": ["a"]})):
        with pytest.raises(ValueError, match=r"'text'.*text_column"):
            _ = text_source(texts).first
        assert text_source(texts, "body").first.text == "a"
    with pytest.raises(ValueError, match=r"texts\[0\] has no column 'text': it has body, n"):
        text_source(IterableDataset(["a"], "body"))
    with pytest.raises(ValueError, match=r"a\.parquet, row 0: 'n' must be text, but it is 1"):
        _ = text_source(tmp_path / "a.parquet", "n").first
    with pytest.raises(TypeError, match="text_column must be a str"):
        text_source(["a"], 3)


def test_bad_files(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2 is no JSON"):
        list(text_source(tmp_path / "a.jsonl").documents(0, 1))
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"b\.txt is not in UTF-8"):
        list(text_source(tmp_path / "b.txt").documents(0, 1))
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"c\.parquet cannot be read as parquet"):
        text_source(tmp_path / "c.parquet")
    (tmp_path / "d.csv").write_text("a")
    with pytest.raises(ValueError, match=r"d\.csv must end in one of"):
        text_source(tmp_path / "d.csv")
    (tmp_path / "empty").mkdir()
    for texts in (tmp_path / "no.txt", tmp_path / "empty", "a text itself", ["no.jsonl"]):
        with pytest.raises(FileNotFoundError, match="is no file, folder or pattern"):
            text_source(texts)
    (tmp_path / "e.txt").write_text("")
    with pytest.raises(ValueError, match="texts is empty"):
        _ = text_source(tmp_path / "e.txt").first


@pytest.mark.parametrize(
    ("texts", "error", "match"),
    [
        (None, TypeError, "texts must be texts or paths, but it is a NoneType"),
        (3, TypeError, "texts must be an iterable of texts"),
        (b"a", TypeError, "but it is a bytes"),
        ([], ValueError, "texts is empty"),
        (iter([]), ValueError, "texts is empty"),
        (Dataset({"text": []}), ValueError, "texts is empty"),
        ({"train": ["a"]}, TypeError, r"but it is a dict\. Take one column, or a list of"),
        ({"a", "b"}, TypeError, "but it is a set"),
        (polars.DataFrame({"text": ["a"]}), TypeError, "it is a DataFrame. Take one column"),
        ([None], TypeError, r"texts\[0\] must be a str"),
        ([1.5], TypeError, r"texts\[0\] must be a str"),
        (["a", b"b"], TypeError, r"texts\[1\] must be a str"),
        (["\ud800"], ValueError, r"texts\[0\] is not valid Unicode"),
        ([("name", "text")], TypeError, "ids must be integers"),
        ([(np.ones(3), [1, 2, 3])], TypeError, r"must be \(id, str\) or \(activations, tokens\)"),
    ],
)
def test_what_is_no_text(texts, error, match):
    with pytest.raises(error, match=match):
        list(text_source(texts).documents(0, 1))


def test_other_items():
    given = [[1, 2], np.array([3]), torch.tensor([4, 5])]
    ids = [each.token_ids for each in text_source(given).documents(0, 1)]
    assert [each.tolist() for each in ids] == [[1, 2], [3], [4, 5]]
    assert {each.dtype for each in ids} == {np.dtype(np.int64)}
    document = text_source([(7, "a")]).first
    assert (document.id, document.text) == (7, "a")
    document = text_source([(torch.ones(2, 3), torch.arange(2))]).first
    assert document.columns["token_id"].tolist() == [0, 1]


def test_names_of_parquet_files_are_no_urls(tmp_path):
    path = tmp_path / "a%41 [b] #c.parquet"
    polars.DataFrame({"text": ["x"]}).write_parquet(path)
    assert text_source(tmp_path).first.text == "x"
    assert text_source([path]).first.text == "x"


def test_parquet_without_polars(tmp_path, monkeypatch):
    polars.DataFrame({"text": ["a"]}).write_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(ImportError, match="Reading parquet files needs polars"):
        text_source(tmp_path / "a.parquet")
