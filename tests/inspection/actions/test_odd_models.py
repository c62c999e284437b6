"""Interventions and measures on models of all kinds: the right tokens, or a clear refusal."""

import copy
import dataclasses
from collections import UserDict, namedtuple
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skdict._core.language.hooks import record_activations
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import (
    FeatureDashboard,
    collect_codes,
    feature_effects,
    logit_weights,
    steer,
    steering_effect,
    top_activations,
)
from skdict.inspection.actions._steering import prompt_ids

transformers = pytest.importorskip("transformers")
LAYER = "transformer.h.0.mlp.act"


def changed(model, layer, forward, *, width, after=None, **options):
    """Where a layer's activations change by steering, in each of its calls."""
    plain = record_activations(model, after or layer, forward)
    with steer(model, layer, np.eye(width), 0, strength=1.0, **options):
        steered = record_activations(model, after or layer, forward)
    return [(a != b).any(dim=-1).int().tolist() for a, b in zip(plain, steered, strict=True)]


@pytest.fixture
def model(language):
    return language.model


@dataclasses.dataclass
class Batch:
    input_ids: torch.Tensor
    attention_mask: torch.Tensor


Fields = namedtuple("Fields", ["input_ids", "attention_mask"])

IDS = torch.tensor([[0, 5, 6, 7], [0, 8, 9, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
CONTENT = [[0, 1, 1, 1], [0, 1, 1, 0]]


class Tied(nn.Module):
    """A causal language model that calls its only block three times."""

    def __init__(self, n_tokens):
        super().__init__()
        self.embed, self.head = nn.Embedding(n_tokens, 4), nn.Linear(4, n_tokens)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for _ in range(3):
            x = self.block(x)
        return self.head(x)


class TestSharedLayers:
    @pytest.fixture
    def tied(self, language):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Tied(len(language.tokenizer))

    @pytest.mark.parametrize("call", range(3))
    def test_steering_one_call(self, call, tied):
        x = tied.embed(IDS)
        for k in range(3):
            x = tied.block(x)
            if k == call:
                x = x + 2 * torch.eye(4)[1]
        with steer(tied, "block", np.eye(4), 1, strength=2.0, call=call):
            for _ in range(2):
                torch.testing.assert_close(tied(IDS), tied.head(x))
        with steer(tied, "block", np.eye(4), 1, strength=2.0):  # at all calls
            assert (tied(IDS) - tied.head(x)).abs().max() > 0.01

    @pytest.mark.parametrize("call", [-2, 1])
    def test_effects_of_a_pipeline(self, call, tied, language, texts):
        """Without a feature at the second call, by hand."""
        extractor = ActivationExtractor(tied, "block", tokenizer=language.tokenizer, call=call)
        few = [text[:60] for text in texts[:3]]
        pipeline = make_pipeline(extractor, PCA(2)).fit(few)
        (effect,) = feature_effects(pipeline, few, [0])
        tokens, codes = extractor.tokens(few), pipeline.transform(few)
        atom = torch.from_numpy(pipeline[-1].components_[0])
        assert len(effect.rows) > 5
        for row, ablation in zip(effect.rows, effect.ablation, strict=True):
            assert tokens.document[row] == tokens.document[row + 1]
            with torch.no_grad():
                x = tied.block(tied.block(tied.embed(torch.tensor(tokens.token_id[row]))))
                ways = x, x - codes[row, 0] * atom
                with_it, without = (tied.head(tied.block(way)).log_softmax(0) for way in ways)
            after = tokens.token_id[row + 1]
            assert abs(float(with_it[after] - without[after]) - ablation) < 1e-4
        logits = logit_weights(pipeline, [0], texts=few, path="total").weights
        assert logits.shape == (1, len(language.tokenizer))


class TestWhichTokens:
    def test_padding_without_token_ids(self, model):
        embeds = model.transformer.wte(IDS).detach()
        found = changed(
            model, LAYER, lambda: model(inputs_embeds=embeds, attention_mask=MASK), width=512
        )
        assert found == [MASK.tolist()]  # what is special cannot be known, but padding can

    def test_a_part_of_the_model(self, model):
        found = changed(
            model, LAYER, lambda: model.transformer(IDS, attention_mask=MASK), width=512
        )
        assert found == [CONTENT]

    def test_wrapped_model_in_generation(self, model):
        class Wrapper(nn.Module):
            def __init__(self, base):
                super().__init__()
                self.base = base

        wrapper, seen = Wrapper(model), []

        def where(token_ids, positions):
            seen.append((token_ids.shape[1], positions.tolist()))
            return positions >= 0

        with steer(wrapper, f"base.{LAYER}", np.eye(512), 0, strength=1.0, where=where):
            model.generate(IDS[:1], attention_mask=MASK[:1], max_new_tokens=3, min_new_tokens=3)
        assert seen == [(4, [0, 1, 2, 3]), (1, [4]), (1, [5])]

    def test_cache_by_position(self, model):
        with torch.no_grad():
            cache = model(IDS[:1, :2], use_cache=True).past_key_values
        found = changed(
            model,
            LAYER,
            lambda: model(IDS[:1, 2:], copy.deepcopy(cache)),
            width=512,
            where=[True, True, True, False],
        )
        assert found == [[[1, 0]]]

    def test_other_names_and_the_model_itself_as_layer(self):
        class Plain(nn.Module):
            def __init__(self):
                super().__init__()
                self.config = transformers.GPT2Config(bos_token_id=0, eos_token_id=1)
                self.embed = nn.Embedding(10, 4)

            def forward(self, idx):
                return self.embed(idx)

        plain = Plain()
        for layer in ("embed", ""):
            found = changed(plain, layer, lambda: plain(idx=IDS), width=4)
            assert found == [[[0, 1, 1, 1], [0, 1, 1, 0]]]

    @pytest.mark.parametrize(
        "pack",
        [
            lambda ids, mask: ((), {"features": {"input_ids": ids, "attention_mask": mask}}),
            lambda ids, mask: (
                ({"positions": ids, "attention_mask": mask, "input_ids": ids},),
                {},
            ),
            lambda ids, mask: (
                (transformers.BatchEncoding({"input_ids": ids, "attention_mask": mask}),),
                {},
            ),
            lambda ids, mask: ((UserDict(text={"input_ids": ids, "attention_mask": mask}),), {}),
            lambda ids, mask: ((Batch(ids, mask),), {}),
            lambda ids, mask: ((Fields(ids, mask),), {}),
            lambda ids, mask: (([ids, mask],), {}),  # the mask has no name, but 0 is special too
            lambda ids, mask: ((), {"input_ids": ids, "attention_mask": mask}),
        ],
    )
    def test_token_ids_in_any_container(self, pack):
        class Sentences(nn.Module):
            def __init__(self):
                super().__init__()
                self.config = transformers.GPT2Config(bos_token_id=0, eos_token_id=0)
                self.embed, self.layer = nn.Embedding(10, 4), nn.Identity()

            def forward(self, features=None, **options):
                return self.layer(self.embed(IDS))

        args, kwargs = pack(IDS, MASK)
        model = Sentences()
        assert changed(model, "layer", lambda: model(*args, **kwargs), width=4) == [CONTENT]

    def test_encoder_and_decoder(self):
        config = transformers.T5Config(
            vocab_size=20,
            d_model=8,
            d_kv=4,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
        )  # pads with 0, and closes with 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = transformers.T5ForConditionalGeneration(config).eval()
        ids, decoder_ids = torch.tensor([[5, 6, 1], [7, 1, 0]]), torch.tensor([[0, 5], [0, 6]])

        def forward():
            return model(
                input_ids=ids, attention_mask=(ids != 0).int(), decoder_input_ids=decoder_ids
            )

        name = "{}.block.0.layer.{}.DenseReluDense"
        for part, index, expected in (
            ("encoder", 1, [[1, 1, 0], [1, 0, 0]]),
            ("decoder", 2, [[0, 1], [0, 1]]),
        ):
            layer = name.format(part, index)
            assert changed(model, layer, forward, width=8) == [expected]
            assert changed(model, part, forward, width=8) == [expected]

        seen = []

        def where(token_ids, positions):
            seen.append((tuple(token_ids.shape), positions.tolist()))
            return positions >= 0

        with steer(model, "decoder", np.eye(8), 0, strength=1.0, where=where):
            model.generate(ids, attention_mask=(ids != 0).int(), max_new_tokens=3)
        assert seen[:2] == [((2, 1), [0]), ((2, 1), [1])]

    def test_encoder_of_sounds(self):
        """Its encoder is given no tokens; the decoder's are not taken for its."""
        config = transformers.WhisperConfig(
            vocab_size=20,
            d_model=8,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            num_mel_bins=4,
            max_source_positions=5,
            max_target_positions=6,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
            decoder_start_token_id=1,
        )
        model = transformers.WhisperForConditionalGeneration(config).eval()
        sounds, ids = torch.zeros(2, 4, 10), torch.tensor([[1, 5], [1, 6]])

        def forward():
            return model(input_features=sounds, decoder_input_ids=ids)

        for layer, expected in (
            ("model.encoder.layers.0.fc2", [[1] * 5] * 2),
            ("model.decoder.layers.0.fc2", [[0, 1], [0, 1]]),
        ):
            assert changed(model, layer, forward, width=8) == [expected]

    def test_time_first(self):
        class TimeFirst(nn.Module):
            def __init__(self):
                super().__init__()
                self.config = transformers.GPT2Config(bos_token_id=0, eos_token_id=0)
                self.embed = nn.Embedding(10, 4)
                self.last = nn.Identity()

            def forward(self, input_ids):
                return self.last(self.embed(input_ids).transpose(0, 1))

        model = TimeFirst()
        with (
            steer(model, "last", np.eye(4), 0, strength=1.0),
            pytest.raises(ValueError, match=r"has \(4, 2\) vectors, but the tokens are of shape"),
        ):
            model(IDS)

    def test_text_config(self, model):
        class Outer:
            def get_text_config(self):
                return transformers.GPT2Config(bos_token_id=5, eos_token_id=6)

        model = copy.deepcopy(model)
        model.config = Outer()
        found = changed(
            model.transformer, "h.0.mlp.act", lambda: model.transformer(IDS), width=512
        )
        assert found == [CONTENT]  # the part has its own config
        model.transformer.config = Outer()
        with torch.no_grad():
            hidden = nn.Module()
            hidden.base, hidden.config = model.transformer, Outer()
            hidden.forward = lambda input_ids: hidden.base.wte(input_ids)
        found = changed(hidden, "base.wte", lambda: hidden(IDS), width=128)
        assert found == [[[1, 0, 0, 1], [1, 1, 1, 1]]]

    def test_indices_and_duplicates_are_refused(self, model, dictionary):
        with (
            steer(model, LAYER, dictionary, 3, strength=1, where=lambda ids, positions: [0, 2]),
            pytest.raises(ValueError, match=r"where must return true or false .* torch.int64"),
        ):
            model(IDS)
        with pytest.raises(ValueError, match=r"features must be different features"):
            steer(model, LAYER, dictionary, [3, 3], clamp=1.0)

    def test_kinds_of_directions(self, model):
        def steered(directions):
            with steer(model, LAYER, directions, 3, strength=1.0):
                return record_activations(model, LAYER, lambda: model(IDS))[0]

        expected = record_activations(model, LAYER, lambda: model(IDS))[0]
        expected[..., 3] += torch.tensor(CONTENT)
        for directions in (
            torch.eye(512, dtype=torch.bfloat16),
            np.eye(512, dtype=int),
            sp.csr_array(np.eye(512)),
            pd.DataFrame(np.eye(512)),
        ):
            torch.testing.assert_close(steered(directions), expected)

    def test_directions_of_nan_are_refused(self, model):
        directions = np.eye(512)
        directions[7, 7] = np.nan
        with pytest.raises(ValueError, match="dictionary contains NaN or infinity"):
            steer(model, LAYER, directions, 3, strength=1.0)


class ChannelsLast(nn.Module):
    """Neurons of a ConvNeXt: channels are moved to the last axis and back."""

    def __init__(self):
        super().__init__()
        self.conv, self.wide, self.act = nn.Conv2d(3, 3, 1), nn.Linear(3, 5), nn.GELU()

    def forward(self, x):
        return self.act(self.wide(self.conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class TestWhichAxis:
    @pytest.mark.parametrize(
        ("model", "layer", "shape", "axis", "width"),
        [
            (nn.Sequential(nn.Conv1d(3, 5, 1), nn.ReLU()), "1", (2, 3, 5), 1, 5),
            (nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU()), "1", (2, 3, 5, 5), 1, 5),
            (nn.Conv3d(3, 5, 1), "", (2, 3, 4, 6, 5), 1, 5),
            (ChannelsLast(), "act", (2, 3, 5, 4), -1, 5),
            (ChannelsLast(), "conv", (2, 3, 4, 3), 1, 3),
            (nn.Linear(4, 5), "", (2, 5, 4), -1, 5),
        ],
    )
    def test_steering_is_by_channel(self, model, layer, shape, axis, width):
        X = torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))
        (plain,) = record_activations(model, layer, lambda: model(X))
        added = torch.zeros(width)
        added[2] = 3.0
        with steer(model, layer, np.eye(width), 2, strength=3.0), torch.no_grad():
            (steered,) = record_activations(model, layer, lambda: model(X))
        expected = (plain.movedim(axis, -1) + added).movedim(-1, axis)
        torch.testing.assert_close(steered, expected)

    def test_the_user_is_asked(self):
        model, X = nn.Sequential(nn.Identity()), torch.zeros(2, 3, 4, 3)
        with (
            steer(model, "0", np.eye(3), 2, strength=3.0),
            pytest.raises(ValueError, match=r"nothing tells which axis .* Set feature_axis"),
        ):
            model(X)
        for axis in (1, -1):
            with steer(model, "0", np.eye(3), 2, strength=3.0, feature_axis=axis):
                assert model(X).movedim(axis, -1).sum(dim=(0, 1, 2)).nonzero().tolist() == [[2]]
        with (
            steer(model, "0", np.eye(3), 2, strength=3.0, feature_axis=0),
            pytest.raises(ValueError, match="feature_axis=0, but layer='0' gives shape"),
        ):
            model(X)


class TestNotCausal:
    @pytest.fixture(scope="class")
    @staticmethod
    def bert(language):
        config = transformers.BertConfig(
            vocab_size=4096,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
        )  # its own, small initial weights
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = transformers.BertForMaskedLM(config).eval()
        extractor = ActivationExtractor(
            model,
            "bert.encoder.layer.0.intermediate.intermediate_act_fn",
            tokenizer=language.tokenizer,
            max_length=64,
        )
        return extractor

    def test_refused(self, bert, texts):
        pipeline = make_pipeline(bert, PCA(4)).fit(texts[:2])
        for measure in (
            lambda: feature_effects(pipeline, texts[:2], [0]),
            lambda: logit_weights(pipeline, [0], texts=texts[:2], path="total"),
            lambda: steering_effect(pipeline, 0, [1.0], len),
        ):
            with pytest.raises(ValueError, match=r"causal .* BertForMaskedLM: its predictions"):
                measure()

    def test_dashboard_has_no_logits(self, bert, texts):
        pipeline = make_pipeline(bert, PCA(4)).fit(texts[:2])
        with pytest.warns(UserWarning, match=r"No logits and no .*MaskedLM is not one") as warned:
            dashboard = FeatureDashboard.from_pipeline(pipeline, texts[:2])
        assert all(warning.filename == __file__ for warning in warned)
        found = dashboard.content["features"]
        assert all("logits" not in each and "effects" not in each for each in found)
        (missing,) = dashboard.content["missing"]
        assert "its predictions depend on later tokens" in missing

    def test_dashboard_of_a_model_without_a_head(self, language, texts, tmp_path):
        pytest.importorskip("jinja2")
        extractor = ActivationExtractor(
            language.model.transformer, "h.0.mlp.act", tokenizer=language.tokenizer
        )
        pipeline = make_pipeline(extractor, PCA(2)).fit(texts[:2])
        with pytest.warns(UserWarning, match="without logits of shape"):
            dashboard = FeatureDashboard.from_pipeline(pipeline, texts[:2], n_top=2)
        (missing,) = dashboard.content["missing"]
        page = dashboard.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
        assert (
            "GPT2Model is not one: TypeError: model returns a" in missing and missing[:40] in page
        )
        with pytest.raises(ValueError, match=r"causal language model, .* without logits of"):
            feature_effects(pipeline, texts[:1], [0])

    @pytest.mark.parametrize(
        "error",
        [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("a kernel")],
    )
    def test_failures_are_not_taken_for_an_answer(self, language, texts, error):
        """A model that fails is not for that reason not causal."""
        model = copy.deepcopy(language.model)
        extractor = ActivationExtractor(model, LAYER, tokenizer=language.tokenizer)
        pipeline = make_pipeline(extractor, PCA(2)).fit(texts[:2])

        def fail(module, args, output):
            raise error

        model.register_forward_hook(fail)  # extraction stops at the layer, before
        for measure in (
            lambda: FeatureDashboard.from_pipeline(pipeline, texts[:1]),
            lambda: feature_effects(pipeline, texts[:1], [0]),
            lambda: logit_weights(pipeline, [0], texts=texts[:1], path="total"),
            lambda: steering_effect(pipeline, 0, [1.0], len),
        ):
            with pytest.raises(type(error)):
                measure()

    def test_a_model_without_a_named_head_has_logits(self, language, texts):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = language.model

            def forward(self, input_ids, attention_mask):
                return self.net(input_ids, attention_mask=attention_mask).logits

        extractor = ActivationExtractor(Own(), f"net.{LAYER}", tokenizer=language.tokenizer)
        pipeline = make_pipeline(extractor, PCA(2)).fit(texts[:2])
        found = FeatureDashboard.from_pipeline(pipeline, texts[:2], n_top=2).content["features"]
        assert all("logits" in each for each in found)


class TestFlatTokens:
    def test_measures_are_refused(self, language, texts):
        """Of a layer whose activations are flat the extractor knows the rows, no more."""

        class Flat(nn.Module):
            def __init__(self):
                super().__init__()
                self.net, self.flat = language.model, nn.Identity()

            def forward(self, input_ids, attention_mask):
                output = self.net.transformer(input_ids, attention_mask=attention_mask)
                hidden = output.last_hidden_state
                flat = self.flat(hidden.flatten(0, 1))
                return self.net.lm_head(flat.view(hidden.shape))

        extractor = ActivationExtractor(Flat(), "flat", tokenizer=language.tokenizer)
        pipeline = make_pipeline(extractor, PCA(2)).fit(texts[:2])
        for measure in (
            lambda: feature_effects(pipeline, texts[:2], [0]),
            lambda: logit_weights(pipeline, [0], texts=texts[:2], path="total"),
        ):
            with pytest.raises(ValueError, match=r"layer='flat' gives no activation of shape"):
                measure()


class TestSteeringOtherModels:
    def test_prompts_keep_the_special_tokens_of_the_user(self):
        """Only what the tokenizer puts behind a text itself is left out."""
        tokenizers = pytest.importorskip("tokenizers")
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[/INST]", "def", "f"]
        vocabulary = {name: index for index, name in enumerate(names)}
        backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        backend.add_special_tokens(names[:5])
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
        )
        network = SimpleNamespace(device=torch.device("cpu"), context_length=None)
        language = SimpleNamespace(tokenizer=tokenizer, network=network)

        def ids(prompts):
            return [each.tolist() for each in prompt_ids(language, prompts, 1)]

        assert ids(["def f[/INST]", "def f", "f[SEP]", "[/INST]"]) == [
            [[2, 5, 6, 4]],
            [[2, 5, 6]],
            [[2, 6, 3]],
            [[2, 4]],
        ]
        assert ids(None) == [[[2]]]

    def test_only_tokens_of_the_vocabulary_are_written(self, language, texts):
        """Embeddings and heads are often padded to a round number of rows."""

        class Padded(nn.Module):  # with a great preference for what is no token
            def __init__(self):
                super().__init__()
                self.net = language.model

            def forward(self, input_ids, attention_mask):
                logits = self.net(input_ids, attention_mask=attention_mask).logits
                return nn.functional.pad(logits, (0, 8), value=100.0)

        model, written = Padded(), []
        padded = ActivationExtractor(model, f"net.{LAYER}", tokenizer=language.tokenizer)
        pipeline = make_pipeline(padded, PCA(2)).fit([texts[0][:200]])
        steering_effect(
            pipeline, 0, [0.0], lambda text: bool(written.append(text)), n_samples=4, n_tokens=3
        )
        assert all(written)  # ids without a token are decoded to nothing

    def test_without_key_value_cache(self, language, texts):
        config = transformers.MambaConfig(
            vocab_size=4096, hidden_size=16, state_size=4, num_hidden_layers=1
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = transformers.MambaForCausalLM(config).eval()
        extractor = ActivationExtractor(model, "backbone.layers.0", tokenizer=language.tokenizer)
        pipeline = make_pipeline(extractor, PCA(2)).fit([texts[0][:200]])
        effect = steering_effect(pipeline, 0, [0.0, 2.0], len, n_samples=2, n_tokens=4)
        assert np.isfinite(effect.cross_entropy).all()
        ids = torch.tensor([[5, 6, 7]])
        plain = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        directions = 100 * np.eye(16)
        with steer(model, "backbone.layers.0", directions, 0, strength=1.0):
            steered = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        assert steered.shape == plain.shape and not torch.equal(steered, plain)
        with (
            steer(model, "backbone.layers.0", directions, 0, strength=1.0, where=[True] * 5),
            pytest.raises(ValueError, match="cache does not tell how many it holds"),
        ):
            model.generate(ids, max_new_tokens=4)

    def test_longer_than_the_context(self, extractor, dictionary):
        pipeline = make_pipeline(extractor, dictionary)
        with pytest.raises(ValueError, match=r"n_tokens=300 after a prompt of 1 tokens is more"):
            steering_effect(pipeline, 0, [1.0], len, n_tokens=300)

    def test_no_tokens(self, extractor, dictionary):
        pipeline = make_pipeline(extractor, dictionary)
        with pytest.raises(ValueError, match=r"texts has only special tokens"):
            logit_weights(pipeline, [0], texts=["<|endoftext|>"], path="total")


class TestOtherDictionaries:
    def test_pandas_output(self, activations, dictionary):
        expected = top_activations(collect_codes(dictionary, activations[:500]), [3])
        as_frames = copy.deepcopy(dictionary).set_output(transform="pandas")
        scaled = make_pipeline(StandardScaler(with_mean=False), as_frames)
        found = top_activations(collect_codes(as_frames, activations[:500]), [3])
        np.testing.assert_array_equal(found[0].rows, expected[0].rows)
        collect_codes(scaled[1:], activations[:500])
        pca = PCA(3, random_state=0).set_output(transform="pandas").fit(activations[:500])
        collect_codes(pca, activations[:500], n_near_misses=2)

    def test_extractor_of_arrays(self, image_model):
        images = np.random.default_rng(0).random((5, 1, 3, 3)).astype(np.float32)
        extractor = ActivationExtractor(image_model, "1", tokenizer=None)
        pipeline = make_pipeline(extractor, PCA(2)).fit(images)
        X = extractor.transform(images)
        of_pixels = top_activations(collect_codes(pipeline[1:], X))
        for top, expected in zip(
            top_activations(collect_codes(pipeline, images)), of_pixels, strict=True
        ):
            np.testing.assert_array_equal(top.rows, expected.rows)
            np.testing.assert_allclose(top.codes, expected.codes, rtol=1e-5)

    def test_nothing_asked(self, extractor, dictionary, texts, activations):
        pipeline = make_pipeline(extractor, dictionary)
        assert feature_effects(pipeline, texts[:1], []) == []
        assert logit_weights(pipeline, [], texts=texts[:1], path="total").weights.shape[0] == 0
        assert top_activations(collect_codes(dictionary, activations[:50]), []) == []
        (effect,) = feature_effects(pipeline, texts[:1], [7], rows=[[]])
        assert len(effect.rows) == 0

    def test_estimators_that_do_not_decode(self, extractor, activations, texts, tokens):
        """Each says which it is, and what it lacks."""
        kmeans = KMeans(3, n_init=1, max_iter=2).fit(activations[:200])
        scaled = make_pipeline(StandardScaler().fit(activations[:200]), kmeans)
        for dictionary in (kmeans, scaled):
            pipeline = make_pipeline(extractor, dictionary)
            for measure in (
                lambda pipeline=pipeline: feature_effects(pipeline, texts[:1], [0]),
                lambda pipeline=pipeline: logit_weights(
                    pipeline, [0], texts=texts[:1], path="total"
                ),
                lambda pipeline=pipeline: steering_effect(pipeline, 0, [1.0], len),
                lambda pipeline=pipeline: FeatureDashboard.from_pipeline(pipeline, texts[:1]),
                lambda dictionary=dictionary: FeatureDashboard.from_activations(
                    dictionary, activations, tokens
                ),
                lambda dictionary=dictionary: collect_codes(
                    dictionary, activations, n_near_misses=1
                ),
                lambda dictionary=dictionary: steer(
                    extractor.model, LAYER, dictionary, 0, clamp=1.0
                ),
            ):
                with pytest.raises(TypeError, match="KMeans has no method inverse_transform"):
                    measure()
            assert len(top_activations(collect_codes(dictionary, activations))) == 3
        with pytest.raises(TypeError, match="NoneType has no method transform"):
            FeatureDashboard.from_activations(None, activations, tokens)
