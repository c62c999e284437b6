import numpy as np
import pytest
import torch
from dictionary_testing import SOLVERS, make_estimator

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
