"""What is written for another library: that library, and our reader, give our codes."""

import sys
import types
import warnings

import numpy as np
import pytest
import torch

from skdict._core.coding import Encoder
from skdict._core.dictionary import Dictionary
from skdict._core.formats import FORMATS, Record
from skdict._core.models.architectures import (
    BatchTopK,
    Gated,
    GroupMax,
    JumpReLU,
    Matryoshka,
    ReLU,
    TopK,
)
from skdict._core.normalization import RowNormalization
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.io import load_dictionary, save_dictionary

N, D, K = 24, 8, 5
ARCHITECTURES = {
    "relu": ReLU(),
    "topk": TopK(K),
    "batch_topk": BatchTopK(K),
    "matryoshka": Matryoshka(K, prefixes=(0.25, 0.5, 1.0)),
    "jumprelu": JumpReLU(),
    "gated": Gated(),
}
CLASSES = {
    "relu": "AutoEncoder",
    "topk": "AutoEncoderTopK",
    "batch_topk": "BatchTopKSAE",
    "matryoshka": "MatryoshkaBatchTopKSAE",
    "jumprelu": "JumpReluAutoEncoder",
    "gated": "JumpReluAutoEncoder",
}


def record_of(name, *, foreign=False, **others):
    """A dictionary of an architecture; a foreign one has norms, an offset and a divisor too."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    components = torch.nn.functional.normalize(normal(N, D), dim=1)
    threshold = {
        "batch_topk": torch.full((N,), 0.7),
        "matryoshka": torch.full((N,), 0.7),
        "jumprelu": torch.rand(N, generator=generator),
        "gated": torch.rand(N, generator=generator),
    }.get(name)
    k = K if name in ("topk", "groups") else None
    selection = "groups" if name == "groups" else "positive"
    encoder = Encoder(normal(N, D), normal(N), threshold, k, selection)
    if foreign:
        others |= {"norms": normal(N).exp(), "offset": normal(D)}
        if k is None:
            encoder.divisor = normal(N).exp()
    dictionary = Dictionary(components, normal(D), encoder, **others)
    activation = {"model": "gpt2", "layer": "h.3", "layer_number": 3, "side": "output"}
    architecture = ARCHITECTURES.get(name, GroupMax(K))
    return Record(dictionary, architecture, activation=activation)


def rows():
    return torch.randn(40, D, generator=torch.Generator().manual_seed(1))


def expected(record):
    x = rows()
    codes = record.dictionary.coder("encoder")(x)
    return codes.dense().numpy(), record.dictionary.reconstruct(x, codes).numpy()


def check(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        one = np.asarray(one)
        assert np.abs(one - other).max() <= 1e-6 * max(1, np.abs(other).max())
    assert np.array_equal(np.asarray(found[0]) != 0, wanted[0] != 0)


def check_own(folder, record):
    loaded = load_dictionary(folder)
    x = rows().numpy()
    check((loaded.transform(x), loaded.reconstruct(x)), expected(record))
    return loaded


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_dictionary_learning_that_we_read(tmp_path, name, foreign):
    record = record_of(name, foreign=foreign)
    FORMATS["dictionary_learning"].write(record, tmp_path)
    loaded = check_own(tmp_path, record)
    assert loaded.activation_["model"] == "gpt2"
    assert loaded.activation_["layer_number"] == 3
    assert loaded.activation_["side"] == "output"
    if name == "matryoshka" and not foreign:
        assert loaded.group_sizes_ == [6, 6, 12]


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_dictionary_learning_that_the_library_reads(tmp_path, monkeypatch, name, foreign):
    # its package imports what traces models, which reading does not need
    pytest.importorskip("einops")
    if "nnsight" not in sys.modules:
        stand_in = types.ModuleType("nnsight")
        stand_in.LanguageModel = object
        monkeypatch.setitem(sys.modules, "nnsight", stand_in)
    library = pytest.importorskip("dictionary_learning.utils")
    record = record_of(name, foreign=foreign)
    FORMATS["dictionary_learning"].write(record, tmp_path)
    model, config = library.load_dictionary(str(tmp_path), "cpu")
    if not foreign:
        assert type(model).__name__ == config["trainer"]["dict_class"] == CLASSES[name]
    with torch.no_grad():
        codes = model.encode(rows())
        check((codes, model.decode(codes)), expected(record))


SPARSIFY = {
    "topk": {},
    "topk, norms and offset": {"foreign": True},
    "groups": {},
    "transcoder": {"is_transcoder": True, "offset": torch.zeros(D), "skip": torch.ones(D, D)},
}


@pytest.mark.parametrize("case", SPARSIFY)
def test_sparsify_that_we_read(tmp_path, case):
    name = "groups" if case == "groups" else "topk"
    record = record_of("topk" if name == "topk" else name, **SPARSIFY[case])
    if case == "groups":  # of equal size
        record.dictionary.encoder.n_largest = 6
    FORMATS["sparsify"].write(record, tmp_path)
    loaded = check_own(tmp_path, record)
    assert loaded.activation_["layer"] == "h.3"


@pytest.mark.parametrize("case", SPARSIFY)
def test_sparsify_that_the_library_reads(tmp_path, monkeypatch, case):
    sparsify = pytest.importorskip("sparsify")
    name = "groups" if case == "groups" else "topk"
    record = record_of("topk" if name == "topk" else name, **SPARSIFY[case])
    if case == "groups":
        record.dictionary.encoder.n_largest = 6
    FORMATS["sparsify"].write(record, tmp_path)
    model = sparsify.SparseCoder.load_from_disk(tmp_path)
    from sparsify import sparse_coder, utils

    monkeypatch.setattr(sparse_coder, "decoder_impl", utils.eager_decode)  # not of a GPU
    with torch.no_grad():
        found = model.encode(rows())
        codes = torch.zeros(40, N).scatter_(1, found.top_indices, found.top_acts)
        reconstruction = model(rows()).sae_out
    check((codes, reconstruction), expected(record))


@pytest.mark.parametrize("name", ["dictionary_learning", "sparsify"])
@pytest.mark.parametrize(
    "others, message",
    [
        ({"normalization": RowNormalization("layer_norm", 1e-5, 1)}, "normalises each row"),
        ({"encoder": None}, "no encoder"),
    ],
)
def test_what_another_library_cannot_hold_is_refused(tmp_path, name, others, message):
    record = record_of("topk")
    for field, value in others.items():
        setattr(record.dictionary, field, value)
    with pytest.raises(ValueError, match=f"{name} cannot hold .*{message}"):
        FORMATS[name].write(record, tmp_path)


def test_kinds_that_are_not_the_library_s_are_refused(tmp_path):
    transcoder = record_of("relu", is_transcoder=True)
    with pytest.raises(ValueError, match=r"dictionary_learning cannot hold .*transcoder"):
        FORMATS["dictionary_learning"].write(transcoder, tmp_path)
    signed = record_of("topk")
    signed.dictionary.encoder.selection = "absolute"
    for name in ("dictionary_learning", "sparsify"):
        with pytest.raises(ValueError, match="by the rule 'absolute'"):
            FORMATS[name].write(signed, tmp_path)
    scaled = record_of("topk")
    scaled.dictionary.encoder.divisor = torch.ones(N)
    with pytest.raises(ValueError, match="code_scale_"):
        FORMATS["dictionary_learning"].write(scaled, tmp_path)
    for name in ("relu", "jumprelu"):
        with pytest.raises(ValueError, match="sparsify holds top-k and group max alone"):
            FORMATS["sparsify"].write(record_of(name), tmp_path)


@pytest.mark.parametrize(
    ("activation", "format", "message"),
    [
        ({"scale": 0.4}, "sae_lens", "multiplied by 0.4"),
        ({"transform": "row_norm"}, "sae_lens", "norm √d each"),
        ({"transform": "centre_rows"}, "dictionary_learning", "mean zero each"),
        ({"transform": "centre_rows"}, "sae_lens", None),  # it has a place for that
        ({"scale": 0.4}, "skdict", None),
    ],
)
def test_what_rows_have_to_be_is_not_lost_silently(activation, format, message, tmp_path):
    X = np.random.default_rng(0).normal(size=(64, 4))
    estimator = SparseAutoencoderDictionary(8, max_iter=1, random_state=0, device="cpu").fit(X)
    estimator.activation_ = activation
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        save_dictionary(estimator, tmp_path / "saved", format=format)
    found = [str(one.message) for one in caught if "do not say" in str(one.message)]
    assert len(found) == (message is not None)
    assert message is None or message in found[0]
