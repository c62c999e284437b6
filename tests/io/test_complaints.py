"""What users of other libraries complained of in public, each as a test."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
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


# -- 8. Keys and files of older versions: dictionary_learning, sparsify


def _trainer(folder, name, change):
    """A golden folder of dictionary_learning, with tensors and configuration changed."""
    state = torch.load(GOLDEN / name / "ae.pt", weights_only=True)
    config = json.loads((GOLDEN / name / "config.json").read_text())
    change(state, config["trainer"])
    torch.save(state, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return load_dictionary(folder)


def _without_k(state, trainer):
    del state["k"], state["threshold"]


def test_an_older_top_k_of_dictionary_learning_has_its_k_in_the_configuration(tmp_path):
    name = "dictionary_learning-topk"
    dictionary = _trainer(tmp_path, name, _without_k)
    expected = np.load(GOLDEN / name / "expected.npz")
    np.testing.assert_allclose(dictionary.transform(expected["X"]), expected["codes"], atol=1e-6)
    assert dictionary.n_nonzero_coefs_ == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, trainer: (_without_k(state, trainer), trainer.pop("k")), "has no k"),
        (lambda state, trainer: trainer.update(k=9), "has k=8, but .* k=9"),
        (lambda state, trainer: trainer.pop("dict_class"), "AutoEncoderTopK or a BatchTopKSAE"),
        (lambda state, trainer: trainer.update(dict_class="IdentityDict"), "'IdentityDict'"),
        (lambda state, trainer: trainer.update(new_activation="tanh"), "new_activation"),
        (lambda state, trainer: state.update(W_gate=state["b_dec"]), "W_gate"),
    ],
)
def test_a_top_k_of_dictionary_learning_that_is_not_clear(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        _trainer(tmp_path, "dictionary_learning-topk", change)


def test_a_backup_of_dictionary_learning_says_what_its_rows_were_divided_by():
    # the library's own from_pretrained: KeyError
    folder = GOLDEN / "dictionary_learning-autoencoder-backup"
    expected = np.load(folder / "expected.npz")
    X, codes = expected["X"], expected["codes"]
    with pytest.warns(UserWarning, match=r"divided by norm_factor=2.5.*units='unit'"):
        dictionary = load_dictionary(folder)
    assert dictionary.activation_["scale"] == 1 / 2.5
    np.testing.assert_allclose(dictionary.transform(X), codes, atol=1e-6)
    # in units of the activations: what the library would save at the end, of unit atoms
    state = torch.load(folder / "ae.pt", weights_only=True)["ae"]
    norms = state["decoder.weight"].norm(dim=0).numpy()
    dictionary = load_dictionary(folder, units="unit")
    np.testing.assert_allclose(dictionary.transform(2.5 * X), 2.5 * norms * codes, atol=1e-5)
    reconstruction = 2.5 * expected["reconstruction"]
    np.testing.assert_allclose(dictionary.reconstruct(2.5 * X), reconstruction, atol=1e-5)


def test_units_of_dictionary_learning(tmp_path):
    # the library rescales codes by the norms of atoms as it reads an AutoEncoder, or does not
    folder = GOLDEN / "dictionary_learning-autoencodernew"
    expected = np.load(folder / "expected.npz")
    for units, key in (("source", "codes"), ("unit", "codes_forward")):
        dictionary = load_dictionary(folder, units=units)
        np.testing.assert_allclose(dictionary.transform(expected["X"]), expected[key], atol=2e-6)
        reconstruction = dictionary.reconstruct(expected["X"])
        np.testing.assert_allclose(reconstruction, expected["reconstruction"], atol=2e-6)


def _sparsify(folder, name, **changes):
    shutil.copytree(GOLDEN / name, folder, dirs_exist_ok=True)
    path = folder / "layers.3" / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return load_dictionary(folder)


def test_the_signed_top_k_of_an_older_sparsify():
    # version 1.3.3 drops the key
    folder = GOLDEN / "sparsify2407-signed"
    expected = np.load(folder / "expected.npz")
    codes = load_dictionary(folder).transform(expected["X"])
    assert (codes < 0).any()
    np.testing.assert_allclose(codes, expected["codes"], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "relu"}, "activation='relu' cannot be expressed"),
        ({"num_latents": 32}, "says 32 latents"),
        ({"d_in": 8}, "d_in=8"),
        ({"pre_norm": True}, "pre_norm=True is not known here"),
        ({"k": 0}, "'k' must be at least 1"),
        ({"skip_connection": True}, "no tensor 'W_skip'"),
    ],
)
def test_a_configuration_of_sparsify_that_does_not_fit(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        _sparsify(tmp_path, "sparsify-topk", **changes)


# -- 11. dtype and memory


def test_tensors_of_different_dtypes_are_all_read_as_float32(tmp_path):
    name = "sparsify-topk"
    shutil.copytree(GOLDEN / name, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "layers.3" / "sae.safetensors"
    dtypes = [torch.bfloat16, torch.float32, torch.float16, torch.float64]
    state = {
        key: tensor.to(dtype)
        for (key, tensor), dtype in zip(sorted(load_file(path).items()), dtypes, strict=True)
    }
    save_file(state, path)
    dictionary = load_dictionary(tmp_path)
    for attribute in ("components_", "encoder_coef_", "encoder_intercept_", "intercept_"):
        assert getattr(dictionary, attribute).dtype == np.float32
    x = np.load(GOLDEN / name / "expected.npz")["X"]
    exact = {key: tensor.double().numpy() for key, tensor in state.items()}
    p = (x - exact["b_dec"]) @ exact["encoder.weight"].T + exact["encoder.bias"]
    expected = np.where(p >= np.sort(p, axis=1)[:, [-8]], p.clip(0), 0)
    np.testing.assert_allclose(dictionary.transform(x), expected, atol=1e-5)


def test_thresholds_of_sixteen_bits_are_folded_in_more(tmp_path):
    def halve(state, trainer):
        state.update({key: tensor.bfloat16() for key, tensor in state.items()})

    dictionary = _trainer(tmp_path, "dictionary_learning-jumprelu", halve)
    state = torch.load(tmp_path / "ae.pt", weights_only=True)
    assert state["threshold"].dtype == torch.bfloat16
    expected = state["threshold"].float().clamp_min(0).numpy()
    np.testing.assert_array_equal(dictionary.threshold_, expected)
    unit = load_dictionary(tmp_path, units="unit")
    norms = state["W_dec"].double().norm(dim=1).numpy()
    np.testing.assert_array_equal(unit.threshold_, (expected * norms).astype(np.float32))


LOADS = """
import resource, sys
from skdict.io import load_dictionary
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
load_dictionary(sys.argv[1])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is counted in other units")
def test_a_file_is_held_once_beside_what_is_made_of_it(tmp_path):
    n, d = 16384, 1024
    generator = torch.Generator().manual_seed(0)
    state = {
        "encoder.weight": torch.randn(n, d, generator=generator),
        "encoder.bias": torch.zeros(n),
        "decoder.weight": torch.randn(d, n, generator=generator),
        "bias": torch.zeros(d),
    }
    torch.save(state, tmp_path / "ae.pt")
    size = (tmp_path / "ae.pt").stat().st_size / 2**20  # 128 MiB
    command = [sys.executable, "-c", LOADS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(done.stdout) / 1024
    # the file, the tensors, and blocks in float64 whose size does not depend on the file's
    assert peak <= 2 * size + 250


# -- 12. The wrong module or side, and files that do not open


def test_rows_of_another_side_are_warned_of():
    dictionary = load_dictionary(GOLDEN / "sparsify-topk")
    generator = np.random.default_rng(0)
    X = 0.01 * generator.normal(size=(200, 16)).astype(np.float32)
    with pytest.warns(
        UserWarning, match=r"(?s)times the variance of X.*input or output.*layers.3"
    ):
        dictionary.calibrate(X)


def test_an_openai_file_that_was_saved_again_is_read():
    # its own loader refuses the keys that saving adds
    for name in ("openai-topk-layernorm", "openai-topk-identity-bigk"):
        state = torch.load(GOLDEN / name / "6.pt", weights_only=True)
        assert "activation.k" in state
        assert load_dictionary(GOLDEN / name).activation_["layer_number"] == 6


def test_an_openai_file_of_another_layer_is_refused():
    with pytest.raises(ValueError, match="is of layer 6, but layer=5"):
        load_dictionary(GOLDEN / "openai-relu", layer=5)


def test_a_pickle_of_a_whole_model_is_refused_with_the_remedy(tmp_path):
    shutil.copy(GOLDEN / "overcomplete-topk" / "model.pth", tmp_path)
    with pytest.raises(ValueError, match=r"model\.pth.*has to be saved again, as its state_dict"):
        load_dictionary(tmp_path)
    with pytest.raises(ValueError, match=r"model\.pth.*has to be saved again, as its state_dict"):
        load_dictionary(tmp_path, format="overcomplete")


def test_what_overcomplete_does_not_save_is_asked_for(tmp_path):
    shutil.copy(GOLDEN / "overcomplete-topk" / "state_dict.pt", tmp_path)
    with pytest.raises(ValueError, match=r"info\.json.*top_k"):
        load_dictionary(tmp_path)


def test_a_file_of_interplm_that_does_not_say_its_class_is_ambiguous(tmp_path):
    folder = GOLDEN / "interplm-topksae-sqrtd"
    with pytest.raises(ValueError, match="interplm_topk, interplm_batch_topk"):
        load_dictionary(folder)
    shutil.copy(folder / "ae.pt", tmp_path)
    tag = "trainer_cfg: !!python/object:interplm.train.trainers.{}TrainerConfig {{}}\n"
    for trainer, k in (("top_k.TopK", 8), ("batch_top_k.BatchTopK", None)):
        (tmp_path / "config.yaml").write_text(tag.format(trainer))
        with pytest.warns(UserWarning, match="scaled to the norm"):
            dictionary = load_dictionary(tmp_path)
        assert dictionary.dictionary_.encoder.n_largest == k


# -- of SAELens and Llama Scope


def edited(name, folder, tensors=None, **keys):
    """A golden folder with other keys in its configuration, of which None is taken out."""
    folder = folder / name
    shutil.copytree(GOLDEN / name, folder)
    path = folder / ("cfg.json" if name.startswith("saelens") else "config.json")
    config = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    if tensors is not None:
        weights = folder / "sae_weights.safetensors"
        save_file(load_file(weights) | tensors, weights)
    return folder


def of_golden(name):
    """Rows, codes and reconstructions that the library gave."""
    arrays = np.load(GOLDEN / name / "expected.npz")
    return arrays["X"], arrays["codes"], arrays["reconstruction"]


def assert_same(found, expected):
    assert np.abs(found - expected).max() <= 1e-6 * max(1, np.abs(expected).max())


def test_1_top_k_that_sae_lens_calls_standard():
    X, expected, _ = of_golden("saelens5-topk-as-standard")
    dictionary = load_dictionary(GOLDEN / "saelens5-topk-as-standard")
    assert_same(dictionary.transform(X), expected)
    assert np.count_nonzero(dictionary.transform(X), axis=1).max() == 8
    assert dictionary.n_nonzero_coefs_ == 8


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"activation_fn_kwargs": {}}, "has to be there"),
        ({"activation_fn_kwargs": {"k": 0}}, "'k' must be at least 1"),
        ({"activation_fn_str": "topk_new"}, "'topk_new' cannot be expressed"),
        ({"activation_fn_str": "tanh-relu"}, "'tanh-relu' cannot be expressed"),
        ({"architecture": "gated"}, "architecture='gated' with the activation function 'topk'"),
    ],
)
def test_1_top_k_of_sae_lens_whose_k_is_lost(tmp_path, keys, message):
    with pytest.raises(ValueError, match=message):
        load_dictionary(edited("saelens5-topk-as-standard", tmp_path, **keys))


