"""What users of other libraries complained of in public, each as a test."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from skdict.io import load_dictionary

GOLDEN = Path(__file__).parent / "golden"


# -- 1. Top-k that is read as ReLU, or without its k


def test_top_k_of_circuit_tracer_is_not_read_as_relu():
    # version 0.5.0 reads it as ReLU
    folder = GOLDEN / "circuit_tracer-topk"
    dictionary, expected = load_dictionary(folder), np.load(folder / "expected.npz")
    codes = dictionary.transform(expected["X"])
    assert np.array_equal(codes != 0, expected["codes"] != 0)
    assert (np.count_nonzero(codes, axis=1) == 8).all()
    assert dictionary.n_nonzero_coefs_ == 8


def test_top_k_of_circuit_tracer_has_no_relu_after_it(tmp_path):
    shutil.copy(GOLDEN / "circuit_tracer-topk" / "layer_0.safetensors", tmp_path)
    (tmp_path / "config.yaml").write_text("model_kind: transcoder_set\nactivation: topk\nk: 40\n")
    tensors = load_file(tmp_path / "layer_0.safetensors")
    X = np.load(GOLDEN / "circuit_tracer-topk" / "expected.npz")["X"]
    p = X.astype(float) @ tensors["W_enc"].double().numpy().T + tensors["b_enc"].double().numpy()
    expected = np.where(p >= np.sort(p, axis=1)[:, [-40]], p, 0)
    assert (expected < 0).any()
    np.testing.assert_allclose(load_dictionary(tmp_path).transform(X), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("circuit_tracer-topk", "activation: topk\n", "activation='topk' with k=None"),
        ("circuit_tracer-topk", "k: 8\n", "activation=None with k=8"),
        ("circuit_tracer-topk", "activation: batch_topk\n", "'batch_topk' cannot be expressed"),
        ("circuit_tracer-relu", "activation: jumprelu\n", "has no threshold"),
        ("circuit_tracer-jumprelu", "activation: relu\n", "has a threshold"),
        ("circuit_tracer-jumprelu", "activation: topk\nk: 8\n", "has a threshold"),
        ("circuit_tracer-topk", None, "may be ReLU or top-k"),
    ],
)
def test_an_activation_of_circuit_tracer_that_is_not_clear(tmp_path, name, lines, message):
    shutil.copy(GOLDEN / name / "layer_0.safetensors", tmp_path)
    if lines is not None:
        (tmp_path / "config.yaml").write_text("model_kind: transcoder_set\n" + lines)
    with pytest.raises(ValueError, match=message):
        load_dictionary(tmp_path)


# -- 3. A bias that is subtracted from the input, where it must not be


def test_gemma_scope_transcoders_subtract_nothing(tmp_path):
    path = Path("gemma-scope-2b-pt-transcoders", "layer_3", "width_16k", "average_l0_59")
    golden = GOLDEN / "gemmascope-transcoder"
    arrays = dict(np.load(golden / Path(*path.parts[1:]) / "params.npz"))
    X = np.load(golden / "expected.npz")["X"]
    p = X.astype(float) @ arrays["W_enc"].astype(float) + arrays["b_enc"]
    expected = np.where(p > np.maximum(arrays["threshold"], 0), p, 0)
    (tmp_path / path).mkdir(parents=True)
    for bias in (arrays["b_dec"], arrays["b_dec"] + np.float32(100)):
        # b is of what is written: whatever it is, codes are the same
        np.savez(tmp_path / path / "params.npz", **(arrays | {"b_dec": bias}))
        dictionary = load_dictionary(tmp_path / path)
        np.testing.assert_allclose(dictionary.transform(X), expected, atol=1e-5)
        rows = expected @ arrays["W_dec"].astype(float) + bias
        np.testing.assert_allclose(dictionary.reconstruct(X), rows, rtol=1e-6, atol=1e-5)
        assert not dictionary.input_offset_.any()
    activation = dictionary.activation_
    assert activation["layer"] == "model.layers.3.pre_feedforward_layernorm"
    assert (activation["side"], activation["transform"]) == ("output", "divide_by_norm_weight")
    assert activation["target_layer"] == "model.layers.3.post_feedforward_layernorm"
    # atoms do not add up to what is read
    with pytest.raises(ValueError, match="transcoder"):
        dictionary.calibrate(X)


# -- 4. Gemma Scope 2: names of hooks, affine maps that are there or not, weights that are missing


AFFINE = (
    GOLDEN / "gemmascope2-transcoder-affine" / "transcoder" / "layer_13_width_16k_l0_big_affine"
)


def copied(folder, to, *, affine, has_skip):
    """The transcoder with another configuration, in a folder that says nothing."""
    to = to / "transcoder" / "layer_13_width_16k_l0_big"
    to.mkdir(parents=True)
    config = json.loads((folder / "config.json").read_text())
    config["affine_connection"] = affine
    (to / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "params.safetensors")
    if not has_skip:
        del tensors["affine_skip_connection"]
    save_file(tensors, to / "params.safetensors")
    return to


def test_gemma_scope_2_is_where_its_configuration_says():
    config = json.loads((AFFINE / "config.json").read_text())
    activation = load_dictionary(AFFINE).activation_
    assert f"{activation['layer']}.{activation['side']}" == config["hf_hook_point_in"]
    assert (
        f"{activation['target_layer']}.{activation['target_side']}" == config["hf_hook_point_out"]
    )


def test_a_transcoder_of_gemma_scope_2_without_an_affine_map(tmp_path):
    folder = copied(AFFINE, tmp_path, affine=False, has_skip=False)
    dictionary, expected = load_dictionary(folder), np.load(AFFINE.parents[1] / "expected.npz")
    X = expected["X"]
    np.testing.assert_allclose(dictionary.reconstruct(X), expected["reconstruction"], atol=1e-5)
    assert getattr(dictionary, "skip_coef_", None) is None


@pytest.mark.parametrize(("affine", "has_skip"), [(True, False), (False, True)])
def test_an_affine_map_of_gemma_scope_2_that_is_not_clear(tmp_path, affine, has_skip):
    folder = copied(AFFINE, tmp_path, affine=affine, has_skip=has_skip)
    with pytest.raises(
        ValueError, match=rf"affine_skip_connection.*affine_connection is {affine}"
    ):
        load_dictionary(folder)


@pytest.mark.parametrize("name", ["w_dec", "b_enc", "b_dec", "threshold"])
def test_a_tensor_of_gemma_scope_2_that_is_missing(tmp_path, name):
    folder = copied(AFFINE, tmp_path, affine=True, has_skip=True)
    tensors = load_file(folder / "params.safetensors")
    del tensors[name]
    save_file(tensors, folder / "params.safetensors")
    with pytest.raises(ValueError, match=rf"params.safetensors.*has no tensor '{name}'"):
        load_dictionary(folder)
