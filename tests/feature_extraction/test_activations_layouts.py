"""Rows are those of a text or sample alone, whatever a layer's axes; or there is an error."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn.functional import conv1d

from skdict.feature_extraction import ActivationExtractor


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def tokenizer(bert):
    return bert[1]


class Tagger(nn.Module):
    """Embeds, and runs `layer` on the vectors."""

    def __init__(self, layer, width=4):
        super().__init__()
        self.embed, self.layer = nn.Embedding(120, width), layer

    def forward(self, input_ids, **options):
        return self.layer(self.embed(input_ids))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def alone(extractor, texts):
    return np.concatenate([extractor.transform([text]) for text in texts])


class TestTextsTogetherAndAlone:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_a_mask_that_is_not_heeded(self, dtype, tokenizer, texts):
        model = Tagger(nn.LSTM(4, 3, batch_first=True, bidirectional=True)).to(dtype)
        extractor = ActivationExtractor(model, "layer", tokenizer=tokenizer)
        rows = extractor.transform(texts)
        assert np.abs(rows - alone(extractor, texts)).max() < 1e-5

    def test_a_mask_that_a_model_of_transformers_does_not_heed(self, tokenizer, texts):
        config = transformers.FNetConfig(
            vocab_size=120, hidden_size=8, num_hidden_layers=1, intermediate_size=8
        )
        extractor = ActivationExtractor(
            transformers.FNetModel(config), "encoder.layer.0", tokenizer=tokenizer
        )
        rows = extractor.transform(texts)
        np.testing.assert_allclose(rows, alone(extractor, texts), rtol=1e-4, atol=1e-5)

    def test_a_mask_that_is_heeded_behind_keywords(self, bert, texts):
        model, tokenizer = bert
        n_calls = []

        class Wrapper(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = model

            def forward(self, *args, **kwargs):
                n_calls.append(len(args[0]))
                return self.inner(*args, **kwargs)

        extractor = ActivationExtractor(Wrapper(), "inner.bert", tokenizer=tokenizer)
        extractor.fit(texts)
        n_calls.clear()
        rows = extractor.transform(texts)
        assert n_calls == [len(texts)]  # padded, in one batch
        np.testing.assert_allclose(rows, alone(extractor, texts), rtol=1e-4, atol=1e-5)

    def test_texts_that_see_each_other(self, tokenizer, texts):
        model = Tagger(Function(lambda x: x + x.mean(dim=(0, 1))))
        extractor = ActivationExtractor(model, "layer", tokenizer=tokenizer)
        with pytest.raises(ValueError, match=r"depend on the inputs beside it.* batch_size=1"):
            extractor.fit(texts)
        extractor.set_params(batch_size=1)
        np.testing.assert_array_equal(extractor.fit_transform(texts), alone(extractor, texts))

    def test_random_numbers_are_no_influence(self, tokenizer, texts):
        model = Tagger(Function(lambda x: x + torch.randn_like(x)))
        rows = ActivationExtractor(model, "layer", tokenizer=tokenizer).fit_transform(texts)
        assert rows.shape[1] == 4

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: torch.full_like(x, torch.nan),
            lambda x: torch.full_like(x, -torch.inf),
            torch.zeros_like,
        ],
    )
    def test_odd_values_are_no_influence(self, function, tokenizer, texts):
        model = Tagger(Function(function))
        ActivationExtractor(model, "layer", tokenizer=tokenizer).fit(texts)

    def test_short_texts_prove_nothing(self, tokenizer, texts):
        model = Tagger(Function(lambda x: x + x[:, 3:4].sum(dim=(0, 1))))
        extractor = ActivationExtractor(model, "layer", tokenizer=tokenizer).fit(["x"])
        with pytest.raises(ValueError, match="batch_size=1"):
            extractor.fit(texts)


SEQ2SEQ = {
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 3,
    "forced_eos_token_id": None,
}


class TestShiftedTokens:
    @pytest.mark.parametrize("kind", ["Bart", "MBart", "Plbart"])
    @pytest.mark.parametrize(
        "layer", ["model.decoder.embed_tokens", "model.decoder.layers.0.fc1", "lm_head"]
    )
    def test_decoders_are_refused(self, kind, layer, tokenizer, texts):
        kind = {"Plbart": "PLBart"}.get(kind, kind)
        config = getattr(transformers, f"{kind}Config")(vocab_size=120, **SEQ2SEQ)
        model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
        for batch_size in (1, 8):
            extractor = ActivationExtractor(
                model, layer, tokenizer=tokenizer, batch_size=batch_size
            )
            with pytest.raises(ValueError, match=r"other places than the model.*of the encoder"):
                extractor.transform(texts)

    def test_encoders_are_not(self, tokenizer, texts):
        model = transformers.BartModel(transformers.BartConfig(vocab_size=120, **SEQ2SEQ)).eval()
        extractor = ActivationExtractor(model, "encoder.embed_tokens", tokenizer=tokenizer)
        ids = extractor.tokens(texts).token_id
        expected = model.get_input_embeddings().weight.detach().numpy()[ids]
        np.testing.assert_allclose(extractor.transform(texts), expected, rtol=1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("max_length", range(3, 9))  # two are special
    def test_positions_are_no_tokens(self, max_length, tokenizer, texts):
        """Positions of a short window can look like its token ids, shifted."""
        config = transformers.GPT2Config(vocab_size=120, n_embd=8, n_layer=1, n_head=1)
        extractor = ActivationExtractor(
            transformers.GPT2Model(config).eval(),
            "h.0.mlp.act",
            tokenizer=tokenizer,
            max_length=max_length,
            long_documents="window",
        )
        assert len(extractor.transform(texts)) == len(extractor.tokens(texts).token)

    @pytest.mark.parametrize("kind", ["Pegasus", "Marian", "T5"])
    def test_decoders_that_are_given_nothing(self, kind, tokenizer, texts):
        options = SEQ2SEQ if kind != "T5" else {"d_kv": 4, "d_ff": 8, "num_layers": 1}
        config = getattr(transformers, f"{kind}Config")(vocab_size=120, **options)
        model = getattr(transformers, f"{kind}Model" if kind != "Marian" else "MarianModel")(
            config
        )
        layer = "decoder.block.0" if kind == "T5" else "decoder.layers.0"
        extractor = ActivationExtractor(model, layer, tokenizer=tokenizer)
        with pytest.raises(ValueError, match=r"Of an encoder-decoder model only the encoder is"):
            extractor.fit(texts)

    @pytest.mark.parametrize("n", [1, 2, -1])
    def test_models_of_ones_own(self, n, tokenizer, texts):
        class Shifted(Tagger):
            def forward(self, input_ids, **options):
                return self.layer(self.embed(input_ids.roll(n, dims=1)))

        extractor = ActivationExtractor(Shifted(nn.Tanh()), "layer", tokenizer=tokenizer)
        with pytest.raises(ValueError, match="in other places than the model"):
            extractor.fit(texts)

    def test_positions_and_types_are_no_shifted_tokens(self, tokenizer, texts):
        class Embedder(Tagger):
            def __init__(self):
                super().__init__(nn.Tanh())
                self.positions, self.types = nn.Embedding(64, 4), nn.Embedding(2, 4)

            def forward(self, input_ids, **options):
                positions = torch.arange(input_ids.shape[1]).expand(input_ids.shape)
                added = self.positions(positions) + self.types(torch.zeros_like(input_ids))
                return self.layer(self.embed(input_ids) + added)

        model = Embedder()
        extractor = ActivationExtractor(model, "layer", tokenizer=tokenizer)
        tokens = extractor.tokens(texts)
        with torch.no_grad():
            expected = (
                model.embed.weight[tokens.token_id] + model.positions.weight[tokens.position]
            )
            expected = (expected + model.types.weight[0]).tanh().numpy()
        np.testing.assert_allclose(extractor.fit_transform(texts), expected, rtol=1e-5, atol=1e-6)


class Experts(nn.Module):
    """A mixture that flattens its tokens, and gives each to one of two experts."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(4, 2)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        flat = x.flatten(0, 1)
        chosen = self.router(flat).argmax(dim=1)
        mixed = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            mixed[chosen == i] = expert(flat[chosen == i])
        return mixed.view(x.shape)


