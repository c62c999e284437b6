"""Folders as they are met: wrong paths, links, searches, and what happens half-way."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict._core.formats import loading
from skdict._core.formats.hub import HubFiles
from skdict.decomposition import (
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    compare_dictionaries,
)
from skdict.io import load_dictionary, save_dictionary

GOLDEN = Path(__file__).parent / "golden"
pytestmark = pytest.mark.filterwarnings("ignore:The dictionary (has learned|leaves)")


def golden(name="saelens-jumprelu"):
    return load_dictionary(GOLDEN / name)


def rows(n=200, d=16):
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- reading -------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    for name in ("layers.3", "layers.4"):
        shutil.copytree(GOLDEN / "saelens-jumprelu", tmp_path / "run" / name)
    return tmp_path / "run"


def test_one_of_two_by_its_path(two):
    with pytest.raises(ValueError, match=r"has several: layers\.3/.*, layers\.4/.*path="):
        load_dictionary(two)
    assert load_dictionary(two, path="layers.4").components_.shape == (48, 16)
    assert load_dictionary(two, path="./layers.4/").components_.shape == (48, 16)


def test_a_wrong_path_is_told_what_comes_near(two):
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'layer3'\. Near.*layers\.3"):
        load_dictionary(two, path="layer3")
    with pytest.raises(FileNotFoundError, match=r"'none'\. It has layers\.3/README"):
        load_dictionary(two, path="none")


@pytest.mark.parametrize("path", ["../run/layers.3", "layers.3/../layers.4", "/etc"])
def test_a_path_stays_inside(two, path):
    with pytest.raises(ValueError, match=f"inside of '{two}'"):
        load_dictionary(two, path=path)


def test_the_layer_of_sparsify_is_the_name_of_its_folder(tmp_path):
    shutil.copytree(GOLDEN / "sparsify-topk", tmp_path / "run")
    for root, path in ((tmp_path, "run/layers.3"), (tmp_path / "run", None)):
        found = load_dictionary(root, path=path).activation_
        assert found == {"layer": "layers.3", "side": "output"}
    (tmp_path / "run" / "layers.3").rename(tmp_path / "mine")
    assert "layer" not in load_dictionary(tmp_path / "mine").activation_


@pytest.mark.parametrize(
    ("name", "repo", "path", "expected"),
    [
        ("gemmascope-res", "google/gemma-scope-2b-pt-res", "layer_3", "model.layers.3"),
        ("sparsify-topk", "owner/name", "layers.3", "layers.3"),
    ],
)
def test_what_only_a_path_says_of_a_repository(name, repo, path, expected, tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit, owner = "0" * 40, repo.replace("/", "--")
    snapshot = tmp_path / f"models--{owner}" / "snapshots" / commit
    shutil.copytree(GOLDEN / name, snapshot)
    monkeypatch.setattr(HubFiles, "locate", lambda self, name: snapshot / self.folder / name)
    loaded = load_dictionary(repo, path=path, revision=commit, local_files_only=True)
    assert loaded.activation_["layer"] == expected
    assert loaded.source_["commit"] == commit


def test_links_and_names_of_all_scripts(two):
    folder = two / "ünï ☃ 字"
    folder.mkdir()
    for path in (two / "layers.3").iterdir():
        os.symlink(path, folder / path.name)
    os.symlink("nowhere", folder / "dangling.safetensors")
    os.symlink(folder, folder / "loop")
    assert load_dictionary(folder).components_.shape == (48, 16)


def test_a_format_that_is_almost_one(two):
    with pytest.raises(ValueError, match="Is 'sae_lens' meant"):
        load_dictionary(two, path="layers.3", format="saelens")


def test_a_folder_that_is_replaced_while_it_is_read(two, monkeypatch):
    """Else its configuration and its weights may be of two dictionaries."""
    folder, whole = two / "layers.3", loading.FORMATS["sae_lens"].read
    other = golden()

    def read(files, request):
        record = whole(files, request)
        save_dictionary(other, folder, format="sae_lens", overwrite=True)
        return record

    (folder / "README").unlink()
    (folder / "expected.npz").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(loading.FORMATS["sae_lens"], "read", read)
        with pytest.raises(ValueError, match="was replaced while it was read"):
            load_dictionary(folder)
    assert load_dictionary(folder).components_.shape == (48, 16)


@pytest.mark.parametrize("name", ["dictionary_learning-topk", "sparsify-topk"])
def test_what_is_not_known_of_the_activations_is_left_out(name, tmp_path):
    dictionary = golden(name)
    dictionary.activation_ = {}
    save_dictionary(dictionary, tmp_path / "saved", format=dictionary.source_["format"])
    assert None not in load_dictionary(tmp_path / "saved").activation_.values()


def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(two, monkeypatch):
    def refused(folder):
        raise PermissionError(f"Permission denied: {str(folder)!r}")

    monkeypatch.setattr(os, "scandir", refused)  # root may read all, so that modes do not help
    with pytest.raises(PermissionError, match="run"):
        load_dictionary(two)


# -- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["safetensors.torch.save_file", "os.rename"])
def test_nothing_is_lost_half_way(what, tmp_path, monkeypatch):
    save_dictionary(golden(), tmp_path / "saved")
    before = contents(tmp_path / "saved")

    def fails(*args, **kwargs):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(what, fails)
        with pytest.raises(OSError, match="No space left"):
            save_dictionary(golden("sparsify-topk"), tmp_path / "saved", overwrite=True)
    assert contents(tmp_path / "saved") == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_an_interruption_between_the_renames_brings_the_old_files_back(tmp_path, monkeypatch):
    save_dictionary(golden(), tmp_path / "saved")
    before, rename, calls = contents(tmp_path / "saved"), os.rename, []

    def interrupted(old, new):
        calls.append(old)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_dictionary(golden("sparsify-topk"), tmp_path / "saved", overwrite=True)
    assert contents(tmp_path / "saved") == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.mark.parametrize("exists", [True, False])
def test_through_a_link(exists, tmp_path):
    os.symlink(tmp_path / "real", tmp_path / "link")
    if exists:
        save_dictionary(golden("sparsify-topk"), tmp_path / "real")
    save_dictionary(golden(), tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert load_dictionary(tmp_path / "real").architecture == "jumprelu"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_the_working_directory_stays(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    for folder in (".", "..", tmp_path):
        with pytest.raises(ValueError, match="is the working directory or above it"):
            save_dictionary(golden(), folder, overwrite=True)
    save_dictionary(golden(), "mine")
    assert Path.cwd() == tmp_path / "inner"
    assert load_dictionary("mine").architecture == "jumprelu"


def test_what_is_not_fitted_or_no_dictionary(tmp_path):
    for estimator in (SparseAutoencoderDictionary(4), SparseAutoencoderDictionaryCV(4)):
        with pytest.raises(NotFittedError):
            save_dictionary(estimator, tmp_path / "saved")
    with pytest.raises(TypeError, match="class SparseAutoencoderDictionary was given"):
        save_dictionary(SparseAutoencoderDictionary, tmp_path / "saved")
    with pytest.raises(TypeError, match="not StandardScaler"):
        save_dictionary(StandardScaler().fit(rows()), tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_of_a_grid_search_the_best_is_saved(tmp_path):
    sae = SparseAutoencoderDictionary(8, max_iter=1, random_state=0, device="cpu")
    search = GridSearchCV(sae, {"alpha": [0.1, 0.2]}, cv=2).fit(rows())
    save_dictionary(search, tmp_path / "saved")
    codes = load_dictionary(tmp_path / "saved").transform(rows())
    np.testing.assert_array_equal(codes, search.best_estimator_.transform(rows()))
    grid = {"sparseautoencoderdictionary__alpha": [0.1]}
    search = GridSearchCV(make_pipeline(StandardScaler(), sae), grid, cv=2).fit(rows())
    with pytest.raises(TypeError, match=r"pipeline\[-1\]"):
        save_dictionary(search, tmp_path / "other")


def test_activation_that_was_set_is_kept(tmp_path):
    sae = SparseAutoencoderDictionary(8, architecture="topk", n_nonzero_coefs=2, max_iter=1)
    sae.set_params(random_state=0, device="cpu").fit(rows())
    sae.activation_ = {"model": "gpt2", "hook": "blocks.3.hook_resid_post", "context_size": 64}
    save_dictionary(sae, tmp_path / "ours")
    assert load_dictionary(tmp_path / "ours").activation_ == sae.activation_
    save_dictionary(sae, tmp_path / "theirs", format="sae_lens")
    metadata = json.loads((tmp_path / "theirs" / "cfg.json").read_text())["metadata"]
    assert metadata["hook_name"] == "blocks.3.hook_resid_post"
    again = load_dictionary(tmp_path / "theirs").activation_
    assert sae.activation_.items() <= again.items()


def test_a_decoder_that_sentence_transformers_lacks_is_warned_of(tmp_path):
    X, sparsify = rows(), golden("sparsify-topk")
    with pytest.warns(UserWarning, match=r"other reconstructions.*of their norm away"):
        save_dictionary(sparsify, tmp_path / "module", format="sentence_transformers")
    module = load_dictionary(tmp_path / "module")
    np.testing.assert_array_equal(module.transform(X), sparsify.transform(X))
    assert np.abs(module.reconstruct(X) - sparsify.reconstruct(X)).max() > 1
    save_dictionary(module, tmp_path / "again", format="sentence_transformers")  # nothing to say


# -- comparing -----------------------------------------------------------------------------------


def test_dictionaries_of_others_are_compared_as_they_are(tmp_path):
    X, X_test = rows(400), rows(100) + 0.1
    theirs = golden("sparsify-topk")
    table = compare_dictionaries(
        {"theirs": theirs},
        X,
        X_test,
        transform_algorithms=("encoder", "lasso", "omp"),
        budgets=(3,),
    )
    assert list(table["transform_algorithm"]) == ["encoder", "lasso", "omp"]
    np.testing.assert_allclose(
        list(table["l0"]), [(theirs.transform(X_test) != 0).sum(1).mean(), 3, 3], rtol=0.03
    )
    assert not hasattr(theirs, "variance_")  # a copy was calibrated
    np.testing.assert_allclose(table["score"][0], theirs.calibrate(X).score(X_test), rtol=1e-6)
