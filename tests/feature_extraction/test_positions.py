"""The place of each row, against a loop over the activations by hand."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from skdict.feature_extraction import ActivationExtractor


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class ChannelsLast(nn.Module):
    """A convolution whose channels are moved to the end, as in ConvNeXt and Swin."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 2), nn.LayerNorm(5)

    def forward(self, x):
        return self.norm(self.conv(x).permute(0, 2, 3, 1))


class Patches(nn.Module):
    """Cuts a picture into a sequence of patches, as a vision transformer does."""

    def __init__(self):
        super().__init__()
        self.cut, self.norm = nn.Conv2d(3, 5, 2, stride=2), nn.LayerNorm(5)

    def forward(self, x):
        return self.norm(self.cut(x).flatten(2).transpose(1, 2))


# (model, layer, shape of X, axes with their names in the order of the activation, feature axis)
KINDS = {
    "Conv1d": (nn.Conv1d(2, 4, 3), "", (5, 2, 9), ["time"], 1),
    "Conv1d, stride": (nn.Conv1d(2, 4, 3, stride=2), "", (5, 2, 9), ["time"], 1),
    "LSTM": (nn.LSTM(2, 4, batch_first=True), "", (5, 9, 2), ["time"], 2),
    "raw": (nn.Sequential(nn.Unflatten(1, (1, 9)), nn.Conv1d(1, 4, 3)), "1", (5, 9), ["time"], 1),
    "Conv2d": (nn.Conv2d(3, 4, (2, 3)), "", (5, 3, 4, 6), ["y", "x"], 1),
    "channels last": (ChannelsLast(), "norm", (5, 3, 4, 6), ["y", "x"], 3),
    "patches": (Patches(), "norm", (5, 3, 4, 6), ["position"], 2),
    "Conv3d": (nn.Conv3d(1, 4, 2), "", (5, 1, 3, 4, 5), ["z", "y", "x"], 1),
    "Linear on a grid": (
        nn.Linear(2, 4),
        "",
        (5, 2, 3, 2, 3, 2),
        ["axis_1", "axis_2", "axis_3", "axis_4"],
        5,
    ),
    "Linear": (nn.Linear(3, 4), "", (5, 3), [], 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_the_activation_at_its_place(kind):
    model, layer, shape, names, feature_axis = KINDS[kind]
    X = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with torch.no_grad():
        activation = model(torch.from_numpy(X))
    activation = (activation[0] if isinstance(activation, tuple) else activation).numpy()
    last = np.moveaxis(activation, feature_axis, -1)
    for batch_size in (1, 2, 32):
        extractor = ActivationExtractor(model, layer, tokenizer=None, batch_size=batch_size)
        positions = extractor.positions(X)
        rows = extractor.transform(X)
        assert list(positions) == ["document", *names]
        assert {len(column) for column in positions.values()} == {len(rows)}
        assert {column.dtype for column in positions.values()} == {np.dtype(np.int64)}
        for row, *place in zip(rows, *positions.values(), strict=True):
            np.testing.assert_allclose(row, last[tuple(place)], rtol=1e-5, atol=1e-6)
        assert len(set(zip(*positions.values(), strict=True))) == len(rows) == last[..., 0].size
        # of arrays the table of tokens is that of places
        tokens = extractor.tokens(X)
        assert all((tokens[key] == positions[key]).all() for key in positions)
        assert list(tokens) == list(positions)


def test_patches_of_a_vision_transformer():
    config = transformers.ViTConfig(
        image_size=6,
        patch_size=2,
        num_channels=1,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
    )
    model = transformers.ViTModel(config).eval()
    X = np.random.default_rng(0).normal(size=(5, 1, 6, 6)).astype(np.float32)
    with torch.no_grad():
        states = model(torch.from_numpy(X), output_hidden_states=True).hidden_states[1].numpy()
    extractor = ActivationExtractor(model, "layers.0", tokenizer=None, batch_size=2)
    positions = extractor.positions(X)
    assert positions.position.max() == 9  # a class token, and 3 x 3 patches
    expected = states[positions.document, positions.position]
    np.testing.assert_allclose(extractor.transform(X), expected, rtol=1e-4, atol=1e-5)


def test_what_a_layer_is_given_and_a_stated_axis():
    X = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
    extractor = ActivationExtractor(
        nn.Sequential(nn.Identity()), "0", side="input", tokenizer=None, feature_axis=2
    )
    positions = extractor.positions(X)  # axes 1 and 3 are left, of lengths 2 and 5
    assert positions.y.max() == 1
    assert positions.x.max() == 4
    expected = X[positions.document, positions.y, :, positions.x]
    np.testing.assert_array_equal(extractor.transform(X), expected)


def test_token_ids_as_arrays():
    X = np.random.default_rng(0).integers(0, 7, size=(3, 5))
    model = nn.Embedding(7, 2)
    extractor = ActivationExtractor(model, "", tokenizer=None)
    positions = extractor.positions(X)
    assert list(positions) == ["document", "position"]
    expected = model.weight.detach().numpy()[X[positions.document, positions.position]]
    np.testing.assert_array_equal(extractor.transform(X), expected)


@pytest.mark.parametrize("include_special_tokens", [False, True])
@pytest.mark.parametrize("max_length", [None, 6])
def test_texts_with_padding_and_windows(include_special_tokens, max_length, bert, texts):
    model, tokenizer = bert
    expected = []  # (document, position, token id) of each row, by hand
    for document, text in enumerate(texts):
        body = tokenizer(text, add_special_tokens=False).input_ids
        room = len(body) if max_length is None else max_length - 2
        for first in range(0, len(body), room):
            window = [2, *body[first : first + room], 3]
            kept = range(len(window)) if include_special_tokens else range(1, len(window) - 1)
            expected += [(document, place, window[place]) for place in kept]
    for batch_size in (1, 3, 32):
        extractor = ActivationExtractor(
            model,
            "bert.embeddings",
            tokenizer=tokenizer,
            max_length=max_length,
            long_documents="window",
            include_special_tokens=include_special_tokens,
            batch_size=batch_size,
        )
        positions, tokens = extractor.positions(texts), extractor.tokens(texts)
        assert list(positions) == ["document", "position"]
        found = zip(positions.document, positions.position, tokens.token_id, strict=True)
        assert list(found) == expected
        assert all((tokens[key] == positions[key]).all() for key in positions)
        assert len(extractor.transform(texts)) == len(expected)


def test_rows_of_padded_texts_are_at_their_places(bert_folder, texts):
    """Position embeddings do not depend on the tokens, so rows tell their places themselves."""
    model = transformers.AutoModelForMaskedLM.from_pretrained(bert_folder).eval()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.zero_()
        model.bert.embeddings.token_type_embeddings.weight.zero_()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert_folder)
    extractor = ActivationExtractor(model, "bert.embeddings", tokenizer=tokenizer)
    norm = model.bert.embeddings.LayerNorm
    with torch.no_grad():
        of_place = norm(model.bert.embeddings.position_embeddings.weight).numpy()
    for batch_size in (1, 2, 32):
        extractor.set_params(batch_size=batch_size)
        rows, positions = extractor.transform(texts), extractor.positions(texts)
        np.testing.assert_allclose(rows, of_place[positions.position], rtol=1e-4, atol=1e-5)


def test_one_row_for_each_document(bert, texts):
    model, tokenizer = bert
    extractor = ActivationExtractor(
        model,
        "bert.embeddings",
        tokenizer=tokenizer,
        pooling="mean",
        max_length=6,
        long_documents="window",
    )
    positions = extractor.positions(texts)
    assert list(positions) == ["document"]
    np.testing.assert_array_equal(positions.document, np.arange(len(texts)))
    of_images = ActivationExtractor(nn.Conv2d(1, 4, 2), "", tokenizer=None, pooling="max")
    positions = of_images.positions(np.zeros((3, 1, 4, 4)))
    assert list(positions) == ["document"]
    np.testing.assert_array_equal(positions.document, np.arange(3))


def test_ambiguous_axes_are_refused_by_name():
    extractor = ActivationExtractor(nn.Sequential(nn.Identity()), "0", tokenizer=None)
    X = np.zeros((2, 3, 4, 3))
    with pytest.raises(ValueError, match=r"nothing tells which axis .* Set feature_axis: 1 for"):
        extractor.positions(X)
    assert len(extractor.set_params(feature_axis=1).positions(X).y) == 2 * 4 * 3
    with pytest.raises(ValueError, match="feature_axis=4, but"):
        extractor.set_params(feature_axis=4).positions(X)
