"""What is written for sentence-transformers is read by it, and gives our codes."""

import numpy as np
import pytest
import torch

from skdict._core.normalization import RowNormalization
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.io import load_dictionary, save_dictionary

X = make_superposition(300, 16, 32, l0=2.0, noise=0.05, random_state=0)[0].astype(np.float32)
HOLDS = {"relu": {}, "topk": {"architecture": "topk", "n_nonzero_coefs": 3}}
pytestmark = pytest.mark.filterwarnings("ignore:The dictionary has learned samples by heart")
REFUSED = {
    "jumprelu": ({"architecture": "jumprelu"}, "thresholds"),
    "batch_topk": ({"architecture": "batch_topk"}, "thresholds"),
    "abs_topk": ({"architecture": "abs_topk"}, "selected otherwise"),
    "kmeans": ({"solver": "kmeans"}, "no encoder"),
}


def fitted(**params):
    return SparseAutoencoderDictionary(32, max_iter=2, random_state=0, device="cpu", **params).fit(
        X
    )


def by_hand(sae, x):
    """The module's codes, in float64."""
    parts = (sae.encoder_coef_, sae.encoder_intercept_, sae.intercept_)
    weight, bias, offset = (part.astype(np.float64) for part in parts)
    p = (x - offset) @ weight.T + bias
    k = getattr(sae, "n_nonzero_coefs_", None) or p.shape[1]
    least = -np.partition(-p, k - 1, axis=1)[:, k - 1 : k]
    return np.where(p >= least, np.maximum(p, 0), 0)


@pytest.mark.parametrize("name", HOLDS)
def test_what_is_written_is_read_again(name, tmp_path):
    sae = fitted(**HOLDS[name])
    save_dictionary(sae, tmp_path / "module", format="sentence_transformers")
    loaded = load_dictionary(tmp_path / "module")
    assert loaded.source_["format"] == "sentence_transformers"
    codes = loaded.transform(X)
    np.testing.assert_allclose(codes, sae.transform(X), atol=1e-6 * codes.max())
    np.testing.assert_allclose(codes, by_hand(sae, X.astype(float)), atol=1e-6 * codes.max())
    # the decoder is the encoder transposed
    decoded = codes.astype(float) @ sae.encoder_coef_ + sae.intercept_
    np.testing.assert_allclose(loaded.reconstruct(X), decoded, atol=1e-5)


@pytest.mark.parametrize("name", HOLDS)
@pytest.mark.parametrize("normalizes", [False, True])
def test_the_library_reads_it(name, normalizes, tmp_path):
    modules = pytest.importorskip("sentence_transformers.sparse_encoder.modules")
    sae = fitted(**HOLDS[name])
    if normalizes:
        sae.input_normalization_ = RowNormalization("layer_norm", 1e-5, 1)
    save_dictionary(sae, tmp_path / "module", format="sentence_transformers")
    module = modules.SparseAutoEncoder.load(str(tmp_path / "module"))
    with torch.inference_mode():
        found = module({"sentence_embedding": torch.from_numpy(X)})["sentence_embedding"]
    codes = sae.transform(X)
    np.testing.assert_allclose(found.numpy(), codes, atol=1e-6 * codes.max())
    assert np.array_equal(found.numpy() != 0, codes != 0)
    (tmp_path / "theirs").mkdir()
    module.save(str(tmp_path / "theirs"))
    loaded = load_dictionary(tmp_path / "theirs")
    np.testing.assert_allclose(loaded.transform(X), codes, atol=1e-6 * codes.max())


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:solver='kmeans'")
def test_what_the_module_cannot_hold_is_refused(name, tmp_path):
    params, why = REFUSED[name]
    with pytest.raises(ValueError, match=why):
        save_dictionary(fitted(**params), tmp_path / "module", format="sentence_transformers")
    assert not list(tmp_path.iterdir())
