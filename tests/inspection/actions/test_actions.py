"""What features do to the model: against closed forms, plain loops and other derivatives."""

import copy
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from torch.autograd import forward_ad

from skdict._core.language.hooks import replace_activation
from skdict._core.language.windows import TokenWindows
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import (
    FeatureDashboard,
    SteeringDisplay,
    collect_codes,
    feature_effects,
    logit_weights,
    replace_activations,
    steering_effect,
    top_activations,
)
from skdict.inspection.actions._effects import measured_effects
from skdict.inspection.actions._language import Language
from skdict.inspection.actions._norms import fixed_scales
from skdict.inspection.actions._steering import _controls

transformers = pytest.importorskip("transformers")
LAYER = "transformer.h.0.mlp.act"


@pytest.fixture(scope="module")
def pipeline(extractor, dictionary):
    return make_pipeline(extractor, dictionary)


@pytest.fixture(scope="module")
def short(texts):
    return [text[:300] for text in texts[:3]]


def tiny(kind, tokenizer, **options):
    """A small model, random weights that are not small, and an extractor of a layer of it."""
    config = {
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=4096, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4
        ),
        "llama": lambda: transformers.LlamaConfig(
            vocab_size=4096,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
            initializer_range=0.4,
        ),
    }[kind]()
    model_class = {"gpt2": transformers.GPT2LMHeadModel, "llama": transformers.LlamaForCausalLM}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class[kind](config).eval()
    layer = {"gpt2": "transformer.h.0.mlp.act", "llama": "model.layers.0.mlp.act_fn"}[kind]
    layer = options.pop("layer", layer)
    return model, ActivationExtractor(model, layer, tokenizer=tokenizer, **options)


class OnePlus(torch.nn.LayerNorm):
    """As Nemotron has it."""

    def forward(self, x):
        return torch.nn.functional.layer_norm(
            x, self.normalized_shape, self.weight + 1, self.bias, self.eps
        )


class OnePlusRMSNorm(torch.nn.RMSNorm):
    """As Gemma has it, and with a bias."""

    def __init__(self, shape):
        super().__init__(shape)
        self.bias = torch.nn.Parameter(torch.zeros(shape))

    def forward(self, x):
        x = torch.nn.functional.rms_norm(x.float(), self.normalized_shape).to(x.dtype)
        return x * (1 + self.weight) + self.bias


def _norm(kind, shape, centre, plus=0, **options):
    def make(generator):
        module = kind(shape, **options)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(generator=generator)
        gain = torch.ones(shape) if module.weight is None else module.weight + plus
        return module, centre, gain, shape

    return make


NORMS = {
    "layer norm": _norm(torch.nn.LayerNorm, (8,), 1),
    "odd": _norm(torch.nn.LayerNorm, (7,), 1),
    "no weight": _norm(torch.nn.LayerNorm, (8,), 1, elementwise_affine=False),
    "two axes": _norm(torch.nn.LayerNorm, (3, 4), 1),
    "one plus": _norm(OnePlus, (8,), 1, 1),
    "odd one plus": _norm(OnePlus, (9,), 1, 1),
    "rms": _norm(torch.nn.RMSNorm, (8,), 0),
    "rms of two axes": _norm(torch.nn.RMSNorm, (3, 5), 0),
    "rms one plus": _norm(OnePlusRMSNorm, (8,), 0, 1),
}


def centred(weights):
    return weights - np.median(weights, axis=1, keepdims=True)


