"""A real client against a real server on loopback, which is right, wrong, late or broken."""

import builtins
import copy
import json
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from interpretation_testing import SCORERS, kind_of, oracle, planted, serve
from numpy.testing import assert_array_equal
from sklearn.base import clone

from skdict.inspection import OpenAIChat, interpret_features

pytest.importorskip("openai")
KEY = "sk-very-secret"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def right(number, messages):
    return {"text": "Hello yourself" if messages == HELLO else oracle(messages)}


def interpret(server, codes, tokens, *, scorers=SCORERS[:3], timeout=10.0, **params):
    llm = OpenAIChat("oracle", base_url=server.url, api_key=KEY, timeout=timeout)
    params = {"scorers": scorers, "window_length": 8, "retry_wait": 0.001} | params
    return interpret_features(codes, tokens=tokens, llm=llm, **params)


def test_what_is_sent_and_returned():
    with serve(right) as server:
        llm = OpenAIChat("small", base_url=server.url, api_key=KEY, params={"seed": 3})
        completion = llm(HELLO)
        nameless = OpenAIChat("small", base_url=server.url, temperature=None)
        nameless(HELLO)
    assert completion == "Hello yourself"
    assert (completion.prompt_tokens, completion.completion_tokens) == (100, 7)
    assert completion.logprobs is None
    first, second = server.requests
    assert first == {"model": "small", "messages": HELLO, "temperature": 0.0, "seed": 3}
    assert second == {"model": "small", "messages": HELLO}
    assert server.keys_seen[0] == f"Bearer {KEY}"


@pytest.mark.slow
def test_perfect_explanations_over_http(tmp_path):
    codes, tokens = planted(4)
    codes = np.sign(codes)
    with serve(right) as server:
        result = interpret(server, codes, tokens, scorers=SCORERS, n_jobs=4, cache=tmp_path)
        n_requests = len(server.requests)
        again = interpret(server, codes, tokens, scorers=SCORERS, n_jobs=1, cache=tmp_path)
        assert len(server.requests) == n_requests
    for name in SCORERS:
        np.testing.assert_allclose(result[name], 1)
    assert_array_equal(result.n_failures, 0)
    assert result.n_requests.sum() == n_requests
    # one feature's questions with another's explanation may be the other's own questions
    n_answers = result.n_requests + result.n_cached
    assert_array_equal(result.prompt_tokens, 100 * n_answers)
    assert_array_equal(result.completion_tokens, 7 * n_answers)
    assert not result.tokens_estimated.any()
    assert 1 < server.most_at_once <= 4
    counts = ["n_requests", "n_cached"]
    tables = [pd.DataFrame(r).drop(columns=counts) for r in (result, again)]
    pd.testing.assert_frame_equal(*tables)
    assert_array_equal(again.n_cached, n_answers)


def test_one_at_a_time_unless_told_otherwise():
    codes, tokens = planted(2)
    with serve(right) as server:
        interpret(server, codes, tokens)
    assert server.most_at_once == 1


BROKEN = {
    "overloaded": {"status": 503, "body": '{"error": {"message": "overloaded"}}'},
    "too many requests": {"status": 429, "body": '{"error": {"message": "slow down"}}'},
    "no JSON": {"body": "<html>Bad gateway</html>"},
    "half of it": {"body": '{"id": "chatcmpl-1", "choices": [{"mess'},
    "other JSON": {"body": "[1, 2, 3]"},
    "no choices": {"body": '{"id": "chatcmpl-1", "choices": []}'},
    "no text": {
        "body": '{"id": "1", "choices": [{"index": 0, "finish_reason": "content_filter", '
        '"message": {"role": "assistant", "content": null}}]}'
    },
    "late": {"delay": 1.5, "text": "[]"},
    "empty": {"text": ""},
    "wrong length": {"text": "[1]"},
    "prose": {"text": "I am sorry, but I cannot say."},
}


def patience(fault):
    """Seconds until a request is given up: on a busy machine every answer may be a little late."""
    return 0.7 if fault == "late" else 10.0


