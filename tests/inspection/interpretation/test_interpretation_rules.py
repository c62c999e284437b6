"""The explainer and judge that need no language model."""

import itertools

import numpy as np
import pytest
from interpretation_testing import make_tokens
from numpy.testing import assert_array_equal

from skdict.datasets import (
    load_one_layer_transformer,
    load_python_corpus,
    python_token_labels,
)
from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import (
    evaluate_feature_detectors,
    interpret_features,
    select_feature_detectors,
)
from skdict.inspection.interpretation.explainers._rules import RuleExplainer, _best_tokens

WORDS = [f" w{i:02d}" for i in range(40)]


@pytest.fixture
def tokens():
    return make_tokens(np.random.default_rng(0).integers(40, size=(200, 24)), WORDS)


def after(holds, tokens):
    return np.append(False, holds[:-1]) & (tokens["position"] > 0)


def interpret(codes, tokens, labels=None, **params):
    params = {"window_length": 8, "n_explain": 60} | params
    return interpret_features(codes, tokens=tokens, token_labels=labels, **params)


def test_planted_rules(tokens):
    ids = tokens["token_id"]
    labels = {"data": np.stack([ids % 4 == 1, ids < 20], axis=1), "target_names": ["odd", "low"]}
    codes = np.stack(
        [
            ids % 4 == 1,
            np.isin(ids, [7, 30]),
            after(ids % 4 == 1, tokens),
            after(ids == 12, tokens),
        ],
        axis=1,
    ).astype(float)
    result = interpret(codes, tokens, labels, window_length=4, scorers=("detection", "fuzzing"))
    first, *others = result.explanation
    assert first.startswith("tokens labelled odd, such as ' w")
    assert others[0] in ("the tokens ' w07', ' w30'", "the tokens ' w30', ' w07'")
    assert others[1].startswith("tokens after tokens labelled odd, such as ' w")
    assert others[2] == "tokens after the tokens ' w12'"
    # what follows the last token of a window is not seen, so of the first two only:
    assert_array_equal(result.detection[:2], 1)
    assert_array_equal(result.fuzzing[:2], 1)
    assert np.all(result.detection[2:] > 0.75)
    assert_array_equal(result.n_requests, 0)
    assert_array_equal(result.prompt_tokens, 0)


def test_a_text_that_several_tokens_have_is_named_once(tokens):
    tokens["token"] = np.array(WORDS, dtype=object)[tokens["token_id"]]
    tokens["token"][np.isin(tokens["token_id"], [7, 30])] = "co"
    codes = np.isin(tokens["token_id"], [7, 30, 9])[:, None].astype(float)
    codes = np.hstack([codes, (tokens["token_id"] == 4)[:, None]])
    named = interpret(codes, tokens, window_length=4).explanation[0].removeprefix("the tokens ")
    assert sorted(named.split(", ")) == ["' w09'", "'co'"]
    labels = {"data": codes > 0, "target_names": ["a", "b"]}
    labelled = interpret(codes, tokens, labels, window_length=4).explanation[0]
    assert labelled.startswith("tokens labelled a, such as ") and labelled.count("'co'") == 1


@pytest.mark.slow
def test_rules_are_found_on_the_windows_shown_alone(tokens, monkeypatch):
    rng = np.random.default_rng(0)
    labels = {"data": rng.random((4800, 10)) < 0.3, "target_names": list("abcdefghij")}
    codes = rng.random((4800, 8)) * (labels["data"][:, :8] & (rng.random((4800, 8)) < 0.4))
    shown = []
    find_rule = RuleExplainer._find_rule

    def spy(self, examples):
        shown.append(np.concatenate([example.rows for example in examples]))
        return find_rule(self, examples)

    monkeypatch.setattr(RuleExplainer, "_find_rule", spy)
    expected = interpret(codes, tokens, labels)
    for feature, rows in enumerate(shown[:8]):
        elsewhere = np.setdiff1d(np.arange(4800), rows)
        data = labels["data"].copy()
        data[elsewhere] = ~data[elsewhere]
        changed = interpret(codes, tokens, labels | {"data": data})
        assert changed.explanation[feature] == expected.explanation[feature]
        assert changed.detection[feature] != expected.detection[feature]


