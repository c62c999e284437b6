"""With a cache each text goes through the model once; what it holds can be trusted."""

import copy
import errno
import os
import pickle
import shutil
import threading
import time
import warnings
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
import transformers
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from torch import nn

from skdict._core.language.network import Network
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import replace_activations, steer

LAYER = "bert.encoder.layer.1"
PROBE = {"0", "1"}  # tokens of the passes at the first use of a layer


class LoggingModel(nn.Module):
    """Writes the token ids of every sequence that it is run on to a file, from any process.

    Hooks that count would be part of what the cache knows the model by. With a number in another
    file, it is interrupted when so many are written.
    """

    def __init__(self, n_token_ids, log):
        super().__init__()
        self.log = str(log)
        self.embedding = nn.Embedding(n_token_ids, 8)
        self.mixed = nn.Tanh()

    def forward(self, input_ids, attention_mask):
        with open(self.log, "a") as file:
            for ids, mask in zip(input_ids, attention_mask, strict=True):
                file.write(" ".join(map(str, ids[mask.bool()].tolist())) + "\n")
        limit = Path(f"{self.log}.limit")
        if limit.exists() and len(Path(self.log).read_text().splitlines()) == int(
            limit.read_text()
        ):
            raise KeyboardInterrupt
        return self.mixed(self.embedding(input_ids))


@pytest.fixture
def logging_model(bert, tmp_path):
    """A model, its tokenizer, and a function that counts passes per sequence of token ids."""
    _, tokenizer = bert
    log = tmp_path / "log"

    def passes():
        counts = Counter(log.read_text().splitlines()) if log.exists() else Counter()
        return Counter({ids: n for ids, n in counts.items() if not PROBE.issuperset(ids.split())})

    return LoggingModel(len(tokenizer), log), tokenizer, passes


def once_each(tokenizer, texts):
    return Counter({" ".join(map(str, tokenizer(text)["input_ids"])) for text in texts})


