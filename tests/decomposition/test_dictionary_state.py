"""What an estimator holds: who may change it, and when."""

import copy
import os
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from dictionary_testing import (
    LEARN_FROM_STREAMS,
    SOLVERS,
    fit_sklearns,
    fitted_attributes,
    make_estimator,
    objective,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict._core.coding import CODERS
from skdict._core.data.source import Source
from skdict._core.models.architectures import ARCHITECTURES
from skdict.datasets import make_superposition
from skdict.decomposition import (
    AmortisationGapDisplay,
    SparseAutoencoderDictionary,
    SparseAutoencoderDictionaryCV,
    amortisation_gap,
    compare_dictionaries,
)
from skdict.inspection import collect_codes, feature_statistics, top_activations
from skdict.metrics import (
    DictionaryScorer,
    ParetoDisplay,
    dictionary_recovery,
    explained_variance_scorer,
)

NAMES = [f"neuron{i}" for i in range(16)]

# Lasso on a handful of coherent atoms.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def frame(planted):
    return pd.DataFrame(planted, columns=NAMES)


# -- looking at an estimator -----------------------------------------------------------------


LOOKS = {
    "amortisation_gap": amortisation_gap,
    "AmortisationGapDisplay": AmortisationGapDisplay.from_estimator,
    "compare_dictionaries": lambda sae, X: compare_dictionaries(
        {"sae": sae}, X, X, transform_algorithms=("encoder", "lasso", "omp"), budgets=[3]
    ),
    "DictionaryScorer": lambda sae, X: DictionaryScorer(("score", "l0"))(sae, X),
    "explained_variance_scorer": explained_variance_scorer,
    "ParetoDisplay": lambda sae, X: ParetoDisplay.from_estimators({"sae": sae}, X),
    "feature_statistics": lambda sae, X: feature_statistics(collect_codes(sae, X)),
    "top_activations": lambda sae, X: top_activations(collect_codes(sae, X), [0]),
}


@pytest.mark.parametrize("name", LOOKS)
def test_looking_at_an_estimator_changes_nothing(frame, name):
    pytest.importorskip("matplotlib.pyplot")
    sae = make_estimator().fit(frame).set_output(transform="pandas")
    state = pickle.dumps(vars(sae))
    LOOKS[name](sae, frame)
    assert pickle.dumps(vars(sae)) == state
    assert isinstance(sae.transform(frame), pd.DataFrame)


@pytest.mark.parametrize("name", LOOKS)
def test_columns_in_another_order_are_refused(frame, name):
    sae = make_estimator().fit(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        LOOKS[name](sae, frame[NAMES[::-1]])
    assert list(sae.feature_names_in_) == NAMES


@pytest.mark.parametrize("name", ["amortisation_gap", "AmortisationGapDisplay"])
def test_another_number_of_features_is_refused(planted, name):
    sae = make_estimator().fit(planted)
    with pytest.raises(ValueError, match="X has 17 features, but"):
        LOOKS[name](sae, np.hstack([planted, planted[:, :1]]))
    assert sae.n_features_in_ == 16
    sae.transform(planted)


def test_the_steps_of_a_pipeline_are_looked_at_likewise(frame):
    pipeline = make_pipeline(StandardScaler(), make_estimator()).set_output(transform="pandas")
    pipeline.fit(frame)
    state = pickle.dumps(pipeline)
    feature_statistics(collect_codes(pipeline, frame))
    assert pickle.dumps(pipeline) == state


@pytest.mark.parametrize("solver", ["alternating", "lasso"])
def test_one_gram_matrix_serves_the_fit_its_statistics_and_transform(planted, solver, monkeypatch):
    n_made, plain = [], CODERS["lasso"]

    def lasso(*args, **kwargs):
        n_made.append(1)
        return plain(*args, **kwargs)

    monkeypatch.setitem(CODERS, "lasso", lasso)
    lasso.signed, lasso.uses = plain.signed, plain.uses
    estimator = make_estimator(solver=solver).fit(planted)
    estimator.transform(planted)
    estimator.score(planted)
    assert len(n_made) == 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_fitted_dictionary_is_on_the_memory_of_the_attributes(planted, solver):
    estimator = make_estimator(solver=solver).fit(planted)
    dictionary = estimator.dictionary_
    assert dictionary is estimator.dictionary_
    copied = pickle.loads(pickle.dumps(estimator)).dictionary_
    for mine, theirs in zip(dictionary.tensors, copied.tensors, strict=True):
        assert torch.equal(mine, theirs)
    codes = estimator.transform(planted[:200])
    estimator.components_[:] = estimator.components_[::-1].copy()
    estimator.intercept_ += 1
    edited = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(estimator.transform(planted), edited.transform(planted))
    assert not np.array_equal(estimator.transform(planted[:200]), codes)


# -- going on from what has been learned -------------------------------------------------------


def mean_objective(estimator, X):
    return objective(estimator, X, estimator.transform(X), estimator.alpha_)


@pytest.fixture(scope="module")
def synthetic():
    return make_superposition(3000, 16, 32, l0=2.0, noise=0.05, random_state=0)[:2]


@pytest.mark.slow
@pytest.mark.parametrize("solver", LEARN_FROM_STREAMS)
def test_a_small_portion_after_fit_does_not_count_for_all(synthetic, solver):
    """As it does not after the same data in a stream, and in scikit-learn's own estimator."""
    X, dictionary = synthetic
    estimator = make_estimator(solver=solver, max_iter=5).fit(X)
    before = mean_objective(estimator, X), dictionary_recovery(estimator.components_, dictionary)
    for start in (0, 20, 40):
        estimator.partial_fit(X[start : start + 20])
        after = (
            mean_objective(estimator, X),
            dictionary_recovery(estimator.components_, dictionary),
        )
        np.testing.assert_allclose(after, before, rtol=0.005)


def test_early_stopping_keeps_what_belongs_to_the_best_pass(synthetic):
    X, _ = synthetic
    estimator = make_estimator(solver="alternating", early_stopping=True, max_iter=6, tol=0.0)
    estimator.fit(X)
    solver = estimator._stream.solver
    np.testing.assert_array_equal(solver.finish(None).components, estimator.components_)


@pytest.mark.slow
@pytest.mark.parametrize("target", [None, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_an_architecture_learned_is_kept(planted, architecture, target):
    """Gradients that do nothing leave everything as it was, but for what batches decide."""
    params = {"architecture": architecture, "n_nonzero_coefs": target, "max_iter": 20}
    estimator = make_estimator(**params).fit(planted)
    want = {name: np.array(value) for name, value in estimator._extra.items()}
    for again in (
        copy.deepcopy(estimator).set_params(learning_rate_init=1e-30).partial_fit(planted[:100]),
        copy.deepcopy(estimator)
        .set_params(learning_rate_init=1e-30, warm_start=True, max_iter=1, batch_size=600)
        .fit(2 * planted[:400]),
    ):
        assert again._extra.keys() == want.keys()
        for name in want.keys() - {"threshold"}:  # which is that of the last batches
            # four steps of thresholds and price, each by two per cent at most
            np.testing.assert_allclose(again._extra[name], want[name], atol=0.081)
        for name in ("encoder_coef_", "encoder_intercept_"):
            np.testing.assert_allclose(
                getattr(again, name), getattr(estimator, name), rtol=1e-6, atol=1e-9
            )


@pytest.mark.slow
def test_the_target_of_jumprelu_is_kept(synthetic):
    X, _ = synthetic
    estimator = SparseAutoencoderDictionary(
        32, architecture="jumprelu", n_nonzero_coefs=3, max_iter=20, random_state=0, device="cpu"
    ).fit(X)
    price = estimator._extra["log_price"][0]
    assert abs(price) > 0.1
    streamed, warm = copy.deepcopy(estimator), copy.deepcopy(estimator)
    l0 = [np.count_nonzero(estimator.transform(X)) / len(X)]
    for _ in range(3):
        l0.append(np.count_nonzero(streamed.partial_fit(X).transform(X)) / len(X))
    warm.set_params(warm_start=True, max_iter=3).fit(X)
    l0.append(np.count_nonzero(warm.transform(X)) / len(X))
    np.testing.assert_allclose(l0, 3, atol=0.15)


@pytest.mark.slow
def test_the_gain_of_gated_is_kept(synthetic):
    """Before, the gate went on as if it were the magnitude, and had to shrink anew."""
    X, _ = synthetic
    estimator = make_estimator(architecture="gated", max_iter=20).fit(X)
    assert np.abs(estimator._extra["log_gain"]).max() > 0.05
    again = copy.deepcopy(estimator).set_params(learning_rate_init=1e-30).partial_fit(X)
    loss = again.loss_curve_[-1]
    assert loss == pytest.approx(estimator.loss_curve_[-1], rel=0.03)


# -- ending early ------------------------------------------------------------------------------


class Stop:
    """A callback that ends the fit after some passes, and looks at each."""

    def __init__(self, n_passes):
        self.n_passes = n_passes
        self.l0 = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        if context.task_name != "pass":
            return False
        self.l0.append(np.count_nonzero(fitted_estimator.transform(X)) / len(X))
        return len(self.l0) == self.n_passes


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "matryoshka", "jumprelu"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_fit_that_is_stopped_early_has_the_l0_that_it_is_named_for(planted, architecture, dtype):
    X = planted.astype(dtype)
    stop = Stop(2)
    params = {"architecture": architecture, "n_nonzero_coefs": 2, "max_iter": 20, "alpha": 0.01}
    estimator = make_estimator(**params).set_callbacks(stop).fit(X)
    assert estimator.n_iter_ == 2
    n_active = np.count_nonzero(estimator.transform(X), axis=1)
    pre_activations = (X - estimator.intercept_) @ estimator.encoder_coef_.T
    n_positive = np.count_nonzero(pre_activations + estimator.encoder_intercept_ > 0, axis=1)
    assert n_positive.mean() > 2
    if architecture == "topk":
        np.testing.assert_array_equal(n_active, np.minimum(n_positive, 2))
    else:
        assert n_active.mean() == pytest.approx(2, abs=0.005)
    assert stop.l0[-1] == n_active.mean()
    assert max(stop.l0) <= 2.005


@pytest.mark.parametrize("architecture", ["batch_topk", "jumprelu"])
def test_a_threshold_of_its_own_is_not_touched(planted, architecture):
    params = {"architecture": architecture, "n_nonzero_coefs": 3, "max_iter": 4}
    plain = make_estimator(**params).fit(planted)
    watched = make_estimator(**params).set_callbacks(Stop(4)).fit(planted)
    np.testing.assert_allclose(watched.threshold_, plain.threshold_, rtol=1e-9)


# -- held out from the beginning ---------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {"solver": "autoencoder"},
        {"solver": "alternating"},
        *({"dict_init": name} for name in ("exemplars", "pca", "ica", "random")),
        {"dict_init": "nmf", "fit_intercept": False, "n_components": 9},
    ],
)
def test_held_out_samples_leave_no_trace(planted, monkeypatch, params):
    held_out = []

    def split(*args):
        parts = whole_split(*args)
        held_out.append(parts[1].index.numpy())
        return parts

    whole_split = Source.split
    monkeypatch.setattr(Source, "split", split)
    options = {"early_stopping": True, "validation_fraction": 0.3, "max_iter": 1, **params}
    X = abs(planted)
    one = make_estimator(**options).fit(X)
    other = X.copy()
    other[held_out[0]] = 7 + 5 * other[held_out[0]][:, ::-1]
    two = make_estimator(**options).fit(other)
    assert len(held_out[0]) == 180
    assert one.alpha_ == two.alpha_
    for name in ("components_", "intercept_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.validation_loss_curve_ != two.validation_loss_curve_


# -- parameters that change in a stream --------------------------------------------------------


def changed(planted, solver, **params):
    """A stream in which parameters change between two portions, and the one without."""
    streams = []
    for given in (params, {}):
        stream = make_estimator(solver=solver, alpha=0.3, batch_size=300).partial_fit(planted)
        streams.append(stream.set_params(**given).partial_fit(planted))
    return streams


@pytest.mark.parametrize("solver", LEARN_FROM_STREAMS)
@pytest.mark.parametrize("params", [{"alpha": 0.6}, {"batch_size": 100}, {"shuffle": False}])
def test_changed_parameters_are_used(planted, solver, params):
    one, other = changed(planted, solver, **params)
    assert not np.array_equal(one.components_, other.components_)
    assert one.alpha_ == params.get("alpha", 0.3)
    assert one.n_steps_ == 2 + (6 if "batch_size" in params else 2)


@pytest.mark.parametrize("params", [{"learning_rate_init": 0.1}, {"architecture": "gated"}])
def test_changed_parameters_of_the_autoencoder_are_used(planted, params):
    one, other = changed(planted, "autoencoder", **params)
    assert not np.array_equal(one.components_, other.components_)


@pytest.mark.slow
@pytest.mark.parametrize("solver", LEARN_FROM_STREAMS)
@pytest.mark.parametrize("first", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    "params",
    [
        {"n_components": 40},
        {"fit_intercept": False},
        {"dict_init": "pca"},
        {"random_state": 1},
        {"fit_intercept": False, "n_components": 40},
    ],
)
def test_parameters_of_the_beginning_cannot_change(planted, solver, first, params):
    estimator = getattr(make_estimator(solver=solver), first)(planted)
    components = estimator.components_.copy()
    with pytest.raises(ValueError, match=f"{' and '.join(params)} cannot change between calls"):
        estimator.set_params(**params).partial_fit(planted)
    np.testing.assert_array_equal(estimator.components_, components)
    estimator.set_params(
        n_components="auto", fit_intercept=True, dict_init=None, random_state=0
    ).partial_fit(planted)


ATOMS = np.random.default_rng(0).normal(size=(32, 16))


@pytest.mark.parametrize("first", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    "hold",
    [
        np.asfortranarray,
        np.ndarray.tolist,
        pd.DataFrame,
        torch.from_numpy,
        lambda atoms: torch.nn.Parameter(torch.from_numpy(atoms)),
        lambda atoms: torch.from_numpy(atoms).to_sparse_csr(),
    ],
)
def test_atoms_that_are_given_stay_those_that_a_stream_began_with(planted, first, hold):
    estimator = getattr(make_estimator(dict_init=hold(ATOMS)), first)(planted)
    estimator.partial_fit(planted)
    copied = pickle.loads(pickle.dumps(estimator)).partial_fit(planted)
    copied.set_params(dict_init=ATOMS.copy()).partial_fit(planted)
    with pytest.raises(ValueError, match="dict_init cannot change between calls"):
        copied.set_params(dict_init=hold(ATOMS + np.eye(32, 16))).partial_fit(planted)


def test_parameters_that_are_out_of_range_are_refused_in_a_stream(planted):
    estimator = make_estimator().partial_fit(planted)
    with pytest.raises(ValueError, match="'alpha' parameter"):
        estimator.set_params(alpha=-1.0).partial_fit(planted)


def test_an_alpha_that_is_automatic_stays(planted):
    estimator = make_estimator(alpha="auto").partial_fit(planted)
    alpha = estimator.alpha_
    assert estimator.partial_fit(3 * planted).alpha_ == alpha
    assert estimator.set_params(alpha=0.5).partial_fit(planted).alpha_ == 0.5


def test_a_stream_of_dictionary_learning_is_that_of_scikit_learn(planted):
    """Its first portion is one pass of `fit`, in batches; the next are batches of their own."""
    options = {"shuffle": False, "solver": "dictionary_learning", "alpha": 0.3}
    estimator = make_estimator(**options).partial_fit(planted)
    learner, atoms = fit_sklearns(planted, 0.3, max_iter=1, shuffle=False)
    np.testing.assert_allclose(estimator.components_, atoms, atol=1e-10)
    centred = planted - planted.mean(axis=0)
    for batch in np.split(centred / np.sqrt(np.mean(centred**2)), 6):
        learner.partial_fit(batch)
    estimator.partial_fit(planted)
    assert estimator.n_steps_ == learner.n_steps_ == 12
    norms = np.linalg.norm(learner.components_, axis=1, keepdims=True)
    np.testing.assert_allclose(estimator.components_, learner.components_ / norms, atol=1e-10)


# -- fits that fail or are interrupted ---------------------------------------------------------


class InterruptedAt:
    """Raise KeyboardInterrupt where the n-th function of skdict is entered."""

    def __init__(self, n):
        self.n = n
        self.entered = 0

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *error):
        sys.setprofile(None)

    def __call__(self, frame, event, arg):
        if event == "call" and ("skdict" + os.sep) in frame.f_code.co_filename:
            self.entered += 1
            if self.entered == self.n:
                raise KeyboardInterrupt


def interrupt_everywhere(former, fit, X):
    """Copies of a fitted estimator whose next fit is interrupted at some points are untouched."""
    for _ in range(2):  # the first time there is more to do
        whole = copy.deepcopy(former)
        with InterruptedAt(None) as counted:
            fit(whole, X)
    assert counted.entered > 30
    n_unheard = 0
    for n in sorted({1, 2, 3, *np.linspace(4, counted.entered - 1, 12, dtype=int).tolist()}):
        interrupted = copy.deepcopy(former)
        untouched = pickle.dumps(vars(interrupted))
        try:
            with InterruptedAt(n):
                fit(interrupted, X)
        except KeyboardInterrupt:
            assert pickle.dumps(vars(interrupted)) == untouched
        else:  # Python does not hear of one while it lets go of a generator: the fit is whole
            np.testing.assert_allclose(interrupted.components_, whole.components_)
            n_unheard += 1
    assert n_unheard <= 2


def goes_on(estimator, X):
    return estimator.partial_fit(X)


def fits_anew(estimator, X):
    return estimator.set_params(**FIT_ANEW).fit(X.to_numpy()[:, :7])


FIT_ANEW = {"n_components": 9}
FITS = {
    **{f"fit {solver}": (solver, fits_anew) for solver in SOLVERS},
    **{f"partial_fit {solver}": (solver, goes_on) for solver in LEARN_FROM_STREAMS},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", FITS)
def test_an_interrupt_at_any_point_leaves_the_former_fit(frame, name):
    solver, fit = FITS[name]
    params = {"solver": solver, "max_iter": 1, "alpha": 0.3, "batch_size": 300}
    former = make_estimator(**params).fit(frame)
    if fit is goes_on:
        former.partial_fit(frame)
    codes = former.transform(frame)
    former.set_params(**(FIT_ANEW if fit is fits_anew else {}))
    state = pickle.dumps(vars(former))
    interrupt_everywhere(former, fit, frame)
    assert pickle.dumps(vars(former)) == state
    np.testing.assert_array_equal(former.transform(frame), codes)
    if fit is goes_on:
        again = make_estimator(**params)
        vars(again).update(pickle.loads(state))
        for estimator in (former, again):
            estimator.partial_fit(frame)
        np.testing.assert_array_equal(former.components_, again.components_)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("solver", LEARN_FROM_STREAMS)
def test_a_fit_that_fails_leaves_the_former_one(frame, solver, method):
    former = getattr(make_estimator(solver=solver), method)(frame)
    codes, state = former.transform(frame), pickle.dumps(vars(former))
    constant, broken = np.ones((50, 5)), frame.to_numpy(copy=True)
    broken[3, 3] = np.nan
    for X in (constant, broken, frame.to_numpy()[:0]):
        with pytest.raises(ValueError):
            former.fit(X)
        assert pickle.dumps(vars(former)) == state
    for X in (constant, broken):
        with pytest.raises(ValueError):
            former.partial_fit(X)
        assert pickle.dumps(vars(former)) == state
    assert former.n_features_in_ == 16
    assert list(former.feature_names_in_) == NAMES
    np.testing.assert_array_equal(former.transform(frame), codes)


def test_a_failed_first_fit_leaves_nothing():
    estimator = make_estimator()
    with pytest.raises(ValueError, match="zero variance"):
        estimator.fit(np.ones((50, 5)))
    assert not fitted_attributes(estimator)
    assert not hasattr(estimator, "n_features_in_")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_choice_of_alpha_that_fails_leaves_the_former_one(frame):
    former = SparseAutoencoderDictionaryCV(
        8, alphas=[0.1, 0.3], cv=2, max_iter=1, random_state=0, device="cpu"
    ).fit(frame)
    codes = former.transform(frame)
    interrupt_everywhere(former, lambda cv, X: cv.fit(X.to_numpy()[:, :7]), frame)
    np.testing.assert_array_equal(former.transform(frame), codes)


# -- fitted attributes are also the user's ------------------------------------------------------

EDITED = ("components_", "intercept_", "encoder_coef_", "encoder_intercept_", "threshold_")


@pytest.mark.parametrize("as_given", [None, np.flip, np.asfortranarray, np.ndarray.tolist])
@pytest.mark.parametrize("algorithm", ["encoder", "lasso", "omp", "threshold"])
def test_codes_follow_attributes_that_are_replaced_and_edited(planted, algorithm, as_given):
    estimator = make_estimator(
        architecture="jumprelu", max_iter=1, transform_algorithm=algorithm
    ).fit(planted)
    for name in EDITED:
        if as_given is not None:
            setattr(estimator, name, as_given(getattr(estimator, name)))
        for _ in range(2):
            codes = estimator.transform(planted)
            fresh = pickle.loads(pickle.dumps(estimator))
            np.testing.assert_array_equal(codes, fresh.transform(planted), err_msg=name)
            array = getattr(estimator, name)  # now edit it in place
            array[0] = 0.5 if np.ndim(array) == 1 else [0.5] * len(array[0])


@pytest.mark.parametrize("algorithm", ["encoder", "lasso", "omp", "threshold"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64])
def test_attributes_may_be_replaced_by_those_of_another_dtype(planted, dtype, algorithm):
    X = planted.astype(np.float32)
    params = {"architecture": "jumprelu", "max_iter": 1, "transform_algorithm": algorithm}
    estimator = make_estimator(**params).fit(X)
    for name in EDITED:
        replaced, witness = (copy.deepcopy(estimator) for _ in range(2))
        array = np.ceil(getattr(estimator, name)).clip(-2, 2)  # every dtype holds these
        setattr(replaced, name, array.astype(dtype))
        setattr(witness, name, array)
        np.testing.assert_array_equal(replaced.transform(X), witness.transform(X), err_msg=name)
        assert replaced.transform(X).dtype == np.float32
        assert replaced.score(X) == pytest.approx(witness.score(X), rel=1e-6)


# -- attributes that are set by hand -----------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["relu", "topk", "batch_topk", "jumprelu"])
def test_attributes_set_by_hand_code_as_their_formula_says(planted, algorithm):
    """Weights from elsewhere, as scikit-learn's decompositions can be filled; codes by NumPy."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(32, 16))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    weight, bias, intercept = atoms + 0.1 * rng.normal(size=(32, 16)), np.full(32, -0.1), atoms[3]
    sae = SparseAutoencoderDictionary(32, architecture=algorithm)
    sae.components_, sae.intercept_ = atoms, intercept
    sae.encoder_coef_, sae.encoder_intercept_ = weight, bias
    sae.alpha_, sae.n_features_in_ = 1.0, 16
    want = np.maximum((planted - intercept) @ weight.T + bias, 0)
    if algorithm == "topk":
        sae.n_nonzero_coefs = 4
        want *= want >= np.sort(want, axis=1)[:, [-4]]
    elif algorithm != "relu":  # both are thresholds when they code
        sae.threshold_ = np.full(32, 0.3)
        want *= want > 0.3
    codes = sae.transform(planted)
    np.testing.assert_allclose(codes, want, atol=1e-9)
    np.testing.assert_allclose(sae.inverse_transform(codes), want @ atoms + intercept)
    again = pickle.loads(pickle.dumps(sae)).set_params(sparse_output=True).transform(planted)
    np.testing.assert_array_equal(again.toarray(), codes)
