"""SparseAutoencoderDictionary: one estimator over sparse autoencoders and classical solvers."""

import copy
import math
from functools import partial
from numbers import Integral, Real

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from .._core.data.reading import take_rows
from .._core.data.source import Source
from .._core.kernels.cpu.threads import threads_for, work_of_product
from .._core.models.architectures import ARCHITECTURES, Architecture, make_architecture
from .._core.models.autoencoder import infer
from .._core.optim import normalize_
from .._core.solvers.alternating import AlternatingFit
from .._core.solvers.autoencoder import AutoencoderFit, initial_atoms
from .._core.solvers.online import OnlineDictionaryLearning
from .._core.tensors import from_numpy
from .._core.torch_state import plain_torch
from ..utils._arrays import (
    as_matrix,
    check_activations,
    check_codes,
    check_entries_finite,
    collect_dense,
    collect_sparse,
)
from ..utils._device import available_memory, resolve_device
from ..utils._random import check_random_state
from ..utils._sklearn_compat import (
    Interval,
    StrOptions,
    fit_context,
    validate_parameter_constraints,
)
from ..utils._warnings import warn
from ._alpha import ALPHA_FRACTION, location_and_scale
from ._atoms import ATOMS, default_n_components, make_atoms
from ._baselines import FixedAtoms, MiniBatchDictionaryLearning
from ._codebook import Codebooks, quantise
from ._likelihood import RESOLUTION, CodeStatistics, log_likelihood
from ._sparse_coding import ALGORITHMS, make_coder, warn_of_gaps

# Solvers that pass over the data in batches.
TRAINED_IN_PASSES = ("autoencoder", "alternating")
# Those that come with a way to find codes.
WITH_ENCODER = ("autoencoder", "kmeans")
LEARNING_FROM_STREAMS = ("autoencoder", "alternating", "dictionary_learning")
# Those whose state is more than the dictionary: without it one portion would count for all.
WITH_MEMORY = ("alternating", "dictionary_learning")
# The statistics of the codes are estimated on about so many training samples, evenly spread:
# coding all of millions would take as long as another pass over them.
N_ENCODED_SAMPLES = 100_000
N_SPARSE_CODED_SAMPLES = 20_000
N_STATISTICS_ROWS = 256  # at a time
# To find the largest entries takes the time of about so many multiplications for each entry.
WORK_OF_SELECTION = 1024
# Largest duality gap of Lasso codes, as a fraction of a sample's objective.
LASSO_TOL = 1e-4
# partial_fit remembers the statistics of about so many samples.
STREAM_MEMORY = 100_000
# An encoder has diverged whose codes leave so many times the squared error of none; a fit that
# ends with more than the second is warned of.
DIVERGED = 100
WORSE_THAN_NOTHING = 1.5
# What a fit with other parameters leaves behind.
NOT_OF_EVERY_FIT = (
    "_stream",
    "_architecture",
    "_extra",
    "encoder_coef_",
    "encoder_intercept_",
    "threshold_",
    "codeword_norms_",
    "codebook_sizes_",
    "n_nonzero_coefs_",
    "validation_loss_curve_",
)


def _learns_from_streams(estimator):
    if estimator.solver in ("lasso", "kmeans"):  # what is no solver at all is refused as in fit
        raise AttributeError(
            f"partial_fit is not available with solver={estimator.solver!r}: its atoms are not "
            "learned from a stream. Use fit, or solver='autoencoder', 'alternating' or "
            "'dictionary_learning'."
        )
    return True


