"""ActivationExtractor on texts: the numbers of a hand-written hook, aligned with the tokens."""

import pickle
import socket

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import transformers
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn

from skdict.feature_extraction import ActivationExtractor

# (fixture that gives the folder, class of the checkpoint, layer, side)
LAYERS = [
    ("bert_folder", "BertForMaskedLM", "bert.encoder.layer.0.intermediate", "output"),
    ("bert_folder", "BertForMaskedLM", "bert.encoder.layer.1", "output"),
    ("bert_folder", "BertForMaskedLM", "bert.encoder.layer.1.output.dense", "input"),
    ("bert_folder", "BertForMaskedLM", "bert.encoder.layer.0.attention.self", "output"),  # tuple
    ("llama_folder", "LlamaForCausalLM", "model.layers.0.mlp.down_proj", "input"),
    ("llama_folder", "LlamaForCausalLM", "model.layers.1", "output"),
    ("llama_folder", "LlamaForCausalLM", "model.layers.1.self_attn", "output"),  # tuple
    ("llama_folder", "LlamaForCausalLM", "lm_head", "output"),
    ("one_layer_folder", "GPT2LMHeadModel", "transformer.h.0.mlp.act", "output"),
    ("one_layer_folder", "GPT2LMHeadModel", "transformer.h.0", "output"),
]
BERT_LAYER = "bert.encoder.layer.1"


def hooked_by_hand(folder, model_class, layer, side, texts):
    """Run text by text without padding; return [(tokenization, activation)] of whole texts."""
    model = getattr(transformers, model_class).from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    seen = []

    def after(module, args, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    def before(module, args):
        seen.append(args[0])

    module = model.get_submodule(layer)
    if side == "output":
        module.register_forward_hook(after)
    else:
        module.register_forward_pre_hook(before)
    results = []
    for text in texts:
        tokenized = tokenizer(text, return_special_tokens_mask=True, return_offsets_mapping=True)
        ids = torch.tensor([tokenized["input_ids"]])
        with torch.no_grad():
            model(ids)
        results.append((tokenized, seen.pop()[0].numpy()))
    return results


def without_special(results):
    return [
        activation[np.array(tokenized["special_tokens_mask"]) == 0]
        for tokenized, activation in results
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "model_class", "layer", "side"), LAYERS)
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_equal_to_a_hand_written_hook(
    folder, model_class, layer, side, batch_size, texts, request
):
    folder = request.getfixturevalue(folder)
    results = hooked_by_hand(folder, model_class, layer, side, texts)
    extractor = ActivationExtractor(folder, layer, side=side, batch_size=batch_size)

    activations = extractor.fit_transform(texts)
    assert activations.dtype == np.float32
    np.testing.assert_allclose(
        activations, np.concatenate(without_special(results)), rtol=1e-6, atol=1e-6
    )
    names = extractor.get_feature_names_out()
    assert names.shape == activations.shape[1:]
    assert names[0] == "activationextractor0"

    with_special = extractor.set_params(include_special_tokens=True).fit_transform(texts)
    np.testing.assert_allclose(
        with_special, np.concatenate([a for _, a in results]), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("pooling", "reduce"),
    [
        ("mean", lambda rows: rows.mean(0)),
        ("max", lambda rows: rows.max(0)),
        ("last", lambda rows: rows[-1]),
    ],
)
@pytest.mark.parametrize("long_documents", ["truncate", "window"])
def test_pooling(pooling, reduce, long_documents, bert_folder, texts):
    extractor = ActivationExtractor(
        bert_folder, BERT_LAYER, max_length=9, long_documents=long_documents, batch_size=4
    )
    rows = extractor.fit_transform(texts)
    document = extractor.tokens(texts).document
    expected = [reduce(rows[document == i]) for i in range(len(texts))]
    pooled = extractor.set_params(pooling=pooling).fit_transform(texts)
    np.testing.assert_allclose(pooled, expected, rtol=1e-6, atol=1e-6)
    assert pooled.dtype == np.float32


