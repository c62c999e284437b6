"""Direct weights on logits: against products of the model's matrices, and the total."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import logit_weights, top_logits
from skdict.inspection.actions import _logits

transformers = pytest.importorskip("transformers")


def made(kind):
    small = {"vocab_size": 4096, "hidden_size": 16, "intermediate_size": 24, "head_dim": 8}
    small |= {"num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}
    small |= {"max_position_embeddings": 64, "initializer_range": 0.4}
    neox = {k: v for k, v in small.items() if k not in ("head_dim", "num_key_value_heads")}
    config, model_class = {
        "gpt2": lambda: (
            transformers.GPT2Config(
                vocab_size=4096,
                n_positions=64,
                n_embd=16,
                n_layer=3,
                n_head=2,
                initializer_range=0.4,
            ),
            transformers.GPT2LMHeadModel,
        ),
        "llama": lambda: (transformers.LlamaConfig(**small), transformers.LlamaForCausalLM),
        "gemma2": lambda: (transformers.Gemma2Config(**small), transformers.Gemma2ForCausalLM),
        "neox": lambda: (transformers.GPTNeoXConfig(**neox), transformers.GPTNeoXForCausalLM),
    }[kind]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 1:  # norms
                    weight.add_(0.3 * torch.randn(weight.shape))
    return model


# model, layer, side: the matrix from the layer to the residual stream, and the norm's gain there
GPT2, LLAMA, NEOX = "transformer.h.1", "model.layers.1", "gpt_neox.layers.1"
PLACES = [
    ("gpt2", f"{GPT2}.mlp.act", "output", lambda m: m.transformer.h[1].mlp.c_proj.weight),
    ("gpt2", f"{GPT2}.mlp", "output", None),
    ("gpt2", GPT2, "output", None),
    ("gpt2", GPT2, "input", None),
    ("gpt2", f"{GPT2}.attn.c_proj", "input", lambda m: m.transformer.h[1].attn.c_proj.weight),
    ("gpt2", "transformer.wte", "output", None),
    ("gpt2", "transformer.ln_f", "input", None),
    (
        "llama",
        f"{LLAMA}.mlp.down_proj",
        "input",
        lambda m: m.model.layers[1].mlp.down_proj.weight.T,
    ),
    ("llama", LLAMA, "output", None),
    ("llama", f"{LLAMA}.self_attn", "output", None),
    (
        "neox",
        f"{NEOX}.mlp.act",
        "output",
        lambda m: m.gpt_neox.layers[1].mlp.dense_4h_to_h.weight.T,
    ),
    ("neox", f"{NEOX}.attention", "output", None),
]


@pytest.fixture(scope="module")
def short(texts):
    return [text[:150] for text in texts[:2]]


def pipeline_of(model, layer, side, language, short):
    extractor = ActivationExtractor(
        model, layer, side=side, tokenizer=language.tokenizer, max_length=40
    )
    return make_pipeline(extractor, PCA(4).fit(extractor.transform(short)))


def centred(weights):
    return weights - np.median(weights, axis=1, keepdims=True)


def last_norm(model):
    base = model.base_model
    return next(
        getattr(base, name) for name in ("ln_f", "norm", "final_layer_norm") if hasattr(base, name)
    )


@pytest.mark.parametrize(("kind", "layer", "side", "matrix"), PLACES)
def test_products_of_matrices(kind, layer, side, matrix, language, short):
    model = made(kind)
    pipeline = pipeline_of(model, layer, side, language, short)
    atoms = torch.from_numpy(pipeline[-1].components_).double()
    if matrix is not None:
        atoms = atoms @ matrix(model).detach().double()
    norm = last_norm(model)
    if isinstance(norm, torch.nn.LayerNorm):
        atoms = atoms - atoms.mean(dim=1, keepdim=True)
    unembedding = model.get_output_embeddings().weight.detach().double()
    expected = ((atoms * norm.weight.detach().double()) @ unembedding.T).numpy()
    folded = logit_weights(pipeline).weights
    assert_allclose(folded, centred(expected), rtol=1e-4, atol=1e-4)
    (name,) = [name for name, module in model.named_modules() if module is norm]
    hidden = ActivationExtractor(
        model, name, side="input", tokenizer=language.tokenizer, max_length=40
    ).transform(short)
    hidden = hidden.astype(np.float64)
    if isinstance(norm, torch.nn.LayerNorm):
        hidden -= hidden.mean(axis=1, keepdims=True)
    eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
    scale = (1 / np.sqrt(np.square(hidden).mean(axis=1) + eps)).mean()
    assert_allclose(
        logit_weights(pipeline, [2, 0], texts=short).weights,
        centred(expected[[2, 0]] * scale),
        rtol=1e-3,
        atol=1e-4,
    )
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_norm_after_the_mlp(language, short):
    """Gemma scales what an MLP returns before it is added."""
    model = made("gemma2")
    pipeline = pipeline_of(model, "model.layers.2.mlp", "output", language, short)
    gains = [
        1 + norm.weight.detach().double()
        for norm in (model.model.layers[2].post_feedforward_layernorm, model.model.norm)
    ]
    atoms = torch.from_numpy(pipeline[-1].components_).double() * gains[0] * gains[1]
    expected = (atoms @ model.lm_head.weight.detach().double().T).numpy()
    assert_allclose(logit_weights(pipeline).weights, centred(expected), rtol=1e-4, atol=1e-4)
    # with the scales of both norms: the total, where nothing else follows; a cap is left out
    model.config.final_logit_softcapping = None
    direct = logit_weights(pipeline, texts=short).weights
    total = logit_weights(pipeline, texts=short, path="total").weights
    assert_allclose(direct, total, rtol=1e-3, atol=1e-4)


def test_last_layer_is_the_total(extractor, dictionary, short):
    pipeline = make_pipeline(extractor, dictionary)
    direct = logit_weights(pipeline, [3, 7], texts=short).weights
    total = logit_weights(pipeline, [3, 7], texts=short, path="total").weights
    assert_allclose(direct, total, atol=1e-5)


def test_earlier_layers_have_other_paths(language, short):
    pipeline = pipeline_of(made("gpt2"), "transformer.h.0", "output", language, short)
    direct = logit_weights(pipeline, texts=short).weights
    total = logit_weights(pipeline, texts=short, path="total").weights
    assert abs(direct - total).max() > 0.1 * abs(total).max()


@pytest.mark.parametrize(
    ("kind", "layer", "reason"),
    [
        ("gpt2", "transformer.h.1.mlp.c_fc", "not linear, or differs from token to token"),
        ("llama", "model.layers.1.mlp.act_fn", "not linear, or differs from token to token"),
        ("gpt2", "transformer.h.1.attn.c_attn", "tokens mix|not linear"),
        ("gpt2", "transformer.h.1.ln_2", "not linear|nothing leads on"),
    ],
)
def test_no_direct_path(kind, layer, reason, language, short):
    pipeline = pipeline_of(made(kind), layer, "output", language, short)
    with pytest.raises(ValueError, match=rf"no direct path .*({reason}).*path='total'"):
        logit_weights(pipeline)


def test_bad_input(extractor, dictionary, short):
    pipeline = make_pipeline(extractor, dictionary)
    with pytest.raises(ValueError, match=r"path='total' is a mean .* Give texts"):
        logit_weights(pipeline, path="total")
    with pytest.raises(ValueError, match=r"path must be 'direct' or 'total', but is 'both'"):
        top_logits(pipeline, path="both")
    with pytest.raises(ValueError, match=r"texts has only special tokens"):
        logit_weights(pipeline, texts=["<|endoftext|>"])


@pytest.mark.parametrize("path", ["direct", "total"])
def test_top_logits(path, extractor, dictionary, short, monkeypatch):
    monkeypatch.setattr(_logits, "N_LOGITS", 3 * 4096)  # blocks of three
    pipeline, features = make_pipeline(extractor, dictionary), [5, 0, 9, 200]
    every = logit_weights(pipeline, features, texts=short, path=path)
    top = top_logits(pipeline, features, n_top=6, texts=short, path=path)
    order = np.argsort(-every.weights, axis=1, kind="stable")
    assert_array_equal(top.feature, features)
    assert_array_equal(top.raised, order[:, :6])
    assert_array_equal(top.lowered, order[:, ::-1][:, :6])
    assert_allclose(top.raised_weights, np.take_along_axis(every.weights, top.raised, 1))
    assert_allclose(top.lowered_weights, np.take_along_axis(every.weights, top.lowered, 1))
    assert_array_equal(top.vocabulary, every.vocabulary)
    one = top_logits(pipeline, 5, n_top=6, texts=short, path=path)
    assert_array_equal(one.raised[0], top.raised[0])
    assert top_logits(pipeline, [], texts=short, path=path).raised.shape[0] == 0
