"""SAELens: what is written for it gives our codes, by its equations and by the library itself."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from skdict._core.coding import Encoder
from skdict._core.dictionary import Dictionary
from skdict._core.formats import FORMATS, FormatError, Record
from skdict._core.models.architectures import AbsTopK, GroupMax, JumpReLU, ReLU, TopK
from skdict._core.normalization import RowNormalization
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.decomposition.architectures import Matryoshka
from skdict.io import load_dictionary

D, N, K = 16, 24, 4
X = make_superposition(n_samples=600, n_features=D, random_state=0)[0].astype(np.float32)
X = X[X.any(axis=1)]  # SAELens gives a row of zeros nan where it divides by norms
FITTED = {
    "relu": "standard",
    "topk": "topk",
    "batch_topk": "jumprelu",
    "matryoshka": "jumprelu",
    "jumprelu": "jumprelu",
    "gated": "jumprelu",
    "abs_topk": "abstopk",
}
LAYER_NORM, ROW_NORM = RowNormalization("layer_norm", 1e-5, 1), RowNormalization("row_norm")
# Dictionaries of other libraries: what makes them, and the architecture that SAELens has for them.
LOADED = {
    "layer norm": ({"normalization": LAYER_NORM}, TopK(K), "topk"),
    "row norm": ({"normalization": ROW_NORM}, JumpReLU(), "jumprelu"),
    "norms": ({"norms": 0.5, "offset": None}, TopK(K), "topk"),
    "no offset": ({"offset": 0.0}, JumpReLU(), "jumprelu"),
    "another offset": ({"offset": 0.3}, JumpReLU(), "jumprelu"),
    "an offset near the intercept": ({"offset": "near"}, ReLU(), "standard"),
    "signed": ({"norms": 2.0}, AbsTopK(K), "abstopk"),
    "transcoder": ({"n_out": 12}, ReLU(), "transcoder"),
    "transcoder with an offset": ({"n_out": 12, "offset": 0.2}, JumpReLU(), "jumprelu_transcoder"),
    "skip": ({"n_out": 12, "skip": True}, ReLU(), "skip_transcoder"),
    "skip, jump": ({"n_out": 12, "skip": True}, JumpReLU(), "jumprelu_skip_transcoder"),
}


def fitted(architecture):
    given = Matryoshka(prefixes=(0.25, 1.0)) if architecture == "matryoshka" else architecture
    takes_k = architecture not in ("relu", "gated")
    sae = SparseAutoencoderDictionary(
        N,
        architecture=given,
        n_nonzero_coefs=K if takes_k else None,
        max_iter=3,
        random_state=0,
    )
    return sae.fit(X)


def made(architecture, *, norms=1.0, offset=0.0, n_out=D, skip=False, normalization=None):
    """A dictionary as another library may have it."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    intercept = 0.5 * normal(n_out)
    if isinstance(offset, float):
        offset = torch.full((D,), offset)
    elif offset == "near":
        offset = intercept + 0.01
    k = getattr(architecture, "k", None)
    threshold = 0.2 * normal(N).abs() if isinstance(architecture, JumpReLU) else None
    encoder = Encoder(normal(N, D), 0.1 * normal(N), threshold, k, architecture.selection)
    return Dictionary(
        torch.nn.functional.normalize(normal(N, n_out), dim=1),
        intercept,
        encoder,
        architecture=architecture,
        offset=offset,
        norms=None if norms == 1 else norms * (1 + normal(N).abs()),
        normalization=normalization,
        skip=0.1 * normal(n_out, D) if skip else None,
        is_transcoder=n_out != D,
    )


def codes_of(dictionary):
    """Codes and reconstructions of X, dense."""
    rows = torch.from_numpy(X)
    codes = dictionary.coder("encoder")(rows)
    return codes.dense().numpy(), dictionary.reconstruct(rows, codes).numpy()


def written(dictionary, folder, **rest):
    FORMATS["sae_lens"].write(Record(dictionary, dictionary.architecture, **rest), folder)
    return json.loads((folder / "cfg.json").read_text())


