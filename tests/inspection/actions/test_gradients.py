"""Gradients through a dictionary inside of a model: those of plain torch, or an error."""

import copy

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict._core.coding import SparseCodes
from skdict._core.formats import Record, Weights
from skdict._core.models.architectures import AbsTopK, GroupMax, JumpReLU, ReLU, TopK
from skdict._core.normalization import RowNormalization
from skdict.decomposition import SparseAutoencoderDictionary, SparseAutoencoderDictionaryCV
from skdict.decomposition._records import estimator_from
from skdict.inspection import replace_activations, steer
from skdict.metrics import loss_recovered
from skdict.metrics._in_model import in_model

LAYER = "transformer.h.0.mlp.act"
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-10}
D, N = 12, 30


@pytest.fixture
def ids(language):
    texts = ["<|endoftext|>import numpy as np", "<|endoftext|>for i in range("]
    return language.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)


def gradients(model, ids, weights=("transformer.wte.weight", "transformer.h.0.mlp.c_fc.weight")):
    """Of a function of all logits, by weights before the layer."""
    output = model(**ids).logits
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    value = (output * probe.to(output)).sum() / output.numel() ** 0.5
    return torch.autograd.grad(value, [model.get_parameter(name) for name in weights])


def assert_close(found, expected, tol):
    for one, other in zip(found, expected, strict=True):
        scale = float(other.abs().max())
        assert scale > 0
        np.testing.assert_allclose(one / scale, other / scale, rtol=0, atol=tol)


def assert_similar(found, expected):
    """In half precision features at the border may be active or not."""
    for one, other in zip(found, expected, strict=True):
        cosine = torch.cosine_similarity(one.flatten().float(), other.flatten(), dim=0)
        assert cosine > 0.95


def loaded(architecture=None, *, dtype=torch.float64, **given):
    draw = np.random.default_rng(0).normal
    weights = {
        "encoder": draw(size=(N, D)) / 2,
        "encoder_bias": draw(size=N) / 3,
        "decoder": draw(size=(N, D)) * np.linspace(0.4, 2.5, N)[:, None],
        "decoder_bias": draw(size=D),
        **given,
    }
    weights = {
        k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in weights.items()
    }
    dictionary = Weights(**weights).dictionary(units="source", dtype=dtype)
    record = Record(dictionary, architecture or ReLU())
    return estimator_from(record, SparseAutoencoderDictionary)


def rows(n=20):
    return torch.from_numpy(np.random.default_rng(1).normal(size=(n, D)) * 1.5 + 0.3)


class TestPerfectDictionaries:
    @pytest.mark.parametrize("dtype", CLOSE)
    @pytest.mark.parametrize("kind", ["function", "identity", "complete", "kept", "pinned"])
    def test_gradients_are_the_models_own(self, language, ids, perfect, dtype, kind):
        model = copy.deepcopy(language.model).to(dtype)
        rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(512, 512)))[0]
        both = np.concatenate([rotation, -rotation])  # x = Σ relu(u·x) u - relu(-u·x) u
        complete = loaded(
            dtype=torch.float64,
            encoder=both,
            encoder_bias=np.zeros(1024),
            decoder=both,
            decoder_bias=np.zeros(512),
        )
        block = {
            "function": lambda: replace_activations(model, LAYER, lambda x: x),
            "identity": lambda: replace_activations(model, LAYER, perfect),
            "complete": lambda: replace_activations(model, LAYER, complete),
            "kept": lambda: replace_activations(model, LAYER, complete, keep_error=True),
            "pinned": lambda: steer(model, LAYER, complete, [1, 700], strength=0.0),
        }[kind]
        own = gradients(model, ids)
        with block():
            found = gradients(model, ids)
        assert_close(found, own, CLOSE[dtype])


def plain(dictionary, x):
    """Codes of an encoder in plain torch, differentiable, with the active set of `transform`."""
    active = torch.from_numpy(dictionary.transform(x.detach().numpy()) != 0)
    weight, bias, atoms, intercept = (
        torch.from_numpy(getattr(dictionary, name)).to(x)
        for name in ("encoder_coef_", "encoder_intercept_", "components_", "intercept_")
    )
    p = (x - intercept) @ weight.T + bias
    return torch.where(active, p, 0), atoms, intercept


@pytest.fixture(scope="module")
def fitted(activations):
    """A dictionary of each architecture, quickly fitted."""
    return {
        architecture: SparseAutoencoderDictionary(
            128,
            architecture=architecture,
            n_nonzero_coefs=None if architecture in ("relu", "gated") else 12,
            alpha=0.5,
            max_iter=1,
            early_stopping=False,
            random_state=0,
        ).fit(activations[:2000])
        for architecture in ("relu", "topk", "jumprelu", "gated", "batch_topk", "matryoshka")
    }


