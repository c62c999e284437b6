"""The public class: what users see of a store."""

import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.model_selection import GridSearchCV, cross_val_score

from skdict import ActivationStore, SparseAutoencoderDictionary


def write(path, layers=("mlp",), n_documents=12, **params):
    rng = np.random.default_rng(0)
    tokens = ["document", "position"]
    widths = dict.fromkeys(layers, 8)
    with ActivationStore.create(path, widths, tokens=tokens, shard_rows=100, **params) as writer:
        for document in range(n_documents):
            columns = {"document": np.full(30, document), "position": np.arange(30)}
            rows = {name: rng.standard_normal((30, 8)) for name in layers}
            writer.append(rows, columns, cursor=document + 1)
    return ActivationStore(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write(tmp_path_factory.mktemp("store") / "s")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    identity = {"model": "<b>bold</b>", "revision": 3}
    return write(tmp_path_factory.mktemp("two") / "s", ("a", "b"), identity=identity)


def test_a_store_of_one_layer_is_a_matrix(store):
    assert store.shape == (360, 8)
    assert len(store) == 360
    assert store.dtype == torch.float16
    assert store.layers == {"mlp": 8}
    assert "mlp" in store
    np.testing.assert_array_equal(np.asarray(store), np.asarray(store["mlp"]))
    assert store[10:20].shape == (10, 8)
    assert store.tokens(slice(30, 32)).document.tolist() == [1, 1]
    assert sorted(store.tokens()) == ["document", "position"]


def test_of_several_layers_one_has_to_be_taken(two):
    assert len(two) == 360
    assert two["b"].shape == (360, 8)
    for use in (lambda: two.shape, lambda: two[3:5], lambda: two.documents, lambda: two.dtype):
        with pytest.raises(ValueError, match=r"has the layers a, b\. Take one: store\['a'\]"):
            use()
    with pytest.raises(KeyError, match="has no layer 'c': it has a, b"):
        two["c"]
    assert len(two["a"].documents) == 12


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"verify": 1}, "verify must be a bool"),
        ({"buffer_bytes": 0}, "buffer_bytes must be an integer of at least 1"),
        ({"buffer_bytes": 1.5}, "buffer_bytes must be an integer"),
    ],
)
def test_bad_parameters_are_refused(store, params, match):
    with pytest.raises((ValueError, TypeError), match=match):
        ActivationStore(store.path, **params)


def test_one_name_is_no_list_of_columns_of_tokens(tmp_path):
    with pytest.raises(TypeError, match=r"tokens must be a list of names, as \['document'\]"):
        ActivationStore.create(tmp_path / "s", {"a": 2}, tokens="document")


@pytest.mark.parametrize("shard", [3, (0,), (2, 2), (0, 0), ("a", 1)])
def test_a_shard_is_a_pair(tmp_path, shard):
    with pytest.raises(ValueError, match="shard"):
        ActivationStore.create(tmp_path, {"a": 3}, shard=shard)


def test_the_numbers_of_a_shard_may_be_those_of_numpy(tmp_path):
    shard = (np.int64(0), np.uint8(2))
    with ActivationStore.create(tmp_path, {"a": 3}, shard=shard) as writer:
        writer.append(np.ones((2, 3)))
    assert len(ActivationStore(tmp_path)) == 2
    with pytest.raises(ValueError, match=r"has n of shard=\(i, n\) 2, not 3"):
        ActivationStore.create(tmp_path, {"a": 3}, shard=(0, 3))


def test_what_is_in_a_store_is_described(two):
    found = two.describe()
    assert (found.n_rows, found.n_shards, found.n_bytes) == (360, 4, 360 * 8 * 2 * 2)
    assert found.identity == two.identity == {"model": "<b>bold</b>", "revision": 3}
    x = np.asarray(two["b"]).astype(float)
    of_b = found.layers["b"]
    assert of_b.rms == pytest.approx(np.sqrt(x.var(axis=0).sum()), rel=1e-5)
    assert of_b.norm_of_mean == pytest.approx(np.linalg.norm(x.mean(axis=0)), rel=1e-4)
    assert (of_b.width, of_b.n_massive, of_b.n_not_finite) == (8, 0, 0)
    assert found.writers == {0: {"n_shards": 4, "n_rows": 360, "cursor": 12}}


