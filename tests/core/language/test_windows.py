"""Which tokens are special, and how many tokens a model takes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from skdict._core.language.network import Network
from skdict._core.language.windows import special_token_ids, tokenize

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

# ids of a tokenizer of single bytes; those of its alphabet are 0 to 255
BOS, HEADER, UNKNOWN, WORD = 256, 257, 258, 259


def byte_tokenizer(**roles):
    """One token per byte, and some added ones, of which "<word>" is not special."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    special = [tokenizers.AddedToken(name, special=True) for name in ("<s>", "<|header|>", "<?>")]
    backend.add_special_tokens(special)
    backend.add_tokens([tokenizers.AddedToken("<word>", special=False)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


class TestSpecialTokens:
    @pytest.mark.parametrize(
        ("roles", "expected"),
        [
            ({"bos_token": "<s>"}, [BOS, HEADER, UNKNOWN]),  # also without a role
            ({"bos_token": "<s>", "unk_token": "<?>"}, [BOS, HEADER]),
            ({"bos_token": "<s>", "unk_token": "<?>", "pad_token": "<?>"}, [BOS, HEADER]),
            ({"bos_token": "<s>", "pad_token": "<s>"}, [BOS, HEADER, UNKNOWN]),
            ({"bos_token": "<s>", "unk_token": "<s>"}, [BOS, HEADER, UNKNOWN]),  # GPT-2's
        ],
    )
    def test_those_that_decoding_skips(self, roles, expected):
        tokenizer = byte_tokenizer(**roles)
        assert special_token_ids(tokenizer).tolist() == expected
        skipped = tokenizer.decode([*expected, WORD], skip_special_tokens=True)
        assert skipped == "<word>"

    def test_text_that_pads(self):
        tokenizer = byte_tokenizer(bos_token="<s>")
        tokenizer.pad_token = "!"
        assert tokenizer.decode(tokenizer("a!").input_ids, skip_special_tokens=True) == "a!"
        assert special_token_ids(tokenizer).tolist() == [BOS, HEADER, UNKNOWN]

    def test_a_role_without_a_token(self):
        """A token that is not in the vocabulary has the id of the unknown token."""
        tokenizer = byte_tokenizer(unk_token="<?>")
        tokenizer.eos_token = "</nowhere>"
        assert tokenizer.convert_tokens_to_ids("</nowhere>") == UNKNOWN
        assert special_token_ids(tokenizer).tolist() == [BOS, HEADER]

    def test_of_a_config(self):
        model = SimpleNamespace(
            config=SimpleNamespace(bos_token_id=1, eos_token_id=[2, 5], pad_token_id=None)
        )
        assert special_token_ids(None, model).tolist() == [1, 2, 5]
        assert special_token_ids(None, SimpleNamespace()).tolist() == []

    def test_rows_of_a_chat(self):
        tokenizer = byte_tokenizer(bos_token="<s>", unk_token="<?>")
        windows = tokenize(["<|header|>ab<?><word>"], tokenizer, Network(nn.Identity()))
        kept = windows.token_ids[0][windows.kept[0]]
        assert kept.tolist() == [*tokenizer("ab").input_ids, UNKNOWN, WORD]


def network_of(**settings):
    module = nn.Identity()
    module.config = SimpleNamespace(**settings)
    return Network(module)


class TestContextLength:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (64, 64),
            (64.0, 64),
            (np.int64(64), 64),
            (-1, None),
            (0, None),
            (None, None),
            (True, None),
            (1e30, None),
            (int(1e30), None),
            (float("inf"), None),
            (float("nan"), None),
            ("64", None),
        ],
    )
    def test_odd_limits(self, value, expected):
        assert network_of(max_position_embeddings=value).context_length == expected
        if isinstance(value, str | None):
            return  # transformers' own call fails with such a limit
        tokenizer = byte_tokenizer(bos_token="<s>")
        tokenizer.model_max_length = value
        (text, n_tokens) = ("a" * 100, 100 if expected is None else expected)
        for network in (Network(nn.Identity()), network_of(max_position_embeddings=-1)):
            windows = tokenize([text], tokenizer, network, long_documents="truncate")
            assert windows.lengths.tolist() == [n_tokens]

    def test_nested(self):
        text = SimpleNamespace(max_position_embeddings=64)
        assert network_of(get_text_config=lambda: text).context_length == 64

        def of_several_texts():
            raise ValueError("Multiple valid text configs were found")

        assert network_of(get_text_config=of_several_texts).context_length is None
        assert Network(nn.Identity()).context_length is None

    @pytest.mark.parametrize("name", ["Bert", "Roberta", "MPNet"])
    def test_positions_behind_that_of_padding(self, name):
        """A text as long as the context goes through the model, and a longer one does not."""
        config = getattr(transformers, f"{name}Config")(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=14,
            pad_token_id=1,
        )
        model = getattr(transformers, f"{name}Model")(config).eval()
        limit = Network(model).context_length
        assert limit == (14 if name == "Bert" else 12)
        with torch.no_grad():
            model(torch.full((1, limit), 5))
            with pytest.raises((IndexError, RuntimeError)):
                model(torch.full((1, limit + 1), 5))


class TestVocabulary:
    def test_models_that_do_not_say_where_their_embedding_is(self):
        class Silent(nn.Module):
            def get_input_embeddings(self):
                raise NotImplementedError

        class Nothing(nn.Module):
            def get_input_embeddings(self):
                return None

        for module in (Silent(), Nothing(), nn.Identity()):
            assert Network(module).n_token_ids is None

    @pytest.mark.parametrize("pad_id", [256, 1000, -1])
    def test_padding_that_the_model_was_not_made_for(self, pad_id):
        """The id is beyond the model's embedding; the model ignores the token there."""
        model = nn.Module()
        model.embed = nn.Embedding(256, 4)
        model.get_input_embeddings = lambda: model.embed
        tokenizer = byte_tokenizer()

        class Padding:
            pad_token_id = pad_id

            def __getattr__(self, name):
                return getattr(tokenizer, name)

            def __call__(self, *args, **options):
                return tokenizer(*args, **options)

        network = Network(model)
        windows = tokenize(["a", "abc"], Padding(), network)
        (ids,), _ = windows.arguments(network, [0, 1])
        assert model.embed(ids).shape == (2, 3, 4)
