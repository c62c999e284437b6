"""Selection of alpha by cross-validation along a warm-started path."""

import copy
from numbers import Integral

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.callback import CallbackSupportMixin
from sklearn.metrics import check_scoring, get_scorer, get_scorer_names
from sklearn.model_selection import check_cv
from sklearn.utils import get_tags
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from .._core.data.reading import take_rows
from .._core.data.source import Source
from .._core.device import resolve_device
from .._core.solvers import SOLVERS
from .._core.torch_state import plain_torch
from ..utils._arrays import as_vector, check_activations
from ..utils._sklearn_compat import Interval, fit_context
from ._alpha import alpha_grid
from ._base import ArchitectureParamsMixin
from ._fitting import default_params, params_of, warn_of_unused
from ._sparse_autoencoder import SparseAutoencoderDictionary

# Epochs for every alpha of a path but the first, as a fraction of max_iter: these fits go on
# from a trained dictionary.
PATH_FRACTION = 0.15
# Parameters of the search. All others are those of the dictionary.
OF_THE_SEARCH = ("alphas", "cv", "scoring", "n_jobs")
# Parameters of the dictionary that may change after `fit`.
OF_TRANSFORM = (
    "transform_algorithm",
    "transform_alpha",
    "transform_n_nonzero_coefs",
    "resolution",
    "sparse_output",
    "device",
)