def test_1_the_threshold_of_a_batch_top_k_checkpoint_is_kept():
    X, expected, _ = of_golden("saelens-batchtopk-checkpoint")
    dictionary = load_dictionary(GOLDEN / "saelens-batchtopk-checkpoint")
    assert_same(dictionary.transform(X), expected)
    assert (dictionary.threshold_ > 0).all()


def test_2_llama_scope_by_its_authors_and_by_sae_lens():
    name = "llamascope-v1-authors-freedecoder"
    X, expected, reconstruction = of_golden(name)
    authors = load_dictionary(GOLDEN / name)
    assert_same(authors.transform(X), expected)
    assert_same(authors.reconstruct(X), reconstruction)
    sae_lens = load_dictionary(GOLDEN / name, format="llama_scope_sae_lens")
    l0 = [np.count_nonzero(each.transform(X), axis=1).mean() for each in (authors, sae_lens)]
    assert l0[0] == np.count_nonzero(expected, axis=1).mean() != l0[1]


def test_2_llama_scope_without_the_place_that_it_reads(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(GOLDEN / "llamascope-v1-authors-freedecoder", folder)
    path = next(folder.rglob("hyperparams.json"))
    config = json.loads(path.read_text())
    del config["hook_point_in"], config["hook_point_out"]
    path.write_text(json.dumps(config))
    X, expected, _ = of_golden("llamascope-v1-authors-freedecoder")
    loaded = load_dictionary(folder)
    assert_same(loaded.transform(X), expected)
    assert loaded.activation_ == {}


def test_2_the_two_factors_of_a_llama_scope_transcoder(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(GOLDEN / "llamascope-v1-authors-freedecoder", folder)
    path = next(folder.rglob("hyperparams.json"))
    config = json.loads(path.read_text())
    config["dataset_average_activation_norm"] = {"in": 3.2, "out": 0.8}
    config["hook_point_out"] = "blocks.3.hook_mlp_out"
    path.write_text(json.dumps(config))
    X, _, _ = of_golden("llamascope-v1-authors-freedecoder")
    tensors = load_file(next(folder.rglob("final.safetensors")))
    t = {key: value.double().numpy() for key, value in tensors.items()}
    s_in, s_out = 4 / 3.2, 4 / 0.8  # √d over the average norm
    n = np.linalg.norm(t["decoder.weight"], axis=0) / s_out
    p = s_in * X @ t["encoder.weight"].T + t["encoder.bias"]
    z = n * p * (n * p > config["jump_relu_threshold"])
    expected = (z / n) @ t["decoder.weight"].T / s_out + t["decoder.bias"] / s_out
    transcoder = load_dictionary(folder)
    assert_same(transcoder.transform(X), z)
    assert_same(transcoder.reconstruct(X), expected)


@pytest.mark.parametrize(
    "name",
    ["saelens-jumprelu", "saelens-jumprelu-noprebias", "saelens-transcoder"],
)
def test_3_sae_lens_subtracts_b_dec_by_its_flag_alone(name):
    X, expected, _ = of_golden(name)
    dictionary = load_dictionary(GOLDEN / name)
    assert_same(dictionary.transform(X), expected)
    offset = getattr(dictionary, "input_offset_", dictionary.intercept_)
    assert np.any(offset) == (name == "saelens-jumprelu")
    assert np.any(dictionary.intercept_)


def test_3_a_transcoder_ignores_the_flag(tmp_path):
    # as in files whose configuration was made by hand
    X, expected, _ = of_golden("saelens-transcoder")
    folder = edited("saelens-transcoder", tmp_path, apply_b_dec_to_input=True)
    assert_same(load_dictionary(folder).transform(X), expected)


def test_6_heads_by_themselves_or_one_after_the_other():
    X, expected, _ = of_golden("saelens5-hookz")
    dictionary = load_dictionary(GOLDEN / "saelens5-hookz")
    assert X.ndim == 3
    assert_same(dictionary.transform(X), expected)
    assert_same(dictionary.transform(X.reshape(len(X), -1)), expected)
    with pytest.raises(ValueError, match=r"shape \(32, 4, 3\).*\(any, any\) with 16 numbers"):
        dictionary.transform(X[:, :, :3])


def test_8_old_names_of_keys(tmp_path):
    X, expected, _ = of_golden("saelens5-jumprelu")
    old = {
        "hook_name": None,
        "hook_layer": None,
        "activation_fn_str": None,
        "hook_point": "blocks.3.hook_resid_pre",
        "hook_point_layer": 3,
        "activation_fn": "relu",
        "normalize_activations": False,
        "use_ghost_grads": True,
        "mse_loss_normalization": "dense_batch",
        "normalize_sae_decoder": True,
    }
    dictionary = load_dictionary(edited("saelens5-jumprelu", tmp_path, **old))
    assert_same(dictionary.transform(X), expected)
    assert dictionary.activation_["hook"] == "blocks.3.hook_resid_pre"
    assert dictionary.activation_["layer_number"] == 3


def test_8_old_and_new_names_that_differ(tmp_path):
    folder = edited("saelens5-jumprelu", tmp_path, hook_point="blocks.4.hook_resid_pre")
    with pytest.raises(ValueError, match="the same key of different versions"):
        load_dictionary(folder)


def test_8_factors_of_ones_that_an_old_version_always_wrote(tmp_path):
    X, expected, _ = of_golden("saelens5-jumprelu")
    ones = torch.ones(expected.shape[1])
    folder = edited("saelens5-jumprelu", tmp_path / "ones", {"scaling_factor": ones})
    assert_same(load_dictionary(folder).transform(X), expected)
    folder = edited("saelens5-jumprelu", tmp_path / "twos", {"scaling_factor": 2 * ones})
    with pytest.raises(ValueError, match="whether it is used is not known"):
        load_dictionary(folder)


def test_9_a_factor_that_is_missing_is_told_and_can_be_given():
    name = "saelens-standard-expectedaverage"
    X, expected, reconstruction = of_golden(name)
    with pytest.warns(UserWarning, match="multiplied by a factor.*give it as scale="):
        dictionary = load_dictionary(GOLDEN / name)
    assert_same(dictionary.transform(X), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled = load_dictionary(GOLDEN / name, scale=2.5)
    assert_same(scaled.transform(X / 2.5), expected)
    assert_same(scaled.reconstruct(X / 2.5), reconstruction / 2.5)
    assert scaled.source_["scale"] == 2.5


def test_9_the_factor_of_a_training_checkpoint(tmp_path):
    name = "saelens-standard-expectedaverage"
    X, expected, _ = of_golden(name)
    folder = edited(name, tmp_path)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.5}')
    assert_same(load_dictionary(folder).transform(2 * X), expected)
    with pytest.raises(ValueError, match=r"leave scale=2.0 out"):
        load_dictionary(folder, scale=2.0)


def test_9_the_factor_of_a_batch_top_k_checkpoint_is_folded_into_its_threshold(tmp_path):
    # as SAELens folds it: codes are those of norms of D / s, and θ is of the same units
    name = "saelens-batchtopk-checkpoint"
    X, expected, reconstruction = of_golden(name)
    scaled = load_dictionary(GOLDEN / name, scale=4.0)
    assert_same(scaled.transform(X / 4), expected / 4)
    assert_same(scaled.reconstruct(X / 4), reconstruction / 4)


def test_9_the_factor_of_r1_distill(tmp_path):
    X, expected, _ = of_golden("llamascope-r1distill")
    path = "800M-Slimpajama-0-OpenR1-Math-220k"
    with pytest.raises(ValueError, match="norm_scaling_factor: give it as scale="):
        load_dictionary(GOLDEN / "llamascope-r1distill", path=path)
    given = load_dictionary(GOLDEN / "llamascope-r1distill", path=path, scale=1.25)
    assert_same(given.transform(X), expected)


def test_9_a_factor_that_is_not_used_is_refused():
    with pytest.raises(ValueError, match=r"scale=2\.0 is not used for files of format 'sparsify'"):
        load_dictionary(GOLDEN / "sparsify-topk", scale=2.0)