class TestFlatTokens:
    def test_right_rows(self, tokenizer, texts):
        model = Tagger(Experts())
        extractor = ActivationExtractor(model, "layer.router", tokenizer=tokenizer)
        ids = extractor.tokens(texts).token_id
        with torch.no_grad():
            expected = model.layer.router(model.embed(torch.from_numpy(ids))).numpy()
        np.testing.assert_allclose(extractor.transform(texts), expected, rtol=1e-5, atol=1e-6)

    def test_experts_that_see_some_of_the_tokens(self, tokenizer, texts):
        model = Tagger(Experts())
        extractor = ActivationExtractor(model, "layer.experts.0", tokenizer=tokenizer)
        with pytest.raises(ValueError, match=r"one vector per token is needed"):
            extractor.transform(texts)

    def test_flattened_time_first(self, tokenizer, texts):
        model = Tagger(Function(lambda x: x.transpose(0, 1).flatten(0, 1)))
        extractor = ActivationExtractor(model, "layer", tokenizer=tokenizer)
        with pytest.raises(ValueError, match="batch_size=1"):
            extractor.transform(texts)


def channels_first(x):
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def channels_last(x):
    return x.reshape(-1, x.shape[-1])


class ConvNeXtBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.LayerNorm(3)
        self.wide, self.act, self.narrow = nn.Linear(3, 12), nn.GELU(), nn.Linear(12, 3)

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + self.narrow(self.act(self.wide(y))).permute(0, 3, 1, 2)


