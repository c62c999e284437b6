"""What a scorer of explanations is: its questions, prompt, answers and score."""

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from .._prompts import excerpt, numbered, parse_numbers

SCORERS = {}  # name: class
MAX_WINDOWS = 10  # in one question


def register(name):
    """Class decorator: give a subclass of `Scorer` a name, by which it can be asked for."""

    def add(scorer):
        scorer.name = name
        SCORERS[name] = scorer
        return scorer

    return add


class Question(NamedTuple):
    """A question with its true answer, which the judge does not see.

    Parameters
    ----------
    examples : list of Example
        The windows to show.
    truth : ndarray
        The true answer, of any shape that the scorer understands.
    explanation : object, default=None
        The explanation to test.
    """

    examples: list
    truth: np.ndarray
    explanation: object = None


class Scorer:
    """Tests explanations of a feature by questions about windows of text.

    A subclass needs `questions`, `answer_by_rule` and `measure`; for a language model also
    `system`, `shot`, `content` and `parse`. All take and return one question at a time, but for
    `questions` and `measure`.

    Attributes
    ----------
    name : str
        Name of the score in the result; set by `register`, or by the class itself.

    chance : float
        Score of uninformed answers.

    needs_explanation : bool
        Whether the question includes the explanation. If not, there is no "shuffled" baseline.

    needs_logprobs : bool
        Whether `parse` needs the log-probabilities of the tokens.

    system : str
        Instructions to the language model.

    shot : tuple of (str, str)
        A worked example: a question and its answer.

    none_possible : str
        Why `questions` may return an empty list.
    """

    name = None
    chance = 0.0
    needs_explanation = True
    needs_logprobs = False
    system = ""
    shot = ("", "")
    none_possible = "the windows allow no question"

    def questions(self, active, inactive, rng):
        """Make the questions about a feature.

        Parameters
        ----------
        active, inactive : list of Example
            Windows in which the feature is active, ascending by their greatest activation, and as
            many in which it is not.
        rng : numpy.random.Generator

        Returns
        -------
        questions : list of Question
            Without explanation; empty if the windows allow no question.
        """
        raise NotImplementedError

    def content(self, question, grid):
        """The question as a language model reads it, below the explanation.

        Parameters
        ----------
        question : Question
        grid : WindowGrid
            ``grid.pieces(example.rows)`` are the texts of an example's tokens.

        Returns
        -------
        content : str
        """
        raise NotImplementedError

    def parse(self, completion, question):
        """Read a language model's answer; raises ValueError if it is unreadable.

        Parameters
        ----------
        completion : Completion
            A str; its `logprobs` are set if `needs_logprobs`.
        question : Question

        Returns
        -------
        answer : ndarray
        """
        raise NotImplementedError

    def answer_by_rule(self, question, rules):
        """The answer of a rule, if there is no language model.

        Parameters
        ----------
        question : Question
            Its explanation is a `Rule`.
        rules : RuleExplainer
            ``rules.holds(rule, examples)`` says on which tokens it holds.

        Returns
        -------
        answer : ndarray
        """
        raise NotImplementedError

    def measure(self, truth, answers):
        """The scores of answered questions.

        Parameters
        ----------
        truth, answers : list of ndarray
            An array for each answered question; there is at least one.

        Returns
        -------
        scores : dict of str to float
            "score", which becomes the column ``name`` of the result, and others, ``name_key``.
        """
        raise NotImplementedError

    others = ()  # keys of `measure` beside "score"

    def n_items(self, question):
        """How many answers a question asks for."""
        return 1

    def score(self, questions, answers):
        """The scores of all questions about a feature.

        Parameters
        ----------
        questions : list of Question
        answers : list of (ndarray or None)
            None for questions without an answer.

        Returns
        -------
        scores : dict of str to float
            "score", "n_items", "failure_rate" (the fraction of items without an answer), and
            the others of `measure`; nan if nothing was answered.
        """
        n_items = [self.n_items(question) for question in questions]
        n_failed = sum(n for n, answer in zip(n_items, answers, strict=True) if answer is None)
        scores = {"score": np.nan, "n_items": sum(n_items)}
        scores["failure_rate"] = n_failed / sum(n_items) if n_items else np.nan
        scores |= dict.fromkeys(self.others, np.nan)
        pairs = [(q.truth, a) for q, a in zip(questions, answers, strict=True) if a is not None]
        if pairs:
            scores |= self.measure(*map(list, zip(*pairs, strict=True)))
        return scores


class PerWindow(Scorer):
    """Asks for each of some windows how probable something is that is true of half of them."""

    chance = 0.5
    others = ("auc",)
    marks = False  # whether tokens are highlighted

    def n_items(self, question):
        """How many windows the question shows."""
        return len(question.truth)

    def content(self, question, grid):
        """The windows, numbered."""
        return numbered([excerpt(e, grid, marks=self.marks) for e in question.examples])

    def parse(self, completion, question):
        """A probability for each window."""
        return parse_numbers(completion, len(question.examples), low=0, high=1)

    def measure(self, truth, answers):
        """Balanced accuracy, and the area under the ROC curve."""
        truth, answers = np.concatenate(truth), np.concatenate(answers)
        if truth.all() or not truth.any():
            return {}
        yes = answers > 0.5
        balanced = (np.mean(yes[truth]) + np.mean(~yes[~truth])) / 2
        return {"score": balanced, "auc": _area_under_curve(truth, answers)}


def in_batches(examples, truth, rng):
    """Questions of at most MAX_WINDOWS windows each, of about equal size, in random order."""
    order = rng.permutation(len(examples))
    parts = np.array_split(order, np.ceil(len(order) / MAX_WINDOWS))
    return [Question([examples[i] for i in part], truth[part]) for part in parts]


def _area_under_curve(truth, values):
    """The probability that a true entry has the greater value; ties count half."""
    n_true = np.count_nonzero(truth)
    n_pairs = n_true * (len(truth) - n_true)
    return float(rankdata(values)[truth].sum() - n_true * (n_true + 1) / 2) / n_pairs
