"""Reading answers, asking again, remembering, and what it costs."""

import contextlib
import json
import math
import shutil
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from interpretation_testing import SCORERS, Oracle, kind_of, oracle, planted
from numpy.testing import assert_allclose, assert_array_equal

from skdict.inspection import Completion, interpret_features
from skdict.inspection.interpretation._prompts import parse_numbers
from skdict.inspection.interpretation.clients import _asking
from skdict.inspection.interpretation.clients._asking import AnswerCache, Asker
from skdict.inspection.interpretation.explainers._language_model import parse_explanation
from skdict.inspection.interpretation.scorers._simulation import parse_expected_digits


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("[1, 0, 0.5]", [1, 0, 0.5]),
        ("Here you are: [1,0,0]. Does [this] help?", [1, 0, 0]),
        ("```json\n[1,\n 0,\n 1.0]\n```", [1, 0, 1]),
        ('{"answers": ["yes", "no", true]}', [1, 0, 1]),
        ("First I thought [1, 1, 1], but it is [0, 1, 1e-2]", [0, 1, 0.01]),
        ("[0, 1, 1], of 3 in all: [2, 3]", [0, 1, 1]),
        ("<think>\n[1, 1, 1]?\n</think>\n[0, 1, 1]", [0, 1, 1]),
    ],
)
def test_numbers_that_can_be_read(text, numbers):
    assert_array_equal(parse_numbers(text, 3, low=0, high=1), numbers)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no list"),
        ("1, 0, 1", "no list"),
        ("[1, 0", "no list"),
        ("<think>[1, 0, 1]? Hmm", "no list"),
        ("[]", r"\[\]"),
        ("[1, 0]", r"\[1, 0\]"),
        ("[1, 0, 1, 1]", r"\[1, 0, 1, 1\]"),
        ("[1, 0, null]", "null"),
        ("[1, 0, NaN]", "NaN"),
        ("[1, 0, Infinity]", "Infinity"),
        ("[1, 0, 7]", "7"),
        ("[-1, 0, 1]", "-1"),
        ("[[1, 0], 1]", r"\[1, 0\]"),
    ],
)
def test_numbers_that_cannot_be_read(text, found):
    with pytest.raises(
        ValueError, match=f"a JSON list of 3 numbers from 0 to 1, but has .*{found}"
    ):
        parse_numbers(text, 3, low=0, high=1)


@pytest.mark.parametrize(
    "text",
    [
        "Explanation: names of  colours",
        "names of colours",
        "Let me see.\nEXPLANATION : red\nNo.\n**Explanation:** names\nof colours\n",
        "- explanation: *names of colours*",
        "**Explanation: names of colours**",
        "**Explanation**: names of colours\n```",
        "<think>Explanation: or is it</think>\nExplanation: names of colours",
        "is it?\n</think>\nnames of colours",
        "```text\nnames of colours\n```",
        "reason\n`Explanation`: names of colours",
        '"Explanation": names of colours',
        "[EXPLANATION]: names of colours",
        "***Explanation:*** names of colours",
    ],
)
def test_explanations(text):
    assert parse_explanation(text) == "names of colours"


@pytest.mark.parametrize(
    "phrase",
    [
        "`==` and `!=` comparisons",
        '"(" after a function name',
        '"("',
        "-1 as an index",
        "@ decorators",
        "### headings",
        "**kwargs and *args",
        "the operator *",
        "the tag <think>",
        "behind </think> tags",
    ],
)
def test_explanations_keep_their_marks(phrase):
    assert parse_explanation(f"I see.\nExplanation: {phrase}") == phrase
    assert parse_explanation(f"**Explanation:** {phrase}\n") == phrase


@pytest.mark.parametrize(
    "text", ["", " \n", "Explanation:", "I think ...\nExplanation: **", "<think>Is it red"]
)
def test_no_explanation(text):
    with pytest.raises(ValueError, match="no explanation"):
        parse_explanation(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```\n```", "```"),
        ("names ```", "names ```"),
        ("``` \nnames\n```\n\n```", "``` names ```"),
        ("\n```python\nnames\n  ``` \n", "names"),
        ("names\n\n \n```", "names"),
    ],
)
def test_fences(text, expected):
    assert parse_explanation(text) == expected


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        ("Explanation: x", "\n "),
        ("", "\n"),
        ("", "\n```"),
        ("", "**Explanation: "),
        ("**Explanation:", "** "),
        ("", "Explanation\n"),
        ("<think>", "</think>\t"),
        ("[", "1,"),
        ("", "["),
    ],
)
def test_long_answers_are_read_in_linear_time(start, piece):
    """A model in a loop: in quadratic time each would take an hour."""
    text = start + piece * 200_000 + "y"
    with contextlib.suppress(ValueError):
        parse_explanation(text)
    with pytest.raises(ValueError):
        parse_numbers(text, 3, low=0, high=1)


