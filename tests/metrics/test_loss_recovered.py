"""The dictionary model, against passes through hand-written hooks, one window at a time."""

import copy
import threading
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from skdict._core.language import next_token
from skdict._core.language.network import Network
from skdict._core.language.next_token import sees_later_tokens
from skdict.feature_extraction import ActivationExtractor
from skdict.metrics import _coding, loss_recovered

LAYER = "transformer.h.0.mlp.act"
N_FEATURES = 64
TEXTS = [
    "a b c d",
    "h e l l o w o r l d t h e r e a b",  # 17 tokens: two windows
    "x",  # nothing to predict
    "p q <s> r s ? t",  # a special token inside, an unknown word
    "z y x w v u t",
]
# The windows of TEXTS with at most 12 tokens (0 is "<s>"), and which tokens are content.
LETTERS = {letter: i + 2 for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
WINDOWS = [
    [0, *(LETTERS[letter] for letter in letters)]
    for letters in ("abcd", "helloworldt", "hereab", "zyxwvut")
]
WINDOWS += [[0, LETTERS["p"], LETTERS["q"], 0, LETTERS["r"], LETTERS["s"], 1, LETTERS["t"]]]


@pytest.fixture
def dictionary(language_model):
    model, _ = language_model
    activations = reference_activations(model)
    return PCA(5).fit(activations)


def run(model, window, function=None):
    """Logits of a window, with `function` of the content's activations in their place."""
    ids = torch.tensor([window])
    content = ids[0] != 0
    seen = []

    def hook(module, args, output):
        seen.append(output[0, content])
        if function is not None:
            output = output.clone()
            output[0, content] = torch.as_tensor(function(output[0, content].numpy())).float()
        return output

    handle = model.get_submodule(LAYER).register_forward_hook(hook)
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(input_ids=ids).logits[0].double()
    finally:
        handle.remove()
        model.train(training)
    counted = torch.tensor([i for i in range(len(window) - 1) if content[i] and content[i + 1]])
    log_p = logits.log_softmax(-1)[counted]
    return seen[0], log_p, -log_p[range(len(counted)), ids[0, counted + 1]]


def reference_activations(model):
    return np.concatenate([run(model, window)[0].numpy() for window in WINDOWS])


def reference(model, function):
    mean = reference_activations(model).mean(axis=0)
    variants = {
        "clean": None,
        "dictionary": function,
        "zero": np.zeros_like,
        "mean": lambda X: np.tile(mean, (len(X), 1)),
    }
    ce, log_p = {}, {}
    for name, variant in variants.items():
        results = [run(model, window, variant) for window in WINDOWS]
        log_p[name] = torch.cat([result[1] for result in results])
        ce[name] = torch.cat([result[2] for result in results]).mean().item()
    p = log_p["clean"].exp()
    kl = (p * (log_p["clean"] - log_p["dictionary"])).sum(-1).mean().item()
    return ce, kl, len(p)


def test_against_hand_written_hooks(language_model, dictionary):
    model, tokenizer = language_model
    results = loss_recovered(model, LAYER, dictionary, TEXTS, tokenizer=tokenizer)
    ce, kl, n_predictions = reference(
        model, lambda X: dictionary.inverse_transform(dictionary.transform(X))
    )
    for name, value in ce.items():
        assert_allclose(results[f"cross_entropy_{name}"], value, atol=1e-6)
    assert_allclose(results.kl_divergence, kl, atol=1e-6)
    assert_allclose(results.delta_cross_entropy, ce["dictionary"] - ce["clean"], atol=1e-6)
    for ablation in ("zero", "mean"):
        expected = (ce[ablation] - ce["dictionary"]) / (ce[ablation] - ce["clean"])
        assert_allclose(results[f"loss_recovered_{ablation}"], expected, rtol=1e-4)
    # by hand: 3 + 10 + 5 + 6 predictions, and 1 + 3 around the special token
    assert results.n_predictions == n_predictions == 28
    assert results.n_replaced == 4 + 11 + 6 + 7 + 6
    # the comparison means something only if the variants differ
    assert len({round(value, 1) for value in ce.values()}) == 4


def test_identity_recovers_everything(language_model):
    model, tokenizer = language_model
    results = loss_recovered(model, LAYER, lambda X: X, TEXTS, tokenizer=tokenizer)
    assert results.loss_recovered_zero == results.loss_recovered_mean == 1.0
    assert results.cross_entropy_dictionary == results.cross_entropy_clean
    assert results.delta_cross_entropy == results.kl_divergence == 0.0


def test_ablations_recover_nothing(language_model):
    model, tokenizer = language_model
    zero = loss_recovered(model, LAYER, np.zeros_like, TEXTS, tokenizer=tokenizer)
    assert zero.loss_recovered_zero == 0.0
    assert zero.cross_entropy_dictionary == zero.cross_entropy_zero

    mean = reference_activations(model).mean(axis=0)
    results = loss_recovered(
        model, LAYER, lambda X: np.tile(mean, (len(X), 1)), TEXTS, tokenizer=tokenizer
    )
    assert_allclose(results.loss_recovered_mean, 0.0, atol=1e-5)
    assert results.kl_divergence > 0


@pytest.mark.parametrize("batch_size", [2, 4, 16])
def test_padding_does_not_change_the_results(language_model, dictionary, batch_size):
    model, tokenizer = language_model
    alone, together = (
        loss_recovered(model, LAYER, dictionary, TEXTS, tokenizer=tokenizer, batch_size=size)
        for size in (1, batch_size)
    )
    assert alone.keys() == together.keys()
    for name in alone:
        assert_allclose(together[name], alone[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_order_of_the_texts_does_not_matter(language_model, dictionary):
    model, tokenizer = language_model
    forwards, backwards = (
        loss_recovered(model, LAYER, dictionary, texts, tokenizer=tokenizer)
        for texts in (TEXTS, TEXTS[::-1])
    )
    assert_allclose(backwards.delta_cross_entropy, forwards.delta_cross_entropy, rtol=1e-5)


def test_small_blocks_do_not_change_the_results(language_model, dictionary, monkeypatch):
    model, tokenizer = language_model
    whole = loss_recovered(model, LAYER, dictionary, TEXTS, tokenizer=tokenizer)
    monkeypatch.setattr(next_token, "LOGITS_BLOCK_SIZE", 60)  # two predictions
    monkeypatch.setattr(_coding, "MIN_ROWS", 3)
    monkeypatch.setattr(_coding, "BLOCK_SIZE", 3 * N_FEATURES)
    blocks = loss_recovered(model, LAYER, dictionary, TEXTS, tokenizer=tokenizer)
    for name in whole:
        assert_allclose(blocks[name], whole[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_max_length(language_model, dictionary):
    model, tokenizer = language_model
    cut = loss_recovered(
        model, LAYER, dictionary, ["a b c d e"], tokenizer=tokenizer, max_length=4
    )
    apart = loss_recovered(model, LAYER, dictionary, ["a b c", "d e"], tokenizer=tokenizer)
    assert cut == apart
    assert cut.n_predictions == 3
    # 5 = 4 + 1: the last token alone has no prediction, so it is left out of the mean as well
    cut = loss_recovered(
        model, LAYER, dictionary, ["a b c d e"], tokenizer=tokenizer, max_length=5
    )
    assert cut == loss_recovered(model, LAYER, dictionary, ["a b c d"], tokenizer=tokenizer)


def test_input_side_of_the_next_layer_is_the_same(language_model, dictionary):
    model, tokenizer = language_model
    output = loss_recovered(model, LAYER, dictionary, TEXTS, tokenizer=tokenizer)
    after = LAYER.replace("act", "c_proj")
    assert output == loss_recovered(
        model, after, dictionary, TEXTS, tokenizer=tokenizer, side="input"
    )


def test_a_layer_that_returns_a_tuple(language_model):
    model, tokenizer = language_model
    results = loss_recovered(
        model, "transformer.h.1.attn", lambda X: X, TEXTS, tokenizer=tokenizer
    )
    assert results.loss_recovered_zero == 1.0


def test_pipelines_and_containers(language_model, dictionary):
    model, tokenizer = language_model
    pipeline = make_pipeline(StandardScaler(), PCA(5)).fit(reference_activations(model))
    results = loss_recovered(model, LAYER, pipeline, pd.Series(TEXTS), tokenizer=tokenizer)
    by_hand = loss_recovered(
        model,
        LAYER,
        lambda X: pipeline.inverse_transform(pipeline.transform(X.numpy())),
        np.array(TEXTS),
        tokenizer=tokenizer,
    )
    assert results == by_hand


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_of_the_model(language_model, dtype):
    model, tokenizer = language_model
    seen = set()

    def identity(X):
        seen.add(X.dtype)
        return X

    results = loss_recovered(
        copy.deepcopy(model).to(dtype), LAYER, identity, TEXTS, tokenizer=tokenizer
    )
    assert results.delta_cross_entropy == 0.0
    assert seen == {torch.float64 if dtype == torch.float64 else torch.float32}


def state(model):
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [module.training for module in model.modules()],
        [
            (len(module._forward_hooks), len(module._forward_pre_hooks))
            for module in model.modules()
        ],
    )


def fail(X):
    raise RuntimeError("no reconstruction today")


@pytest.mark.parametrize("function", [np.copy, fail], ids=["success", "exception"])
@pytest.mark.parametrize("side", ["input", "output"])
def test_the_model_is_left_as_it_was(language_model, function, side):
    model, tokenizer = language_model
    model.transformer.h[1].eval()  # modules differ in their mode
    before = state(model)
    ids = torch.tensor([[0, 5, 6, 7]])
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            logits = model(ids).logits
        if function is fail:
            with pytest.raises(RuntimeError, match="no reconstruction today"):
                loss_recovered(model, LAYER, function, TEXTS, tokenizer=tokenizer, side=side)
        else:
            loss_recovered(model, LAYER, function, TEXTS, tokenizer=tokenizer, side=side)
        after = state(model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            assert torch.equal(model(ids).logits, logits)
    finally:
        model.train()
    for name, tensor in before[0].items():
        assert torch.equal(after[0][name], tensor), name
    assert after[1:] == before[1:]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("n_dictionaries", [0, 1, 3])
def test_passes_per_batch(language_model, n_dictionaries):
    """Three, a part of one, and one per dictionary."""
    model, tokenizer = language_model
    dictionaries = dict.fromkeys(range(n_dictionaries), np.copy)
    begun, finished = [], []
    handles = [
        model.transformer.wte.register_forward_hook(lambda *_: begun.append(1)),
        model.lm_head.register_forward_hook(lambda *_: finished.append(1)),
    ]
    try:
        loss_recovered(model, LAYER, dictionaries, TEXTS, tokenizer=tokenizer, batch_size=2)
    finally:
        for handle in handles:
            handle.remove()
    n_batches = 3  # of five windows
    # and a first one, to see that the model is causal
    assert len(finished) == (3 + n_dictionaries) * n_batches + 1
    assert len(begun) == (4 + n_dictionaries) * n_batches + 1


def test_several_dictionaries_are_as_each_alone(language_model, dictionary):
    model, tokenizer = language_model
    dictionaries = {"pca": dictionary, ("identity", 1): np.copy, None: np.zeros_like}
    results = loss_recovered(model, LAYER, dictionaries, TEXTS, tokenizer=tokenizer)
    assert list(results) == list(dictionaries)
    for name, result in results.items():
        alone = loss_recovered(model, LAYER, dictionaries[name], TEXTS, tokenizer=tokenizer)
        assert result == alone
    assert len({result.cross_entropy_dictionary for result in results.values()}) == 3


def test_other_threads_wait_for_the_model(language_model):
    """An extractor never sees the activations that another thread puts in the layer's place."""
    model, tokenizer = language_model
    extractor = ActivationExtractor(model, "transformer.h.1.mlp.act", tokenizer=tokenizer)
    expected = extractor.fit_transform(TEXTS)
    found = []
    thread = threading.Thread(target=lambda: found.append(extractor.transform(TEXTS)))

    def zeros(X):
        if not thread.ident:
            thread.start()
            thread.join(timeout=0.2)
        assert not found
        return np.zeros_like(X)

    loss_recovered(model, LAYER, zeros, TEXTS, tokenizer=tokenizer)
    thread.join(timeout=30)
    assert_allclose(found[0], expected, rtol=1e-6)
    assert all(module.training for module in model.modules())


class Bigram(torch.nn.Module):
    """A language model of nothing but torch; returns bare logits, takes no mask."""

    def __init__(self, n_words):
        super().__init__()
        self.embed = torch.nn.Embedding(n_words, 4)
        self.unused = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, n_words)

    def forward(self, ids):
        return self.head(self.embed(ids))


@pytest.fixture
def bigram(language_model):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Bigram(len(language_model[1]))


def test_any_module_that_returns_logits(bigram, language_model):
    results = loss_recovered(
        bigram, "embed", lambda X: X, TEXTS, tokenizer=language_model[1], max_length=12
    )
    assert results.loss_recovered_zero == 1.0
    head = bigram.head.bias.log_softmax(0)  # all that zero ablation leaves
    predicted = [
        token for window in WINDOWS for last, token in pairwise(window) if last != 0 and token != 0
    ]
    assert_allclose(results.cross_entropy_zero, -head[predicted].mean().item(), rtol=1e-6)


def test_tokens_of_probability_zero(bigram, language_model):
    options = {"tokenizer": language_model[1], "max_length": 12}
    unused = max(set(range(len(language_model[1]))) - {id for ids in WINDOWS for id in ids})
    with torch.no_grad():
        bigram.head.bias[unused] = -100.0
        expected = loss_recovered(bigram, "embed", lambda X: 0.5 * X, TEXTS, **options)
        bigram.head.bias[unused] = -torch.inf
    results = loss_recovered(bigram, "embed", lambda X: 0.5 * X, TEXTS, **options)
    assert expected.kl_divergence > 0.001
    assert_allclose(results.kl_divergence, expected.kl_divergence, rtol=1e-6)


def test_models_that_see_later_tokens_are_refused(language_model):
    _, tokenizer = language_model
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bert = transformers.BertForMaskedLM(config)
    with pytest.raises(ValueError, match=r"must be a causal .* BertForMaskedLM predicts depends"):
        loss_recovered(bert, "bert.embeddings", np.copy, TEXTS, tokenizer=tokenizer)


def test_tokenizers_of_hardly_any_tokens(language_model):
    """And models whose logits are nan: there is nothing to see, and no other error."""
    _, tokenizer = language_model
    network = Network(Bigram(len(tokenizer)))

    class Tiny:
        all_special_ids, unk_token_id = [0], None

        def __init__(self, n):
            self.n = n

        def __len__(self):
            return self.n

        def __getattr__(self, name):
            return getattr(tokenizer, name)

    for n in (1, 2, 3):
        assert not sees_later_tokens(network, Tiny(n))
    with torch.no_grad():
        network.module.head.bias.fill_(torch.nan)
    assert not sees_later_tokens(network, tokenizer)


def test_an_ablation_without_effect_is_undefined(bigram, language_model):
    with torch.no_grad():
        bigram.head.weight.zero_()
    with pytest.warns(UndefinedMetricWarning, match="(zero|mean) ablation changes nothing"):
        results = loss_recovered(bigram, "embed", lambda X: X, TEXTS, tokenizer=language_model[1])
    assert np.isnan(results.loss_recovered_zero)
    assert np.isnan(results.loss_recovered_mean)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "gpt2"}, ValueError, "'model' parameter of loss_recovered"),
        ({"layer": "transformer.h.0.mlp.axt"}, ValueError, "transformer.h.0.mlp.act"),
        ({"side": "outptu"}, ValueError, "'side' parameter of loss_recovered"),
        ({"tokenizer": None}, TypeError, "needs the model's tokenizer: give tokenizer="),
        ({"texts": None}, TypeError, "After a model, loss_recovered.. takes layer, dictionary, t"),
        ({"tokenizer": str.split}, ValueError, "'tokenizer' parameter of loss_recovered"),
        ({"batch_size": 0}, ValueError, "'batch_size' parameter of loss_recovered"),
        ({"max_length": 1}, ValueError, "max_length=1 leaves no room for text"),
        ({"max_length": 2}, ValueError, "no prediction to count.* longest of 2 .*max_length"),
        ({"max_length": 13}, ValueError, "max_length=13 is more than .* context of 12 tokens"),
        ({"texts": "a b c"}, ValueError, r"single str of length 5. Wrap it in a list: \[texts\]"),
        ({"texts": ["a b", b"c"]}, TypeError, r"texts\[1\] must be a str.*type bytes"),
        ({"texts": ["a b", ""]}, ValueError, r"texts has 1 text that is empty: texts\[1\]"),
        ({"texts": []}, ValueError, "texts is empty"),
        ({"texts": ["x", "<s> y <s> z", "<s>"]}, ValueError, "texts has no prediction to count"),
        ({"dictionary": {"a": np.copy, "b": 3}}, TypeError, "dictionary must be .* is a int"),
        ({"dictionary": 3}, TypeError, "dictionary must be a fitted estimator .* is a int"),
        ({"dictionary": LinearRegression()}, TypeError, "dictionary must be .* LinearRegression"),
        ({"dictionary": Normalizer()}, TypeError, "Normalizer has no method inverse_transform"),
        ({"dictionary": lambda X: X[:, 1:]}, ValueError, r"with shape \(\d+, 63\)"),
        ({"layer": "transformer.h.0.mlp.act", "dictionary": lambda X: X[0]}, ValueError, "shape"),
        ({"layer": "transformer.wpe"}, ValueError, r"must have shape \(n_sequences, length"),
    ],
)
def test_bad_input(language_model, change, error, message):
    model, tokenizer = language_model
    arguments = {
        "model": model,
        "layer": LAYER,
        "dictionary": np.copy,
        "texts": TEXTS,
        "tokenizer": tokenizer,
    }
    with pytest.raises(error, match=message):
        loss_recovered(**(arguments | change))


