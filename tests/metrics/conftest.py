"""A tiny language model with its tokenizer."""

import pytest


@pytest.fixture(scope="session")
def language_model():
    """A two-layer GPT-2 that knows a few words, and a tokenizer of letters: (model, tokenizer).

    The tokenizer opens each text with "<s>", which is also what it pads with.
    """
    transformers = pytest.importorskip("transformers")
    import tokenizers
    import torch

    words = ["<s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", unk_token="<unk>", pad_token="<s>"
    )
    config = transformers.GPT2Config(
        vocab_size=len(words),
        n_positions=12,
        n_embd=16,
        n_layer=2,
        n_head=2,
        activation_function="relu",
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    ids = tokenizer(["h e l l o w o r l d", "z y x w v u t s r q"], return_tensors="pt").input_ids
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(30):
            model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model, tokenizer
