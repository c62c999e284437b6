"""What paths and configurations of Gemma Scope 1 and 2 say, and where they contradict."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from skdict.io import load_dictionary

GOLDEN = Path(__file__).parent / "golden"
ONE = "layer_3/width_16k/average_l0_59/params.npz"
TWO = GOLDEN / "gemmascope2-res" / "resid_post" / "layer_13_width_16k_l0_big"
AFFINE = (
    GOLDEN / "gemmascope2-transcoder-affine" / "transcoder" / "layer_13_width_16k_l0_big_affine"
)


def params():
    return dict(np.load(GOLDEN / "gemmascope-res" / ONE))


def write(folder, arrays):
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **arrays)
    return folder


def edit(folder, **changes):
    """Change keys of config.json; None removes one."""
    config = json.loads((folder / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


# -- Gemma Scope of Gemma 2


@pytest.mark.parametrize(
    ("repository", "layer", "side"),
    [
        ("gemma-scope-2b-pt-res", "model.layers.3", "output"),
        ("gemma-scope-9b-pt-mlp", "model.layers.3.post_feedforward_layernorm", "output"),
        ("models--google--gemma-scope-27b-it-att", "model.layers.3.self_attn.o_proj", "input"),
    ],
)
def test_the_site_is_in_the_name_of_the_repository(tmp_path, repository, layer, side):
    folder = write(tmp_path / repository / Path(ONE).parent, params())
    for path in (tmp_path / repository, folder, folder / "params.npz"):
        activation = load_dictionary(path).activation_
        assert (activation["layer"], activation["side"]) == (layer, side)
        assert activation["layer_number"] == 3
        assert activation["excluded_tokens"] == ["bos"]
    size = repository.split("gemma-scope-")[1].split("-")[0]
    assert activation["model"] == f"google/gemma-2-{size}{'-it' if '-it-' in repository else ''}"
    assert activation.get("heads", False) == repository.endswith("att")


def test_heads_of_a_known_model(tmp_path):
    rng = np.random.default_rng(0)
    W = rng.normal(size=(2048, 5)).astype(np.float32)
    arrays = {"W_enc": W, "W_dec": np.ascontiguousarray(W.T), "b_dec": np.zeros(2048, np.float32)}
    arrays |= dict.fromkeys(("b_enc", "threshold"), np.zeros(5, np.float32))
    folder = write(tmp_path / "gemma-scope-2b-pt-att" / Path(ONE).parent, arrays)
    dictionary = load_dictionary(folder)
    X = rng.normal(size=(4, 8, 256)).astype(np.float32)
    expected = np.maximum(X.reshape(4, -1).astype(float) @ W.astype(float), 0)
    np.testing.assert_allclose(dictionary.transform(X), expected, rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match=r"rows of shape \(8, 256\)"):
        dictionary.transform(X.reshape(4, 256, 8))


def test_a_site_that_no_name_says(tmp_path):
    folder = write(tmp_path / "copy" / "layer_3", params())
    with pytest.warns(UserWarning, match="does not say what it reads"):
        activation = load_dictionary(folder).activation_
    assert "layer" not in activation
    assert activation["layer_number"] == 3


def test_keys_in_lower_case_and_a_factor_of_the_codes(tmp_path):
    arrays = params()
    factor = np.linspace(0.5, 2, 48, dtype=np.float32)
    lower = {key.lower(): value for key, value in arrays.items()} | {"scaling_factor": factor}
    folder = write(tmp_path / "gemma-scope-2b-pt-res" / "layer_3", lower)
    dictionary = load_dictionary(folder)
    expected = np.load(GOLDEN / "gemmascope-res" / "expected.npz")
    codes = dictionary.transform(expected["X"])
    np.testing.assert_allclose(codes, expected["codes"], atol=1e-6)
    rows = (expected["codes"] * factor) @ arrays["W_dec"] + arrays["b_dec"]
    np.testing.assert_allclose(dictionary.reconstruct(expected["X"]), rows, atol=1e-5)


@pytest.mark.parametrize("components", [None, [30, 4]])
def test_the_embedding_reads_what_its_layer_gives(tmp_path, components):
    # rows of the matrix times √d, where the weights are for the rows themselves
    arrays = params()
    path = "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6"
    dictionary = load_dictionary(write(tmp_path / path, arrays), components=components)
    X = 4 * np.load(GOLDEN / "gemmascope-res" / "expected.npz")["X"]  # 4 is √d
    p = X.astype(float) / 4 @ arrays["W_enc"].astype(float) + arrays["b_enc"]
    codes = np.where(p > np.maximum(arrays["threshold"], 0), p, 0)
    chosen = slice(None) if components is None else components
    np.testing.assert_allclose(dictionary.transform(X), codes[:, chosen], atol=1e-5)
    rows = codes[:, chosen] @ (4.0 * arrays["W_dec"][chosen]) + arrays["b_dec"]
    np.testing.assert_allclose(dictionary.reconstruct(X), rows, atol=1e-4)
    assert dictionary.activation_["layer"] == "model.embed_tokens"
    assert "layer_number" not in dictionary.activation_


def test_the_embedding_is_of_no_layer(tmp_path):
    path = "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6"
    folder = write(tmp_path / path, params())
    with pytest.raises(ValueError, match="of the embedding"):
        load_dictionary(folder, layer=0)


def test_one_layer_of_several(tmp_path):
    root = tmp_path / "gemma-scope-2b-pt-res"
    for layer in (2, 13):
        write(root / f"layer_{layer}" / "width_16k", params())
    assert load_dictionary(root, layer=13).activation_["layer"] == "model.layers.13"
    with pytest.raises(ValueError, match=r"several dictionaries.*layers 2, 13"):
        load_dictionary(root)
    with pytest.raises(ValueError, match="has no layer 3: it has 2, 13"):
        load_dictionary(root, layer=3)
    write(root / "layer_13" / "width_65k", params())
    with pytest.raises(ValueError, match=r"several dictionaries.*path="):
        load_dictionary(root, layer=13)


def test_a_tensor_that_is_not_known(tmp_path):
    folder = write(tmp_path / "layer_3", params() | {"pre_scale": np.ones(16, np.float32)})
    with pytest.raises(ValueError, match=r"not known here.*pre_scale"):
        load_dictionary(folder)


# -- Gemma Scope 2 of Gemma 3


@pytest.fixture
def two(tmp_path):
    return Path(shutil.copytree(TWO, tmp_path / "resid_post" / TWO.name))


@pytest.fixture
def affine(tmp_path):
    return Path(shutil.copytree(AFFINE, tmp_path / "transcoder" / AFFINE.name))


def test_a_layer_that_path_and_configuration_call_differently(two):
    edit(two, hf_hook_point_in="model.layers.12.output")
    with pytest.raises(ValueError, match=r"layer is not clear: the path.*13.*config.json says 12"):
        load_dictionary(two)


def test_a_layer_that_is_asked_for(two):
    assert load_dictionary(two, layer=13).activation_["layer"] == "model.layers.13"
    with pytest.raises(ValueError, match="has no layer 3: it has 13"):
        load_dictionary(two, layer=3)


@pytest.mark.parametrize(
    ("kind", "layer", "side"),
    [
        ("resid_post", "model.layers.13", "output"),
        ("attn_out_all", "model.layers.13.self_attn.o_proj", "input"),
        ("mlp_out", "model.layers.13.post_feedforward_layernorm", "output"),
        ("transcoder_all", "model.layers.13.pre_feedforward_layernorm", "output"),
    ],
)
def test_without_a_configuration_the_path_says_it(tmp_path, kind, layer, side):
    folder = tmp_path / "gemma-scope-2-270m-pt" / kind / TWO.name
    folder.mkdir(parents=True)
    shutil.copy(TWO / "params.safetensors", folder)
    dictionary = load_dictionary(folder)
    activation = dictionary.activation_
    assert (activation["layer"], activation["side"]) == (layer, side)
    assert activation["model"] == "google/gemma-3-270m"
    assert activation.get("heads", False) == kind.startswith("attn")
    assert ("target_layer" in activation) == kind.startswith("transcoder")
    assert dictionary.dictionary_.is_transcoder == kind.startswith("transcoder")


@pytest.mark.parametrize("kind", ["transcoder", "clt"])
def test_a_kind_that_path_and_configuration_call_differently(two, kind):
    edit(two, type=kind)
    with pytest.raises(ValueError, match=rf"kind is not clear: config.json says '{kind}'.*'sae'"):
        load_dictionary(two)


def test_a_transcoder_in_the_folder_of_another_kind(affine):
    folder = affine.parent.parent / "mlp_out" / affine.name
    shutil.move(affine, folder)
    with pytest.raises(ValueError, match="kind is not clear"):
        load_dictionary(folder)


def test_another_architecture(two):
    edit(two, architecture="topk")
    with pytest.raises(ValueError, match="architecture='topk' cannot be expressed"):
        load_dictionary(two)


def test_a_key_that_may_decide_codes(two):
    edit(two, input_norm="layer")
    with pytest.raises(ValueError, match="input_norm='layer' is not known here"):
        load_dictionary(two)


def test_a_key_that_does_not_is_kept(two):
    edit(two, data_seed=7)
    assert load_dictionary(two).source_["config"]["data_seed"] == 7


def test_chosen_latents_of_gemma_scope_2():
    X = np.load(AFFINE.parents[1] / "expected.npz")["X"]
    whole, some = load_dictionary(AFFINE), load_dictionary(AFFINE, components=[9, 1])
    np.testing.assert_allclose(some.transform(X), whole.transform(X)[:, [9, 1]], atol=1e-6)


def test_norms_of_rows_can_be_taken_into_the_codes(two):
    X = np.load(TWO.parents[1] / "expected.npz")["X"]
    source, unit = load_dictionary(two), load_dictionary(two, units="unit")
    norms = getattr(source, "component_norms_", np.ones(48))
    np.testing.assert_allclose(unit.transform(X), source.transform(X) * norms, atol=1e-5)


def test_a_matrix_of_the_wrong_shape(two):
    tensors = load_file(two / "params.safetensors")
    tensors["w_dec"] = tensors["w_dec"][:47].contiguous()
    save_file(tensors, two / "params.safetensors")
    with pytest.raises(ValueError, match=r"w_dec has shape \(47, 16\), expected \(48, any\)"):
        load_dictionary(two)


def test_the_configuration_beside_a_file_that_is_named(two):
    # the path says nothing, and the configuration all
    plain = two.parent.parent / "plain"
    shutil.move(two, plain)
    dictionary = load_dictionary(plain / "params.safetensors")
    assert dictionary.activation_["layer"] == "model.layers.13"
    assert dictionary.activation_["model"] == "google/gemma-3-1b-pt"
    edit(plain, hf_hook_point_in="model.layers.12.output")
    with pytest.raises(ValueError, match="layer is not clear"):
        load_dictionary(plain, path="params.safetensors", layer=13)
