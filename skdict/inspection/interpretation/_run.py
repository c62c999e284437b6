"""The run over features: explanations and scores, some features at a time."""

import hashlib
import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import joblib
import numpy as np

from ...utils._warnings import warn
from ._subjects import FEATURES, NEURONS, SHUFFLING, greatest, match_neurons

# Features whose questions are in memory at a time, and how many are few enough to stay there:
# about 60 kB each.
_MIN_BATCH, _MAX_KEPT = 32, 512


class Cost(NamedTuple):
    """What answers cost; the fields are those of `Answer`."""

    n_requests: int = 0
    n_cached: int = 0
    n_failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_estimate: bool = False

    @classmethod
    def of(cls, answers):
        """The cost of some answers together."""
        *counts, are_estimates = (
            [getattr(answer, name) for answer in answers] for name in cls._fields
        )
        return cls(*map(sum, counts), any(are_estimates))

    @classmethod
    def of_record(cls, record):
        """The cost of answers from the table: all of its requests were made before."""
        cost = cls(*(record[name] for name in cls._fields))
        return cost._replace(n_requests=0, n_cached=cost.n_cached + cost.n_requests)


class Subject:
    """A feature or neuron that is being interpreted.

    Parameters
    ----------
    index : int
    activity : Activity
    drawing : Drawing
    seeded_for : {FEATURES, NEURONS}

    Attributes
    ----------
    explanation : object
        The judge's; None if it is missing.
    """

    def __init__(self, index, activity, drawing, seeded_for):
        self.index = index
        self.activity = activity
        self._draw = partial(drawing, index, activity, seeded_for=seeded_for)
        self.identity = [seeded_for, index]
        self.explanation = None

    @cached_property
    def drawn(self):
        """Windows and questions, drawn when they are needed."""
        return self._draw()

    @cached_property
    def digest(self):
        """Identifies the activity on which all questions depend."""
        parts = (np.ascontiguousarray(part).tobytes() for part in self.activity)
        return hashlib.sha256(b"".join(parts)).hexdigest()


@dataclass
class Row:
    """What the result has of a feature.

    Parameters
    ----------
    feature : int
    neuron : int or None
    explained : dict of str to dict
        For "own" and "neuron": "explanation", "reason", "n_active_windows" and "split".
    scores : dict of (str, str) to dict
        For each scorer and source ("own", "shuffled" or "neuron"), the scores.
    cost : Cost
    """

    feature: int
    neuron: int | None = None
    explained: dict = field(default_factory=dict)
    scores: dict = field(default_factory=dict)
    cost: Cost = field(default_factory=lambda: Cost())