def test_a_store_without_rows_is_described(tmp_path):
    ActivationStore.create(tmp_path, {"a": 3}).close()
    store = ActivationStore(tmp_path)
    assert store.describe().n_rows == 0
    assert len(store.verify()) == 0
    assert store.shape == (0, 3)


def test_representations(two):
    assert repr(two) == (
        f"ActivationStore({two.path!r}, 360 rows in 4 shards, float16, layers a (8), b (8))"
    )
    html = two._repr_html_()
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "<b>" not in html
    assert re.search(r"rows</th>.*360", html)
    assert "11.5 kB" in html


def test_a_store_pickles_as_its_path(store):
    data = pickle.dumps(store)
    assert len(data) < 500
    again = pickle.loads(data)
    assert repr(again) == repr(store)
    np.testing.assert_array_equal(np.asarray(again), np.asarray(store))


def test_a_pickled_store_has_the_rows_that_it_had(tmp_path):
    writers = [
        ActivationStore.create(tmp_path, {"a": 1}, shard=(i, 2), shard_rows=5) for i in (0, 1)
    ]
    writers[0].append(np.zeros((5, 1)))
    data = pickle.dumps(ActivationStore(tmp_path))
    writers[1].append(np.ones((5, 1)))
    assert len(pickle.loads(data)) == 5
    data = pickle.dumps(ActivationStore(tmp_path))
    writers[0].append(np.ones((5, 1)))
    assert len(pickle.loads(data)) == 10
    data = pickle.dumps(ActivationStore(tmp_path))
    writers[1].append(np.ones((5, 1)))
    writers[1].append(np.ones((5, 1)))
    assert len(pickle.loads(data)) == 15
    (tmp_path / "commits/00000001.json").unlink()  # later rows would be others
    with pytest.raises(ValueError, match="has changed since"):
        pickle.loads(data)


def test_facts_of_another_meaning_do_not_replace_those_of_the_table(tmp_path):
    with ActivationStore.create(tmp_path, {"a": 1}, identity={"rows": "of 1999"}) as writer:
        writer.append(np.zeros((7, 1)))
    html = ActivationStore(tmp_path)._repr_html_()
    assert re.search("rows</th><td[^>]*>7<", html)
    assert "of 1999" in html


def test_an_index_is_used(tmp_path):
    store = write(tmp_path)
    store.write_index()
    assert (tmp_path / "index.json").exists()
    assert ActivationStore(tmp_path)["mlp"].identity == store["mlp"].identity


def test_damage_is_found_and_named(tmp_path):
    store = write(tmp_path, block_rows=16)
    path = tmp_path / "layers/mlp/00000001.safetensors"
    content = bytearray(path.read_bytes())
    content[4096 + 20 * 8 * 2] ^= 4
    path.write_bytes(content)
    (tmp_path / "tokens/00000002.safetensors").unlink()
    found = store.verify()
    assert found.file.tolist() == [
        "layers/mlp/00000001.safetensors",
        "tokens/00000002.safetensors",
    ]
    assert found.block.tolist() == [1, -1]
    assert found.first_row.tolist() == [116, 200]
    assert found.last_row.tolist() == [131, 299]
    assert "is missing" in found.problem[1]
    with pytest.raises(ValueError, match=r"00000001\.safetensors, block 1, rows 16 to 31 of the"):
        ActivationStore(tmp_path)[120:121].read([0])
    assert ActivationStore(tmp_path, verify=False)[120:121].read([0]).shape == (1, 8)


@pytest.mark.slow
def test_a_dictionary_is_fitted_to_a_store(store):
    params = {"n_components": 8, "max_iter": 2, "random_state": 0, "early_stopping": False}
    of_store = SparseAutoencoderDictionary(**params).fit(store)
    assert of_store.transform(store).shape == (360, 8)
    of_view = SparseAutoencoderDictionary(**params).fit(store["mlp"])
    np.testing.assert_array_equal(of_store.components_, of_view.components_)
    of_documents = SparseAutoencoderDictionary(**params).fit(store.documents)
    np.testing.assert_array_equal(of_store.components_, of_documents.components_)


def test_a_store_of_one_block_can_be_held_out_from(store):
    """All of it is one chunk of the shuffle."""
    assert len(store) < store["mlp"].chunk_rows
    estimator = SparseAutoencoderDictionary(8, max_iter=2, random_state=0, early_stopping=True)
    assert len(estimator.fit(store).validation_loss_curve_) == 2


