"""compare_dictionaries: every column recomputed from the estimators' public methods."""

import builtins

import numpy as np
import pandas as pd
import pytest
import torch
from dictionary_testing import make_estimator, objective
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.decomposition import NMF, PCA, DictionaryLearning, FastICA
from sklearn.exceptions import FitFailedWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdict.datasets import load_one_layer_transformer
from skdict.decomposition import SparseAutoencoderDictionary, compare_dictionaries
from skdict.decomposition._settings import settings
from skdict.decomposition.architectures import BatchTopK
from skdict.feature_extraction import ActivationExtractor
from skdict.metrics import ParetoDisplay, explained_variance, loss_recovered, mean_l0


@pytest.fixture(scope="module")
def train(planted):
    return planted[:400]


@pytest.fixture(scope="module")
def test(planted):
    return planted[400:]


@pytest.fixture(scope="module")
def candidates():
    return {
        "SAE": make_estimator(),
        "codebook": make_estimator(solver="kmeans"),
        "exemplars": make_estimator(solver="lasso", transform_alpha=0.3),
    }


@pytest.fixture(scope="module")
def table(candidates, train, test):
    algorithms = ("encoder", "lasso", "omp", "threshold")
    return compare_dictionaries(
        candidates, train, test, transform_algorithms=algorithms, budgets=[2, 4.5], alpha=0.2
    )


def test_rows(table):
    assert isinstance(table, pd.DataFrame)
    rows = list(zip(table.dictionary, table.transform_algorithm, table.budget, strict=True))
    budgets = [
        (algorithm, budget) for algorithm in ("lasso", "omp", "threshold") for budget in (2, 4.5)
    ]
    want = [
        (name, *way)
        for name, has_encoder in (("SAE", True), ("codebook", True), ("exemplars", False))
        for way in [*([("encoder", np.nan)] if has_encoder else []), *budgets]
    ]
    assert [row[:2] for row in rows] == [row[:2] for row in want]
    np.testing.assert_array_equal([row[2] for row in rows], [row[2] for row in want])
    assert (table.n_components == 32).all()
    assert (table.fit_seconds > 0).all() and (table.transform_seconds > 0).all()


def test_columns_are_those_of_a_fit_by_hand(candidates, table, train, test):
    """Fitted with the parameters of the row from the start: nothing is left of other ones."""
    for row in table.itertuples():
        by_hand = clone(candidates[row.dictionary]).set_params(
            transform_algorithm=row.transform_algorithm
        )
        if row.transform_algorithm == "omp":
            by_hand.set_params(transform_n_nonzero_coefs=round(row.budget))
        elif row.transform_algorithm != "encoder":
            by_hand.set_params(transform_alpha=row.transform_alpha)
        codes = by_hand.fit(train).transform(test)
        assert row.l0 == pytest.approx(mean_l0(codes))
        reconstruction = by_hand.inverse_transform(codes)
        assert row.explained_variance == pytest.approx(explained_variance(test, reconstruction))
        assert row.objective == pytest.approx(objective(by_hand, test, codes, 0.2))
        assert row.score == pytest.approx(by_hand.score(test), rel=1e-6)


def test_l0_is_what_was_asked_for(table):
    coded = table[table.transform_algorithm.isin(["lasso", "threshold"])]
    np.testing.assert_allclose(coded.l0, coded.budget, rtol=0.02)
    pursuit = table[table.transform_algorithm == "omp"]
    np.testing.assert_array_equal(pursuit.l0, np.round(pursuit.budget))
    # an optimal code is no worse than a shrunk correlation
    for name in table.dictionary.unique():
        at = coded[(coded.dictionary == name) & (coded.budget == 2)].set_index(
            "transform_algorithm"
        )
        assert at.explained_variance.lasso >= at.explained_variance.threshold - 1e-9


def test_without_budgets_all_is_as_the_estimator_has_it(candidates, train, test):
    table = compare_dictionaries(
        candidates, train, test, transform_algorithms=["auto", "lasso", "omp"]
    )
    ways = list(zip(table.dictionary, table.transform_algorithm, strict=True))
    assert ways[-2:] == [("exemplars", "lasso"), ("exemplars", "omp")]  # "auto" is "lasso" here
    lasso = table[table.transform_algorithm == "lasso"].set_index("dictionary")
    assert lasso.transform_alpha.exemplars == 0.3
    alpha = make_estimator().fit(train).alpha_
    assert alpha == lasso.transform_alpha.SAE
    assert (table[table.transform_algorithm == "omp"].l0 == 1).all()  # a tenth of 16
    auto = clone(candidates["SAE"]).fit(train)
    own = table[(table.dictionary == "SAE") & (table.transform_algorithm == "encoder")]
    want = objective(auto, test, auto.transform(test), alpha)
    assert own.objective.item() == pytest.approx(want)  # by default the alpha of "auto"


