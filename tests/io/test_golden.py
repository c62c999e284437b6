"""Files of other libraries, with the codes and reconstructions that those libraries gave."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from skdict.io import load_dictionary

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-6  # of the largest entry, at least 1


class Case(NamedTuple):
    """How a folder is loaded, and which of its arrays are expected."""

    options: dict = {}
    codes: str = "codes"
    reconstruction: str | None = "reconstruction"


# Folders that can be expressed.
EXPRESSIBLE = {
    "ckkissane-crosscoder": Case(),
    "dictionary_learning-autoencoder-backup": Case(),
    "dictionary_learning-autoencodernew": Case(),
    "dictionary_learning-batchtopk-nothreshold": Case(),
    "dictionary_learning-gated": Case(),
    "dictionary_learning-jumprelu": Case(),
    "dictionary_learning-topk": Case(),
    "hypothesaes-batchtopk": Case(),
    "hypothesaes-topk": Case(),
    "interplm-batchtopksae": Case({"format": "interplm_batch_topk"}),
    "interplm-jumprelusae-sqrtd": Case(),
    "interplm-relusae": Case(),
    "interplm-relusae-sqrtd": Case(),
    "interplm-relusae_tied": Case(),
    "interplm-topksae-sqrtd": Case({"format": "interplm_topk"}),
    "llamascope-r1distill": Case(),
    "llamascope-v1": Case({"format": "llama_scope_sae_lens"}),
    "llamascope-v1-authors-freedecoder": Case(),
    "llamascopium-jumprelu": Case(),
    "llamascopium-relu": Case(),
    "llamascopium-topk-datasetnorm": Case(),
    "openai-relu": Case(),
    "openai-topk-identity-bigk": Case(),
    "openai-topk-layernorm": Case(),
    "overcomplete-batchtopk": Case(),
    "overcomplete-relu": Case(),
    "overcomplete-topk": Case(),
    "saelens-batchtopk": Case(),
    "saelens-batchtopk-checkpoint": Case(),
    "saelens-jumprelu": Case(),
    "saelens-jumprelu-noprebias": Case(),
    "saelens-jumprelu_transcoder": Case(),
    "saelens-matryoshka_batchtopk": Case(),
    "saelens-skip_transcoder": Case(reconstruction="forward"),
    "saelens-standard-constantnorm": Case(),
    "saelens-standard-expectedaverage": Case(),
    "saelens-standard-layernorm": Case(),
    "saelens-standard-noprebias": Case(),
    "saelens-topk-layernorm": Case(),
    "saelens-topk-rescale": Case(),
    "saelens-transcoder": Case(),
    "saelens5-finetuned": Case(),
    "saelens5-hookz": Case(),
    "saelens5-jumprelu": Case(),
    "saelens5-topk-as-standard": Case(),
    "saev-batchtopk": Case(),
    "saev-relu": Case(),
    "saev010-relu": Case(),
    "sof_dl-batchtopk-crosscoder": Case(),
    "circuit_tracer-jumprelu": Case(),
    "circuit_tracer-relu": Case(),
    "circuit_tracer-topk": Case(),
    "deepseek_r1-qresearch": Case(),
    "gemmascope-att": Case(),
    "gemmascope-res": Case(),
    "gemmascope-transcoder": Case(),
    # reconstructions of layers that write to several are in test_cross_layer.py
    "gemmascope2-clt-layer": Case(reconstruction=None),
    "gemmascope2-res": Case(),
    "gemmascope2-transcoder-affine": Case(reconstruction="forward"),
    "mntss-clt-layer": Case(reconstruction=None),
    "mwhanna-transcoder": Case(),
    "sparsify-groupmax": Case(),
    "sparsify-skiptranscoder": Case(reconstruction="forward"),
    "sparsify-topk": Case(),
    "sparsify-topk-freedecoder": Case(),
    "sparsify2407-signed": Case(),
    "sparsify2407-unsigned": Case(),
}
# Folders that are refused, and what the error says.
REFUSED = {
    "llamascopium-crosscoder": "each head has its own gate",
    "llamascopium-relu-glu": "use_glu_encoder=true.*GLU",
    "overcomplete-mp": "MpSAE.*matching pursuit",
    "circuit_tracer-clt-jumprelu": "cross-layer transcoder of 3 layers.*layer=",
    "circuit_tracer-clt-relu": "cross-layer transcoder of 3 layers.*layer=",
    "gemmascope2-clt": "cross-layer transcoder of 3 layers.*layer=",
    "qwenscope": "no config.json with 'k'",
    "saelens-matching_pursuit": "architecture='matching_pursuit' cannot be expressed",
    "saelens-temporal": "attention over earlier rows",
    "saelens-temporal-untied": "attention over earlier rows",
    "saelens5-tanhrelu": "activation function 'tanh-relu' cannot be expressed",
}


def rows_of(arrays):
    """X as rows, however many axes the library has them with."""
    X = arrays["X"].astype(np.float32)
    return X.reshape(len(X), -1)


def error(found, expected):
    expected = expected.reshape(found.shape)
    return np.abs(found - expected).max() / max(1.0, np.abs(expected).max())


def test_every_folder_has_its_case():
    names = {path.name for path in GOLDEN.iterdir()}
    assert names == set(EXPRESSIBLE) | set(REFUSED)
    assert not set(EXPRESSIBLE) & set(REFUSED)


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_codes_and_reconstructions(name):
    case, arrays = EXPRESSIBLE[name], np.load(GOLDEN / name / "expected.npz")
    dictionary = load_dictionary(GOLDEN / name, **case.options)
    X, expected = rows_of(arrays), arrays[case.codes]
    codes = dictionary.transform(X)
    assert error(codes, expected) <= TOLERANCE
    assert np.array_equal(codes != 0, expected.reshape(codes.shape) != 0)
    if case.reconstruction is not None:
        assert error(dictionary.reconstruct(X), arrays[case.reconstruction]) <= TOLERANCE
    norms = np.linalg.norm(dictionary.components_, axis=1)
    np.testing.assert_allclose(norms[norms > 0], 1, atol=2e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_expressed_is_refused(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        load_dictionary(GOLDEN / name)
