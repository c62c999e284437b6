"""Variants of which there is no stored folder, against their equations in NumPy."""

import json

import numpy as np
import pytest
import torch

from skdict.io import load_dictionary

D, F, K = 6, 20, 4


def relu(x):
    return np.maximum(x, 0)


def largest(p, k):
    return p >= np.sort(p, axis=1)[:, [-k]]


def norms(rows):
    return np.linalg.norm(rows, axis=-1)


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


def check(dictionary, X, codes, reconstruction):
    X = X.reshape(len(X), -1).astype(np.float32)
    found = dictionary.transform(X)
    reconstruction = reconstruction.reshape(len(X), -1)
    assert np.abs(found - codes).max() <= 1e-6 * np.abs(codes).max()
    assert np.array_equal(found != 0, codes != 0)
    error = np.abs(dictionary.reconstruct(X) - reconstruction).max()
    assert error <= 1e-6 * np.abs(reconstruction).max()


def in_numpy(state):
    return {key: t.double().numpy() for key, t in state.items() if torch.is_tensor(t)}


@pytest.mark.parametrize("normalization", [1, 2, 4, None])
@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_crosscoders_of_science_of_finetuning(tmp_path, draw, normalization, with_mean, prefix):
    L = 3
    state = {
        "encoder.weight": draw(L, D, F),
        "encoder.bias": draw(F),
        "decoder.weight": draw(L, F, D),
        "decoder.bias": draw(L, D),
        "activation_mean": draw(L, D) if with_mean else torch.full((L, D), torch.nan),
        "activation_std": draw(L, D).exp() if with_mean else torch.full((L, D), torch.nan),
        "activation_global_scale": draw(L).exp() if with_mean else torch.ones(L),
        "target_rms": torch.tensor(1.0),
        "k": torch.tensor(K, dtype=torch.int32),
        "threshold": torch.tensor(1.5),
    }
    if normalization is not None:
        state["code_normalization_id"] = torch.tensor(normalization)
    torch.save({prefix + key: tensor for key, tensor in state.items()}, tmp_path / "ae.pt")
    t, X = in_numpy(state), draw(30, L, D).double().numpy()
    mean = t["activation_mean"] if with_mean else 0
    scale = t["activation_global_scale"][:, None] if with_mean else 1
    f = relu(np.einsum("bld,ldf->bf", (X - mean) * scale, t["encoder.weight"]) + t["encoder.bias"])
    of_layers = norms(t["decoder.weight"])
    factor = {2: norms(of_layers.T), 4: 1}.get(normalization, of_layers.sum(0))
    codes = f * (f * factor > 1.5)
    r = np.einsum("bf,lfd->bld", codes, t["decoder.weight"]) + t["decoder.bias"]
    dictionary = load_dictionary(tmp_path)
    check(dictionary, X, codes, r / (scale + 1e-8 * with_mean) + mean)
    assert dictionary.input_shape_ == (L, D)
    part = load_dictionary(tmp_path, components=[7, 2])
    np.testing.assert_allclose(
        part.transform(X.reshape(30, -1).astype(np.float32)), codes[:, [7, 2]], atol=1e-5
    )


def test_a_crosscoder_with_codes_of_each_layer_is_refused(tmp_path, draw):
    state = {
        "encoder.weight": draw(2, D, F),
        "decoder.weight": draw(2, F, D),
        "threshold": torch.ones(2),
    }
    torch.save(state, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match="DECOUPLED"):
        load_dictionary(tmp_path)


