"""Repositories of a hub: one commit, one request a file, and what offline and missing ones say."""

from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub, serving

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.io import load_dictionary

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
GOLDEN = Path(__file__).parent / "golden"
X = make_superposition(300, 16, 32, l0=2.0, noise=0.05, random_state=0)[0]
REPO = "someone/dictionaries"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with an empty cache; the address is that of loopback."""
    hub = Hub()
    with serving(hub) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def files_of(folder, start=""):
    """Those of a golden folder's one dictionary, as {name: bytes}."""
    config = next(folder.rglob("cfg.json"))
    return {f"{start}{path.name}": path.read_bytes() for path in config.parent.iterdir()}


@pytest.fixture
def sparsify(hub):
    """Two dictionaries in two commits; the id of the first."""
    topk = files_of(GOLDEN / "sparsify-topk", "layers.1/")
    signed = files_of(GOLDEN / "sparsify2407-signed", "layers.2/")
    first = hub.commit(REPO, topk | signed)
    swapped = {name.replace("layers.2", "layers.1"): part for name, part in signed.items()}
    hub.commit(REPO, swapped)
    return first


def codes_of(dictionary, name="sparsify-topk"):
    arrays = np.load(GOLDEN / name / "expected.npz")
    return dictionary.transform(arrays["X"].astype(np.float32)), arrays["codes"]


def test_one_request_a_file_of_the_path_alone(hub, sparsify):
    dictionary = load_dictionary(REPO, path="layers.1", revision=sparsify)
    np.testing.assert_allclose(*codes_of(dictionary), atol=1e-6)
    assert sorted(hub.fetched()) == ["layers.1/cfg.json", "layers.1/sae.safetensors"]
    listings = [path for method, path in hub.requests if path.startswith("/api/models")]
    assert listings == [f"/api/models/{REPO}/revision/{sparsify}"]


def test_the_revision_is_pinned_and_kept(hub, sparsify):
    pinned = load_dictionary(REPO, path="layers.1", revision=sparsify)
    newest = load_dictionary(REPO, path="layers.1")
    assert pinned.source_["commit"] == sparsify
    assert newest.source_["commit"] == hub.branches[REPO]["main"] != sparsify
    assert newest.source_["repo"] == REPO
    assert newest.source_["path"] == "layers.1"
    np.testing.assert_allclose(*codes_of(pinned), atol=1e-6)
    np.testing.assert_allclose(*codes_of(newest, "sparsify2407-signed"), atol=1e-6)


def test_what_was_fetched_once_is_read_without_a_network(hub, sparsify):
    fetched = load_dictionary(REPO, path="layers.1")
    n_requests = len(hub.requests)
    offline = load_dictionary(REPO, path="layers.1", local_files_only=True)
    assert len(hub.requests) == n_requests
    np.testing.assert_array_equal(offline.components_, fetched.components_)
    assert offline.source_ == fetched.source_
    with pytest.raises(FileNotFoundError, match="no revision 'main' of 'someone/else'"):
        load_dictionary("someone/else", local_files_only=True)
    with pytest.raises(FileNotFoundError, match="only files that were fetched before"):
        load_dictionary(REPO, path="layers.2", local_files_only=True)


def test_no_network(hub, sparsify, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="local_files_only=True"):
        load_dictionary(REPO, path="layers.1")


def test_missing_paths_repositories_and_revisions(hub, sparsify):
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'layer\.2'.*layers\.2"):
        load_dictionary(REPO, path="layer.2", revision=sparsify)
    with pytest.raises(FileNotFoundError, match=r"no repository of that name.*release of SAELens"):
        load_dictionary("gpt2/res-jb")
    with pytest.raises(FileNotFoundError, match=r"'owner/name'.*gpt2-small-res-jb"):
        load_dictionary("gpt2-small-res-jb")
    with pytest.raises(FileNotFoundError, match="no revision 'dev'"):
        load_dictionary(REPO, revision="dev")
    with pytest.raises(ValueError, match=r"may be of the formats|must have one file"):
        load_dictionary(REPO, revision=sparsify)
    with pytest.raises(ValueError, match="inside of"):
        load_dictionary(REPO, path="../elsewhere")


def test_private_repositories_need_a_token(hub, sparsify):
    hub.tokens[REPO] = "secret"
    with pytest.raises(FileNotFoundError, match="private ones give token="):
        load_dictionary(REPO, path="layers.1", token=None)
    load_dictionary(REPO, path="layers.1", token="secret")


def test_a_folder_of_that_name_comes_first(hub, sparsify, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "dictionaries").mkdir(parents=True)
    with pytest.raises(ValueError, match="no format that is known"):
        load_dictionary(REPO)
    assert hub.requests == []


@pytest.mark.parametrize("revision", [None, "dev"])
def test_push_and_load(hub, revision):
    sae = SparseAutoencoderDictionary(32, max_iter=2, random_state=0, device="cpu").fit(X)
    commit = sae.push_to_hub("me/mine", revision=revision, private=True, token="mine")
    assert hub.branches["me/mine"][revision or "main"] == commit
    assert set(hub.commits["me/mine"][commit]) == {"README.md", "config.json", "model.safetensors"}
    loaded = SparseAutoencoderDictionary.from_pretrained("me/mine", revision=revision)
    np.testing.assert_array_equal(loaded.transform(X), sae.transform(X))
    assert loaded.source_["commit"] == commit
    again = sae.set_params(verbose=0).push_to_hub("me/mine", revision=revision, token="mine")
    assert again != commit
    text = hub.commits["me/mine"][commit]["README.md"].decode()
    assert 'load_dictionary("me/mine")' in text
    card = huggingface_hub.ModelCard(text)
    assert card.data.library_name == "skdict"
    assert "sparse-autoencoder" in card.data.tags
    assert f"{sae.validation_explained_variance_:.4g}" in text
    assert f"{sae.validation_l0_:.4g}" in text


def test_subfolder(hub, sparsify):
    loaded = SparseAutoencoderDictionary.from_pretrained(
        REPO, subfolder="layers.1", revision=sparsify
    )
    np.testing.assert_allclose(*codes_of(loaded), atol=1e-6)
    local = SparseAutoencoderDictionary.from_pretrained(GOLDEN / "sparsify-topk")
    np.testing.assert_array_equal(loaded.components_, local.components_)