def test_layers_that_are_not_called_once(bigram, language_model):
    options = {"tokenizer": language_model[1], "max_length": 12}
    with pytest.raises(ValueError, match="never called"):
        loss_recovered(bigram, "unused", np.copy, TEXTS, **options)
    bigram.forward = lambda ids: bigram.head(bigram.embed(ids) + bigram.embed(ids))
    with pytest.raises(ValueError, match="called more than once"):
        loss_recovered(bigram, "embed", np.copy, TEXTS, **options)


def test_a_call_of_a_layer_that_is_called_twice(bigram, language_model):
    """The other call keeps its activations, and the mean is of the call's own."""
    options = {"tokenizer": language_model[1], "max_length": 12}
    bigram.forward = lambda ids: bigram.head(bigram.embed(ids) + 2 * bigram.embed(ids // 2))
    first, second, last = (
        loss_recovered(bigram, "embed", np.zeros_like, TEXTS, call=call, **options)
        for call in (0, 1, -1)
    )
    assert second == last
    assert first.cross_entropy_clean == second.cross_entropy_clean
    assert first.cross_entropy_dictionary == first.cross_entropy_zero
    bigram.forward = lambda ids: bigram.head(bigram.embed(ids))
    only = loss_recovered(bigram, "embed", lambda X: 0 * X, TEXTS, **options)
    bigram.forward = lambda ids: bigram.head(bigram.embed(ids) + 0 * bigram.embed(ids // 2))
    same = loss_recovered(bigram, "embed", lambda X: 0 * X, TEXTS, call=0, **options)
    assert_allclose(list(same.values()), list(only.values()), rtol=1e-6, atol=1e-9)
    for call in (2, -3):
        with pytest.raises(ValueError, match=f"call={call}, but layer='embed' is called 2 times"):
            loss_recovered(bigram, "embed", np.copy, TEXTS, call=call, **options)


def test_the_steps_after_an_extractor(language_model, dictionary):
    model, tokenizer = language_model
    extractor = ActivationExtractor(model, LAYER, tokenizer=tokenizer)
    pipeline = make_pipeline(extractor, dictionary)
    expected = loss_recovered(model, LAYER, dictionary, TEXTS, tokenizer=tokenizer)
    found = loss_recovered(model, LAYER, {"a": pipeline}, TEXTS, tokenizer=tokenizer)
    assert found == {"a": expected}
    for change in ({"layer": "transformer.h.1.mlp.act"}, {"side": "input"}, {"call": 0}):
        place = {"layer": LAYER} | change
        (name, value) = next(iter(change.items()))
        with pytest.raises(
            ValueError, match=f"extractor reads at layer='{LAYER}'.*{name}={value!r}"
        ):
            loss_recovered(model, dictionary=pipeline, texts=TEXTS, tokenizer=tokenizer, **place)


def test_where_a_pipeline_or_a_site_says(language_model, dictionary):
    model, tokenizer = language_model
    extractor = ActivationExtractor(model, "layers.0.mlp.act", tokenizer=tokenizer)
    site, pipeline = extractor.site(), make_pipeline(extractor, dictionary)
    after = {"tokenizer": tokenizer, "side": "input"}
    expected = loss_recovered(model, "transformer.h.0.mlp.c_proj", dictionary, TEXTS, **after)
    assert loss_recovered(pipeline, TEXTS) == expected
    assert loss_recovered(pipeline, texts=TEXTS) == expected
    assert loss_recovered(site, dictionary, TEXTS) == expected
    assert loss_recovered(site, {"a": dictionary, "b": pipeline}, TEXTS)["b"] == expected
    with pytest.raises(TypeError, match="The Pipeline has its own tokenizer and side: leave"):
        loss_recovered(pipeline, TEXTS, **after)
    pooled = make_pipeline(ActivationExtractor(model, LAYER, pooling="mean"), dictionary)
    with pytest.raises(ValueError, match="extractor has pooling='mean'"):
        loss_recovered(pooled, TEXTS)


def test_a_model_without_head(language_model):
    model, tokenizer = language_model
    with pytest.raises(TypeError, match=r"returns a .* without logits of shape"):
        loss_recovered(model.transformer, "h.0.mlp.act", np.copy, TEXTS, tokenizer=tokenizer)
