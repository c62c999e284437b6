"""Errors name the parameter, what was found, and what to do."""

import json
import traceback
from collections import OrderedDict

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import transformers
from sklearn.neural_network import MLPClassifier
from torch import nn

from skdict.feature_extraction import ActivationExtractor

LAYER = "bert.encoder.layer.1"


@pytest.fixture
def extractor(bert_folder):
    return ActivationExtractor(bert_folder, LAYER)


@pytest.mark.parametrize("method", ["fit", "transform", "fit_transform", "tokens"])
@pytest.mark.parametrize(
    ("X", "error", "match"),
    [
        ([], ValueError, "X is empty: found 0 texts"),
        (np.array([], dtype=str), ValueError, "X is empty"),
        ("import numpy", ValueError, r"single str of length 12. Wrap it in a list"),
        (b"import numpy", ValueError, "single bytes of length 12"),
        (["a", ""], ValueError, r"has 1 text that has no tokens .*: X\[1\] \(''\). Leave it out"),
        (["a", " \n"], ValueError, r"has no tokens besides special ones: X\[1\] \(' \\n'\)"),
        (
            ["", "a", " ", ""],
            ValueError,
            r"3 texts.* X\[0\] \(''\), X\[2\] \(' '\), X\[3\] \(''\)",
        ),
        (["a"] + [""] * 102, ValueError, r"X\[100\] \(''\), and 2 more. Leave them out"),
        (["[CLS][SEP]"], ValueError, r"no tokens besides special ones: X\[0\]"),
        (["a", b"b"], TypeError, r"X\[1\] must be a str, but it is b'b' of type bytes. Decode"),
        (["a", None], TypeError, r"X\[1\] must be a str, but it is None of type NoneType"),
        (["a", float("nan")], TypeError, r"X\[1\] must be a str, but it is nan of type float"),
        (pd.Series(["a", None]), TypeError, r"X\[1\] must be a str"),
        (pd.Series(["a", None], dtype="string"), TypeError, r"X\[1\] must be a str"),
        (pl.Series(["a", None]), TypeError, r"X\[1\] must be a str"),
        ([["a"], ["b"]], TypeError, r"X\[0\] must be a str, but it is \['a'\] of type list"),
        ([1, 2], TypeError, r"X\[0\] must be a str"),
        (np.zeros(3), TypeError, r"X\[0\] must be a str"),
        (np.zeros((3, 2)), ValueError, r"ndarray of shape \(3, 2\).*tokenizer=None"),
        (pd.DataFrame({"text": ["a"]}), ValueError, r"DataFrame of shape \(1, 1\)"),
        (pl.DataFrame({"text": ["a"]}), ValueError, r"DataFrame of shape \(1, 1\)"),
        ({"a"}, TypeError, "but it is a set"),
        ((text for text in ["a"]), TypeError, "but it is a generator"),
        (None, TypeError, "but it is a NoneType"),
        (["a", "\ud800"], ValueError, r"X\[1\] is not valid Unicode"),
    ],
    ids=lambda value: repr(value)[:30] if not isinstance(value, type) else value.__name__,
)
def test_texts(method, X, error, match, extractor):
    with pytest.raises(error, match=match):
        getattr(extractor, method)(X)


def test_special_tokens_alone_are_fine_when_asked_for(extractor):
    assert len(extractor.set_params(include_special_tokens=True).transform([" "])) == 2