def test_fitted_estimators_stay_as_they_are(candidates, train, test):
    fitted = {name: clone(estimator).fit(train) for name, estimator in candidates.items()}
    before = {name: dict(vars(estimator)) for name, estimator in fitted.items()}
    table = compare_dictionaries(fitted, train, test, transform_algorithms="omp", budgets=[3])
    assert table.fit_seconds.isna().all()
    for name, estimator in fitted.items():
        assert vars(estimator).keys() == before[name].keys()
        assert all(vars(estimator)[key] is value for key, value in before[name].items())
    again = compare_dictionaries(candidates, train, test, transform_algorithms="omp", budgets=[3])
    for column in ("l0", "explained_variance", "objective", "score"):
        np.testing.assert_allclose(table[column], again[column])
    assert not hasattr(candidates["SAE"], "components_")


def test_parameters_that_were_changed_after_the_fit(train, test):
    """The score is that of the codes that are compared, not of those of the fit."""
    options = {"transform_algorithm": "omp", "transform_n_nonzero_coefs": 3}
    changed = make_estimator(solver="lasso").fit(train).set_params(**options)
    own = compare_dictionaries({"exemplars": changed}, train, test)
    assert list(own.transform_algorithm) == ["omp"]  # "auto" is what the estimator says
    fresh = make_estimator(solver="lasso", **options).fit(train)
    assert own.score[0] == pytest.approx(fresh.score(test))
    assert own.score[0] != pytest.approx(changed.score(test))


def test_l0_is_matched_on_part_of_many_samples(train, test, monkeypatch):
    monkeypatch.setattr("skdict.decomposition._comparison.N_MATCHED_SAMPLES", 50)
    exemplars = {"exemplars": make_estimator(solver="lasso")}
    table = compare_dictionaries(
        exemplars, train, test, transform_algorithms=["lasso"], budgets=[3]
    )
    assert table.l0[0] == pytest.approx(3, rel=0.15)
    estimator = make_estimator(solver="lasso", transform_alpha=table.transform_alpha[0])
    assert mean_l0(estimator.fit(train).transform(test[::4])) == pytest.approx(3, rel=0.02)


@pytest.mark.parametrize("budget", [0.3, 17, 100])
def test_budgets_out_of_the_reach_of_pursuit(train, test, budget):
    exemplars = {"exemplars": make_estimator(solver="lasso")}
    options = {"transform_algorithms": ["omp"], "budgets": [2, budget]}
    with pytest.warns(UserWarning, match=f"budget={budget} is out of reach .* between 1 and 16"):
        table = compare_dictionaries(exemplars, train, test, **options)
    assert list(table.budget) == [2]


def test_objective_of_decoders_of_any_norm(train, test):
    """Of FastICA components_ is not the decoder, whitened PCA scales it."""
    estimators = {
        "ica": FastICA(8, random_state=0),
        "whitened": PCA(8, whiten=True),
        "pipeline": make_pipeline(StandardScaler(), PCA(4)),
    }
    table = compare_dictionaries(estimators, train, test, alpha=1.0)
    ica, whitened = (clone(estimators[name]).fit(train) for name in ("ica", "whitened"))
    scales = np.sqrt(whitened.explained_variance_)
    for i, fitted, size in (
        (0, ica, np.linalg.norm(ica.mixing_, axis=0)),
        (1, whitened, scales),
    ):
        codes = fitted.transform(test)
        squares = ((test - fitted.inverse_transform(codes)) ** 2).sum(axis=1)
        assert table.objective[i] == pytest.approx(np.mean(0.5 * squares + abs(codes) @ size))
    assert table.l0[2] == 4


def test_estimators_of_other_libraries_with_other_input_and_output(train, test):
    plain = compare_dictionaries({"PCA": PCA(3)}, train, test)
    frames = compare_dictionaries(
        {"PCA": PCA(3).set_output(transform="pandas")},
        torch.as_tensor(train).bfloat16(),
        torch.as_tensor(test).bfloat16(),
    )
    assert frames.l0[0] == 3
    assert frames.explained_variance[0] == pytest.approx(plain.explained_variance[0], abs=0.01)


