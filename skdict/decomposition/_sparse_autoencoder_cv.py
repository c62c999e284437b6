"""Selection of alpha by cross-validation along a warm-started path."""

import re
from functools import partial
from numbers import Integral

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.model_selection import check_cv

from .._core.torch_state import plain_torch
from ..utils._arrays import as_vector, take_rows
from ..utils._sklearn_compat import Interval, fit_context
from ._alpha import alpha_grid
from ._sparse_autoencoder import WITH_ENCODER, SparseAutoencoderDictionary

# Passes over the data for every alpha but the first of a path, as a fraction of max_iter: they
# go on from a trained dictionary.
PATH_FRACTION = 0.15


class SparseAutoencoderDictionaryCV(SparseAutoencoderDictionary):
    r"""`SparseAutoencoderDictionary` with its L1 coefficient chosen by cross-validation.

    On each fold a dictionary is trained from scratch at the smallest alpha only; each other one
    goes on from the dictionary, the encoder and the intercept of the one before, for about a
    seventh of the passes. The alpha with the best mean score is then used for a fit to all data.
    Much faster than :class:`~sklearn.model_selection.GridSearchCV` over ``alpha``; scores along
    the path can be better than those of fits from scratch, as dictionaries further along it have
    been trained for longer.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of atoms, as in :class:`SparseAutoencoderDictionary`, and so are all parameters
        that are not described here.
    alphas : int or array-like of shape (n_alphas,), default=8
        L1 coefficients to try, in the units of the data, or how many of :func:`alpha_grid`.
    cv : int, cross-validation generator or iterable, default=None
        Folds, as in :class:`~sklearn.model_selection.GridSearchCV`. An int, or None for five,
        takes consecutive blocks of samples: tokens of one text stay together, mostly, and all of
        them do with :class:`~sklearn.model_selection.GroupKFold` and ``groups``.
    scoring : callable or None, default=None
        A scorer, called on the estimator, the samples of a fold and their y, that returns a
        number; None takes `score`, the log-likelihood. Scikit-learn's names are those of scorers
        of predictions, which a dictionary does not make.
    n_jobs : int, default=None
        Number of folds that are fitted at a time, each in a process.
    {shared}

    Attributes
    ----------
    alpha_ : float
        The coefficient that was chosen.
    alphas_ : ndarray of shape (n_alphas,)
        Those that were tried, increasing.
    scores_ : ndarray of shape (n_alphas, n_folds)
        Score of each on each fold.
    best_score_ : float
        Mean score of ``alpha_`` over the folds.
    {attributes}

    See Also
    --------
    SparseAutoencoderDictionary : With a given alpha.
    sklearn.model_selection.GridSearchCV : Search over any parameter.
    sklearn.linear_model.LassoCV : The same idea for a Lasso.

    Notes
    -----
    Other solvers than "autoencoder" go along the same path: "alternating" and
    "dictionary_learning" from the atoms of the neighbour, "lasso" without any training; "kmeans"
    finds the same codebooks each time, and only the codes of ``transform_algorithm="lasso"`` or
    "threshold" depend on alpha.

    References
    ----------
    {references}

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionaryCV
    >>> X, dictionary, code = make_superposition(
    ...     n_samples=3000, n_features=16, n_components=32, random_state=0
    ... )
    >>> sae = SparseAutoencoderDictionaryCV(32, alphas=5, cv=3, random_state=0).fit(X)
    >>> sae.scores_.shape
    (5, 3)
    >>> bool(sae.alpha_ == sae.alphas_[sae.scores_.mean(axis=1).argmax()])
    True
    """

    _parameter_constraints: dict = {
        **SparseAutoencoderDictionary._parameter_constraints,
        "alphas": [Interval(Integral, 2, None, closed="left"), "array-like"],
        "cv": ["cv_object"],
        "scoring": [callable, str, None],
        "n_jobs": [Interval(Integral, None, None, closed="neither"), None],
    }
    for _name in ("alpha", "warm_start"):
        _parameter_constraints.pop(_name)

    # every fit is one of its own
    warm_start = False

    def __init__(
        self,
        n_components="auto",
        *,
        alphas=8,
        cv=None,
        scoring=None,
        n_jobs=None,
        architecture="relu",
        n_nonzero_coefs=None,
        solver="autoencoder",
        transform_algorithm="auto",
        transform_alpha=None,
        transform_n_nonzero_coefs=None,
        fit_intercept=True,
        max_iter=20,
        batch_size="auto",
        learning_rate_init="auto",
        early_stopping=False,
        validation_fraction=0.1,
        tol=1e-3,
        n_iter_no_change=5,
        dict_init=None,
        shuffle=True,
        sparse_output=False,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.alphas = alphas
        self.cv = cv
        self.scoring = scoring
        self.n_jobs = n_jobs
        self.architecture = architecture
        self.n_nonzero_coefs = n_nonzero_coefs
        self.solver = solver
        self.transform_algorithm = transform_algorithm
        self.transform_alpha = transform_alpha
        self.transform_n_nonzero_coefs = transform_n_nonzero_coefs
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.dict_init = dict_init
        self.shuffle = shuffle
        self.sparse_output = sparse_output
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=True)
    @plain_torch()
    def fit(self, X, y=None, *, groups=None):
        """Choose alpha on folds of X, then learn a dictionary from all of X with it.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
            Activations. Folds of a memory map are read batch by batch, as it is.
        y : None
            Ignored, but for splitters and scorers that want it.
        groups : array-like of shape (n_samples,), default=None
            For splitters that keep groups of samples together, such as the tokens of a text.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter is out of range, or X is constant, not finite, or too small.
        """
        self._check_transform_algorithm(self.solver in WITH_ENCODER)
        if self.solver == "kmeans" and self.transform_algorithm in ("auto", "encoder"):
            raise ValueError(
                "The codewords of solver='kmeans' do not depend on alpha: there is nothing to "
                "choose. Use transform_algorithm='lasso', or another solver."
            )
        if isinstance(self.scoring, str):
            raise ValueError(
                f"scoring={self.scoring!r} names a scorer of predictions, and a dictionary makes "
                "none. Give a callable, such as skdict.metrics.explained_variance_scorer, or None "
                "for the log-likelihood."
            )
        rows = self._rows(X, reset=True, min_samples=2)
        alphas = self._grid(rows.X)
        folds = self._folds(len(rows), y, groups)
        estimator = SparseAutoencoderDictionary(
            **{
                name: value
                for name, value in self.get_params(deep=False).items()
                if name not in ("alphas", "cv", "scoring", "n_jobs")
            },
            warm_start=True,
        )
        data = {"estimator": self, "X": X, "y": X if y is None else y}
        context = self._init_callback_context(max_subtasks=len(folds) + 1)
        context.call_on_fit_task_begin(**data)
        # all tasks beforehand: none can be made while they go to other processes
        tasks = [context.subcontext(task_name="fold", max_subtasks=len(alphas)) for _ in folds]
        steps = [[task.subcontext(task_name="alpha") for _ in alphas] for task in tasks]
        scores = Parallel(n_jobs=self.n_jobs)(
            delayed(_scores_of_path)(self, estimator, alphas, rows, y, *fold, task, steps_of_fold)
            for fold, task, steps_of_fold in zip(folds, tasks, steps, strict=True)
        )
        scores = np.transpose(scores)
        means = scores.mean(axis=1)
        best = int(np.argmax(means))
        self._fit(rows, alphas[best], None, X, y, partial(context.subcontext, task_name="refit"))
        self.alphas_, self.scores_, self.best_score_ = alphas, scores, float(means[best])
        context.call_on_fit_task_end(**data, reconstruction_attributes=dict)
        return self

    @property
    def partial_fit(self):
        """Not available: there are no folds in a stream."""
        raise AttributeError(
            "partial_fit is not available: a stream has no folds. Use SparseAutoencoderDictionary "
            "with the alpha_ that was chosen here."
        )

    def _folds(self, n_samples, y, groups):
        """Sorted rows to learn from and rows to score on, of each fold."""
        rows, folds = np.arange(n_samples), []
        for i, fold in enumerate(check_cv(self.cv).split(np.empty(n_samples), y, groups)):
            try:  # an iterable of folds may have lists and masks
                train, test = (np.sort(rows[np.asarray(part)]) for part in fold)
            except (IndexError, TypeError, ValueError) as error:
                raise ValueError(
                    f"cv must give two arrays of row numbers below {n_samples} for each fold, but "
                    f"fold {i} is none: {error}."
                ) from error
            if len(train) < 2 or len(test) == 0:
                raise ValueError(
                    f"cv gives {len(train)} samples to learn from and {len(test)} to score on in "
                    f"fold {i}, but two and one are needed at least."
                )
            folds.append((train, test))
        if not folds:
            raise ValueError(f"cv={self.cv!r} has no folds. Give their number, or a splitter.")
        return folds

    def _grid(self, X):
        if isinstance(self.alphas, Integral):
            return alpha_grid(X, self.alphas)
        alphas = np.unique(as_vector(self.alphas, "alphas"))
        if len(alphas) == 0 or alphas[0] < 0 or not np.isfinite(alphas).all():
            raise ValueError(
                f"alphas={self.alphas!r}: expected numbers >= 0, or how many to try of "
                "alpha_grid(X)."
            )
        return alphas


