"""Statistics of a fit's codes are taken when they are asked for: from what, and when no more."""

import copy
import inspect
import pickle
import threading
import warnings

import numpy as np
import pytest
from dictionary_testing import make_estimator

from skdict.decomposition import SparseAutoencoderDictionaryCV, _code_statistics

STATISTICS = ("feature_density_", "feature_magnitude_", "noise_variance_", "n_samples_seen_")


@pytest.fixture
def X(planted):
    return np.array(planted)


@pytest.fixture
def n_taken(monkeypatch):
    """How often statistics have been taken, in a list of one."""
    count, plain = [0], _code_statistics.quality_of

    def quality_of(*args, **options):
        count[0] += 1
        return plain(*args, **options)

    monkeypatch.setattr(_code_statistics, "quality_of", quality_of)
    return count


def test_taken_once_and_only_if_asked_for(X, n_taken):
    sae = make_estimator().fit(X)
    sae.transform(X)
    assert sae.n_samples_seen_ == len(X)
    assert n_taken == [0]
    scores = sae.score(X), copy.copy(sae).score(X), pickle.loads(pickle.dumps(sae)).score(X)
    assert len(set(scores)) == 1
    assert n_taken == [1]


def test_a_pickle_has_them_and_not_the_samples(X):
    sae = make_estimator().fit(X)
    stored = pickle.dumps(sae)
    assert len(stored) < X.nbytes / 2
    X[:] = 0
    assert pickle.loads(stored).noise_variance_ == sae.noise_variance_ > 0


def change_samples(sae, X):
    X += 1


def change_atoms(sae, X):
    sae.components_[0] = 0


@pytest.mark.parametrize("change", [change_samples, change_atoms])
def test_what_has_changed_is_noticed(X, change):
    sae = make_estimator().fit(X)
    seen = np.array(X)
    change(sae, X)
    with pytest.raises(ValueError, match=r"changed in place since fit.* Fit again, or call score"):
        sae.score(seen)
    assert not any(hasattr(sae, name) for name in STATISTICS[:3])
    assert "components_" in dict(inspect.getmembers(sae))  # as the display of notebooks does
    with pytest.warns(UserWarning, match="What is saved cannot score"):
        loaded = pickle.loads(pickle.dumps(sae))
    np.testing.assert_array_equal(loaded.transform(seen), sae.transform(seen))
    with pytest.raises(ValueError, match="changed in place since fit"):
        loaded.score(seen)
    assert np.isfinite(sae.fit(X).score(X))


@pytest.mark.parametrize("change", [change_samples, change_atoms])
def test_what_changes_afterwards_does_not_matter(X, change):
    sae = make_estimator().fit(X)
    before = sae.noise_variance_
    change(sae, X)
    assert sae.noise_variance_ == before


def test_a_stream_goes_on_from_a_buffer_that_was_filled_again(X):
    buffer = X[:300].copy()
    sae = make_estimator().fit(buffer)
    buffer[:] = X[300:]
    with pytest.warns(UserWarning, match="statistics for score begin anew"):
        sae.partial_fit(buffer)
    assert sae.n_samples_seen_ == 300
    buffer[:] = X[:300]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sae.partial_fit(buffer).n_samples_seen_ == 600


def test_threads_that_score_at_the_same_time(X, monkeypatch):
    sae = make_estimator().fit(X)
    statistics = sae._statistics
    want = make_estimator().fit(X)._statistics.found()

    class Late(type(statistics)):
        """Another thread comes to the end between two lines of this one."""

        @property
        def _found(self):
            if threading.current_thread() is threading.main_thread() and "first" not in seen:
                seen.append("first")
                other = threading.Thread(target=self.found)
                other.start()
                other.join()
                return None
            return vars(self)["_found"]

        @_found.setter
        def _found(self, found):
            vars(self)["_found"] = found

    seen = []
    statistics.__class__ = Late
    np.testing.assert_array_equal(statistics.found().counts, want.counts)


def test_those_of_a_search_are_its_dictionary_s(X):
    search = SparseAutoencoderDictionaryCV(16, alphas=2, cv=2, max_iter=1, random_state=0).fit(X)
    X += 1
    assert not hasattr(search, "noise_variance_")
    with pytest.raises(ValueError, match="changed in place since fit"):
        search.score(X)