class SparseAutoencoderDictionary(
    CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    r"""Overcomplete dictionary of activations with sparse, non-negative codes.

    Finds unit-norm atoms :math:`D_j`, an intercept :math:`b` and codes :math:`z_i \ge 0` that
    minimise

    .. math::

        \frac1n \sum_i \tfrac12 \lVert x_i - b - z_i D \rVert_2^2 + \alpha \lVert z_i \rVert_1

    which is the objective of :class:`sklearn.decomposition.DictionaryLearning` with an
    intercept. With ``solver="autoencoder"`` codes come from an encoder trained together with
    the atoms, :math:`z = \max(0, (x - b) W_\mathrm{enc}^\top + b_\mathrm{enc})` [1]_ (or the
    largest entries of it, see ``architecture``); the other solvers find them by sparse coding.
    ``alpha``, the objective and the codes of all solvers are therefore comparable (but for
    "topk" and "kmeans", which have no penalty), and ``solver`` can be searched over like any other
    parameter.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of atoms. "auto" takes four times the number of features, but no more than there
        are samples where ``solver`` needs a sample for each atom.
    alpha : float or "auto", default="auto"
        L1 coefficient, in the units of the data. "auto" takes
        :math:`0.1 \sqrt{E\lVert x - E x \rVert^2}`; :func:`alpha_grid` gives a grid around it.
        A few samples of a norm far above that of all others, which would decide it, do not
        count, and a warning says so. The value used is ``alpha_``.
    architecture : str or Architecture, default="relu"
        Non-linearity and penalty of the autoencoder, with the pre-activations
        :math:`p = (x - b) W_\mathrm{enc}^\top + b_\mathrm{enc}`. Used by
        ``solver="autoencoder"``.

        - "relu": :math:`z = \max(0, p)` and the L1 penalty [1]_.
        - "topk": the ``n_nonzero_coefs`` largest of each sample, where positive [2]_. No
          penalty, so codes do not shrink: more is explained with as many non-zeros.
        - "batch_topk": the ``n_nonzero_coefs`` times B largest of a batch of B samples [3]_, so
          that samples that need more get more. Single samples are coded with a threshold, the
          mean smallest code of the batches in training.
        - "matryoshka": "batch_topk" whose first 1/16 and 1/4 of the atoms also have to
          reconstruct the data by themselves [4]_: general features come first, and are not
          split up or absorbed by special ones.
        - "jumprelu": :math:`z = p` where :math:`p > \theta_j`, else 0, with a learned threshold
          for each feature and the penalty :math:`\tfrac{\alpha^2}{2} \lVert z \rVert_0`, or
          with ``n_nonzero_coefs`` as the target of the mean L0 [5]_.
        - "gated": which features are active, under the L1 penalty, and how much are decided
          apart, so that codes do not shrink [6]_.

        A string takes the hyper-parameters that such an architecture has by default. An
        instance of :mod:`skdict.decomposition.architectures` has its own,
        ``BatchTopK(k=32, rate=0.05)``, which can be searched over, as ``architecture__rate``. It
        is not changed by a fit. That module also says how to register an architecture of your
        own.

        A fit begins as "relu" with ``alpha``, which keeps features from dying, unless it goes
        on from another: for its first half with the three that keep the largest, for three
        tenths with "jumprelu".
    n_nonzero_coefs : int, default=None
        Number of non-zero entries of a code: at most with ``architecture="topk"``, on average
        with "batch_topk" and "matryoshka"; None takes a tenth of the features, as
        ``transform_n_nonzero_coefs`` does. With "jumprelu" the average to aim at; None takes
        the penalty by ``alpha``. An architecture that is given as an instance may have it as its
        ``k`` instead. With ``solver="kmeans"`` the number of codebooks; None takes 1.
    solver : str, default="autoencoder"
        How the dictionary is found.

        - "autoencoder": a sparse autoencoder, trained with Adam on mini-batches.
        - "alternating": online dictionary learning [7]_: Lasso codes of a mini-batch, then one
          round of block coordinate descent on the atoms and the intercept, given the codes so
          far. No encoder; the codes of `transform` are Lasso codes. Keeps a number for each pair
          of atoms: 17 GB with 65,536 in float32.
        - "dictionary_learning": scikit-learn's
          :class:`~sklearn.decomposition.MiniBatchDictionaryLearning` with non-negative codes,
          on the centred data, which it needs in memory, in float64. Some hundred samples per
          second.
        - "kmeans": codebooks of :class:`~sklearn.cluster.KMeans`, ``n_nonzero_coefs`` of
          them, each for what those before it leave over [8]_. A sample is the sum of one codeword
          of each. Needs the data in memory.
        - "lasso": atoms are ``dict_init``, or else samples drawn at random, and are not learned.
    transform_algorithm : {"auto", "encoder", "lasso", "omp", "threshold"}, default="auto"
        How `transform` finds codes: by the trained encoder (of "kmeans": by the nearest
        codewords), or by :func:`sparse_encode` on the atoms. "auto" takes the encoder where there
        is one, else "lasso". Codes of "omp" may be negative.
    transform_alpha : float, default=None
        L1 coefficient of ``transform_algorithm="lasso"`` and "threshold"; None takes ``alpha_``.
    transform_n_nonzero_coefs : int, default=None
        Number of non-zero entries with ``transform_algorithm="omp"``; None takes a tenth of
        the features.
    fit_intercept : bool, default=True
        Whether to learn ``intercept_``, starting from the data's mean. Otherwise it is zero.
    max_iter : int, default=20
        Passes over the data.
    batch_size : int or "auto", default="auto"
        Samples per step. "auto" takes 1,024, but no more than a 64th of the samples and no less
        than 64: a pass over little data then still has enough steps.
    learning_rate_init : float or "auto", default="auto"
        Adam's learning rate between its warm-up and its decay to zero over the last part of
        `fit`. "auto" takes :math:`0.1 / \sqrt{d}` for d features: the entries of an atom are of
        the order :math:`1 / \sqrt{d}`, and Adam moves them by up to the learning rate in a step.
        With more than four times as many components n as samples B in a batch it takes
        :math:`\sqrt{4 B / n}` of that, as long as the steps of the `fit` times the learning rate
        are no less than :math:`10 / \sqrt{d}`. Independent of the data's scale, which is
        normalised inside. Used by ``solver="autoencoder"``.
    early_stopping : bool, default=False
        Whether to hold out ``validation_fraction`` of the samples, from the scale and the initial
        atoms too, and stop when their objective
        has not improved by the fraction ``tol`` for ``n_iter_no_change`` passes, returning to
        the best pass. Passes in which ``alpha`` still rises, or "topk" is still "relu", do not
        count. With ``solver="dictionary_learning"``, ``tol`` and ``n_iter_no_change``
        go to scikit-learn's own criterion.
    validation_fraction : float, default=0.1
        Fraction of the samples held out by ``early_stopping``.
    tol : float, default=1e-3
        Relative improvement below which a pass counts as no change.
    n_iter_no_change : int, default=5
        Passes without improvement before ``early_stopping`` stops.
    warm_start : bool, default=False
        Whether `fit` starts from the atoms, encoder and intercept of the previous fit. Used by
        ``solver="autoencoder"``, for atoms and intercept by "alternating" and for the atoms by
        "dictionary_learning" and "lasso", whatever ``dict_init`` says.
    dict_init : array-like of shape (n_components, n_features) or str, default=None
        Initial atoms, scaled to unit norm; those that ``solver="lasso"`` keeps. Not used by
        "kmeans". None leaves it to the solver. By name:

        - "exemplars": samples drawn at random, centred.
        - "random": directions drawn evenly from the sphere.
        - "pca", "ica": principal directions, and those along which the sources of
          :class:`~sklearn.decomposition.FastICA` act, each with both signs, as codes are
          non-negative: at most two for each feature (of "ica": for each dimension of the data),
          which is what ``n_components="auto"`` takes. FastICA may warn that it did not converge:
          the noise among many sources never comes to rest.
        - "identity": the features (neurons) themselves, likewise.
        - "nmf": atoms of :class:`~sklearn.decomposition.MiniBatchNMF`, for non-negative
          activations and ``fit_intercept=False``; "auto" takes one for each feature.

        "pca", "ica" and "nmf" need the data in memory.
    shuffle : bool, default=True
        Whether to shuffle the samples before each pass.
    sparse_output : bool, default=False
        Whether `transform` returns a CSR matrix (a sparse CSR tensor for tensors). It is built
        block by block, so that the dense codes never exist whole.
    device : str, default="auto"
        "auto" (CUDA if there is one, else the CPU) or a device name of torch. Apple's "mps", which
        has no float64, is refused. Fitted attributes are ndarrays whatever the device, so that a
        model fitted on a GPU loads without one.
    random_state : int, RandomState instance or None, default=None
        Determines initial atoms, shuffling, the held-out samples and the resampling of dead and
        duplicate features. An int gives identical results on the same machine.
    verbose : int, default=0
        Whether to print the objective of each pass; with ``solver="dictionary_learning"`` and
        "kmeans" scikit-learn's estimators print what they have to say, and "lasso" has nothing to.
        For a progress bar use :class:`sklearn.callback.ProgressBar` with ``set_callbacks``.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        The atoms, unit rows.
    intercept_ : ndarray of shape (n_features,)
        Subtracted before encoding and added after decoding.
    encoder_coef_ : ndarray of shape (n_components, n_features)
        Weights of the encoder. Only with ``solver="autoencoder"``.
    encoder_intercept_ : ndarray of shape (n_components,)
        Biases of the encoder. Only with ``solver="autoencoder"``.
    alpha_ : float
        The L1 coefficient used.
    threshold_ : ndarray of shape (n_components,)
        Pre-activations that are not larger count as zero. Only with ``architecture`` "batch_topk",
        "matryoshka", "jumprelu" and "gated".
    n_nonzero_coefs_ : int or None
        The number of non-zero entries used. Only with ``architecture`` "topk", "batch_topk",
        "matryoshka" and "jumprelu".
    codeword_norms_ : ndarray of shape (n_components,)
        Norm of each codeword, the code of its atom where it is the nearest. Only with
        ``solver="kmeans"``.
    codebook_sizes_ : ndarray of shape (n_codebooks,)
        Number of codewords of each codebook, in their order. Only with ``solver="kmeans"``.
    n_iter_ : int
        Passes over the data.
    n_steps_ : int
        Mini-batches seen.
    loss_curve_ : list of float
        Mean training objective of each pass, each sample at the parameters of its step and with
        the alpha of its step, which rises during the first three tenths of training; with the
        ``architecture`` of its step, where that begins as "relu". Empty for the solvers that do
        not report it.
    validation_loss_curve_ : list of float
        Objective of the held-out samples after each pass. Only with ``early_stopping=True``.
    feature_density_ : ndarray of shape (n_components,)
        Fraction of the training samples on which each feature is active (of those counted by
        ``n_samples_seen_``).
    feature_magnitude_ : ndarray of shape (n_components,)
        Mean absolute code of each feature where it is active, shrunk towards the mean over all
        features by one pseudo-observation.
    noise_variance_ : float
        Mean squared residual per feature of the data.
    resolution_variance_ : float
        Three per cent of the variance per feature of the training data: differences below it
        do not count for `score`. It does not depend on ``alpha``.
    n_samples_seen_ : int
        Number of samples behind densities, magnitudes and noise: the training samples, or at
        most 100,000 of them, evenly spread (20,000 where codes come from sparse coding), or the
        most recent 100,000 after `partial_fit`. Training may have seen more: ``n_steps_`` counts
        its mini-batches.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had string column names.

    See Also
    --------
    skdict.feature_extraction.ActivationExtractor : Activations of a model, from texts.
    skdict.decomposition.alpha_grid : Values of alpha to search over.
    sklearn.decomposition.MiniBatchDictionaryLearning : The same objective without an encoder.

    Notes
    -----
    The computation runs in float32 if X is in single or half precision, which is widened block
    by block, else in float64, and returns that dtype; Lasso codes have a duality gap of at most
    1e-4 of each sample's objective. Training of an autoencoder removes from the dictionary's
    gradient its component along each atom and renormalises atoms after each step, clips the
    gradient norm, and revives features that were silent between two checks, as in [1]_; of two
    features that have become the same one is freed to take half of an atom that stands for two
    directions. "alternating" points atoms that are hardly used at samples that are badly
    explained.

    References
    ----------
    .. [1] Bricken et al., "Towards Monosemanticity: Decomposing Language Models With Dictionary
       Learning", Transformer Circuits Thread, 2023.
    .. [2] Gao et al., "Scaling and evaluating sparse autoencoders", ICLR 2025.
    .. [3] Bussmann et al., "BatchTopK Sparse Autoencoders", 2024.
    .. [4] Bussmann et al., "Learning Multi-Level Features with Matryoshka Sparse Autoencoders",
       ICML 2025.
    .. [5] Rajamanoharan et al., "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU
       Sparse Autoencoders", 2024.
    .. [6] Rajamanoharan et al., "Improving Dictionary Learning with Gated Sparse Autoencoders",
       NeurIPS 2024.
    .. [7] Mairal, Bach, Ponce and Sapiro, "Online dictionary learning for sparse coding", ICML
       2009.
    .. [8] Tamkin, Taufeeque and Goodman, "Codebook Features: Sparse and Discrete
       Interpretability for Neural Networks", ICML 2024, for codebooks of activations.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> X, dictionary, code = make_superposition(
    ...     n_samples=5000, n_features=16, n_components=32, random_state=0
    ... )
    >>> sae = SparseAutoencoderDictionary(n_components=32, random_state=0).fit(X)
    >>> codes = sae.transform(X)
    >>> codes.shape
    (5000, 32)
    >>> sae.inverse_transform(codes).shape
    (5000, 16)
    """

    _parameter_constraints: dict = {
        "n_components": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "architecture": [StrOptions(ARCHITECTURES.keys()), Architecture],  # as registered by then
        "n_nonzero_coefs": [None, Interval(Integral, 1, None, closed="left")],
        "solver": [
            StrOptions({"autoencoder", "alternating", "dictionary_learning", "kmeans", "lasso"})
        ],
        "transform_algorithm": [StrOptions({"auto", "encoder", *ALGORITHMS})],
        "transform_alpha": [None, Interval(Real, 0, None, closed="left")],
        "transform_n_nonzero_coefs": [None, Interval(Integral, 1, None, closed="left")],
        "fit_intercept": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "dict_init": ["array-like", StrOptions(set(ATOMS)), None],
        "shuffle": ["boolean"],
        "sparse_output": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components="auto",
        *,
        alpha="auto",
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
        warm_start=False,
        dict_init=None,
        shuffle=True,
        sparse_output=False,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.alpha = alpha
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
        self.warm_start = warm_start
        self.dict_init = dict_init
        self.shuffle = shuffle
        self.sparse_output = sparse_output
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=True)
    @plain_torch()
    def fit(self, X, y=None):
        """Learn a dictionary from activations.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
            Activations. A memory map is read batch by batch.
        y : None
            Ignored.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter is out of range, if X is constant, not finite, or too small, or if the
            training diverges.
        """
        previous = self if self.warm_start and hasattr(self, "components_") else None
        self._check_transform_algorithm(self.solver in WITH_ENCODER)
        rows = self._rows(X, reset=previous is None, min_samples=2)
        return self._fit(rows, self.alpha, previous, X, y)

    def _fit(self, rows, alpha, previous, X, y, task=None):
        """`fit` to checked rows; X and y are for callbacks, and so is what makes the task."""
        if isinstance(X, Source):  # those of a fold, which only a callback wants to have whole
            X = partial(take_rows, X.X, X.index.numpy())
        random_state = check_random_state(self.random_state)
        training, held_out = rows, None
        if self.early_stopping and self.solver in TRAINED_IN_PASSES:
            parts = _split(len(rows), self.validation_fraction, random_state)
            training, held_out = map(rows.take, parts)
        # one sample alone has no scale
        seen = training if len(training) > 1 else rows
        with self._threads(rows):
            mean, rms = location_and_scale(seen)
        if held_out is not None:
            held_out.check_finite()
        units = self._units(rms, alpha)
        alpha = units["alpha_"]
        task = task or self._init_callback_context
        context = task(max_subtasks=self.max_iter if self.solver in TRAINED_IN_PASSES else 0)
        # Callbacks want a target; that of a reconstruction is X.
        data = {"estimator": self, "X": X, "y": X if y is None else y}
        context.call_on_fit_task_begin(**data)

        with self._threads(rows):
            run = self._begin(seen, mean, rms, alpha, previous, random_state)
        origin = run.mean
        if self.solver in TRAINED_IN_PASSES:
            attributes, run = self._train(run, training, held_out, rows, units, context, data)
        else:
            with self._threads(rows):
                attributes = units | run.fit(rows)
        if self.solver in LEARNING_FROM_STREAMS:
            memory = run if self.solver in WITH_MEMORY else None
            attributes["_stream"] = self._kind_of_stream(), memory, self._beginning()
        _publish(self, self._with_statistics(attributes, rows))
        self._check_worth(rows, origin)
        context.call_on_fit_task_end(**data, reconstruction_attributes=dict)
        return self

    @available_if(_learns_from_streams)
    @fit_context(prefer_skip_nested_validation=True)
    @plain_torch()
    def partial_fit(self, X, y=None):
        """Go on learning from one more portion of activations: one pass over it.

        After `fit` it goes on from what that has learned, else from nothing. The first call, or
        `fit`, fixes ``alpha_`` (if "auto") and the scale of the data, so let it be a few thousand
        samples that look like the rest. There is no planned end, so the learning rate does not
        decay and ``architecture="topk"`` does not begin as "relu"; parameters that plan a whole
        run (``max_iter``, ``early_stopping``) are not used.

        Between calls ``alpha``, ``batch_size``, ``learning_rate_init``, ``shuffle`` and what
        `transform` uses may change. Another ``solver``, ``architecture`` or ``n_nonzero_coefs``
        goes on from the dictionary with a fresh optimiser. What the dictionary began with,
        ``n_components``, ``fit_intercept``, ``dict_init`` and ``random_state``, can only change
        with a new `fit`.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
            Activations.
        y : None
            Ignored.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            As `fit`, or if a parameter has changed that cannot change between calls.
        """
        self._validate_params()  # scikit-learn does so at the first call only
        first = not hasattr(self, "components_")
        kind, began = self._kind_of_stream(), self._beginning()
        kind_before, run, began_before = getattr(self, "_stream", (None, None, None))
        if began_before is not None:
            self._check_same_beginning(began_before)
        if kind != kind_before:
            run = None
        self._check_transform_algorithm(self.solver in WITH_ENCODER)
        rows = self._rows(X, reset=first, min_samples=2 if run is None else 1)
        units = {}
        if run is None:
            with self._threads(rows):
                mean, rms = location_and_scale(rows)
            units = self._units(rms, self.alpha) if first else {}
        if not first:
            units["alpha_"] = self.alpha_ if self.alpha == "auto" else float(self.alpha)
        alpha = units["alpha_"]
        if run is None:
            if self.fit_intercept and not first:
                mean = from_numpy(self.intercept_).to(mean)
            previous, random_state = None if first else self, check_random_state(self.random_state)
            with self._threads(rows):
                run = self._begin(rows, mean, rms, alpha, previous, random_state)
        else:
            rows.check_finite()
            rows.dtype = from_numpy(self.components_).dtype
            run = run.copy_to(rows.device)  # that of the former call stays whole
        n_steps = run.n_steps
        loss_curve, learned = self._one_pass(run, rows, alpha)
        before = {"n_iter_": 0, "n_steps_": 0, "loss_curve_": []} if first else vars(self)
        attributes = {
            **units,
            "n_iter_": before["n_iter_"] + 1,
            "n_steps_": before["n_steps_"] + run.n_steps - n_steps,
            "loss_curve_": before["loss_curve_"] + loss_curve,
            **learned,
        }
        _publish(self, {"_stream": (kind, run, began), **attributes})
        statistics = CodeStatistics.empty(len(self.components_))
        if not first:
            statistics = CodeStatistics(**self._statistics)
        statistics.decay(STREAM_MEMORY)
        with self._threads_for_codes(rows):
            for codes, residual in self._coded(rows, rows.blocks(len(self.components_))):
                statistics.update(codes, residual)
        self._statistics = vars(statistics)
        vars(self).update(statistics.attributes(self.n_features_in_))
        self._check_worth(rows, run.mean, is_over=False)
        if self.verbose:
            self._print(f"portion {self.n_iter_}", {"objective": loss_curve})
        return self

    def _one_pass(self, run, rows, alpha):
        """One pass over a portion of a stream: its objective, in a list, and what it learned."""
        batch_size = self._batch_size(len(rows))
        options = {"batch_size": batch_size, "shuffle": self.shuffle}
        if self.solver == "dictionary_learning":
            run.partial_fit(rows, alpha, verbose=self.verbose, **options)
            return [], run.attributes()
        schedule = run.schedule(alpha, self.learning_rate_init, batch_size)
        with self._threads(rows):
            loss_curve = list(run.passes(rows, schedule, n_passes=1, **options))
        return loss_curve, run.attributes(rows, schedule)

    def _kind_of_stream(self):
        """What must not change for training to go on with the solver's state."""
        if self.solver != "autoencoder":
            return (self.solver,)
        return self.solver, make_architecture(self.architecture, self.n_nonzero_coefs)

    def _beginning(self):
        """Parameters that only the beginning of a dictionary uses, such that they compare."""
        seed, atoms = self.random_state, self.dict_init
        if atoms is not None and not isinstance(atoms, str):
            atoms = joblib.hash(_as_atoms(atoms, "dict_init").numpy())
        return {
            "fit_intercept": self.fit_intercept,
            "dict_init": atoms,
            # drawing from a generator changes it
            "random_state": "drawn from" if isinstance(seed, np.random.RandomState) else seed,
        }

    def _check_same_beginning(self, began):
        """Refuse parameters that would change nothing any more."""
        beginning = self._beginning()
        changed = [name for name in beginning if beginning[name] != began[name]]
        if self.n_components not in ("auto", len(self.components_)):
            changed.append("n_components")
        if changed:
            raise ValueError(
                f"{' and '.join(changed)} cannot change between calls of partial_fit: the "
                "dictionary that it goes on with began otherwise. Set "
                f"{'it' if len(changed) == 1 else 'them'} back, or begin anew with fit."
            )

    def _rows(self, X, **check):
        if isinstance(X, Source):  # those of a fold, checked before
            self.n_features_in_ = X.shape[1]
            return X
        X = check_activations(self, X, check_finite=False, **check)
        return Source(X, resolve_device(self.device))

    def _units(self, rms, alpha):
        """What depends on the scale of the data: its centred RMS norm."""
        return {
            "alpha_": ALPHA_FRACTION * rms if alpha == "auto" else float(alpha),
            "resolution_variance_": RESOLUTION * rms**2 / self.n_features_in_,
        }

    def _begin(self, rows, mean, rms, alpha, previous, random_state):
        """State of the solver before its first step, from scratch or from a previous fit."""
        n_features = rows.shape[1]
        if not self.fit_intercept:
            rms = math.hypot(rms, float(torch.linalg.vector_norm(mean)))
            mean = torch.zeros_like(mean)
        scale = rms / math.sqrt(n_features)
        if self.solver == "kmeans":
            return self._codebooks(rows, mean, scale, random_state)
        atoms = self._initial_atoms(rows, mean, scale, previous, random_state)
        n_components = len(atoms) if atoms is not None else self._n_components(rows)
        if self.solver == "lasso":
            return FixedAtoms(atoms, mean)
        if self.solver == "dictionary_learning":
            batch_size = self._batch_size(len(rows))
            return MiniBatchDictionaryLearning(
                self, n_components, alpha, batch_size, atoms, mean, scale, random_state
            )
        generator = torch.Generator().manual_seed(int(random_state.randint(2**31 - 1)))
        if self.solver == "alternating":
            self._check_memory(n_components, mean)
            if atoms is None:
                atoms = initial_atoms(rows, mean, scale, n_components, generator)
            intercept = torch.zeros_like(mean)
            if previous is not None and self.fit_intercept:
                intercept = (from_numpy(previous.intercept_).to(mean) - mean) / scale
            learner = OnlineDictionaryLearning(
                atoms.to(mean), intercept, generator, fit_intercept=self.fit_intercept
            )
            return AlternatingFit(learner, mean, scale)
        architecture = self._make_architecture(n_components)
        if previous is not None and hasattr(previous, "encoder_coef_"):
            return AutoencoderFit.from_attributes(previous, architecture, mean, scale, generator)
        if atoms is None:
            atoms = initial_atoms(rows, mean, scale, n_components, generator)
        return AutoencoderFit.from_atoms(
            atoms.to(mean),
            architecture,
            rows,
            mean,
            scale,
            generator,
            fit_intercept=self.fit_intercept,
        )

    def _check_memory(self, n_components, like):
        """Refuse a matrix of pairs of atoms for which there is no memory."""
        needed, available = n_components**2 * like.itemsize, available_memory(like.device)
        if needed > available:
            raise MemoryError(
                f"solver='alternating' keeps a number for each pair of atoms: with "
                f"{n_components} components {needed / 1e9:.3g} GB, where "
                f"{available / 1e9:.3g} GB are available. Use fewer components, or "
                "solver='autoencoder'."
            )

    def _make_architecture(self, n_components):
        architecture = make_architecture(self.architecture, self.n_nonzero_coefs)
        architecture.complete(n_components, self._n_nonzero(None, n_components))
        return architecture

    def _n_nonzero(self, given, n_components):
        """Number of non-zero coefficients; by default a tenth of the features."""
        return given or max(min(self.n_features_in_ // 10, n_components), 1)

    def _batch_size(self, n_samples):
        if self.batch_size != "auto":
            return self.batch_size
        return min(1024, max(64, n_samples // 64))

    def _threads(self, rows, n_rows=None):
        """Context in which rows are worked on so many at a time, by default those of a batch."""
        n_rows = min(len(rows), self._batch_size(len(rows)) if n_rows is None else n_rows)
        work = work_of_product(n_rows, rows.shape[1], self._n_components(rows))
        return threads_for(work, math.ceil(len(rows) / n_rows))

    def _threads_for_codes(self, rows):
        """Context in which rows are coded block by block."""
        n_components = len(self.components_)
        n_rows = min(len(rows), rows.block_size(n_components))
        work = work_of_product(n_rows, max(rows.shape[1], WORK_OF_SELECTION), n_components)
        return threads_for(work, math.ceil(len(rows) / n_rows))

    def _codebooks(self, rows, mean, scale, random_state):
        n_components, n_books = self._n_components(rows), self.n_nonzero_coefs or 1
        if n_books > n_components:
            raise ValueError(
                f"n_nonzero_coefs={n_books} codebooks asked for, but n_components={n_components}, "
                "which is less than a codeword for each. Use fewer, or raise n_components."
            )
        sizes = [len(part) for part in np.array_split(np.arange(n_components), n_books)]
        if sizes[0] > len(rows):
            raise ValueError(
                f"n_components={n_components} in {n_books} codebooks are {sizes[0]} codewords of "
                f"the first, but X has only {len(rows)} samples. Use fewer components or more "
                "samples."
            )
        return Codebooks(
            sizes,
            mean,
            scale,
            max_iter=self.max_iter,
            random_state=random_state,
            verbose=self.verbose,
        )

    def _initial_atoms(self, rows, mean, scale, previous, random_state):
        """Unit-norm atoms given by a previous fit or by dict_init, else None."""
        given = self.dict_init if previous is None else previous.components_
        if given is None and self.solver == "lasso":
            given = "exemplars"
        if isinstance(given, str):
            if given == "nmf" and self.fit_intercept:
                raise ValueError(
                    "dict_init='nmf' decomposes activations as they are, without an intercept. "
                    "Set fit_intercept=False."
                )
            return make_atoms(
                given,
                rows,
                mean,
                scale,
                self._n_components(rows) if self.dict_init is None else self.n_components,
                max_iter=self.max_iter,
                random_state=random_state,
            )
        if given is None:
            return None
        name = "dict_init" if previous is None else "components_ of the previous fit (warm_start)"
        atoms = _as_atoms(given, name)
        n_components = self.n_components
        expected = (len(atoms) if n_components == "auto" else n_components, rows.shape[1])
        if atoms.shape != expected:
            raise ValueError(
                f"{name} has shape {tuple(atoms.shape)}, but (n_components, n_features) is "
                f"{expected}. Make them agree, or leave n_components='auto'."
            )
        if previous is None and not atoms.any(dim=1).all():
            row = int(atoms.any(dim=1).int().argmin())
            raise ValueError(f"dict_init has a zero row ({row}). An atom needs a direction.")
        return normalize_(atoms)

    def _n_components(self, rows):
        if self.n_components != "auto":
            return self.n_components
        return default_n_components(
            "random" if self.solver == "autoencoder" else "exemplars", *rows.shape
        )

    def _train(self, run, training, held_out, rows, units, context, data):
        """Passes over the data until one of max_iter, a callback, early stopping ends them.

        Returns what they found, and the state of the solver that found it.
        """
        alpha = units["alpha_"]
        batch_size = self._batch_size(len(training))
        schedule = run.schedule(
            alpha,
            self.learning_rate_init,
            batch_size,
            n_steps=self.max_iter * math.ceil(len(training) / batch_size),
        )
        passes = run.passes(
            training,
            schedule,
            n_passes=self.max_iter,
            batch_size=batch_size,
            shuffle=self.shuffle,
        )
        loss_curve, validation_curve, n_unsettled, best = [], [], 0, None
        stop = False
        while not stop and len(loss_curve) < self.max_iter:
            task = context.subcontext(task_name="pass")
            task.call_on_fit_task_begin(**data)
            with self._threads(rows):
                loss_curve.append(next(passes))
            counters = {
                "n_iter_": len(loss_curve),
                "n_steps_": run.n_steps,
                "loss_curve_": list(loss_curve),
            }
            _check_finite_fit(counters)
            if held_out is not None:
                with self._threads(rows):
                    validation_curve.append(run.objective(held_out, alpha))
                counters["validation_loss_curve_"] = list(validation_curve)
                # until alpha and architecture are the final ones, no pass can be the best
                if not run.is_settled(schedule):
                    n_unsettled = len(validation_curve)
                settled = validation_curve[n_unsettled:]
                if settled and settled[-1] == min(settled):
                    kept = run.copy_to(rows.device) if self.solver in WITH_MEMORY else run
                    best = run.attributes(training, schedule), kept
                stop = _no_improvement(settled, self.tol, self.n_iter_no_change)
            now = lambda counters=counters: self._with_statistics(  # noqa: E731
                {**units, **counters, **run.attributes(training, schedule)}, rows
            )
            if self.verbose:
                curves = {"objective": loss_curve, "of held-out samples": validation_curve}
                self._print(f"pass {len(loss_curve)}/{self.max_iter}", curves)
            stop |= task.call_on_fit_task_end(**data, reconstruction_attributes=now)
        attributes, run = best or (run.attributes(training, schedule), run)
        return {**units, **counters, **attributes}, run

    def _print(self, what, curves):
        """Say what has been done, with the last entries of the curves that are not empty."""
        values = ", ".join(f"{name} {curve[-1]:.6g}" for name, curve in curves.items() if curve)
        print(f"[{type(self).__name__}] {what}: {values or 'done'}")

    # -- codes -----------------------------------------------------------------------------

    @plain_torch()
    def transform(self, X):
        """Find the codes of activations.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
            Activations.

        Returns
        -------
        codes : ndarray, CSR matrix or tensor of shape (n_samples, n_components)
            Float32 if X is in single or half precision, else float64. The code of a row does
            not depend on other rows. Tensors come back on the device of X.

        Raises
        ------
        ValueError
            If X has another number of features than in `fit`, or is not finite.
        """
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        gaps, n_components = [], len(self.components_)
        encode = self._encoder(rows, gaps)
        blocks = ((block, encode(x)) for block, x in rows.blocks(n_components))
        collect = collect_sparse if self.sparse_output else collect_dense
        with self._threads_for_codes(rows):
            codes = collect(blocks, len(rows), n_components, rows)
        warn_of_gaps(gaps, LASSO_TOL)
        return codes

    @plain_torch()
    def inverse_transform(self, X):
        """Reconstruct activations from codes: ``codes @ components_ + intercept_``.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_components)
            Codes.

        Returns
        -------
        X_reconstructed : ndarray or tensor of shape (n_samples, n_features)

        Raises
        ------
        ValueError
            If X has another number of columns than there are components.
        """
        check_is_fitted(self)
        X = check_codes(X, len(self.components_))
        if isinstance(X, torch.Tensor):
            dtype = torch.float64 if X.dtype == torch.float64 else torch.float32
            components, intercept = self._tensors(dtype, X.device, "components_", "intercept_")
            return X.to(dtype) @ components + intercept
        dtype = np.float64 if X.dtype == np.float64 else np.float32
        return X.astype(dtype, copy=False) @ self.components_.astype(
            dtype, copy=False
        ) + self.intercept_.astype(dtype, copy=False)

    @plain_torch()
    def score_samples(self, X):
        r"""Log-likelihood of each sample under the sparse-coding model of the fit.

        With :math:`p_j` = ``feature_density_``, :math:`m_j` = ``feature_magnitude_``,
        :math:`\tau^2` = ``resolution_variance_`` and :math:`s^2` = ``noise_variance_`` +
        :math:`\tau^2`,

        .. math::

            \log p(x) \approx -\tfrac d2 \log 2\pi s^2
            - \frac{\lVert x - b - zD \rVert^2 + d\tau^2}{2 s^2}
            + \sum_{z_j \ne 0} \left[ \log \frac{p_j}{m_j} - \frac{|z_j|}{m_j}
            + \tfrac12 \log 2\pi s^2 \right] + \sum_{z_j = 0} \log (1 - p_j)

        the code integrated out by Laplace's method around the one that `transform` finds. Its
        negative is a description length: nats for the residual plus nats for the code, where
        the residual is described up to a resolution of :math:`\tau`, as if noise of that
        variance were added to the data. Without it activations behind a ReLU, which are sparse
        in the basis of the neurons, would always be best described by copies of the neurons.
        The statistics are those of the codes found at the end of `fit`, so a changed
        ``transform_algorithm`` calls for another `fit`.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)

        Returns
        -------
        log_likelihood : ndarray of shape (n_samples,), float64
            In nats.
        """
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        model = self._likelihood_model(rows.device)
        n_components = len(self.components_)
        with self._threads_for_codes(rows):
            return np.concatenate(
                [
                    log_likelihood(codes, residual, **model).cpu().numpy()
                    for codes, residual in self._coded(rows, rows.blocks(n_components))
                ]
            )

    def score(self, X, y=None):
        """Mean log-likelihood of the samples, in nats, as `score_samples`.

        Unlike explained variance it does not always prefer the smaller ``alpha``: a dense code
        costs more nats than it saves. It can therefore select ``alpha`` in
        :class:`~sklearn.model_selection.GridSearchCV` without labels.

        Parameters
        ----------
        X : array-like, sparse matrix or torch.Tensor of shape (n_samples, n_features)
        y : None
            Ignored.

        Returns
        -------
        score : float
        """
        return float(self.score_samples(X).mean())

    def _check_transform_algorithm(self, has_encoder):
        # they may have changed since the fit, which checks them all
        names = ("transform_algorithm", "transform_alpha", "transform_n_nonzero_coefs")
        validate_parameter_constraints(
            self._parameter_constraints,
            {name: getattr(self, name) for name in names},
            type(self).__name__,
        )
        if self.transform_algorithm == "encoder" and not has_encoder:
            raise ValueError(
                f"transform_algorithm='encoder' needs an encoder, which solver={self.solver!r} "
                "does not train. Use transform_algorithm='auto', 'lasso', 'omp' or "
                "'threshold', or solver='autoencoder' or 'kmeans'."
            )

    def _encoder(self, rows, gaps=None):
        """Function from rows (B, n_features) to codes (B, n_components), on their device.

        Duality gaps of Lasso codes (B,) are appended to the list ``gaps``, for `warn_of_gaps`.
        """
        self._check_transform_algorithm(self._has_encoder())
        if self._codes_by_encoder():
            return self._trained_encoder(rows)
        components, intercept = self._tensors(rows.dtype, rows.device, "components_", "intercept_")
        algorithm = self.transform_algorithm
        algorithm = "lasso" if algorithm == "auto" else algorithm
        alpha = self.alpha_ if self.transform_alpha is None else self.transform_alpha
        n_nonzero = self._n_nonzero(self.transform_n_nonzero_coefs, len(components))
        code = make_coder(
            algorithm,
            components,
            alpha=alpha,
            n_nonzero_coefs=n_nonzero,
            positive=algorithm != "omp",
            tol=LASSO_TOL,
        )

        def encode(x):
            support, values, gap = code(x - intercept)
            if gap is not None and gaps is not None:
                gaps.append(gap)
            return support.dense(values)

        return encode

    def _trained_encoder(self, rows):
        if hasattr(self, "codeword_norms_"):
            names = "components_", "codeword_norms_", "intercept_"
            atoms, norms, intercept = self._tensors(rows.dtype, rows.device, *names)
            sizes = self.codebook_sizes_.tolist()
            return lambda x: quantise(x - intercept, atoms, norms, sizes)
        names = "encoder_coef_", "encoder_intercept_", "threshold_", "intercept_"
        tensors = self._tensors(rows.dtype, rows.device, *names)
        return lambda x: infer(x, *tensors, self._architecture.n_largest)

    def _has_encoder(self):
        return hasattr(self, "encoder_coef_") or hasattr(self, "codeword_norms_")

    def _codes_by_encoder(self):
        return self._has_encoder() and self.transform_algorithm in ("auto", "encoder")

    def _tensors(self, dtype, device, *names):
        """Fitted attributes as tensors; None for one that this fit has not."""
        arrays = [getattr(self, name, None) for name in names]
        return [
            array if array is None else from_numpy(array).to(dtype=dtype, device=device)
            for array in arrays
        ]

    def _residual_of(self, rows):
        """Function from rows (B, n_features) and their codes to the residual."""
        components, intercept = self._tensors(rows.dtype, rows.device, "components_", "intercept_")
        return lambda x, codes: x - intercept - codes @ components

    def _coded(self, rows, blocks):
        """Yield (codes, residual) of blocks of rows."""
        gaps = []
        encode, residual_of = self._encoder(rows, gaps), self._residual_of(rows)
        for _, x in blocks:
            codes = encode(x)
            yield codes, residual_of(x, codes)
        warn_of_gaps(gaps, LASSO_TOL)

    def _likelihood_model(self, device):
        """What `log_likelihood` wants to know beside codes and residual."""
        return {
            "density": from_numpy(self.feature_density_).to(device),
            "magnitude": from_numpy(self.feature_magnitude_).to(device),
            "noise_variance": self.noise_variance_,
            "resolution_variance": self.resolution_variance_,
            "n_samples": self.n_samples_seen_,
            "signed": self.transform_algorithm == "omp",
        }

    def _with_statistics(self, attributes, rows):
        """Fitted attributes together with the statistics of the codes that they give."""
        fitted = _publish(copy.copy(self), attributes)
        return {**attributes, **fitted._statistics_of_codes(rows)}

    def _statistics_of_codes(self, rows):
        """Attributes that `score` depends on, from the codes of samples, evenly spread."""
        statistics = CodeStatistics.empty(len(self.components_))
        n_samples = N_ENCODED_SAMPLES if self._codes_by_encoder() else N_SPARSE_CODED_SAMPLES
        index = _spread(len(rows), n_samples)
        blocks = ((chunk, rows[chunk]) for chunk in index.split(N_STATISTICS_ROWS))
        with self._threads(rows, N_STATISTICS_ROWS):
            for codes, residual in self._coded(rows, blocks):
                statistics.update(codes, residual)
        return {**statistics.attributes(rows.shape[1]), "_statistics": vars(statistics)}

    def _check_worth(self, rows, origin, *, is_over=True):
        """Raise or warn if a fit to rows has found what is worse than nothing, or nothing.

        ``origin`` (n_features,) is the intercept that the training began with. A stream is not
        over, and what it has not learned yet it may learn from what comes.
        """
        if not self.feature_density_.any():
            nothing = f"No feature is active on any of {self.n_samples_seen_} samples: "
            if self._codes_by_encoder() and getattr(self, "n_nonzero_coefs_", None) is not None:
                warn(
                    f"{nothing}none exceeds the threshold that training has come to. Use more "
                    "passes (max_iter) or a larger n_nonzero_coefs."
                )
            else:
                warn(
                    f"{nothing}alpha_={self.alpha_:.3g} is too large for the scale of X, or "
                    f"{self.n_steps_} steps are too few. Take a smaller value of alpha_grid(X), "
                    "or raise max_iter."
                )
        variance = self.resolution_variance_ / RESOLUTION
        if not self._codes_by_encoder() or self.noise_variance_ <= variance:
            return
        # massive samples do not count for the variance, and a stream may change
        encode, residual_of = self._encoder(rows), self._residual_of(rows)
        error = without = 0.0
        index = _spread(len(rows), N_SPARSE_CODED_SAMPLES)
        for chunk in index.split(N_STATISTICS_ROWS):
            x = rows[chunk]
            error += float(residual_of(x, encode(x)).double().square().sum())
            without += float((x - origin).double().square().sum())
        ratio = error / max(without, len(index) * rows.shape[1] * variance)
        if ratio <= WORSE_THAN_NOTHING:
            return
        symptom = f"the codes leave {ratio:.3g} times the squared error of no codes at all"
        if not ratio <= DIVERGED:
            raise ValueError(_diverged(vars(self), symptom))
        if is_over:
            warn(
                f"Training has not converged, or diverges: after {self.n_steps_} steps, "
                f"{symptom}. Raise max_iter; if that does not help, lower learning_rate_init, or "
                "leave it 'auto'.",
                ConvergenceWarning,
            )

    def __sklearn_is_fitted__(self):
        return hasattr(self, "components_")

    @property
    def _n_features_out(self):
        return len(self.components_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = self.solver != "kmeans" and (
            isinstance(self.dict_init, str) and self.dict_init == "nmf"
        )
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _as_atoms(given, name):
    """Atoms that were given: a new tensor of shape (n_components, n_features), float64."""
    given = as_matrix(given, name)
    check_entries_finite(given, name)
    return Source(given, torch.device("cpu"))[:].to(torch.float64, copy=True)


def _publish(estimator, attributes):
    """Set what a fit found, and nothing of a former fit with other parameters remains."""
    _check_finite_fit(attributes)
    for name in NOT_OF_EVERY_FIT:
        vars(estimator).pop(name, None)
    vars(estimator).update(attributes)
    return estimator


def _check_finite_fit(attributes):
    """Raise unless all numbers that a fit has found are finite."""
    for name, value in attributes.items():
        is_number = name.endswith("_") and isinstance(value, float | list | np.ndarray)
        if is_number and not np.isfinite(value).all():
            raise ValueError(_diverged(attributes, f"{name} is not finite"))


def _diverged(attributes, symptom):
    loss = "".join(f", objective {loss:.3g}" for loss in attributes.get("loss_curve_", [])[-1:])
    return (
        f"Training has diverged: after {attributes.get('n_steps_', 0)} steps{loss}, {symptom}. "
        "Lower learning_rate_init, or leave it 'auto'; if it is, change alpha to a value of "
        "alpha_grid(X)."
    )


def _spread(n_rows, n_most):
    """Numbers of at most so many rows, evenly spread."""
    return torch.arange(0, n_rows, math.ceil(n_rows / n_most), device="cpu")


def _split(n_rows, validation_fraction, random_state):
    """Draw held-out rows: sorted indices for training and for validation."""
    order = torch.from_numpy(random_state.permutation(n_rows))
    n_held_out = min(math.ceil(validation_fraction * n_rows), n_rows - 1)
    return order[n_held_out:].sort().values, order[:n_held_out].sort().values


def _no_improvement(curve, tol, n_iter_no_change):
    """Whether the last passes did not improve on the best one before them by the fraction tol."""
    if len(curve) <= n_iter_no_change:
        return False
    before = min(curve[:-n_iter_no_change])
    return min(curve[-n_iter_no_change:]) > before - tol * abs(before)
