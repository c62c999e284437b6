import numpy as np
import pytest
import torch
from dictionary_testing import SOLVERS, make_estimator
from processes_testing import Processes

from skdict.datasets import make_superposition


@pytest.fixture(scope="session")
def planted():
    """Activations (600, 16), float64, read-only, away from the origin."""
    X = make_superposition(600, 16, 32, l0=2.0, noise=0.05, random_state=0)[0]
    X += np.linspace(-1, 1, 16)
    X.flags.writeable = False
    return X


@pytest.fixture(scope="session")
def fitted(planted):
    """One estimator per solver, fitted on `planted`. Not to be changed."""
    return {solver: make_estimator(solver=solver).fit(planted) for solver in SOLVERS}


@pytest.fixture
def one_thread():
    """For results bit by bit: a matrix product may depend on the number of threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two processes, which run functions that they are given."""
    with Processes(2, tmp_path_factory.mktemp("two")) as processes:
        yield processes


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Four of them."""
    with Processes(4, tmp_path_factory.mktemp("four")) as processes:
        yield processes