def test_expected_digits():
    logprobs = [
        ("The 3:", {}),
        (" [", {}),
        ("0", {"0": math.log(0.5), "4": math.log(0.25), "x": math.log(0.25)}),
        (", 9", {", 9": 0.0}),
        (",", {}),
        ("2", {}),
        ("]", {}),
    ]
    completion = Completion("The 3: [0, 9,2]", logprobs=logprobs)
    assert_allclose(parse_expected_digits(completion, 3), [4 / 3, 9, 2])
    with pytest.raises(ValueError, match="a JSON list of 4 digits from 0 to 9, but has 3"):
        parse_expected_digits(completion, 4)
    with pytest.raises(ValueError, match="has 0"):
        parse_expected_digits(Completion("1", logprobs=[("1", {"1": 0.0})]), 1)


def test_completion():
    completion = Completion("text", prompt_tokens=3)
    assert isinstance(completion, str)
    assert completion == "text"
    assert (completion.prompt_tokens, completion.completion_tokens) == (3, None)


MESSAGES = [{"role": "user", "content": "12345678"}]


def make_asker(replies, *, cache=None, max_retries=2, retry_wait=0.0):
    """An asker of a model that replies so, one after the other, and what it was asked."""
    replies, asked = iter(replies), []

    def llm(messages):
        asked.append(messages)
        reply = next(replies)
        if isinstance(reply, Exception):
            raise reply
        return reply

    return Asker(llm, cache=cache, max_retries=max_retries, retry_wait=retry_wait), asked


def test_exceptions_are_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(_asking.time, "sleep", waited.append)
    errors = [OSError("down"), TimeoutError(), OSError("down again")]
    asker, asked = make_asker([*errors, "7"], max_retries=3, retry_wait=0.5)
    answer = asker.ask(MESSAGES, int)
    assert (answer.value, answer.n_requests, answer.n_failures, answer.error) == (7, 4, 0, None)
    assert waited == [0.5, 1.0, 2.0]
    assert asked == [MESSAGES] * 4

    asker, asked = make_asker(errors, retry_wait=40)
    answer = asker.ask(MESSAGES, int)
    assert (answer.value, answer.n_requests, answer.n_failures) == (None, 3, 1)
    assert answer.error == "OSError: down again"
    assert waited[3:] == [40, 60]  # not after the last one, and never for longer than a minute
    assert answer.prompt_tokens == 0


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA")])
def test_no_memory_is_no_failed_request(error):
    asker, asked = make_asker([error, "7"])
    with pytest.raises(type(error)):
        asker.ask(MESSAGES, int)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("status", "n_requests"), [(400, 1), (401, 1), (404, 1), (429, 3), (503, 3)]
)
def test_what_a_server_refuses_for_good_is_not_asked_again(status, n_requests):
    error = RuntimeError("no")
    error.status_code = status
    asker, asked = make_asker([error] * 3)
    assert asker.ask(MESSAGES, int).value is None
    assert len(asked) == n_requests


def test_unreadable_answers_are_complained_of():
    asker, asked = make_asker(["seven", "7"])
    answer = asker.ask(MESSAGES, int)
    assert (answer.value, answer.n_requests) == (7, 2)
    assert asked[1][:1] == MESSAGES
    assert asked[1][1] == {"role": "assistant", "content": "seven"}
    assert asked[1][2]["role"] == "user"
    assert "invalid literal" in asked[1][2]["content"]
    # the characters that were read and written, by four
    complaint = len(asked[1][2]["content"])
    assert answer.prompt_tokens == 2 + math.ceil((8 + 5 + complaint) / 4)
    assert answer.completion_tokens == 2 + 1
    assert answer.is_estimate

    asker, asked = make_asker(["a", "b", "c"])
    answer = asker.ask(MESSAGES, int)
    assert answer.value is None
    assert answer.error.startswith("unreadable answer: invalid literal")
    assert len(asked) == 3