def by_equations(folder):
    """Codes and reconstructions by the equations of SAELens, in float64."""
    config = json.loads((folder / "cfg.json").read_text())
    t = {k: v.double() for k, v in load_file(folder / "sae_weights.safetensors").items()}
    x = raw = torch.from_numpy(X).double()
    mean, scale = 0.0, 1.0
    if config["normalize_activations"] == "layer_norm":
        mean, scale = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        x = (x - mean) / (scale + 1e-5)
    elif config["normalize_activations"] == "constant_norm_rescale":
        scale = x.norm(dim=1, keepdim=True) / D**0.5
        x = x / scale
    kind = config["architecture"]
    if config["apply_b_dec_to_input"]:
        assert "transcoder" not in kind
        x = x - t["b_dec"]
    p = x @ t["W_enc"] + t["b_enc"]
    if "topk" in kind:
        ranked = p.abs() if kind == "abstopk" else p
        kept = torch.zeros_like(p).scatter_(1, ranked.topk(config["k"]).indices, 1.0)
        z = kept * p if kind == "abstopk" else kept * p.relu()
    else:
        z = p.relu() * (p > t["threshold"]) if "threshold" in t else p.relu()
    found = z @ t["W_dec"] + t["b_dec"]
    found = found + raw @ t["W_skip"].T if "W_skip" in t else found * scale + mean
    return z.numpy(), found.numpy()


def by_library(folder):
    sae = pytest.importorskip("sae_lens").SAE.load_from_disk(str(folder))
    with torch.no_grad():
        rows = torch.from_numpy(X)
        return sae.encode(rows).numpy(), sae(rows).numpy()