class TestLogitAttribution:
    @pytest.mark.slow
    def test_closed_form_of_one_layer(self, language, extractor, pipeline, dictionary, short):
        features = [3, 0, 77]
        found = logit_weights(pipeline, features, texts=short, path="total")
        assert_array_equal(found.feature, features)
        assert found.weights.dtype == np.float32 and len(found.vocabulary) == 4096
        model = language.model
        residual = ActivationExtractor(
            model, "transformer.h.0", tokenizer=language.tokenizer, long_documents="window"
        ).transform(short)
        scale = np.sqrt(residual.astype(np.float64).var(axis=1) + 1e-5)
        w_out, gain, unembed = (
            weight.detach().double().numpy()
            for weight in (
                model.transformer.h[0].mlp.c_proj.weight,
                model.transformer.ln_f.weight,
                model.lm_head.weight,
            )
        )
        written = dictionary.components_[features].astype(np.float64) @ w_out
        written -= written.mean(axis=1, keepdims=True)
        expected = (written * gain) @ unembed.T * (1 / scale).mean()
        assert_allclose(found.weights, centred(expected), atol=1e-5)

    @pytest.mark.slow
    def test_all_features_through_the_activations_basis(self, language, short):
        _, extractor = tiny("gpt2", language.tokenizer)
        X = extractor.fit_transform(short)
        wide = PCA(40).fit(X[:60])  # of 64 activations: fewer directions than those
        pipeline = make_pipeline(extractor, wide)
        every = logit_weights(pipeline, texts=short, path="total").weights
        some = logit_weights(pipeline, np.arange(40)[::7], texts=short, path="total").weights
        assert_allclose(every[::7], some, rtol=1e-4, atol=1e-4)

    def test_more_features_than_activations(self, language, pipeline, dictionary, short):
        _, extractor = tiny("llama", language.tokenizer)
        X = extractor.fit_transform(short)
        overcomplete = copy.deepcopy(dictionary).set_params(n_components=30, max_iter=1).fit(X)
        pipeline = make_pipeline(extractor, overcomplete)
        every = logit_weights(pipeline, texts=short, path="total").weights
        some = logit_weights(pipeline, [5, 29], texts=short, path="total").weights
        assert_allclose(every[[5, 29]], some, rtol=1e-3, atol=1e-4)

    def test_closed_form_of_rms_norm(self, language, short):
        model, extractor = tiny("llama", language.tokenizer, layer="model.layers.0.mlp.down_proj")
        X = extractor.fit_transform(short)
        pca = PCA(3).fit(X)
        found = logit_weights(make_pipeline(extractor, pca), texts=short, path="total")
        residual = ActivationExtractor(
            model, "model.layers.0", tokenizer=language.tokenizer
        ).transform(short)
        scale = np.sqrt(np.square(residual).mean(axis=1) + model.config.rms_norm_eps)
        unembed = model.lm_head.weight.detach().numpy()
        expected = (pca.components_ * (1 / scale).mean()) @ unembed.T
        assert_allclose(found.weights, centred(expected), rtol=1e-3, atol=1e-4)

    def test_through_later_attention(self, language, short):
        """Against reverse mode, with norms whose scale is cut out of the graph."""
        model, extractor = tiny("gpt2", language.tokenizer, max_length=40)
        X = extractor.fit_transform(short[:1])
        pca = PCA(2).fit(X)
        found = logit_weights(make_pipeline(extractor, pca), [1], texts=short[:1], path="total")

        def norm(module, args, output):
            x = args[0] - args[0].mean(-1, keepdim=True)
            scale = (x.square().mean(-1, keepdim=True) + module.eps).sqrt().detach()
            return x / scale * module.weight + module.bias

        handles = [
            module.register_forward_hook(norm)
            for module in model.modules()
            if isinstance(module, torch.nn.LayerNorm)
        ]
        ids = language.tokenizer(short[:1], return_tensors="pt").input_ids[:, :40]
        content = ids != 0
        direction = torch.from_numpy(pca.components_[1])

        def mean_logits(amount):
            def add(activations):
                return activations + amount * content[..., None] * direction

            with replace_activation(model, extractor.layer, add):
                return model(ids).logits[content].mean(dim=0)

        amount = torch.zeros((), requires_grad=True)
        logits, some = mean_logits(amount), range(0, 4096, 300)
        slopes = [torch.autograd.grad(logits[v], amount, retain_graph=True)[0] for v in some]
        for handle in handles:
            handle.remove()
        slopes, weights = np.array(slopes), found.weights[0, some]
        assert_allclose(weights - weights[0], slopes - slopes[0], rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
    @pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
    def test_fixed_scales_of_norms(self, norm, dtype):
        """Also in half precision, which does not hold the square of 300."""
        generator = torch.Generator().manual_seed(0)
        module, centre, gain, shape = norm(generator)
        x = 300 * torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        tangent = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        module = module.to(dtype)
        with torch.no_grad(), fixed_scales(module), forward_ad.dual_level():
            dual = module(forward_ad.make_dual(x.to(dtype), tangent.to(dtype)))
            found = forward_ad.unpack_dual(dual).tangent.double()
        axes = tuple(range(1, x.ndim))
        x, tangent = (
            each - centre * each.mean(axes, keepdim=True)
            for each in (x.to(dtype).double(), tangent.to(dtype).double())
        )
        expected = gain.detach().double() * tangent / x.square().mean(axes, keepdim=True).sqrt()
        tolerance = {"rtol": 1e-5} if dtype == torch.float64 else {"rtol": 5e-3, "atol": 2e-5}
        assert_allclose(found, expected, **tolerance)

    def test_input_of_a_norm(self, language, short):
        """Where the norm is the layer itself."""
        weights = {}
        for layer, side in (("model.layers.0", "output"), ("model.norm", "input")):
            _, extractor = tiny("llama", language.tokenizer, layer=layer, side=side)
            X = extractor.fit_transform(short)
            weights[layer] = logit_weights(
                make_pipeline(extractor, PCA(2).fit(X)), texts=short, path="total"
            )
        a, b = (abs(each.weights) for each in weights.values())
        assert_allclose(a, b, rtol=1e-3, atol=1e-4)

    def test_model_is_left_alone(self, language, pipeline, short):
        n_hooks = sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks) for m in language.model.modules()
        )
        logit_weights(pipeline, [0], texts=short[:1], path="total")
        assert n_hooks == sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks) for m in language.model.modules()
        )

    def test_vocabulary(self, language, pipeline, short):
        words = logit_weights(pipeline, [0], texts=short[:1], path="total").vocabulary
        assert words[0] == "<|endoftext|>"
        (index,) = language.tokenizer(" self", add_special_tokens=False).input_ids
        assert words[index] == " self"

    def test_bad_input(self, extractor, dictionary, pipeline, short, bare_layer):
        with pytest.raises(ValueError, match=r"features has 256, but there are 256 features"):
            logit_weights(pipeline, [256], texts=short, path="total")
        with pytest.raises(TypeError, match=r"pipeline must be a fitted Pipeline whose first"):
            logit_weights(dictionary, texts=short, path="total")
        pooled = make_pipeline(copy.copy(extractor).set_params(pooling="max"), dictionary)
        with pytest.raises(
            ValueError,
            match=r"one row per token, but .* pooling='max'.* FeatureDashboard.from_act",
        ):
            logit_weights(pooled, texts=short, path="total")
        with pytest.raises(
            ValueError, match=r"not causal|causal language model, but with a GPT2Model: TypeError"
        ):
            logit_weights(make_pipeline(bare_layer, dictionary), [0], texts=short, path="total")


