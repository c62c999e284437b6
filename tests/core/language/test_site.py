"""Sites: what a name stands for, several layers in one pass, and what replacing leaves behind."""

import numpy as np
import pytest
import torch
from torch import nn

from skdict import ActivationExtractor
from skdict._core.language.site import Site
from skdict._core.language.sites import PLAIN_NAMES
from skdict.datasets import load_one_layer_transformer

transformers = pytest.importorskip("transformers")
LAYER = "transformer.h.0.mlp.act"
TEXTS = ["import numpy as np", "return", "for i in range(10):"]
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "vocab_size": 20,
}
ROPE = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "gpt2": lambda t: t.GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=20),
    "gpt_neox": lambda t: t.GPTNeoXConfig(**SIZES, use_parallel_residual=False),
    "llama": lambda t: t.LlamaConfig(**ROPE),
    "qwen2": lambda t: t.Qwen2Config(**ROPE),
    "gemma2": lambda t: t.Gemma2Config(**ROPE),
}
IDS = torch.arange(12).reshape(2, 6) + 3


@pytest.fixture(scope="module")
def language():
    return load_one_layer_transformer()


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    found = {}
    for family, config in CONFIGS.items():
        model = transformers.AutoModelForCausalLM.from_config(config(transformers)).eval()
        for parameter in model.parameters():  # norms differ from their initial ones
            if parameter.dim() == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)
        found[family] = model
    return found


def state_of(model):
    hooks = [(m._forward_hooks.copy(), m._forward_pre_hooks.copy()) for m in model.modules()]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return hooks, [module.training for module in model.modules()], tensors


def assert_same_state(model, before):
    hooks, training, tensors = state_of(model)
    assert hooks == before[0]
    assert training == before[1]
    assert all(torch.equal(tensors[name], before[2][name]) for name in tensors)


class TestNames:
    @pytest.mark.parametrize("family", CONFIGS)
    def test_plain_names_mean_the_same_in_every_family(self, models, family):
        """The stream adds up; heads, neurons and the MLP's input belong to what is written."""
        names = ["embed", *(f"layers.1.{name}" for name in PLAIN_NAMES), "layers.2.in"]
        at = Site(models[family], names).read(IDS)
        at = {name.removeprefix("layers.1."): value for name, value in at.items()}
        assert len(at) == len(names)
        close = {"rtol": 0, "atol": 2e-5}
        np.testing.assert_allclose(at["mid"], at["in"] + at["attn.out"], **close)
        np.testing.assert_allclose(at["out"], at["mid"] + at["mlp.out"], **close)
        assert torch.equal(at["layers.2.in"], at["out"])
        block = Site(models[family], "layers.1.out").layer
        modules = dict(models[family].get_submodule(block).named_modules())
        mlp = modules["mlp"](at["mlp.in"])
        if family == "gemma2":
            mlp = modules["post_feedforward_layernorm"](mlp)
        np.testing.assert_allclose(mlp.detach(), at["mlp.out"], **close)
        width = at["mlp.act"].shape[-1]
        assert at["mlp.pre"].shape[-1] == width > 16 == at["attn.heads"].shape[-1]

    @pytest.mark.parametrize("name", PLAIN_NAMES)
    def test_hooks_of_transformer_lens_are_the_same_places(self, models, name):
        model = models["llama"]
        plain = Site(model, f"layers.1.{name}")
        hook = Site(model, f"blocks.1.{PLAIN_NAMES[name]}")
        assert (plain.layer, plain.side) == (hook.layer, hook.side)

    def test_paths_come_first(self):
        net = nn.Sequential()
        net.add_module("layers", nn.ModuleList([nn.ModuleDict({"out": nn.Identity()})]))
        assert Site(net, "layers.0.out", side="input").places == [("layers.0.out", "input")]

    @pytest.mark.parametrize(
        ("layer", "options", "message"),
        [
            ("layers.1.mlp.outt", {}, r"nearest names are layers\.1\.mlp\.out"),
            ("layers.1.blub", {}, r"layers\.1\. followed by in, mid, out"),
            ("blocks.1.hook_mlp_outt", {}, r"nearest names are blocks\.1\.hook_mlp_out"),
            ("layers.7.out", {}, "beyond the 3 blocks"),
            ("layers.1.out", {"side": "input"}, "is the output of 'model.layers.1', but side"),
            ("blocks.1.ln2.hook_normalized", {}, "divide the rows by that weight"),
            ("model.layers.1.mpl", {}, r"names no submodule .*'model\.layers\.1\.mlp'"),
            ("model.layers.1", {"side": "both"}, "side must be 'input' or 'output'"),
            ([], {}, "layer must be a str or a list"),
            (3, {}, "layer must be a str or a list of str, but is 3"),
        ],
    )
    def test_errors(self, models, layer, options, message):
        with pytest.raises((ValueError, TypeError), match=message):
            Site(models["llama"], layer, **options)

    def test_models_of_no_known_family(self):
        with pytest.raises(ValueError, match="of no family whose places are known"):
            Site(nn.Sequential(nn.Linear(2, 2)), "layers.0.out")
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, but is a str"):
            Site("gpt2", "layers.0.out")

    def test_extractors_take_them_too(self, language):
        path = ActivationExtractor(language.model, LAYER, tokenizer=language.tokenizer)
        expected = path.fit_transform(TEXTS)
        for name in ("layers.0.mlp.act", "blocks.0.mlp.hook_post"):
            named = ActivationExtractor(language.model, name, tokenizer=language.tokenizer)
            assert named.layer == name
            assert np.array_equal(named.fit(TEXTS).transform(TEXTS), expected)
            assert len(named.get_feature_names_out()) == 512
            assert named.site().places == [("transformer.h.0.mlp.c_proj", "input")]
        with pytest.raises(ValueError, match=r"nearest names are layers\.0\.mlp\.act"):
            ActivationExtractor(language.model, "layers.0.mlp.akt", tokenizer=None).fit(IDS)