@pytest.mark.parametrize(("folder", "layer"), [case[::2] for case in LAYERS[1::4]])
@pytest.mark.parametrize("include_special_tokens", [False, True])
def test_tokens_are_aligned_with_rows(folder, layer, include_special_tokens, texts, request):
    folder = request.getfixturevalue(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    extractor = ActivationExtractor(folder, layer, include_special_tokens=include_special_tokens)
    tokens = extractor.tokens(texts)
    assert {len(values) for values in tokens.values()} == {len(extractor.transform(texts))}

    expected = []
    for document, text in enumerate(texts):
        encoded = tokenizer(text, return_special_tokens_mask=True, return_offsets_mapping=True)
        for position, token_id in enumerate(encoded["input_ids"]):
            start, end = encoded["offset_mapping"][position]
            token = text[start:end]
            if encoded["special_tokens_mask"][position]:
                if not include_special_tokens:
                    continue
                token = tokenizer.convert_ids_to_tokens(token_id)
            expected.append((document, position, token_id, token, start, end))
    assert list(tokens) == ["document", "position", "token_id", "token", "start", "end"]
    assert list(zip(*tokens.values(), strict=True)) == expected
    assert "😀" in tokens.token  # one unknown word of the one, four bytes of the other


def test_unknown_text_is_no_special_token(bert_folder):
    extractor = ActivationExtractor(bert_folder, BERT_LAYER)
    tokens = extractor.tokens(["import 😀 [SEP] numpy"])
    assert tokens.token.tolist() == ["import", "😀", "numpy"]  # [SEP] spelled out is special
    assert tokens.start.tolist() == [0, 7, 15]
    assert tokens.position.tolist() == [1, 2, 4]


@pytest.mark.parametrize("max_length", [5, 9, 64])
def test_windows(max_length, bert_folder, texts):
    by_text = hooked_by_hand(bert_folder, "BertForMaskedLM", BERT_LAYER, "output", texts)
    room = max_length - 2  # [CLS] and [SEP] go around each window
    pieces, document, position = [], [], []
    for index, (tokenized, _) in enumerate(by_text):
        spans = tokenized["offset_mapping"][1:-1]
        for first in range(0, len(spans), room):
            window = spans[first : first + room]
            pieces.append((index, window))
            document += [index] * len(window)
            position += range(1, len(window) + 1)
    extractor = ActivationExtractor(
        bert_folder, BERT_LAYER, max_length=max_length, long_documents="window", batch_size=4
    )
    tokens = extractor.tokens(texts)
    np.testing.assert_array_equal(tokens.document, document)
    np.testing.assert_array_equal(tokens.position, position)
    spans = [span for _, window in pieces for span in window]
    np.testing.assert_array_equal(np.c_[tokens.start, tokens.end], spans)

    # a window's rows are those of its token ids alone between [CLS] and [SEP]
    model = transformers.BertForMaskedLM.from_pretrained(bert_folder).bert.eval()
    expected, first = [], 0
    for _, window in pieces:
        ids = [2, *tokens.token_id[first : first + len(window)], 3]
        with torch.no_grad():
            expected.append(model(torch.tensor([ids])).last_hidden_state[0, 1:-1].numpy())
        first += len(window)
    rows = extractor.fit_transform(texts)
    np.testing.assert_allclose(rows, np.concatenate(expected), rtol=1e-6, atol=1e-6)

    first_windows = extractor.set_params(long_documents="truncate").tokens(texts)
    for index in range(len(texts)):
        of_text = next(window for i, window in pieces if i == index)
        found = np.c_[first_windows.start, first_windows.end][first_windows.document == index]
        np.testing.assert_array_equal(found, of_text)


def test_default_max_length_is_the_context(bert, bert_folder):
    long_text = "numpy " * 200
    assert len(ActivationExtractor(bert_folder, BERT_LAYER).transform([long_text])) == 62
    model, _ = bert
    shorter = transformers.AutoTokenizer.from_pretrained(bert_folder, model_max_length=20)
    extractor = ActivationExtractor(model, BERT_LAYER, tokenizer=shorter)
    assert len(extractor.transform([long_text])) == 18


@pytest.mark.parametrize(
    "container", [tuple, np.array, lambda x: np.array(x, dtype=object), pd.Series, pl.Series]
)
def test_containers_of_texts(container, bert_folder, texts):
    extractor = ActivationExtractor(bert_folder, BERT_LAYER)
    np.testing.assert_array_equal(
        extractor.fit_transform(container(texts)), extractor.fit_transform(texts)
    )


def test_series_with_another_index(bert_folder, texts):
    extractor = ActivationExtractor(bert_folder, BERT_LAYER)
    X = pd.Series(texts, index=range(100, 100 + len(texts)))
    assert extractor.tokens(X).document.max() == len(texts) - 1


def test_stateless_and_any_split_of_the_texts(bert_folder, texts):
    extractor = ActivationExtractor(bert_folder, BERT_LAYER)
    before = dict(vars(extractor))
    whole = extractor.transform(texts)
    assert vars(extractor) == before
    parts = [extractor.transform([text]) for text in texts]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-6, atol=1e-6)
    names = extractor.get_feature_names_out()
    assert vars(extractor) == before
    np.testing.assert_array_equal(extractor.fit(texts).transform(texts), whole)
    np.testing.assert_array_equal(extractor.get_feature_names_out(), names)


