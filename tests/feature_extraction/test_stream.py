"""Activations that are computed while a dictionary learns from them."""

import threading
from itertools import chain

import numpy as np
import pytest
import torch

from skdict import ActivationExtractor, SparseAutoencoderDictionary
from skdict.callbacks import Checkpoint
from skdict.datasets import load_one_layer_transformer, load_python_corpus
from skdict.decomposition import alpha_grid, fit_many
from skdict.metrics import explained_variance

pytest.importorskip("transformers")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def extractor():
    bunch = load_one_layer_transformer()
    return ActivationExtractor(
        bunch.model,
        "layers.0.out",
        tokenizer=bunch.tokenizer,
        long_documents="window",
        max_length=32,
        batch_size=16,
    )


@pytest.fixture(scope="module")
def corpus():
    return [text[:400] for text in load_python_corpus().data[:30]]


@pytest.fixture(scope="module")
def x(extractor, corpus):
    return extractor.transform(corpus)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = [each for each in threading.enumerate() if each not in before]
    assert not [each for each in left if each.name.startswith("skdict-")]


def make(**params):
    params = {
        "max_iter": 2,
        "random_state": 0,
        "batch_size": 100,
        "early_stopping": False,
    } | params
    return SparseAutoencoderDictionary(32, **params)


class Numbered(torch.nn.Module):
    """A model whose activation at a token is its id, and noise."""

    def __init__(self, n_tokens):
        super().__init__()
        self.embed = torch.nn.Embedding(n_tokens, 8)
        with torch.no_grad():
            self.embed.weight[:, 0] = torch.arange(n_tokens)

    def forward(self, ids):
        return self.embed(ids)


class Again:
    """An iterable that is no sequence."""

    def __init__(self, texts):
        self.texts = texts

    def __iter__(self):
        return iter(self.texts)


N_ROWS = 3037


@pytest.fixture(params=["kept", "pool", "iterable", "small buffers"])
def stream(request, monkeypatch):
    """Rows with the numbers from 0 on, of all ways to hold windows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Numbered(N_ROWS)
    extractor = ActivationExtractor(
        model, "embed", tokenizer=None, long_documents="window", max_length=20, batch_size=4
    )
    edges = np.random.default_rng(0).choice(np.arange(1, N_ROWS), 60, replace=False)
    texts = np.split(np.arange(N_ROWS), np.sort(edges))
    monkeypatch.setattr("skdict._core.data.streamed.KEPT_ROWS", 700)
    monkeypatch.setattr("skdict._core.language.reading.PORTION_BYTES", 2000)
    if request.param == "pool":
        monkeypatch.setattr("skdict.feature_extraction._stream.KEPT_BYTES", 40_000)
    if request.param == "iterable":
        monkeypatch.setattr("skdict.feature_extraction._stream.LOOKED_AT", 900)
        return extractor.stream(Again(texts), n_samples=N_ROWS, buffer_bytes=30_000)
    sizes = {"small buffers": 1, "pool": 30_000}
    return extractor.stream(texts, buffer_bytes=sizes.get(request.param, 1 << 31))


def batches_of(source, seed, **part):
    """The numbers of the rows of each batch."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    batches = source.batches(100, generator, **part)
    return [batch[:, 0].long().tolist() for batch in batches]


def joined(batches):
    return list(chain.from_iterable(batches))


def numbers_of(stream, seed, **part):
    return batches_of(stream.__skdict_source__(CPU), seed, **part)


def test_an_epoch_has_each_row_once(stream):
    batches = numbers_of(stream, 3)
    assert stream.shape == (N_ROWS, 8)
    assert {len(batch) for batch in batches} <= {97, 98}
    assert sorted(joined(batches)) == list(range(N_ROWS))


def test_the_order_depends_on_the_seed_alone(stream):
    one = numbers_of(stream, 3)
    assert numbers_of(stream, 3) == one
    assert numbers_of(stream, 4) != one
    assert joined(one) != list(range(N_ROWS))


def test_batches_that_are_skipped_change_nothing(stream):
    whole = numbers_of(stream, 3)
    for start in (1, 7, len(whole) - 1, len(whole)):
        assert numbers_of(stream, 3, start=start) == whole[start:]


def test_parts_of_batches_make_up_the_batch(stream):
    parts = [numbers_of(stream, 3, share=(i, 3)) for i in range(3)]
    assert [joined(of_ranks) for of_ranks in zip(*parts, strict=True)] == numbers_of(stream, 3)