def test_a_list_of_tokens_does_not_win_by_its_length():
    """Activity that has nothing to do with the tokens, but a little with a label."""
    rng = np.random.default_rng(0)
    tokens = make_tokens(rng.integers(40, size=(200, 24)), WORDS)
    label = rng.random(4800) < 0.1
    is_active = np.where(label, rng.random(4800) < 0.4, rng.random(4800) < 0.04)
    labels = {"data": label[:, None], "target_names": ["thing"]}
    codes = is_active[:, None].astype(float)
    for seed in range(5):
        result = interpret(codes, tokens, labels, n_explain=10, random_state=seed)
        assert result.explanation[0].startswith("tokens labelled thing")
        without = interpret(codes, tokens, n_explain=10, random_state=seed)
        assert "labelled" not in without.explanation[0]


def test_tokens_of_a_single_window_are_not_named():
    token_id = np.array([1, 2, 3, 1, 4, 5, 1, 6, 7])
    is_active = np.isin(token_id, [1, 4])
    window = np.repeat([0, 1, 2], 3)
    assert_array_equal(_best_tokens(token_id, is_active, window), [1])
    is_active = token_id == 4  # unless there are no others
    assert_array_equal(_best_tokens(token_id, is_active, window), [4])
    assert len(_best_tokens(token_id, np.zeros(9, dtype=bool), window)) == 0


def test_the_best_list_of_tokens():
    """Against all subsets."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        token_id = rng.integers(7, size=300)
        is_active = rng.random(300) < rng.random(7)[token_id] ** 2
        window = np.arange(300) // 10

        def f1(ids, token_id=token_id, is_active=is_active):
            holds = np.isin(token_id, ids)
            return 2 * np.sum(holds & is_active) / (np.sum(holds) + np.sum(is_active))

        subsets = (c for n in range(8) for c in itertools.combinations(range(7), n))
        assert f1(_best_tokens(token_id, is_active, window)) == max(map(f1, subsets))


def test_deterministic(tokens):
    codes = np.maximum(np.random.default_rng(0).normal(size=(4800, 5)) - 1, 0)
    a, b = interpret(codes, tokens), interpret(codes, tokens, n_jobs=2)
    for name in a:
        assert_array_equal(a[name], b[name])


@pytest.mark.slow
def test_neurons_of_a_transformer():
    """Those that detect a label best are explained by it, and better than by another's."""
    language = load_one_layer_transformer()
    extractor = ActivationExtractor(
        language.model,
        "transformer.h.0.mlp.act",
        tokenizer=language.tokenizer,
        long_documents="window",
    )
    corpus = load_python_corpus(subset="test")
    texts = [text[:6000] for text in corpus.data if len(text) > 3000][:30]
    X, tokens = extractor.fit_transform(texts), extractor.tokens(texts)
    labels = python_token_labels(texts, tokens)
    detectors = select_feature_detectors(X, labels.data, min_precision=0.5)
    detectors = evaluate_feature_detectors(X, labels.data, detectors)
    best = np.argsort(-np.nan_to_num(detectors.f1))
    neurons = np.unique(detectors.feature[best[:12]])
    # active where they detect: on a few tokens
    threshold = dict(zip(detectors.feature, detectors.threshold, strict=True))
    codes = X[:, neurons] * (X[:, neurons] > [threshold[j] for j in neurons])
    result = interpret_features(
        codes, tokens=tokens, token_labels=labels, neurons=X, window_length=16, n_explain=60
    )
    scored = ~np.isnan(result.detection)
    assert scored.sum() >= 5
    for name in ("detection", "fuzzing"):
        assert np.mean(result[name][scored]) > np.mean(result[f"{name}_shuffled"][scored]) + 0.1
        assert np.mean(result[name][scored]) > np.mean(result[f"{name}_neuron"][scored])
    assert np.mean(result.intruder[scored]) > 0.4
    assert any("labelled" in text for text in result.explanation)