class TestEncoders:
    @pytest.mark.parametrize("dtype", CLOSE)
    @pytest.mark.parametrize(
        "architecture", ["relu", "topk", "jumprelu", "gated", "batch_topk", "matryoshka"]
    )
    def test_against_plain_torch(self, language, ids, fitted, architecture, dtype):
        dictionary, model = fitted[architecture], copy.deepcopy(language.model).to(dtype)
        factors = torch.ones(128, dtype=dtype)
        j = int(dictionary.feature_density_.argmax())
        factors[j] = 2.5

        def scaled(x):
            z, atoms, intercept = plain(dictionary, x)
            return (z * factors) @ atoms + intercept

        def kept(x):
            z, atoms, _ = plain(dictionary, x)
            return x + (z * (factors - 1)) @ atoms

        def pinned(x):
            z, atoms, _ = plain(dictionary, x)
            return x + (3.0 - z[:, [j]]) @ atoms[[j]]

        scale = {j: 2.5}
        for block, reference in (
            (replace_activations(model, LAYER, dictionary, scale=scale), scaled),
            (
                replace_activations(model, LAYER, dictionary, scale=scale, keep_error=True),
                kept,
            ),
            (steer(model, LAYER, dictionary, j, clamp=3.0), pinned),
        ):
            with replace_activations(model, LAYER, reference):
                expected, logits = gradients(model, ids), model(**ids).logits
            with block:
                found, found_logits = gradients(model, ids), model(**ids).logits
            assert_close(found, expected, 10 * CLOSE[dtype])
            assert_close([found_logits.detach()], [logits.detach()], 10 * CLOSE[dtype])

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("architecture", "given"),
        [
            (ReLU(), {}),
            (ReLU(), {"offset": np.linspace(-1, 1, D), "input_scale": 0.3}),
            (JumpReLU(), {"threshold": np.linspace(0, 0.8, N), "scales_by_norm": True}),
            (TopK(6), {"k": 6}),
            (TopK(6), {"k": 6, "ranks_by_norm": True}),
            (TopK(6, nonnegative=False), {"k": 6, "selection": "signed"}),
            (AbsTopK(6), {"k": 6, "selection": "absolute"}),
            (GroupMax(5), {"k": 5, "selection": "groups"}),
            (ReLU(), {"skip": np.random.default_rng(2).normal(size=(D, D))}),
            (ReLU(), {"normalization": RowNormalization("layer_norm", eps=1e-5, ddof=1)}),
            (TopK(6), {"k": 6, "normalization": RowNormalization("row_norm")}),
        ],
    )
    def test_loaded_dictionaries_by_finite_differences(self, architecture, given):
        dictionary, x = loaded(architecture, **given), rows(4)
        of = in_model(dictionary)
        factors = np.linspace(0, 2, N)
        codes = dictionary.transform(x.numpy()) * factors
        expected = dictionary.reconstruct(x.numpy(), codes)
        np.testing.assert_allclose(of.reconstruct(x, factors), expected, rtol=1e-9, atol=1e-9)
        part = expected - dictionary.reconstruct(x.numpy(), 0 * codes)
        np.testing.assert_allclose(of.part(x, factors), part, rtol=1e-9, atol=1e-9)
        x.requires_grad_()
        for function in (lambda x: of.reconstruct(x, factors), lambda x: of.part(x, factors)):
            assert torch.autograd.gradcheck(function, x, check_forward_ad=True)
            assert torch.autograd.gradgradcheck(function, x)

    def test_of_threshold_codes_with_norms(self):
        dictionary, x = loaded(), rows(4).requires_grad_()
        dictionary.set_params(transform_algorithm="threshold", transform_alpha=0.3)
        assert torch.autograd.gradcheck(in_model(dictionary).reconstruct, x, check_forward_ad=True)

    def test_blocks_of_rows(self, monkeypatch):
        from skdict.metrics import _in_model

        dictionary, x = loaded(TopK(6), k=6), rows(20).requires_grad_()
        (whole,) = torch.autograd.grad(in_model(dictionary).reconstruct(x).square().sum(), x)
        monkeypatch.setattr(_in_model, "MIN_ROWS", 3)
        monkeypatch.setattr(_in_model, "BLOCK_SIZE", 1)
        (blocks,) = torch.autograd.grad(in_model(dictionary).reconstruct(x).square().sum(), x)
        np.testing.assert_allclose(blocks, whole, rtol=1e-12)

    def test_of_a_search(self, activations):
        search = SparseAutoencoderDictionaryCV(
            16, alphas=[0.5, 1.0], max_iter=1, cv=2, random_state=0
        ).fit(activations[:300])
        x = torch.from_numpy(activations[:5])
        expected = search.best_estimator_.tensor_codes(x).dense()
        assert torch.equal(search.tensor_codes(x).dense(), expected)
        x.requires_grad_()
        in_model(search).reconstruct(x).sum().backward()
        assert x.grad.abs().sum() > 0

    def test_autocast_and_inference_mode(self, language, ids, fitted):
        """In half precision only the model is: what is kept can be differentiated afterwards."""
        model, dictionary = language.model, copy.deepcopy(fitted["topk"])
        with torch.inference_mode(), replace_activations(model, LAYER, dictionary):
            expected = model(**ids).logits.clone()
        with replace_activations(model, LAYER, dictionary):
            assert_close([model(**ids).logits.detach()], [expected], 1e-6)
            own = gradients(model, ids)
        x = torch.randn(6, 512, generator=torch.Generator().manual_seed(0))
        expected = in_model(dictionary).reconstruct(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(in_model(dictionary).reconstruct(x), expected)
            with replace_activations(model, LAYER, dictionary):
                assert_similar(gradients(model, ids), own)

    def test_half_precision(self, language, ids, fitted):
        model = copy.deepcopy(language.model).bfloat16()
        with replace_activations(model, LAYER, fitted["relu"]):
            found = gradients(model, ids)
        with replace_activations(copy.deepcopy(language.model), LAYER, fitted["relu"]) as single:
            expected = gradients(single, ids)
        assert_similar(found, expected)


class TestNothingIsDense:
    def test_codes_stay_sparse_and_in_torch(self, language, ids, fitted, monkeypatch):
        def refuse(*args, **kwargs):
            raise AssertionError("called")

        dictionary, model, tokenizer = fitted["topk"], language.model, language.tokenizer
        for owner, name in (
            (SparseAutoencoderDictionary, "transform"),
            (SparseCodes, "dense"),
            (torch.Tensor, "numpy"),
        ):
            monkeypatch.setattr(owner, name, refuse)
        blocks = [
            replace_activations(model, LAYER, dictionary),
            replace_activations(model, LAYER, dictionary, scale={3: 0.0}),
            replace_activations(model, LAYER, dictionary, scale={3: 0.0}, keep_error=True),
        ]
        for block in blocks:
            with block:
                model(**ids)
        monkeypatch.undo()
        steered = steer(model, LAYER, dictionary, 3, clamp=2.0)  # reads the atom with NumPy
        for owner, name in ((SparseAutoencoderDictionary, "transform"), (SparseCodes, "dense")):
            monkeypatch.setattr(owner, name, refuse)
        with steered:
            model(**ids)
        loss_recovered(model, LAYER, dictionary, ["import numpy as np"], tokenizer=tokenizer)


class TestWithoutGradient:
    """It is an error to ask for one that is not known, and never silently zero."""

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("pca", "the dictionary computes with NumPy"),
            ("scaler", "the dictionary computes with NumPy"),
            ("function", "the dictionary computes with NumPy"),
            ("lasso", "codes by 'lasso' are found by a search"),
            ("omp", "codes by 'omp' are found by a search"),
            ("kmeans", "the codes are nearest codewords"),
        ],
    )
    def test_is_an_error(self, language, ids, activations, fitted, kind, message):
        X, model = activations[:300], language.model
        if kind in ("lasso", "omp"):
            dictionary = copy.deepcopy(fitted["topk"])
            dictionary.set_params(transform_algorithm=kind, transform_n_nonzero_coefs=3)
        elif kind == "kmeans":
            dictionary = SparseAutoencoderDictionary(8, solver="kmeans", random_state=0).fit(X)
        elif kind == "pca":
            dictionary = PCA(4, random_state=0).fit(X)
        elif kind == "scaler":
            dictionary = make_pipeline(StandardScaler(), copy.deepcopy(fitted["relu"])).fit(X)
        else:
            dictionary = lambda x: 2 * x.detach().numpy()  # noqa: E731
        options = [{}] if kind == "function" else [{}, {"scale": {1: 0.0}, "keep_error": True}]
        blocks = [replace_activations(model, LAYER, dictionary, **each) for each in options]
        blocks += [] if kind == "function" else [steer(model, LAYER, dictionary, 1, clamp=5.0)]
        first = model.transformer.h[0].mlp.c_fc.weight
        last = model.transformer.h[0].mlp.c_proj.bias
        for block in blocks:
            with block:
                with torch.no_grad():
                    expected = model(**ids).logits
                output = model(**ids).logits
            assert torch.equal(output, expected)
            (gradient,) = torch.autograd.grad(output[0, -1, 3], last, retain_graph=True)
            assert gradient.abs().sum() > 0  # of what is behind the layer
            with pytest.raises(NotImplementedError, match=f"is not known: {message}"):
                torch.autograd.grad(output[0, -1, 3], first)


class TestBadActivations:
    def test_not_finite(self, fitted):
        x = torch.full((2, 512), torch.nan)
        with pytest.raises(ValueError, match="NaN or infinity"):
            in_model(fitted["relu"]).reconstruct(x)

    def test_of_another_width(self, fitted):
        for function in (in_model(fitted["relu"]).reconstruct, in_model(fitted["relu"]).part):
            with pytest.raises(ValueError, match=r"atoms of 512 features.* have 3"):
                function(torch.ones(2, 3), np.ones(128))
        with pytest.raises(ValueError, match=r"X must have shape \(n_samples, 512\)"):
            fitted["relu"].tensor_codes(torch.ones(2, 3))
