"""Activations of texts in a store: what transform gives, in any order of kills and writers."""

import multiprocessing
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from skdict import ActivationExtractor, ActivationStore
from skdict._core.language.reading import LayersReader
from skdict.inspection import replace_activations

transformers = pytest.importorskip("transformers")

MLP, OUT = "layers.0.mlp.act", "layers.1.out"


@pytest.fixture
def llama(llama_folder):
    return ActivationExtractor(
        llama_folder, MLP, long_documents="window", max_length=9, batch_size=4
    )


@pytest.fixture(scope="module")
def many():
    rng = random.Random(0)
    words = ["def", "area", "(radius):", "return", "import numpy", "x = 1", "Größe 😀", "\n"]
    return [" ".join(rng.choices(words, k=rng.randint(0, 12))) for _ in range(60)]


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def columns_alike(store, tokens):
    found = store.tokens()
    for name in ("document", "position", "token_id", "start", "end"):
        np.testing.assert_array_equal(found[name], tokens[name])


def test_rows_and_tokens_are_those_of_transform(llama, texts, tmp_path):
    store = llama.to_store(texts, tmp_path / "s", dtype="float32", shard_rows=50)
    np.testing.assert_allclose(np.asarray(store), llama.transform(texts), rtol=1e-4, atol=1e-6)
    columns_alike(store, llama.tokens(texts))
    assert len(store.describe().writers) == 1


def test_several_layers_are_read_in_one_pass(llama, texts, tmp_path, monkeypatch):
    store = llama.to_store(texts, tmp_path / "s", layers=[MLP, OUT], dtype="float32")
    assert store.layers == {MLP: 24, OUT: 16}
    for layer in store.layers:
        expected = llama.set_params(layer=layer).transform(texts)
        np.testing.assert_allclose(np.asarray(store[layer]), expected, rtol=1e-4, atol=1e-6)
    model, n_passes = llama.load().model, []
    model.model.embed_tokens.register_forward_hook(lambda *_: n_passes.append(1))
    llama.to_store(texts[:4], tmp_path / "one", layers=[MLP, OUT])
    both = len(n_passes)
    n_passes.clear()
    llama.to_store(texts[:4], tmp_path / "two", layers=[MLP])
    model.model.embed_tokens._forward_hooks.clear()
    assert both == len(n_passes) > 0


def test_documents_without_tokens_count(llama, tmp_path):
    store = llama.to_store(["", "x = 1", "", "import numpy"], tmp_path / "s")
    assert store.documents.numbers.tolist() == [1, 3]


def test_shards_together_hold_the_documents_of_one(llama, many, tmp_path):
    whole = llama.to_store(many, tmp_path / "whole", dtype="float32", shard_rows=300)
    for i in (1, 0):
        store = llama.to_store(
            many, tmp_path / "parts", dtype="float32", shard_rows=1500, shard=(i, 2)
        )
    np.testing.assert_array_equal(store.documents.numbers, whole.documents.numbers)
    for document in range(len(whole.documents)):
        x, y = (np.asarray(each.documents[[document]]) for each in (whole, store))
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("portion_bytes", [1, 3000])
def test_what_is_read_together_does_not_change_tokens(
    llama, many, tmp_path, monkeypatch, portion_bytes
):
    monkeypatch.setattr("skdict._core.language.reading.PORTION_BYTES", portion_bytes)
    store = llama.to_store(many, tmp_path / "s", dtype="float32")
    texts = [text for text in many if text]
    np.testing.assert_allclose(np.asarray(store), llama.transform(texts), rtol=1e-4, atol=1e-6)


class Fatal:
    """Texts, the n-th of which ends the process."""

    def __init__(self, texts, n):
        self.texts, self.n = texts, n

    def __iter__(self):
        for number, text in enumerate(self.texts):
            if number == self.n:
                os.kill(os.getpid(), signal.SIGKILL)
            yield text


def _write(folder, texts, path):
    torch.set_num_threads(1)
    extractor = ActivationExtractor(
        folder, MLP, long_documents="window", max_length=9, batch_size=4
    )
    return extractor.to_store(texts, path, layers=[MLP, OUT], shard_rows=40)