@pytest.fixture
def many_texts(texts):
    return [f"{text}\nversion = {i}" for i in range(3) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize(
    "grid",
    [
        {"dictionary__alpha": [0.01, 0.1, 0.5]},
        {"dictionary__solver": ["autoencoder", "dictionary_learning", "lasso"]},
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_grid_search_runs_each_text_once(grid, n_jobs, logging_model, many_texts, tmp_path):
    model, tokenizer, passes = logging_model
    extractor = ActivationExtractor(
        model, "mixed", tokenizer=tokenizer, cache=tmp_path / "cache", batch_size=4
    )
    dictionary = SparseAutoencoderDictionary(12, max_iter=2, random_state=0)
    pipeline = Pipeline([("extractor", extractor), ("dictionary", dictionary)])
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=n_jobs, error_score="raise")
    search.fit(many_texts)
    assert passes() == once_each(tokenizer, many_texts)
    assert search.best_estimator_["extractor"].model is model
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 3  # the parameter has an effect
    assert search.transform(many_texts).shape[1] == 12

    # other parameters, the same texts
    extractor.set_params(pooling="mean", include_special_tokens=True).fit_transform(many_texts)
    assert passes() == once_each(tokenizer, many_texts)


def test_without_cache_each_fit_runs_the_texts(logging_model, texts):
    """The count above counts."""
    model, tokenizer, passes = logging_model
    extractor = ActivationExtractor(model, "mixed", tokenizer=tokenizer)
    extractor.fit_transform(texts[:3])
    extractor.transform(texts[:3])
    assert set(passes().values()) == {2}


def test_pipeline_memory(logging_model, texts, tmp_path):
    model, tokenizer, passes = logging_model
    pipeline = Pipeline(
        [
            ("extractor", ActivationExtractor(model, "mixed", tokenizer=tokenizer)),
            ("dictionary", PCA()),
        ],
        memory=joblib.Memory(tmp_path / "memory", verbose=0),
    )
    expected = pipeline["extractor"].transform(texts[:5])
    before = passes()
    search = GridSearchCV(pipeline, {"dictionary__n_components": [2, 3]}, cv=2, refit=False)
    search.fit(texts[:5])
    # once for each of the two training sets, and once for each candidate and test set
    assert (passes() - before).total() == 5 + 2 * 5
    pipeline.set_params(dictionary__n_components=2).fit(texts[:5])
    before = passes()
    pipeline.set_params(dictionary__n_components=3).fit(texts[:5])
    assert passes() == before
    np.testing.assert_allclose(
        pipeline.transform(texts[:5]), PCA(3).fit_transform(expected), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("long_documents", ["truncate", "window"])
@pytest.mark.parametrize("pooling", [None, "mean", "max", "last"])
def test_same_rows_with_and_without(long_documents, pooling, bert_folder, texts, tmp_path):
    options = {"max_length": 9, "long_documents": long_documents, "pooling": pooling}
    expected = ActivationExtractor(bert_folder, LAYER, **options).transform(texts)
    cached = ActivationExtractor(bert_folder, LAYER, **options, cache=tmp_path, batch_size=2)
    cached.transform(texts[2:4])
    for _ in range(2):
        np.testing.assert_allclose(cached.transform(texts), expected, rtol=1e-6, atol=1e-6)
    for file in sorted(tmp_path.glob("**/*.npy"))[::2]:  # so some windows of a text are cached
        file.unlink()
    np.testing.assert_allclose(cached.transform(texts), expected, rtol=1e-6, atol=1e-6)


def test_memory_as_cache(logging_model, texts, tmp_path):
    model, tokenizer, passes = logging_model
    memory = joblib.Memory(tmp_path / "memory", verbose=0)
    extractor = ActivationExtractor(model, "mixed", tokenizer=tokenizer, cache=memory)
    extractor.fit_transform(texts)
    extractor.transform(texts)
    assert passes() == once_each(tokenizer, texts)
    memory.clear(warn=False)
    extractor.transform(texts)
    assert set(passes().values()) == {2}

    extractor.set_params(cache=joblib.Memory(None)).transform(texts)
    assert max(passes().values()) == 4  # one text occurs twice
    assert not (tmp_path / "joblib").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"layer": "bert.encoder.layer.0"},
        {"side": "input"},
        {"max_length": 6},
        {"dtype": "bfloat16"},
    ],
)
def test_what_matters_is_in_the_key(change, bert_folder, texts, tmp_path):
    extractor = ActivationExtractor(bert_folder, LAYER, cache=tmp_path)
    extractor.transform(texts)
    extractor.set_params(**change)
    expected = clone(extractor).set_params(cache=None).transform(texts)
    np.testing.assert_allclose(extractor.transform(texts), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("filled", [False, True])
def test_interventions_stay_out_of_the_cache(filled, bert, texts, tmp_path):
    model, tokenizer = bert
    extractor = ActivationExtractor(model, LAYER, tokenizer=tokenizer)
    cached = clone(extractor).set_params(model=model, cache=tmp_path)
    clean = extractor.transform(texts)
    if filled:
        cached.transform(texts)
    width = model.config.hidden_size
    with steer(model, "bert.encoder.layer.0", np.eye(width), 0, strength=5.0):
        steered = cached.transform(texts)
    with replace_activations(model, "bert.encoder.layer.0", lambda X: 0 * X, side="input"):
        replaced = cached.transform(texts)
    for changed in (steered, replaced):
        assert np.abs(changed - clean).max() > 0.01
    np.testing.assert_array_equal(cached.transform(texts), clean)


def test_changed_weights_are_noticed(bert, texts, tmp_path):
    model, tokenizer = bert
    extractor = ActivationExtractor(model, LAYER, tokenizer=tokenizer, cache=tmp_path)
    before = extractor.transform(texts)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.bias[3] += 1
    after = extractor.transform(texts)
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(
        after, ActivationExtractor(model, LAYER, tokenizer=tokenizer).transform(texts), atol=1e-6
    )


def test_fingerprint(bert_folder, tmp_path):
    model = transformers.BertForMaskedLM.from_pretrained(bert_folder)
    fingerprint = Network(model).fingerprint
    model.save_pretrained(tmp_path)
    moved = transformers.BertForMaskedLM.from_pretrained(tmp_path)
    assert Network(moved.train()).fingerprint == fingerprint
    assert Network(pickle.loads(pickle.dumps(model))).fingerprint == fingerprint

    other = copy.deepcopy(model)
    other.config.layer_norm_eps = 0.1
    assert Network(other).fingerprint != fingerprint
    assert Network(copy.deepcopy(model).bfloat16()).fingerprint != fingerprint

    plain = nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(0.1), nn.BatchNorm1d(2))
    fingerprint = Network(plain).fingerprint
    assert Network(copy.deepcopy(plain).eval()).fingerprint == fingerprint
    for change in (
        lambda net: setattr(net[1], "negative_slope", 0.2),
        lambda net: setattr(net, "temperature", 2.0),
        lambda net: net[2].running_mean.add_(1),  # a buffer
        lambda net: net.append(nn.ReLU()),
    ):
        other = copy.deepcopy(plain)
        change(other)
        assert Network(other).fingerprint != fingerprint


