"""`Checkpoint`: the same script run again goes on, or says why it cannot."""

import errno
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import filelock
import joblib
import numpy as np
import pytest
from resuming_testing import Listener, Stopped, assert_same_fit, make_data, make_estimator
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict._core.models.architectures import ARCHITECTURES, Architecture
from skdict._core.training.checkpoint import checkpoints_in, step_of, write_checkpoint
from skdict.callbacks import Checkpoint
from skdict.callbacks import _kept_fit as kept_fit
from skdict.decomposition import SparseAutoencoderDictionary, SparseAutoencoderDictionaryCV
from skdict.decomposition import _resumable as resumable
from tests.views_testing import ArrayView

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:The dictionary has learned samples by heart"),
    pytest.mark.filterwarnings("ignore:The best value"),
]


@pytest.fixture(scope="module")
def X():
    return make_data(1000)


@pytest.fixture(scope="module")
def want(X):
    return make_estimator(max_iter=2).fit(X)


def interrupted(X, path, *, stop_at=9, **params):
    """Begin a fit that ends after some steps."""
    callbacks = Checkpoint(path, every=0), Listener(stop_at=stop_at)
    with pytest.raises(Stopped):
        make_estimator(**{"max_iter": 2, **params}).set_callbacks(*callbacks).fit(X)


def fitted(X, path, *callbacks, **params):
    estimator = make_estimator(**{"max_iter": 2, **params})
    return estimator.set_callbacks(Checkpoint(path), *callbacks).fit(X)


def steps_in(path):
    return [step_of(each) for each in checkpoints_in(path)]


def only_folder(path):
    (folder,) = path.glob("fit-*")
    return folder


def test_the_same_script_goes_on(X, want, tmp_path):
    interrupted(X, tmp_path)
    assert steps_in(only_folder(tmp_path))[0] > 0
    listener = Listener()
    assert_same_fit(fitted(X, tmp_path, listener), want)
    assert len(listener.called) < 16 + 2
    assert steps_in(only_folder(tmp_path)) == [16]  # what the fit has left, and no other


def test_a_finished_fit_returns_at_once(X, want, tmp_path):
    fitted(X, tmp_path)
    listener = Listener()
    assert_same_fit(fitted(X, tmp_path, listener), want)
    assert listener.called == ["finish", "close"]  # no step


def test_checkpoints_are_written_in_time(X, tmp_path, monkeypatch):
    now, written = iter(range(1000)), []
    monkeypatch.setattr(kept_fit, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(
        kept_fit, "write_checkpoint", lambda folder, n_steps, *rest: written.append(n_steps)
    )
    estimator = make_estimator(max_iter=2).set_callbacks(Checkpoint(tmp_path, every=5))
    estimator.fit(X)
    # it is read after each step, and once more for a checkpoint; the last one is always written
    assert written == [5, 10, 15, 16]


def test_one_checkpoint_is_written_at_a_time(X, want, tmp_path, monkeypatch):
    written, go_on = [], threading.Event()

    def slow(folder, n_steps, state, about):
        written.append(n_steps)
        if n_steps < 16:
            go_on.wait()
        write_checkpoint(folder, n_steps, state, about)

    class GoOn(Listener):
        def between_steps(self, fit):
            if fit.n_steps == 10:
                go_on.set()

    monkeypatch.setattr(kept_fit, "write_checkpoint", slow)
    estimator = make_estimator(max_iter=2)
    estimator.set_callbacks(Checkpoint(tmp_path, every=0), GoOn()).fit(X)
    assert written[0] == 1
    assert written[1] > 9
    assert_same_fit(estimator, want)


# -- what goes wrong -------------------------------------------------------------------------


def test_a_full_disk_is_a_warning(X, want, tmp_path, monkeypatch):
    interrupted(X, tmp_path, stop_at=3)
    kept = steps_in(only_folder(tmp_path))

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept_fit, "write_checkpoint", full)
    with pytest.warns(UserWarning, match=r"after 16 steps could not be written.*No space left"):
        got = fitted(X, tmp_path)
    assert_same_fit(got, want)
    assert steps_in(only_folder(tmp_path)) == kept
    estimator = make_estimator(max_iter=2).set_callbacks(Checkpoint(tmp_path / "new", every=0))
    with pytest.warns(UserWarning, match="there is none so far"):
        estimator.fit(X)