class LayerNorm2d(nn.LayerNorm):
    """As in torchvision: a norm over channels on axis 1."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


SERIES, IMAGES, VOLUMES = (2, 3, 9), (2, 3, 5, 7), (2, 3, 4, 5, 6)
# (model, layer, shape of X, where the layer has its channels)
LAYOUTS = [
    (nn.Conv1d(3, 4, 3), "", SERIES, channels_first),
    (nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU()), "1", SERIES, channels_first),
    (nn.Sequential(nn.Conv1d(3, 7, 3), nn.ReLU()), "1", SERIES, channels_first),  # 7 steps
    (nn.Sequential(nn.Conv1d(3, 4, 3), nn.GLU(1), nn.Dropout()), "2", SERIES, channels_first),
    (nn.Sequential(nn.Conv1d(3, 4, 3), nn.MaxPool1d(2)), "1", SERIES, channels_first),
    (nn.BatchNorm1d(3), "", SERIES, channels_first),
    (nn.GroupNorm(1, 3), "", SERIES, channels_first),
    (nn.ConvTranspose1d(3, 4, 3), "", SERIES, channels_first),
    (nn.Linear(9, 4), "", SERIES, channels_last),
    (nn.Linear(9, 3), "", SERIES, channels_last),
    (nn.LayerNorm(9), "", SERIES, channels_last),
    (nn.LSTM(9, 4, batch_first=True), "", SERIES, channels_last),
    (nn.Conv2d(3, 4, 3), "", IMAGES, channels_first),
    (nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.GELU()), "1", IMAGES, channels_first),
    (Residual(3), "", IMAGES, channels_first),
    (LayerNorm2d(3), "", IMAGES, channels_first),
    (ConvNeXtBlock(), "conv", IMAGES, channels_first),
    (ConvNeXtBlock(), "norm", IMAGES, channels_last),
    (ConvNeXtBlock(), "act", IMAGES, channels_last),
    (ConvNeXtBlock(), "", IMAGES, channels_first),
    (nn.Sequential(nn.Conv2d(3, 14, 1), nn.Upsample(scale_factor=2)), "1", IMAGES, channels_first),
    (nn.Sequential(nn.Conv2d(3, 12, 1), nn.PixelShuffle(2)), "1", IMAGES, channels_first),
    (nn.Sequential(nn.Conv2d(3, 6, (1, 2)), nn.ChannelShuffle(2)), "1", IMAGES, channels_first),
    (nn.Sequential(nn.Conv2d(3, 7, 1), nn.LocalResponseNorm(2)), "1", IMAGES, channels_first),
    (nn.Sequential(nn.Linear(7, 5), nn.LocalResponseNorm(2)), "1", IMAGES, channels_last),
    (nn.Linear(7, 4), "", IMAGES, channels_last),
    (nn.Conv3d(3, 4, 1), "", VOLUMES, channels_first),
    (nn.Sequential(nn.Conv3d(3, 4, 1), nn.Tanh(), nn.AvgPool3d(2)), "2", VOLUMES, channels_first),
]


class TestFeatureAxis:
    @pytest.mark.parametrize(("model", "layer", "shape", "rows_of"), LAYOUTS)
    def test_what_the_layers_tell(self, model, layer, shape, rows_of):
        X = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        found = []
        handle = model.get_submodule(layer).register_forward_hook(
            lambda module, args, output: found.append(output)
        )
        with torch.no_grad():
            model.eval()(torch.from_numpy(X))
        handle.remove()
        output = found[0][0] if isinstance(found[0], tuple) else found[0]
        rows = ActivationExtractor(model, layer, tokenizer=None).fit_transform(X)
        np.testing.assert_allclose(rows, rows_of(output.numpy()), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("model", "layer", "shape", "rows_of"),
        [
            (nn.Conv1d(3, 4, 3), "", SERIES, channels_first),
            (nn.Linear(9, 4), "", SERIES, channels_last),
            (nn.BatchNorm2d(3), "", IMAGES, channels_first),
            (nn.LayerNorm(7), "", IMAGES, channels_last),
        ],
    )
    def test_what_a_layer_is_given(self, model, layer, shape, rows_of):
        X = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        rows = ActivationExtractor(model, layer, side="input", tokenizer=None).fit_transform(X)
        np.testing.assert_array_equal(rows, rows_of(X))

    @pytest.mark.parametrize(
        ("model", "shape"),
        [
            (nn.Sequential(nn.Identity()), IMAGES),  # nothing tells
            (nn.Sequential(nn.Identity()), SERIES),
            (nn.Sequential(Function(lambda x: conv1d(x, torch.ones(4, 3, 3)))), SERIES),
            (nn.Sequential(nn.PixelShuffle(1)), IMAGES),
            (
                nn.Sequential(nn.Conv2d(3, 5, 1), Function(lambda x: x.permute(0, 2, 3, 1))),
                (2, 3, 5, 4),
            ),
            (nn.Sequential(nn.Conv1d(3, 4, 1), Function(lambda x: x[:, :2])), SERIES),
        ],
    )
    def test_the_user_is_asked(self, model, shape):
        X = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        layer = str(len(model) - 1)
        extractor = ActivationExtractor(model, layer, tokenizer=None)
        with pytest.raises(ValueError, match=r"nothing tells which axis .* Set feature_axis"):
            extractor.fit(X)
        output = model(torch.from_numpy(X)).detach().numpy()
        for axis, rows_of in ((1, channels_first), (-1, channels_last)):
            rows = extractor.set_params(feature_axis=axis).fit_transform(X)
            # another number of threads changes the last digit
            np.testing.assert_allclose(rows, rows_of(output), rtol=1e-5, atol=1e-6)

    def test_the_user_knows_better(self):
        X = np.random.default_rng(0).normal(size=IMAGES).astype(np.float32)
        extractor = ActivationExtractor(
            nn.Conv2d(3, 4, 1), "", tokenizer=None, feature_axis=2, batch_size=1
        )
        assert extractor.fit_transform(X).shape == (2 * 4 * 7, 5)
        assert extractor.get_feature_names_out().shape == (5,)

    @pytest.mark.parametrize("axis", [0, -4, 4, -5])
    def test_axes_that_are_none(self, axis):
        extractor = ActivationExtractor(nn.Conv2d(3, 4, 1), "", tokenizer=None, feature_axis=axis)
        with pytest.raises(ValueError, match=rf"feature_axis={axis}, but layer='' gives shape"):
            extractor.fit(np.zeros(IMAGES))
        with pytest.raises(ValueError, match="'feature_axis' parameter"):
            extractor.set_params(feature_axis="last").fit(np.zeros(IMAGES))

    def test_convolutions_over_texts(self, tokenizer, texts):
        class Convolving(Tagger):
            def forward(self, input_ids):
                return self.layer(self.embed(input_ids).mT)

        model = Convolving(nn.Conv1d(4, 6, 1))
        extractor = ActivationExtractor(model, "layer", tokenizer=tokenizer)
        ids = extractor.tokens(texts).token_id
        with torch.no_grad():
            vectors = model.embed(torch.from_numpy(ids)) @ model.layer.weight[:, :, 0].T
            expected = (vectors + model.layer.bias).numpy()
        np.testing.assert_allclose(extractor.transform(texts), expected, rtol=1e-5, atol=1e-6)


class TestSamplesTogetherAndAlone:
    @pytest.mark.parametrize(
        "model",
        [
            nn.LSTM(4, 3),
            nn.RNN(4, 4),
            nn.TransformerEncoderLayer(4, 2, 8),
            nn.BatchNorm1d(5, track_running_stats=False),
        ],
    )
    @pytest.mark.parametrize("n_samples", [2, 5, 9])
    def test_time_first(self, model, n_samples):
        X = np.random.default_rng(0).normal(size=(n_samples, 5, 4)).astype(np.float32)
        extractor = ActivationExtractor(model, "", tokenizer=None)
        with pytest.raises(ValueError, match=r"batch_size=1 .*batch_first=True"):
            extractor.fit(X)
        extractor.set_params(batch_size=1).fit(X)

    def test_transposed_inside(self):
        """The layer has time first. With as many samples as steps, only the rows show it."""
        model = nn.Sequential(Function(lambda x: x.transpose(0, 1)), nn.Linear(4, 3))
        X = np.random.default_rng(0).normal(size=(2, 2, 4)).astype(np.float32)
        with pytest.raises(ValueError, match=r"shape \(2, 1, 3\) for 1 samples"):
            ActivationExtractor(model, "1", tokenizer=None).fit(X)

    def test_samples_that_are_alike_prove_nothing(self):
        extractor = ActivationExtractor(nn.LSTM(4, 3), "", tokenizer=None)
        extractor.fit(np.zeros((1, 5, 4)))
        X = np.random.default_rng(0).normal(size=(3, 5, 4))
        with pytest.raises(ValueError, match="batch_size=1"):
            extractor.fit(X)


class TestInputDtype:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
    @pytest.mark.parametrize("wide", [torch.float32, torch.float64])
    def test_what_forward_takes(self, dtype, wide):
        class Mixed(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.full((4,), 0.5).to(dtype), requires_grad=False)
                self.linear = nn.Linear(4, 6).to(wide)

            def forward(self, x):
                return self.linear(x * self.scale.to(x.dtype))

        X = np.random.default_rng(0).normal(size=(5, 4))
        model = Mixed()
        rows = ActivationExtractor(model, "linear", tokenizer=None).fit_transform(X)
        with torch.no_grad():
            expected = model(torch.from_numpy(X).to(wide)).numpy()
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)

    def test_half_precision_before_wide_layers(self):
        model = nn.Sequential(
            nn.Linear(4, 5).to(torch.bfloat16), Function(lambda x: x.float()), nn.Linear(5, 6)
        )
        X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
        rows = ActivationExtractor(model, "2", tokenizer=None).fit_transform(X)
        with torch.no_grad():
            expected = model(torch.from_numpy(X).to(torch.bfloat16)).numpy()
        np.testing.assert_allclose(rows, expected, rtol=1e-2, atol=1e-2)

    def test_integers_for_a_model_with_an_embedding_of_positions(self):
        class Patches(nn.Module):
            def __init__(self):
                super().__init__()
                self.positions, self.linear = nn.Embedding(3, 5), nn.Linear(4, 5)

            def forward(self, x):
                return self.linear(x) + self.positions(torch.arange(3))

        X = np.random.default_rng(0).integers(0, 255, size=(6, 3, 4))
        model = Patches()
        rows = ActivationExtractor(model, "linear", tokenizer=None).fit_transform(X)
        with torch.no_grad():
            expected = model.linear(torch.from_numpy(X).float()).flatten(0, 1).numpy()
        np.testing.assert_allclose(rows, expected, rtol=1e-5)

    def test_token_ids_as_floats(self):
        extractor = ActivationExtractor(nn.Embedding(7, 3), "", tokenizer=None)
        with pytest.raises(ValueError, match=r"X, which has dtype float64.* X.astype\(int\)"):
            extractor.fit(np.array([[1.0, 2.0], [3.0, 4.0]]))

    def test_errors_of_the_model_come_through(self):
        class Broken(nn.Module):
            def __init__(self, error):
                super().__init__()
                self.error, self.layer = error, nn.Identity()
                self.weights = nn.ParameterList(
                    torch.ones(1, dtype=dtype) for dtype in (torch.float64, torch.float16)
                )

            def forward(self, x):
                raise self.error

        for error in (KeyError("a"), torch.OutOfMemoryError("out of memory")):
            with pytest.raises(type(error)) as caught:
                ActivationExtractor(Broken(error), "layer", tokenizer=None).fit(np.zeros((2, 3)))
            assert caught.value is error


class TestModelsThatChange:
    def test_another_width(self):
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        extractor = ActivationExtractor(model, "1", tokenizer=None).set_output(transform="pandas")
        X = np.random.default_rng(0).normal(size=(5, 3))
        assert extractor.fit_transform(X).shape == (5, 4)
        model[0], model[2] = nn.Linear(3, 6), nn.Linear(6, 1)
        assert extractor.fit_transform(X).shape == (5, 6)
        assert len(extractor.get_feature_names_out()) == 6

    def test_another_call(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        extractor = ActivationExtractor(model, "0", tokenizer=None)
        X = np.random.default_rng(0).normal(size=(5, 3))
        extractor.fit(X)
        model.append(model[0])
        with pytest.raises(ValueError, match="layer='0' is called 2 times"):
            extractor.transform(X)

    def test_another_axis(self):
        model = nn.Sequential(nn.Conv1d(4, 4, 1), nn.ReLU())
        extractor = ActivationExtractor(model, "1", tokenizer=None)
        X = np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32)
        with torch.no_grad():
            expected = channels_first(model(torch.from_numpy(X)).numpy())
            np.testing.assert_allclose(extractor.transform(X), expected, rtol=1e-5, atol=1e-6)
            model[0] = nn.Linear(4, 4)
            expected = channels_last(model(torch.from_numpy(X)).numpy())
            np.testing.assert_allclose(extractor.transform(X), expected, rtol=1e-5, atol=1e-6)


class Tied(nn.Module):
    """Runs one block three times; its axes are moved before the last."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x):
        for _ in range(2):
            x = self.block(x)
        return self.block(x.transpose(1, 2)).relu()


