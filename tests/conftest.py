"""skdict before torch, so that threads that wait do not spin for long (`skdict/__init__.py`)."""

import os

# Processes of pytest-xdist share the cores: one thread each, unless the environment says
# otherwise. torch reads the variable when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

import skdict  # noqa: F401

# Pages of the user guide whose examples take more than half a second of a core.
SLOW_PAGES = {
    "actions",
    "activations",
    "alpha",
    "architectures",
    "choosing",
    "comparison",
    "documents",
    "features",
    "images",
    "interpretation",
    "io",
    "metrics",
    "objective",
    "solvers",
    "structure",
    "troubleshooting",
}


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by -m
def pytest_collection_modifyitems(items):
    """An enumeration is slow, too: `-m "not slow"` replaces the `-m` of pyproject.toml."""
    for item in items:
        is_page = item.path.suffix == ".rst" and item.path.stem in SLOW_PAGES
        if is_page or item.get_closest_marker("enumeration"):
            item.add_marker("slow")


@pytest.fixture
def registered():
    """What a test registers is forgotten when it is over."""
    from skdict._core.coding import CODERS
    from skdict._core.models.architectures import ARCHITECTURES

    registries = ARCHITECTURES, CODERS
    before = [dict(registry) for registry in registries]
    yield
    for registry, known in zip(registries, before, strict=True):
        registry.clear()
        registry.update(known)


@pytest.fixture
def gpu():
    """A pretended CUDA device."""
    from pretend_cuda import pretend_cuda

    with pretend_cuda() as gpu:
        yield gpu


def pytest_collection_finish(session):
    """Processes of pytest-xdist share out the kernels that take longest to compile.

    Without Numba's cache, each process would otherwise compile each of them by itself, which
    takes a minute of a core. A few tests may not need them.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker is None or len(session.items) < 1000:
        return
    import torch

    from skdict._core.coding.lasso import Lasso
    from skdict._core.coding.omp import OrthogonalMatchingPursuit

    def lasso(dtype):
        Lasso(torch.eye(4, dtype=dtype, device="cpu"), 0.3)(x.to(dtype))

    def omp(dtype):
        OrthogonalMatchingPursuit(torch.eye(4, dtype=dtype, device="cpu"), 2)(x.to(dtype))

    x = torch.ones(2, 4, dtype=torch.float64, device="cpu")
    kernels = (lasso, torch.float64), (lasso, torch.float32), (omp, torch.float32), (omp, x.dtype)
    number = int(worker["workerid"].removeprefix("gw"))
    for compile_kernel, dtype in kernels[number :: worker["workercount"]]:
        compile_kernel(dtype)