class Run:
    """Explains features and scores the explanations, a batch of features at a time.

    Of each feature only its row of the result stays in memory. What a table on disk has is not
    asked.

    Parameters
    ----------
    columns : tuple of (Columns, Columns or None)
        The codes, and the neurons if they are wanted.
    explainer : LanguageModelExplainer or RuleExplainer
    drawing : Drawing
    scorers : list of Scorer
    table : AnswerTable or None
    identity : list
        All that answers depend on, apart from the feature: part of the table's keys.
    n_jobs : int or None
    seed : int
    """

    def __init__(self, columns, explainer, drawing, scorers, table, *, identity, n_jobs, seed):
        self._codes, self._neurons = columns
        self._explainer = explainer
        self._drawing = drawing
        self._scorers = scorers
        self._table = table
        self._identity = identity
        self._n_jobs = joblib.effective_n_jobs(n_jobs)
        self._seed = seed
        self._n_asked = self._n_failed = self._n_to_explain = 0
        self._any_answer = False
        self._last_error = None

    def __call__(self, features):
        """Interpret some features; returns a list of `Row`.

        Raises
        ------
        RuntimeError
            If of a first batch no request for an explanation is answered, not even unreadably.
        """
        rows = [Row(int(feature)) for feature in features]
        sources = ("own",) if self._neurons is None else ("own", "neuron")
        batches = self._batches(rows, neurons=self._neurons is not None)
        if len(rows) <= _MAX_KEPT:
            batches = kept = list(batches)
        for batch in batches:
            self._explain(batch, sources)
            for source in sources:
                own = [subjects[source].explanation for _, subjects in batch]
                self._score(batch, source, source, own)
        if any(scorer.needs_explanation for scorer in self._scorers):
            others = iter(explanations_of_others(rows, self._seed))
            # of many features, windows and questions are drawn again
            for batch in kept if len(rows) <= _MAX_KEPT else self._batches(rows, neurons=False):
                self._score(batch, "shuffled", "own", [next(others) for _ in batch])
        if self._n_failed:
            warn(
                f"{self._n_failed} of {self._n_asked} questions have no answer, even after "
                f"retries; see n_failures. The last one: {self._last_error}"
            )
        return rows

    def _batches(self, rows, *, neurons):
        """Yield lists of (row, {"own": Subject, "neuron": Subject})."""
        size = max(_MIN_BATCH, 4 * self._n_jobs)
        features = np.array([row.feature for row in rows], dtype=np.int64)
        for group in self._codes.groups(features):
            activities = self._codes.read(features[group])
            peers = self._matched(features[group], activities) if neurons else []
            for start in range(group.start, group.stop, size):
                batch = []
                for k in range(start, min(start + size, group.stop)):
                    activity = activities[k - group.start]
                    subjects = {"own": Subject(rows[k].feature, activity, self._drawing, FEATURES)}
                    if neurons:
                        neuron, activity = peers[k - group.start]
                        rows[k].neuron = neuron
                        subjects["neuron"] = Subject(neuron, activity, self._drawing, NEURONS)
                    batch.append((rows[k], subjects))
                yield batch

    def _matched(self, features, activities):
        """For each feature a neuron and its `Activity`, on no more rows than the feature's."""
        counts = [len(activity.rows) for activity in activities]
        neurons = match_neurons(self._neurons.n_active, features, counts, self._seed)
        pairs = []
        for group in self._neurons.groups(neurons):
            read = self._neurons.read(neurons[group])
            for neuron, activity, count in zip(neurons[group], read, counts[group], strict=True):
                pairs.append((int(neuron), greatest(activity, count)))
        return pairs

    def _explain(self, batch, sources):
        def tasks():
            for row, subjects in batch:
                for source in sources:
                    subject = subjects[source]
                    key = self._key(subject, "explanation")
                    record = self._find(key)
                    if record is not None:
                        stored = record["stored"]
                        subject.explanation = self._explainer.from_json(stored)
                        self._explained(row, source, subject, record, Cost.of_record(record))
                    elif subject.drawn.reason:
                        about = {"reason": subject.drawn.reason} | _windows_of(subject)
                        self._explained(row, source, subject, about, Cost())
                    else:
                        ask = partial(self._explainer.explain, subject.drawn.shown)
                        yield (row, source, subject, key), [ask]

        for (row, source, subject, key), (answer,) in self._asked(tasks()):
            self._n_to_explain += 1
            self._any_answer |= answer.value is not None or answer.prompt_tokens > 0
            subject.explanation = answer.value
            about, cost = _windows_of(subject), Cost.of([answer])
            if answer.value is None:
                about["reason"] = f"no explanation: {answer.error}"
            else:
                stored = self._explainer.to_json(answer.value)
                about["explanation"] = str(answer.value)
                self._store(key, row, source, "explanation", about | {"stored": stored}, cost)
            self._explained(row, source, subject, about, cost)
        if self._n_to_explain and not self._any_answer:
            raise RuntimeError(
                f"llm answered none of {self._n_to_explain} requests for an explanation. Check "
                f"that it works: llm([{{'role': 'user', 'content': 'Hello'}}]). The last error: "
                f"{self._last_error}"
            )

    def _explained(self, row, source, subject, about, cost):
        names = ("explanation", "reason", "split")
        row.explained[source] = {name: about.get(name, "") for name in names} | {
            "n_active_windows": about["n_active_windows"],
            "judged": subject.explanation,
        }
        row.cost = Cost.of([row.cost, cost])

    def _score(self, batch, source, side, explanations):
        """Score explanations by the questions about the subjects of a side."""

        def tasks():
            for (row, subjects), explanation in zip(batch, explanations, strict=True):
                about = row.explained[side]
                for scorer in self._scorers:
                    if not scorer.needs_explanation and source == "shuffled":
                        continue
                    missing = about["judged"] is None or explanation is None
                    if about["split"] == "" or (scorer.needs_explanation and missing):
                        row.scores[scorer.name, source] = scorer.score([], [])
                        continue
                    tested = explanation if scorer.needs_explanation else None
                    key = self._key(subjects[side], scorer, tested)
                    record = self._find(key)
                    if record is None:
                        questions = subjects[side].drawn.questions[scorer.name]
                        questions = [q._replace(explanation=tested) for q in questions]
                        calls = [partial(self._explainer.answer, scorer, q) for q in questions]
                        yield (row, scorer, key, questions), calls
                    else:
                        row.scores[scorer.name, source] = {
                            name: record[name] for name in scorer.score([], [])
                        }
                        row.cost = Cost.of([row.cost, Cost.of_record(record)])

        for (row, scorer, key, questions), answers in self._asked(tasks()):
            scores = scorer.score(questions, [answer.value for answer in answers])
            row.scores[scorer.name, source] = scores
            cost = Cost.of(answers)
            row.cost = Cost.of([row.cost, cost])
            if cost.n_failures == 0:
                self._store(key, row, source, scorer.name, scores, cost)

    def _asked(self, tasks):
        """Yield (task, answers) of pairs of a task and calls, in order, and count failures."""
        for task, answers in answered(tasks, self._n_jobs):
            self._n_asked += len(answers)
            for answer in answers:
                if answer.value is None:
                    self._n_failed += 1
                    self._last_error = answer.error
            yield task, answers

    def _key(self, subject, part, explanation=None):
        """Digest of all that an answer depends on; None without a table."""
        if self._table is None:
            return None
        if part != "explanation":
            part = [part.name, type(part).__name__, sorted(vars(part).items())]
        stored = None if explanation is None else self._explainer.to_json(explanation)
        parts = [self._identity, subject.identity, subject.digest, part, stored]
        return hashlib.sha256(json.dumps(parts, default=repr).encode()).hexdigest()[:32]

    def _find(self, key):
        return None if self._table is None else self._table.get(key)

    def _store(self, key, row, source, part, fields, cost):
        if self._table is not None:
            place = {"feature": row.feature, "source": source, "part": part}
            if row.neuron is not None:
                place["neuron"] = row.neuron
            self._table.append(key, place | fields | cost._asdict())