def test_without_a_seed_rows_are_in_the_order_of_the_texts(stream):
    assert joined(numbers_of(stream, None)) == list(range(N_ROWS))
    source = stream.__skdict_source__(CPU)
    part = torch.cat([rows for _, rows in source.blocks(part=slice(70, 345))])
    assert part[:, 0].tolist() == list(range(70, 345))


def test_texts_are_held_out_whole(stream):
    training, held_out = stream.__skdict_source__(CPU).split(300, np.random.RandomState(0))
    held_out = held_out[:][:, 0].long().tolist()
    assert 300 <= len(held_out) < 600
    starts = [number for number in held_out if number - 1 not in held_out]
    assert set(starts) <= {0} | {int(text[0]) for text in stream._source._texts}
    rest = joined(batches_of(training, 0))
    assert sorted(rest + held_out) == list(range(N_ROWS))


def test_neighbours_are_apart(stream):
    """A batch comes from all over the pool."""
    if stream.buffer_bytes > 1:
        first = np.array(numbers_of(stream, 0)[0])
        assert len(np.unique(first // 60)) > 25 if stream._is_complete else 12


@pytest.mark.slow
def test_a_fit_is_as_good_as_that_of_the_array(extractor, corpus, x):
    stream = extractor.stream(corpus)
    streamed = make().fit(stream)
    again = make().fit(stream)
    np.testing.assert_array_equal(streamed.components_, again.components_)
    other = make(random_state=1).fit(stream)
    assert not np.array_equal(streamed.components_, other.components_)
    of_array = make().fit(x)
    found = [explained_variance(x, each.reconstruct(x)) for each in (streamed, of_array)]
    assert found[0] == pytest.approx(found[1], abs=0.05)
    assert streamed.n_steps_ == of_array.n_steps_
    assert streamed.score(stream) == pytest.approx(streamed.score(x), rel=1e-4)
    np.testing.assert_allclose(streamed.transform(stream), streamed.transform(x), atol=1e-3)
    assert streamed.n_samples_seen_ == len(x)


def test_many_dictionaries_learn_from_one_pass(extractor, corpus):
    stream = extractor.stream(corpus)
    few, many = fit_many([make(alpha=3.0, max_iter=1), make(alpha=0.3, max_iter=1)], stream)
    assert few.train_l0_ < many.train_l0_


def test_a_checkpoint_knows_the_stream(extractor, corpus, tmp_path):
    def fit(texts):
        sae = make(max_iter=1).set_callbacks(Checkpoint(tmp_path))
        return sae.fit(extractor.stream(texts))

    np.testing.assert_array_equal(fit(corpus).components_, fit(corpus).components_)
    with pytest.raises(ValueError, match="X"):
        fit(corpus[::-1])


def test_early_stopping(extractor, corpus):
    fitted = make(early_stopping=True, max_iter=3).fit(extractor.stream(corpus))
    assert len(fitted.validation_loss_curve_) == 3
    assert np.isfinite(fitted.validation_explained_variance_)
    with pytest.raises(ValueError, match="No text can be held out"):
        make(early_stopping=True).fit(extractor.stream(corpus[:1]))


@pytest.mark.filterwarnings("ignore:The dictionary has learned samples by heart")
@pytest.mark.parametrize("looked_at", [500, 5000])
def test_rows_are_held_out_of_those_of_a_pass(extractor, corpus, x, monkeypatch, looked_at):
    monkeypatch.setattr("skdict.feature_extraction._stream.LOOKED_AT", looked_at)
    for n_samples in (1000, len(x)):  # of all texts there are no others in the place of these
        stream = extractor.stream(corpus, n_samples=n_samples)
        fitted = make(early_stopping=True).fit(stream)
        assert fitted.n_steps_ < 2 * n_samples / 100


def test_a_generator_is_for_one_pass(extractor, corpus, x, monkeypatch):
    monkeypatch.setattr("skdict.feature_extraction._stream.LOOKED_AT", 500)
    stream = extractor.stream(iter(corpus), n_samples=2000)
    assert make(max_iter=1).fit(stream).n_steps_ == 20
    with pytest.raises(ValueError, match="texts have fewer rows, but 2000 are needed"):
        make(max_iter=1).fit(stream)
    with pytest.raises(ValueError, match="set max_iter=1"):
        make().fit(extractor.stream(iter(corpus), n_samples=2000))
    with pytest.raises(ValueError, match="n_samples is needed: a list_iterator can be read once"):
        extractor.stream(iter(corpus))


def test_too_few_rows(extractor, corpus, monkeypatch):
    with pytest.raises(ValueError, match=r"rows, but 100000 are needed. Set n_samples"):
        extractor.stream(corpus, n_samples=100_000)
    monkeypatch.setattr("skdict.feature_extraction._stream.LOOKED_AT", 500)
    with pytest.raises(ValueError, match=r"rows, but 100000 are needed. Set n_samples"):
        make().fit(extractor.stream(corpus, n_samples=100_000))


class Broken(Again):
    """Texts that fail after `n`."""

    n = None

    def __iter__(self):
        for number, text in enumerate(self.texts):
            if number == self.n:
                raise self.error
            yield text


@pytest.mark.parametrize("error", [RuntimeError("broken disk"), KeyboardInterrupt()])
def test_errors_of_the_other_thread_reach_the_caller(extractor, corpus, monkeypatch, error):
    monkeypatch.setattr("skdict.feature_extraction._stream.KEPT_BYTES", 20_000)
    texts = Broken(corpus)
    stream = extractor.stream(texts, buffer_bytes=1 << 19)
    texts.n, texts.error = 25, error
    with pytest.raises(type(error)):
        make().fit(stream)


def test_an_interrupt_leaves_no_thread(extractor, corpus, monkeypatch):
    """Though the error holds on to the frames of the fit."""
    stream = extractor.stream(corpus, buffer_bytes=1 << 19)
    n_steps = []

    def interrupt(*_):
        n_steps.append(1)
        if len(n_steps) == 4:
            raise KeyboardInterrupt
        return 0.0

    monkeypatch.setattr("skdict._core.solvers.autoencoder.AutoencoderSolver.step", interrupt)
    kept = None
    try:
        make().fit(stream)
    except KeyboardInterrupt as error:
        kept = error
    assert kept is not None
    assert not [each for each in threading.enumerate() if each.name.startswith("skdict-")]


def test_activations_that_are_not_finite(extractor, corpus):
    bunch = extractor.load()
    weight = bunch.model.transformer.h[0].mlp.c_proj.bias
    before = weight[0].item()
    with torch.no_grad():
        try:
            weight[0] = float("nan")
            with pytest.raises(ValueError, match=r"activations of texts\[\d+\] are not finite"):
                make().fit(extractor.stream(corpus))
        finally:
            weight[0] = before


def test_who_does_not_take_streams(extractor, corpus, x, monkeypatch):
    stream = extractor.stream(corpus)
    with pytest.raises(TypeError, match="X must be a matrix of real numbers, but is an Activ"):
        alpha_grid(stream)
    with pytest.raises(TypeError, match="Rows of a stream cannot be picked"):
        stream[:3]
    fitted = make().fit(x[:, :50])
    with pytest.raises(ValueError, match="128 features, but"):
        fitted.transform(stream)
    monkeypatch.setattr("skdict._core.data.streamed.KEPT_ROWS", 500)
    for params in (
        {"dict_init": "pca"},
        {"dict_init": "ica"},
        {"solver": "kmeans"},
        {"solver": "dictionary_learning"},
        {"solver": "lasso"},
    ):
        with pytest.raises(ValueError, match=r"reads more of it than is kept\. Write it to disk"):
            make(**params).fit(stream)
    assert "rows of 128" in repr(stream)


@pytest.mark.parametrize(
    ("params", "given", "match"),
    [
        ({"pooling": "max"}, {}, "pooling='max'"),
        ({}, {"n_samples": 0}, "n_samples must be an integer of at least 1"),
        ({}, {"buffer_bytes": 1.5}, "buffer_bytes must be an integer of at least 1"),
        ({}, {"texts": []}, "texts is empty"),
        ({}, {"texts": ["", ""]}, "texts have no tokens"),
        ({}, {"texts": [(np.ones((2, 3)), [1, 2])]}, "texts are activations"),
    ],
)
def test_bad_parameters(extractor, corpus, params, given, match):
    texts = given.pop("texts", corpus)
    extractor = ActivationExtractor(**extractor.get_params(deep=False) | params)
    with pytest.raises(ValueError, match=match):
        extractor.stream(texts, **given)


def test_more_rows_are_looked_at_where_there_are_more_atoms(extractor, corpus, monkeypatch):
    monkeypatch.setattr("skdict._core.data.streamed.KEPT_ROWS", 100)
    source = extractor.stream(corpus).__skdict_source__(CPU)
    assert len(source.spread(1000)) == 100
    assert source.draw(700, torch.Generator()).shape == (700, 128)
    assert len(source.spread(70)) <= 70
