"""Dictionaries on a (pretended) GPU: the numbers of the CPU, with one wait for a training step."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from dictionary_testing import LEARN_FROM_STREAMS, SOLVERS, fitted_attributes, make_estimator
from pretend_cuda import OnCuda, pretend_cuda

from skdict.decomposition import SparseAutoencoderDictionaryCV, sparse_encode
from skdict.decomposition.architectures import BatchTopK, Matryoshka

ARCHITECTURES = ("relu", "topk", "batch_topk", "matryoshka", "jumprelu", "gated")
KINDS = [{"architecture": name} for name in ARCHITECTURES] + [{"solver": s} for s in SOLVERS[1:]]
STREAMS = [p for p in KINDS if p.get("solver", "autoencoder") in LEARN_FROM_STREAMS]
ALGORITHMS = ("auto", "encoder", "lasso", "omp", "threshold")
# After some steps with sums in another order.
CLOSE = {"rtol": 1e-6, "atol": 1e-9}
# While it learns its codes are no better than they have to be, and not found in the same way.
OF_ROUGH_CODES = {"rtol": 0.05, "atol": 5e-3}


def name_of(params):
    return next(iter(params.values()))


def can_code(params, algorithm):
    return algorithm != "encoder" or params.get("solver", "kmeans") == "kmeans"


@pytest.fixture(scope="module")
def X(planted):
    """Activations (150, 8): what is pretended is slow."""
    return planted[:150, :8]


def make(**params):
    return make_estimator({"n_components": 12, "batch_size": 50, "max_iter": 3}, **params)


@pytest.fixture(scope="module")
def on_cpu(X):
    """Estimators of all kinds, fitted on the CPU. Not to be changed but in how they code."""
    return {name_of(params): make(**params).fit(X) for params in KINDS}


def assert_same_fit(one, other):
    close = OF_ROUGH_CODES if one.solver == "alternating" else CLOSE
    names = fitted_attributes(one)
    assert names == fitted_attributes(other)
    for name in names:
        found, expected = getattr(one, name), getattr(other, name)
        if isinstance(expected, float | list | np.ndarray):
            assert not isinstance(found, torch.Tensor), name
            np.testing.assert_allclose(found, expected, **close, err_msg=name)
        else:
            assert found == expected, name


@pytest.mark.slow
@pytest.mark.parametrize("params", KINDS, ids=name_of)
def test_fit(gpu, X, on_cpu, params):
    found = make(**params, device="auto").fit(X)
    assert gpu.launches.total() > 0
    assert_same_fit(found, on_cpu[name_of(params)])


@pytest.mark.slow
@pytest.mark.parametrize("params", KINDS, ids=name_of)
def test_fit_of_a_tensor_on_the_device(gpu, X, on_cpu, params):
    on_cuda = torch.from_numpy(X.copy()).to("cuda")
    assert_same_fit(make(**params, device="cuda:0").fit(on_cuda), on_cpu[name_of(params)])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("params", KINDS, ids=name_of)
def test_codes(gpu, X, on_cpu, params, algorithm):
    if not can_code(params, algorithm):
        pytest.skip("has no encoder")
    estimator, x = on_cpu[name_of(params)], X[:40]
    estimator.set_params(transform_algorithm=algorithm)
    try:
        expected, scores = estimator.transform(x), estimator.score_samples(x)
        reconstruction = estimator.inverse_transform(expected)
        estimator.set_params(device="cuda")
        np.testing.assert_allclose(estimator.transform(x), expected, **CLOSE)
        np.testing.assert_allclose(estimator.score_samples(x), scores, **CLOSE)
        of_tensor = estimator.transform(torch.from_numpy(x.copy()).to("cuda"))
        assert isinstance(of_tensor, OnCuda)
        np.testing.assert_allclose(of_tensor.cpu(), expected, **CLOSE)
        back = estimator.inverse_transform(of_tensor)
        assert isinstance(back, OnCuda)
        np.testing.assert_allclose(back.cpu(), reconstruction, **CLOSE)
        estimator.set_params(sparse_output=True)
        sparse = estimator.transform(x)
        assert sp.issparse(sparse) and sparse.has_canonical_format
        np.testing.assert_allclose(sparse.toarray(), expected, **CLOSE)
        np.testing.assert_allclose(estimator.inverse_transform(sparse), reconstruction, **CLOSE)
        csr = estimator.transform(torch.from_numpy(x.copy()).to("cuda"))
        assert isinstance(csr, OnCuda) and csr.layout == torch.sparse_csr
        np.testing.assert_allclose(csr.to_dense().cpu(), expected, **CLOSE)
        np.testing.assert_allclose(estimator.inverse_transform(csr).cpu(), reconstruction, **CLOSE)
    finally:
        estimator.set_params(transform_algorithm="auto", device="cpu", sparse_output=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [p for p in KINDS if p.get("solver", "autoencoder") in LEARN_FROM_STREAMS],
    ids=name_of,
)
def test_streams_and_pickles(X, params):
    """What was trained on a GPU goes on elsewhere, as if it had always been there."""
    parts = np.split(X, 3)
    found, expected = make(**params, device="auto"), make(**params)
    with pretend_cuda():
        found.partial_fit(parts[0]).partial_fit(parts[1])
        stored = pickle.dumps(found)
    assert_same_fit(found, expected.partial_fit(parts[0]).partial_fit(parts[1]))
    loaded = pickle.loads(stored)
    close = OF_ROUGH_CODES if loaded.solver == "alternating" else CLOSE
    np.testing.assert_allclose(loaded.transform(X), expected.transform(X), **close)
    assert_same_fit(loaded.partial_fit(parts[2]), expected.partial_fit(parts[2]))


@pytest.mark.parametrize("params", [KINDS[0], {"architecture": "topk"}], ids=name_of)
def test_early_stopping_and_warm_start(gpu, X, params):
    options = params | {"early_stopping": True, "warm_start": True}
    found, expected = make(**options, device="auto").fit(X), make(**options).fit(X)
    assert_same_fit(found, expected)
    assert_same_fit(found.fit(X), expected.fit(X))


@pytest.mark.slow
def test_choice_of_alpha(gpu, X):
    def choose(device):
        options = {"alphas": 3, "cv": 2, "max_iter": 3, "batch_size": 50, "random_state": 0}
        return SparseAutoencoderDictionaryCV(12, **options, device=device).fit(X)

    found, expected = choose("cuda"), choose("cpu")
    assert found.alpha_ == expected.alpha_
    np.testing.assert_allclose(found.transform(X), expected.transform(X), **CLOSE)


@pytest.mark.parametrize("algorithm", ALGORITHMS[2:])
def test_sparse_encode(gpu, X, on_cpu, algorithm):
    x, atoms = X[:20], on_cpu["relu"].components_
    options = {"algorithm": algorithm, "alpha": 0.1, "n_nonzero_coefs": 3}
    expected = sparse_encode(x, atoms, device="cpu", **options)
    moved = [torch.from_numpy(np.array(array)).to("cuda") for array in (x, atoms)]
    found = sparse_encode(*moved, device="cuda", **options)
    assert isinstance(found, OnCuda)
    np.testing.assert_allclose(found.cpu(), expected, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "relu, dense codes"])
def test_a_training_step_waits_for_the_device_once_at_most(gpu, planted, architecture, dtype):
    """Four steps more of the same data, and as many waits more, or fewer."""
    X = planted.astype(dtype)
    # by the usual margin so few samples are searched for candidates twice now and then
    params = {
        "batch_topk": {"architecture": BatchTopK(k=1, margin=0.5)},
        "matryoshka": {"architecture": Matryoshka(k=1, margin=0.5)},
        "relu, dense codes": {"architecture": "relu", "alpha": 1e-4},
    }.get(architecture, {"architecture": architecture})
    estimator = make_estimator(**params, device="cuda", batch_size=75)
    for _ in range(5):
        estimator.partial_fit(X)
    waits = []
    for batch_size in (75, 150):
        gpu.reset()
        estimator.set_params(batch_size=batch_size).partial_fit(X)
        waits.append(gpu.waits.total())
    assert waits[0] - waits[1] <= 4


@pytest.mark.parametrize("params", [KINDS[0], KINDS[-1]], ids=name_of)
def test_a_fitted_dictionary_takes_no_memory_of_the_device(gpu, X, params):
    """Nor what the statistics will be taken with, when score asks for them."""
    estimator = make(**params, device="cuda:0").fit(X)
    _, coding, *_ = estimator._statistics._pending
    tensors = coding.dictionary.tensors + estimator.dictionary_.tensors
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    estimator.components_ *= -1
    with pytest.raises(ValueError, match="dictionary has been changed in place since fit"):
        estimator.score(X)
