"""Selection of what makes codes sparse by cross-validation along a warm-started path."""

import copy
from numbers import Integral
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from .._core.data.source import Source
from .._core.device import resolve_device
from .._core.solvers import SOLVERS
from .._core.torch_state import plain_torch
from ..utils._arrays import check_activations
from ..utils._frames import as_frame
from ..utils._sklearn_compat import Interval, StrOptions, fit_context
from ._base import ArchitectureParamsMixin
from ._code_shards import check_writes_codes
from ._fitting import default_params, params_of, warn_of_unused
from ._processes import tells_the_others
from ._search import Measured, PathSearch, check_scorer, do_nothing, fit_within, folds_of
from ._search_values import as_count_or_none, searched_values
from ._sparse_autoencoder import SparseAutoencoderDictionary

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
    r"""`SparseAutoencoderDictionary` whose sparsity is chosen by cross-validation.

    What is chosen is what makes the codes of its ``architecture`` sparse: ``alpha`` with "relu"
    and "gated", ``n_nonzero_coefs`` with "topk", "batch_topk", "matryoshka" and "jumprelu", and of
    an architecture of your own what it says
    (:attr:`~skdict.decomposition.architectures.Architecture.sparsity`). With the other solvers it
    is ``alpha``.

    On each fold a dictionary is trained from scratch for the densest codes only; each sparser one
    goes on from the dictionary, the encoder and the intercept of the one before, for about three
    tenths of the epochs. While the best mean score is at an edge of the grid, values are added
    beyond it, six at most; a warning tells if it still is at an edge then. The best value is used
    for a fit to all data. Much faster than :class:`~sklearn.model_selection.GridSearchCV`; scores
    along the path can be better than those of fits from scratch, as dictionaries further along it
    have been trained for longer.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of atoms. This parameter and those from ``architecture`` on are handed to
        :class:`SparseAutoencoderDictionary`, which describes them in full.
    alphas : int, "auto" or array-like of shape (n_alphas,), default="auto"
        L1 coefficients to try, where ``alpha`` is chosen: "auto" begins with eight of
        :func:`alpha_grid` and adds to them; an int is how many of these to try, and no others;
        or the values themselves, in the units of the data. With "jumprelu" ``alpha`` is chosen
        where this is not "auto".
    cv : int, cross-validation generator or iterable, default=None
        Folds. An int, or None for five, draws samples at random into so many folds of equal
        size; with the ``groups`` of `fit` it draws whole groups, such as the tokens of a
        document. :class:`~sklearn.model_selection.GridSearchCV` does not shuffle. An iterable
        gives row numbers, which may repeat, or boolean masks.
    scoring : callable or None, default=None
        A scorer, called on the fitted dictionary, the samples of a fold and their y, that
        returns a number; None takes `score`, the log-likelihood. A scorer of predictions, as all
        that scikit-learn has a name for are, is refused: a dictionary makes none.
    n_jobs : int, default=None
        Number of folds that are fitted at a time, each in a process.
    architecture : str or Architecture, default="relu"
        Non-linearity and penalty of the autoencoder.
    n_nonzero_coefs : int or array-like of shape (n_values,), default=None
        Numbers of non-zero entries of a code to try, for an ``architecture`` that has one, or of
        codebooks with ``solver="kmeans"``. None begins with about eight numbers from an eighth of
        the columns down, each about :math:`\sqrt 2` times the next, and adds to them. An int is
        not searched over, and ``alpha`` is chosen.
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
    resolution : float, default=0.03
        Differences of this share of the data's variance do not count for `score`.
    max_iter : int, default=20
        Epochs: passes over the data. Three tenths of them for each value but that of the
        densest codes.
    batch_size : int or "auto", default="auto"
        Samples per step.
    learning_rate_init : float or "auto", default="auto"
        Adam's learning rate.
    early_stopping : bool or "auto", default="auto"
        Whether each fit holds out ``validation_fraction`` of its samples and keeps the epoch that
        is the best for them; with True it also decides when to stop.
    validation_fraction : float, default=0.1
        Fraction of the samples that is held out.
    tol : float, default=1e-3
        Relative improvement below which an epoch counts as no change.
    n_iter_no_change : int, default=5
        Epochs without improvement before ``early_stopping=True`` stops.
    dict_init : array-like of shape (n_components, n_features) or str, default=None
        Initial atoms of the fits from scratch.
    shuffle : bool, default=True
        Whether to shuffle the samples before each epoch.
    sparse_output : bool, default=False
        Whether `transform` returns a CSR matrix (a sparse CSR tensor for tensors).
    device : str, default="auto"
        "auto" (CUDA if there is one, else the CPU) or a device name of torch.
    random_state : int, RandomState instance or None, default=None
        Determines whatever a fit draws at random, folds too. An int gives identical results on
        the same machine.
    verbose : int, default=0
        1 prints a line for each fit of the search and one for each epoch of the last fit, 2 also
        one for each epoch of the others. How long the search takes is told after ten steps, if it
        is more than a minute; with 0 by logging, at the level INFO.

    Attributes
    ----------
    best_estimator_ : SparseAutoencoderDictionary
        Fitted to all data with the value that was chosen. All fitted attributes from
        ``alpha_`` on are its own.
    best_params_ : dict
        The parameter that was chosen and its value.
    best_score_ : float
        Mean score of that value over the folds.
    scores_ : ndarray of shape (n_values, n_folds)
        Score of each value on each fold, in the order of increasing values.
    alphas_ : ndarray of shape (n_values,)
        The L1 coefficients that were tried, increasing. Only where ``alpha`` was chosen.
    results_ : DataFrame, or dict of str to ndarray where pandas is not installed
        A row for each value, in increasing order. The first column has the parameter's name and
        its values. The others are means over the folds: ``score``, and ``score_std``, its
        standard deviation; ``l0`` and ``explained_variance`` of the held-out samples; the same
        three with ``train_`` before them, of as many samples that the fit has seen, evenly spread
        (``train_score`` is NaN with a ``scoring`` of your own); and ``seconds``, of a fit.
    alpha_ : float
        The L1 coefficient used.
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
        The number of non-zero entries used, or aimed at. Only with ``architecture`` "topk",
        "batch_topk", "matryoshka" and "jumprelu".
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
        Objective of its held-out samples after each epoch. This and the next three only where
        samples were held out.
    validation_score_ : float
        What `score` says of them.
    validation_explained_variance_ : float
        Fraction of their variance that is explained.
    validation_l0_ : float
        Mean number of active features of them.
    train_explained_variance_ : float
        The same fraction for samples of the last fit, 2,048 at most.
    train_l0_ : float
        Mean number of features that are active on those.
    feature_density_ : ndarray of shape (n_components,)
        Fraction of the samples counted by ``n_samples_seen_`` on which each feature is active.
    feature_magnitude_ : ndarray of shape (n_components,)
        Mean magnitude of each feature where it is active. This and the next are of codes a step
        nearer to least squares, as in `score`.
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
    SparseAutoencoderDictionary : With a given sparsity.
    sklearn.model_selection.GridSearchCV : Search over any parameter.
    sklearn.linear_model.LassoCV : The same idea for a Lasso.

    Notes
    -----
    Other solvers than "autoencoder" go along the same path: "alternating" and
    "dictionary_learning" from the atoms of the neighbour, "lasso" without any training; "kmeans"
    finds the same codebooks for each alpha, and only the codes of ``transform_algorithm="lasso"``
    or "threshold" depend on it: with "encoder", give numbers of codebooks to try.

    There is no `partial_fit`: a stream has no folds. Use :class:`SparseAutoencoderDictionary`
    with the ``best_params_`` that were chosen here.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionaryCV
    >>> X, dictionary, code = make_superposition(
    ...     n_samples=3000, n_features=16, n_components=32, random_state=0
    ... )
    >>> sae = SparseAutoencoderDictionaryCV(
    ...     32, alphas=5, cv=2, max_iter=20, random_state=0
    ... ).fit(X)
    >>> sae.scores_.shape
    (5, 2)
    >>> bool(sae.alpha_ == sae.alphas_[sae.scores_.mean(axis=1).argmax()])
    True

    With another architecture it is the number of non-zero entries that is chosen:

    >>> sae = SparseAutoencoderDictionaryCV(
    ...     32, architecture="topk", n_nonzero_coefs=[2, 4, 8], cv=2, random_state=0
    ... ).fit(X)
    >>> sae.results_["n_nonzero_coefs"].tolist()
    [2, 4, 8]
    >>> sae.best_params_ == {"n_nonzero_coefs": sae.n_nonzero_coefs_}
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
        "alphas": [StrOptions({"auto"}), Interval(Integral, 2, None, closed="left"), "array-like"],
        "n_nonzero_coefs": [Interval(Integral, 1, None, closed="left"), "array-like", None],
        "cv": ["cv_object"],
        "scoring": [callable, str, None],
        "n_jobs": [Interval(Integral, None, None, closed="neither"), None],
    }

    def __init__(
        self,
        n_components="auto",
        *,
        alphas="auto",
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
        resolution=0.03,
        max_iter=20,
        batch_size="auto",
        learning_rate_init="auto",
        early_stopping="auto",
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

    @tells_the_others
    @fit_context(prefer_skip_nested_validation=True)
    @plain_torch()
    def fit(self, X, y=None, *, groups=None):
        """Choose the sparsity on folds of X, then learn a dictionary from all of X with it.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
            Activations. Folds of a memory map are read batch by batch, as it is.
        y : array-like of shape (n_samples,), default=None
            For splitters and scorers that want it.
        groups : array-like of shape (n_samples,), default=None
            Numbers or names of groups, such as the document of each token: a ``cv`` that is an
            int or None keeps the samples of a group together, as do splitters made for it.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter is out of range, or X is constant, not finite, or too small.

        Warns
        -----
        UserWarning
            If the best value is at an edge of those that were tried. If a parameter has no
            effect. As `SparseAutoencoderDictionary.fit` for the last fit.
        """
        check_scorer(self.scoring)
        warm_start = "warm_start" in SOLVERS[self.solver].uses
        quieter = max(0, self.verbose - 1)
        estimator = self._dictionary_with(warm_start=warm_start, verbose=quieter)
        params = params_of(estimator)
        given = SimpleNamespace(**{**vars(params), "n_nonzero_coefs": self.n_nonzero_coefs})
        warn_of_unused(given, default_params(SparseAutoencoderDictionary))
        source = Source(
            check_activations(estimator, X, reset=True, min_samples=2),
            resolve_device(self.device),
            is_finite=True,
        )
        check_consistent_length(source.X, y, groups)
        values = searched_values(self, params, source)
        folds = folds_of(self.cv, source, y, groups, self.random_state)
        data = {"estimator": self, "X": X, "y": X if y is None else y}
        n_tasks = len(folds) + values.is_open + 1
        context = self._init_callback_context(max_subtasks=n_tasks)
        context.call_on_fit_task_begin(**data)
        search = PathSearch(self, estimator, values, folds, context)
        search.run()
        self._publish_choice(search)
        chosen = values.params(values.tried[search.best])
        self.best_estimator_ = self._dictionary_with(**chosen)
        task = context.subcontext(task_name="refit", max_subtasks=1)
        task.call_on_fit_task_begin(**data)
        leaf = task.subcontext(task_name=values.name)
        fit_within(self.best_estimator_, X, y, leaf, self, do_nothing)
        for each in (task, context):
            each.call_on_fit_task_end(**data, reconstruction_attributes=dict)
        return self

    __metadata_request__transform: ClassVar = {"out": UNUSED}  # no metadata

    def transform(self, X, out=None):
        """Find the codes of activations, as `SparseAutoencoderDictionary.transform`.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
            Activations; or an `ActivationStore`, or a view of one.
        out : str or Path, default=None
            A folder to write the codes into.

        Returns
        -------
        codes : ndarray, CSR matrix, tensor or CodeShards of shape (n_samples, n_components)
        """
        if out is not None:
            check_writes_codes(self, out)
        with config_context(transform_output="default"):  # frames are made of what this returns
            return self._chosen().transform(X, out)

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

    def tensor_codes(self, X):
        """Find the codes of tensors, as `SparseAutoencoderDictionary.tensor_codes`.

        Parameters
        ----------
        X : tensor of shape (n_samples, n_features)
            Float32 or float64.

        Returns
        -------
        codes : SparseCodes of shape (n_samples, n_components)
        """
        return self._chosen().tensor_codes(X)

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
    def results_(self):
        """What was measured of each value: a DataFrame, without pandas a dict of ndarrays."""
        check_is_fitted(self)
        return as_frame({name: values.copy() for name, values in self._results.items()})

    @property
    def partial_fit(self):
        """Not available: there are no folds in a stream."""
        raise AttributeError(
            "partial_fit is not available: a stream has no folds. Use SparseAutoencoderDictionary "
            "with the best_params_ that were chosen here."
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

    def _publish_choice(self, search):
        """Set what the search has found, in the order of increasing values."""
        name, tried = search.values.name, search.values.tried
        order = np.argsort(tried)
        measured = np.array(search.measured)[order]  # (n_values, n_folds, n_measured)
        self.scores_ = measured[:, :, 0]
        self.best_score_ = float(np.mean(self.scores_, axis=1).max())
        self.best_params_ = {name: tried[search.best]}
        vars(self).pop("alphas_", None)
        if name == "alpha":
            self.alphas_ = np.array(tried)[order]
        score, *others = zip(Measured._fields, measured.mean(axis=1).T, strict=True)
        deviation = "score_std", self.scores_.std(axis=1)
        self._results = dict([(name, np.array(tried)[order]), score, deviation, *others])

    def _dictionary_with(self, **params):
        """An unfitted dictionary with the parameters of this estimator, and these."""
        shared = self.get_params(deep=False)
        for name in OF_THE_SEARCH:
            del shared[name]
        shared["n_nonzero_coefs"] = as_count_or_none(self.n_nonzero_coefs)
        return SparseAutoencoderDictionary(**{**shared, **params})

    def _chosen(self):
        """The fitted dictionary, with the parameters of `transform` as they are now."""
        check_is_fitted(self)
        now = {name: getattr(self, name) for name in OF_TRANSFORM}
        if any(getattr(self.best_estimator_, name) != value for name, value in now.items()):
            # A copy: others may hold the former one. It is kept, with the coder that it prepares.
            self.best_estimator_ = copy.copy(self.best_estimator_).set_params(**now)
        return self.best_estimator_


def _is_fitted_attribute(name):
    return name.endswith("_") and not name.startswith("_")