@pytest.mark.parametrize("reply", [None, 7, ["7"], b"7"])
def test_answers_that_are_no_text(reply):
    answer = make_asker([reply], max_retries=0)[0].ask(MESSAGES, int)
    assert answer.value is None
    assert answer.error.startswith("TypeError: llm must return a str, but returned")


def test_servers_say_how_long_to_wait(monkeypatch):
    waited = []
    monkeypatch.setattr(_asking.time, "sleep", waited.append)
    errors = [OSError("busy") for _ in range(3)]
    errors[0].retry_after, errors[1].retry_after = 7.0, 0.1
    asker, _ = make_asker([*errors, "7"], max_retries=3, retry_wait=0.5)
    assert asker.ask(MESSAGES, int).value == 7
    assert waited == [7.0, 1.0, 2.0]


def test_what_is_cut_off_is_no_answer(tmp_path):
    cut = Completion("7", prompt_tokens=11, completion_tokens=2, finish_reason="length")
    asker, asked = make_asker([cut, "78"], cache=AnswerCache(tmp_path, "model"))
    assert asker.ask(MESSAGES, int).value == 78
    assert "cut off" in asked[1][-1]["content"]
    asker, asked = make_asker([], cache=AnswerCache(tmp_path, "model"))
    answer = asker.ask(MESSAGES, int)
    assert (answer.value, answer.n_cached, answer.prompt_tokens > 11) == (78, 2, True)


def test_numbers_of_numpy_are_cached(tmp_path):
    completion = Completion(
        "7",
        prompt_tokens=np.int64(3),
        completion_tokens=1,
        logprobs=[("7", {"7": np.float32(-1)})],
    )
    cache = AnswerCache(tmp_path, "model")
    assert make_asker([completion], cache=cache)[0].ask(MESSAGES, int).value == 7
    assert cache.read(MESSAGES, False).prompt_tokens == 3
    assert cache.read(MESSAGES, False).logprobs == [["7", {"7": -1.0}]]


def test_cost_as_told():
    completion = Completion("7", prompt_tokens=11, completion_tokens=2)
    answer = make_asker([completion])[0].ask(MESSAGES, int)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.is_estimate) == (11, 2, False)


def test_cache(tmp_path):
    cache = AnswerCache(tmp_path / "new" / "folder", "model")
    text = Completion("7 ⏎\ud800", completion_tokens=2, logprobs=[("7", {"7": -0.5})])
    assert cache.read(MESSAGES, False) is None
    cache.write(MESSAGES, False, text)
    for again in (cache, AnswerCache(tmp_path / "new" / "folder", "model")):
        read = again.read(MESSAGES, False)
        assert read == text
        assert vars(read) == vars(text) | {"logprobs": [["7", {"7": -0.5}]]}
    assert AnswerCache(tmp_path / "new" / "folder", "other").read(MESSAGES, False) is None
    assert cache.read(MESSAGES, True) is None
    assert cache.read([*MESSAGES, *MESSAGES], False) is None
    assert not list(tmp_path.rglob("*.tmp"))
    (path,) = tmp_path.rglob("*.json")
    assert json.loads(path.read_text())["messages"] == MESSAGES


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"text": 7}', "\x00\xff"])
def test_damaged_cache(tmp_path, content):
    cache = AnswerCache(tmp_path, "model")
    cache.write(MESSAGES, False, Completion("7"))
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(content.encode("latin-1"))
    asker, asked = make_asker(["8"], cache=cache)
    with pytest.warns(UserWarning, match=r"folder given as cache is damaged"):
        assert asker.ask(MESSAGES, int).value == 8
    assert len(asked) == 1
    assert cache.read(MESSAGES, False) == "8"


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "9"},
        {"prompt_tokens": "5", "completion_tokens": 2},
        {"prompt_tokens": math.nan, "completion_tokens": 2},
        {"prompt_tokens": 10**30, "completion_tokens": 2},
        {"logprobs": 3},
        {"finish_reason": "length"},
    ],
)
def test_changed_fields_are_damage(tmp_path, fields):
    cache = AnswerCache(tmp_path, "model")
    cache.write(MESSAGES, False, Completion("7"))
    (path,) = tmp_path.rglob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    asker, _ = make_asker(["8"], cache=cache)
    with pytest.warns(UserWarning, match=r"folder given as cache is damaged"):
        assert asker.ask(MESSAGES, int).value == 8
    assert cache.read(MESSAGES, False) == "8"