@pytest.mark.slow
def test_estimators_of_other_libraries(train, test):
    X, T = train - train.min(), test - train.min()
    others = {
        "PCA": [PCA(3), PCA(5)],
        "NMF": NMF(8, max_iter=500),
        "sklearn": DictionaryLearning(8, max_iter=5, transform_algorithm="omp", random_state=0),
    }
    table = compare_dictionaries(
        others, X, T, transform_algorithms=("encoder", "lasso"), budgets=[2], alpha=0.1
    )
    assert list(table.dictionary) == ["PCA", "PCA", "NMF", "sklearn"]
    assert list(table.setting) == ["n_components=3", "n_components=5", "", ""]
    assert (table.transform_algorithm == "transform").all()
    assert list(table.n_components) == [3, 5, 8, 8]
    assert table.score.isna().all()
    pca = PCA(3).fit(X)
    codes = pca.transform(T)
    assert table.l0[0] == 3
    reconstruction = pca.inverse_transform(codes)
    assert table.explained_variance[0] == pytest.approx(explained_variance(T, reconstruction))
    squares = ((T - reconstruction) ** 2).sum(axis=1)
    assert table.objective[0] == pytest.approx(
        np.mean(0.5 * squares + 0.1 * abs(codes).sum(axis=1))
    )
    nmf = NMF(8, max_iter=500).fit(X)  # atoms of any norm: the objective has unit-norm ones
    codes = nmf.transform(T)
    squares = ((T - nmf.inverse_transform(codes)) ** 2).sum(axis=1)
    l1 = codes @ np.linalg.norm(nmf.components_, axis=1)
    assert table.objective[2] == pytest.approx(np.mean(0.5 * squares + 0.1 * l1), rel=1e-4)


@pytest.mark.parametrize(
    "as_kind", [torch.as_tensor, csr_array, pd.DataFrame], ids=["tensor", "csr", "frame"]
)
def test_kinds_of_input(candidates, table, train, test, as_kind):
    other = compare_dictionaries(
        {"SAE": candidates["SAE"]},
        as_kind(train),
        as_kind(test),
        transform_algorithms=("encoder", "lasso"),
        budgets=[2],
        alpha=0.2,
    )
    for column in ("l0", "explained_variance", "objective", "score"):
        np.testing.assert_allclose(other[column], table[column][:2], rtol=1e-6)


def test_float32_and_sparse_output(candidates, table, train, test):
    other = compare_dictionaries(
        {"SAE": clone(candidates["SAE"]).set_params(sparse_output=True)},
        train.astype(np.float32),
        test.astype(np.float32),
        alpha=0.2,
    )
    assert other.explained_variance[0] == pytest.approx(table.explained_variance[0], abs=1e-3)


def test_a_budget_out_of_reach_is_left_out(train, test):
    few = SparseAutoencoderDictionary(solver="lasso", dict_init=np.eye(16)[:4])
    with pytest.warns(
        UserWarning, match=r"budget=3 is out of reach of 'few' with 'lasso': its L0"
    ):
        table = compare_dictionaries(
            {"few": few}, train, test, transform_algorithms=("lasso",), budgets=[1, 3]
        )
    assert list(table.budget) == [1]
    tiny = compare_dictionaries(
        {"few": few}, train, test, transform_algorithms=("lasso",), budgets=[1e-6]
    )
    assert tiny.l0[0] < 0.01
    against = SparseAutoencoderDictionary(solver="lasso", dict_init=-np.ones((1, 16)))
    with pytest.warns(UserWarning, match="budget=1 is out of reach of 'none'"):
        compare_dictionaries(
            {"few": few, "none": against.set_params(fit_intercept=False)},
            abs(train),
            abs(test),
            transform_algorithms=("lasso",),
            budgets=[1],
        )


class Failing(PCA):
    """PCA that can be fitted, and cannot code more than a few rows."""

    def transform(self, X):
        if len(X) > 64:
            raise RuntimeError("out of order")
        return super().transform(X)


