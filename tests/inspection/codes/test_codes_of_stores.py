"""Codes of the rows of a store: with their tokens, as if the texts had been read again."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from skdict import ActivationExtractor, ActivationStore, SparseAutoencoderDictionary
from skdict.datasets import load_one_layer_transformer
from skdict.inspection import (
    FeatureCodes,
    FeatureDashboard,
    collect_codes,
    context_snippets,
    top_activations,
)

pytest.importorskip("transformers")

MLP, OUT = "layers.0.mlp.act", "layers.0.out"
COLUMNS = ["document", "position", "token_id", "start", "end"]


def texts_of(n):
    lines = ["import numpy as np", "for i in range(10):\n    x = i ** 2", "return 'Größe 😀'"]
    return [f"{lines[i % 3]}  # {i}" for i in range(n)]


@pytest.fixture(scope="module", params=[False, True], ids=["text", "special"])
def extractor(request):
    return ActivationExtractor(
        load_one_layer_transformer().path,
        MLP,
        long_documents="window",
        max_length=9,
        include_special_tokens=request.param,
    )


@pytest.fixture(scope="module")
def texts():
    return texts_of(30)


@pytest.fixture(scope="module")
def store(extractor, texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("codes") / "store"
    layers = {"layers": [MLP, OUT], "dtype": "float32"}
    return extractor.to_store(texts, path, shard_rows=100, block_rows=16, **layers)


@pytest.fixture(scope="module")
def sae(store):
    return SparseAutoencoderDictionary(24, max_iter=2, random_state=0).fit(store[MLP])


@pytest.fixture(scope="module")
def direct(extractor, sae, texts):
    return collect_codes(make_pipeline(extractor, sae), texts, n_near_misses=5)


@pytest.fixture
def small_portions(monkeypatch):
    monkeypatch.setattr("skdict.inspection.codes._activations.PORTION_ENTRIES", 37 * 512)


def assert_same_tokens(found, expected, columns=(*COLUMNS, "token")):
    assert set(columns) <= set(found)
    for name in columns:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_store_gives_what_its_texts_give(
    store, sae, direct, texts, tmp_path, small_portions, on_disk
):
    path = tmp_path / "codes" if on_disk else None
    codes = collect_codes(sae, store[MLP], texts=texts, n_near_misses=5, path=path)
    np.testing.assert_allclose(
        codes.to_csr().toarray(), direct.to_csr().toarray(), rtol=1e-4, atol=1e-5
    )
    assert_same_tokens(codes.tokens, direct.tokens)
    assert list(codes.texts) == texts
    assert codes.provenance["layer"] == MLP
    assert codes.provenance["model"] in load_one_layer_transformer().path
    for found, expected in zip(top_activations(codes), top_activations(direct), strict=True):
        np.testing.assert_array_equal(found.rows[:1], expected.rows[:1])
        rows = expected.rows
        assert context_snippets(texts, codes.tokens, rows) == context_snippets(
            texts, direct.tokens, rows
        )


def test_without_texts_there_are_places_and_ids(store, sae, direct, texts):
    codes = collect_codes(sae, store[MLP])
    assert sorted(codes.tokens) == sorted(COLUMNS)
    assert_same_tokens(codes.tokens, direct.tokens, COLUMNS)
    rows = np.flatnonzero(direct.tokens["end"] > direct.tokens["start"])
    expected = context_snippets(texts, direct.tokens, rows)
    assert context_snippets(texts, codes.tokens, rows) == expected
    assert codes.texts is None
    with pytest.raises(ValueError, match="or of a store its texts"):
        FeatureDashboard.from_codes(codes)


@pytest.mark.parametrize(
    "rows",
    [
        lambda store: (store[MLP][70:170], np.arange(70, 170)),
        lambda store: (store[MLP][::7], np.arange(0, len(store), 7)),
        lambda store: (
            store[MLP].documents[[4, 9]],
            np.flatnonzero(np.isin(store.tokens().document, [4, 9])),
        ),
        lambda store: (
            store[MLP].take_ranges([10, 200], [30, 260]),
            np.r_[10:30, 200:260],
        ),
    ],
    ids=["rows", "every seventh", "documents", "ranges"],
)
def test_a_view_has_the_tokens_of_its_rows(store, sae, direct, texts, rows, small_portions):
    view, expected = rows(store)
    codes = collect_codes(sae, view, texts=texts)
    assert_same_tokens(codes.tokens, {k: v[expected] for k, v in direct.tokens.items()})
    np.testing.assert_allclose(
        codes.to_csr().toarray(), direct.to_csr().toarray()[expected], rtol=1e-4, atol=1e-5
    )
    assert list(codes.texts) == texts


def test_rules_apply_to_the_tokens_of_a_store(extractor, store, sae, texts):
    rules = {"exclude_positions": 1, "exclude_tokens": " i"}
    codes = collect_codes(sae, store[MLP], texts=texts, **rules)
    direct = collect_codes(make_pipeline(extractor, sae), texts, **rules)
    np.testing.assert_array_equal(codes.counted, direct.counted)
    with pytest.raises(ValueError, match=r"exclude_tokens needs .* \(of a store: texts\)"):
        collect_codes(sae, store[MLP], **rules)


def effects_of(codes, pipeline):
    content = FeatureDashboard.from_codes(codes, [0, 5], pipeline=pipeline).content
    return [feature["effects"] for feature in content["features"]]


@pytest.mark.parametrize("columns", [COLUMNS, ["document"]])
def test_effects_are_those_at_the_rows_of_a_view(extractor, sae, texts, tmp_path, columns):
    """Of some documents or rows of a corpus that has empty ones, too."""
    with_gaps = ["", *texts[:4], "", "", *texts[4:9], ""]
    store = extractor.to_store(with_gaps, tmp_path / "s", dtype="float32")
    numbers = np.unique(store.tokens(slice(None))["document"])  # of special tokens, empty ones too
    some = store[MLP].documents[np.flatnonzero((numbers > 6) & (numbers < 12))]
    pipeline = make_pipeline(extractor, sae)

    def codes_of(X, known):
        tokens = X.tokens(slice(None))
        tokens = {name: tokens[name] for name in known}
        if "start" not in known:
            tokens["token"] = np.full(X.shape[0], "?", object)
        return effects_of(collect_codes(sae, X, tokens=tokens, texts=with_gaps), pipeline)

    expected = effects_of(collect_codes(pipeline, texts[4:9]), pipeline)
    assert any(effect["at_top"] for effect in expected)
    found = codes_of(some, columns)
    for one, other in zip(found, expected, strict=True):
        assert one["at_top"] == pytest.approx(other["at_top"], abs=1e-5, nan_ok=True)
    some_rows = some[3:17]
    if columns == ["document"]:
        with pytest.raises(ValueError, match="rows of codes of document 7 are not those"):
            codes_of(some_rows, columns)
    else:
        assert len(codes_of(some_rows, columns)) == 2
        assert len(codes_of(store[MLP], columns)) == 2


def test_a_pipeline_with_other_tokens_is_refused(extractor, store, sae, texts):
    other = clone(extractor).set_params(max_length=5)
    with pytest.raises(ValueError, match="not those that the extractor of the pipeline has"):
        effects_of(collect_codes(sae, store[MLP], texts=texts), make_pipeline(other, sae))


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_dashboard_of_a_store_is_that_of_its_texts(
    extractor, store, sae, texts, tmp_path, on_disk
):
    """With effects and logits, which the model finds at the same tokens."""
    pipeline = make_pipeline(extractor, sae)
    path = tmp_path / "codes" if on_disk else None
    codes = collect_codes(sae, store[MLP], texts=texts, n_near_misses=10, path=path)
    found = FeatureDashboard.from_codes(codes, [0, 5], pipeline=pipeline).content
    direct = collect_codes(pipeline, texts, n_near_misses=10)
    expected = FeatureDashboard.from_codes(direct, [0, 5], pipeline=pipeline).content
    assert found["tokens"] == expected["tokens"]
    assert found.keys() == expected.keys()
    alone = FeatureDashboard.from_activations(sae, store[MLP], features=[0, 5], texts=texts)
    assert alone.content["tokens"] == expected["tokens"]


def test_several_writers_give_documents_in_order(extractor, sae, texts, tmp_path, small_portions):
    for i in (0, 1):
        store = extractor.to_store(
            texts, tmp_path / "s", dtype="float32", shard=(i, 2), shard_rows=50
        )
    with pytest.raises(ValueError, match=r"not in ascending order, .*\.documents\[:\]"):
        collect_codes(sae, store)
    codes = collect_codes(sae, store.documents[:], texts=texts)
    direct = collect_codes(make_pipeline(extractor, sae), texts)
    assert_same_tokens(codes.tokens, direct.tokens)
    np.testing.assert_allclose(
        codes.to_csr().toarray(), direct.to_csr().toarray(), rtol=1e-4, atol=1e-5
    )


def test_codes_on_disk_go_on_and_are_of_one_store(
    store, sae, texts, tmp_path, small_portions, monkeypatch
):
    expected = collect_codes(sae, store[MLP], texts=texts, path=tmp_path / "whole")
    monkeypatch.setattr("skdict.inspection.codes._collecting.ENTRIES_PER_COMMIT", 100)
    from skdict.inspection.codes._row_tokens import RowTokens

    read = RowTokens.read

    def interrupted(self, rows):
        if rows.start > 100:
            raise KeyboardInterrupt
        return read(self, rows)

    monkeypatch.setattr(RowTokens, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect_codes(sae, store[MLP], texts=texts, path=tmp_path / "codes")
    monkeypatch.setattr(RowTokens, "read", read)
    codes = collect_codes(sae, store[MLP], texts=texts, path=tmp_path / "codes")
    assert (codes.to_csr() != expected.to_csr()).nnz == 0
    assert_same_tokens(codes.tokens, expected.tokens)
    assert list(codes.texts) == texts
    with pytest.raises(ValueError, match="codes of another X"):
        collect_codes(sae, store[MLP][:100], texts=texts, path=tmp_path / "codes")
    with pytest.raises(ValueError, match="codes of another texts"):
        collect_codes(sae, store[MLP], path=tmp_path / "codes")


def test_ids_of_texts_are_kept(extractor, sae, tmp_path):
    texts = texts_of(6)
    pairs = [(2**40 + i, text) for i, text in enumerate(texts)]
    store = extractor.to_store(pairs, tmp_path / "s", dtype="float32")
    codes = collect_codes(sae, store, texts=texts, path=tmp_path / "codes")
    loaded = FeatureCodes.load(codes.save(tmp_path / "saved"))
    for each in (codes, loaded):
        np.testing.assert_array_equal(each.tokens["id"] - 2**40, each.tokens["document"])


def test_a_store_without_documents_has_no_tokens(sae, tmp_path):
    with ActivationStore.create(tmp_path / "s", {"mlp": 512}, tokens=["position"]) as writer:
        writer.append(np.ones((5, 512)), {"position": np.arange(5)})
    store = ActivationStore(tmp_path / "s")
    with pytest.warns(UserWarning, match="columns position, but without 'document'"):
        codes = collect_codes(sae, store)
    assert codes.tokens is None
    tokens = {"document": np.zeros(5, int), **store.tokens(slice(None))}
    assert list(collect_codes(sae, store, tokens=tokens).tokens) == ["document", "position"]
    with pytest.raises(ValueError, match="X has none with a column 'document'"):
        collect_codes(sae, store, texts=["x"])


def test_other_texts_are_refused(store, sae, texts):
    with pytest.raises(ValueError, match="There are 29 texts, but"):
        collect_codes(sae, store[MLP], texts=texts[:-1])
    with pytest.raises(ValueError, match=r"of document 0, but texts\[0\] has 1\."):
        collect_codes(sae, store[MLP], texts=["x", *texts])
    with pytest.raises(TypeError, match="a single str"):
        collect_codes(sae, store[MLP], texts="x")


class AsTable:
    """Rows by slices, as a ``Dataset`` has them."""

    column_names = ("text",)

    def __init__(self, texts):
        self._texts = texts

    def __len__(self):
        return len(self._texts)

    def __getitem__(self, rows):
        return {"text": self._texts[rows]}


@pytest.mark.parametrize("kind", [list, iter, AsTable])
def test_texts_with_as_many_characters_are_refused(extractor, sae, kind, tmp_path):
    """As far as the store knows: of a list all, of others some or the first."""
    texts = texts_of(20)
    store = extractor.to_store(kind(texts), tmp_path / "s")
    others = [text.swapcase() for text in texts]
    with pytest.raises(ValueError, match=r"texts are not those that the store in .*s was written"):
        collect_codes(sae, store, texts=others)
    some = store.documents[:3]
    for given in (texts, texts[:3], [*texts, "one more"]):
        codes = collect_codes(sae, some, texts=given)
        assert (
            codes.tokens["token"][-1]
            == collect_codes(sae, store, texts=texts).tokens["token"][codes.shape[0] - 1]
        )


def test_what_a_store_of_your_own_calls_texts(sae, tmp_path):
    columns = {"document": np.zeros(5, int), "start": np.arange(5), "end": np.arange(1, 6)}
    options = {"tokens": list(columns), "identity": {"texts": "a book", "model": "mine"}}
    with ActivationStore.create(tmp_path / "s", {"mlp": 512}, **options) as writer:
        writer.append(np.ones((5, 512)), columns)
    codes = collect_codes(sae, ActivationStore(tmp_path / "s"), texts=["abcde"])
    assert "".join(codes.tokens["token"]) == "abcde"


def test_texts_of_a_pipeline_are_its_own(extractor, sae, texts):
    with pytest.raises(ValueError, match="texts must be left out: the extractor"):
        collect_codes(make_pipeline(extractor, sae), texts, texts=texts)