def damage_by_cutting(path):
    path.write_bytes(path.read_bytes()[:-7])


def damage_by_emptying(path):
    path.write_bytes(b"")


def damage_by_overwriting(path):
    path.write_bytes(b"no activations" * 100)


def damage_by_pickling(path):
    np.save(path, np.array([{"an": "object"}], dtype=object), allow_pickle=True)


def damage_by_reshaping(path):
    np.save(path, np.zeros(3, dtype=np.float32))


def damage_by_zeros(path):
    path.write_bytes(bytes(len(path.read_bytes())))


def damage_by_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 64
    path.write_bytes(content)


def damage_by_a_huge_header(path):
    path.write_bytes(path.read_bytes().replace(b", 16), }" + b" " * 9, b"0000000, 16), }  "))


def damage_by_another_text(path):
    others = [other for other in path.parent.parent.rglob("*.npy") if other != path]
    path.write_bytes(others[-1].read_bytes())


def damage_by_an_archive(path):
    with open(path, "wb") as file:
        np.savez(file, a=np.zeros(3))


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_cutting,
        damage_by_emptying,
        damage_by_overwriting,
        damage_by_pickling,
        damage_by_reshaping,
        damage_by_zeros,
        damage_by_a_bit,
        damage_by_a_huge_header,
        damage_by_another_text,
        damage_by_an_archive,
    ],
)
def test_damaged_files_are_computed_again(damage, bert_folder, texts, tmp_path):
    extractor = ActivationExtractor(bert_folder, LAYER, cache=tmp_path)
    expected = extractor.transform(texts)
    files = sorted(tmp_path.glob("**/*.npy"))
    assert len(files) == len(set(texts))
    contents = [file.read_bytes() for file in files]
    damage(files[0])
    with pytest.warns(UserWarning, match=r"in the folder given as cache is damaged"):
        np.testing.assert_allclose(extractor.transform(texts), expected, rtol=1e-6, atol=1e-6)
    assert [np.load(file).shape for file in files] == [
        np.load(file).shape for file in sorted(tmp_path.glob("**/*.npy"))
    ]
    assert [file.read_bytes() for file in files[1:]] == contents[1:]
    assert not list(tmp_path.glob("**/*.tmp"))


def test_many_damaged_files_are_one_warning(tmp_path):
    model, X = Net(), np.eye(3)
    expected, _ = transformed(model, X, tmp_path)
    for file in tmp_path.rglob("*.npy"):
        damage_by_cutting(file)
    rows, messages = transformed(model, X, tmp_path)
    np.testing.assert_array_equal(rows, expected)
    (message,) = messages
    assert "is damaged. Its activations, and those of others like it, are computed" in message
    assert transformed(model, X, tmp_path)[1] == []  # mended


@pytest.mark.parametrize("what", ["file", "its folder", "the lock"])
def test_something_else_in_the_place_of_a_file(what, tmp_path):
    model, X = Net(), np.eye(3)
    expected, _ = transformed(model, X, tmp_path)
    file = next(tmp_path.rglob("*.npy"))
    if what == "its folder":
        shutil.rmtree(file.parent)
        file.parent.write_text("no folder")
    else:
        path = file if what == "file" else next(tmp_path.rglob("lock"))
        file.unlink()
        path.unlink(missing_ok=True)
        path.mkdir()
    rows, messages = transformed(model, X, tmp_path)
    np.testing.assert_array_equal(rows, expected)
    words = ["cannot be read", "cannot be written"] if what == "file" else ["cannot be written"]
    assert len(messages) == len(words)
    assert all(word in message for word, message in zip(words, messages, strict=True))


def test_what_cannot_be_opened_is_left_alone(tmp_path, monkeypatch):
    model, X = Net(), np.eye(3)
    expected, _ = transformed(model, X, tmp_path)
    contents = {file: file.read_bytes() for file in tmp_path.rglob("*.npy")}
    assert len(contents) == 3
    real_open = open

    def no_more_files(path, *args, **kwargs):
        if str(path).endswith((".npy", ".tmp")):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", no_more_files)
    rows, messages = transformed(model, X, tmp_path)
    monkeypatch.undo()
    np.testing.assert_array_equal(rows, expected)
    assert ["cannot be read" in messages[0], "cannot be written" in messages[1]] == [True, True]
    assert len(messages) == 2
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.npy")} == contents