@pytest.fixture
def bare_layer(language):
    """The same network without its head."""
    return ActivationExtractor(
        language.model.transformer, "h.0.mlp.act", tokenizer=language.tokenizer
    )


@pytest.fixture(scope="module")
def features(extractor, dictionary, short):
    codes = dictionary.transform(extractor.transform(short))
    return np.argsort(-(codes > 0).sum(axis=0))[[0, 3, 9]]


class TestFeatureEffects:
    def test_ablation_against_a_plain_loop(self, language, extractor, pipeline, short, features):
        effects = feature_effects(pipeline, short, features)
        dictionary, tokens = pipeline[1], extractor.tokens(short)
        codes = dictionary.transform(extractor.transform(short))
        for feature, effect in zip(features, effects, strict=True):
            expected, rows = [], []
            for document, text in enumerate(short):
                ids = language.tokenizer(text, return_tensors="pt").input_ids
                assert ids.shape[1] <= 256  # one window
                of_document = np.flatnonzero(tokens.document == document)
                with torch.no_grad():
                    clean = language.model(ids).logits[0].log_softmax(-1)
                    with replace_activations(
                        language.model, LAYER, dictionary, scale={feature: 0}, keep_error=True
                    ):
                        ablated = language.model(ids).logits[0].log_softmax(-1)
                for row in of_document[:-1]:
                    if codes[row, feature] > 0:
                        t = tokens.position[row]
                        rows.append(row)
                        expected.append(float(clean[t, ids[0, t + 1]] - ablated[t, ids[0, t + 1]]))
            assert_array_equal(effect.rows, rows)
            assert_allclose(effect.codes, codes[rows, feature], atol=1e-5)
            assert_allclose(effect.ablation, expected, atol=2e-4)
            assert_allclose(
                effect.agreement, spearmanr(effect.ablation, effect.first_order).statistic
            )

    def test_first_order_is_the_slope_of_ablation(self, language, pipeline, short, features):
        double = copy.deepcopy(language.model).double()
        extractor = ActivationExtractor(double, LAYER, tokenizer=language.tokenizer)
        dictionary = pipeline[1]
        (effect,) = feature_effects(make_pipeline(extractor, dictionary), short, features[:1])
        ids = [language.tokenizer(text, return_tensors="pt").input_ids for text in short]
        small = 1e-4

        def log_p(scale):
            found = []
            for each in ids:
                with (
                    torch.no_grad(),
                    replace_activations(
                        double, LAYER, dictionary, scale={features[0]: scale}, keep_error=True
                    ),
                ):
                    logits = double(each).logits.log_softmax(-1)
                found.append(logits[0, :-1].gather(1, each[0, 1:, None])[1:, 0].numpy())
                found.append([np.nan])  # the last token predicts nothing
            return np.concatenate(found)

        slope = (log_p(1 + small) - log_p(1 - small)) / (2 * small)
        assert_allclose(effect.first_order, slope[effect.rows], rtol=1e-3, atol=1e-6)

    @pytest.mark.parametrize("signed", [False, True])
    def test_layers_that_attention_follows(self, language, short, signed):
        """A feature acts at later tokens too; codes can be negative."""
        model, _ = tiny("gpt2", language.tokenizer)
        model.double()
        layer = "transformer.h.0"
        extractor = ActivationExtractor(
            model, layer, tokenizer=language.tokenizer, max_length=40, batch_size=1
        )
        X = extractor.transform(short)
        relu = SparseAutoencoderDictionary(3, alpha=0.01, max_iter=3, random_state=0)
        dictionary = (PCA(3) if signed else relu).fit(X)
        (effect,) = feature_effects(make_pipeline(extractor, dictionary), short, [1])
        codes, tokens = dictionary.transform(X)[:, 1], extractor.tokens(short)
        assert (codes < 0).any() == signed

        def log_p(scale):
            found = []
            for text in short:
                ids = language.tokenizer(
                    text, return_tensors="pt", truncation=True, max_length=40
                ).input_ids
                with (
                    torch.no_grad(),
                    replace_activations(
                        model,
                        layer,
                        dictionary,
                        scale={1: scale},
                        keep_error=True,
                        tokenizer=language.tokenizer,
                    ),
                ):
                    at = model(ids).logits[0, :-1].log_softmax(-1)
                found += [at.gather(1, ids[0, 1:, None])[1:, 0].numpy(), [np.nan]]
            return np.concatenate(found)

        small = 1e-3
        slope = (log_p(1 + small) - log_p(1 - small)) / (2 * small)
        followed = np.append(np.diff(tokens.position) == 1, False)
        assert_array_equal(effect.rows, np.flatnonzero((codes > 0) & followed))
        assert_allclose(effect.ablation, (log_p(1) - log_p(0))[effect.rows], atol=1e-4)
        assert_allclose(effect.first_order, slope[effect.rows], rtol=1e-3, atol=1e-4)

    def test_models_that_work_in_place(self, language, pipeline, short, features):
        model = copy.deepcopy(language.model)

        def halve(module, args):
            args[0].mul_(0.5)

        model.transformer.h[0].mlp.c_proj.register_forward_pre_hook(halve)
        extractor = ActivationExtractor(model, LAYER, tokenizer=language.tokenizer)
        (effect,) = feature_effects(make_pipeline(extractor, pipeline[1]), short, features[:1])
        (expected,) = feature_effects(pipeline, short, features[:1])
        assert_array_equal(effect.rows, expected.rows)
        assert_allclose(effect.codes, expected.codes, rtol=1e-6)

    def test_operations_without_forward_derivative(self, language, pipeline, short, features):
        class Same(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, gradient):
                return gradient

        class Wrapped(torch.nn.Module):
            def __init__(self, model):
                super().__init__()
                self.model = model

            def forward(self, x):
                return Same.apply(self.model(x))

        model = copy.deepcopy(language.model)
        model.transformer.ln_f = Wrapped(model.transformer.ln_f)
        extractor = ActivationExtractor(model, LAYER, tokenizer=language.tokenizer)
        found = feature_effects(make_pipeline(extractor, pipeline[1]), short, features[:2])
        expected = feature_effects(pipeline, short, features[:2])
        for effect, same in zip(found, expected, strict=True):
            assert_allclose(effect.ablation, same.ablation, atol=1e-6)
            assert_allclose(effect.first_order, same.first_order, atol=1e-6)

        def unknown():
            raise NotImplementedError

        model.get_output_embeddings = unknown  # no direct path to the logits either
        with pytest.warns(UserWarning, match="No logits: "):
            dashboard = FeatureDashboard.from_pipeline(
                make_pipeline(extractor, pipeline[1]), short, features=features[:2], n_top=2
            )
        assert dashboard.content["missing"][0].startswith("No logits: ")
        for panel in dashboard.content["features"]:
            assert "logits" not in panel and "mean" in panel["effects"]

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_no_floor_of_noise(self, language, dictionary, short, features, dtype):
        """Features that add nothing have no effect, whatever batches do to the rounding."""
        model = copy.deepcopy(language.model).to(getattr(torch, dtype))
        extractor = ActivationExtractor(model, LAYER, tokenizer=language.tokenizer)

        def rounds_by_shape(module, args, output):
            return output + 0.01 * sum(output.shape[:2]) * output.roll(1, dims=-1)

        model.transformer.ln_f.register_forward_hook(rounds_by_shape)
        empty = copy.deepcopy(dictionary)
        empty.components_ = np.zeros_like(dictionary.components_)
        pipeline = make_pipeline(extractor, empty)
        effects = measured_effects(Language(pipeline), short, features)
        ablation = np.concatenate([effect.ablation for effect in effects])
        assert len(ablation) > 20
        assert_array_equal(ablation, 0)

    def test_in_inference_mode(self, pipeline, short, features):
        (expected,) = feature_effects(pipeline, short[:1], features[:1])
        weights = logit_weights(pipeline, features[:1], texts=short[:1], path="total").weights
        with torch.inference_mode():
            (found,) = feature_effects(pipeline, short[:1], features[:1])
            assert_array_equal(
                logit_weights(pipeline, features[:1], texts=short[:1], path="total").weights,
                weights,
            )
        assert_array_equal(found.first_order, expected.first_order)

    def test_chosen_rows(self, pipeline, extractor, short, features):
        whole = feature_effects(pipeline, short, features)
        X = extractor.transform(short)
        tops = top_activations(collect_codes(pipeline[1], X), features, n_top=3)
        few = feature_effects(pipeline, short, features, rows=[top.rows for top in tops])
        for top, part, all_rows in zip(tops, few, whole, strict=True):
            assert set(part.rows) == set(top.rows) & set(all_rows.rows)
            at = np.searchsorted(all_rows.rows, part.rows)
            assert_allclose(part.ablation, all_rows.ablation[at], atol=1e-5)
            assert_allclose(part.first_order, all_rows.first_order[at], atol=1e-5)

    def test_more_windows_and_features_than_32_bits_number(
        self, pipeline, short, features, monkeypatch
    ):
        """Sparse codes have indices of 32 bits; pairs of a feature and a window need more."""
        expected = feature_effects(pipeline, short, features)

        class Many(TokenWindows):
            def __len__(self):
                return 2**31

        windows = Language.windows

        def many_windows(self, texts):
            found = windows(self, texts)
            found.__class__ = Many
            return found

        monkeypatch.setattr(Language, "windows", many_windows)
        sparse = copy.deepcopy(pipeline[1]).set_params(sparse_output=True)
        found = feature_effects(make_pipeline(pipeline[0], sparse), short, features)
        assert sum(len(each.rows) for each in found) > 0
        for each, same in zip(found, expected, strict=True):
            assert_array_equal(each.rows, same.rows)
            assert_allclose(each.ablation, same.ablation, atol=1e-5)

    def test_windows_of_long_texts(self, language, dictionary, texts, features):
        """Rows run on over windows as the extractor's do, and no prediction crosses one."""
        extractor = ActivationExtractor(
            language.model,
            LAYER,
            tokenizer=language.tokenizer,
            long_documents="window",
            max_length=20,
            batch_size=3,
        )
        tokens = extractor.tokens(texts[:2])
        codes = dictionary.transform(extractor.transform(texts[:2]))
        (effect,) = feature_effects(make_pipeline(extractor, dictionary), texts[:2], features[:1])
        followed = np.append(np.diff(tokens.position) == 1, False)
        assert_array_equal(effect.rows, np.flatnonzero((codes[:, features[0]] > 1e-6) & followed))

    def test_never_active(self, pipeline, short):
        pipeline = make_pipeline(pipeline[0], copy.deepcopy(pipeline[1]))
        pipeline[1].encoder_intercept_[7] = -1e6
        (effect,) = feature_effects(pipeline, short, [7])
        assert len(effect.rows) == len(effect.ablation) == 0 and np.isnan(effect.agreement)

    def test_bad_rows(self, pipeline, short):
        with pytest.raises(ValueError, match=r"rows must have one array for each of 2 features"):
            feature_effects(pipeline, short, [0, 1], rows=[[0]])
        with pytest.raises(ValueError, match=r"rows\[0\] has 99999, but there are \d+ rows"):
            feature_effects(pipeline, short, [0], rows=[[99999]])