class TestRead:
    def test_texts_and_ids(self, language):
        extractor = ActivationExtractor(
            language.model, LAYER, tokenizer=language.tokenizer, include_special_tokens=True
        )
        site, expected = extractor.site(), extractor.transform(TEXTS)
        document = extractor.tokens(TEXTS).document
        for batch_size in (1, 2, 16):
            found = site.read(TEXTS, batch_size=batch_size)
            assert [len(x) for x in found] == np.bincount(document).tolist()
            np.testing.assert_allclose(torch.cat(found), expected, atol=1e-5)
        encoded = language.tokenizer(TEXTS[0], return_tensors="pt")
        for inputs in (encoded, encoded.input_ids):
            np.testing.assert_allclose(site.read(inputs)[0], found[0], atol=1e-5)
        assert not found[0].requires_grad

    def test_several_layers_in_one_pass(self, models):
        model, n_passes, n_heads = models["gpt2"], [], []
        names = ["layers.2.in", "layers.0.mlp.act", "transformer.h.1"]
        alone = {name: Site(model, name).read(IDS) for name in names}
        site = Site(model, names)
        site.read(IDS)  # the first pass goes to the end: is each called once?
        handles = [
            model.register_forward_pre_hook(lambda *call: n_passes.append(call)),
            model.lm_head.register_forward_pre_hook(lambda *call: n_heads.append(call)),
        ]
        found = site.read(IDS)
        for handle in handles:
            handle.remove()
        assert list(found) == names
        assert (len(n_passes), len(n_heads)) == (1, 0)  # stopped after the last of the layers
        for name in names:
            assert torch.equal(found[name], alone[name])

    def test_calls(self):
        block = nn.Linear(3, 3)
        net = nn.Sequential(block, nn.ReLU(), block, nn.Linear(3, 2))
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        first = block(x)
        second = block(first.relu())
        for call, expected in ((0, first), (1, second), (-1, second), (-2, first)):
            assert torch.equal(Site(net, "0", call=call).read({"input": x}), expected)
        assert torch.equal(Site(net, ["0", "1"], call=0).read({"input": x})["0"], first)
        with pytest.raises(ValueError, match=r"'0' is called 2 times.*no single activation"):
            Site(net, "0").read({"input": x})
        with pytest.raises(ValueError, match=r"call=2, but layer='0' is called 2 times"):
            Site(net, "0", call=2).read({"input": x})
        with pytest.raises(ValueError, match="Count from the first"):
            Site(net, "0", call=-1).replace(torch.zeros_like)

    def test_calls_from_the_last_in_a_model_of_tokens(self, language):
        extractor = ActivationExtractor(
            language.model, LAYER, tokenizer=language.tokenizer, call=-1
        )
        assert extractor.site().first_call == 0
        ids = language.tokenizer(TEXTS[0], return_tensors="pt").input_ids
        with torch.no_grad(), extractor.site().replace(lambda x: 0 * x):
            changed = language.model(ids).logits
        with torch.no_grad(), Site(language.model, LAYER).replace(lambda x: 0 * x):
            assert torch.equal(language.model(ids).logits, changed)

    def test_errors(self, language):
        model, tokenizer = language.model, language.tokenizer
        with pytest.raises(ValueError, match="needs a tokenizer"):
            Site(model, LAYER).read(TEXTS)
        with pytest.raises(ValueError, match=r"inputs\[1\] has more tokens than the model's con"):
            Site(model, LAYER, tokenizer=tokenizer).read(["a", "a b " * 300, "c"])
        with pytest.raises(ValueError, match=r"must have shape \(n_sequences, length"):
            Site(model, "transformer.wpe", tokenizer=tokenizer).read(TEXTS)


