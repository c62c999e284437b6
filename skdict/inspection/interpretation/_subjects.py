"""Features and neurons with their windows, questions, explanations and scores."""

from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.utils import Bunch

from ...metrics._rows import row_blocks, to_numpy
from ...utils._warnings import warn
from ..codes._active import active_rows
from ._questions import CHANCE, explain_question, score, score_questions
from ._windows import Activity, Sample, TooFewWindows

_MATCHING, _SHUFFLING = 3, 4  # seeds of random generators; `_interpreter` uses 1 and 2


@dataclass
class Subject:
    """A feature or neuron with its windows, questions and answers.

    Parameters
    ----------
    index : int
    activity : Activity
    n_active_windows : int
    sample : Sample or None
        None if there are too few windows.
    questions : dict of str to list of Question
        The questions of each scorer, without explanation.
    reasons : list of str
        Why something is missing.
    explanation : object
        The judge's explanation; None if it is missing.
    answers : list of Answer
        The answers to all questions about it.
    """

    index: int
    activity: Activity
    n_active_windows: int
    sample: Sample | None = None
    questions: dict = field(default_factory=dict)
    reasons: list = field(default_factory=list)
    explanation: object = None
    answers: list = field(default_factory=list)

    @classmethod
    def draw(cls, index, activity, grid, rng, *, scorers, **sizes):
        """Sample the windows and make the questions; `sizes` as for `WindowGrid.draw`."""
        try:
            sample = grid.draw(activity, rng, **sizes)
        except TooFewWindows as error:
            return cls(index, activity, error.n_active, reasons=[str(error)])
        subject = cls(index, activity, sample.n_active, sample)
        active = [grid.example(window, activity) for window in sample.score_active]
        inactive = [grid.example(window, activity) for window in sample.score_inactive]
        # for all scorers, so that the choice of scorers does not change the random draws
        for kind in CHANCE:
            questions = score_questions(kind, active, inactive, rng)
            if kind in scorers:
                subject.questions[kind] = questions
                if not questions:
                    subject.reasons.append(
                        f"{kind}: too few windows of which at most half is active"
                    )
        return subject


def match_neurons(neurons, subjects, seed):
    """For each feature, draw a neuron and keep only as many of its greatest activations.

    Returns
    -------
    matched : list of int
    activities : list of Activity
    """
    n_active = sum(_n_positive(neurons[rows]) for rows in row_blocks(neurons))
    matched, activities = [], []
    for subject in subjects:
        n_rows = len(subject.activity.rows)
        eligible = np.flatnonzero(n_active >= min(n_rows, n_active.max()))
        rng = np.random.default_rng([seed, _MATCHING, subject.index])
        neuron = rng.choice(eligible)
        ((rows, values),) = active_rows(neurons, np.array([neuron]))
        greatest = np.sort(np.argsort(-values, kind="stable")[:n_rows])
        matched.append(neuron)
        activities.append(Activity(rows[greatest], values[greatest]))
    return matched, activities


def _n_positive(block):
    """Number of positive entries in each column, (n_columns,)."""
    block = to_numpy(block) if isinstance(block, torch.Tensor) else block
    return np.asarray((block > 0).sum(axis=0)).ravel()  # of a csr_matrix it is a matrix


def explain_all(subjects, grid, ask):
    """Ask for explanations of all subjects that have windows.

    Raises
    ------
    RuntimeError
        If no request is answered, not even unreadably.
    """
    subjects = [subject for subject in subjects if subject.sample is not None]
    questions = [explain_question(grid, s.activity, s.sample) for s in subjects]
    answers = ask(questions)
    if answers and not any(a.value is not None or a.prompt_tokens for a in answers):
        raise RuntimeError(
            f"llm answered none of {len(answers)} requests for an explanation. Check that it "
            f"works: llm([{{'role': 'user', 'content': 'Hello'}}]). The last error: "
            f"{answers[-1].error}"
        )
    for subject, answer in zip(subjects, answers, strict=True):
        subject.answers.append(answer)
        subject.explanation = answer.value
        if answer.value is None:
            subject.reasons.append(f"no explanation: {answer.error}")