def test_answers_to_other_questions_are_damage(tmp_path):
    cache = AnswerCache(tmp_path, "model")
    cache.write(MESSAGES, False, Completion("7"))
    (path,) = tmp_path.rglob("*.json")
    cache.write([*MESSAGES, *MESSAGES], False, Completion("8"))
    (other,) = set(tmp_path.rglob("*.json")) - {path}
    shutil.copy(other, path)
    with pytest.warns(UserWarning, match=r"folder given as cache is damaged"):
        assert cache.read(MESSAGES, False) is None
    assert cache.read([*MESSAGES, *MESSAGES], False) == "8"


def test_something_that_is_no_file(tmp_path):
    cache = AnswerCache(tmp_path, "model")
    cache.write(MESSAGES, False, Completion("7"))
    (path,) = tmp_path.rglob("*.json")
    path.unlink()
    path.mkdir()
    asker, _ = make_asker(["8"], cache=cache)
    with pytest.warns(UserWarning) as caught:
        assert asker.ask(MESSAGES, int).value == 8
    messages = [str(warning.message) for warning in caught]
    assert ["cannot be read" in messages[0], "cannot be written" in messages[1]] == [True, True]
    assert len(messages) == 2


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="cannot be written to") as caught:
        cache = AnswerCache(tmp_path / "file" / "folder", "model")
        asker, asked = make_asker(["7", "8"], cache=cache)
        assert asker.ask(MESSAGES, int).value == 7
        assert asker.ask([*MESSAGES, *MESSAGES], int).value == 8
    assert len(asked) == 2
    assert len(caught) == 1  # before anything is paid for


def test_what_has_no_json_is_not_kept(tmp_path):
    cache = AnswerCache(tmp_path, "model")
    asker, _ = make_asker([Completion("7", logprobs=[("7", {"7": object()})])], cache=cache)
    with pytest.warns(UserWarning, match="cannot be written to, .* has no attribute 'item'"):
        assert asker.ask(MESSAGES, int).value == 7
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize("told", ["5", math.nan, -1, 10**30, 2.5, True, [1]])
def test_numbers_of_tokens_that_are_none_are_estimated(told):
    asker, _ = make_asker([Completion("7", prompt_tokens=told, completion_tokens=2)])
    answer = asker.ask(MESSAGES, int)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.is_estimate) == (2, 1, True)


def test_cache_keeps_unreadable_answers_but_no_exceptions(tmp_path):
    cache = AnswerCache(tmp_path, "model")
    asker, _ = make_asker(["seven", OSError(), OSError()], cache=cache)
    assert asker.ask(MESSAGES, int).value is None
    asker, asked = make_asker(["7"], cache=cache)
    answer = asker.ask(MESSAGES, int)
    assert (answer.value, answer.n_requests, answer.n_cached) == (7, 1, 1)
    asker, asked = make_asker([], cache=cache)
    answer = asker.ask(MESSAGES, int)
    assert (answer.value, answer.n_requests, answer.n_cached) == (7, 0, 2)
    assert asked == []


def interpret(llm, codes, tokens, **params):
    params = {"scorers": SCORERS, "window_length": 8, "retry_wait": 0} | params
    return interpret_features(codes, tokens=tokens, llm=llm, **params)


@pytest.mark.slow
def test_resuming(tmp_path):
    codes, tokens = planted(4)
    llm = Oracle()
    expected = pd.DataFrame(interpret(llm, codes, tokens))
    assert expected.n_cached.sum() == 0

    interrupted = Oracle(lambda m: oracle(m) if len(interrupted.asked) <= 100 else 1 / 0)
    with pytest.warns(UserWarning, match="questions have no answer"):
        first = interpret(interrupted, codes, tokens, cache=tmp_path, max_retries=0)
    assert first.n_failures.sum() > 10
    rest = Oracle()
    second = pd.DataFrame(interpret(rest, codes, tokens, cache=tmp_path, n_jobs=3))
    questions, before, after = (
        {str(messages) for messages in asked}
        for asked in (llm.asked, interrupted.asked[:100], rest.asked)
    )
    assert before & after == set()
    assert before | after == questions
    assert second.n_cached.sum() >= 100
    third = Oracle()
    same = pd.DataFrame(interpret(third, codes, tokens, cache=str(tmp_path)))
    assert third.asked == []
    assert same.n_requests.sum() == 0
    counts = ["n_requests", "n_cached"]
    for table in (second, same):
        pd.testing.assert_frame_equal(table.drop(columns=counts), expected.drop(columns=counts))
        assert_array_equal(table[counts].sum(axis=1), expected[counts].sum(axis=1))