def test_an_estimator_that_fails_is_named_and_the_others_go_on(train, test):
    """Rows of the others as without it: wherever it stands, whenever it fails."""
    good = {"PCA": PCA(3), "own": make_estimator(solver="lasso")}
    want = compare_dictionaries(good, train, test, alpha=0.2)
    bad = {
        "PCA": [PCA(3), PCA(300)],  # more components than features
        "failing": Failing(2),
        "own": good["own"],
    }
    with pytest.warns(FitFailedWarning) as caught:
        table = compare_dictionaries(bad, train, test, alpha=0.2)
    (warning,) = (str(each.message) for each in caught if each.category is FitFailedWarning)
    assert "2 of the estimators could not be compared" in warning
    assert "'PCA' (n_components=300): ValueError: n_components=300 must be" in warning
    assert "'failing': RuntimeError: out of order" in warning
    assert list(table.dictionary) == ["PCA", "PCA", "failing", "own"]
    assert list(table.error == "") == [True, False, False, True]
    assert table.error[2] == "RuntimeError: out of order"
    assert list(table.transform_algorithm) == ["transform", "", "transform", "lasso"]
    numbers = ["l0", "explained_variance", "objective", "score", "n_components"]
    assert table[numbers][1:3].isna().all(axis=None)
    np.testing.assert_array_equal(table[numbers].iloc[[0, 3]], want[numbers])
    assert list(ParetoDisplay.from_comparison(table).lines_) == ["PCA", "own, lasso"]
    with pytest.raises(ValueError, match="None of the estimators could be compared:\n- 'failing'"):
        compare_dictionaries({"failing": Failing(2)}, train, test)


def test_what_is_compiled_is_not_timed(train, test, monkeypatch):
    """By a clock that goes on by an hour at the first fit in a process, and by a second later."""
    clock, n_fits = [0.0], [0]
    fit = SparseAutoencoderDictionary.fit

    def slow(self, X, y=None):
        clock[0] += 1 if n_fits[0] else 3600
        n_fits[0] += 1
        return fit(self, X, y)

    monkeypatch.setattr(SparseAutoencoderDictionary, "fit", slow)
    monkeypatch.setattr("skdict.decomposition._comparison.time.perf_counter", lambda: clock[0])
    sae = SparseAutoencoderDictionary(16, max_iter=1, random_state=0)
    table = compare_dictionaries({"first": sae, "second": clone(sae)}, train, test)
    assert list(table["fit_seconds"]) == [1, 1]


def test_settings_tell_estimators_of_a_list_apart():
    sae = SparseAutoencoderDictionary
    assert settings([PCA(3)]) == [""]
    grid = [sae(8, alpha=a, n_nonzero_coefs=k) for a in (0.123456, 2) for k in (1, 2)]
    assert settings(grid) == [
        "alpha=0.1235, n_nonzero_coefs=1",
        "alpha=0.1235, n_nonzero_coefs=2",
        "alpha=2, n_nonzero_coefs=1",
        "alpha=2, n_nonzero_coefs=2",
    ]
    nested = [sae(8, architecture=BatchTopK(k=k)) for k in (1, 2)]
    assert settings(nested) == ["architecture__k=1", "architecture__k=2"]
    kinds = settings([PCA(3), NMF(4)])
    assert kinds[0].startswith("PCA, n_components=3") and kinds[1].startswith("NMF, n_comp")
    # fitted on different samples; differing in what is not shown
    assert settings([PCA(3), PCA(3)]) == ["[0]", "[1]"]
    atoms = [sae(dict_init=np.eye(9) + i * np.eye(9)[8]) for i in (0, 1)]
    assert len(set(settings(atoms))) == 2


