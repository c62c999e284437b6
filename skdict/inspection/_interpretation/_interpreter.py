"""AutoInterpreter: explanations of features, scored on other windows than they are made from."""

import copy
import os
from numbers import Integral, Real

import joblib
import numpy as np
from sklearn.base import BaseEstimator

from ...metrics._rows import as_matrix
from ...utils._random import check_random_state
from ...utils._sklearn_compat import (
    Interval,
    python_number,
    validate_parameter_constraints,
)
from .._active import active_rows, check_indices
from .._detectors import check_codes_and_labels
from .._named_labels import named_labels
from ._asking import AnswerCache, Asker
from ._prompts import LanguageModelJudge
from ._questions import CHANCE
from ._rules import RuleJudge
from ._subjects import Subject, explain_all, make_table, match_neurons, score_all
from ._windows import Activity, WindowGrid

_FEATURES, _NEURONS = 1, 2  # what generators are seeded for; there are more in `_subjects`


class AutoInterpreter(BaseEstimator):
    """Explain features in words, and score the explanations.

    For each feature, windows of text in which it is active, with its active tokens highlighted,
    and some in which it is not are shown to a language model, which says what the feature
    responds to. How far that is right is then tested on other windows, half of them active:

    - "detection" [1]_: is the feature active in this window, going by the explanation?
    - "fuzzing" [1]_: are the highlighted tokens the active ones, or as many others?
    - "intruder" [2]_: in which of five windows, four of them active, is the feature not active?
      No explanation is needed: it measures whether the windows have something in common.
    - "simulation" [3]_: how active is the feature on each token?

    Without a language model, rules take its place: a feature is explained by the label, or by
    the list of tokens, that agrees best with its activity in the windows shown, and the rule
    answers the same questions. Nothing is left to chance but what `random_state` determines.

    Parameters
    ----------
    llm : callable, default=None
        From messages, a list of dict with "role" and "content", to the answer, a str.
        :class:`OpenAIChat` is one; so is any function of yours. It may return a
        :class:`Completion`, which also tells the cost. For "simulation" it needs a method
        `logprobs`, from messages to a `Completion` with log-probabilities. None for rules.

    scorers : tuple of str, default=("detection", "fuzzing", "intruder")
        Any of "detection", "fuzzing", "intruder" and "simulation".

    window_length : int, default=32
        Most tokens of a window. Windows do not overlap, and hold tokens that the model saw
        together: they end where a text ends.

    n_explain : int, default=20
        Active windows that an explanation is made from, at most; half of them the most active
        ones, the others of all levels. Half as many inactive windows stand beside them.

    n_score : int, default=40
        Windows to score with, at most; half of them active, of all levels, and half inactive.

    near_miss_fraction : float, default=0.5
        Fraction of the inactive windows that are near misses, as far as there are any: they
        contain a token that is, in an active window, the most active one.

    cache : str or path-like, default=None
        Folder to keep answers of the language model in, so that none is paid for twice and an
        interrupted run can be resumed. They are known by the messages and by ``llm.name``, an
        attribute that must change when the answers do.

    n_jobs : int, default=None
        Most requests at the same time, from as many threads. None for 1. The results do not
        depend on it, if the answers do not.

    max_retries : int, default=2
        How often a question is asked again, after an exception (unless the server says that it
        will not change its mind) or an answer that cannot be read.

    retry_wait : float, default=1.0
        Seconds to wait after the first exception; doubled after each further one, up to 60.

    random_state : int, RandomState instance or None, default=0
        Determines which windows are drawn, and with them the questions: with None no answer is
        found in the cache again. A feature's questions do not depend on which other features
        are interpreted.

    See Also
    --------
    OpenAIChat : A language model behind an OpenAI-compatible server.
    InterpretationDisplay : The scores as a picture.
    select_feature_detectors : The best feature for a label, the other way round.

    Notes
    -----
    A feature is active where its code is positive. The texts are divided at random into two
    halves, one to explain and one to score with; where that leaves less than five active windows
    in either, the windows are divided instead, so that both halves may have windows of the same
    text (column "split"). Of windows with the same tokens only one is used. No window that an
    explanation was made from is ever scored with. Where a text ends windows are shorter, and
    short ones are less often active: inactive windows are drawn to be as long as the active ones.

    Detection and fuzzing are scored by the balanced accuracy

    .. math:: \\tfrac12 \\left( P(\\text{yes} \\mid \\text{right})
              + P(\\text{no} \\mid \\text{wrong}) \\right)

    which is 0.5 for whoever always says the same, and by the area under the ROC curve (AUC) of
    the probabilities that were answered. Wrong highlights are in the same windows as right
    ones, in the same pattern, shifted at random; windows of which more than half is active do
    not allow that and are left out. The intruder is highlighted in the pattern of another active
    window; chance is an accuracy of 0.2. Simulation is scored by Pearson's correlation over all
    tokens of the windows, 0 where the simulation is constant.

    Scores mean little by themselves. Beside each stands that of another feature's explanation
    on the same questions ("shuffled"), and that of a neuron that went through the same ("neuron"):
    one drawn at random from those that are active on at least as many tokens, and of its
    activations only so many of the greatest. Do the same with the codes of a network with random
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
            The token behind each row, as the method `tokens` of an
            :class:`~skdict.feature_extraction.ActivationExtractor` returns it: arrays of length
            n_tokens under "document", "position", "token_id", "token", "start" and "end".

        features : array-like of int of shape (n_selected,)
            Which columns of `codes` to interpret. With only one there is no other explanation
            to compare with.

        labels : mapping, default=None
            What is known of the tokens, such as :func:`~skdict.datasets.python_token_labels`
            returns: "data", bool of shape (n_tokens, n_labels), and "target_names". Rules are
            made of them; a language model is not shown them.

        neurons : {array-like, sparse matrix, torch.Tensor} of shape (n_tokens, n_neurons), \
                default=None
            The activations, for the neurons to compare with. None for no such comparison.

        Returns
        -------
        result : :class:`~sklearn.utils.Bunch`
            Arrays of shape (n_selected,), so ``pandas.DataFrame(result)`` is a table. Scores
            are nan where there are none, for reasons that stand beside them.

            feature : ndarray of int64
                As in `features`.
            explanation : ndarray of object
                What the feature responds to, a str; empty if there is none.
            reason : ndarray of object
                Why an explanation or a score is missing, a str; empty if none is.
            n_active_windows : ndarray of int64
                How many windows the feature is active in.
            split : ndarray of object
                What is different in explaining and scoring: "documents", or only "windows".
            detection, fuzzing, intruder, simulation : ndarray of float64
                Score of each of `scorers`: balanced accuracy, accuracy (of the intruder) or
                correlation, of the questions that were answered.
            detection_auc, fuzzing_auc : ndarray of float64
                Area under the ROC curve.
            intruder_corrected : ndarray of float64
                Accuracy for which chance is 0: (accuracy - 0.2) / 0.8.
            detection_shuffled, fuzzing_shuffled, simulation_shuffled : ndarray of float64
                Score of another feature's explanation, drawn from the features whose
                explanation is a different one.
            detection_neuron, ... : ndarray of float64
                Score of the neuron, for each of `scorers`.
            detection_n_items, ... : ndarray of int64
                What was to be answered for the score: windows, or groups with an intruder.
            detection_failure_rate, ... : ndarray of float64
                Fraction of it without an answer after all retries.
            neuron : ndarray of int64
                Which neuron it was.
            neuron_explanation, neuron_reason : ndarray of object
                As for the feature.
            n_requests, n_cached : ndarray of int64
                Requests to the language model, and answers from the cache instead, for
                everything in the row.
            n_failures : ndarray of int64
                Questions without an answer after all retries, for everything in the row.
            prompt_tokens, completion_tokens : ndarray of int64
                Tokens that were read and written for these answers, whether now or, for those
                in the cache, earlier.
            tokens_estimated : ndarray of bool
                Whether they are, in part, a guess of one token for each four characters.

        Raises
        ------
        ValueError, TypeError
            If a parameter or an argument is not what it must be.
        RuntimeError
            If the language model answers no request for an explanation.

        Warns
        -----
        UserWarning
            If questions failed: how many, and the last error.
        """
        self._validate()
        # scalars of NumPy's could overflow in what is computed with them
        numbers = {
            name: python_number(value) for name, value in self.get_params(deep=False).items()
        }
        with_numbers = copy.copy(self).set_params(**numbers)
        return with_numbers._interpret(codes, tokens, features, labels, neurons)

    def _interpret(self, codes, tokens, features, labels, neurons):
        codes = as_matrix(codes, "codes")
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
        unknown = [name for name in self.scorers if name not in CHANCE]
        if unknown or not self.scorers:
            raise ValueError(
                f"scorers must be of {list(CHANCE)}, but has {unknown or 'none'}. Leave out the "
                "unknown ones and give at least one."
            )
        if self.llm is None:
            return
        if "simulation" in self.scorers and not hasattr(self.llm, "logprobs"):
            raise ValueError(
                "scorers has 'simulation', but llm has no method logprobs(messages) that returns "
                "a Completion with log-probabilities. Leave out 'simulation'."
            )
        if self.cache is not None and not isinstance(getattr(self.llm, "name", None), str):
            raise ValueError(
                "cache needs to know whose answers it keeps, but llm has no name. Give it one "
                "that changes when its answers do: llm.name = 'my-model, temperature 0'."
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
        """A `Subject` for each feature or neuron; seeded by its index, whatever the others."""
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
    neurons = as_matrix(neurons, "neurons")
    if neurons.shape[0] != codes.shape[0]:
        raise ValueError(
            f"codes has {codes.shape[0]} rows, but neurons has {neurons.shape[0]}: one row per "
            "token is needed in both."
        )
    return neurons