@pytest.fixture(scope="module")
def neurons(extractor, perfect):
    return make_pipeline(extractor, perfect)


@pytest.fixture(scope="module")
def neuron(neurons, short):
    """The neuron that most raises a token that reads, and that token."""
    found = logit_weights(neurons, texts=short[:1], path="total")
    words = found.vocabulary
    for index in np.argsort(-found.weights, axis=None):
        j, token = divmod(int(index), len(words))
        if len(words[token]) > 4 and words[token].strip().isalpha():
            return j, words[token]


class TestSteering:
    @pytest.mark.slow
    def test_brings_its_token_forth(self, neurons, neuron):
        j, token = neuron
        state = torch.random.get_rng_state()
        options = {"n_samples": 16, "n_tokens": 6, "random_state": 1}
        effect = steering_effect(neurons, j, [0.0, 12.0], lambda text: token in text, **options)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert effect.concept_score[1] > 0.8 > 0.3 > effect.random_concept_score[1]
        assert effect.concept_score[0] < 0.2
        assert effect.random_concept_score[0] < 0.2
        assert effect.cross_entropy[1] > effect.cross_entropy[0] + 0.5
        assert token in effect.example[1]
        again = steering_effect(neurons, j, [0.0, 12.0], lambda text: token in text, **options)
        assert again.example == effect.example
        assert pd.DataFrame(effect).shape == (2, 12)

    def test_texts_and_cross_entropy(self, language, neurons):
        written = []
        effect = steering_effect(
            neurons,
            5,
            [3.0],
            lambda text: bool(written.append(text)),
            prompts=["import", "def f("],
            n_samples=2,
            n_tokens=4,
            n_controls=1,
        )
        assert effect.concept_score[0] == 0
        assert len(written) == 12 and effect.example == written[8:9]
        losses = []
        for prompt, text in zip(["import"] * 2 + ["def f("] * 2, written[8:], strict=True):
            start = language.tokenizer(prompt, return_tensors="pt").input_ids
            ids = language.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
            assert ids.shape[1] == 4  # else it is tokenized differently from how it was drawn
            whole = torch.cat([start, ids], dim=1)
            with torch.no_grad():
                log_p = language.model(whole).logits.log_softmax(-1)
            at = range(start.shape[1] - 1, whole.shape[1] - 1)
            losses.append(-np.mean([float(log_p[0, t, whole[0, t + 1]]) for t in at]))
        assert_allclose(effect.cross_entropy[0], np.mean(losses), rtol=1e-4)

    def test_concept_score_may_wait_for_others_that_use_the_model(self, neurons):
        def concept_score(text):
            other = threading.Thread(target=neurons.transform, args=(["import"],), daemon=True)
            other.start()
            other.join(timeout=30)
            return not other.is_alive()

        options = {"n_samples": 1, "n_tokens": 1, "n_controls": 1}
        assert steering_effect(neurons, 5, [0.0], concept_score, **options).concept_score[0] == 1

    def test_several_features_and_controls(self, neurons):
        options = {"n_samples": 2, "n_tokens": 3, "n_controls": 2}
        together = pd.DataFrame(steering_effect(neurons, [5, 9], [1.0, 4.0], len, **options))
        assert list(together.feature) == [5, 5, 9, 9]
        assert list(together.strength) == [1, 4, 1, 4]
        alone = pd.DataFrame(steering_effect(neurons, 9, [1.0, 4.0], len, **options))
        for name in ("concept_score", "concept_score_error", "cross_entropy"):
            assert_array_equal(together[name][2:], alone[name])
            for control in ("random", "other"):
                assert together[f"{control}_{name}"].notna().all()
                assert_array_equal(
                    together[f"{control}_{name}"][:2], together[f"{control}_{name}"][2:]
                )
        plt = pytest.importorskip("matplotlib.pyplot")
        legend = SteeringDisplay(together).plot().ax_.get_legend().get_texts()
        assert [text.get_text() for text in legend][:2] == ["feature 5", "feature 9"]
        plt.close("all")

    def test_controls_have_the_norm_of_the_atoms(self, neurons):
        language = Language(neurons)
        atoms = 3 * np.eye(512)[:2]
        found = _controls(language, np.array([5, 9]), atoms, 4, np.random.RandomState(0))
        for directions in found.values():
            assert_allclose(np.linalg.norm(directions, axis=1), 3)
        others = np.flatnonzero(found["other"].any(axis=0))
        assert len(others) == 4 and not {5, 9} & set(others)

    def test_display(self, neurons):
        plt = pytest.importorskip("matplotlib.pyplot")
        effect = steering_effect(neurons, 5, [0, 2], len, n_samples=2, n_tokens=2)
        display = SteeringDisplay(effect, name="five").plot()
        assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == [
            "five",
            "random directions",
            "other features",
        ]
        drawn = display.ax_cross_entropy_.lines[0].get_ydata()
        assert_array_equal(drawn, effect.cross_entropy)
        axes = plt.subplots(1, 2)[1]
        assert SteeringDisplay(effect).plot(ax=axes).ax_cross_entropy_ is axes[1]
        with pytest.raises(ValueError, match=r"SteeringDisplay.plot draws on two axes, but got"):
            SteeringDisplay(effect).plot(ax=axes[0])
        plt.close("all")

    @pytest.mark.parametrize(
        ("feature", "options", "message"),
        [
            (1024, {}, r"features has 1024, but there are 1024 features"),
            (0, {"strengths": [np.nan]}, r"strengths must be a list of finite numbers"),
            (0, {"strengths": 3.0}, r"strengths must be one-dimensional, but has shape \(\)"),
            (0, {"strengths": ["1"]}, r"strengths must be an array of real numbers"),
            (0, {"prompts": "def"}, r"prompts must be a list of texts"),
            (0, {"n_samples": 0}, r"'n_samples' parameter of steering_effect"),
        ],
    )
    def test_bad_input(self, neurons, feature, options, message):
        strengths = options.pop("strengths", [1.0])
        with pytest.raises((TypeError, ValueError), match=message):
            steering_effect(neurons, feature, strengths, len, **options)

    @pytest.mark.parametrize("answer", [None, "yes", np.nan])
    def test_answers_that_are_none(self, neurons, answer):
        options = {"n_samples": 2, "n_tokens": 2}
        with pytest.raises(TypeError, match="concept_score must return true or false"):
            steering_effect(neurons, 0, [1.0], lambda text: answer, **options)