class TestCall:
    @pytest.mark.parametrize("call", range(-3, 3))
    def test_rows_and_batches(self, call, tmp_path):
        model, X = Tied(), np.random.default_rng(0).normal(size=(7, 4, 4)).astype(np.float32)
        with torch.no_grad():
            found = [model.block(torch.from_numpy(X))]
            found.append(model.block(found[0]))
            found.append(model.block(found[1].transpose(1, 2)))
        expected = found[call].numpy().reshape(-1, 4)
        for batch_size in (1, 3, 7):
            extractor = ActivationExtractor(
                model, "block", call=call, tokenizer=None, batch_size=batch_size, cache=tmp_path
            )
            for _ in range(2):
                rows = extractor.fit_transform(X)
                np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)

    def test_the_error_names_call(self):
        model, X = Tied(), np.zeros((2, 4, 4))
        extractor = ActivationExtractor(model, "block", tokenizer=None)
        with pytest.raises(ValueError, match=r"called 3 times.*call=0 is the first, call=2 or -1"):
            extractor.fit(X)
        for call in (3, -4):
            with pytest.raises(ValueError, match=rf"call={call}, but .* called 3 times.*to -3"):
                extractor.set_params(call=call).fit(X)
        with pytest.raises(ValueError, match=r"call=1, but layer='1' is called once"):
            ActivationExtractor(
                nn.Sequential(nn.ReLU(), nn.Tanh()), "1", call=1, tokenizer=None
            ).fit(X)

    def test_axes_of_each_call(self):
        """A block of other axes at each call; the convolution tells those of the second."""

        class Both(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear, self.conv, self.act = nn.Linear(6, 5), nn.Conv1d(3, 2, 1), nn.Tanh()

            def forward(self, x):
                return self.act(self.conv(self.act(self.linear(x)))).mean()

        X = np.random.default_rng(0).normal(size=(2, 3, 6)).astype(np.float32)
        for side in ("input", "output"):
            extractor = ActivationExtractor(Both(), "act", side=side, tokenizer=None)
            shapes = [extractor.set_params(call=k).fit_transform(X).shape for k in (0, 1, -1, -2)]
            assert shapes == [(6, 5), (10, 2), (10, 2), (6, 5)]

    def test_albert(self, tokenizer, texts):
        config = transformers.AlbertConfig(
            vocab_size=120,
            embedding_size=8,
            hidden_size=8,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=64,
        )
        model = transformers.AlbertModel(config).eval()
        layer = "encoder.albert_layer_groups.0"
        extractor = ActivationExtractor(model, layer, tokenizer=tokenizer, call=1)
        rows, tokens = extractor.fit_transform(texts), extractor.tokens(texts)
        last = ActivationExtractor(model, layer, tokenizer=tokenizer, call=-1).transform(texts)
        for document, text in enumerate(texts):
            with torch.no_grad():
                states = model(
                    **tokenizer(text, return_tensors="pt"), output_hidden_states=True
                ).hidden_states
            here = tokens.document == document
            place = tokens.position[here]
            np.testing.assert_allclose(rows[here], states[2][0, place], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(last[here], states[3][0, place], rtol=1e-4, atol=1e-5)
