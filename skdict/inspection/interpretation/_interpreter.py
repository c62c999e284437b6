"""AutoInterpreter: explanations of features, scored on held-out windows."""

import copy
import os
from numbers import Integral, Real

import joblib
import numpy as np
from sklearn.base import BaseEstimator

from ..._core.parameters import python_number
from ...metrics._rows import as_rows
from ...utils._random import check_random_state
from ...utils._sklearn_compat import (
    Interval,
    validate_parameter_constraints,
)
from ..codes._active import active_rows, check_indices
from ..results._detectors import check_codes_and_labels
from ..results._named_labels import named_labels
from ._asking import AnswerCache, Asker
from ._prompts import LanguageModelJudge
from ._questions import CHANCE
from ._rules import RuleJudge
from ._subjects import Subject, explain_all, make_table, match_neurons, score_all
from ._windows import Activity, WindowGrid

_FEATURES, _NEURONS = 1, 2  # seeds of random generators; `_subjects` uses 3 and 4


class AutoInterpreter(BaseEstimator):
    """Explain features in words, and score the explanations.

    A language model is shown windows of text in which a feature is active, with its active tokens
    highlighted, and windows in which it is not active, and says what the feature responds to. The
    explanation is then scored on other windows, half of them active:

    - "detection" [1]_: given the explanation, is the feature active in this window?
    - "fuzzing" [1]_: are the highlighted tokens the active ones, or other ones?
    - "intruder" [2]_: in which of five windows, four of them active, is the feature not active?
      This needs no explanation: it measures whether the active windows have something in common.
    - "simulation" [3]_: how active is the feature on each token?

    Without a language model, rules are used instead: the explanation is the label, or the list of
    tokens, that agrees best with the feature's activity in the windows shown, and the rule answers
    the same questions. The result then depends only on the data and on `random_state`.

    Parameters
    ----------
    llm : callable, default=None
        From messages, a list of dict with "role" and "content", to the answer, a str: an
        :class:`OpenAIChat`, or any function. It may return a :class:`Completion`, which also has
        the cost. For "simulation" it needs a method `logprobs`, from messages to a `Completion`
        with log-probabilities. By default rules are used.

    scorers : tuple of str, default=("detection", "fuzzing", "intruder")
        Any of "detection", "fuzzing", "intruder" and "simulation".

    window_length : int, default=32
        Maximum number of tokens of a window. Windows do not overlap and contain only tokens that
        the model saw together, so they end with the text.

    n_explain : int, default=20
        Maximum number of active windows per explanation: half of them the most active ones, the
        others from all levels of activation. Half as many inactive windows are shown too.

    n_score : int, default=40
        Maximum number of windows to score with: half of them active, from all levels of
        activation, and half inactive.

    near_miss_fraction : float, default=0.5
        Target fraction of near misses among the inactive windows. A near miss contains a token
        that is the most active one of some active window.

    cache : str or path-like, default=None
        Folder for the answers of the language model, so that none is paid for twice and an
        interrupted run can be resumed. Answers are identified by the messages and by the
        attribute ``llm.name``, which must change when the answers do.

    n_jobs : int, default=None
        Maximum number of concurrent requests, from as many threads. None means 1. The result
        does not depend on it if the answers do not.

    max_retries : int, default=2
        Maximum number of repetitions of a question, after an exception (unless the server's
        status code says that a retry is pointless) or an unreadable answer.

    retry_wait : float, default=1.0
        Seconds to wait after the first exception; doubled after each further one, up to 60.

    random_state : int, RandomState instance or None, default=0
        Determines the sampled windows and thereby the questions. With None the questions differ
        in each run, so the cache is of no use. A feature's questions do not depend on which other
        features are interpreted.

    See Also
    --------
    OpenAIChat : A language model behind an OpenAI-compatible server.
    InterpretationDisplay : Draws the scores.
    select_feature_detectors : The converse: the best feature for a label.

    Notes
    -----
    A feature is active where its code is positive. The texts are split at random into two halves,
    one for explaining and one for scoring. If this leaves fewer than five active windows in either
    half, the windows are split instead, so that both halves may contain windows of the same text
    (column "split"). Only one of several windows with the same tokens is used. Explanations are
    never scored on windows that they were made from. The last window of a text is shorter, and
    shorter windows are less often active; inactive windows are therefore sampled to have the same
    lengths as the active ones.

    Detection and fuzzing are scored by the balanced accuracy

    .. math:: \\tfrac12 \\left( P(\\text{yes} \\mid \\text{right})
              + P(\\text{no} \\mid \\text{wrong}) \\right)

    which is 0.5 for constant answers, and by the area under the ROC curve (AUC) of the answered
    probabilities. Wrong highlights are in the same windows as right ones, in the same pattern,
    shifted at random; windows that are active on more than half of their tokens do not allow this
    and are left out. The intruder is highlighted in the pattern of another active window; the
    chance level is an accuracy of 0.2. Simulation is scored by the Pearson correlation over all
    tokens of the windows, 0 if the simulation is constant.

    Two baselines accompany each score: the explanation of a random other feature on the same
    questions ("shuffled"), and a neuron treated in the same way ("neuron"). The neuron is drawn
    at random from those that are active on at least as many tokens, and only as many of its
    greatest activations are kept. As a further baseline, use the codes of a network with random
    weights: what scores as well there is a property of the texts.

    References
    ----------
    .. [1] Paulo, G., Mallen, A., Juang, C. and Belrose, N. "Automatically Interpreting Millions
       of Features in Large Language Models", 2024, arXiv:2410.13928.
    .. [2] Paulo, G. and Belrose, N. "Evaluating SAE interpretability without explanations",
       2025, arXiv:2507.08473.
    .. [3] Bills, S. et al. "Language models can explain neurons in language models", 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from skdict.inspection import AutoInterpreter
    >>> words = np.array(["a", "cat", "and", "the", "dog", "sat", "on", "it"], dtype=object)
    >>> rng = np.random.default_rng(0)
    >>> token_id = rng.integers(len(words), size=400)  # 40 texts of ten tokens
    >>> tokens = {
    ...     "document": np.repeat(np.arange(40), 10),
    ...     "position": np.tile(np.arange(10), 40),
    ...     "token_id": token_id,
    ...     "token": words[token_id],
    ...     "start": np.tile(np.arange(10) * 4, 40),
    ...     "end": np.tile(np.arange(10) * 4 + 3, 40),
    ... }
    >>> codes = np.stack([token_id == 1, token_id == 4], axis=1).astype(float)
    >>> result = AutoInterpreter(window_length=5).interpret(codes, tokens, [0, 1])
    >>> result.explanation.tolist()
    ["the tokens 'cat'", "the tokens 'dog'"]
    >>> result.detection, result.detection_shuffled.round(2)
    (array([1., 1.]), array([0.5 , 0.47]))
    """

    _parameter_constraints = {
        "llm": [callable, None],
        "scorers": [list, tuple],
        "window_length": [Interval(Integral, 2, None, closed="left")],
        "n_explain": [Interval(Integral, 2, None, closed="left")],
        "n_score": [Interval(Integral, 10, None, closed="left")],
        "near_miss_fraction": [Interval(Real, 0, 1, closed="both")],
        "cache": [str, os.PathLike, None],
        "n_jobs": [Interval(Integral, None, None, closed="neither"), None],
        "max_retries": [Interval(Integral, 0, None, closed="left")],
        "retry_wait": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        llm=None,
        *,
        scorers=("detection", "fuzzing", "intruder"),
        window_length=32,
        n_explain=20,
        n_score=40,
        near_miss_fraction=0.5,
        cache=None,
        n_jobs=None,
        max_retries=2,
        retry_wait=1.0,
        random_state=0,
    ):
        self.llm = llm
        self.scorers = scorers
        self.window_length = window_length
        self.n_explain = n_explain
        self.n_score = n_score
        self.near_miss_fraction = near_miss_fraction
        self.cache = cache
        self.n_jobs = n_jobs
        self.max_retries = max_retries
        self.retry_wait = retry_wait
        self.random_state = random_state

    def interpret(self, codes, tokens, features, *, labels=None, neurons=None):
        """Explain features and score the explanations.

        Parameters
        ----------
        codes : {array-like, sparse matrix, torch.Tensor} of shape (n_tokens, n_components)
            Codes of the activations, one row per token; or the activations themselves.

        tokens : mapping
            The token of each row, as the method `tokens` of an
            :class:`~skdict.feature_extraction.ActivationExtractor` returns it: arrays of length
            n_tokens under "document", "position", "token_id", "token", "start" and "end".

        features : array-like of int of shape (n_selected,)
            Which columns of `codes` to interpret. With a single feature the "shuffled" baseline
            is undefined.

        labels : mapping, DataFrame or matrix, default=None
            Labels of the tokens, as :func:`~skdict.datasets.python_token_labels` returns them:
            "data", bool of shape (n_tokens, n_labels), and "target_names". Or a DataFrame, or a
            matrix, with a column per label. Rules use them; a language model does not see them.

        neurons : {array-like, sparse matrix, torch.Tensor} of shape (n_tokens, n_neurons), \
                default=None
            The activations, for the baseline of neurons. By default it is left out.

        Returns
        -------
        result : :class:`~sklearn.utils.Bunch`
            Arrays of shape (n_selected,), so ``pandas.DataFrame(result)`` is a table. Missing
            scores are nan, and "reason" says why.

            feature : ndarray of int64
                As in `features`.
            explanation : ndarray of object
                What the feature responds to, a str; empty if missing.
            reason : ndarray of object
                Why an explanation or a score is missing, a str; otherwise empty.
            n_active_windows : ndarray of int64
                Number of windows in which the feature is active.
            split : ndarray of object
                What the halves for explaining and scoring do not share: "documents", or only
                "windows".
            detection, fuzzing, intruder, simulation : ndarray of float64
                Score of each of `scorers` on the answered questions: balanced accuracy, accuracy
                (intruder) or correlation (simulation).
            detection_auc, fuzzing_auc : ndarray of float64
                Area under the ROC curve.
            intruder_corrected : ndarray of float64
                Accuracy corrected for chance: (accuracy - 0.2) / 0.8.
            detection_shuffled, fuzzing_shuffled, simulation_shuffled : ndarray of float64
                Score of another feature's explanation, drawn from the features with a different
                explanation.
            detection_neuron, ... : ndarray of float64
                Score of the neuron, for each of `scorers`.
            detection_n_items, ... : ndarray of int64
                Number of items to answer for the score: windows, or groups with an intruder.
            detection_failure_rate, ... : ndarray of float64
                Fraction of the items without an answer after all retries.
            neuron : ndarray of int64
                The neuron of the baseline.
            neuron_explanation, neuron_reason : ndarray of object
                As for the feature.
            n_requests, n_cached : ndarray of int64
                Number of requests to the language model, and of answers from the cache, for
                everything in the row.
            n_failures : ndarray of int64
                Number of questions without an answer after all retries, for everything in the row.
            prompt_tokens, completion_tokens : ndarray of int64
                Number of tokens read and written for these answers; for answers from the cache,
                when they were first requested.
            tokens_estimated : ndarray of bool
                Whether these numbers are in part estimates, of one token per four characters.

        Raises
        ------
        ValueError, TypeError
            If a parameter or an argument is invalid.
        RuntimeError
            If the language model answers no request for an explanation.

        Warns
        -----
        UserWarning
            If questions failed, with their number and the last error.
        """
        self._validate()
        # NumPy scalars could overflow in later arithmetic
        numbers = {
            name: python_number(value) for name, value in self.get_params(deep=False).items()
        }
        with_numbers = copy.copy(self).set_params(**numbers)
        return with_numbers._interpret(codes, tokens, features, labels, neurons)

    def _interpret(self, codes, tokens, features, labels, neurons):
        codes = as_rows(codes, "codes")
        features = check_indices(features, codes.shape[1], name="features", of="columns of codes")
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        grid = WindowGrid(tokens, codes.shape[0], self.window_length, seed)
        judge = self._judge(grid, codes, labels)

        activities = [Activity(*there) for there in active_rows(codes, features)]
        subjects, peers = self._subjects(features, activities, _FEATURES, grid, seed), []
        if neurons is not None:
            matched, activities = match_neurons(_check_neurons(neurons, codes), subjects, seed)
            peers = self._subjects(matched, activities, _NEURONS, grid, seed)

        def ask(questions):
            return joblib.Parallel(n_jobs=self.n_jobs, require="sharedmem")(
                joblib.delayed(judge.answer)(question) for question in questions
            )

        explain_all([*subjects, *peers], grid, ask)
        scores = score_all(subjects, peers, self.scorers, ask, seed)
        return make_table(subjects, peers, self.scorers, scores)

    def _validate(self):
        validate_parameter_constraints(
            self._parameter_constraints, self.get_params(deep=False), type(self).__name__
        )
        if not self.scorers or any(name not in CHANCE for name in self.scorers):
            raise ValueError(
                f"scorers must be at least one of {list(CHANCE)}, but is {self.scorers!r:.200}."
            )
        if self.llm is None:
            return
        if "simulation" in self.scorers and not hasattr(self.llm, "logprobs"):
            raise ValueError(
                "scorers has 'simulation', but llm has no method logprobs(messages) that returns "
                "a Completion with log-probabilities. Leave out 'simulation', or add the method."
            )
        if self.cache is not None and not isinstance(getattr(self.llm, "name", None), str):
            raise ValueError(
                "cache needs llm.name, a str, to tell the answers of different models apart. Set "
                "one that changes when the answers do: llm.name = 'my-model, temperature 0'."
            )

    def _judge(self, grid, codes, labels):
        data, names = np.zeros((codes.shape[0], 0), dtype=bool), []
        if labels is not None:
            names, data = named_labels(labels)
            _, data = check_codes_and_labels(codes, data)
        if self.llm is None:
            return RuleJudge(grid, data, names)
        cache = None if self.cache is None else AnswerCache(self.cache, self.llm.name)
        asker = Asker(
            self.llm, cache=cache, max_retries=self.max_retries, retry_wait=self.retry_wait
        )
        return LanguageModelJudge(asker, grid)

    def _subjects(self, indices, activities, seeded_for, grid, seed):
        """A `Subject` for each feature or neuron; its seed does not depend on the others."""
        return [
            Subject.draw(
                int(index),
                activity,
                grid,
                np.random.default_rng([seed, seeded_for, index]),
                scorers=self.scorers,
                n_explain=self.n_explain,
                n_score=self.n_score,
                near_miss_fraction=self.near_miss_fraction,
            )
            for index, activity in zip(indices, activities, strict=True)
        ]


def _check_neurons(neurons, codes):
    neurons = as_rows(neurons, "neurons")
    if neurons.shape[0] != codes.shape[0]:
        raise ValueError(
            f"codes has {codes.shape[0]} rows, but neurons has {neurons.shape[0]}. Give both with "
            "one row per token."
        )
    return neurons