class SparseAutoencoderDictionaryCV(
    CallbackSupportMixin,
    ArchitectureParamsMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    r"""`SparseAutoencoderDictionary` with its L1 coefficient chosen by cross-validation.

    On each fold a dictionary is trained from scratch at the smallest alpha only; each other one
    goes on from the dictionary, the encoder and the intercept of the one before, for about a
    seventh of the epochs. The alpha with the best mean score is then used for a fit to all data.
    Much faster than :class:`~sklearn.model_selection.GridSearchCV` over ``alpha``; scores along
    the path can be better than those of fits from scratch, as dictionaries further along it have
    been trained for longer.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of atoms. This parameter and those from ``architecture`` on are handed to
        :class:`SparseAutoencoderDictionary`, which describes them in full.
    alphas : int or array-like of shape (n_alphas,), default=8
        L1 coefficients to try, in the units of the data, or how many of :func:`alpha_grid`.
    cv : int, cross-validation generator or iterable, default=None
        Folds, as in :class:`~sklearn.model_selection.GridSearchCV`. An int, or None for five,
        takes consecutive blocks of samples: tokens of one text stay together, mostly, and all of
        them do with :class:`~sklearn.model_selection.GroupKFold` and ``groups``. An iterable
        gives row numbers, which may repeat, or boolean masks.
    scoring : callable or None, default=None
        A scorer, called on the fitted dictionary, the samples of a fold and their y, that
        returns a number; None takes `score`, the log-likelihood. A scorer of predictions, as all
        that scikit-learn has a name for are, is refused: a dictionary makes none.
    n_jobs : int, default=None
        Number of folds that are fitted at a time, each in a process.
    architecture : str or Architecture, default="relu"
        Non-linearity and penalty of the autoencoder.
    n_nonzero_coefs : int, default=None
        Number of non-zero entries of a code, for an ``architecture`` that has one; number of
        codebooks with ``solver="kmeans"``.
    solver : str, default="autoencoder"
        How the dictionary is found.
    transform_algorithm : {"auto", "encoder", "lasso", "omp", "threshold"}, default="auto"
        How `transform` finds codes.
    transform_alpha : float, default=None
        L1 coefficient of ``transform_algorithm="lasso"`` and "threshold"; None takes ``alpha_``.
    transform_n_nonzero_coefs : int, default=None
        Number of non-zero entries with ``transform_algorithm="omp"``.
    fit_intercept : bool, default=True
        Whether to learn ``intercept_``.
    resolution : float, default=0.2
        Differences of this share of the data's variance do not count for `score`.
    max_iter : int, default=20
        Epochs: passes over the data. About a seventh of them for each but the smallest of
        ``alphas``.
    batch_size : int or "auto", default="auto"
        Samples per step.
    learning_rate_init : float or "auto", default="auto"
        Adam's learning rate.
    early_stopping : bool, default=False
        Whether each fit holds out ``validation_fraction`` of its samples to decide when to stop.
    validation_fraction : float, default=0.1
        Fraction of the samples held out by ``early_stopping``.
    tol : float, default=1e-3
        Relative improvement below which an epoch counts as no change.
    n_iter_no_change : int, default=5
        Epochs without improvement before ``early_stopping`` stops.
    dict_init : array-like of shape (n_components, n_features) or str, default=None
        Initial atoms at the smallest of ``alphas`` and of the last fit.
    shuffle : bool, default=True
        Whether to shuffle the samples before each epoch.
    sparse_output : bool, default=False
        Whether `transform` returns a CSR matrix (a sparse CSR tensor for tensors).
    device : str, default="auto"
        "auto" (CUDA if there is one, else the CPU) or a device name of torch.
    random_state : int, RandomState instance or None, default=None
        Determines whatever a fit draws at random. An int gives identical results on the same
        machine.
    verbose : int, default=0
        Whether every fit prints its objective after each epoch.

    Attributes
    ----------
    best_estimator_ : SparseAutoencoderDictionary
        Fitted to all data with the alpha that was chosen. All fitted attributes but the next
        three are its own.
    alphas_ : ndarray of shape (n_alphas,)
        The coefficients that were tried, increasing.
    scores_ : ndarray of shape (n_alphas, n_folds)
        Score of each on each fold.
    best_score_ : float
        Mean score of ``alpha_`` over the folds.
    alpha_ : float
        The coefficient that was chosen.
    components_ : ndarray of shape (n_components, n_features)
        The atoms, unit rows.
    intercept_ : ndarray of shape (n_features,)
        Subtracted before encoding and added after decoding.
    encoder_coef_ : ndarray of shape (n_components, n_features)
        Weights of the encoder. Only with ``solver="autoencoder"``.
    encoder_intercept_ : ndarray of shape (n_components,)
        Biases of the encoder. Only with ``solver="autoencoder"``.
    threshold_ : ndarray of shape (n_components,)
        Pre-activations that are not larger count as zero. Only with ``architecture`` "batch_topk",
        "matryoshka", "jumprelu" and "gated".
    n_nonzero_coefs_ : int or None
        The number of non-zero entries used. Only with ``architecture`` "topk", "batch_topk",
        "matryoshka" and "jumprelu".
    codeword_norms_ : ndarray of shape (n_components,)
        Norm of each codeword. Only with ``solver="kmeans"``.
    codebook_sizes_ : ndarray of shape (n_codebooks,)
        Number of codewords of each codebook, in their order. Only with ``solver="kmeans"``.
    n_iter_ : int
        Epochs of the last fit.
    n_steps_ : int
        Mini-batches seen by the last fit.
    loss_curve_ : list of float
        Mean training objective of each epoch of the last fit.
    validation_loss_curve_ : list of float
        Objective of its held-out samples after each epoch. Only with ``early_stopping=True``.
    feature_density_ : ndarray of shape (n_components,)
        Fraction of the samples counted by ``n_samples_seen_`` on which each feature is active.
    feature_magnitude_ : ndarray of shape (n_components,)
        Mean absolute code of each feature where it is active.
    noise_variance_ : float
        Mean squared residual, per column.
    variance_ : float
        Variance of the training data, per column.
    n_samples_seen_ : int
        Number of samples behind densities, magnitudes and noise.
    n_features_in_ : int
        Number of columns of X seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if they are strings.

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

    There is no `partial_fit`: a stream has no folds. Use :class:`SparseAutoencoderDictionary`
    with the ``alpha_`` that was chosen here.

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

    # With metadata routing switched on, fit asks for groups as scikit-learn's group splitters do.
    __metadata_request__fit = {"groups": True}

    _parameter_constraints: dict = {
        **{
            name: constraint
            for name, constraint in SparseAutoencoderDictionary._parameter_constraints.items()
            if name not in ("alpha", "warm_start")
        },
        "alphas": [Interval(Integral, 2, None, closed="left"), "array-like"],
        "cv": ["cv_object"],
        "scoring": [callable, str, None],
        "n_jobs": [Interval(Integral, None, None, closed="neither"), None],
    }

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
        resolution=0.2,
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
        self.resolution = resolution
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
        y : array-like of shape (n_samples,), default=None
            For splitters and scorers that want it.
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
        _check_scoring(self.scoring)
        self._check_use_of_alpha()
        warm_start = "warm_start" in SOLVERS[self.solver].uses
        estimator = self._dictionary_with(warm_start=warm_start)
        warn_of_unused(params_of(estimator), default_params(SparseAutoencoderDictionary))
        source = Source(
            check_activations(estimator, X, reset=True, min_samples=2),
            resolve_device(self.device),
            is_finite=True,
        )
        check_consistent_length(source.X, y, groups)
        alphas = self._grid(source.X)
        folds = _folds(self.cv, source.X, y, groups)
        data = {"estimator": self, "X": X, "y": X if y is None else y}
        context = self._init_callback_context(max_subtasks=len(folds) + 1)
        context.call_on_fit_task_begin(**data)
        scores = self._scores(estimator, alphas, source, y, folds, context)
        means = scores.mean(axis=1)
        best = int(np.argmax(means))
        self.alphas_, self.scores_, self.best_score_ = alphas, scores, float(means[best])
        self.best_estimator_ = self._dictionary_with(alpha=alphas[best])
        task = context.subcontext(task_name="refit", max_subtasks=1)
        task.call_on_fit_task_begin(**data)
        _fit(self.best_estimator_, X, y, task.subcontext(task_name="alpha"), self)
        for each in (task, context):
            each.call_on_fit_task_end(**data, reconstruction_attributes=dict)
        return self

    def transform(self, X):
        """Find the codes of activations, as `SparseAutoencoderDictionary.transform`.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
            Activations.

        Returns
        -------
        codes : ndarray, CSR matrix or tensor of shape (n_samples, n_components)
        """
        with config_context(transform_output="default"):  # frames are made of what this returns
            return self._chosen().transform(X)

    def inverse_transform(self, X):
        """Reconstruct activations from codes: ``codes @ components_ + intercept_``.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_components)
            Codes.

        Returns
        -------
        X_reconstructed : ndarray or tensor of shape (n_samples, n_features)
        """
        return self._chosen().inverse_transform(X)

    def score_samples(self, X):
        """Log-likelihood of each sample, as `SparseAutoencoderDictionary.score_samples`.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)

        Returns
        -------
        log_likelihood : ndarray of shape (n_samples,), float64
            In nats.
        """
        return self._chosen().score_samples(X)

    def score(self, X, y=None):
        """Mean log-likelihood of the samples, in nats, whatever ``scoring`` is.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        y : None
            Ignored.

        Returns
        -------
        score : float
        """
        return self._chosen().score(X)

    @property
    def partial_fit(self):
        """Not available: there are no folds in a stream."""
        raise AttributeError(
            "partial_fit is not available: a stream has no folds. Use SparseAutoencoderDictionary "
            "with the alpha_ that was chosen here."
        )

    def __getattr__(self, name):
        # Only for names that are not found otherwise: fitted attributes are the dictionary's.
        if _is_fitted_attribute(name) and "best_estimator_" in vars(self):
            return getattr(self.best_estimator_, name)
        return super().__getattribute__(name)  # the error of the first look-up once more

    def __dir__(self):
        names = set(super().__dir__())
        if best := vars(self).get("best_estimator_"):
            fitted = set(dir(best)) - set(dir(type(best)))
            names |= {name for name in fitted if _is_fitted_attribute(name)}
        return names

    def __sklearn_tags__(self):
        return get_tags(self._dictionary_with())

    @property
    def _n_features_out(self):
        return len(self.components_)

    def _dictionary_with(self, **params):
        """An unfitted dictionary with the parameters of this estimator, and these."""
        shared = self.get_params(deep=False)
        for name in OF_THE_SEARCH:
            del shared[name]
        return SparseAutoencoderDictionary(**shared, **params)

    def _chosen(self):
        """The fitted dictionary, with the parameters of `transform` as they are now."""
        check_is_fitted(self)
        now = {name: getattr(self, name) for name in OF_TRANSFORM}
        if any(getattr(self.best_estimator_, name) != value for name, value in now.items()):
            # A copy: others may hold the former one. It is kept, with the coder that it prepares.
            self.best_estimator_ = copy.copy(self.best_estimator_).set_params(**now)
        return self.best_estimator_

    def _check_use_of_alpha(self):
        is_penalised = SOLVERS[self.solver].is_penalised
        if not is_penalised and self.transform_algorithm in ("auto", "encoder"):
            raise ValueError(
                f"The codes of solver={self.solver!r} do not depend on alpha: there is nothing to "
                "choose. Use transform_algorithm='lasso', or another solver."
            )

    def _grid(self, X):
        """The alphas to try, increasing."""
        if isinstance(self.alphas, Integral):
            return alpha_grid(X, self.alphas)
        alphas = np.unique(as_vector(self.alphas, "alphas"))
        if len(alphas) == 0 or alphas[0] < 0 or not np.isfinite(alphas).all():
            raise ValueError(
                f"alphas={self.alphas!r}: expected numbers >= 0, or how many to try of "
                "alpha_grid(X)."
            )
        return alphas

    def _scores(self, estimator, alphas, source, y, folds, context):
        """Score of each alpha on each fold: (n_alphas, n_folds)."""
        # All tasks beforehand: none can be made while they go to other processes.
        tasks = [context.subcontext(task_name="fold", max_subtasks=len(alphas)) for _ in folds]
        paths = [[task.subcontext(task_name="alpha") for _ in alphas] for task in tasks]
        scores = Parallel(n_jobs=self.n_jobs)(
            delayed(_scores_of_path)(self, estimator, alphas, source, y, *fold, task, steps)
            for fold, task, steps in zip(folds, tasks, paths, strict=True)
        )
        return np.transpose(scores)


def _is_fitted_attribute(name):
    return name.endswith("_") and not name.startswith("_")


def _check_scoring(scoring):
    """Refuse scorers of predictions: a dictionary has no `predict`."""
    if isinstance(scoring, str) and scoring not in get_scorer_names():
        raise ValueError(
            f"scoring={scoring!r} is not the name of a scorer. Give a callable, such as "
            "skdict.metrics.explained_variance_scorer, or None for the log-likelihood."
        )
    check_scoring(scoring=scoring, allow_none=True)  # refuses metrics of scikit-learn
    scorer = get_scorer(scoring) if isinstance(scoring, str) else scoring
    if isinstance(scorer, type(get_scorer("r2"))):  # whatever make_scorer has made
        verb = "names" if isinstance(scoring, str) else "is"
        raise ValueError(
            f"scoring={scoring!r} {verb} a scorer of predictions, {scorer!r}, and a dictionary "
            "makes none: it has no method of that name. Give a callable, such as "
            "skdict.metrics.explained_variance_scorer, or None for the log-likelihood."
        )


def _folds(cv, X, y, groups):
    """Sorted rows to learn from and rows to score on, of each fold."""
    rows, folds = np.arange(X.shape[0]), []
    for i, fold in enumerate(check_cv(cv).split(X, y, groups)):
        try:  # an iterable of folds may have lists and masks
            train, test = (np.sort(rows[np.asarray(part)]) for part in fold)
        except (IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"cv must give two arrays of row numbers below {len(rows)} for each fold, or two "
                f"masks, but fold {i} is neither: {error}."
            ) from error
        if len(train) < 2 or len(test) == 0:
            raise ValueError(
                f"cv gives {len(train)} samples to learn from and {len(test)} to score on in "
                f"fold {i}, but two and one are needed at least."
            )
        folds.append((train, test))
    if not folds:
        raise ValueError(f"cv={cv!r} has no folds. Give their number, or a splitter.")
    return folds


def _fit(estimator, X, y, task, caller):
    """Fit within a task of the caller, whose callbacks hear of it if they are propagated."""
    with task.propagate_callback_context(estimator):
        task.call_on_fit_task_begin(estimator=caller)
        estimator.fit(X, y)
        task.call_on_fit_task_end(estimator=caller)


def _scores_of_path(caller, estimator, alphas, source, y, train, test, task, steps):
    """Score on one fold for each alpha, from the smallest to the largest."""
    training, held_out = (source.take(torch.from_numpy(index)) for index in (train, test))
    y_test = None if y is None else np.asarray(y)[test]
    scores = np.empty(len(alphas))
    fitted = clone(estimator)
    # Any other solver begins anew for each alpha, or has no epochs.
    goes_on = {"warm_start", "max_iter"} <= SOLVERS[estimator.solver].used_by(estimator)
    task.call_on_fit_task_begin(estimator=caller)
    for i, (alpha, step) in enumerate(zip(alphas, steps, strict=True)):
        _fit(fitted.set_params(alpha=alpha), training, None, step, caller)
        if caller.scoring is None:
            scores[i] = fitted.score(held_out)
        else:
            scores[i] = _number(caller.scoring(fitted, take_rows(source.X, test), y_test))
        if goes_on:
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
    try:
        score = float(score)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scoring must return one number, but returned {score!r}.") from error
    if np.isnan(score):
        raise ValueError("scoring returned NaN: there is nothing to choose alpha by.")
    return score
