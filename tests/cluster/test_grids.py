"""A search over a store on a local cluster of Dask's and of Ray's: its scores, and what is sent.

Needs the extra "test-cluster"; starting a cluster takes half a minute.
"""

import cloudpickle
import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline

from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary
from skdict.feature_extraction import ActivationStore

N_DOCUMENTS, LENGTH = 60, 100
MOST_BYTES = 2_000_000


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    X, _, _ = make_superposition(
        n_samples=N_DOCUMENTS * LENGTH, n_features=16, n_components=32, random_state=0
    )
    path = tmp_path_factory.mktemp("cluster") / "store"
    with ActivationStore.create(path, {"mlp": 16}, tokens=["document"]) as writer:
        for document in range(N_DOCUMENTS):
            rows = X[document * LENGTH : (document + 1) * LENGTH]
            writer.append(rows, {"document": np.full(LENGTH, document)})
    return ActivationStore(path)


def search_over(X, groups=None):
    pipeline = make_pipeline(SparseAutoencoderDictionary(32, max_iter=2, random_state=0))
    grid = {"sparseautoencoderdictionary__alpha": [0.05, 0.2]}
    cv = 2 if groups is None else GroupKFold(2)
    return GridSearchCV(pipeline, grid, cv=cv, n_jobs=2, refit=False, error_score="raise").fit(
        X, groups=groups
    )


def scores(search):
    return np.array([search.cv_results_[f"split{i}_test_score"] for i in range(2)])


@pytest.fixture(scope="module")
def want(store):
    with joblib.parallel_backend("sequential"):
        return scores(search_over(store.documents))


@pytest.fixture
def sent():
    """Sizes of the tasks that a backend sends."""
    return []


def counting(method, sent):
    def counted(self, *args, **kwargs):
        sent.append(len(cloudpickle.dumps((args, kwargs.get("tasks")))))
        return method(self, *args, **kwargs)

    return counted


def test_on_dask(store, want, sent, monkeypatch):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        submit = counting(type(client).submit, sent)
        monkeypatch.setattr(type(client), "submit", submit)
        with joblib.parallel_backend("dask"):
            found = scores(search_over(store.documents))
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert len(sent) == 4
    assert max(sent) < 20_000 < MOST_BYTES


def test_on_ray(store, want, sent, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray
    from ray.util.multiprocessing.pool import Pool

    register_ray()
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False)
    try:
        monkeypatch.setattr(Pool, "apply_async", counting(Pool.apply_async, sent))
        with joblib.parallel_backend("ray"):
            found = scores(search_over(store.documents))
    finally:
        ray.shutdown()
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert len(sent) == 4
    assert max(sent) < 20_000 < MOST_BYTES
