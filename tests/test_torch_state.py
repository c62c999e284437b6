"""No setting that others have made in torch or NumPy changes a result, and none is changed."""

import ast
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import skdict
from skdict.datasets import make_superposition
from skdict.decomposition import (
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    alpha_grid,
    amortisation_gap,
    compare_dictionaries,
    sparse_encode,
)
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import feature_communities, replace_activations, steer
from skdict.metrics import DictionaryScorer
from skdict.utils._random import global_random_state_kept

# Functions that make a tensor on the default device; those after them, also of the default dtype.
MAKERS = {
    *("arange", "as_tensor", "asarray", "full", "randint", "randperm", "scalar_tensor"),
    *("sparse_coo_tensor", "sparse_csr_tensor", "tensor", "tril_indices", "triu_indices"),
}
MAKERS_OF_FLOATS = {"empty", "eye", "linspace", "logspace", "ones", "rand", "randn", "zeros"}
FUNCTIONS = (ast.FunctionDef, ast.Lambda)
CHANGE_FILTERS = {"catch_warnings", "filterwarnings", "simplefilter", "resetwarnings"}


def tensors_made(path):
    """Names of functions that make a tensor, with line and keywords, in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        function = getattr(node, "func", None)
        if (
            isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Name)
            and function.value.id == "torch"
        ):
            yield function.attr, node.lineno, {keyword.arg for keyword in node.keywords}


def test_every_new_tensor_names_its_device_and_dtype():
    missing = []
    for path in sorted(Path(skdict.__file__).parent.rglob("*.py")):
        for name, line, keywords in tensors_made(path):
            wanted = {"device"} if name in MAKERS | MAKERS_OF_FLOATS else set()
            wanted |= {"dtype"} if name in MAKERS_OF_FLOATS else set()
            if None not in keywords and wanted - keywords:
                missing.append(f"{path}:{line}: torch.{name} without {wanted - keywords}")
    assert not missing, "\n".join(missing)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


STATES = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default device": lambda: default_device("meta"),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "deterministic algorithms": deterministic_algorithms,
}


def settings():
    """What a call must leave as it is."""
    kind, key, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "inference mode": torch.is_inference_mode_enabled(),
        "gradients": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default device": torch.get_default_device(),
        "default dtype": torch.get_default_dtype(),
        "number of threads": torch.get_num_threads(),
        "generator of torch": torch.get_rng_state().tolist(),
        "generator of NumPy": (kind, key.tolist(), *rest),
        "filters of warnings": list(warnings.filters),
    }


@pytest.fixture(scope="module")
def X():
    return make_superposition(320, 8, 16, l0=1.5, random_state=0)[0].astype(np.float32)


def everything_of(estimator, X):
    """All that an estimator gives, of arrays and of tensors, as ndarrays."""
    yield from (value for name, value in sorted(vars(estimator).items()) if name.endswith("_"))
    tensor = torch.from_numpy(X)
    for given in (X, tensor):
        codes = estimator.transform(given)
        yield codes
        yield estimator.inverse_transform(codes)
        yield estimator.score(given)
        sparse = estimator.set_params(sparse_output=True).transform(given)
        yield sparse.toarray() if given is X else sparse.to_dense()
        yield estimator.inverse_transform(sparse)
        estimator.set_params(sparse_output=False)
    yield from DictionaryScorer()(estimator, X).values()


def fit_and_go_on(X, **params):
    estimator = SparseAutoencoderDictionary(
        16, max_iter=2, batch_size=64, random_state=0, device="cpu", **params
    )
    yield from everything_of(estimator.fit(X), X)
    if estimator.solver not in ("lasso", "kmeans"):
        yield from everything_of(estimator.partial_fit(torch.from_numpy(X[:100])), X)


def search(X):
    params = {"max_iter": 2, "device": "cpu"}
    yield alpha_grid(X)
    yield SparseAutoencoderDictionaryCV(8, alphas=2, cv=2, random_state=0, **params).fit(X).scores_
    dictionaries = {
        solver: SparseAutoencoderDictionary(8, solver=solver, random_state=0, **params)
        for solver in ("autoencoder", "lasso")
    }
    table = compare_dictionaries(
        dictionaries, X[:200], X[200:], transform_algorithms=("lasso", "auto"), budgets=(1.0,)
    )
    yield table["explained_variance"].to_numpy(np.float64)


def coding(X):
    dictionary = np.linalg.qr(X[:8].T)[0]
    for given in (X, torch.from_numpy(X)):
        for algorithm in ("lasso", "omp", "threshold"):
            yield sparse_encode(given, dictionary, algorithm=algorithm, alpha=0.1, device="cpu")
    gap = amortisation_gap(SparseAutoencoderDictionary(8, random_state=0, device="cpu").fit(X), X)
    yield from (gap.encoder.objective, gap.lasso.objective, gap.omp.objective)


def with_a_model(X):
    """The model computes elementwise, which is the same in every state."""
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU())
    dictionary = SparseAutoencoderDictionary(16, max_iter=2, random_state=0, device="cpu").fit(X)
    tensor = torch.from_numpy(X)
    with replace_activations(model, "0", dictionary):
        yield model(tensor)
    with steer(model, "0", dictionary, [3, 5], strength=2.0):
        yield model(tensor)
    yield ActivationExtractor(model, "1", tokenizer=None, batch_size=50).fit_transform(X)


FLOWS = {
    **{
        architecture: lambda X, architecture=architecture: fit_and_go_on(
            X, architecture=architecture, n_nonzero_coefs=2
        )
        for architecture in ("relu", "topk", "batch_topk", "matryoshka", "jumprelu", "gated")
    },
    "early stopping": lambda X: fit_and_go_on(X, early_stopping=True),
    **{
        solver: lambda X, solver=solver: fit_and_go_on(X, solver=solver)
        for solver in ("alternating", "dictionary_learning", "kmeans", "lasso")
    },
    "search": search,
    "coding": coding,
    "with a model": with_a_model,
}


@pytest.fixture(scope="module")
def expected():
    """What each flow gives where nobody has set anything, as it is needed."""
    return {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("state", STATES)
def test_results_do_not_depend_on_torchs_state(state, flow, X, expected):
    if flow not in expected:
        expected[flow] = [as_array(result) for result in FLOWS[flow](X)]
    with STATES[state]():
        before = settings()
        results = list(FLOWS[flow](X))
        assert settings() == before
    assert len(results) == len(expected[flow]) > 0
    for got, want in zip(results, expected[flow], strict=True):
        np.testing.assert_array_equal(as_array(got), want)


def as_array(result):
    return result.numpy() if isinstance(result, torch.Tensor) else np.asarray(result)


@pytest.mark.parametrize("solver", ["autoencoder", "alternating"])
def test_what_begins_in_inference_mode_goes_on_outside(solver, X):
    """Also on tensors that were made in it, and those stay what they are."""

    def make():
        return SparseAutoencoderDictionary(
            16, solver=solver, max_iter=2, random_state=0, device="cpu"
        )

    want = make().fit(X).partial_fit(X).partial_fit(X)
    with torch.inference_mode():
        tensor = torch.from_numpy(X.copy()) + 0
        estimator = make().fit(tensor).partial_fit(tensor)
    estimator.partial_fit(tensor)
    np.testing.assert_array_equal(estimator.components_, want.components_)
    np.testing.assert_array_equal(tensor.numpy(), X)
    np.testing.assert_array_equal(estimator.transform(tensor).numpy(), want.transform(X))


def test_steering_under_autocast_passes_gradients(X):
    dictionary = SparseAutoencoderDictionary(16, max_iter=1, random_state=0, device="cpu").fit(X)
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU())
    tensor = torch.from_numpy(X).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16), steer(model, "0", dictionary, 3, strength=1):
        model(tensor).sum().backward()
    assert tensor.grad.any()


@pytest.mark.slow
def test_filters_of_warnings_are_left_alone():
    """Where they are changed for a time, other threads lose what they set meanwhile."""
    found = []
    for path in sorted(Path(skdict.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text())
        inside = {node for f in ast.walk(tree) if isinstance(f, FUNCTIONS) for node in ast.walk(f)}
        found += [
            path.name
            for node in inside
            if isinstance(node, ast.Attribute) and node.attr in CHANGE_FILTERS
        ]
    # what Python says of the source of others, which nobody can silence otherwise
    assert set(found) <= {"_python_labels.py"}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "call",
    [
        lambda X: make_superposition(10, 4, 6),
        *(
            lambda X, solver=solver: SparseAutoencoderDictionary(8, solver=solver, max_iter=1).fit(
                X
            )
            for solver in ("autoencoder", "alternating", "dictionary_learning", "kmeans", "lasso")
        ),
        *(
            lambda X, name=name: SparseAutoencoderDictionary(
                4, solver="lasso", dict_init=name, fit_intercept=False
            ).fit(abs(X))
            for name in ("exemplars", "random", "pca", "ica", "nmf")
        ),
        lambda X: SparseAutoencoderDictionary(
            8, solver="dictionary_learning", random_state=0
        ).partial_fit(X),
        lambda X: feature_communities(abs(X)),
    ],
)
def test_numpys_global_generator_is_neither_used_nor_changed(call, X):
    before = settings()["generator of NumPy"]
    call(X[:100])
    assert settings()["generator of NumPy"] == before
    first, second = (make_superposition(3, 4, 6)[0] for _ in range(2))
    assert (first != second).any()


def test_the_global_generator_survives_fits_in_threads(X):
    """The last of them to end puts it back."""
    before = settings()["generator of NumPy"]
    inside, leave = threading.Event(), threading.Event()

    def other():
        with global_random_state_kept():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    with global_random_state_kept():
        np.random.random()  # noqa: NPY002
    np.random.random()  # noqa: NPY002
    leave.set()
    thread.join()
    assert settings()["generator of NumPy"] == before


def caller(call, X):
    """File and line that a warning points at."""
    with pytest.warns(UserWarning) as caught:
        call(X)
    return caught[0].filename, caught[0].lineno


def test_warnings_point_at_the_callers_line(X):
    def call(X):
        return sparse_encode(X, X[:40], alpha=1e-7, max_iter=1, device="cpu")

    filename, line = caller(call, X)
    assert filename == __file__
    assert line == call.__code__.co_firstlineno + 1
