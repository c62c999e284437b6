"""What `estimate_fit` says of a fit, beside the fit."""

import numpy as np
import pytest

from skdict import SparseAutoencoderDictionary, SparseAutoencoderDictionaryCV
from skdict._core.solvers.alternating import AlternatingSolver
from skdict._core.solvers.autoencoder import AutoencoderSolver
from skdict.datasets import make_superposition
from skdict.decomposition import _cost, estimate_fit

X = make_superposition(n_samples=1500, n_features=8, n_components=16, random_state=0)[0]


@pytest.mark.parametrize("solver", ["autoencoder", "alternating"])
@pytest.mark.parametrize("n_components", ["auto", 20])
def test_sizes_are_those_of_the_fit(solver, n_components):
    sae = SparseAutoencoderDictionary(n_components, solver=solver, max_iter=3, random_state=0)
    estimate = estimate_fit(sae, X[:300], n_samples=len(X))
    sae.fit(X)
    assert estimate.n_steps == sae.n_steps_
    assert estimate.n_components == len(sae.components_)


@pytest.mark.parametrize("batch_size", [60, 100_000])
def test_a_step_has_no_more_samples_than_there_are(batch_size, monkeypatch):
    sizes, step = [], AutoencoderSolver.step
    monkeypatch.setattr(
        AutoencoderSolver,
        "step",
        lambda self, x, n_rows: sizes.append(len(x)) or step(self, x, n_rows),
    )
    sae = SparseAutoencoderDictionary(
        16, max_iter=3, batch_size=batch_size, early_stopping=False, random_state=0
    )
    estimate = estimate_fit(sae, X[:120])
    timed = set(sizes)
    sizes.clear()
    assert estimate.batch_size == min(batch_size, 120)
    assert estimate.n_steps == sae.fit(X[:120]).n_steps_
    assert timed == set(sizes) == {estimate.batch_size}
    assert (
        estimate.memory
        == estimate_fit(sae.set_params(batch_size=estimate.batch_size), X[:120]).memory
    )


@pytest.mark.parametrize(
    ("solver", "kind"), [("autoencoder", AutoencoderSolver), ("alternating", AlternatingSolver)]
)
def test_every_step_counts_once(solver, kind, monkeypatch):
    """By a clock that goes on by a second for each step, and by nothing else."""
    clock = [0.0]
    step = kind.step

    def tick(self, x, n_rows):
        clock[0] += 1
        return step(self, x)

    monkeypatch.setattr(kind, "step", tick)
    monkeypatch.setattr(_cost.time, "perf_counter", lambda: clock[0])
    sae = SparseAutoencoderDictionary(16, solver=solver, max_iter=2, batch_size=100)
    estimate = estimate_fit(sae, X, n_samples=10_001)
    assert estimate.n_steps == 2 * 101
    assert estimate.seconds_per_step == 1
    assert estimate.seconds == 202


def test_rows_are_read_and_atoms_made_once(monkeypatch):
    """By a clock that goes on where statistics are taken and where a solver starts."""
    clock = [0.0]
    of_statistics, of_start = _cost.location_and_scale, _cost.start

    def slow_statistics(rows):
        clock[0] += len(rows)
        return of_statistics(rows)

    def slow_start(*args):
        clock[0] += 7
        return of_start(*args)

    monkeypatch.setattr(_cost, "location_and_scale", slow_statistics)
    monkeypatch.setattr(_cost, "start", slow_start)
    monkeypatch.setattr(_cost.time, "perf_counter", lambda: clock[0])
    sae = SparseAutoencoderDictionary(16, max_iter=5, batch_size=100)
    assert estimate_fit(sae, X, n_samples=5000).seconds == 5000 + 7


def test_memory_follows_the_sizes():
    def memory(n_components, n_samples=1500, dtype=np.float32, **params):
        sae = SparseAutoencoderDictionary(n_components, batch_size=100, max_iter=1, **params)
        return estimate_fit(sae, X.astype(dtype), n_samples=n_samples).memory

    one = memory(64) - memory(32)
    assert memory(96) - memory(64) == one == 4 * 32 * (11 * 8 + 100)
    assert memory(64, dtype=np.float64) == 2 * memory(64)
    assert memory(64, n_samples=10**9) == memory(64, n_samples=10**8)  # read block by block
    pairs = [memory(n, solver="alternating") for n in (32, 64, 96)]
    assert pairs[2] - 2 * pairs[1] + pairs[0] == 4 * 2 * 2 * 32**2


def test_estimator_is_left_alone():
    random_state = np.random.RandomState(0)
    sae = SparseAutoencoderDictionary(16, max_iter=2, random_state=random_state)
    before = sae.get_params()
    estimate_fit(sae, X)
    assert sae.get_params() == before
    assert not hasattr(sae, "components_")
    assert random_state.randint(1 << 30) == np.random.RandomState(0).randint(1 << 30)


@pytest.mark.parametrize("estimator", [SparseAutoencoderDictionaryCV(16), None])
def test_other_estimators_are_refused(estimator):
    kind = type(estimator).__name__
    with pytest.raises(TypeError, match=f"estimator must be a Sparse.*, but is a {kind}"):
        estimate_fit(estimator, X)


def test_solvers_without_steps_are_refused():
    with pytest.raises(
        ValueError, match=r"does not learn in steps.*'autoencoder' or 'alternating'"
    ):
        estimate_fit(SparseAutoencoderDictionary(16, solver="kmeans"), X)


@pytest.mark.parametrize("n_samples", [0, 1.5, "many"])
def test_n_samples_is_checked(n_samples):
    with pytest.raises(ValueError, match="n_samples"):
        estimate_fit(SparseAutoencoderDictionary(16), X, n_samples=n_samples)
