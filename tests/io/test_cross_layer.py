"""Crosscoders, and layers of cross-layer transcoders, whose features write to several layers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from skdict.io import load_dictionary

GOLDEN = Path(__file__).parent / "golden"
CLT = GOLDEN / "gemmascope2-clt"
CLT_FILES = CLT / "clt" / "width_262k_l0_medium_affine"


def close(found, expected):
    assert np.abs(found - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())


@pytest.fixture
def crosscoder(tmp_path):
    """The files of the CLT as a crosscoder, whose equation is the same."""
    folder = tmp_path / "crosscoder" / "layer_5_9_12_width_262k_l0_medium_affine"
    shutil.copytree(CLT_FILES, folder)
    config = json.loads((folder / "config.json").read_text())
    config["type"] = "crosscoder"
    config["hf_hook_point_in"] = config["hf_hook_point_out"] = "model.layers.{5,9,12}.output"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_layers_of_gemma_scope_2_add_up_to_the_whole():
    arrays, total = np.load(CLT / "expected.npz"), 0
    for layer in range(3):
        dictionary = load_dictionary(CLT, layer=layer)
        X = arrays["X"][:, layer]
        codes = dictionary.transform(X)
        close(codes, arrays["codes"][:, layer])
        assert np.array_equal(codes != 0, arrays["codes"][:, layer] != 0)
        total = total + dictionary.reconstruct(X).reshape(len(X), 3, -1)
    close(total, arrays["forward"])


def test_what_a_layer_of_gemma_scope_2_reads_and_writes():
    activation = load_dictionary(CLT, layer=1).activation_
    layers = [f"model.layers.{i}.post_feedforward_layernorm" for i in range(3)]
    assert activation["layer"] == "model.layers.1.pre_feedforward_layernorm"
    assert (activation["target_layers"], activation["target_side"]) == (layers, "output")
    assert activation["model"] == "google/gemma-3-270m"  # which has no suffix on the hub


@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_layers_of_circuit_tracer_add_up_to_the_whole(kind):
    folder = GOLDEN / f"circuit_tracer-clt-{kind}"
    arrays, total = np.load(folder / "expected.npz"), np.zeros((3, 32, 16))
    for layer in range(3):
        dictionary = load_dictionary(folder, layer=layer)
        X = arrays["X"][layer]
        codes = dictionary.transform(X)
        close(codes, arrays["codes"][layer])
        assert np.array_equal(codes != 0, arrays["codes"][layer] != 0)
        written = dictionary.reconstruct(X).reshape(len(X), 3 - layer, -1)
        total[layer:] += written.transpose(1, 0, 2)
    close(total, arrays["reconstruction"])


def test_what_a_layer_of_mntss_reads_and_writes():
    dictionary = load_dictionary(GOLDEN / "mntss-clt-layer", layer=1)
    activation, norm = dictionary.activation_, "feedforward_layernorm"
    assert (activation["layer"], activation["side"]) == (f"model.layers.1.pre_{norm}", "input")
    assert activation["target_layers"] == [f"model.layers.{i}.post_{norm}" for i in (1, 2, 3)]
    # its decoders are one after the other, and not summed
    decoder = load_file(GOLDEN / "mntss-clt-layer" / "W_dec_1.safetensors")["W_dec_1"]
    assert dictionary.components_.shape == (48, 48)
    atoms = dictionary.components_ * dictionary.component_norms_[:, None]
    close(atoms, decoder.flatten(1).numpy())


@pytest.mark.parametrize("name", ["gemmascope2-clt", "circuit_tracer-clt-relu"])
def test_a_layer_that_is_not_there(name):
    with pytest.raises(ValueError, match="has no layer 7: it has 0, 1, 2"):
        load_dictionary(GOLDEN / name, layer=7)


def test_chosen_latents_are_read_alone():
    whole = load_dictionary(GOLDEN / "circuit_tracer-clt-jumprelu", layer=1)
    some = load_dictionary(GOLDEN / "circuit_tracer-clt-jumprelu", layer=1, components=[7, 2])
    X = np.load(GOLDEN / "circuit_tracer-clt-jumprelu" / "expected.npz")["X"][1]
    np.testing.assert_allclose(some.transform(X), whole.transform(X)[:, [7, 2]], atol=1e-6)
    np.testing.assert_array_equal(some.components_, whole.components_[[7, 2]])


def test_a_decoder_that_is_missing(tmp_path):
    shutil.copy(GOLDEN / "circuit_tracer-clt-relu" / "W_enc_1.safetensors", tmp_path)
    with pytest.raises(ValueError, match=r"not W_dec_1.safetensors"):
        load_dictionary(tmp_path)


def test_a_crosscoder_is_one_dictionary(crosscoder):
    arrays, dictionary = np.load(CLT / "expected.npz"), load_dictionary(crosscoder)
    X, expected = arrays["X"], arrays["codes"].reshape(32, -1)
    for rows in (X, X.reshape(32, -1)):
        codes = dictionary.transform(rows)
        close(codes, expected)
        assert np.array_equal(codes != 0, expected != 0)
    close(dictionary.reconstruct(X.reshape(32, -1)), arrays["forward"].reshape(32, -1))
    assert dictionary.input_shape_ == (3, 16)
    assert dictionary.activation_["layers"] == [f"model.layers.{i}" for i in (5, 9, 12)]


@pytest.mark.parametrize("components", [[40, 3, 17], [20, 18], [0]])
def test_chosen_latents_of_a_crosscoder(crosscoder, components):
    X = np.load(CLT / "expected.npz")["X"].reshape(32, -1)
    whole, some = load_dictionary(crosscoder), load_dictionary(crosscoder, components=components)
    np.testing.assert_allclose(some.transform(X), whole.transform(X)[:, components], atol=1e-6)
    np.testing.assert_array_equal(some.components_, whole.components_[components])


def test_latents_that_a_crosscoder_lacks(crosscoder):
    with pytest.raises(ValueError, match="components must be between 0 and 47"):
        load_dictionary(crosscoder, components=[48])


def test_a_crosscoder_refuses_a_layer(crosscoder):
    with pytest.raises(ValueError, match="leave layer= out"):
        load_dictionary(crosscoder, layer=1)


def test_a_crosscoder_without_one_of_its_files(crosscoder):
    (crosscoder / "params_layer_1.safetensors").unlink()
    with pytest.raises(ValueError, match="must have the files of the layers 0 to 1, but has 0, 2"):
        load_dictionary(crosscoder)


def test_a_crosscoder_whose_last_file_is_missing(crosscoder):
    (crosscoder / "params_layer_2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has 2 files, but its decoders write to \[3\] layers"):
        load_dictionary(crosscoder)


def test_layers_of_path_and_configuration_that_differ(crosscoder):
    config = json.loads((crosscoder / "config.json").read_text())
    config["hf_hook_point_in"] = "model.layers.{5,9,13}.output"
    (crosscoder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"list of layers is not clear.*\[5, 9, 13\]"):
        load_dictionary(crosscoder)


def test_a_list_of_layers_of_another_length(crosscoder):
    folder = crosscoder.parent / "copy"
    shutil.move(crosscoder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["hf_hook_point_in"] = "model.layers.{5,9,12,15}.output"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=r"of 3 layers, .* names \[5, 9, 12, 15\]"):
        activation = load_dictionary(folder).activation_
    assert "layers" not in activation


def test_several_layers_of_which_nothing_says_the_kind(tmp_path):
    for path in CLT_FILES.glob("*.safetensors"):
        shutil.copy(path, tmp_path)
    with pytest.raises(ValueError, match=r"w_dec has 3 axes.*type='clt' or 'crosscoder'"):
        load_dictionary(tmp_path, layer=0)


def test_a_decoder_of_no_latents_is_refused_before_anything_is_made_of_its_size(tmp_path):
    folder = tmp_path / "clt"
    folder.mkdir()
    tensors = load_file(CLT_FILES / "params_layer_0.safetensors")
    tensors["w_enc"] = tensors["w_enc"][:, :0].contiguous()
    tensors["w_dec"] = tensors["w_dec"].new_zeros(0, 1 << 40, 16)
    save_file(tensors, folder / "params_layer_0.safetensors")
    with pytest.raises(ValueError, match=r"w_enc has shape \(16, 0\): it is empty"):
        load_dictionary(folder)