def test_failures_are_counted_and_not_scored():
    """Every third answer to detection and every explanation of one feature is nonsense."""
    codes, tokens = planted(3)
    n_detection = 0

    def llm(messages):
        nonlocal n_detection
        kind = kind_of(messages)
        if kind == "explain" and "w001»" in messages[-1]["content"]:
            return "Explanation:"
        if kind == "detection":
            n_detection += 1
            if n_detection % 3 == 0:
                return "[1]"
        return oracle(messages)

    with pytest.warns(UserWarning, match=r"have no answer, even after retries; see n_failures\. "):
        result = interpret(llm, codes, tokens, scorers=SCORERS[:3], max_retries=0)
    assert_array_equal(result.explanation, ["the word w000", "", "the word w002"])
    assert result.reason[1].startswith("no explanation: unreadable answer")
    assert result.reason[0] == ""
    assert np.isnan(result.detection[1])
    assert np.isnan(result.detection_shuffled[1])
    assert result.intruder[1] == 1  # which needs none
    assert_array_equal(result.detection_n_items, [40, 0, 40])
    # 4 questions of 10 windows each, those of the own explanation asked first: one fails of
    # the first feature (the third), one of the last (the sixth)
    assert_array_equal(result.detection_failure_rate, [0.25, np.nan, 0.25])
    assert_array_equal(result.detection[[0, 2]], 1)  # of the others
    assert result.n_failures[1] == 1
    assert result.n_failures.sum() == 1 + n_detection // 3


def test_a_model_that_never_answers():
    codes, tokens = planted(2)

    def llm(messages):
        raise OSError("no connection")

    with pytest.raises(RuntimeError, match=r"none of 2 requests .* OSError: no connection"):
        interpret(llm, codes, tokens, scorers=SCORERS[:3], max_retries=1)


def test_a_model_that_answers_no_more():
    codes, tokens = planted(2)
    llm = Oracle(lambda m: oracle(m) if kind_of(m) == "explain" else 1 / 0)
    with pytest.warns(UserWarning, match="The last one: ZeroDivisionError"):
        result = interpret(llm, codes, tokens, scorers=SCORERS[:3], max_retries=1)
    assert (result.explanation != "").all()
    assert np.isnan(result.intruder).all()
    assert_array_equal(result.intruder_failure_rate, 1)
    n_questions = result.n_requests - result.n_failures
    assert_array_equal(result.n_requests, 1 + 2 * result.n_failures)
    assert (n_questions > 10).all()


def test_a_model_that_cannot_be_read():
    """What it says is no explanation, so there is none; but it is there and can be asked."""
    codes, tokens = planted(2)
    llm = Oracle(lambda m: "" if kind_of(m) == "explain" else oracle(m))
    with pytest.warns(UserWarning, match="unreadable answer"):
        result = interpret(llm, codes, tokens, scorers=SCORERS[:3], max_retries=1)
    assert_array_equal(result.explanation, "")
    assert_array_equal(result.intruder, 1)


def test_the_last_question_is_answered_after_retries():
    codes, tokens = planted(2)
    llm = Oracle(lambda m: 1 / 0 if len(llm.asked) % 3 else oracle(m))
    result = interpret(llm, codes, tokens, max_retries=2)
    assert_array_equal(result.detection, 1)
    assert_array_equal(result.n_failures, 0)
    assert result.n_requests.sum() == len(llm.asked)


def test_no_more_at_once_than_allowed():
    codes, tokens = planted(2)
    lock, now, most = threading.Lock(), 0, 0

    def llm(messages):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= 1
        return oracle(messages)

    for n_jobs in (None, 3):
        most = 0
        interpret(llm, codes, tokens, scorers=SCORERS[:3], n_jobs=n_jobs)
        assert most == (n_jobs or 1)


def test_logprobs_must_be_there():
    codes, tokens = planted(1)

    class Without:
        __call__ = staticmethod(oracle)
        logprobs = staticmethod(oracle)

    with pytest.warns(UserWarning, match=r"llm\.logprobs must return a Completion with logprobs"):
        result = interpret(Without(), codes, tokens, scorers=("simulation",), max_retries=0)
    assert result.simulation_failure_rate[0] == 1