def _scores_of_path(caller, estimator, alphas, rows, y, train, test, task, steps):
    """Score on one fold for each alpha, from the smallest to the largest."""
    training, held_out = (rows.take(torch.from_numpy(index)) for index in (train, test))
    y_test = None if y is None else np.asarray(y)[test]
    scores = np.empty(len(alphas))
    fitted = clone(estimator)
    task.call_on_fit_task_begin(estimator=caller)
    for i, (alpha, step) in enumerate(zip(alphas, steps, strict=True)):
        with step.propagate_callback_context(fitted):
            step.call_on_fit_task_begin(estimator=caller)
            fitted.set_params(alpha=alpha).fit(training)
        if caller.scoring is None:
            scores[i] = fitted.score(held_out)
        else:
            scores[i] = _number(caller.scoring(fitted, take_rows(rows.X, test), y_test))
        step.call_on_fit_task_end(estimator=caller)
        if estimator.solver != "kmeans":  # which always begins anew
            fitted.set_params(max_iter=max(1, round(PATH_FRACTION * estimator.max_iter)))
    task.call_on_fit_task_end(estimator=caller)
    return scores


def _number(score):
    """What a scorer has returned, if alphas can be chosen by it."""
    if isinstance(score, dict):
        raise ValueError(
            f"scoring must return one number, but returned a dict with {list(score)}. Choose one "
            "of them: scoring=lambda estimator, X, y: scorer(estimator, X)[name]."
        )
    score = float(score)
    if np.isnan(score):
        raise ValueError("scoring returned NaN: there is nothing to choose alpha by.")
    return score