def test_normalised_batch_top_k_of_science_of_finetuning(tmp_path, draw):
    state = {
        "encoder.weight": draw(F, D),
        "encoder.bias": draw(F),
        "decoder.weight": draw(D, F),
        "b_dec": draw(D),
        "activation_mean": draw(D),
        "activation_std": draw(D).exp(),
        "activation_global_scale": torch.tensor(0.4),
        "target_rms": torch.tensor(1.0),
        "k": torch.tensor(K, dtype=torch.int32),
        "threshold": torch.tensor(0.8),
    }
    torch.save(state, tmp_path / "ae.pt")
    t, X = in_numpy(state), draw(30, D).double().numpy()
    scale = t["activation_global_scale"]
    x = (X - t["activation_mean"]) * scale - t["b_dec"]
    f = relu(x @ t["encoder.weight"].T + t["encoder.bias"])
    codes = f * (f > t["threshold"])
    r = (codes @ t["decoder.weight"].T + t["b_dec"]) / (scale + 1e-8) + t["activation_mean"]
    check(load_dictionary(tmp_path), X, codes, r)


@pytest.mark.parametrize("as_file", [True, False])
def test_attention_saes_of_kissane(tmp_path, draw, as_file):
    state = {"W_enc": draw(D, F), "W_dec": draw(F, D), "b_enc": draw(F), "b_dec": draw(D)}
    name = "gpt2-small_L5_Hcat_z_v9"
    torch.save(state, tmp_path / f"{name}.pt")
    config = {
        "act_size": D,
        "dict_size": F,
        "act_name": "blocks.5.attn.hook_z",
        "model_name": "gpt2-small",
        "layer": 5,
        "seq_len": 128,
        "anthropic_neuron_resample_scale": 0.2,
        "b_dec_init": "zeros",
    }
    (tmp_path / f"{name}_cfg.json").write_text(json.dumps(config))
    t, X = in_numpy(state), draw(30, 2, D // 2).double().numpy()
    codes = relu((X.reshape(30, D) - t["b_dec"]) @ t["W_enc"] + t["b_enc"])
    dictionary = load_dictionary(tmp_path, path=f"{name}.pt" if as_file else None)
    check(dictionary, X, codes, codes @ t["W_dec"] + t["b_dec"])
    assert dictionary.activation_["hook"] == "blocks.5.attn.hook_z"
    assert dictionary.activation_["heads"]


def test_a_tied_autoencoder_of_openai(tmp_path, draw):
    encoder = draw(F, D)
    state = {
        "pre_bias": draw(D),
        "latent_bias": draw(F),
        "encoder.weight": encoder,
        "decoder.linear.weight": encoder,
        "stats_last_nonzero": torch.zeros(F, dtype=torch.int64),
    }
    torch.save(state, tmp_path / "3.pt")
    t, X = in_numpy(state), draw(30, D).double().numpy()
    codes = relu((X - t["pre_bias"]) @ t["encoder.weight"].T + t["latent_bias"])
    check(load_dictionary(tmp_path), X, codes, codes @ t["encoder.weight"] + t["pre_bias"])


SAEV = {
    "schema 1, class": {"schema": 1, "cls": "TopK", "cfg": {"d_vit": D, "top_k": K}},
    "schema 2": {
        "schema": 2,
        "cfg": {"d_vit": D, "activation": {"cls": "BatchTopK", "params": {"top_k": K}}},
    },
    "schema 5": {
        "schema": 5,
        "cfg": {
            "d_model": D,
            "d_sae": F,
            "activation": {"cls": "TopK", "params": {"key": "top-k", "top_k": K}},
        },
    },
}


@pytest.mark.parametrize("case", SAEV)
def test_top_k_of_saev_may_be_negative(tmp_path, draw, case):
    state = {"W_enc": draw(D, F), "b_enc": draw(F) - 6, "W_dec": draw(F, D), "b_dec": draw(D)}
    with open(tmp_path / "sae.pt", "wb") as file:
        file.write(json.dumps(SAEV[case]).encode() + b"\n")
        torch.save(state, file)
    t, X = in_numpy(state), draw(30, D).double().numpy()
    p = X @ t["W_enc"] + t["b_enc"]
    codes = p * largest(p, K)
    assert (codes < 0).any()
    check(load_dictionary(tmp_path), X, codes, codes @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize(
    "header, message",
    [
        ({"schema": 6, "cfg": {}}, "schema=6"),
        ({"schema": 5, "cfg": {"activation": {"cls": "Tanh"}}}, "cls='Tanh'"),
        ({"d_vit": D + 1, "exp_factor": 3}, "says .* columns"),
    ],
)
def test_files_of_saev_that_are_not_known(tmp_path, draw, header, message):
    state = {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}
    with open(tmp_path / "sae.pt", "wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        torch.save(state, file)
    with pytest.raises(ValueError, match=message):
        load_dictionary(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_jump_and_tied_autoencoders_of_overcomplete(tmp_path, draw, tied):
    state = {
        "dictionary._weights": draw(F, D),
        "dictionary.multiplier": torch.tensor(0.7),
        "thresholds": draw(F),
    }
    if tied:
        state["encoder.tied_to._weights"] = state["dictionary._weights"]
        state["encoder.tied_to.multiplier"] = state["dictionary.multiplier"]
    else:
        state["encoder.weight"] = draw(F, D)
    torch.save(state, tmp_path / "state_dict.pt")
    t, X = in_numpy(state), draw(30, D).double().numpy()
    atoms = t["dictionary._weights"]
    atoms = atoms / (norms(atoms)[:, None] + 1e-8) * np.exp(t["dictionary.multiplier"])
    p = relu(X @ (atoms if tied else t["encoder.weight"]).T)
    codes = p * (p >= np.exp(t["thresholds"]))
    check(load_dictionary(tmp_path), X, codes, codes @ atoms)


def test_an_entry_at_the_threshold_of_overcomplete_is_active(tmp_path):
    state = {
        "dictionary._weights": torch.eye(3),
        "dictionary.multiplier": torch.tensor(0.0),
        "encoder.weight": torch.eye(3),
    }
    torch.save(state, tmp_path / "state_dict.pt")
    info = {"class": "BatchTopKSAE", "running_threshold": 0.5}
    (tmp_path / "info.json").write_text(json.dumps(info))
    codes = load_dictionary(tmp_path).transform(np.float32([[0.5, 0.49999997, 0.6]]))
    np.testing.assert_array_equal(codes, np.float32([[0.5, 0, 0.6]]))


@pytest.mark.parametrize(
    "names, message",
    [
        (["encoder.final_block.0.weight", "encoder.final_block.1.weight"], "final_block.1"),
        (["encoder.mlp_blocks.0.0.weight"], "not one linear map"),
        (["dictionary.Relax"], "archetypal"),
        ([], "matching pursuit"),
    ],
)
def test_what_overcomplete_has_beside_linear_encoders_is_refused(tmp_path, draw, names, message):
    state = {"dictionary._weights": draw(F, D), **{name: draw(F, D) for name in names}}
    torch.save(state, tmp_path / "state_dict.pt")
    if names:
        (tmp_path / "info.json").write_text('{"class": "SAE"}')
    with pytest.raises(ValueError, match=message):
        load_dictionary(tmp_path)


@pytest.mark.parametrize("use_batch", [True, False])
def test_prefixes_of_hypothesaes(tmp_path, draw, use_batch):
    state = {
        "input_bias": draw(D),
        "neuron_bias": draw(F),
        "threshold": torch.tensor(0.9),
        "encoder.weight": draw(F, D),
        "decoder.weight": draw(D, F),
    }
    config = {
        "input_dim": D,
        "m_total_neurons": F,
        "k_active_neurons": K,
        "prefix_lengths": [5, F],
        "dead_neuron_threshold_steps": 256,
        "use_batch_topk": use_batch,
    }
    torch.save({"config": config, "state_dict": state}, tmp_path / "SAE_M=20_K=4.pt")
    t, X = in_numpy(state), draw(30, D).double().numpy()
    p = relu((X - t["input_bias"]) @ t["encoder.weight"].T + t["neuron_bias"])
    codes = p * (p > 0.9 if use_batch else largest(p, K))
    dictionary = load_dictionary(tmp_path)
    check(dictionary, X, codes, codes @ t["decoder.weight"].T + t["input_bias"])
    assert dictionary.group_sizes_ == [5, F - 5]