class TestReplace:
    @pytest.fixture
    def ids(self, language):
        return language.tokenizer(TEXTS[0], return_tensors="pt").input_ids

    def test_several_layers(self, models):
        model = models["gpt2"]
        names = ["layers.0.mlp.out", "layers.2.attn.out"]
        with Site(model, names).replace([lambda x: 0 * x, lambda x: 3 * x]) as same:
            assert same is model
            found = model(IDS).logits
        with (
            Site(model, names[0]).replace(lambda x: 0 * x),
            Site(model, names[1]).replace(lambda x: 3 * x),
        ):
            assert torch.equal(model(IDS).logits, found)
        with pytest.raises(ValueError, match="edit has 1 functions, but the site has 2 layers"):
            Site(model, names).replace([torch.zeros_like])
        with pytest.raises(ValueError, match="A site of one layer is needed"):
            _ = Site(model, names).one_place

    @pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
    @pytest.mark.parametrize("where", ["edit", "block", "behind"])
    def test_the_model_is_restored(self, language, ids, error, where):
        model = language.model
        before = state_of(model)
        with torch.no_grad():
            clean = model(ids).logits

        def fail(*call):
            raise error

        handle = None
        if where == "behind":
            handle = model.lm_head.register_forward_pre_hook(fail)
        edit = fail if where == "edit" else torch.zeros_like
        with pytest.raises(error), Site(model, LAYER).replace(edit):
            model(ids)
            fail()
        if handle is not None:
            handle.remove()
        assert_same_state(model, before)
        with torch.no_grad():
            assert torch.equal(model(ids).logits, clean)

    def test_gradients_of_the_function(self, language, ids):
        weight = language.model.transformer.h[0].mlp.c_fc.weight
        (own,) = torch.autograd.grad(language.model(ids).logits.square().sum(), weight)
        with Site(language.model, LAYER).replace(lambda x: 1 * x):
            (same,) = torch.autograd.grad(language.model(ids).logits.square().sum(), weight)
        np.testing.assert_allclose(same, own, rtol=1e-5, atol=1e-4)