def test_without_pandas(candidates, table, train, test, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    columns = compare_dictionaries({"SAE": candidates["SAE"]}, train, test, alpha=0.2)
    assert isinstance(columns, dict)
    assert set(columns) == set(table.columns)
    assert columns["l0"].tolist() == [table.l0[0]]


@pytest.mark.slow
def test_loss_recovered_of_every_row():
    language = load_one_layer_transformer()
    texts = [
        "import numpy as np\n",
        "for i in range(10):\n    print(i)\n",
        "def f(x):\n    pass\n",
    ]
    layer = "transformer.h.0.mlp.act"
    X = ActivationExtractor(language.model, layer, tokenizer=language.tokenizer).fit_transform(
        texts
    )
    model = {"model": language.model, "layer": layer, "texts": texts}
    model["tokenizer"] = language.tokenizer
    estimator = SparseAutoencoderDictionary(16, solver="lasso", random_state=0)
    table = compare_dictionaries(
        {"exemplars": estimator, "PCA": PCA(4, random_state=0)},
        X,
        X,
        transform_algorithms=("lasso", "omp"),
        budgets=[3],
        loss_recovered_params=model,
    )
    estimator = clone(estimator).set_params(transform_algorithm="omp", transform_n_nonzero_coefs=3)
    want = loss_recovered(dictionary=estimator.fit(X), **model)
    assert table.transform_algorithm[1] == "omp"
    for column in ("loss_recovered_zero", "loss_recovered_mean", "delta_cross_entropy"):
        assert table[column][1] == pytest.approx(want[column], rel=1e-4)
    assert table.loss_recovered_zero.nunique() == 3
    with pytest.warns(FitFailedWarning, match="'bad'"):
        beside = compare_dictionaries(
            {"bad": PCA(9999), "PCA": PCA(4, random_state=0)}, X, X, loss_recovered_params=model
        )
    assert np.isnan(beside.loss_recovered_zero[0])
    assert beside.loss_recovered_zero[1] == pytest.approx(table.loss_recovered_zero[2], rel=1e-4)


def test_the_picture(table):
    display = ParetoDisplay.from_comparison(table)
    assert "SAE, encoder" in display.lines_ and "exemplars, omp" in display.lines_
    assert len(display.lines_) == 11
    x, y = display.lines_["SAE, lasso"].get_data()
    of_line = table[(table.dictionary == "SAE") & (table.transform_algorithm == "lasso")]
    np.testing.assert_array_equal(x, of_line.l0)
    np.testing.assert_array_equal(y, of_line.explained_variance)
    with pytest.raises(ValueError, match="no dictionary and no transform_algorithm"):
        ParetoDisplay.from_comparison({"l0": [1], "explained_variance": [1]})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"estimators": {}}, TypeError, "estimators must be a dict"),
        ({"estimators": [PCA()]}, TypeError, "estimators must be a dict"),
        (
            {"estimators": {"x": KeyError}},
            TypeError,
            r"estimators\['x'\] is a type without fit and transform and inverse_transform",
        ),
        (
            {"transform_algorithms": ("lars",)},
            ValueError,
            r"\('lars',\): give one or more of auto",
        ),
        ({"transform_algorithms": ()}, ValueError, "give one or more of auto"),
        ({"transform_algorithms": None}, ValueError, "give one or more of auto"),
        (
            {"estimators": {"1": PCA(1), "2": PCA(1), 1: PCA(2)}},
            ValueError,
            "estimators has the names '1' and 1, which are the same in a table",
        ),
        ({"estimators": {"x": []}}, ValueError, r"estimators\['x'\] is empty"),
        ({"budgets": []}, ValueError, r"budgets=\[\]: give a sequence"),
        ({"budgets": [0, 3]}, ValueError, r"budgets=\[0, 3\]: .* finite and greater than 0"),
        ({"budgets": [np.inf]}, ValueError, r"budgets=\[inf\]: .* finite and greater than 0"),
        ({"budgets": ["x"]}, TypeError, "budgets must be an array of real numbers"),
        ({"budgets": 3}, ValueError, r"budgets must be one-dimensional, but has shape \(\)"),
        (
            {
                "estimators": {"x": SparseAutoencoderDictionary(4, solver="lasso")},
                "transform_algorithms": "encoder",
            },
            ValueError,
            "There is nothing to compare",
        ),
        ({"loss_recovered_params": {"texts": []}}, TypeError, "missing a required argument"),
        ({"X_test": np.ones((5, 16))}, ValueError, "X_test has zero variance"),
        ({"alpha": -1}, ValueError, r"'alpha' .* in the range \[0.0, inf\) or None. Got -1"),
        ({"X_test": np.ones((5, 3))}, ValueError, "X_train has 16 features, but X_test has 3"),
        ({"X_test": np.full((5, 16), np.nan)}, ValueError, "Input X_test contains NaN"),
        ({"X_train": np.ones((1, 16))}, ValueError, "minimum of 2 is required"),
    ],
)
def test_bad_input(train, test, changes, error, message):
    given = {"estimators": {"PCA": PCA(2)}, "X_train": train, "X_test": test, **changes}
    with pytest.raises(error, match=message):
        compare_dictionaries(**given)


def test_an_estimator_fitted_on_other_features(train, test, candidates):
    fitted = clone(candidates["SAE"]).fit(train[:, :5])
    with pytest.raises(ValueError, match=r"estimators\['SAE'\] was fitted on 5 features, but"):
        compare_dictionaries({"SAE": fitted}, train, test)