def test_a_fit_outlives_checkpoints_that_cannot_be_removed(X, want, tmp_path, monkeypatch):
    def busy(checkpoint):
        raise OSError(errno.EBUSY, "Device or resource busy")

    interrupted(X, tmp_path)
    monkeypatch.setattr(kept_fit, "remove", busy)
    assert_same_fit(fitted(X, tmp_path), want)
    assert steps_in(only_folder(tmp_path))[0] == 16


def damage(checkpoint):
    path = checkpoint / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(X, want, tmp_path, monkeypatch):
    listener = Listener(keep_at=(5, 9))
    fitted(X, tmp_path, listener)
    folder = only_folder(tmp_path)
    about = kept_fit.read_about(folder / "step-000000016") | {"is_over": False}
    for n_steps, state in listener.states.items():
        write_checkpoint(folder, n_steps, state, about)
    (folder / "step-000000016").rename(folder / "elsewhere")
    write_checkpoint(folder, 5, listener.states[5], about)
    damage(folder / "step-000000009")
    with pytest.warns(UserWarning, match=r"is damaged: .*goes on from step-000000005"):
        assert_same_fit(fitted(X, tmp_path), want)
    damage(folder / "step-000000016")
    with pytest.raises(ValueError, match=r"No checkpoint in .* can be read"):
        fitted(X, tmp_path)


@pytest.mark.parametrize("name", ["fingerprint", "is_over"])
def test_a_checkpoint_that_does_not_say_what_it_is_of_is_damaged(X, want, tmp_path, name):
    listener = Listener(keep_at=(5, 9))
    fitted(X, tmp_path, listener)
    folder = only_folder(tmp_path)
    about = kept_fit.read_about(folder / "step-000000016")
    shutil.rmtree(folder / "step-000000016")
    write_checkpoint(folder, 5, listener.states[5], about | {"is_over": False})
    without = {key: value for key, value in about.items() if key != name}
    write_checkpoint(folder, 9, listener.states[9], without)
    said = rf"state\.json, field 'about' has no field '{name}'\. The fit goes on from step-0*5"
    with pytest.warns(UserWarning, match=said):
        assert_same_fit(fitted(X, tmp_path), want)
    shutil.rmtree(folder / "step-000000016")
    write_checkpoint(folder, 9, listener.states[9], without)
    with pytest.raises(ValueError, match=rf"has no field '{name}'.*Give another path, or remove"):
        fitted(X, tmp_path, alpha=0.5)


@pytest.mark.parametrize(
    "name",
    ["before", "after", "rms", "loss_curve", "solver", "is_over", "n_watched", "best", "exp_avg"],
)
def test_a_state_that_lacks_something_is_refused_by_name(X, tmp_path, name):
    listener = Listener(keep_at=(5,))
    fitted(X, tmp_path, listener)
    folder = only_folder(tmp_path)
    about = kept_fit.read_about(folder / "step-000000016") | {"is_over": False}
    shutil.rmtree(folder / "step-000000016")
    state = without_key(listener.states[5], name)
    write_checkpoint(folder, 5, state, about)
    with pytest.raises(ValueError, match=rf"step-000000005.state\.json: .*no field '{name}'"):
        fitted(X, tmp_path)


def without_key(value, name):
    if not isinstance(value, dict):
        return value
    return {key: without_key(part, name) for key, part in value.items() if key != name}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"alpha": 0.5}, "alpha was 'auto', and is 0.5"),
        ({"max_iter": 3}, "max_iter was 2, and is 3"),
        ({"architecture": "topk"}, "architecture was 'relu', and is 'topk'"),
        ({"random_state": 1}, "random_state was 0, and is 1"),
        ({"solver": "alternating"}, "solver was 'autoencoder', and is 'alternating'"),
    ],
)
def test_another_fit_is_refused(X, tmp_path, params, message):
    interrupted(X, tmp_path)
    with pytest.raises(ValueError, match=message):
        fitted(X, tmp_path, **params)
    with pytest.raises(ValueError, match="max_iter was 2, and is 5"):
        fitted(X[:500], tmp_path, max_iter=5)


