"""Sets of transcoders in the form of circuit-tracer: activations, layers, sites."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from skdict.io import load_dictionary

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def folder(tmp_path):
    """A function that copies a folder, and may change its configuration."""

    def copy(name, config=None):
        to = Path(shutil.copytree(GOLDEN / name, tmp_path / name))
        if config is not None:
            (to / "config.yaml").write_text("".join(f"{k}: {v}\n" for k, v in config.items()))
        return to

    return copy


CONFIG = {
    "model_kind": "transcoder_set",
    "model_name": "Qwen/Qwen3-0.6B",
    "feature_input_hook": "mlp.hook_in",
    "feature_output_hook": "mlp.hook_out",
}


def test_negative_thresholds_let_negative_entries_through():
    name = "circuit_tracer-jumprelu"
    codes = load_dictionary(GOLDEN / name).transform(np.load(GOLDEN / name / "expected.npz")["X"])
    assert (codes < 0).any()


def test_a_skip_is_added(folder):
    path = folder("circuit_tracer-relu")
    tensors = load_file(path / "layer_0.safetensors")
    skip = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    tensors["W_skip"] = tensors["W_enc"].new_tensor(skip)
    save_file(tensors, path / "layer_0.safetensors")
    arrays, dictionary = np.load(path / "expected.npz"), load_dictionary(path)
    expected = arrays["reconstruction"] + arrays["X"] @ skip.T
    np.testing.assert_allclose(dictionary.reconstruct(arrays["X"]), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (1, 48)])
def test_thresholds_of_other_shapes(folder, shape):
    path = folder("circuit_tracer-jumprelu")
    tensors = load_file(path / "layer_0.safetensors")
    tensors["activation_function.threshold"] = tensors["b_enc"].new_full(shape, 0.3)
    save_file(tensors, path / "layer_0.safetensors")
    X = np.load(path / "expected.npz")["X"]
    p = X.astype(float) @ tensors["W_enc"].double().numpy().T + tensors["b_enc"].double().numpy()
    codes = load_dictionary(path).transform(X)
    np.testing.assert_allclose(codes, np.where(p > np.float32(0.3), p, 0), atol=1e-5)
    some = load_dictionary(path, components=[7, 3]).transform(X)
    np.testing.assert_allclose(some, codes[:, [7, 3]], atol=1e-6)


def test_a_layer_of_a_set(folder):
    path = folder("mwhanna-transcoder")
    shutil.copy(path / "layer_3.safetensors", path / "layer_4.safetensors")
    assert load_dictionary(path, layer=4).activation_["layer_number"] == 4
    with pytest.raises(ValueError, match=r"several dictionaries.*layers 3, 4.*layer="):
        load_dictionary(path)
    with pytest.raises(ValueError, match="has no layer 5: it has 3, 4"):
        load_dictionary(path, layer=5)


@pytest.mark.parametrize(
    ("model", "hook", "layer", "side"),
    [
        ("Qwen/Qwen3-4B", "mlp.hook_in", "post_attention_layernorm", "output"),
        ("meta-llama/Llama-3.2-1B", "hook_resid_mid", "post_attention_layernorm", "input"),
        ("google/gemma-2-2b", "hook_resid_mid", "pre_feedforward_layernorm", "input"),
        ("google/gemma-2-2b", "ln2.hook_normalized", "pre_feedforward_layernorm", "output"),
    ],
)
def test_sites_by_the_family_of_the_model(folder, model, hook, layer, side):
    config = CONFIG | {"model_name": model, "feature_input_hook": hook}
    activation = load_dictionary(folder("circuit_tracer-relu", config)).activation_
    assert (activation["layer"], activation["side"]) == (f"model.layers.0.{layer}", side)
    assert activation["hook"] == f"blocks.0.{hook}"
    is_normalized = hook == "ln2.hook_normalized"
    assert activation.get("transform") == ("divide_by_norm_weight" if is_normalized else None)
    target = "post_feedforward_layernorm" if "gemma" in model else "mlp"
    assert activation["target_layer"] == f"model.layers.0.{target}"


def test_a_model_whose_names_are_not_known(folder):
    config = CONFIG | {"model_name": "someone/other"}
    activation = load_dictionary(folder("circuit_tracer-relu", config)).activation_
    assert "layer" not in activation
    assert activation["hook"] == "blocks.0.mlp.hook_in"


def test_a_configuration_of_the_other_kind(folder):
    path = folder("circuit_tracer-relu", CONFIG | {"model_kind": "cross_layer_transcoder"})
    with pytest.raises(ValueError, match="model_kind='cross_layer_transcoder'"):
        load_dictionary(path)


def test_a_configuration_that_names_files_elsewhere(tmp_path):
    place = "hf://google/gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76/params.npz"
    (tmp_path / "config.yaml").write_text(
        f'model_kind: transcoder_set\nmodel_name: google/gemma-2-2b\ntranscoders:\n- "{place}"\n'
    )
    with pytest.raises(ValueError, match=f"of layer 0 is {place}. Load that"):
        load_dictionary(tmp_path)


def test_settings_of_training_beside_transcoders_without_a_configuration(folder):
    path = folder("mwhanna-transcoder")
    (path / "config.yaml").unlink()
    X, expected = (np.load(path / "expected.npz")[name] for name in ("X", "codes"))
    np.testing.assert_allclose(load_dictionary(path).transform(X), expected, atol=1e-6)
    with open(path / "wandb-config.yaml", "a") as file:
        file.write("topk:\n  value: 8\n")
    with pytest.raises(ValueError, match=r"wandb-config.yaml.*'topk'.*no config.yaml"):
        load_dictionary(path)


def test_chosen_latents_of_top_k_are_refused():
    with pytest.raises(ValueError, match="keeps the largest latents"):
        load_dictionary(GOLDEN / "circuit_tracer-topk", components=[1, 2])