def killed(*arguments, after=None):
    process = multiprocessing.get_context("fork").Process(target=_write, args=arguments)
    process.start()
    process.join(after)
    if process.is_alive():
        process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_store_goes_on_to_the_byte(llama_folder, many, tmp_path, monkeypatch):
    monkeypatch.setattr("skdict._core.language.reading.PORTION_BYTES", 5000)
    monkeypatch.setattr("skdict.feature_extraction._windows.TEXTS_AT_ONCE", 3)
    _write(llama_folder, Fatal(many, -1), tmp_path / "whole")
    expected = files_of(tmp_path / "whole")
    for n in (10, 20, 35, 57):
        assert killed(llama_folder, Fatal(many, n), tmp_path / "s")
        if (tmp_path / "s" / "store.json").exists():
            assert len(ActivationStore(tmp_path / "s").verify()) == 0
    _write(llama_folder, Fatal(many, -1), tmp_path / "s")
    assert files_of(tmp_path / "s") == expected


@pytest.mark.enumeration
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_store_that_is_killed_at_any_moment_goes_on_to_the_byte(
    llama_folder, many, tmp_path, monkeypatch
):
    monkeypatch.setattr("skdict._core.language.reading.PORTION_BYTES", 5000)
    monkeypatch.setattr("skdict.feature_extraction._windows.TEXTS_AT_ONCE", 3)
    many = many * 4
    _write(llama_folder, many, tmp_path / "whole")
    expected = files_of(tmp_path / "whole")
    rng, n_killed, n_stores = random.Random(0), 0, 0
    while n_killed < 100:
        path = tmp_path / f"s{n_stores}"
        while killed(llama_folder, many, path, after=rng.uniform(0.02, 0.5)):
            n_killed += 1
            if (path / "store.json").exists():
                assert len(ActivationStore(path).verify()) == 0
        assert files_of(path) == expected
        n_stores += 1
    print(f"{n_killed} kills, {n_stores} stores")


def test_a_finished_store_is_left_as_it_is(llama, texts, tmp_path):
    llama.to_store(texts, tmp_path / "s")
    files = files_of(tmp_path / "s")
    llama.to_store(texts, tmp_path / "s")
    assert files_of(tmp_path / "s") == files


def test_a_generator_goes_on_where_the_store_ends(llama, many, tmp_path):
    def generator(n_most):
        for text in many:
            if n_most == 0:
                raise RuntimeError("no more")
            yield text
            n_most -= 1

    llama.to_store(many, tmp_path / "whole", shard_rows=150)
    with pytest.raises(RuntimeError, match="no more"):
        llama.to_store(generator(40), tmp_path / "s", shard_rows=150)
    store = llama.to_store(generator(-1), tmp_path / "s", shard_rows=150)
    whole = ActivationStore(tmp_path / "whole")
    np.testing.assert_array_equal(np.asarray(store), np.asarray(whole))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_length": 8}, "max_length"),
        ({"long_documents": "truncate"}, "long_documents"),
        ({"include_special_tokens": True}, "include_special_tokens"),
        ({"side": "input", "layer": "model.layers.0.mlp.act_fn"}, "layers"),
    ],
)
def test_another_extractor_is_refused(llama, texts, tmp_path, change, field):
    llama.to_store(texts, tmp_path / "s", layers=["model.layers.0.mlp.act_fn"])
    llama.set_params(**change)
    with pytest.raises(ValueError, match=f"another {field}"):
        llama.to_store(texts, tmp_path / "s", layers=["model.layers.0.mlp.act_fn"])


def test_other_texts_model_or_tokenizer_are_refused(llama, texts, tmp_path):
    llama.to_store(texts, tmp_path / "s")
    with pytest.raises(ValueError, match="another texts"):
        llama.to_store([*texts, "x"], tmp_path / "s")
    with pytest.raises(ValueError, match="texts is empty"):
        llama.to_store([], tmp_path / "s")
    language = llama.load()
    with torch.no_grad():
        weight = language.model.model.layers[0].mlp.up_proj.weight
        before = weight[0, 0].item()
        weight[0, 0] += 1
        try:
            with pytest.raises(ValueError, match="another model"):
                llama.to_store(texts, tmp_path / "s")
        finally:
            weight[0, 0] = before
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama.model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["import"]})
    with pytest.raises(ValueError, match="another tokenizer"):
        llama.set_params(tokenizer=tokenizer).to_store(texts, tmp_path / "s")


