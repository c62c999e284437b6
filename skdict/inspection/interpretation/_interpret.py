"""interpret_features: explanations of features, scored on held-out windows."""

import hashlib
import os
from contextlib import nullcontext
from numbers import Integral, Real

import numpy as np

from ...utils._random import check_random_state
from ...utils._sklearn_compat import Interval, validate_params
from ..codes._active import selected
from ..codes._store import FeatureCodes, as_feature_codes
from ..results._named_labels import named_labels
from ._columns import Columns
from ._result import make_result
from ._run import Run
from ._subjects import Drawing
from ._table import AnswerTable
from ._windows import WindowGrid
from .clients._asking import AnswerCache, Asker
from .explainers._language_model import LanguageModelExplainer
from .explainers._rules import RuleExplainer
from .scorers import SCORERS, Scorer


@validate_params(
    {
        "llm": [callable, None],
        "scorers": [list, tuple],
        "window_length": [Interval(Integral, 2, None, closed="left")],
        "n_explain": [Interval(Integral, 2, None, closed="left")],
        "n_score": [Interval(Integral, 10, None, closed="left")],
        "near_miss_fraction": [Interval(Real, 0, 1, closed="both")],
        "table": [str, os.PathLike, None],
        "cache": [str, os.PathLike, None],
        "n_jobs": [Interval(Integral, None, None, closed="neither"), None],
        "max_retries": [Interval(Integral, 0, None, closed="left")],
        "retry_wait": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def interpret_features(
    codes,
    features=None,
    *,
    tokens=None,
    llm=None,
    scorers=("detection", "fuzzing", "intruder"),
    token_labels=None,
    neurons=None,
    window_length=32,
    n_explain=20,
    n_score=40,
    near_miss_fraction=0.5,
    table=None,
    cache=None,
    n_jobs=None,
    max_retries=2,
    retry_wait=1.0,
    random_state=0,
):
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
    codes : FeatureCodes, or {array-like, sparse matrix, torch.Tensor} of shape \
            (n_tokens, n_components)
        Codes of the activations, one row per token; or the activations themselves. Columns are
        read some at a time, and memory does not grow with their number.

    features : int or array-like of int of shape (n_selected,), default=None
        Which columns of `codes` to interpret; all of them by default. With a single feature the
        "shuffled" baseline is undefined.

    tokens : mapping, default=None
        The token of each row, as the method `tokens` of an
        :class:`~skdict.feature_extraction.ActivationExtractor` returns it: arrays of length
        n_tokens under "document", "position", "token_id", "token", "start" and "end". By default
        those of the FeatureCodes.

    llm : callable, default=None
        From messages, a list of dict with "role" and "content", to the answer, a str: an
        :class:`OpenAIChat`, or any function. It may return a :class:`Completion`, which also has
        the cost. For "simulation" it needs a method `logprobs`, from messages to a `Completion`
        with log-probabilities. By default rules are used.

    scorers : tuple of (str or Scorer), default=("detection", "fuzzing", "intruder")
        Any of "detection", "fuzzing", "intruder" and "simulation", or scorers of your own:
        see the user guide.

    token_labels : mapping, DataFrame or matrix, default=None
        Labels of the tokens, as :func:`~skdict.datasets.python_token_labels` returns them:
        "data", bool of shape (n_tokens, n_labels), and "target_names". Or a DataFrame, or a
        matrix, with a column per label. Rules use them; a language model does not see them.

    neurons : {array-like, sparse matrix, torch.Tensor} of shape (n_tokens, n_neurons), \
            default=None
        The activations, for the baseline of neurons. By default it is left out.

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

    table : str or path-like, default=None
        Path of a file of JSON lines, to which each explanation and score is added at once. It can
        be read during the run, for example by ``pandas.read_json(table, lines=True)``. The same
        call takes from it what it has and asks only for the rest; a damaged line is named by a
        warning and asked again. Answers are identified by the codes, the tokens, the parameters
        and, if there is a language model, by the attribute ``llm.name``, which must change when
        the answers do.

    cache : str or path-like, default=None
        Folder for the single answers of the language model, so that no answer is paid for twice
        even if parameters change. They are identified by the messages and by ``llm.name``.

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
        in each run, so neither `table` nor `cache` is of use. A feature's questions do not depend
        on which other features are interpreted.

    Returns
    -------
    result : :class:`~sklearn.utils.Bunch`
        Arrays of shape (n_selected,), so ``pandas.DataFrame(result)`` is a table. Missing scores
        are nan, and "reason" says why. It can be given to :class:`FeatureDashboard` as `names`.

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
        detection_chance, ... : ndarray of float64
            Score of uninformed answers. Each scorer has this column.
        detection_shuffled, fuzzing_shuffled, simulation_shuffled : ndarray of float64
            Score of another feature's explanation, drawn from the features with a different
            explanation.
        detection_neuron, ... : ndarray of float64
            Score of the neuron, for each of `scorers`.
        detection_n_items, ... : ndarray of int64
            Number of items to answer for the score: windows, or groups with an intruder.
        detection_failure_rate, ... : ndarray of float64
            Fraction of the items without an answer after all retries.
        detection_auc, fuzzing_auc : ndarray of float64
            Area under the ROC curve.
        intruder_corrected : ndarray of float64
            Accuracy corrected for chance: (accuracy - 0.2) / 0.8.
        neuron : ndarray of int64
            The neuron of the baseline.
        neuron_explanation, neuron_reason : ndarray of object
            As for the feature.
        n_requests, n_cached : ndarray of int64
            Number of requests to the language model, and of answers from `table` or `cache`, for
            everything in the row.
        n_failures : ndarray of int64
            Number of questions without an answer after all retries, for everything in the row.
        prompt_tokens, completion_tokens : ndarray of int64
            Number of tokens read and written for these answers; for those from `table` or
            `cache`, when they were first requested.
        tokens_estimated : ndarray of bool
            Whether these numbers are in part estimates, of one token per four characters.

    Raises
    ------
    ValueError, TypeError
        If a parameter or an argument is invalid.
    RuntimeError
        If the language model answers no request for an explanation of the first features.
    OSError
        If `table` cannot be opened or written.

    Warns
    -----
    UserWarning
        If questions failed, with their number and the last error; if `table` or `cache` is
        damaged.

    See Also
    --------
    name_features : The nearest entries of a vocabulary, without texts.
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
    >>> from skdict.inspection import interpret_features
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
    >>> result = interpret_features(codes, tokens=tokens, window_length=5)
    >>> result.explanation.tolist()
    ["the tokens 'cat'", "the tokens 'dog'"]
    >>> result.detection, result.detection_shuffled.round(2)
    (array([1., 1.]), array([0.5 , 0.47]))
    """
    scorers = _check_scorers(scorers)
    _check_llm(llm, scorers, table=table, cache=cache)
    codes, tokens = _check_codes(codes, tokens)
    features = selected(features, codes.n_components)
    label_names, labels = _check_labels(token_labels, codes.n_rows)
    neurons = _check_neurons(neurons, codes.n_rows)
    seed = check_random_state(random_state).randint(2**31 - 1)
    grid = WindowGrid(tokens, codes.n_rows, window_length, seed)
    if llm is None:
        explainer = RuleExplainer(grid, labels, label_names)
    else:
        cache = None if cache is None else AnswerCache(cache, llm.name)
        asker = Asker(llm, cache=cache, max_retries=max_retries, retry_wait=retry_wait)
        explainer = LanguageModelExplainer(asker, grid)
    sizes = {"n_explain": n_explain, "n_score": n_score, "near_miss_fraction": near_miss_fraction}
    judge = [label_names, hashlib.sha256(labels).hexdigest()] if llm is None else ["model"]
    if table is not None:
        judge += [grid.digest(), getattr(llm, "name", None)]
    with nullcontext() if table is None else AnswerTable(table) as opened:
        run = Run(
            (Columns(codes, "codes"), neurons),
            explainer,
            Drawing(grid, scorers, seed, **sizes),
            scorers,
            opened,
            identity=[sizes, window_length, seed, judge],
            n_jobs=n_jobs,
            seed=seed,
        )
        return make_result(run(features), scorers)


def _check_codes(codes, tokens):
    """FeatureCodes and tokens from what a user gave."""
    if isinstance(codes, FeatureCodes):
        codes = as_feature_codes(codes, tokens)
        tokens = codes.tokens
    if tokens is None:
        raise ValueError(
            "tokens must be given unless codes is FeatureCodes with tokens. Pass what "
            "ActivationExtractor.tokens(X) returns."
        )
    return as_feature_codes(codes), tokens


def _check_scorers(scorers):
    """A list of `Scorer` from names, classes' instances, or both."""
    found = []
    for scorer in scorers:
        known = isinstance(scorer, str) and scorer in SCORERS
        found.append(SCORERS[scorer]() if known else scorer)
    if not found or not all(isinstance(scorer, Scorer) for scorer in found):
        raise ValueError(
            f"scorers must be at least one of {list(SCORERS)}, or of your own Scorer objects, but "
            f"is {scorers!r:.200}."
        )
    names = [scorer.name for scorer in found]
    if len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"scorers must have a name each, and different ones, but have {names}. Set the "
            "attribute name of your own."
        )
    return found


def _check_llm(llm, scorers, **kept):
    if llm is None:
        return
    named = [scorer.name for scorer in scorers if scorer.needs_logprobs]
    if named and not hasattr(llm, "logprobs"):
        raise ValueError(
            f"scorers has {named[0]!r}, but llm has no method logprobs(messages) that returns "
            f"a Completion with log-probabilities. Leave out {named[0]!r}, or add the method."
        )
    for name, path in kept.items():
        if path is not None and not isinstance(getattr(llm, "name", None), str):
            raise ValueError(
                f"{name} needs llm.name, a str, to tell the answers of different models apart. "
                "Set one that changes when the answers do: llm.name = 'my-model, temperature 0'."
            )


def _check_labels(token_labels, n_rows):
    """Names of labels, a list of str, and the labels, bool of shape (n_tokens, n_labels)."""
    if token_labels is None:
        return [], np.zeros((n_rows, 0), dtype=bool)
    names, data = named_labels(token_labels, "token_labels")
    if len(data) != n_rows:
        raise ValueError(
            f"codes has {n_rows} rows, but token_labels has {len(data)}. Give both with one row "
            "per token."
        )
    return list(names), np.ascontiguousarray(data)


def _check_neurons(neurons, n_rows):
    """Columns of neurons, or None."""
    if neurons is None:
        return None
    neurons = as_feature_codes(neurons, name="neurons")
    if neurons.n_rows != n_rows:
        raise ValueError(
            f"codes has {n_rows} rows, but neurons has {neurons.n_rows}. Give both with one row "
            "per token."
        )
    return Columns(neurons, "neurons")
