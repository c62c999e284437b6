"""DocumentFeatures: codes of tokens, pooled per text, against a loop over texts."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skdict import ActivationExtractor, SparseAutoencoderDictionary
from skdict._core.language.network import Network
from skdict.feature_extraction import DocumentFeatures, _documents

LAYER = "bert.encoder.layer.1"
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class Letters(TransformerMixin, BaseEstimator):
    """An extractor whose tokens are lower-case letters and whose activations are one-hot."""

    def __init__(self, shuffled=False, n_extra=0):
        self.shuffled = shuffled
        self.n_extra = n_extra

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        letters = [letter for text in X for letter in text if letter in ALPHABET]
        index = [ALPHABET.index(letter) for letter in letters]
        return np.eye(26, dtype=np.float32)[index + [0] * self.n_extra]

    def tokens(self, X):
        if any("!" in text for text in X):
            raise ValueError(f"X[{['!' in text for text in X].index(True)}] is too loud.")
        document = [i for i, text in enumerate(X) for letter in text if letter in ALPHABET]
        return {"document": np.array(document[:: -1 if self.shuffled else 1], dtype=int)}


class Recorder:
    """A callback that records the tasks. With a depth, it is propagated to the steps."""

    max_propagation_depth = None

    def __init__(self):
        self.tasks = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        self.tasks.append((type(estimator).__name__, context.task_name))

    def on_fit_task_end(self, estimator, context):
        pass


def sae(**params):
    return SparseAutoencoderDictionary(**({"n_components": 24, "max_iter": 2} | params))


DICTIONARIES = {
    "dense": sae(random_state=0),
    "sparse": sae(random_state=0, sparse_output=True),
    "lasso": SparseAutoencoderDictionary(24, random_state=0, solver="lasso", alpha=0.1),
    "pca": PCA(5),
    "pipeline": make_pipeline(StandardScaler(), PCA(4)),
}


@pytest.fixture
def extractor(bert_folder):
    return ActivationExtractor(bert_folder, LAYER, max_length=9, long_documents="window")


def small_portions(monkeypatch, characters=50, codes=48, first=3):
    monkeypatch.setattr("skdict._core.language.texts.CHARACTERS_AT_ONCE", characters)
    monkeypatch.setattr(_documents, "CODES_AT_ONCE", codes)
    monkeypatch.setattr(_documents, "FIRST_BLOCK", first)


@pytest.mark.parametrize("name", DICTIONARIES)
@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_equal_to_a_loop_over_texts(pooling, name, extractor, texts):
    dictionary = DICTIONARIES[name]
    features = DocumentFeatures(extractor, dictionary, pooling=pooling)
    pooled = features.fit_transform(texts)

    fitted = clone(dictionary).fit(extractor.transform(texts))
    expected = []
    for text in texts:
        codes = fitted.transform(extractor.transform([text]))
        codes = codes.toarray() if sparse.issparse(codes) else codes
        expected.append(getattr(codes, pooling)(axis=0))
    np.testing.assert_allclose(pooled.toarray(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        features.transform(texts).toarray(), pooled.toarray(), rtol=1e-4, atol=1e-5
    )
    assert pooled.format == "csr"
    assert pooled.dtype == np.float32
    assert pooled.has_canonical_format
    assert (pooled.data != 0).all()


@pytest.mark.parametrize("spaces", ["", " "])
def test_one_hot_activations_give_counts_of_letters(spaces, monkeypatch):
    """With the identity in place of a dictionary, pooling is counting."""
    rng = np.random.default_rng(0)
    texts = [
        "".join(rng.choice(list(ALPHABET), size)) + spaces for size in rng.integers(1, 40, 60)
    ]
    counts = CountVectorizer(analyzer="char", vocabulary=list(ALPHABET)).transform(texts).toarray()
    small_portions(monkeypatch, characters=200, codes=26 * 7)
    features = DocumentFeatures(Letters(), FunctionTransformer())
    np.testing.assert_array_equal(features.fit_transform(texts).toarray(), counts > 0)
    np.testing.assert_allclose(
        features.set_params(pooling="mean").transform(texts).toarray(),
        counts / counts.sum(axis=1, keepdims=True),
        rtol=1e-6,
    )


def test_a_text_without_rows_has_no_features():
    features = DocumentFeatures(Letters(), FunctionTransformer(), pooling="mean")
    pooled = features.fit_transform(["?", "ab", "1", "2", "b", "?"]).toarray()
    expected = np.zeros((6, 26))
    expected[1, :2], expected[4, 1] = 0.5, 1
    np.testing.assert_array_equal(pooled, expected)


def test_maximum_of_negative_codes():
    negative = FunctionTransformer(lambda X: X - 2)
    pooled = DocumentFeatures(Letters(), negative).fit_transform(["ab", "b"]).toarray()
    np.testing.assert_array_equal(pooled[:, :3], [[-1, -1, -2], [-2, -1, -2]])


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (30, 100, 2), (10**6, 24, 1), (60, 10**6, 10**6)])
def test_portions_do_not_matter(sizes, pooling, extractor, texts, monkeypatch):
    features = DocumentFeatures(extractor, sae(random_state=0), pooling=pooling).fit(texts)
    whole = features.transform(texts)
    fitted_whole = clone(features).fit_transform(texts)
    small_portions(monkeypatch, *sizes)
    for other in (features.transform(texts), clone(features).fit_transform(texts)):
        np.testing.assert_allclose(other.toarray(), whole.toarray(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted_whole.toarray(), whole.toarray(), rtol=1e-4, atol=1e-5)


def test_memory_is_bounded_by_the_portion(monkeypatch):
    """All activations, or all codes, are never in memory at once."""
    n_rows = {"extractor": [], "dictionary": []}

    class Watched(Letters):
        def transform(self, X):
            rows = super().transform(X)
            n_rows["extractor"].append(len(rows))
            return rows

    def code(X):
        n_rows["dictionary"].append(len(X))
        return X

    texts = ["abcde"] * 100
    dictionary = FrozenEstimator(FunctionTransformer(code).fit(np.zeros((1, 26))))
    features = DocumentFeatures(Watched(), dictionary).fit(texts)
    assert n_rows == {"extractor": [], "dictionary": []}
    small_portions(monkeypatch, characters=104, codes=26 * 8, first=2)
    for run in (features.transform, features.fit_transform):
        run(texts)
        assert n_rows["extractor"] == [100] * 5
        assert max(n_rows["dictionary"]) == 8
        assert sum(n_rows["dictionary"]) == 500
        n_rows["extractor"].clear(), n_rows["dictionary"].clear()
    run(["abc", "a" * 300, "b"])  # a longer text is a portion by itself
    assert n_rows["extractor"] == [3, 300, 1]


@pytest.fixture
def counted(bert, monkeypatch):
    """A ready model, its tokenizer, and a list of the token ids that it was run on.

    Without a hook: what it writes to would be part of what the cache knows the model by.
    """
    model, tokenizer = bert
    run, seen = Network.run, []

    def note(network, arguments, keywords):
        if arguments[0].max() > 1:  # the passes at the first use of a layer have 0 and 1 only
            seen.extend(arguments[0])
        return run(network, arguments, keywords)

    monkeypatch.setattr(Network, "run", note)
    return model, tokenizer, seen


def test_how_often_the_model_runs(counted, texts, tmp_path):
    model, tokenizer, seen = counted
    extractor = ActivationExtractor(model, LAYER, tokenizer=tokenizer)
    features = DocumentFeatures(extractor, PCA(3))
    features.fit_transform(texts)
    assert len(seen) == len(texts)
    features.fit(texts).transform(texts)
    assert len(seen) == 3 * len(texts)

    seen.clear()
    frozen = DocumentFeatures(extractor, FrozenEstimator(features.dictionary_))
    frozen.fit(texts)
    assert seen == []
    frozen.fit_transform(texts)
    assert len(seen) == len(texts)

    seen.clear()
    features.set_params(extractor__cache=tmp_path)
    features.fit(texts).transform(texts)
    clone(features).fit_transform(texts)
    assert len(seen) == len(set(texts))


def test_frozen_dictionary(extractor, texts):
    fitted = sae(random_state=0).fit(extractor.transform(texts[:3]))
    atoms = fitted.components_.copy()
    features = DocumentFeatures(extractor, FrozenEstimator(fitted))
    expected = np.stack([fitted.transform(extractor.transform([t])).max(axis=0) for t in texts])
    for found in (features.fit_transform(texts), clone(features).fit(texts[3:]).transform(texts)):
        np.testing.assert_allclose(found.toarray(), expected, rtol=1e-4, atol=1e-5)
    assert features.dictionary_.estimator is fitted
    np.testing.assert_array_equal(fitted.components_, atoms)
    with pytest.raises(NotFittedError):
        DocumentFeatures(extractor, FrozenEstimator(sae())).fit(texts)


def test_steps_that_are_given_are_left_alone(extractor, texts):
    dictionary = sae(random_state=0)
    features = DocumentFeatures(extractor, dictionary).fit(texts)
    assert not hasattr(dictionary, "components_")
    assert features.extractor_ is not extractor
    before = features.transform(texts).toarray()
    extractor.set_params(layer="bert.encoder.layer.0")  # has no effect without a new fit
    np.testing.assert_array_equal(features.transform(texts).toarray(), before)


def test_sparse_interface(extractor, texts):
    features = DocumentFeatures(extractor, PCA(3)).fit(texts)
    for interface, kind in (("sparray", sparse.csr_array), ("spmatrix", sparse.csr_matrix)):
        with sklearn.config_context(sparse_interface=interface):
            assert type(features.transform(texts)) is kind


def test_names_and_columns(extractor, texts):
    frame = pd.DataFrame({"text": texts})
    columns = ColumnTransformer([("code", DocumentFeatures(extractor, PCA(3)), "text")])
    assert columns.fit_transform(frame).shape == (len(texts), 3)
    assert columns.get_feature_names_out().tolist() == ["code__pca0", "code__pca1", "code__pca2"]
    features = DocumentFeatures(extractor, sae()).fit(texts)
    assert features.get_feature_names_out()[-1] == "sparseautoencoderdictionary23"


def test_output_stays_sparse_whatever_is_set(extractor, texts):
    features = DocumentFeatures(extractor, PCA(4, random_state=0))
    assert not hasattr(features, "set_output")
    expected = features.fit_transform(texts).toarray()
    with sklearn.config_context(transform_output="pandas"):
        pooled = clone(features).fit_transform(texts)
    np.testing.assert_allclose(pooled.toarray(), expected, rtol=1e-4, atol=1e-5)

    named = clone(features)
    named.extractor.set_output(transform="polars")
    named.dictionary.set_output(transform="pandas")
    np.testing.assert_allclose(
        named.fit_transform(texts).toarray(), expected, rtol=1e-4, atol=1e-5
    )


def test_clone_and_pickle(extractor, texts):
    features = DocumentFeatures(extractor, sae(random_state=0), pooling="mean").fit(texts)
    expected = features.transform(texts).toarray()
    loaded = pickle.loads(pickle.dumps(features))
    np.testing.assert_array_equal(loaded.transform(texts).toarray(), expected)
    cloned = clone(features)
    assert not hasattr(cloned, "dictionary_")
    np.testing.assert_array_equal(cloned.fit_transform(texts).toarray(), expected)


@pytest.mark.slow
def test_classifier_that_is_searched_over(extractor, texts, tmp_path):
    texts = [*texts[:4], *(text + "  # again" for text in texts[:4])]
    labels = ["import" in text for text in texts]
    pipeline = make_pipeline(
        DocumentFeatures(extractor.set_params(cache=tmp_path), sae(random_state=0)),
        LogisticRegression(C=1e3),
    )
    grid = {
        "documentfeatures__pooling": ["max", "mean"],
        "documentfeatures__dictionary__alpha": [0.01, 0.1],
        "documentfeatures__extractor__layer": [LAYER, "bert.encoder.layer.0"],
    }
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(texts, labels)
    assert search.best_estimator_.score(texts, labels) == 1
    n_layers = {
        params["documentfeatures__extractor__layer"] for params in search.cv_results_["params"]
    }
    assert len(n_layers) == 2


@pytest.mark.parametrize("frozen", [False, True])
def test_callbacks(frozen, extractor, texts):
    dictionary = sae(random_state=0)
    if frozen:
        dictionary = FrozenEstimator(dictionary.fit(extractor.transform(texts)))
    recorder = Recorder()
    features = DocumentFeatures(extractor, dictionary).set_callbacks(recorder)
    features.fit(texts)
    expected = [("DocumentFeatures", "fit"), ("ActivationExtractor", "fit")]
    if not frozen:
        expected += [("ActivationExtractor", "batch")]
        expected += [("SparseAutoencoderDictionary", "fit")]
        expected += [("SparseAutoencoderDictionary", "pass")] * 2
    assert recorder.tasks == expected
    assert pickle.loads(pickle.dumps(features)).transform(texts).shape == (len(texts), 24)


def test_progress_bar(extractor, texts, capsys):
    pytest.importorskip("rich")
    from sklearn.callback import ProgressBar

    pipeline = make_pipeline(DocumentFeatures(extractor, sae()), LogisticRegression())
    pipeline.set_callbacks(ProgressBar(max_propagation_depth=None))
    pipeline.fit(texts, np.arange(len(texts)) % 2)
    shown = capsys.readouterr().out
    assert "DocumentFeatures" in shown
    assert "SparseAutoencoderDictionary" in shown


def test_reprs(extractor):
    features = DocumentFeatures(extractor, sae())
    assert len(repr(features)) < 2000
    html = features._repr_html_()
    assert "ActivationExtractor" in html
    assert "SparseAutoencoderDictionary" in html


def test_tags(extractor):
    tags = DocumentFeatures(extractor, sae()).__sklearn_tags__()
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert tags.requires_fit
    assert not tags.target_tags.required


def test_sklearn_checks_that_apply_to_texts(sklearn_check, extractor):
    """The other checks make an X of numbers, as in test_activations.py."""
    sklearn_check("DocumentFeatures", DocumentFeatures(extractor, PCA(2)))


@pytest.mark.parametrize("method", ["fit", "fit_transform"])
@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"extractor": PCA()}, "'extractor' parameter.*'tokens'"),
        ({"extractor": ActivationExtractor}, "'extractor' parameter|Cannot clone"),
        ({"dictionary": LogisticRegression()}, "'dictionary' parameter.*'transform'"),
        ({"dictionary": None}, "'dictionary' parameter"),
        ({"pooling": "last"}, "'pooling' parameter"),
        ({"pooling": None}, "'pooling' parameter"),
        ({"extractor__pooling": "mean"}, "a row for each token.*pooling='mean'.*Set pooling=None"),
        ({"extractor__tokenizer": None}, "a row for each token.*tokenizer=None.*a tokenizer"),
        ({"dictionary__svd_solver": "best"}, "'svd_solver' parameter"),
        ({"extractor__layer": "nowhere"}, "names no submodule"),
        ({"extractor": Letters(shuffled=True)}, "must be ascending"),
        ({"extractor": Letters(n_extra=1)}, "gives 9 rows, but its tokens.* has 8"),
    ],
    ids=str,
)
def test_bad_parameters(method, params, match, extractor):
    features = DocumentFeatures(clone(extractor), PCA(2)).set_params(**params)
    with pytest.raises((ValueError, TypeError), match=match):
        getattr(features, method)(["import", "as"])
        features.transform(["import", "as"])


@pytest.mark.parametrize("method", ["fit", "fit_transform", "transform"])
@pytest.mark.parametrize(
    ("X", "match"),
    [
        ("import numpy", r"Wrap it in a list"),
        ([], "X is empty"),
        (["a", ""], r"X has 1 text that is empty: X\[1\]"),
        (["a", None], r"X\[1\] must be a str"),
        (np.zeros((3, 2)), r"X must be a one-dimensional list of texts"),
        (["import numpy"] * 5 + [" \n"], r"no tokens besides special ones: X\[5\]"),
    ],
    ids=["string", "nothing", "empty", "None", "array", "spaces"],
)
def test_bad_texts(method, X, match, extractor, texts, monkeypatch):
    features = DocumentFeatures(extractor, PCA(2)).fit(texts)
    small_portions(monkeypatch, characters=20)
    with pytest.raises((ValueError, TypeError), match=match):
        getattr(features, method)(X)


def test_bad_texts_are_found_before_the_model_runs(counted, texts, monkeypatch):
    model, tokenizer, seen = counted
    extractor = ActivationExtractor(model, LAYER, tokenizer=tokenizer)
    features = DocumentFeatures(extractor, PCA(2)).fit(texts)
    seen.clear()
    small_portions(monkeypatch, characters=20)
    with pytest.raises(ValueError, match=r"has no tokens besides special ones: X\[7\]"):
        features.transform([*texts, " "])
    assert seen == []


def test_no_text_has_a_row():
    features = DocumentFeatures(Letters(), FunctionTransformer()).fit(["a"])
    with pytest.raises(ValueError, match="None of the texts in X has a token"):
        features.transform(["?", "1"])


def test_complaints_of_an_extractor_name_the_place_in_all_texts(monkeypatch):
    small_portions(monkeypatch, characters=2)
    with pytest.raises(ValueError, match=r"X\[3\] is too loud"):
        DocumentFeatures(Letters(), FunctionTransformer()).fit_transform(["ab", "b", "c", "d!"])


@pytest.mark.parametrize("method", ["transform", "get_feature_names_out"])
def test_not_fitted(method, extractor):
    features = DocumentFeatures(extractor, PCA(2))
    with pytest.raises(NotFittedError):
        getattr(features, method)(["a"])


def test_pooling_is_checked_where_it_is_used(extractor, texts):
    features = DocumentFeatures(extractor, PCA(2)).fit(texts)
    with pytest.raises(ValueError, match="'pooling' parameter"):
        features.set_params(pooling="sum").transform(texts)


def test_steps_that_work_in_place():
    texts = ["abba", "cadabra", "abc", "zzz"]
    expected = DocumentFeatures(Letters(), make_pipeline(StandardScaler(), PCA(2)))
    in_place = DocumentFeatures(Letters(), make_pipeline(StandardScaler(copy=False), PCA(2)))
    expected = expected.fit_transform(texts).toarray()
    np.testing.assert_allclose(in_place.fit_transform(texts).toarray(), expected, atol=1e-6)
    np.testing.assert_allclose(in_place.transform(texts).toarray(), expected, atol=1e-6)
