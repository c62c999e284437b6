"""Attribution on a prompt: sums, plain products, two layers, the viewer's file."""

import copy
import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import attribution_graph

transformers = pytest.importorskip("transformers")
PROMPT = "import numpy as np\nfor i in range("


def model_of(kind, attention="sdpa"):
    small = {"vocab_size": 4096, "hidden_size": 16, "intermediate_size": 24, "head_dim": 8}
    small |= {"num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}
    small |= {"max_position_embeddings": 64, "initializer_range": 0.4}
    neox = {k: v for k, v in small.items() if k not in ("head_dim", "num_key_value_heads")}
    options = {"attn_implementation": attention}
    gpt2 = {"vocab_size": 4096, "n_positions": 64, "n_embd": 16, "n_layer": 3, "n_head": 2}
    config, model_class = {
        "gpt2": lambda: (
            transformers.GPT2Config(**gpt2, initializer_range=0.4, **options),
            transformers.GPT2LMHeadModel,
        ),
        "llama": lambda: (
            transformers.LlamaConfig(**small, **options),
            transformers.LlamaForCausalLM,
        ),
        "gemma2": lambda: (
            transformers.Gemma2Config(**small, **options),
            transformers.Gemma2ForCausalLM,
        ),
        "neox": lambda: (
            transformers.GPTNeoXConfig(**neox, **options),
            transformers.GPTNeoXForCausalLM,
        ),
    }[kind]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config).eval().double()


def pipeline_of(model, layer, language, texts, dictionary=None, **options):
    extractor = ActivationExtractor(
        model, layer, tokenizer=language.tokenizer, max_length=40, **options
    )
    dictionary = PCA(4) if dictionary is None else dictionary
    return make_pipeline(extractor, dictionary.fit(extractor.transform(texts)))


@pytest.fixture(scope="module")
def short(texts):
    return [text[:150] for text in texts[:4]]


def total(graph):
    return sum(graph.sums.values())


@pytest.mark.parametrize(
    ("kind", "layer", "side", "attention"),
    [
        ("gpt2", "transformer.h.0", "output", "sdpa"),
        ("gpt2", "transformer.h.1.mlp.act", "output", "eager"),
        ("gpt2", "transformer.h.1.attn", "output", "sdpa"),
        ("llama", "model.layers.0", "output", "sdpa"),
        ("llama", "model.layers.1.mlp", "output", "eager"),
        ("llama", "model.layers.1.mlp.down_proj", "input", "sdpa"),
        ("gemma2", "model.layers.0", "output", "eager"),
        ("neox", "gpt_neox.layers.1.mlp", "output", "sdpa"),
    ],
)
def test_sums(kind, layer, side, attention, language, short):
    """The rest is found by another run, so that the sum is no identity."""
    model = model_of(kind, attention)
    pipeline = pipeline_of(model, layer, language, short, side=side)
    graph = attribution_graph(pipeline, PROMPT)
    ids = language.tokenizer(PROMPT, return_tensors="pt").input_ids
    hidden = []
    with model.get_output_embeddings().register_forward_hook(lambda m, a, out: hidden.append(out)):
        logits = model(ids).logits[0, -1].detach()
    raw = hidden[0][0, -1].detach()
    found = graph.feature[graph.kind == "logit"]
    n = len(found)
    assert_allclose(graph.values[:n], (raw[found] - raw.mean()).numpy(), rtol=1e-5, atol=1e-5)
    assert_allclose(total(graph)[:n], graph.values[:n], rtol=1e-4, atol=1e-4)
    assert_allclose(graph.probabilities, logits.softmax(-1)[found].numpy(), rtol=1e-5)
    if layer == "transformer.h.0":  # attention carries features of earlier tokens
        rows = graph.effects[graph.target_node[:n]].toarray()
        earlier = (graph.kind == "feature") & (graph.position < ids.shape[1] - 1)
        assert abs(rows[:, earlier]).max() > 1e-3
    with torch.no_grad():
        assert torch.equal(model(ids).logits[0, -1], logits)  # the model is as it was
    assert all(len(module._forward_hooks) == 0 for module in model.modules())