def test_what_a_tokenizer_was_asked_before_does_not_matter(llama, texts, tmp_path):
    llama.to_store(texts, tmp_path / "s")
    tokenizer = llama.load().tokenizer
    tokenizer.pad_token = tokenizer.eos_token
    try:
        tokenizer(texts, padding=True, truncation=True, max_length=4)
        llama.to_store(texts, tmp_path / "s")
    finally:
        tokenizer.pad_token = None


def test_dtypes(llama, texts, tmp_path):
    assert llama.to_store(texts, tmp_path / "a").dtype == torch.float16
    llama.set_params(dtype="bfloat16")
    assert llama.to_store(texts, tmp_path / "b").dtype == torch.bfloat16
    assert llama.to_store(texts, tmp_path / "c", dtype="float32").dtype == torch.float32


def test_token_ids(llama, texts, tmp_path):
    ids = [llama.load().tokenizer(text).input_ids[1:] for text in texts]
    store = llama.to_store(ids, tmp_path / "s", dtype="float32")
    assert sorted(store.tokens()) == ["document", "position", "token_id"]
    np.testing.assert_array_equal(store.tokens().token_id, np.concatenate(ids))
    assert store.tokens().position.max() == 8
    alone = llama.set_params(batch_size=1).to_store(
        (np.array(each) for each in ids), tmp_path / "alone", dtype="float32"
    )
    np.testing.assert_allclose(np.asarray(store), np.asarray(alone), rtol=1e-4, atol=1e-6)
    without = llama.set_params(tokenizer=None)
    assert len(without.to_store(ids, tmp_path / "n")) == len(store)
    with pytest.raises(ValueError, match="with tokenizer=None there is nothing that reads"):
        without.to_store(texts, tmp_path / "t")
    with pytest.raises(ValueError, match=r"texts\[1\] has token id -1, but"):
        llama.to_store([[1, 2], [3, -1]], tmp_path / "o")
    with pytest.raises(ValueError, match=r"texts\[0\] has token id 9999, but"):
        llama.to_store([[1, 9999]], tmp_path / "p")


def test_known_activations_with_their_tokens(tmp_path):
    rng = np.random.default_rng(0)
    extractor = ActivationExtractor("no-such-model", "mlp")
    pairs = [(rng.normal(size=(n, 6)), {"token_id": np.arange(n)}) for n in (3, 5, 4)]
    store = extractor.to_store(pairs, tmp_path / "s", dtype="float32", shard_rows=4)
    rows = np.concatenate([rows for rows, _ in pairs]).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(store), rows)
    assert store.tokens().document.tolist() == [0] * 3 + [1] * 5 + [2] * 4
    two = [({"a": torch.ones(2, 3), "b": torch.ones(2, 5)}, torch.arange(2))] * 2
    store = extractor.to_store(iter(two), tmp_path / "two", layers=["a", "b"])
    assert store.layers == {"a": 3, "b": 5}
    assert store.tokens().token_id.tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"has activations of a, b, but layers are a, c"):
        extractor.to_store(two, tmp_path / "three", layers=["a", "c"])
    with pytest.raises(ValueError, match="must have a dict with the activations"):
        extractor.to_store(pairs, tmp_path / "four", layers=["a", "c"])
    with pytest.raises(ValueError, match=r"texts\[1\] must be \(activations, tokens\)"):
        extractor.to_store([pairs[0], "x"], tmp_path / "five")


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        (["a = 1", [5, 6]], "must be a str, as the first is, but it is token ids"),
        ([[5, 6], "a = 1"], "must be token ids, as the first is, but it is a str"),
        ([(3, "a = 1"), "b = 2"], r"must be \(id, str\), as the first is, but it is a str"),
        (["a = 1", (3, "b = 2")], r"must be a str, as the first is, but it is \(id, str\)"),
        (["a = 1", (np.ones((1, 128)), [5])], r"but it is \(activations, tokens\)"),
    ],
)
def test_all_texts_are_of_one_kind(llama, tmp_path, texts, match):
    with pytest.raises(ValueError, match=rf"texts\[1\] .*{match}"):
        llama.to_store(texts, tmp_path / "s")
    with pytest.raises(ValueError, match=match):
        llama.stream(texts)


