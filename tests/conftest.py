"""skdict before torch, so that threads that wait do not spin for long (`skdict/__init__.py`)."""

import os

# Processes of pytest-xdist share the cores: one thread each, unless the environment says
# otherwise. torch reads the variable when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

import skdict  # noqa: F401


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by -m
def pytest_collection_modifyitems(items):
    """An enumeration is slow, too: `-m "not slow"` replaces the `-m` of pyproject.toml."""
    for item in items:
        if item.get_closest_marker("enumeration"):
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