def _section(cls, section):
    text = re.split(r"\n\n    (\w[\w ]*)\n    -+\n", cls.__doc__)
    return text[text.index(section) + 1]


def _entries(cls, section):
    """The descriptions in a section of a docstring, by name."""
    text = _section(cls, section)
    starts = re.finditer(r"^    (\w+) : ", text, flags=re.MULTILINE)
    names, positions = zip(*((match[1], match.start()) for match in starts), strict=True)
    ends = [*positions[1:], len(text)]
    return {
        name: text[start:end].rstrip("\n")
        for name, start, end in zip(names, positions, ends, strict=True)
    }


def _without(section, names):
    entries = _entries(SparseAutoencoderDictionary, section).items()
    return "\n".join(text for name, text in entries if name not in names)


def _complete_docstring(cls):
    for placeholder, text in {
        "{shared}": _without("Parameters", ("n_components", "alpha", "warm_start")),
        "{attributes}": _without("Attributes", ("alpha_",)),
        "{references}": _section(SparseAutoencoderDictionary, "References"),
    }.items():
        cls.__doc__ = cls.__doc__.replace(f"    {placeholder}", text)


if SparseAutoencoderDictionaryCV.__doc__ is not None:  # python -OO
    _complete_docstring(SparseAutoencoderDictionaryCV)
