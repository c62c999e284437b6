"""One of each noun from outside the package: a class, registered, and nothing else changed."""

import pickle

import numpy as np
import pytest
import torch
from interpretation_testing import oracle, planted
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from skdict._core.coding import CODERS, Coder, SparseCodes
from skdict._core.coding import register as register_coder
from skdict._core.data.source import Source
from skdict._core.dictionary import Dictionary
from skdict._core.formats import FORMATS, Format, Record, Weights
from skdict._core.formats import register as register_format
from skdict._core.models.architectures import ARCHITECTURES
from skdict._core.solvers import SOLVERS, Solver
from skdict._core.solvers import register as register_solver
from skdict.datasets import make_superposition
from skdict.decomposition import SparseAutoencoderDictionary, sparse_encode
from skdict.decomposition.architectures import Architecture
from skdict.decomposition.architectures import register as register_architecture
from skdict.inspection import interpret_features
from skdict.inspection.interpretation.scorers import SCORERS, Question, Scorer
from skdict.inspection.interpretation.scorers import register as register_scorer
from skdict.io import formats, load_dictionary, save_dictionary
from skdict.metrics import mean_l0


class ElasticNet(Architecture):
    """ReLU codes under an L1 and a squared penalty."""

    def __init__(self, ridge=0.01):
        self.ridge = ridge

    def penalty(self, pre_activations, values, state, alpha):
        return alpha * values.sum() + self.ridge * values.square().sum() / 2