def test_cross_validation_divides_documents(store):
    estimator = SparseAutoencoderDictionary(8, max_iter=1, random_state=0, early_stopping=False)
    search = GridSearchCV(estimator, {"alpha": [0.01, 0.1]}, cv=3).fit(store.documents)
    scores = []
    for fold in np.array_split(np.arange(12), 3):
        others = np.setdiff1d(np.arange(12), fold)
        fitted = estimator.set_params(alpha=0.01).fit(store.documents[others])
        scores.append(fitted.score(store.documents[fold]))
    np.testing.assert_allclose(search.cv_results_["mean_test_score"][0], np.mean(scores))
    assert len(cross_val_score(estimator, store.documents, cv=2)) == 2


def requests(folder, dtype=torch.bfloat16, names=("10", "9", "a")):
    """Files as vLLM writes them: hidden states of two layers."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    states = {}
    for i, name in enumerate(names):
        n_tokens = 5 + i
        states[name] = torch.randn(n_tokens, 2, 16, generator=generator).to(dtype)
        tensors = {"hidden_states": states[name], "token_ids": torch.arange(n_tokens) + 100 * i}
        save_file(tensors, folder / f"{name}.safetensors")
    return states


@pytest.mark.parametrize("n_writers", [1, np.int64(2)])
def test_hidden_states_of_vllm(tmp_path, n_writers):
    states = requests(tmp_path / "states")
    for i in range(n_writers):
        store = ActivationStore.from_vllm(
            tmp_path / "states", tmp_path / "s", ["x", "y"], shard=(i, n_writers), shard_rows=8
        )
    assert store["y"].dtype == torch.bfloat16
    documents = store["y"].documents
    for number, name in enumerate(["9", "10", "a"]):
        view = documents[number]
        assert torch.equal(view.read(slice(None)), states[name][:, 1])
        assert view.tokens()["position"].tolist() == list(range(len(states[name])))
    assert documents[1].tokens()["token_id"].tolist() == list(range(5))
    assert store.identity["n_files"] == 3
    again = ActivationStore.from_vllm(
        tmp_path / "states", tmp_path / "s", ["x", "y"], shard=(0, n_writers), shard_rows=8
    )
    assert again["y"].identity == store["y"].identity


def test_other_files_than_those_of_vllm_are_refused(tmp_path):
    folder, path = tmp_path / "states", tmp_path / "s"
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        ActivationStore.from_vllm(folder, path, ["x"])
    requests(folder, names=("1", "2"))
    with pytest.raises(ValueError, match="has 2 layers, but layers names 1"):
        ActivationStore.from_vllm(folder, path, "x")
    bad = folder / "3.safetensors"
    states, ids = torch.zeros(3, 2, 16, dtype=torch.bfloat16), torch.arange(3)
    for tensors, match in (
        ({"hidden_states": states}, "has no tensor 'token_ids'"),
        ({"hidden_states": states, "token_ids": ids[:2]}, "must have shape"),
        ({"hidden_states": states, "token_ids": ids.float()}, "in integers"),
        ({"hidden_states": states.double(), "token_ids": ids}, "has dtype torch.float64"),
    ):
        save_file(tensors, bad)
        with pytest.raises(ValueError, match=match) as error:
            ActivationStore.from_vllm(folder, path, ["x", "y"])
        assert "3.safetensors" in str(error.value)
    bad.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"3\.safetensors is no valid safetensors file"):
        ActivationStore.from_vllm(folder, path, ["x", "y"])
    bad.unlink()
    with pytest.raises(ValueError, match="of another n_files: 3, not 2"):
        ActivationStore.from_vllm(folder, path, ["x", "y"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no safetensors files"):
        ActivationStore.from_vllm(tmp_path / "empty", path, ["x"])


def test_a_folder_that_is_not_there_or_a_file(tmp_path):
    with pytest.raises(ValueError, match=r"mien does not exist\. Give the folder of a store"):
        ActivationStore(tmp_path / "mien")
    (tmp_path / "notes").touch()
    for path in (tmp_path / "notes", tmp_path / "notes" / "store"):
        with pytest.raises(
            NotADirectoryError, match=r"path=.*is a file, or below one\. Give the path"
        ):
            ActivationStore.create(path, {"mlp": 3})
    with pytest.raises(ValueError, match=r"notes is a file\. Give the folder of a store"):
        ActivationStore(tmp_path / "notes")