def test_other_data_are_refused(X, tmp_path):
    interrupted(X, tmp_path)
    with pytest.raises(ValueError, match=r"X: shape was \[1000, 16\], and is \[500, 16\]"):
        fitted(X[:500], tmp_path)
    with pytest.raises(ValueError, match="X: dtype was 'float32', and is 'float64'"):
        fitted(X.astype(np.float64), tmp_path)
    with pytest.raises(ValueError, match="X: digest was"):
        fitted(X + 1, tmp_path)


def test_another_order_of_a_store_is_refused(X, tmp_path):
    """With another buffer the rest of an epoch would hold some rows twice and others never."""
    view = ArrayView(X)
    interrupted(view, tmp_path)
    view.buffer_bytes = 1 << 16
    with pytest.raises(ValueError, match=f"X: buffer_bytes was {1 << 30}, and is {1 << 16}"):
        fitted(view, tmp_path)


def test_arrays_of_an_architecture_count(monkeypatch):
    class Weighted(Architecture):
        name = "weighted"

        def __init__(self, weights=None):
            self.weights = weights

    monkeypatch.setitem(ARCHITECTURES, "weighted", Weighted)
    one, other = (resumable.plain(Weighted(np.full(3, value))) for value in (1.0, 2.0))
    assert one != other


def test_a_damaged_checkpoint_of_another_fit_says_what_to_do(X, tmp_path):
    interrupted(X, tmp_path)
    for checkpoint in checkpoints_in(only_folder(tmp_path)):
        (checkpoint / "state.json").write_text("{")
    with pytest.raises(
        ValueError, match=r"state\.json cannot be read.*Give another path, or remo"
    ):
        fitted(X, tmp_path, alpha=0.5)


def test_another_environment_is_refused(X, tmp_path, monkeypatch):
    interrupted(X, tmp_path)
    monkeypatch.setattr(resumable.skdict, "__version__", "0.0.1")
    with pytest.raises(ValueError, match=r"skdict was '.*', and is '0\.0\.1'"):
        fitted(X, tmp_path)


def test_a_process_that_is_at_the_same_fit_is_left_alone(X, want, tmp_path):
    fitted(X, tmp_path)
    folder = only_folder(tmp_path)
    is_used = pytest.warns(UserWarning, match="Another process is at the same fit")
    with filelock.FileLock(folder / "lock"), is_used:
        assert_same_fit(fitted(X, tmp_path), want)
    damage(folder / "step-000000016")
    with pytest.raises(ValueError, match="can be read"):
        fitted(X, tmp_path)
    with filelock.FileLock(folder / "lock", timeout=0):
        pass  # it was given back, although the fit has failed


@pytest.mark.parametrize("solver", ["kmeans", "lasso", "dictionary_learning"])
def test_solvers_without_steps_have_no_checkpoints(X, tmp_path, solver):
    estimator = SparseAutoencoderDictionary(8, solver=solver, random_state=0, device="cpu")
    estimator.set_callbacks(Checkpoint(tmp_path))
    with pytest.warns(UserWarning, match=f"no effect .* solver='{solver}' has no steps"):
        estimator.fit(X)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"path": 3}, "'path' parameter"),
        ({"path": "x", "every": -1}, "'every' parameter"),
        ({"path": "x", "every": float("nan")}, "'every' parameter"),
        ({"path": "x", "every": "1 h"}, "'every' parameter"),
    ],
)
def test_bad_parameters(arguments, error):
    with pytest.raises(ValueError, match=error):
        Checkpoint(**arguments)


def test_a_path_that_is_a_file(X, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        fitted(X, tmp_path / "file")


# -- many fits -------------------------------------------------------------------------------


class StopTheSearch:
    """A callback that raises in the nth fit, after some of its steps; others hear of it."""

    max_propagation_depth = None

    def __init__(self, n_fits):
        self.n_fits = n_fits
        self.n_steps = []  # of the fits

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, *, metadata=None):
        if metadata and "resumable_fit" in metadata:
            self.n_steps.append(0)
            metadata["resumable_fit"].listen(self)

    def on_fit_task_end(self, estimator, context):
        pass

    def between_steps(self, fit):
        self.n_steps[-1] += 1
        if len(self.n_steps) == self.n_fits and self.n_steps[-1] == 5:
            raise Stopped

    def finish(self, fit):
        pass

    def close(self):
        pass