def test_documents_without_token_ids_count(llama, tmp_path):
    store = llama.to_store([[5, 6], [], np.array([], int), [7]], tmp_path / "s")
    assert store.tokens().document.tolist() == [0, 0, 3]


def test_ids_are_a_column(llama, tmp_path):
    texts = [(70, "x = 1"), (60, "import numpy")]
    tokens = llama.to_store(texts, tmp_path / "s").tokens()
    assert dict.fromkeys(tokens.id.tolist()) == {70: None, 60: None}


@pytest.mark.parametrize(
    ("params", "options", "match"),
    [
        ({"pooling": "mean"}, {}, "pooling='mean'"),
        ({}, {"layers": []}, "layers must be a list of str"),
        ({}, {"layers": [MLP, MLP]}, "layers has a name twice"),
        ({}, {"dtype": "int8"}, "dtype must be one of"),
        ({}, {"shard": 3}, r"shard must be \(i, n\)"),
        ({}, {"layers": ["no.such"]}, "no.such"),
    ],
)
def test_bad_parameters(llama, texts, tmp_path, params, options, match):
    with pytest.raises(ValueError, match=match):
        llama.set_params(**params).to_store(texts, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_inside_of_a_block_that_replaces_activations(llama, texts, tmp_path):
    model = llama.load().model
    with (
        pytest.warns(UserWarning, match="never called in the block"),
        replace_activations(model, "model.layers.0", lambda x: x * 2),
        pytest.raises(ValueError, match="Leave the steer or replace_activations block"),
    ):
        llama.to_store(texts, tmp_path / "s")


def test_another_generator_is_noticed_where_rows_are_passed_over(
    llama, many, tmp_path, monkeypatch
):
    """And another machine, whose activations are rounded otherwise, goes on."""
    monkeypatch.setattr("skdict._core.language.reading.PORTION_BYTES", 5000)
    monkeypatch.setattr("skdict.feature_extraction._windows.TEXTS_AT_ONCE", 3)
    texts = [text for text in many if text]

    def generator(changed, n_most=-1):
        for number, text in enumerate(texts):
            if number == n_most:
                raise RuntimeError("no more")
            yield "x = 1 " * 20 if number in changed else text

    with pytest.raises(RuntimeError, match="no more"):
        llama.to_store(generator([], 50), tmp_path / "s", shard_rows=60)
    after = ActivationStore(tmp_path / "s").describe().writers[0].cursor[0]
    assert after < 50
    files = files_of(tmp_path / "s")
    with pytest.raises(ValueError, match=r"tokens: row .* is not the same as row"):
        llama.to_store(generator(range(after, 50)), tmp_path / "s", shard_rows=60)
    assert files_of(tmp_path / "s") == files
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "skdict._core.language.reading.LayersReader.read",
            lambda self, portion, read=LayersReader.read: {
                name: x * 1.001 for name, x in read(self, portion).items()
            },
        )
        store = llama.to_store(generator([]), tmp_path / "s", shard_rows=60)
    columns_alike(store, llama.tokens(texts))


@pytest.mark.parametrize("kind", ["ndarray", "tensor", "dict", "memory map", "generator"])
def test_other_activations_with_the_same_tokens_are_refused(tmp_path, kind):
    def pairs(changed):
        rng, rows = np.random.default_rng(0), []
        for i, n in enumerate((3, 0, 5)):
            x = rng.normal(size=(n, 6)).astype(np.float32)
            x[-1:, -1] += changed and i in (0, 2)
            if kind == "tensor":
                x = torch.tensor(x, dtype=torch.bfloat16, requires_grad=True).T.clone().T
            elif kind == "memory map" and n:
                np.save(tmp_path / f"{i}.npy", x)
                x = np.load(tmp_path / f"{i}.npy", mmap_mode="r")
            rows.append(({"mlp": x} if kind == "dict" else x, np.arange(n)))
        return iter(rows) if kind == "generator" else rows

    extractor = ActivationExtractor("no-such-model", "mlp")
    extractor.to_store(pairs(changed=False), tmp_path / "s")
    files = files_of(tmp_path / "s")
    extractor.to_store(pairs(changed=False), tmp_path / "s")
    with pytest.raises(ValueError, match="another texts"):
        extractor.to_store(pairs(changed=True), tmp_path / "s")
    assert files_of(tmp_path / "s") == files
