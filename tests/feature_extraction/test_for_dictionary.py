"""Extractors for the places that published dictionaries were trained on."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.pipeline import Pipeline

from skdict import ActivationExtractor
from skdict.feature_extraction import RowTransform

transformers = pytest.importorskip("transformers")
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 20,
}
ROPE = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}


def make(name):
    torch.manual_seed(0)
    t = transformers
    configs = {
        "gpt2": lambda: t.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=20),
        "gpt_neox": lambda: t.GPTNeoXConfig(**SIZES, use_parallel_residual=False),
        "llama": lambda: t.LlamaConfig(**ROPE),
        "qwen2": lambda: t.Qwen2Config(**ROPE),
        "gemma2": lambda: t.Gemma2Config(**ROPE),
        "gemma3": lambda: t.Gemma3TextConfig(**ROPE),
    }
    model = t.AutoModelForCausalLM.from_config(configs[name]()).eval()
    for parameter in model.parameters():  # norms differ from their initial ones
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


FAMILIES = ["gpt2", "gpt_neox", "llama", "qwen2", "gemma2", "gemma3"]
TOKENS = np.arange(12).reshape(2, 6) + 3


def read(model, hook, **activation):
    dictionary = SimpleNamespace(activation_={"hook": hook, **activation})
    extractor = ActivationExtractor.for_dictionary(dictionary, model, tokenizer=None)
    return extractor.fit_transform(TOKENS)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_stream_adds_up(family):
    """Each block adds what attention and MLP write to it."""
    model = make(family)
    for number in range(2):
        at = {
            name: read(model, f"blocks.{number}.{name}")
            for name in (
                "hook_resid_pre",
                "hook_attn_out",
                "hook_resid_mid",
                "hook_mlp_out",
                "hook_resid_post",
            )
        }
        mid = at["hook_resid_pre"] + at["hook_attn_out"]
        np.testing.assert_allclose(at["hook_resid_mid"], mid, atol=2e-5)
        post = mid + at["hook_mlp_out"]
        np.testing.assert_allclose(at["hook_resid_post"], post, atol=2e-5)
    first = read(model, "blocks.0.hook_resid_post")
    np.testing.assert_array_equal(read(model, "blocks.1.hook_resid_pre"), first)
    assert read(model, "hook_embed").shape == (12, 16)


@pytest.mark.parametrize("family", FAMILIES)
def test_inside_of_attention_and_mlp(family):
    model = make(family)
    block = "transformer.h.1" if family == "gpt2" else "model.layers.1"
    block = "gpt_neox.layers.1" if family == "gpt_neox" else block
    out = {"gpt2": "mlp.c_proj", "gpt_neox": "mlp.dense_4h_to_h"}.get(family, "mlp.down_proj")
    hidden = torch.from_numpy(read(model, "blocks.1.mlp.hook_post"))
    with torch.no_grad():
        written = model.get_submodule(f"{block}.{out}")(hidden)
        if family.startswith("gemma"):
            written = model.get_submodule(f"{block}.post_feedforward_layernorm")(written)
    np.testing.assert_allclose(read(model, "blocks.1.hook_mlp_out"), written, atol=2e-5)
    assert read(model, "blocks.1.mlp.hook_pre").shape == hidden.shape
    assert read(model, "blocks.1.attn.hook_z").shape == (12, 16)  # of two heads
    before = read(model, "blocks.1.mlp.hook_in")
    assert before.shape == (12, 16)


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_read_without_their_weight(family):
    """What is left has the root mean square of 1 that a norm gives, and of LayerNorm mean 0."""
    rows = read(make(family), "blocks.1.ln2.hook_normalized")
    np.testing.assert_allclose((rows**2).mean(axis=1), 1, rtol=2e-2)
    if family in ("gpt2", "gpt_neox"):
        np.testing.assert_allclose(rows.mean(axis=1), 0, atol=1e-5)


def test_rows_are_centred_and_scaled():
    model = make("gpt2")
    plain = read(model, "blocks.0.hook_resid_post")
    rows = read(model, "blocks.0.hook_resid_post", transform="centre_rows", scale=2.0)
    expected = 2 * (plain - plain.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_parallel_residual_has_no_middle():
    config = transformers.GPTNeoXConfig(**SIZES, use_parallel_residual=True)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="use_parallel_residual"):
        read(model, "blocks.0.hook_resid_mid")


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("blocks.7.hook_resid_post", "beyond the 2 blocks"),
        ("blocks.0.hook_q", "is not known"),
        ("resid", "is not known"),
    ],
)
def test_unknown_places(hook, message):
    with pytest.raises(ValueError, match=message):
        read(make("gpt2"), hook)


def test_a_model_of_no_family():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="of no family"):
        read(model, "blocks.0.hook_resid_post")


def test_what_the_dictionary_says_is_followed():
    known = {
        "model": "owner/name",
        "layer": "h.1",
        "side": "input",
        "context_size": 128,
        "excluded_tokens": "special",
    }
    extractor = ActivationExtractor.for_dictionary(SimpleNamespace(activation_=known))
    assert (extractor.model, extractor.layer, extractor.side) == ("owner/name", "h.1", "input")
    assert extractor.max_length == 128 and extractor.include_special_tokens is False
    known["excluded_tokens"] = []
    extractor = ActivationExtractor.for_dictionary(
        SimpleNamespace(activation_=known), side="output", max_length=None
    )
    assert extractor.side == "output" and extractor.max_length is None
    assert extractor.include_special_tokens is True


def test_what_the_dictionary_does_not_say_is_asked_for():
    with pytest.raises(ValueError, match="Give model="):
        ActivationExtractor.for_dictionary(SimpleNamespace(activation_={}))
    with pytest.raises(ValueError, match="which layer"):
        ActivationExtractor.for_dictionary(SimpleNamespace(activation_={"model": "a"}))
    known = {"model": "a", "layer": "h.0", "positions": [1]}
    with pytest.warns(UserWarning, match="does not follow positions"):
        ActivationExtractor.for_dictionary(SimpleNamespace(activation_=known))


def test_row_transform():
    X = np.random.default_rng(0).normal(size=(5, 4))
    options = {"shift": [1, 2, 3, 4], "divisor": [2, 1, 1, 4], "scale": 3.0}
    transform = RowTransform(**options).fit(X)
    np.testing.assert_allclose(transform.inverse_transform(transform.transform(X)), X)
    centred = RowTransform(centre=True).fit_transform(X)
    np.testing.assert_allclose(centred.mean(axis=1), 0, atol=1e-15)
    assert transform.transform(X.astype(np.float32)).dtype == np.float32
    equal = RowTransform(equal_norms=True, scale=3.0).fit(X)
    expected = 3 * 4**0.5 * X / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(equal.transform(X), expected)
    assert not equal.transform(0 * X).any()
    with pytest.raises(ValueError, match="cannot be undone"):
        equal.inverse_transform(X)
    with pytest.raises(ValueError, match="divisor has shape"):
        RowTransform(divisor=[1.0]).fit(X)
    with pytest.raises(ValueError, match="zero"):
        RowTransform(divisor=np.zeros(4)).fit(X)


def test_a_pipeline_with_rows_that_are_transformed():
    model = make("gpt2")
    dictionary = SimpleNamespace(
        activation_={"hook": "blocks.0.hook_resid_post", "transform": "centre_rows"}
    )
    pipeline = ActivationExtractor.for_dictionary(dictionary, model, tokenizer=None)
    assert isinstance(pipeline, Pipeline) and list(pipeline.named_steps) == ["extractor", "rows"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_path_of_the_model_with_its_head_or_without(family):
    """sparsify trains on the model without its head, and writes "layers.1"."""
    model = make(family)
    name = {"gpt2": "h.1", "llama": "layers.1"}[family]
    prefix = model.base_model_prefix
    for path, module, expected in (
        (name, model, f"{prefix}.{name}"),
        (f"{prefix}.{name}", model, f"{prefix}.{name}"),
        (f"{prefix}.{name}", model.base_model, name),
        (name, model.base_model, name),
    ):
        dictionary = SimpleNamespace(activation_={"layer": path})
        extractor = ActivationExtractor.for_dictionary(dictionary, module, tokenizer=None)
        assert extractor.layer == expected
        assert extractor.fit_transform(TOKENS).shape == (TOKENS.size, 16)


def test_a_place_that_the_model_lacks_is_named():
    known = {"layer": "model.layers.0.mlp", "transform": "divide_by_norm_weight"}
    with pytest.raises(ValueError, match=r"'model\.layers\.0\.mlp' names no submodule"):
        ActivationExtractor.for_dictionary(
            SimpleNamespace(activation_=known), make("gpt2"), tokenizer=None
        )


def test_what_is_known_of_a_place_helps_to_name_it():
    known = {"model": "a", "layer_number": 3, "side": "output"}
    with pytest.raises(ValueError, match=r"it says.*'layer_number': 3.*Give layer="):
        ActivationExtractor.for_dictionary(SimpleNamespace(activation_=known))


def test_rows_of_equal_norms():
    """As InterPLM's encoders want them where they were trained with normalize_to_sqrt_d."""
    known = {"hook": "blocks.0.hook_resid_post", "transform": "row_norm"}
    dictionary = SimpleNamespace(activation_=known)
    pipeline = ActivationExtractor.for_dictionary(dictionary, make("gpt2"), tokenizer=None)
    assert pipeline.named_steps["rows"].equal_norms