def assert_equal(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-6 * max(1, np.abs(theirs).max())
    assert np.array_equal(found[0] != 0, expected[0] != 0)
    assert (expected[0] != 0).any()


@pytest.mark.parametrize("read", [by_equations, by_library])
@pytest.mark.parametrize("architecture", FITTED)
def test_what_was_fitted_gives_the_same_codes(architecture, read, tmp_path):
    sae = fitted(architecture)
    config = written(sae.dictionary_, tmp_path)
    assert config["architecture"] == FITTED[architecture]
    assert_equal((sae.transform(X), sae.reconstruct(X)), read(tmp_path))


@pytest.mark.parametrize("read", [by_equations, by_library])
@pytest.mark.parametrize("name", LOADED)
def test_what_was_loaded_gives_the_same_codes(name, read, tmp_path):
    options, architecture, kind = LOADED[name]
    dictionary = made(architecture, **options)
    assert written(dictionary, tmp_path)["architecture"] == kind
    assert_equal(codes_of(dictionary), read(tmp_path))


@pytest.mark.parametrize("architecture", FITTED)
def test_what_was_fitted_comes_back(architecture, tmp_path):
    sae = fitted(architecture)
    density = np.linspace(0, 1, N)
    written(sae.dictionary_, tmp_path, attributes={"feature_density_": density})
    loaded = load_dictionary(tmp_path)
    np.testing.assert_array_equal(loaded.transform(X), sae.transform(X))
    np.testing.assert_allclose(loaded.components_, sae.components_, atol=2e-7)
    np.testing.assert_allclose(loaded.feature_density_, density, rtol=1e-5, atol=1e-9)
    before, after = sae.dictionary_.architecture, loaded.dictionary_.architecture
    assert type(after) is type(before)
    assert getattr(after, "k", None) == getattr(before, "k", None) or architecture == "jumprelu"
    if architecture == "matryoshka":
        assert after.prefixes == before.prefixes
        assert loaded.group_sizes_ == [6, 18]


@pytest.mark.parametrize("name", LOADED)
def test_what_was_loaded_comes_back(name, tmp_path):
    options, architecture, _ = LOADED[name]
    dictionary = made(architecture, **options)
    written(dictionary, tmp_path)
    loaded = load_dictionary(tmp_path)
    assert_equal((loaded.transform(X), loaded.reconstruct(X)), codes_of(dictionary))


def test_the_place_comes_back(tmp_path):
    known = {
        "model": "gpt2",
        "model_revision": "abc",
        "layer": "transformer.h.3",
        "side": "input",
        "hook": "blocks.3.hook_resid_pre",
        "layer_number": 3,
        "transform": "centre_rows",
        "context_size": 128,
        "prepend_bos": False,
        "excluded_tokens": [0, 50256],
        "positions": [1, None],
        "hook_out": "blocks.3.hook_mlp_out",
        "target_layer": "transformer.h.3.mlp",
        "target_side": "output",
    }
    config = written(made(ReLU(), n_out=12), tmp_path, activation=known)
    assert config["metadata"]["hf_hook_name"] == "transformer.h.3.input"
    assert load_dictionary(tmp_path).activation_ == known


def test_heads_come_back(tmp_path):
    known = {"hook": "blocks.3.attn.hook_z", "layer_number": 3, "heads": True}
    dictionary = made(ReLU())
    config = written(dictionary, tmp_path, activation=known, input_shape=(4, 4))
    assert config["reshape_activations"] == "hook_z"
    loaded = load_dictionary(tmp_path)
    assert loaded.activation_ == known
    np.testing.assert_array_equal(
        loaded.transform(X.reshape(len(X), 2, 8)), codes_of(dictionary)[0]
    )


@pytest.mark.parametrize(
    "dictionary, message",
    [
        (made(TopK(K, nonnegative=False)), "the selection 'signed'"),
        (made(GroupMax(K)), "the selection 'groups'"),
        (made(TopK(K), n_out=12), "the largest entries of a transcoder"),
        (made(ReLU(), normalization=RowNormalization("layer_norm", 1e-6, 1)), "RowNormal"),
        (made(ReLU(), skip=True), "a linear map beside"),
    ],
)
def test_what_it_cannot_hold_is_refused(dictionary, message, tmp_path):
    with pytest.raises(FormatError, match=f"SAELens cannot hold {message}"):
        written(dictionary, tmp_path)
    assert not list(tmp_path.iterdir())


def test_codes_in_other_units_are_refused(tmp_path):
    written(made(TopK(K), norms=2.0), tmp_path)
    unit = load_dictionary(tmp_path, units="unit").dictionary_
    with pytest.raises(FormatError, match="units='source'"):
        written(unit, tmp_path)


def changed(folder, config=None, tensors=None, metadata=None):
    """A written dictionary with other keys, of which None is taken out, and other tensors."""
    value = written(made(JumpReLU()), folder)
    value |= config or {}
    if metadata is not None:
        value["metadata"] = metadata
    value = {key: part for key, part in value.items() if part is not None}
    (folder / "cfg.json").write_text(json.dumps(value))
    path = folder / "sae_weights.safetensors"
    save_file({**load_file(path), **(tensors or {})}, path)
    return folder


@pytest.mark.parametrize(
    "config, message",
    [
        ({"architecture": "temporal"}, "attention over earlier rows"),
        ({"architecture": "matching_pursuit"}, "without an encoder"),
        ({"architecture": "newtopk"}, "architecture='newtopk' cannot be expressed"),
        ({"architecture": None}, "no 'architecture'"),
        ({"normalize_activations": "covariance_whitening"}, "save_inference_model"),
        ({"normalize_activations": "other"}, "normalize_activations='other'"),
        ({"activation_gain": 2.0}, "activation_gain=2.0 is not known here"),
        ({"d_sae": 23}, r"W_dec has shape \(24, 16\), expected \(23, 16\)"),
        ({"architecture": "topk"}, "no 'k'"),
        ({"architecture": "topk", "k": 0}, "'k' must be at least 1"),
        ({"architecture": "topk", "k": "4"}, "'k' must be int"),
        ({"architecture": "standard"}, "tensors that are not known here.*threshold"),
        ({"architecture": "gated"}, "no tensor 'r_mag'"),
        ({"architecture": "batchtopk"}, "no tensor 'topk_threshold'"),
    ],
)
def test_what_would_give_other_codes_is_refused(config, message, tmp_path):
    with pytest.raises(FormatError, match=message):
        load_dictionary(changed(tmp_path, config))


def test_the_config_of_a_training_run_is_read(tmp_path):
    keys = {
        "decoder_init_norm": 0.1,
        "jumprelu_init_threshold": 0.01,
        "jumprelu_bandwidth": 0.05,
        "jumprelu_sparsity_loss_mode": "step",
        "jumprelu_ste_to_input": True,
        "jumprelu_tanh_scale": 4.0,
        "pre_act_loss_coefficient": 3e-6,
        "l0_coefficient": 1.0,
        "use_sparse_activations": True,
        "aux_loss_coefficient": 1.0,
    }
    loaded = load_dictionary(changed(tmp_path, keys))
    assert loaded.source_["config"] == keys


def test_a_log_threshold_of_older_checkpoints(tmp_path):
    folder = changed(tmp_path)
    path = folder / "sae_weights.safetensors"
    expected = load_dictionary(folder).threshold_
    tensors = load_file(path)
    tensors["log_threshold"] = tensors.pop("threshold").log()
    save_file(tensors, path)
    np.testing.assert_allclose(load_dictionary(folder).threshold_, expected, rtol=1e-6)


def test_another_layer_is_refused(tmp_path):
    written(made(ReLU()), tmp_path, activation={"hook": "blocks.3.hook_resid_pre"})
    load_dictionary(tmp_path, layer=3)
    with pytest.raises(FormatError, match="is of layer 3, not of layer=4"):
        load_dictionary(tmp_path, layer=4)