def _windows_of(subject):
    drawn = subject.drawn
    return {"n_active_windows": drawn.n_active_windows, "split": drawn.split}


def answered(tasks, n_jobs):
    """Yield each task with the results of its calls, in order.

    Parameters
    ----------
    tasks : iterable of (object, list of callable)
        Read no further than calls can be made soon.
    n_jobs : int
        Maximum number of calls at once, in as many threads.
    """
    if n_jobs == 1:
        for task, calls in tasks:
            yield task, [call() for call in calls]
        return
    pool, waiting, n_waiting = ThreadPoolExecutor(n_jobs), deque(), 0
    try:
        for task, calls in tasks:
            waiting.append((task, [pool.submit(call) for call in calls]))
            n_waiting += len(calls)
            while n_waiting > 4 * n_jobs:
                first, futures = waiting.popleft()
                yield first, [future.result() for future in futures]
                n_waiting -= len(futures)
        for task, futures in waiting:
            yield task, [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def explanations_of_others(rows, seed):
    """For each row the explanation of a random row with a different explanation, or None.

    Returns
    -------
    others : list of object
    """
    judged = [row.explained["own"]["judged"] for row in rows]
    known = [place for place, explanation in enumerate(judged) if explanation is not None]
    alike = {}  # text: where it is among the known
    for k, place in enumerate(known):
        alike.setdefault(str(judged[place]), []).append(k)
    alike = {text: np.array(where) for text, where in alike.items()}
    others = []
    for row, explanation in zip(rows, judged, strict=True):
        own = alike.get(str(explanation), np.empty(0, np.int64))
        n_others = len(known) - len(own)
        if n_others == 0:
            others.append(None)
            continue
        k = np.random.default_rng([seed, SHUFFLING, row.feature]).integers(n_others)
        # the k-th that is not among its own: pass over those of its own that come before
        k += np.searchsorted(own - np.arange(len(own)), k, side="right")
        others.append(judged[known[k]])
    return others