def score_all(subjects, peers, scorers, ask, seed):
    """Ask the questions of all scorers at once, and score the answers.

    Returns
    -------
    scores : dict of (str, str) to list of dict
        For each scorer and source ("own", "shuffled" or "neuron"), the scores of each subject.
    """
    shuffled = [_explanation_of_another(subject, subjects, seed) for subject in subjects]
    sources = {
        "own": (subjects, [subject.explanation for subject in subjects]),
        "shuffled": (subjects, shuffled),
        "neuron": (peers, [peer.explanation for peer in peers]),
    }
    posed = {}  # {(scorer, source): for each subject a list of questions}
    for kind in scorers:
        for source, (asked_of, explanations) in sources.items():
            pairs = zip(asked_of, explanations, strict=True)
            if kind != "intruder":
                posed[kind, source] = [_with_explanation(s, kind, e) for s, e in pairs]
            elif source != "shuffled":
                posed[kind, source] = [s.questions.get(kind, []) for s, _ in pairs]
    answers = iter(ask(q for rows in posed.values() for questions in rows for q in questions))
    scores = {}
    for (kind, source), rows in posed.items():
        scores[kind, source] = []
        for subject, questions in zip(sources[source][0], rows, strict=True):
            given = [next(answers) for _ in questions]
            subject.answers += given
            scores[kind, source].append(score(kind, questions, [a.value for a in given]))
    return scores


def _with_explanation(subject, kind, explanation):
    if explanation is None or subject.explanation is None:
        return []
    return [q._replace(explanation=explanation) for q in subject.questions.get(kind, [])]


def _explanation_of_another(subject, subjects, seed):
    """The explanation of a random subject with a different explanation, or None."""
    others = [
        other.explanation
        for other in subjects
        if other.explanation is not None and str(other.explanation) != str(subject.explanation)
    ]
    rng = np.random.default_rng([seed, _SHUFFLING, subject.index])
    return others[rng.integers(len(others))] if others else None


def make_table(subjects, peers, scorers, scores):
    """The result of `AutoInterpreter.interpret`; warns if questions failed."""
    result = Bunch(
        feature=np.array([s.index for s in subjects], dtype=np.int64),
        explanation=_texts(s.explanation for s in subjects),
        reason=_texts("; ".join(s.reasons) for s in subjects),
        n_active_windows=np.array([s.n_active_windows for s in subjects], dtype=np.int64),
        split=_texts(s.sample and s.sample.split for s in subjects),
    )
    for kind in scorers:
        own = {key: [row[key] for row in scores[kind, "own"]] for key in score(kind, [], [])}
        result[kind] = np.array(own.pop("score"), dtype=np.float64)
        for source in ("shuffled", "neuron"):
            rows = scores.get((kind, source))
            if rows and (source != "shuffled" or kind != "intruder"):
                result[f"{kind}_{source}"] = np.array([row["score"] for row in rows])
        for key, values in own.items():
            dtype = np.int64 if key == "n_items" else np.float64
            result[f"{kind}_{key}"] = np.array(values, dtype=dtype)
    if peers:
        result.neuron = np.array([p.index for p in peers], dtype=np.int64)
        result.neuron_explanation = _texts(p.explanation for p in peers)
        result.neuron_reason = _texts("; ".join(p.reasons) for p in peers)
    answers = [s.answers + (peers[row].answers if peers else []) for row, s in enumerate(subjects)]
    for key in ("n_requests", "n_cached", "n_failures", "prompt_tokens", "completion_tokens"):
        result[key] = np.array([sum(getattr(a, key) for a in row) for row in answers], np.int64)
    result.tokens_estimated = np.array([any(a.is_estimate for a in r) for r in answers], bool)
    _warn_of_failures([answer for row in answers for answer in row])
    return result


def _texts(values):
    texts = ["" if value is None else str(value) for value in values]
    return np.array([*texts, None], dtype=object)[:-1]  # dtype object even if empty


def _warn_of_failures(answers):
    failed = [answer for answer in answers if answer.value is None]
    if failed:
        warn(
            f"{len(failed)} of {len(answers)} questions have no answer, even after retries; see "
            f"n_failures. The last one: {failed[-1].error}"
        )