def test_what_was_done_before_an_interruption_is_kept(logging_model, texts, tmp_path):
    model, tokenizer, passes = logging_model
    extractor = ActivationExtractor(
        model, "mixed", tokenizer=tokenizer, cache=tmp_path / "cache", batch_size=1
    ).fit(texts)

    limit = Path(f"{model.log}.limit")
    probes = len(Path(model.log).read_text().splitlines())
    limit.write_text(str(probes + 3))
    with pytest.raises(KeyboardInterrupt):
        extractor.transform(texts)
    limit.unlink()
    extractor.transform(texts)
    repeated = [n for n in passes().values() if n > 1]
    assert repeated == [2]  # the one that was interrupted


@pytest.mark.parametrize(
    "function", ["numpy.save", "os.fsync", "os.replace", "pathlib.Path.mkdir", "filelock.FileLock"]
)
def test_what_cannot_be_kept_is_computed_all_the_same(
    function, bert, texts, tmp_path, monkeypatch
):
    model, tokenizer = bert
    model.train()
    extractor = ActivationExtractor(model, LAYER, tokenizer=tokenizer, cache=tmp_path).fit(texts)
    expected = clone(extractor).set_params(cache=None).transform(texts)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    if function == "filelock.FileLock":
        monkeypatch.setattr("skdict.feature_extraction._cache.FileLock", full)
    else:
        monkeypatch.setattr(function, full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(extractor.transform(texts), expected)
    (message,) = [str(warning.message) for warning in caught]
    assert "cannot be written to" in message and "No space left on device" in message
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert not list(tmp_path.glob("**/*.tmp"))
    monkeypatch.undo()
    other = threading.Thread(target=extractor.transform, args=(texts,), daemon=True)
    other.start()
    other.join(timeout=30)
    assert not other.is_alive()


@pytest.mark.parametrize("with_cache", [False, True])
def test_model_is_handed_back_when_memory_is_full(with_cache, bert, texts, tmp_path, monkeypatch):
    model, tokenizer = bert
    model.train()
    extractor = ActivationExtractor(
        model, LAYER, tokenizer=tokenizer, cache=tmp_path if with_cache else None
    )

    def full(results, inputs):
        next(results)
        raise MemoryError

    monkeypatch.setattr("skdict.feature_extraction._activations.stack_rows", full)
    with pytest.raises(MemoryError) as error:
        extractor.transform(texts)
    assert all(module.training for module in model.modules()), error


def test_threads_share_a_model(bert, texts, tmp_path):
    model, tokenizer = bert
    model.train()
    layers = [LAYER, "bert.encoder.layer.0"] * 3
    extractors = [
        ActivationExtractor(model, layer, tokenizer=tokenizer, batch_size=2, cache=cache)
        for layer in layers
        for cache in (None, tmp_path)
    ]
    expected = {e.layer: e.transform(texts) for e in extractors[:4:2]}
    results = [None] * len(extractors)

    def work(i):
        results[i] = extractors[i].transform(texts)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(extractors))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    for extractor, result in zip(extractors, results, strict=True):
        np.testing.assert_allclose(result, expected[extractor.layer], rtol=1e-6, atol=1e-6)
    assert all(module.training for module in model.modules())