def test_one_layer_by_hand(language, extractor, dictionary):
    """Codes times products of matrices, of the last token alone."""
    pipeline = make_pipeline(extractor, dictionary)
    graph = attribution_graph(pipeline, "import numpy as", targets=[" self", 17])
    model, ids = language.model, language.tokenizer("import numpy as").input_ids
    X = extractor.transform(["import numpy as"])
    codes = dictionary.transform(X[-1:])[0].astype(np.float64)
    residual = []
    norm = model.transformer.ln_f
    with norm.register_forward_pre_hook(lambda m, args: residual.append(args[0])):
        model(torch.tensor([ids]))
    scale = residual[0][0, -1].double().var(unbiased=False).add(norm.eps).sqrt().item()
    unembedding = model.lm_head.weight.detach().double().numpy()
    unembedding = unembedding - unembedding.mean(axis=0)
    w_out = model.transformer.h[0].mlp.c_proj.weight.detach().double().numpy()
    written = dictionary.components_.astype(np.float64) @ w_out
    written -= written.mean(axis=1, keepdims=True)
    weights = (written * norm.weight.detach().double().numpy() / scale) @ unembedding.T
    (target,) = language.tokenizer(" self", add_special_tokens=False).input_ids
    rows = graph.effects[graph.target_node[:2]].toarray()
    is_feature = graph.kind == "feature"
    assert {*graph.position[is_feature & (abs(rows).sum(axis=0) > 0)]} <= {len(ids) - 1}
    for k, token in enumerate((target, 17)):
        expected = codes * weights[:, token]
        assert_allclose(graph.sums["feature"][k], expected.sum(), rtol=1e-3, atol=1e-4)
        for node in np.flatnonzero(is_feature & (graph.position == len(ids) - 1)):
            assert_allclose(rows[k, node], expected[graph.feature[node]], rtol=1e-3, atol=1e-4)


def test_between_two_layers(language, short):
    """A feature's effect on a later one: the slope of its pre-activation, patterns frozen."""
    model = model_of("gpt2")
    sparse = SparseAutoencoderDictionary(
        12, architecture="topk", n_nonzero_coefs=3, max_iter=3, random_state=0
    )
    pipelines = [
        pipeline_of(model, f"transformer.h.{k}", language, short, copy.deepcopy(sparse))
        for k in (0, 1)
    ]
    graph = attribution_graph(pipelines, PROMPT, max_features=40)
    assert_allclose(total(graph), graph.values, rtol=1e-3, atol=1e-3)
    n = (graph.kind == "logit").sum()
    explained = graph.target_node[n:]
    later = explained[graph.site[explained] == 1]
    assert len(later) > 3
    block = graph.effects[later].toarray()
    assert abs(block[:, (graph.kind == "feature") & (graph.site == 0)]).max() > 1e-4
    assert not block[:, graph.site == 1].any()
    # by hand: what the first layer adds at the token itself, along the residual stream
    second = pipelines[1][-1]
    ids = language.tokenizer(PROMPT, return_tensors="pt").input_ids
    stored = {}
    block_1 = model.transformer.h[1]

    def keep(module, args, output):
        stored["pattern"] = output[1]

    model.set_attn_implementation("eager")
    with block_1.attn.register_forward_hook(keep):
        model(ids, output_attentions=True)
    x = pipelines[0][0].transform([PROMPT]).astype(np.float64)
    x = torch.from_numpy(x)
    pattern = stored["pattern"][0].detach()[:, 1:, 1:]
    norm = block_1.ln_1
    scale = (x.var(dim=1, unbiased=False) + norm.eps).sqrt()
    w_v = block_1.attn.c_attn.weight.detach()[:, 32:].reshape(16, 2, 8)
    w_o = block_1.attn.c_proj.weight.detach().reshape(2, 8, 16)
    for row, node in zip(block, later, strict=True):
        t = graph.position[node]
        encoder = torch.from_numpy(second.encoder_coef_[graph.feature[node]]).double()
        for source in np.flatnonzero((graph.kind == "feature") & (graph.site == 0)):
            s = graph.position[source]
            atom = torch.from_numpy(pipelines[0][-1].components_[graph.feature[source]]).double()
            centred = (atom - atom.mean()) * norm.weight.detach() / scale[s - 1]
            moved = torch.einsum("d,dhv,hve->he", centred, w_v, w_o)
            written = (pattern[:, t - 1, s - 1, None] * moved).sum(dim=0)
            effect = (written + (atom if s == t else 0)) @ encoder * graph.activation[source]
            assert_allclose(row[source], effect.item(), rtol=1e-3, atol=1e-5)