def test_later_layers_are_not_run(bert, texts):
    model, tokenizer = bert
    extractor = ActivationExtractor(
        model, "bert.encoder.layer.0", tokenizer=tokenizer, batch_size=2
    ).fit(texts)
    calls = {"bert.embeddings": 0, "bert.encoder.layer.0": 0, "bert.encoder.layer.1": 0, "cls": 0}
    handles = []
    for name in calls:

        def count(module, args, output, name=name):
            calls[name] += 1

        handles.append(model.get_submodule(name).register_forward_hook(count))
    extractor.transform(texts)
    for handle in handles:
        handle.remove()
    n_batches = -(-len(texts) // 2)
    assert calls == {
        "bert.embeddings": n_batches,
        "bert.encoder.layer.0": n_batches,
        "bert.encoder.layer.1": 0,
        "cls": 0,
    }


def test_model_is_left_as_it_was(bert, bert_folder, texts):
    model, tokenizer = bert
    expected = ActivationExtractor(bert_folder, BERT_LAYER).transform(texts)
    model.train()
    model.bert.embeddings.eval()
    modes = [module.training for module in model.modules()]
    extractor = ActivationExtractor(model, BERT_LAYER, tokenizer=tokenizer)
    backend = tokenizer.backend_tokenizer.to_str()
    np.testing.assert_allclose(extractor.fit_transform(texts), expected)  # so without dropout
    extractor.set_params(max_length=5).transform(texts)
    assert tokenizer.backend_tokenizer.to_str() == backend
    assert [module.training for module in model.modules()] == modes

    model.bert.encoder.layer[1].output = nn.Bilinear(2, 2, 2)  # now a forward pass fails
    with pytest.raises(RuntimeError):
        extractor.transform(texts)
    assert [module.training for module in model.modules()] == modes[: len(modes) - 3]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_clone_and_pickle(bert, bert_folder, texts):
    model, tokenizer = bert
    extractor = ActivationExtractor(model, BERT_LAYER, tokenizer=tokenizer)
    extractor.set_output(transform="pandas")
    cloned = clone(extractor)
    assert cloned.model is model
    assert cloned.tokenizer is tokenizer
    assert extractor.model is model
    assert isinstance(cloned.fit_transform(texts), pd.DataFrame)

    by_name = ActivationExtractor(bert_folder, BERT_LAYER).fit(texts)
    assert len(pickle.dumps(by_name)) < 2000
    expected = by_name.transform(texts)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(by_name)).transform(texts), expected)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(extractor)).transform(texts).to_numpy(), expected
    )


def test_model_is_loaded_once_and_anew_when_its_files_change(
    save_bert, texts, tmp_path, monkeypatch
):
    folder = save_bert(tmp_path)
    loads = []
    load = transformers.BertForMaskedLM.from_pretrained.__func__
    monkeypatch.setattr(
        transformers.BertForMaskedLM,
        "from_pretrained",
        classmethod(lambda cls, *a, **k: loads.append(a) or load(cls, *a, **k)),
    )
    extractor = ActivationExtractor(folder, BERT_LAYER)
    before = extractor.fit_transform(texts)
    clone(extractor).fit(texts).transform(texts)
    assert len(loads) == 1
    model = transformers.BertForMaskedLM.from_pretrained(folder)
    nn.init.zeros_(model.bert.encoder.layer[1].output.LayerNorm.weight)
    model.save_pretrained(folder)
    assert not np.allclose(extractor.transform(texts), before)
    assert len(loads) == 3