class PrincipalDirections(Solver):
    """The right singular vectors of the data, with both signs, as often as there is need."""

    def __init__(self, mean, n_components):
        self.mean = mean
        self.n_components = n_components

    @classmethod
    def start(cls, problem):
        return cls(problem.data.mean, problem.n_components)

    def fit(self, rows, progress):
        directions = torch.linalg.svd(rows[:] - self.mean, full_matrices=False).Vh
        directions = torch.cat([directions, -directions])
        n_times = -(-self.n_components // len(directions))
        self.atoms = directions.repeat(n_times, 1)[: self.n_components].clone()
        return {"n_iter_": 1, "n_steps_": 1}

    def finish(self, rows):
        return Dictionary(self.atoms, self.mean).copy()


class Nearest(Coder):
    """Of each row the atom of greatest correlation, if that is positive."""

    def __call__(self, centred, start=None):
        correlations = centred @ self.atoms.T
        best = correlations.max(dim=1, keepdim=True)
        norms = self.atoms.square().sum(dim=1)[best.indices].clamp(min=1e-30)
        codes = torch.zeros_like(correlations)
        return SparseCodes.of(codes.scatter_(1, best.indices, best.values.clamp(min=0) / norms))


class Bytes:
    """Activations kept as 8-bit integers and one scale: a matrix that is read row by row."""

    dtype = np.dtype(np.float32)

    def __init__(self, X):
        self.scale = np.abs(X).max() / 127
        self.bytes = np.round(X / self.scale).astype(np.int8)
        self.shape = X.shape

    def __getitem__(self, index):
        return self.bytes[index] * np.float32(self.scale)


def gini(codes):
    """How unequal the mean codes of the components are, from 0 to 1."""
    means = np.sort(np.asarray(codes, np.float64).mean(axis=0))
    shares = np.cumsum(means) / means.sum()
    return 1 - (2 * shares.sum() - 1) / len(means)


class Text(Format):
    """A dictionary with a linear encoder, as a matrix of text."""

    description = "numbers in a text file"
    looks = "dictionary.txt"
    writes = True

    @staticmethod
    def detect(files):
        return "dictionary.txt" in files

    @staticmethod
    def read(files, request):
        n, d, *numbers = map(float, files.text("dictionary.txt").split())
        n, d = int(n), int(d)
        sizes = [n * d, n, n * d, d]
        encoder, bias, decoder, intercept = torch.tensor(numbers).double().split(sizes)
        weights = Weights(
            encoder=encoder.view(n, d),
            encoder_bias=bias,
            decoder=decoder.view(n, d),
            decoder_bias=intercept,
            offset=intercept,
        )
        dictionary = weights.dictionary(units=request.units, where="dictionary.txt")
        return Record(dictionary, source={"library": "none"})

    @staticmethod
    def write(record, folder):
        parts = record.dictionary
        tensors = parts.encoder.weight, parts.encoder.bias, parts.components, parts.intercept
        numbers = torch.cat([tensor.flatten() for tensor in tensors]).tolist()
        text = " ".join(map(repr, [*parts.shape, *numbers]))
        (folder / "dictionary.txt").write_text(text, encoding="utf-8")


class Pairs(Scorer):
    """Which of two windows, one of them active, is the active one?"""

    chance = 0.5
    others = ("wins",)
    system = "Which excerpt is the feature active in? Answer with a JSON list of its number."
    shot = ("Active on: colours\n\n1: a green hat\n2: a door", "[1]")

    def questions(self, active, inactive, rng):
        sides = rng.integers(2, size=len(active))
        pairs = zip(active, inactive, sides, strict=True)
        return [Question([b, a] if side else [a, b], np.array([side])) for a, b, side in pairs]

    def content(self, question, grid):
        texts = ["".join(grid.pieces(example.rows)) for example in question.examples]
        return "\n".join(f"{number}: {text}" for number, text in enumerate(texts, start=1))

    def parse(self, completion, question):
        return np.array([int(completion.strip("[] \n")) - 1])

    def answer_by_rule(self, question, rules):
        holds, first = rules.holds(question.explanation, question.examples)
        return np.array([np.add.reduceat(holds.astype(int), first).argmax()])

    def measure(self, truth, answers):
        wins = np.concatenate(truth) == np.concatenate(answers)
        return {"score": wins.mean(), "wins": wins.sum()}


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The nouns have their names while this file is tested."""
    register_architecture("elastic_net")(ElasticNet)
    register_solver("principal")(PrincipalDirections)
    register_coder("nearest")(Nearest)
    register_format("text")(Text)
    register_scorer("pairs")(Pairs)
    yield
    del SCORERS["pairs"]
    del ARCHITECTURES["elastic_net"], SOLVERS["principal"], CODERS["nearest"], FORMATS["text"]


@pytest.fixture(scope="module")
def X():
    return make_superposition(400, 8, 12, l0=2.0, noise=0.05, random_state=0)[0]


ESTIMATORS = [
    SparseAutoencoderDictionary(6, max_iter=1, architecture="elastic_net"),
    SparseAutoencoderDictionary(6, max_iter=1, architecture=ElasticNet(0.1)),
    SparseAutoencoderDictionary(6, solver="principal"),
    SparseAutoencoderDictionary(6, solver="principal", transform_algorithm="nearest"),
]


@parametrize_with_checks(ESTIMATORS)
def test_common_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=range(len(ESTIMATORS)))
def test_all_that_an_estimator_can_do(estimator, X):
    fitted = clone(estimator).set_params(random_state=0).fit(X)
    codes = fitted.transform(X)
    assert (codes >= 0).all() and 0 < mean_l0(codes) < 8
    assert np.isfinite(fitted.score(X))
    sparse = pickle.loads(pickle.dumps(fitted)).set_params(sparse_output=True).transform(X)
    np.testing.assert_array_equal(sparse.toarray(), codes)
    again = clone(fitted).fit(X)
    np.testing.assert_array_equal(again.components_, fitted.components_)


def test_the_architecture_has_its_effect_and_is_searched_over(X):
    dictionary = SparseAutoencoderDictionary(12, alpha=0.1, max_iter=5, random_state=0)
    relu = clone(dictionary).fit(X)
    dictionary.set_params(architecture=ElasticNet())
    search = GridSearchCV(dictionary, {"architecture__ridge": [0.0, 1.0]}, cv=2).fit(X)
    assert len(set(search.cv_results_["mean_test_score"])) == 2
    without, much = (clone(dictionary).set_params(architecture__ridge=r).fit(X) for r in (0, 1))
    np.testing.assert_array_equal(without.components_, relu.components_)
    assert much.transform(X).mean() < relu.transform(X).mean()


def test_the_solver_finds_its_directions(X):
    dictionary = SparseAutoencoderDictionary(16, solver="principal").fit(X)
    gram = dictionary.components_ @ dictionary.components_.T
    eye = np.eye(8)
    np.testing.assert_allclose(gram, np.block([[eye, -eye], [-eye, eye]]), atol=1e-6)
    with pytest.raises(AttributeError, match="partial_fit"):
        dictionary.partial_fit(X)


def test_the_coder_serves_all_that_code(X):
    atoms = np.random.default_rng(0).normal(size=(5, 8))
    codes = sparse_encode(X, atoms, algorithm="nearest")
    correlations = X @ atoms.T
    np.testing.assert_array_equal((codes != 0).sum(axis=1), correlations.max(axis=1) > 0)
    rows = codes.any(axis=1)
    np.testing.assert_array_equal(codes[rows].argmax(axis=1), correlations[rows].argmax(axis=1))


def test_a_format_is_found_read_and_written(X, tmp_path):
    sae = SparseAutoencoderDictionary(12, max_iter=2, random_state=0).fit(X.astype(np.float32))
    save_dictionary(sae, tmp_path / "mine", format="text")
    loaded = load_dictionary(tmp_path / "mine")
    assert loaded.source_["format"] == "text"
    assert formats()[-1]["name"] == "text"
    rows = X.astype(np.float32)
    np.testing.assert_allclose(loaded.transform(rows), sae.transform(rows), atol=1e-6)
    np.testing.assert_allclose(loaded.components_, sae.components_, atol=1e-6)


def test_a_source_is_what_can_be_read_row_by_row(X):
    small = Bytes(X)
    dictionary = SparseAutoencoderDictionary(12, max_iter=5, random_state=0)
    rows = torch.arange(len(X))  # of a fold, say
    of_source = clone(dictionary).fit(Source(small, torch.device("cpu"), index=rows)).components_
    np.testing.assert_array_equal(of_source, clone(dictionary).fit(small[:]).components_)


def test_a_metric_is_a_function_and_its_scorer_is_one_too(X):
    dictionary = SparseAutoencoderDictionary(12, max_iter=5, random_state=0)
    search = GridSearchCV(
        dictionary,
        {"alpha": [1e-3, 0.3]},
        cv=2,
        scoring=lambda fitted, X, y=None: gini(fitted.transform(X)),
    ).fit(X)
    assert search.best_params_ == {"alpha": 0.3}
    assert 0 < search.best_score_ < 1
    assert gini(np.eye(3)) == pytest.approx(0)


@pytest.mark.parametrize("given", ["pairs", Pairs()], ids=["by name", "as an object"])
def test_a_scorer_tests_explanations(given, tmp_path):
    codes, tokens = planted(3)
    params = {"tokens": tokens, "window_length": 8}
    by_rules = interpret_features(codes, scorers=["detection", given, "fuzzing"], **params)
    np.testing.assert_array_equal(by_rules.pairs, 1)
    np.testing.assert_array_equal(by_rules.pairs_wins, by_rules.pairs_n_items)
    np.testing.assert_array_equal(by_rules.pairs_chance, 0.5)
    assert (by_rules.pairs_shuffled < 0.8).all()
    without = interpret_features(codes, scorers=["detection", "fuzzing"], **params)
    np.testing.assert_array_equal(by_rules.fuzzing, without.fuzzing)  # the same questions

    def llm(messages):
        if messages[0]["content"] != Pairs.system:
            return oracle(messages)
        word = messages[-1]["content"].split("\n")[0].split()[-1]
        lines = messages[-1]["content"].split("\n")[2:]
        return f"[{1 + int(word in lines[1].split())}]"

    llm.name = "oracle"
    by_model = interpret_features(
        codes, llm=llm, scorers=[given], neurons=codes, table=tmp_path / "t", **params
    )
    np.testing.assert_array_equal(by_model.pairs, 1)
    assert (by_model.pairs_neuron > 0.6).all()
    unnamed = type("Unnamed", (Pairs,), {"name": None})()
    with pytest.raises(ValueError, match="scorers must have a name each, and different ones"):
        interpret_features(codes, scorers=[unnamed], **params)
    with pytest.raises(ValueError, match="scorers must have a name each, and different ones"):
        interpret_features(codes, scorers=["pairs", Pairs()], **params)


@pytest.mark.parametrize("found", [None, torch.zeros(400, 6), torch.zeros(400, 5)])
def test_a_coder_that_returns_something_else_is_named(X, found, monkeypatch):
    if found is not None and found.shape[1] == 5:
        found = SparseCodes.of(found)
    monkeypatch.setattr(Nearest, "__call__", lambda self, centred: found)
    fitted = SparseAutoencoderDictionary(6, max_iter=1).fit(X)
    fitted.set_params(transform_algorithm="nearest")
    for method in (fitted.transform, fitted.score):
        with pytest.raises(TypeError, match="'nearest' must return SparseCodes of shape"):
            method(X)