@pytest.mark.parametrize("method", ["fit", "transform", "tokens"])
@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"model": 3}, "'model' parameter"),
        ({"model": "/nowhere/at/all"}, "model='/nowhere/at/all' could not be loaded"),
        ({"layer": 3}, "'layer' parameter"),
        ({"side": "left"}, "'side' parameter"),
        (
            {"model": MLPClassifier()},
            "it is a MLPClassifier.* user guide shows it for scikit-learn's",
        ),
        (
            {"tokenizer": "bert"},
            "'tokenizer' parameter must be.* a fast tokenizer.*'bert' of type str",
        ),
        (
            {"tokenizer": str.split},
            "'tokenizer' parameter must be.* a fast tokenizer.* type method_",
        ),
        ({"pooling": "first"}, "'pooling' parameter"),
        ({"max_length": 0}, "'max_length' parameter"),
        ({"max_length": 2}, "max_length=2 leaves no room for text.*2 special tokens"),
        ({"max_length": 65}, "max_length=65 is more than the model's context of 64 tokens"),
        ({"long_documents": "cut"}, "'long_documents' parameter"),
        ({"batch_size": 0}, "'batch_size' parameter"),
        ({"device": "abacus"}, "device='abacus' is not a device name"),
        ({"device": None}, "'device' parameter"),
        ({"dtype": "int8"}, "'dtype' parameter"),
        ({"cache": 3}, "'cache' parameter"),
        ({"trust_remote_code": "maybe"}, "'trust_remote_code' parameter"),
    ],
    ids=str,
)
def test_parameters(method, params, match, extractor):
    extractor.set_params(**params)
    with pytest.raises(ValueError, match=match):
        getattr(extractor, method)(["import numpy"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_where_there_is_none(extractor):
    with pytest.raises(ValueError, match="device='cuda' asks for CUDA, but this machine has 0"):
        extractor.set_params(device="cuda").transform(["a"])


@pytest.mark.parametrize("method", ["fit", "transform"])
@pytest.mark.parametrize(
    ("layer", "match"),
    [
        ("bert.encoder.layer.7", r"names no submodule.*'bert\.encoder\.layer\.1'"),
        ("encoder.layer.1", r"names no submodule.*\['bert\.encoder\.layer\.1'"),
        ("bert.encoder.layer", r"never called.*'bert\.encoder\.layer\.0'"),
        ("hidden_states", r"names no submodule.* only the model's output has needs a wrapper"),
        ("cls.predictions.transform", None),
    ],
)
def test_layers(method, layer, match, extractor):
    extractor.set_params(layer=layer)
    if match is None:
        getattr(extractor, method)(["a"])
    else:
        with pytest.raises(ValueError, match=match):
            getattr(extractor, method)(["a"])


@pytest.mark.parametrize("method", ["fit", "transform"])
def test_layer_that_is_called_twice(method, bert):
    _, tokenizer = bert
    shared = nn.Tanh()
    model = nn.Sequential(
        OrderedDict(embed=nn.Embedding(len(tokenizer), 4), a=shared, b=nn.ReLU(), c=shared)
    )
    extractor = ActivationExtractor(model, "a", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="layer='a' is called 2 times in a forward pass"):
        getattr(extractor, method)(["a"])


@pytest.mark.parametrize(
    ("behind", "match"),
    [
        (nn.Flatten(), r"shape \(1, 8\) for 1 texts of 2 tokens"),
        (nn.Unflatten(2, (2, 2)), r"shape \(1, 2, 2, 2\)"),
    ],
)
def test_layer_without_a_vector_per_token(behind, match, bert):
    _, tokenizer = bert
    model = nn.Sequential(nn.Embedding(len(tokenizer), 4), behind)
    with pytest.raises(ValueError, match=match):
        ActivationExtractor(model, "1", tokenizer=tokenizer).fit(["a"])


def test_tokens_with_pooling(extractor):
    with pytest.raises(ValueError, match="pooling='mean'"):
        extractor.set_params(pooling="mean").tokens(["a"])


@pytest.mark.parametrize("model_class", ["Bert", "Llama", "GPT2", "T5"])
def test_folder_without_tokenizer(model_class, tmp_path):
    """For some of these, transformers makes a tokenizer without any words."""
    small = {
        "Bert": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
        "Llama": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
        "GPT2": {"n_embd": 8, "n_layer": 1, "n_head": 2},
        "T5": {"d_model": 8, "num_layers": 1, "num_heads": 2},
    }[model_class]
    config = getattr(transformers, f"{model_class}Config")(vocab_size=20, **small)
    getattr(transformers, f"{model_class}Model")(config).save_pretrained(tmp_path)
    extractor = ActivationExtractor(tmp_path, "")
    with pytest.raises(ValueError, match=r"No tokenizer was found for model=.*tokenizer=None"):
        extractor.fit(["a"])


def _cut_off(name):
    def change(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return change


def _text(name, text):
    return lambda folder: (folder / name).write_text(text)


def _config(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


class _Code:
    """Would run when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("the pickle was executed",)


def _pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": _Code()}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    "change",
    [
        _cut_off("model.safetensors"),
        _text("model.safetensors", ""),
        _text("model.safetensors", "version https://git-lfs.github.com/spec/v1"),
        _pickle,
        _text("config.json", ""),
        _text("config.json", "[]"),
        _config(hidden_size=8),
        _config(hidden_size="wide"),
        _config(num_attention_heads=0),
        _config(model_type="nothing known"),
        _config(architectures=["pipeline"]),
        _config(architectures=["Trainer"]),
        _config(architectures=["BertTokenizerFast"]),
        _config(architectures=[5]),
        _config(architectures=3),
        _config(auto_map=["x"]),
        _config(auto_map={"AutoModel": 3}),
        _cut_off("tokenizer.json"),
        _text("tokenizer.json", "{}"),
        _text("tokenizer_config.json", "[1]"),
    ],
)
def test_folders_that_cannot_be_loaded(change, save_bert, tmp_path):
    folder = tmp_path / "model"
    save_bert(folder)
    change(folder)
    with pytest.raises(ValueError) as caught:
        ActivationExtractor(folder, LAYER).fit(["import os"])
    assert str(folder) in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert "weights_only" not in shown


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        KeyboardInterrupt(),
    ],
)
def test_out_of_memory_stays_what_it_is(error, save_bert, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    folder = save_bert(tmp_path / "model")
    monkeypatch.setattr(transformers.BertForMaskedLM, "from_pretrained", fail)
    with pytest.raises(type(error)) as caught:
        ActivationExtractor(folder, LAYER).load()
    assert caught.value is error


def test_a_missing_package_stays_one(save_bert, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ImportError("BertModel requires the timm library")

    folder = save_bert(tmp_path / "model")
    monkeypatch.setattr(transformers.BertForMaskedLM, "from_pretrained", fail)
    with pytest.raises(ImportError, match=r"model=.* could not be loaded.* requires the timm"):
        ActivationExtractor(folder, LAYER).load()


def test_ready_model_from_nowhere(bert):
    _, tokenizer = bert
    model = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2
        )
    )
    for nowhere in (model, nn.Sequential(nn.Embedding(9, 2))):
        with pytest.raises(ValueError, match="tokenizer='auto', but the model is a ready"):
            ActivationExtractor(nowhere, "").fit(["a"])


def test_tokenizer_of_another_model(bert, llama_folder):
    model, _ = bert
    other = transformers.AutoTokenizer.from_pretrained(llama_folder)
    with pytest.raises(ValueError, match=r"gives token id \d+, but the model has only 1\d\d"):
        ActivationExtractor(model, LAYER, tokenizer=other).fit(["import numpy as np"])


def test_ready_model_is_used_as_it_is(bert):
    model, tokenizer = bert
    extractor = ActivationExtractor(model, LAYER, tokenizer=tokenizer)
    extractor.set_params(dtype="float32", device="cpu").fit(["a"])
    with pytest.raises(ValueError, match="dtype='bfloat16', but the model is a ready module in"):
        extractor.set_params(dtype="bfloat16").fit(["a"])
    model.to("meta")
    with pytest.raises(ValueError, match=r"device='cpu', but the model is a ready .* on 'meta'"):
        extractor.set_params(dtype="auto").fit(["a"])


def test_install_hint(extractor, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "skdict\[transformers\]"'):
        extractor.set_params(model=tmp_path).fit(["a"])