def test_local_folder_never_touches_the_network(save_llama, texts, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    folder = save_llama(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    ActivationExtractor(folder, "lm_head").fit_transform(texts)


def test_checkpoint_without_class_is_loaded_by_auto_model(bert, texts, tmp_path):
    model, tokenizer = bert
    model.bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    config.architectures = None
    config.save_pretrained(tmp_path)
    ActivationExtractor(tmp_path, "encoder.layer.1").fit_transform(texts)


def test_tokenizer_of_a_ready_model_is_found_where_it_came_from(bert, texts):
    model, tokenizer = bert
    np.testing.assert_array_equal(
        ActivationExtractor(model, BERT_LAYER).transform(texts),
        ActivationExtractor(model, BERT_LAYER, tokenizer=tokenizer).transform(texts),
    )


def test_model_without_attention_mask(bert, texts):
    """The model takes no attention mask, so there must be no padding."""
    _, tokenizer = bert

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(len(tokenizer), 4)
            self.mixed = nn.Identity()

        def forward(self, token_ids):
            embedded = self.embedding(token_ids)
            return self.mixed(embedded + embedded.sum(dim=1, keepdim=True))

    extractor = ActivationExtractor(Bag(), "mixed", tokenizer=tokenizer)
    np.testing.assert_allclose(
        extractor.fit_transform(texts),
        np.concatenate([extractor.transform([text]) for text in texts]),
        rtol=1e-6,
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision(dtype, bert_folder, texts):
    exact = ActivationExtractor(bert_folder, BERT_LAYER).transform(texts)
    extractor = ActivationExtractor(bert_folder, BERT_LAYER, dtype=dtype)
    activations = extractor.transform(texts)
    assert activations.dtype == np.float32
    assert extractor.load().model.dtype == getattr(torch, dtype)
    np.testing.assert_allclose(activations, exact, atol=0.2)
    assert np.abs(activations - exact).max() > 1e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda(bert_folder, texts):
    exact = ActivationExtractor(bert_folder, BERT_LAYER, device="cpu").transform(texts)
    extractor = ActivationExtractor(bert_folder, BERT_LAYER)
    network = extractor.load().model
    assert network.device.type == "cuda"
    assert network.dtype in (torch.bfloat16, torch.float16)
    np.testing.assert_allclose(extractor.transform(texts), exact, atol=0.2)
    extractor.set_params(dtype="float32")
    np.testing.assert_allclose(extractor.transform(texts), exact, atol=1e-2)


def test_encoder_of_an_encoder_decoder(bert, texts):
    """The first pass fails in the decoder, after the layer, and does no harm."""
    _, tokenizer = bert
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2
    )
    model = transformers.T5ForConditionalGeneration(config)
    extractor = ActivationExtractor(model, "encoder.block.0", tokenizer=tokenizer)
    assert extractor.fit_transform(texts).shape[1] == 8


@pytest.mark.parametrize("pooling", [None, "mean"])
def test_set_output(pooling, bert_folder, texts):
    extractor = ActivationExtractor(bert_folder, BERT_LAYER, pooling=pooling)
    expected = extractor.fit_transform(texts)
    names = list(extractor.get_feature_names_out())
    for kind, frame in (("pandas", pd.DataFrame), ("polars", pl.DataFrame)):
        output = extractor.set_output(transform=kind).fit_transform(texts)
        assert isinstance(output, frame)
        assert list(output.columns) == names
        np.testing.assert_array_equal(output.to_numpy(), expected)


def test_supervised_pipeline(bert_folder, texts):
    labels = ["import" in text for text in texts]
    pipeline = make_pipeline(
        ActivationExtractor(bert_folder, BERT_LAYER, pooling="mean"), LogisticRegression(C=1e3)
    )
    assert pipeline.fit(texts, labels).score(texts, labels) == 1.0


class Recorder:
    """A callback that notes the tasks."""

    def __init__(self):
        self.tasks = []
        self.open = 0

    def setup(self, estimator, context):
        self.open += 1

    def teardown(self, estimator, context):
        self.open -= 1

    def on_fit_task_begin(self, estimator, context):
        self.tasks.append(("begin", context.task_name, context.max_subtasks))

    def on_fit_task_end(self, estimator, context):
        self.tasks.append(("end", context.task_name, context.max_subtasks))
        return True  # asks to stop, which must not lose rows


def test_callbacks(bert_folder, texts):
    recorder = Recorder()
    extractor = ActivationExtractor(bert_folder, BERT_LAYER, batch_size=3)
    extractor.set_callbacks(recorder)
    rows = extractor.fit_transform(texts)
    assert recorder.open == 0
    batch = [("begin", "batch", 0), ("end", "batch", 0)]
    assert recorder.tasks == [("begin", "fit", 3), *(3 * batch), ("end", "fit", 3)]

    recorder.tasks = []
    np.testing.assert_array_equal(extractor.transform(texts), rows)
    want = [("begin", "transform", 3), *(3 * batch), ("end", "transform", 3)]
    assert recorder.tasks == want and recorder.open == 0
    recorder.tasks = []
    extractor.fit(texts)
    assert recorder.tasks == [("begin", "fit", 0), ("end", "fit", 0)]

    with pytest.raises(ValueError):
        extractor.set_params(layer="nowhere").fit_transform(texts)
    assert recorder.open == 0
    recorder.on_fit_task_end = None  # fails at the first batch
    with pytest.raises(TypeError):
        extractor.set_params(layer=BERT_LAYER).transform(texts)
    assert recorder.open == 0 and "_callback_fit_ctx" not in vars(extractor)


def test_progress_bar_of_a_pipeline(bert_folder, texts, capsys):
    pytest.importorskip("rich")
    from sklearn.callback import ProgressBar

    pipeline = make_pipeline(
        ActivationExtractor(bert_folder, BERT_LAYER, batch_size=2, pooling="mean"),
        LogisticRegression(),
    )
    pipeline.set_callbacks(ProgressBar())
    pipeline.fit(texts, np.arange(len(texts)) % 2)
    assert "ActivationExtractor" in capsys.readouterr().out


def test_load(bert_folder, bert, texts):
    extractor = ActivationExtractor(bert_folder, BERT_LAYER).fit(texts)
    language = extractor.load()
    assert clone(extractor).load().model is language.model
    size = len(pickle.dumps(extractor))
    assert size < 2000
    with torch.no_grad():
        hidden = []
        handle = language.model.get_submodule(BERT_LAYER).register_forward_hook(
            lambda module, args, output: hidden.append(output[0])
        )
        language.model(**language.tokenizer(texts[1], return_tensors="pt"))
        handle.remove()
    np.testing.assert_allclose(
        extractor.transform([texts[1]]), hidden[0][1:-1], rtol=1e-5, atol=1e-6
    )

    model, tokenizer = bert
    ready = ActivationExtractor(model, BERT_LAYER, tokenizer=tokenizer).load()
    assert ready.model is model
    assert ready.tokenizer is tokenizer
    assert ActivationExtractor(model, BERT_LAYER, tokenizer=None).load().tokenizer is None
    with pytest.raises(ValueError, match="could not be loaded"):
        ActivationExtractor("./no/such/folder", BERT_LAYER, tokenizer=None).load()


@pytest.mark.parametrize("shown", [True, False])
def test_loading_shows_no_progress_bar(shown, save_bert, texts, tmp_path, capfd):
    from transformers.utils import logging

    folder = save_bert(tmp_path / "bert")
    was_shown = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    capfd.readouterr()
    try:
        ActivationExtractor(folder, BERT_LAYER).fit(texts)
        assert capfd.readouterr() == ("", "")
        assert logging.is_progress_bar_enabled() == shown
    finally:
        (logging.enable_progress_bar if was_shown else logging.disable_progress_bar)()


def test_reprs_are_short(bert):
    model, tokenizer = bert
    extractor = ActivationExtractor(model, BERT_LAYER, tokenizer=tokenizer)
    assert "ActivationExtractor(" in repr(extractor)
    assert len(repr(extractor)) < 2000
    html = extractor._repr_html_()
    assert "BertForMaskedLM" in html
    assert len(html) < 60_000


def test_sklearn_checks_that_apply_to_texts(sklearn_check, bert_folder):
    """For an estimator of texts sklearn runs only the first check: the others make their own X.

    These need no X; the rest runs on arrays, in test_activations_arrays.py.
    """
    sklearn_check("ActivationExtractor", ActivationExtractor(bert_folder, BERT_LAYER))


class Scaled(nn.Module):
    """Has its own parameter, which accelerate loads while its children are called."""

    def __init__(self):
        super().__init__()
        self.scale, self.inner, self.behind = nn.Parameter(torch.ones(3)), nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.behind(self.inner(x * self.scale))


@pytest.mark.parametrize("kind", ["language", "arrays"])
def test_weights_that_are_kept_elsewhere(kind, one_layer_folder):
    """accelerate loads weights for a call; a pass that is stopped offloads them again."""
    accelerate = pytest.importorskip("accelerate")
    if kind == "language":
        model = transformers.GPT2LMHeadModel.from_pretrained(one_layer_folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(one_layer_folder)
        extractor = ActivationExtractor(model, "transformer.h.0.mlp.act", tokenizer=tokenizer)
        X = ["import numpy as np", "for i in range(10):"]
    else:
        model, X = Scaled(), np.eye(3, dtype=np.float32)
        extractor = ActivationExtractor(model, "inner", tokenizer=None)
    expected = extractor.fit_transform(X)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    np.testing.assert_allclose(extractor.fit(X).transform(X), expected, atol=1e-6)
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