def make_search(n_jobs=None):
    estimator = make_estimator(max_iter=2)
    return GridSearchCV(
        estimator, {"alpha": [0.1, 0.2]}, cv=KFold(2), n_jobs=n_jobs, error_score="raise"
    )


def make_cv():
    return SparseAutoencoderDictionaryCV(
        8, alphas=[0.1, 0.2], cv=2, max_iter=2, batch_size=128, random_state=0, device="cpu"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "n_fits"),
    [
        (make_search, 5),
        (make_cv, 5),
        (lambda: make_pipeline(StandardScaler(), make_estimator(max_iter=2)), 1),
    ],
    ids=["GridSearchCV", "SparseAutoencoderDictionaryCV", "Pipeline"],
)
def test_a_search_goes_on(X, tmp_path, make, n_fits):
    want = make().fit(X)
    stop_in = min(n_fits, 3)
    stopper = StopTheSearch(stop_in)
    with pytest.raises(Stopped):
        make().set_callbacks(Checkpoint(tmp_path, every=0), stopper).fit(X)
    assert len(list(tmp_path.glob("fit-*"))) == stop_in
    again = StopTheSearch(0)
    got = make().set_callbacks(Checkpoint(tmp_path), again).fit(X)
    assert again.n_steps[: stop_in - 1] == [0] * (stop_in - 1)  # finished ones take no step
    assert 0 < again.n_steps[stop_in - 1] < stopper.n_steps[-1] + 16
    assert len(again.n_steps) == n_fits
    if n_fits > 1:
        assert got.best_params_ == want.best_params_
        got, want = got.best_estimator_, want.best_estimator_
    else:
        got, want = got[-1], want[-1]
    assert_same_fit(got, want)


def check_parallel(X, path):
    want = make_search().fit(X)
    for _ in range(2):
        got = make_search(n_jobs=2).set_callbacks(Checkpoint(path, every=0)).fit(X)
        assert len(list(path.glob("fit-*"))) == 5
        np.testing.assert_array_equal(
            got.cv_results_["mean_test_score"], want.cv_results_["mean_test_score"]
        )


@pytest.mark.slow
def test_fits_at_the_same_time_have_folders_of_their_own(X, tmp_path):
    with joblib.parallel_config(backend="threading"):
        check_parallel(X, tmp_path)


@pytest.mark.enumeration
def test_fits_in_other_processes_have_folders_of_their_own(X, tmp_path):
    check_parallel(X, tmp_path)


def test_clones_have_folders_of_their_own(X, tmp_path):
    """One after the other, and in the next run of the script too."""
    for _ in range(2):
        base = make_estimator(max_iter=1).set_callbacks(Checkpoint(tmp_path))
        cross_val_score(base, X, cv=2, error_score="raise")
        clone(base).set_params(alpha=0.3).fit(X)
        assert len(list(tmp_path.glob("fit-*"))) == 3
    with pytest.raises(ValueError, match="is of another fit"):
        fitted(X, tmp_path, alpha=0.7)


def test_a_copy_in_another_process_is_for_one_of_several_fits(X, want, tmp_path, monkeypatch):
    """As in a search of scikit-learn's functions, which tell callbacks nothing."""
    interrupted(X, tmp_path, alpha=0.3)
    given = pickle.loads(pickle.dumps(Checkpoint(tmp_path, every=3)))
    assert (given.path, given.every) == (tmp_path, 3)
    monkeypatch.setattr(given, "_process", 0)
    assert_same_fit(make_estimator(max_iter=2).set_callbacks(given).fit(X), want)


# -- kill -9 ---------------------------------------------------------------------------------


def run_kills(*arguments):
    script = Path(__file__).parents[2] / "benchmarks" / "kill_fits.py"
    command = [sys.executable, str(script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_fits_that_are_killed_find_the_same_dictionary(tmp_path):
    out = run_kills("--kills", 2, "--only", "batch_topk", "--folder", tmp_path)
    assert "2 kills: all fits found the same dictionary" in out


@pytest.mark.enumeration
def test_a_hundred_kills(tmp_path):
    out = run_kills("--kills", 100, "--folder", tmp_path)
    assert "100 kills: all fits found the same dictionary" in out