@pytest.mark.parametrize("fault", BROKEN)
def test_faults_are_retried(fault):
    """Every third question to score meets the fault at first, and yet all are answered."""
    codes, tokens = planted(2)
    seen = set()

    def behave(number, messages):
        question = messages[:4]  # a complaint may stand behind it
        is_new = str(question) not in seen
        seen.add(str(question))
        if is_new and len(seen) % 3 == 0 and kind_of(messages) != "explain":
            return BROKEN[fault]
        return {"text": oracle(question)}

    with serve(behave) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        result = interpret(server, codes, tokens, scorers=SCORERS[:2], timeout=patience(fault))
    for name in SCORERS[:2]:
        assert_array_equal(result[name], 1)
    assert_array_equal(result.n_failures, 0)
    n_questions = 2 * (1 + 2 * 2 * 4)
    assert len(seen) == n_questions
    assert len(server.requests) == result.n_requests.sum() == n_questions + n_questions // 3


@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN)
def test_faults_that_stay_are_counted(fault, tmp_path):
    """Fuzzing is never answered; everything else is, and a later run asks only what is missing."""
    codes, tokens = planted(1)
    is_broken = True

    def behave(number, messages):
        if kind_of(messages) == "fuzzing" and is_broken:
            return BROKEN[fault]
        return {"text": oracle(messages[:4])}

    params = {"timeout": patience(fault), "max_retries": 1, "cache": tmp_path, "n_jobs": 4}
    with serve(behave) as server:
        with pytest.warns(UserWarning, match="4 of 19 questions have no answer"):
            result = interpret(server, codes, tokens, **params)
        assert result.n_failures[0] == 4
        assert result.fuzzing_failure_rate[0] == 1
        assert result.fuzzing_n_items[0] == 40
        assert np.isnan(result.fuzzing[0])
        assert (result.detection[0], result.intruder[0]) == (1, 1)
        assert result.detection_failure_rate[0] == 0
        assert len(server.requests) == result.n_requests[0] == 15 + 2 * 4

        is_broken = False
        was_answer = fault in ("empty", "wrong length", "prose")
        if was_answer:  # it is in the cache like any other
            with pytest.warns(UserWarning, match="4 of 19 questions"):
                again = interpret(server, codes, tokens, **params)
            assert again.n_requests[0] == 0
        else:
            again = interpret(server, codes, tokens, **params)
            assert again.n_requests[0] == 4
            assert again.fuzzing[0] == 1
        assert len(server.requests) == 15 + 2 * 4 + again.n_requests[0]


def test_wrong_answers_cost_what_they_cost():
    """A model that is wrong in every fourth answer to detection, and says so in good form."""
    codes, tokens = planted(4, n_documents=300)
    n_asked = 0

    def behave(number, messages):
        nonlocal n_asked
        text = oracle(messages)
        if kind_of(messages) == "detection":
            n_asked += 1
            if n_asked % 4 == 0:
                text = str([1 - answer for answer in json.loads(text)])
        return {"text": text}

    with serve(behave) as server:
        result = interpret(server, codes, tokens, scorers=("detection",))
    assert_array_equal(result.n_failures, 0)
    assert np.mean(result.detection) == pytest.approx(0.75, abs=0.05)


def test_a_wrong_key_is_no_use_asking_again():
    codes, tokens = planted(1)
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})
    with serve(lambda number, messages: {"status": 401, "body": body}) as server:
        with pytest.raises(RuntimeError, match=r"answered none of 1 .* Authentication") as caught:
            interpret(server, codes, tokens)
        llm = OpenAIChat("oracle", base_url=server.url, api_key=KEY)
        with pytest.raises(
            RuntimeError, match=r"Incorrect API key provided: \[API key\]"
        ) as error:
            llm(HELLO)
    assert error.value.status_code == 401
    assert len(server.requests) == 1 + 1
    assert KEY not in str(caught.value)


def test_how_a_server_ends(tmp_path):
    with serve(lambda number, messages: {"text": "[1", "finish_reason": "length"}) as server:
        assert OpenAIChat("small", base_url=server.url)(HELLO).finish_reason == "length"
    body = '{"error": {"message": "slow down"}}'
    busy = {"status": 429, "body": body, "headers": {"Retry-After": "3.5"}}
    with (
        serve(lambda number, messages: busy) as server,
        pytest.raises(RuntimeError, match="slow down") as error,
    ):
        OpenAIChat("small", base_url=server.url)(HELLO)
    assert error.value.retry_after == 3.5


def test_the_temperature_is_given_once():
    with pytest.raises(ValueError, match=r"params has temperature=0\.7, and temperature is 0\.0"):
        OpenAIChat("small", params={"temperature": 0.7})


def test_no_server():
    llm = OpenAIChat("oracle", base_url="http://127.0.0.1:9/v1", api_key=KEY, timeout=0.5)
    with pytest.raises(RuntimeError, match=r"APIConnectionError|APITimeoutError") as error:
        llm(HELLO)
    assert error.value.status_code is None


