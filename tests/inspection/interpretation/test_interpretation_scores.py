"""Scores of judges who know, who do not, and who always say the same; and their baselines."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from interpretation_testing import (
    SCORERS,
    Oracle,
    excerpts,
    kind_of,
    make_tokens,
    marked_words,
    oracle,
    planted,
    prompts,
)
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from skdict.inspection import interpret_features


def interpret(llm, codes, tokens, features=None, *, scorers=SCORERS, neurons=None, **params):
    params = {"window_length": 8, "retry_wait": 0, "neurons": neurons} | params
    return interpret_features(codes, features, tokens=tokens, llm=llm, scorers=scorers, **params)


def constant(answer):
    """A judge who explains as the oracle does, and then always gives the same answer."""

    def llm(messages):
        if kind_of(messages) == "explain":
            return oracle(messages)
        n = 1 if kind_of(messages) == "intruder" else len(excerpts(messages))
        return str([answer] * n)

    return Oracle(llm)


@pytest.mark.slow
def test_a_perfect_explanation_scores_one_and_a_shuffled_one_half():
    codes, tokens = planted(12)
    codes = np.sign(codes)  # an explanation by a word cannot tell strengths apart
    noise = np.random.default_rng(1).normal(size=(len(codes), 20)) - 1.5
    result = interpret(Oracle(), codes, tokens, neurons=noise)
    assert_array_equal(result.explanation, [f"the word w{i:03d}" for i in range(12)])
    for name in ("detection", "detection_auc", "fuzzing", "fuzzing_auc", "intruder"):
        assert_array_equal(result[name], 1.0)
    assert_array_equal(result.intruder_corrected, 1.0)
    assert_allclose(result.simulation, 1)
    for name in ("detection", "fuzzing"):
        assert abs(np.mean(result[f"{name}_shuffled"]) - 0.5) < 0.05
        assert abs(np.mean(result[f"{name}_neuron"]) - 0.5) < 0.1
    assert abs(np.mean(result.simulation_shuffled)) < 0.1
    assert "intruder_shuffled" not in result
    assert_array_equal(result.n_failures, 0)
    assert_array_equal(result.detection_failure_rate, 0)
    assert_array_equal(result.reason, "")


@pytest.mark.parametrize("answer", [1, 0, 0.5, 1.0])
def test_who_always_says_the_same_scores_half(answer):
    codes, tokens = planted()
    llm = constant(answer)
    result = interpret(llm, codes, tokens, scorers=("detection", "fuzzing"))
    for name in ("detection", "fuzzing"):
        for column in (name, f"{name}_auc", f"{name}_shuffled"):
            assert_array_equal(result[column], 0.5)


def test_who_always_names_the_same_intruder_is_at_chance():
    codes, tokens = planted(30, n_documents=300)
    result = interpret(constant(2), codes, tokens, scorers=("intruder",))
    assert abs(result.intruder.mean() - 0.2) < 4 * np.sqrt(
        0.2 * 0.8 / result.intruder_n_items.sum()
    )
    assert_allclose(result.intruder_corrected, (result.intruder - 0.2) / 0.8)


def test_constant_simulation_has_no_correlation():
    codes, tokens = planted()
    assert_array_equal(interpret(constant(3), codes, tokens, scorers=["simulation"]).simulation, 0)


@pytest.mark.slow
def test_features_that_mean_nothing_are_at_chance():
    rng = np.random.default_rng(0)
    tokens = make_tokens(rng.integers(30, size=(200, 32)))
    codes = np.maximum(rng.normal(size=(200 * 32, 40)) - 1.8, 0)
    result = interpret(None, codes, tokens)
    for name, chance in (
        ("detection", 0.5),
        ("fuzzing", 0.5),
        ("intruder", 0.2),
        ("simulation", 0),
    ):
        error = np.std(result[name]) / np.sqrt(40)
        assert abs(np.mean(result[name]) - chance) < 3.5 * error


def test_scores_by_hand():
    """A judge who answers with probabilities that are sometimes wrong, against scikit-learn."""
    codes, tokens = planted(3)
    rng = np.random.default_rng(0)
    given = {"detection": [], "fuzzing": []}

    def noisy(messages):
        kind = kind_of(messages)
        if kind not in given:
            return oracle(messages)
        right = re.findall(r"[\d.]+", oracle(messages))
        truth = np.array(right, dtype=float)
        answer = np.clip(truth + rng.normal(scale=0.5, size=len(truth)), 0, 1).round(2)
        given[kind].append((truth, answer))
        return f"My answer is {answer.tolist()}."

    result = interpret(noisy, codes, tokens, [1], scorers=("detection", "fuzzing"))
    for kind, pairs in given.items():
        truth, answer = np.concatenate(pairs, axis=1)
        assert_allclose(result[kind], balanced_accuracy_score(truth, answer > 0.5))
        assert_allclose(result[f"{kind}_auc"], roc_auc_score(truth, answer))
        assert 0.6 < result[kind][0] < 1
        assert np.mean(truth) == 0.5
        assert result[f"{kind}_n_items"][0] == len(truth) == 40
    assert np.isnan(result.detection_shuffled[0])  # there is no other explanation


@pytest.mark.parametrize("split", ["documents", "windows"])
def test_windows_that_explain_never_score(split):
    # each token occurs once, but for the words of the features: windows are known by them
    rng = np.random.default_rng(0)
    token_id = 10 + np.arange(100 * 24).reshape(100, 24)
    is_word = rng.random(token_id.shape) < 0.15
    token_id[is_word] = rng.integers(10, size=is_word.sum())
    tokens = make_tokens(token_id, [f" w{i:04d}" for i in range(token_id.max() + 1)])
    codes = (tokens["token_id"][:, None] == np.arange(10)) * rng.uniform(1, 2, (2400, 10))
    of_features = {f"w{i:04d}" for i in range(10)}
    pairs = zip(tokens["token"], tokens["document"], strict=True)
    document = {token.strip(): document for token, document in pairs}
    if split == "windows":  # all of it is one text
        tokens |= {"document": np.zeros(2400, dtype=int), "position": np.arange(2400)}
    for feature in range(4):
        llm = Oracle()
        result = interpret(llm, codes, tokens, [feature])
        assert result.split[0] == split
        texts = {
            kind: "".join(messages[-1]["content"] for messages in prompts(llm, kind))
            for kind in ("explain", *SCORERS)
        }
        seen = {kind: set(re.findall(r"w\d{4}", texts[kind])) - of_features for kind in texts}
        for kind in SCORERS:
            assert len(seen[kind]) > 50
            assert not seen["explain"] & seen[kind]
            if split == "documents":
                assert not {document[w] for w in seen["explain"]} & {
                    document[w] for w in seen[kind]
                }


def test_what_is_shown_to_explain():
    codes, tokens = planted(n_documents=400)
    llm = Oracle()
    interpret(llm, codes, tokens, [4], n_explain=10)
    (question,) = prompts(llm, "explain")
    content = question[-1]["content"]
    active, inactive = content.split("Not active:")
    assert len(excerpts([{"content": active}])) == 10
    assert set(marked_words(active)) == {"w004"}
    assert len(excerpts([{"content": inactive}])) == 5
    assert "w004" not in inactive
    strengths = [int(s) for s in re.findall(r'"[^"]*" (\d+)', active)]
    assert max(strengths) == strengths[0] == 10
    assert min(strengths) < 6  # not the most active ones alone
    assert set(strengths) <= set(range(1, 11))


def test_highlights_of_fuzzing():
    """As many highlights when wrong, none of them on an active token, at ever other places."""
    codes, tokens = planted(1, n_documents=300)
    active = codes[:, 0] > 0
    active |= np.append(active[1:], False)  # the word, and the token before it
    windows = ["".join(window).strip() for window in tokens["token"].reshape(-1, 8)]
    llm = Oracle()
    interpret(llm, active[:, None].astype(float), tokens, [0], scorers=("fuzzing",))
    wrong_places, n_right, n_wrong, n_adjacent, shifts = [], [], [], [], []
    for messages in prompts(llm, "fuzzing"):
        for line in excerpts(messages):
            is_marked = np.char.startswith(re.findall(r"«[^»]*»| w\d{3}", " " + line), "«")
            window = windows.index(re.sub("[«»]", "", line).strip())
            is_active = active[8 * window : 8 * window + 8]
            if np.any(is_marked & is_active):
                assert_array_equal(is_marked, is_active)
                n_right.append(is_marked.sum())
            else:
                n_wrong.append(is_marked.sum())
                wrong_places.append(tuple(np.flatnonzero(is_marked)))
                n_adjacent.append(np.any(np.diff(np.flatnonzero(is_marked)) == 1))
                shifts += [s for s in range(8) if np.all(np.roll(is_active, s) == is_marked)]
    assert len(n_right) == 20
    assert sorted(n_right) == sorted(n_wrong)  # of the same windows
    assert len(set(wrong_places)) >= 6
    assert np.mean(n_adjacent) > 0.6  # the pattern is kept, unless it is cut in two
    assert len(shifts) > 15
    assert len(set(shifts)) > 3


def test_right_and_wrong_are_mixed():
    codes, tokens = planted(1, n_documents=300)
    llm = Oracle()
    interpret(llm, codes, tokens)
    for kind in ("detection", "fuzzing"):
        truths = [json.loads(oracle(m).strip("`json\n")) for m in prompts(llm, kind)]
        assert [len(truth) for truth in truths] == [10] * 4
        assert all(0 < sum(truth) < 10 for truth in truths)
        assert len({tuple(truth) for truth in truths}) == 4


def test_marks_and_line_breaks_of_the_text_itself():
    codes, tokens = planted(1)
    word = dict.fromkeys(range(3, 20), " «fake»") | {20: " \n ", 21: " \r\n "}
    tokens["token"] = np.array(
        [word.get(i, t) for i, t in zip(tokens["token_id"], tokens["token"], strict=True)],
        dtype=object,
    )
    llm = Oracle()
    result = interpret(llm, codes, tokens)
    assert result.detection[0] == 1
    for kind in ("explain", *SCORERS):
        text = "".join(messages[-1]["content"] for messages in prompts(llm, kind))
        assert "‹fake›" in text
        assert "⏎" in text
        assert "fake»" not in text.replace("fake›»", "")
    for messages in prompts(llm, "detection"):
        assert len(excerpts(messages)) == 10


def test_intruders_are_highlighted_like_the_others():
    codes, tokens = planted(n_documents=300)
    llm = Oracle()
    interpret(llm, codes, tokens, [2], scorers=("intruder",))
    places = []
    for messages in prompts(llm, "intruder"):
        words = [marked_words(line) for line in excerpts(messages)]
        assert len(words) == 5
        assert all(words)
        odd = [i for i, w in enumerate(words) if "w002" not in w]
        assert len(odd) == 1
        places += odd
    assert len(set(places)) > 2
    assert len(places) == 10


def test_near_misses_contain_the_token():
    """A feature that is active on its word in every second document only."""
    codes, tokens = planted(1, n_documents=400)
    codes[tokens["document"] % 2 == 0] = 0
    shares = {}
    for fraction in (0.0, 0.5, 1.0):
        llm = Oracle()
        interpret(llm, codes, tokens, [0], scorers=("detection",), near_miss_fraction=fraction)
        lines = [line for messages in prompts(llm, "detection") for line in excerpts(messages)]
        with_word = np.sum(["w000" in line for line in lines])
        assert len(lines) == 40
        shares[fraction] = (with_word - 20) / 20  # 20 are active
    assert shares[1.0] == 1
    assert 0.5 <= shares[0.5] < 0.8
    assert shares[0.0] < 0.4


def test_too_few_windows_are_reported():
    codes, tokens = planted(4)
    codes[:, 0] = 0
    codes[np.flatnonzero(codes[:, 1])[3:], 1] = 0  # active three times
    codes[:, 2] = 1.0  # active everywhere
    result = interpret(Oracle(), codes, tokens, neurons=codes[:, [3]])
    assert_array_equal(result.explanation, ["", "", "", "the word w003"])
    assert result.reason[0].startswith("active in 0 windows and inactive in 480, but 5 active")
    assert result.reason[1].startswith("active in 3 windows and inactive in 477")
    assert result.reason[2].startswith("active in 480 windows and inactive in 0")
    assert_array_equal(result.n_active_windows[:3], [0, 3, 480])
    for name in ("detection", "fuzzing", "intruder", "simulation", "detection_shuffled"):
        assert np.isnan(result[name][:3]).all()
    assert_array_equal(result.detection_n_items[:3], 0)
    assert result.detection[3] == 1
    assert_array_equal(result.split, ["", "", "", "documents"])
    # the neuron that goes with the first feature is cut down to nothing
    assert result.neuron_reason[0].startswith("active in 0 windows")
    assert result.detection_neuron[2] == 1  # cut down to no more than it has


def test_windows_full_of_highlights_cannot_be_fuzzed():
    rng = np.random.default_rng(0)
    tokens = make_tokens(rng.integers(50, size=(100, 8)))
    codes = np.repeat(rng.random(100) < 0.5, 8)[:, None].astype(float)
    result = interpret(None, codes, tokens)
    assert np.isnan(result.fuzzing[0])
    assert result.fuzzing_n_items[0] == 0
    assert result.reason[0] == "fuzzing: too few windows of which at most half is active"
    assert not np.isnan(result.detection[0])


def test_neurons_are_cut_down_to_as_many_tokens():
    codes, tokens = planted(2)
    rng = np.random.default_rng(0)
    neurons = np.abs(rng.normal(size=(len(codes), 3)))  # always active, so of no use as they are
    neurons[:, 1] += 10 * (tokens["token_id"] == 9)
    neurons[:, [0, 2]] = -1  # never active
    result = interpret(Oracle(), codes, tokens, neurons=neurons)
    assert_array_equal(result.neuron, [1, 1])
    # of the word it is most active on, as often as the feature is
    assert_array_equal(result.neuron_explanation, ["the word w009"] * 2)
    assert np.all(result.fuzzing_neuron > 0.7)
    without = interpret(Oracle(), codes, tokens)
    assert "neuron" not in without
    assert "detection_neuron" not in without
    assert_array_equal(without.detection, result.detection)


def same(a, b):
    pd.testing.assert_frame_equal(pd.DataFrame(a), pd.DataFrame(b))
    return True


@pytest.mark.parametrize(
    "convert",
    [sp.csr_array, sp.csc_matrix, torch.from_numpy, np.asfortranarray, lambda c: c.tolist()],
)
def test_containers(convert):
    codes, tokens = planted(3)
    frame = pd.DataFrame(tokens) if convert is sp.csr_array else tokens
    expected = interpret(None, codes, tokens, neurons=codes)
    result = interpret_features(
        convert(codes), tokens=frame, scorers=SCORERS, window_length=8, neurons=convert(codes)
    )
    assert same(result, expected)


@pytest.mark.slow
def test_what_the_result_depends_on():
    codes, tokens = planted(6)
    expected = interpret(Oracle(), codes, tokens, neurons=codes)
    assert same(interpret(Oracle(), codes, tokens, neurons=codes, n_jobs=4), expected)
    alone = interpret(Oracle(), codes, tokens, [3], neurons=codes)
    for name in ("explanation", "detection", "intruder", "simulation", "neuron", "fuzzing_neuron"):
        assert_array_equal(alone[name][0], expected[name][3])
    llm, same_questions, others = Oracle(), Oracle(), Oracle()
    interpret(llm, codes, tokens, [3])
    interpret(same_questions, codes, tokens, [3], random_state=np.random.RandomState(0))
    interpret(others, codes, tokens, [3], random_state=1)
    assert llm.asked == same_questions.asked
    assert llm.asked != others.asked
    fewer = Oracle()
    interpret(fewer, codes, tokens, [3], scorers=("intruder",))
    assert prompts(fewer, "intruder") == prompts(llm, "intruder")


def test_no_feature_is_no_error():
    codes, tokens = planted(1)
    result = interpret(Oracle(), codes, tokens, [])
    assert len(pd.DataFrame(result)) == 0
    assert result.explanation.dtype == object


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"scorers": ("detection", "guessing")},
            r"scorers must .* \('detection', 'guessing'\)",
        ),
        ({"scorers": ()}, r"scorers must be at least one of .* but is \(\)"),
        ({"scorers": "detection"}, "'scorers' parameter of interpret_features"),
        ({"llm": "gpt"}, "'llm' parameter of interpret_features"),
        ({"window_length": 1}, "'window_length' parameter"),
        ({"n_score": 5}, "'n_score' parameter"),
        ({"near_miss_fraction": 2}, "'near_miss_fraction' parameter"),
        ({"llm": oracle, "scorers": ("simulation",)}, "llm has no method logprobs"),
        ({"llm": oracle, "cache": "somewhere"}, "cache needs llm.name"),
    ],
)
def test_bad_parameters(params, message):
    codes, tokens = planted(1)
    with pytest.raises(ValueError, match=message):
        interpret_features(codes, [0], tokens=tokens, **params)


def without(tokens, key):
    return {name: column for name, column in tokens.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"features": [1]}, "features has 1, but there are 1 columns of codes"),
        (lambda t: {"tokens": without(t, "token_id")}, r"tokens has no \['token_id'\]"),
        (
            lambda t: {"tokens": t | {"end": t["end"][1:]}},
            r"are 3840 rows, but tokens has .* 'end': \(3839",
        ),
        (lambda t: {"codes": np.zeros(3840)}, "codes must be a matrix"),
        (lambda t: {"codes": np.full((3840, 1), np.nan)}, "codes contains NaN"),
        (lambda t: {"neurons": np.ones((3, 2))}, "codes has 3840 rows, but neurons has 3"),
        (
            lambda t: {"token_labels": np.ones(3840)},
            "labels must have shape .* but is one-dimensional",
        ),
        (
            lambda t: {"token_labels": {"data": np.ones((3840, 2)), "target_names": ["a"]}},
            "labels has 2 columns of data, but 1 target_names",
        ),
        (
            lambda t: {"token_labels": {"data": np.ones((38, 1)), "target_names": ["a"]}},
            "codes has 3840 rows, but token_labels has 38",
        ),
    ],
)
def test_bad_input(change, message):
    codes, tokens = planted(1)
    arguments = {"codes": codes, "tokens": tokens, "features": [0]} | change(tokens)
    with pytest.raises(ValueError, match=message):
        interpret_features(**arguments)