def test_file_of_the_viewer(language, extractor, dictionary, tmp_path):
    graph = attribution_graph(make_pipeline(extractor, dictionary), PROMPT, max_features=5)
    path = tmp_path / "graph.json"
    found = graph.to_json(path, slug="a-prompt", names=[{int(graph.feature[0]): "a name"}])
    assert json.loads(path.read_text(encoding="utf-8")) == found
    assert set(found) == {"metadata", "qParams", "nodes", "links"}
    assert {"slug", "scan", "prompt_tokens", "prompt"} <= set(found["metadata"])
    assert found["metadata"]["prompt_tokens"][5] == "⏎" or "⏎" in "".join(
        found["metadata"]["prompt_tokens"]
    )
    ids = [node["node_id"] for node in found["nodes"]]
    assert len(set(ids)) == len(ids)
    needed = {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"}
    for node in found["nodes"]:
        assert needed <= set(node) and isinstance(node["layer"], str)
        assert 0 <= node["ctx_idx"] < len(graph.tokens)
    kinds = [node["feature_type"] for node in found["nodes"]]
    assert kinds.count("cross layer transcoder") == 5
    assert found["nodes"][0]["clerp"] == "a name"
    j = int(graph.feature[0])
    assert found["nodes"][0]["feature"] == j * (j + 1) // 2 + j
    assert found["nodes"][0]["node_id"] == f"0_{j}_{graph.position[0]}"
    logits = [node for node in found["nodes"] if node["feature_type"] == "logit"]
    assert sum(node["is_target_logit"] for node in logits) == 1
    assert all(node["clerp"].startswith('Output "') for node in logits)
    assert all({link["source"], link["target"]} <= set(ids) for link in found["links"])
    assert len(found["links"]) == graph.effects.nnz


def test_bad_input(language, extractor, dictionary, short):
    pipeline = make_pipeline(extractor, dictionary)
    with pytest.raises(ValueError, match=r"targets must be token ids below 4096 or texts of one"):
        attribution_graph(pipeline, PROMPT, targets=["two words"])
    with pytest.raises(ValueError, match=r"targets is empty"):
        attribution_graph(pipeline, PROMPT, targets=[])
    with pytest.raises(ValueError, match=r"pipelines must be at least one Pipeline"):
        attribution_graph([], PROMPT)
    with pytest.raises(ValueError, match=r"prompt has more tokens than a window"):
        attribution_graph(pipeline, "x = 1\n" * 300)
    model = model_of("gpt2")
    before = pipeline_of(model, "transformer.h.1.mlp.c_fc", language, short)
    with pytest.raises(ValueError, match=r"not an affine function of the activations"):
        attribution_graph(before, PROMPT)
    two = [pipeline_of(model, f"transformer.h.{k}", language, short) for k in (0, 1)]
    with pytest.raises(ValueError, match=r"layer='transformer.h.1' cannot be attributed to those"):
        attribution_graph(two, PROMPT)
