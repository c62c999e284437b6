"""The run over features: recorded values, batches, the table on disk, and threads."""

import hashlib
import json
import threading

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from interpretation_testing import SCORERS, Oracle, excerpts, kind_of, planted
from numpy.testing import assert_allclose, assert_array_equal

from skdict.inspection import FeatureCodes, interpret_features
from skdict.inspection.interpretation import _columns, _run
from skdict.inspection.interpretation._columns import Columns
from skdict.inspection.interpretation._result import score_columns
from skdict.inspection.interpretation._run import Row, answered, explanations_of_others
from skdict.inspection.interpretation._table import AnswerTable


def ragged():
    """Codes, tokens, labels and neurons of documents of all lengths; the last feature is dead."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 90, size=150)
    document = np.repeat(np.arange(150), lengths)
    position = np.concatenate([np.arange(n) % 50 for n in lengths])
    token_id = np.minimum(rng.geometric(0.05, size=len(document)) - 1, 79)
    end = np.concatenate([4 * np.arange(1, n + 1) for n in lengths])
    tokens = {
        "document": document,
        "position": position,
        "token_id": token_id,
        "token": np.array([f" t{i:02d}" for i in token_id], dtype=object),
        "start": end - 4,
        "end": end,
    }
    data = np.stack([token_id % 3 == 0, token_id < 9], axis=1)
    strength = rng.exponential(size=(len(token_id), 8)).round(3)
    codes = np.zeros_like(strength)
    for j in range(8):
        is_likely = np.isin(token_id, rng.choice(40, size=3))
        density = np.where(is_likely, 0.7, [0.001, 0.01, 0.05, 0.2][j % 4])
        codes[:, j] = strength[:, j] * (rng.random(len(token_id)) < density)
    codes[:, 7] = 0
    neurons = np.maximum(rng.normal(size=(len(token_id), 12)).round(3), 0)
    return codes, tokens, {"data": data, "target_names": ["third", "low"]}, neurons


def erratic(messages):
    """Answers that depend on every character of the question."""
    kind = kind_of(messages)
    digest = hashlib.sha256(json.dumps(messages).encode()).digest()
    if kind == "explain":
        return f"Explanation: thing {digest[0] % 7}"
    n = len(excerpts(messages))
    if kind == "intruder":
        return str([1 + digest[0] % 5])
    if kind == "simulation":
        return str([digest[i % 32] % 10 for i in range(n)])
    return str([round(digest[i] / 255, 2) for i in range(n)])


RULES = {"scorers": SCORERS, "window_length": 12, "n_explain": 12, "n_score": 24}
MODEL = {
    "scorers": SCORERS,
    "window_length": 16,
    "n_explain": 10,
    "n_score": 20,
    "random_state": 3,
    "retry_wait": 0,
}


def same(result, expected):
    """Equal columns; areas under curves to rounding."""
    for name, values in expected.items():
        if name.endswith("_auc"):
            values = np.array(values, dtype=float)
            assert_allclose(result[name], values, rtol=1e-14, atol=0)
        else:
            found = np.asarray(result[name]).tolist()
            assert [None if x != x else x for x in found] == [
                None if x != x else x for x in np.asarray(values).tolist()
            ], name


@pytest.mark.parametrize("batch", [3, 512])
def test_values_recorded_before_scorers_were_files(batch, monkeypatch, request):
    """With AutoInterpreter as it was; with some features at a time, and with all at once."""
    recorded = json.loads((request.path.parent / "recorded.json").read_text(encoding="utf-8"))
    if batch == 3:
        monkeypatch.setattr(_run, "_MIN_BATCH", 3)
        monkeypatch.setattr(_run, "_MAX_KEPT", 0)
        monkeypatch.setattr(_columns, "_MAX_ENTRIES", 1000)
    codes, tokens, labels, neurons = ragged()
    result = interpret_features(
        sp.csr_array(codes), tokens=tokens, token_labels=labels, neurons=neurons, **RULES
    )
    same(result, recorded["rules"])
    llm = Oracle(erratic)
    result = interpret_features(
        codes, [5, 1, 2, 6, 0], tokens=tokens, llm=llm, neurons=neurons, **MODEL
    )
    same(result, recorded["model"])
    asked = sorted(hashlib.sha256(json.dumps(m).encode()).hexdigest() for m in llm.asked)
    assert len(asked) == recorded["asked"]["n"]
    assert hashlib.sha256("".join(asked).encode()).hexdigest() == recorded["asked"]["digest"]


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array, sp.csc_array])
def test_columns_are_read_in_groups(convert, monkeypatch):
    monkeypatch.setattr(_columns, "_MAX_ENTRIES", 100)
    monkeypatch.setattr(_columns, "_MAX_COLUMNS", 3)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 12)) * (rng.random((200, 12)) < rng.random(12))
    columns = Columns(convert(X), "codes")
    assert_array_equal(columns.n_active, (X > 0).sum(axis=0))
    indices = np.array([4, 4, 0, 11, 7, 2, 9, 1])
    groups = list(columns.groups(indices))
    assert_array_equal(np.concatenate([indices[group] for group in groups]), indices)
    assert len(groups) > 3 and max(group.stop - group.start for group in groups) <= 3
    for group in groups:
        n_entries = columns.n_active[indices[group]].sum()
        assert n_entries <= 100 or group.stop == group.start + 1
        for j, activity in zip(indices[group], columns.read(indices[group]), strict=True):
            assert_array_equal(activity.rows, np.flatnonzero(X[:, j] > 0))
            assert_array_equal(activity.values, X[activity.rows, j])


def test_one_feature_and_all_features():
    codes, tokens, labels, _ = ragged()
    every = interpret_features(codes, tokens=tokens, token_labels=labels, **RULES)
    assert_array_equal(every.feature, range(8))
    alone = interpret_features(codes, 3, tokens=tokens, token_labels=labels, **RULES)
    for name in ("feature", "explanation", "detection", "fuzzing_auc", "intruder"):
        assert_array_equal(alone[name], every[name][3:4])
    with pytest.raises(ValueError, match="tokens must be given"):
        interpret_features(codes)
    kept = FeatureCodes.from_matrix(codes, tokens=tokens)
    of_kept = interpret_features(kept, token_labels=labels, **RULES)
    pd.testing.assert_frame_equal(pd.DataFrame(of_kept), pd.DataFrame(every))
    with pytest.raises(ValueError, match="Leave tokens out"):
        interpret_features(kept, tokens=tokens)
    with pytest.raises(ValueError, match="tokens must be given unless"):
        interpret_features(FeatureCodes.from_matrix(codes))


def test_explanations_of_others_against_plain_loops():
    rng = np.random.default_rng(0)
    texts = [None if rng.random() < 0.2 else f"t{rng.integers(4)}" for _ in range(60)]
    rows = [Row(7 * k, explained={"own": {"judged": text}}) for k, text in enumerate(texts)]
    found = explanations_of_others(rows, 5)
    for row, text, other in zip(rows, texts, found, strict=True):
        others = [t for t in texts if t is not None and t != str(text)]
        drawn = np.random.default_rng([5, 4, row.feature]).integers(len(others))
        assert other == others[drawn]
    alike = [Row(k, explained={"own": {"judged": "x"}}) for k in range(3)]
    assert explanations_of_others(alike, 0) == [None] * 3


class TestTable:
    def run(self, llm, path, features=None, **params):
        codes, tokens, _, neurons = ragged()
        return interpret_features(
            codes,
            features,
            tokens=tokens,
            llm=llm,
            neurons=neurons,
            table=path,
            **(MODEL | params),
        )

    def test_only_what_is_missing_is_asked(self, tmp_path):
        path = tmp_path / "new" / "t.jsonl"
        first, second, third = Oracle(erratic), Oracle(erratic), Oracle(erratic)
        expected = self.run(Oracle(erratic), None)
        part = self.run(first, path, [0, 1, 2])
        assert len(first.asked) == part.n_requests.sum()
        whole = self.run(second, path)
        again = self.run(third, path)
        assert third.asked == []
        assert_array_equal(again.n_requests, 0)
        assert_array_equal(again.n_cached, expected.n_requests)
        known = {json.dumps(m) for m in first.asked}
        new = [m for m in second.asked if json.dumps(m) in known]
        # all that was asked twice is of shuffled explanations, which are of more features now
        assert all("Active on" in messages[-1]["content"] for messages in new)
        assert whole.n_cached[:3].sum() > 0.8 * len(first.asked)
        for result in (whole, again):
            same(
                result, {k: v for k, v in expected.items() if k not in ("n_requests", "n_cached")}
            )

    def test_lines_can_be_read_during_the_run(self, tmp_path):
        path, seen = tmp_path / "t.jsonl", []

        def spy(messages):
            if path.exists() and path.stat().st_size:
                seen.append(pd.read_json(path, lines=True))
            return erratic(messages)

        self.run(Oracle(spy), path, [0, 1], scorers=("detection",))
        assert len(seen) > 5
        last = seen[-1]
        assert {"feature", "source", "part", "score", "explanation"} <= set(last)
        explained = last[(last.part == "explanation") & (last.source == "own")]
        assert_array_equal(explained.feature, [0, 1])
        assert explained.explanation.str.startswith("thing").all()

    @pytest.mark.parametrize("how", ["cut", "changed", "not text", "other", "cut in the middle"])
    def test_a_damaged_line_is_named_and_asked_again(self, how, tmp_path):
        path = tmp_path / "t.jsonl"
        expected = self.run(Oracle(erratic), path)
        lines = path.read_bytes().splitlines(keepends=True)
        number = len(lines) if how == "cut" else 5
        line = lines[number - 1]
        damaged = {
            "cut": line[:-20],
            "changed": line.replace(b'"prompt_tokens": ', b'"prompt_tokens": 1'),
            "not text": b"\xff\xfe\n",
            "other": b'{"a": 1}\n',
            "cut in the middle": line[:30] + b"\n",
        }[how]
        lines[number - 1] = damaged
        path.write_bytes(b"".join(lines))
        llm = Oracle(erratic)
        with pytest.warns(UserWarning, match=rf"table has 1 damaged lines in .*: {number}\. What"):
            result = self.run(llm, path)
        assert 0 < len(llm.asked) <= 20
        ignored = ("n_requests", "n_cached")
        same(result, {k: v for k, v in expected.items() if k not in ignored})
        with pytest.warns(UserWarning, match="damaged lines"):  # it stays where it is
            again = Oracle(erratic)
            self.run(again, path)
        assert again.asked == []

    def test_a_file_of_something_else_is_left_alone(self, tmp_path):
        path = tmp_path / "notes.txt"
        path.write_text("notes of mine\n")
        with pytest.raises(ValueError, match="holds something else than answers"):
            self.run(Oracle(), path)
        assert path.read_text() == "notes of mine\n"

    def test_an_interrupted_run_goes_on(self, tmp_path):
        path, llm = tmp_path / "t.jsonl", Oracle()

        def interrupted(messages):
            if len(llm.asked) > 150:
                raise KeyboardInterrupt
            return erratic(messages)

        llm.answer = interrupted
        with pytest.raises(KeyboardInterrupt):
            self.run(llm, path, n_jobs=1)
        rest = Oracle(erratic)
        result = self.run(rest, path, n_jobs=3)
        expected = self.run(Oracle(erratic), None)
        assert len(rest.asked) < expected.n_requests.sum() - 120
        same(result, {k: v for k, v in expected.items() if k not in ("n_requests", "n_cached")})

    def test_what_failed_is_asked_again(self, tmp_path):
        path = tmp_path / "t.jsonl"

        def broken(messages):
            return "no" if kind_of(messages) == "intruder" else erratic(messages)

        with pytest.warns(UserWarning, match="questions have no answer"):
            failed = self.run(Oracle(broken), path, [0, 1], max_retries=0)
        assert np.isnan(failed.intruder).all() and not np.isnan(failed.detection).any()
        llm = Oracle(erratic)
        result = self.run(llm, path, [0, 1])
        assert {kind_of(messages) for messages in llm.asked} == {"intruder"}
        assert not np.isnan(result.intruder).any()

    @pytest.mark.parametrize(
        "change",
        [
            {"random_state": 4},
            {"window_length": 15},
            {"n_score": 16},
            {"near_miss_fraction": 0.25},
            {"name": "another"},
            {"codes": 2.0},
            {"word": " other"},
        ],
    )
    def test_other_questions_are_not_confused(self, change, tmp_path):
        codes, tokens, _, _ = ragged()
        path, change = tmp_path / "t.jsonl", dict(change)
        params = MODEL | {"scorers": ("detection",), "table": path}
        interpret_features(codes, 1, tokens=tokens, llm=Oracle(erratic), **params)
        llm = Oracle(erratic)
        llm.name = change.pop("name", "oracle")
        codes = codes * change.pop("codes", 1.0)
        if "word" in change:
            tokens["token"][7] = change.pop("word")
        interpret_features(codes, 1, tokens=tokens, llm=llm, **(params | change))
        assert len(llm.asked) >= 3

    def test_rules_have_tables_too(self, tmp_path, monkeypatch):
        codes, tokens, labels, neurons = ragged()
        arguments = {"tokens": tokens, "token_labels": labels, "neurons": neurons} | RULES
        expected = interpret_features(codes, **arguments)
        path = tmp_path / "t.jsonl"
        first = interpret_features(codes, table=path, **arguments)
        size = path.stat().st_size
        again = interpret_features(codes, table=str(path), **arguments)
        assert path.stat().st_size == size
        for result in (first, again):
            pd.testing.assert_frame_equal(pd.DataFrame(result), pd.DataFrame(expected))
        labels["data"] = ~labels["data"]
        other = interpret_features(codes, table=path, **arguments)
        assert list(other.explanation) != list(expected.explanation)

    def test_no_file(self, tmp_path):
        with pytest.raises(OSError, match=r"table cannot be opened, at .*Give the path of a file"):
            self.run(Oracle(erratic), tmp_path, [0])

        def nameless(messages):
            return erratic(messages)

        with pytest.raises(ValueError, match=r"table needs llm\.name"):
            self.run(nameless, tmp_path / "t", [0], scorers=("detection",))

    def test_records_as_they_were(self, tmp_path):
        record = {"score": np.float64(0.1), "n": np.int64(3), "none": float("nan"), "t": "ä\n∅"}
        with AnswerTable(tmp_path / "t") as table:
            table.append("a", record)
            table.append("b", {"score": 1})
            table.append("a", record | {"n": 4})
            assert table.get("a")["n"] == 4
            assert table.get("c") is None
        with AnswerTable(tmp_path / "t") as table:
            found = table.get("a")
            assert found["t"] == "ä\n∅" and found["score"] == 0.1 and np.isnan(found["none"])


def test_questions_are_drawn_a_batch_at_a_time(monkeypatch):
    """Only a few batches are in memory, however many features are asked for."""
    monkeypatch.setattr(_run, "_MIN_BATCH", 2)
    monkeypatch.setattr(_run, "_MAX_KEPT", 0)
    alive, most = set(), 0

    class Counted(_run.Subject):
        def __init__(self, *arguments):
            nonlocal most
            super().__init__(*arguments)
            alive.add(id(self))
            most = max(most, len(alive))

        def __del__(self):
            alive.discard(id(self))

    monkeypatch.setattr(_run, "Subject", Counted)
    codes, tokens = planted(30)
    interpret_features(codes, tokens=tokens, window_length=8, scorers=["detection"])
    assert 2 <= most <= 8


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_answers_come_in_order_and_no_more_at_once(n_jobs):
    lock, running, most, started = threading.Lock(), 0, 0, []

    def call(k):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            started.append(k)
        barrier.wait(0.01 if k % 3 else 0.03)
        with lock:
            running -= 1
        return k

    barrier = threading.Event()

    def tasks():
        for k in range(20):
            assert len(started) > k * 2 - 8 * n_jobs - 2  # read when it is needed
            yield k, [lambda k=k: call(2 * k), lambda k=k: call(2 * k + 1)]

    found = list(answered(tasks(), n_jobs))
    assert found == [(k, [2 * k, 2 * k + 1]) for k in range(20)]
    assert most == n_jobs


def test_an_error_stops_all_that_has_not_begun():
    called = []

    def fail():
        called.append(1)
        raise MemoryError("full")

    with pytest.raises(MemoryError, match="full"):
        list(answered([(k, [fail]) for k in range(100)], 2))
    assert len(called) < 20


def test_scores_of_a_table():
    codes, tokens, labels, neurons = ragged()
    result = interpret_features(
        codes, tokens=tokens, token_labels=labels, neurons=neurons, **RULES
    )
    for table in (result, pd.DataFrame(result), dict(result)):
        scores = score_columns(table)
        assert list(scores) == list(SCORERS)
        assert [of["chance"] for of in scores.values()] == [0.5, 0.5, 0.2, 0.0]
        assert scores["intruder"]["shuffled"] is None
        assert_array_equal(scores["fuzzing"]["shuffled"], result.fuzzing_shuffled)
        assert_array_equal(scores["fuzzing"]["neuron"], result.fuzzing_neuron)
        assert_array_equal(scores["simulation"]["score"], result.simulation)
    assert score_columns({"feature": [1], "explanation": ["x"]}) == {}