def test_who_comes_second_waits(logging_model, texts, tmp_path):
    model, tokenizer, passes = logging_model
    extractor = ActivationExtractor(model, "mixed", tokenizer=tokenizer, cache=tmp_path / "cache")
    extractor.fit(texts)
    model.mixed.register_forward_pre_hook(lambda module, args: time.sleep(0.3))
    threads = [threading.Thread(target=extractor.transform, args=(texts,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert passes() == once_each(tokenizer, texts)


def test_callbacks_may_wait_for_others_that_use_model_and_folder(bert, texts, tmp_path):
    model, tokenizer = bert
    cached = ActivationExtractor(model, LAYER, tokenizer=tokenizer, cache=tmp_path, batch_size=2)
    ended = []

    class Waiting:
        def setup(self, estimator, context):
            pass

        teardown = on_fit_task_begin = setup

        def on_fit_task_end(self, estimator, context):
            new = [f"{texts[0]} = {len(ended)}"]
            other = threading.Thread(target=cached.transform, args=(new,), daemon=True)
            other.start()
            other.join(timeout=30)
            ended.append(not other.is_alive())

    clone(cached).set_callbacks(Waiting()).fit_transform(texts)
    assert len(ended) > 2 and all(ended)


def test_arrays(tmp_path, monkeypatch):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    X = np.random.default_rng(0).normal(size=(6, 3))
    X[4] = X[1]
    extractor = ActivationExtractor(model, "1", tokenizer=None, cache=tmp_path)
    expected = extractor.fit_transform(X)
    assert len(list(tmp_path.glob("**/*.npy"))) == 5
    # so the model cannot be run
    monkeypatch.setattr("skdict._core.language.layers.read_activation", None)
    np.testing.assert_array_equal(extractor.transform(X[::-1]), expected[::-1])


class Net(nn.Module):
    """Depends on a list; `forward` writes to another."""

    def __init__(self, written=None):
        super().__init__()
        self.linear, self.out, self.gain, self.written = nn.Linear(3, 4), nn.ReLU(), [1.0], written

    def forward(self, x):
        if self.written is not None:
            self.written.append(1)
        return self.out(self.linear(x) * self.gain[0])


def transformed(model, X, cache):
    """Return activations, and the messages of all warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = ActivationExtractor(model, "out", tokenizer=None, cache=cache).transform(X)
    return rows, [str(warning.message) for warning in caught]


def test_a_model_that_changes_is_another(tmp_path):
    model, X = Net(), np.eye(3)
    before, _ = transformed(model, X, tmp_path)
    for change in (
        lambda: model.gain.__setitem__(0, 2.0),
        lambda: model.linear.weight.data.mul_(3),  # the weight's version counter stays the same
        lambda: model.linear.register_forward_hook(lambda module, args, output: -output),
    ):
        change()
        rows, messages = transformed(model, X, tmp_path)
        assert messages == []
        np.testing.assert_array_equal(rows, transformed(model, X, None)[0])
        assert np.abs(rows - before).max() > 0.01
        before = rows


def test_a_model_that_cannot_be_described_is_not_cached(tmp_path):
    model, X = Net(), np.eye(3)
    model.linear.generator = {"lock": threading.Lock()}
    for _ in range(2):
        rows, messages = transformed(model, X, tmp_path)
        (message,) = messages
        assert "cache is not used" in message and "linear.generator" in message
        np.testing.assert_array_equal(rows, transformed(model, X, None)[0])
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_changes_as_it_is_run_is_not_kept(tmp_path):
    model, X = Net(written=[]), np.eye(3)
    rows, messages = transformed(model, X, tmp_path)
    (message,) = messages
    assert "The Net changes its own attributes or tensors as it is run" in message
    assert list(tmp_path.rglob("*.npy")) == []
    np.testing.assert_array_equal(rows, transformed(model, X, None)[0])


def test_the_axis_of_the_features_is_in_the_key(tmp_path):
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    X = np.random.default_rng(0).normal(size=(2, 3, 4))
    for axis in (1, 2):
        extractor = ActivationExtractor(model, "1", tokenizer=None, feature_axis=axis)
        expected = extractor.transform(X)
        np.testing.assert_array_equal(extractor.set_params(cache=tmp_path).transform(X), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_packed_weights_are_in_the_key(tmp_path):
    """Dynamic quantisation scales by the range of a batch, so rows depend on each other."""

    def make(seed):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)

    X = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    for seed in (0, 1):
        model = make(seed)
        cached = ActivationExtractor(model, "1", tokenizer=None, cache=tmp_path)
        np.testing.assert_array_equal(cached.transform(X), model(torch.from_numpy(X)).numpy())
        np.testing.assert_array_equal(cached.transform(X), model(torch.from_numpy(X)).numpy())


def test_a_name_that_no_folder_can_have():
    X, model = np.eye(3, 4), nn.Sequential(nn.Linear(4, 2))
    expected = ActivationExtractor(model, "0", tokenizer=None).transform(X)
    extractor = ActivationExtractor(model, "0", tokenizer=None, cache="a\0b")
    with pytest.warns(UserWarning, match="folder given as cache") as caught:
        np.testing.assert_array_equal(extractor.transform(X), expected)
    assert all("null" in str(warning.message) for warning in caught)
