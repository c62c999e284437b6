"""Qwen Scope, Goodfire and qresearch: torch files of one dictionary, of a block's output."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from skdict.io import load_dictionary

GOLDEN = Path(__file__).parent / "golden"
QWEN = {"model_type": "topk_sae", "base_model": "Qwen/Qwen3-1.7B-Base", "d_model": 16, "d_sae": 48}
QWEN |= {"k": 8, "num_layers": 28, "hook_point": "resid_post", "dtype": "float32"}


@pytest.fixture
def qwen(tmp_path):
    """A function that writes a repository of Qwen Scope with some keys changed."""

    def write(**changes):
        folder = tmp_path / "repository"
        folder.mkdir()
        shutil.copy(GOLDEN / "qwenscope" / "layer3.sae.pt", folder)
        (folder / "config.json").write_text(json.dumps(QWEN | changes))
        return folder

    return write


def test_qwen_scope_with_its_configuration(qwen):
    folder = qwen()
    dictionary = load_dictionary(folder)
    arrays = np.load(GOLDEN / "qwenscope" / "expected.npz")
    codes = dictionary.transform(arrays["X"])
    scale = max(1, np.abs(arrays["codes"]).max())
    assert np.abs(codes - arrays["codes"]).max() <= 1e-6 * scale
    assert np.array_equal(codes != 0, arrays["codes"] != 0)
    np.testing.assert_allclose(
        dictionary.reconstruct(arrays["X"]), arrays["reconstruction"], atol=1e-5
    )
    activation = dictionary.activation_
    assert (activation["layer"], activation["side"]) == ("model.layers.3", "output")
    assert activation["model"] == "Qwen/Qwen3-1.7B-Base"
    assert dictionary.n_nonzero_coefs_ == 8
    assert load_dictionary(folder, path="layer3.sae.pt").n_nonzero_coefs_ == 8


def test_qwen_scope_of_several_layers(qwen):
    folder = qwen()
    shutil.copy(folder / "layer3.sae.pt", folder / "layer11.sae.pt")
    assert load_dictionary(folder, layer=11).activation_["layer"] == "model.layers.11"
    with pytest.raises(ValueError, match=r"several dictionaries.*layers 3, 11"):
        load_dictionary(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": None}, "config.json.* has no 'k'"),
        ({"k": 0}, "'k' must be at least 1"),
        ({"k": 49}, "k=49 must be between 1 and 48"),
        ({"d_sae": 64}, r"W_enc has shape \(48, 16\), expected \(64, 16\)"),
        ({"num_layers": 3}, "of layer 3, but .*num_layers=3"),
        ({"model_type": "jumprelu_sae"}, "model_type='jumprelu_sae' cannot be expressed"),
        ({"normalize_input": True}, "normalize_input=True is not known here"),
    ],
)
def test_configurations_of_qwen_scope_that_are_refused(qwen, changes, message):
    with pytest.raises(ValueError, match=message):
        load_dictionary(qwen(**changes))


def test_chosen_latents_of_qwen_scope_are_refused(qwen):
    with pytest.raises(ValueError, match="keeps the largest latents"):
        load_dictionary(qwen(), components=[0])


@pytest.mark.parametrize(
    ("name", "file", "model"),
    [
        ("goodfire", "Llama-3.1-8B-Instruct-SAE-l19.pth", "meta-llama/Llama-3.1-8B-Instruct"),
        ("goodfire", "Llama-3.3-70B-Instruct-SAE-l50.pt", "meta-llama/Llama-3.3-70B-Instruct"),
        (
            "deepseek",
            "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
            "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        ),
    ],
)
def test_two_linear_layers(tmp_path, name, file, model):
    rng = np.random.default_rng(0)
    ending = "_linear" if name == "goodfire" else ""
    W, D = (rng.normal(size=shape).astype(np.float32) for shape in ((20, 6), (6, 20)))
    c, b = (rng.normal(size=n).astype(np.float32) for n in (20, 6))
    state = {"encoder": (W, c), "decoder": (D, b)}
    tensors = {}
    for layer, (weight, bias) in state.items():
        tensors[f"{layer}{ending}.weight"] = torch.from_numpy(weight)
        tensors[f"{layer}{ending}.bias"] = torch.from_numpy(bias)
    torch.save(tensors, tmp_path / file)
    X = rng.normal(size=(7, 6)).astype(np.float32)
    codes = np.maximum(X.astype(float) @ W.T.astype(float) + c, 0)
    for path in (tmp_path, tmp_path / file):
        dictionary = load_dictionary(path)
        np.testing.assert_allclose(dictionary.transform(X), codes, atol=1e-5)
        np.testing.assert_allclose(dictionary.reconstruct(X), codes @ D.T + b, atol=1e-4)
    some = load_dictionary(tmp_path, components=[11, 2])
    np.testing.assert_allclose(some.transform(X), codes[:, [11, 2]], atol=1e-5)
    layer = int(file.rpartition("-l")[2].split(".")[0])
    assert dictionary.source_["format"] == name
    assert dictionary.activation_["layer"] == f"model.layers.{layer}"
    assert dictionary.activation_["model"] == model
    with pytest.raises(ValueError, match=f"has no layer 3: it has {layer}"):
        load_dictionary(tmp_path, layer=3)


def test_the_layer_of_a_file_whose_name_does_not_say_it(tmp_path):
    shutil.copy(
        GOLDEN / "deepseek_r1-qresearch" / "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
        tmp_path / "sae.pt",
    )
    assert "layer" not in load_dictionary(tmp_path).activation_
    assert load_dictionary(tmp_path, layer=19).activation_["layer"] == "model.layers.19"