def test_servers_without_usage_are_estimated():
    codes, tokens = planted(1)
    with serve(lambda n, messages: {"text": oracle(messages), "usage": False}) as server:
        result = interpret(server, codes, tokens, scorers=("detection",))
    n_characters = sum(len(m["content"]) for r in server.requests for m in r["messages"])
    assert result.tokens_estimated.all()
    assert result.prompt_tokens[0] == pytest.approx(n_characters / 4, rel=0.01)


def test_logprobs():
    with serve(lambda number, messages: {"text": "[0, 7]"}) as server:
        llm = OpenAIChat("small", base_url=server.url)
        completion = llm.logprobs(HELLO)
    assert completion == "[0, 7]"
    tokens = [("[", {"[": -0.01}), ("0", {"0": -0.01}), (", ", {", ": -0.01})]
    assert completion.logprobs[:3] == tokens
    assert server.requests[0]["logprobs"] is True
    assert server.requests[0]["top_logprobs"] == 10


def test_servers_without_logprobs():
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": "[1]"}}]})
    with serve(lambda number, messages: {"body": body}) as server:
        llm = OpenAIChat("small", base_url=server.url)
        with pytest.raises(RuntimeError, match="'small' returns no log-probabilities"):
            llm.logprobs(HELLO)


def test_the_key_stays_where_it_is(tmp_path, monkeypatch):
    codes, tokens = planted(1)
    with serve(right) as server:
        llm = OpenAIChat("oracle", base_url=server.url, api_key=KEY)
        params = {"tokens": tokens, "window_length": 8, "cache": tmp_path}
        result = interpret_features(codes, 0, llm=llm, table=tmp_path / "table.jsonl", **params)
        # clones can go on asking
        interpret_features(codes, 0, llm=clone(llm, safe=False), random_state=1, **params)
        copy.deepcopy(llm)(HELLO)
        copied = copy.copy(llm)
        copied.temperature = 0.5  # a copy of its own
        copied(HELLO)
        assert llm.temperature == 0.0
        assert set(server.keys_seen) == {f"Bearer {KEY}"}
        for text in (repr(llm), str(llm), llm.name, repr(result)):
            assert KEY not in text
        for file in tmp_path.rglob("*.json*"):
            assert KEY not in file.read_text()
        assert KEY.encode() not in pickle.dumps(llm)
        # what is unpickled takes the key of the environment, and of no other server
        unpickled = pickle.loads(pickle.dumps(llm))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
        unpickled(HELLO)
        assert server.keys_seen[-1] == "Bearer none"
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        OpenAIChat("oracle")(HELLO)
        assert server.keys_seen[-1] == "Bearer sk-environment"
    assert unpickled.name == llm.name


def test_names_tell_models_apart(monkeypatch):
    def name(*args, **params):
        return OpenAIChat(*args, **params).name

    here = "http://127.0.0.1/v1"
    names = [
        name("a"),
        name("b"),
        name("a", base_url=here),
        name("a", temperature=1.0),
        name("a", params={"seed": 1}),
    ]
    assert len(set(names)) == 5
    assert name("a", api_key="x", timeout=3) == names[0]
    monkeypatch.setenv("OPENAI_BASE_URL", here)
    assert name("a") == names[2]


def test_no_key_at_all():
    with pytest.raises(RuntimeError, match="OPENAI_API_KEY") as error:
        OpenAIChat("oracle")(HELLO)
    assert error.value.status_code == 401  # as a server would say: no use in asking again


def test_credentials_are_no_part_of_the_address():
    with pytest.raises(ValueError, match="base_url must not contain a user name or password"):
        OpenAIChat("oracle", base_url="http://me:secret@localhost/v1")


def test_numpys_scalars():
    params = {"seed": np.int8(3), "top_p": np.float32(0.5)}
    with serve(right) as server:
        llm = OpenAIChat("small", base_url=server.url, temperature=np.float32(0.5), params=params)
        llm(HELLO)
        plain = OpenAIChat(
            "small", base_url=server.url, temperature=0.5, params={"seed": 3, "top_p": 0.5}
        )
        assert llm.name == plain.name
        sent = server.requests[-1]
    assert (sent["temperature"], sent["seed"], sent["top_p"]) == (0.5, 3, 0.5)


def test_without_openai(monkeypatch):
    find = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "openai":
            raise ImportError(name)
        return find(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "skdict\[llm\]"'):
        OpenAIChat("oracle")
