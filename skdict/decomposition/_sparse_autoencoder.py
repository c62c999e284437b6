"""SparseAutoencoderDictionary: one estimator over sparse autoencoders and classical solvers."""

from functools import partial
from numbers import Integral, Real

from sklearn.callback import CallbackSupportMixin
from sklearn.utils.metaestimators import available_if

from .._core.data.source import Source
from .._core.models.architectures import ARCHITECTURES, Architecture
from .._core.solvers import SOLVERS
from .._core.torch_state import plain_torch
from ..utils._sklearn_compat import Interval, StrOptions, callbacks_of, fit_context
from . import _dictionary_learning, _fixed_atoms, _kmeans  # noqa: F401  # solvers
from ._base import DictionaryTransformer, coding_of
from ._coding import TRANSFORM_ALGORITHMS
from ._fitting import DICT_INIT, begins_with_nmf, default_params, fit, warn_of_unused
from ._judging import judge, look
from ._learned import Learned, attributes_after_fit, checked_params, learns_from_streams, start_of
from ._pretrained import PretrainedMixin
from ._processes import Processes, tells_the_others
from ._reports import Reports, print_progress
from ._streams import learn_portion


class SparseAutoencoderDictionary(CallbackSupportMixin, PretrainedMixin, DictionaryTransformer):
    r"""Overcomplete dictionary of activations with sparse, non-negative codes.

    Finds unit-norm atoms :math:`D_j`, an intercept :math:`b` and codes :math:`z_i \ge 0` that
    minimise

    .. math::

        \frac1n \sum_i \tfrac12 \lVert x_i - b - z_i D \rVert_2^2 + \alpha \lVert z_i \rVert_1

    which is the objective of :class:`sklearn.decomposition.DictionaryLearning` with an
    intercept. With ``solver="autoencoder"`` codes come from an encoder trained together with
    the atoms, :math:`z = \max(0, (x - b) W_\mathrm{enc}^\top + b_\mathrm{enc})` [1]_ (or the
    largest entries of it, see ``architecture``); the other solvers find them by sparse coding.
    ``alpha``, the objective and the codes of all solvers can be compared, and ``solver`` be
    searched over ("topk" and "kmeans" have no penalty).

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of atoms. "auto" takes four times the columns of X, but no more than a 16th of the
        samples of `fit`, or 16: with fewer samples for each, atoms are samples learned by heart.
    alpha : float or "auto", default="auto"
        L1 coefficient, in the units of the data. "auto" takes
        :math:`0.1 \sqrt{E\lVert x - E x \rVert^2}`, without a few samples of far greater norm, of
        which a warning tells; :func:`alpha_grid` gives a grid around it. See ``alpha_``.
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
        - "abs_topk", "group_max": the largest absolute values, with their sign; the largest of
          each of ``n_nonzero_coefs`` groups of atoms.

        An instance of :mod:`skdict.decomposition.architectures`, as
        ``BatchTopK(k=32, rate=0.05)``, has parameters to search over, as ``architecture__rate``.

        A fit from scratch begins as "relu" with ``alpha``, which keeps features from dying: for
        its first half with those that keep the largest, for three tenths with "jumprelu".
    n_nonzero_coefs : int, default=None
        Number of non-zero entries of a code: at most with ``architecture="topk"``, on average
        with "batch_topk" and "matryoshka"; None takes a tenth of the columns, as
        ``transform_n_nonzero_coefs`` does. With "jumprelu" the average to aim at; None takes
        the penalty by ``alpha``. An architecture that is given as an instance may have it as its
        ``k`` instead. With ``solver="kmeans"`` the number of codebooks; None takes 1.
    solver : str, default="autoencoder"
        How the dictionary is found.

        - "autoencoder": a sparse autoencoder, trained with Adam on mini-batches.
        - "alternating": online dictionary learning [7]_: Lasso codes of a mini-batch, then one
          round of coordinate descent on the atoms, given the codes so far, late ones above all.
          No encoder. Keeps a number for each pair of atoms: 17 GB with 65,536 in float32.
        - "dictionary_learning": :class:`~sklearn.decomposition.MiniBatchDictionaryLearning` with
          non-negative codes, on the centred data, which it needs in memory, in float64. Some
          hundred samples per second.
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
        the columns.
    fit_intercept : bool, default=True
        Whether to learn ``intercept_``, from the data's mean on. Otherwise it is zero.
    resolution : float, default=0.03
        Share of the data's variance that does not count for `score`; no effect on the fit.
    max_iter : int, default=20
        Passes over the data.
    batch_size : int or "auto", default="auto"
        Samples per step. "auto" takes 1,024, but no more than a 64th of the samples and no less
        than 64: a pass over little data then still has enough steps. Of a stream it takes 64 at
        first, and twice as many each time that the samples so far have doubled, up to 1,024.
    learning_rate_init : float or "auto", default="auto"
        Adam's learning rate between its warm-up and its decay to zero over the last part of
        `fit`. "auto" takes :math:`0.1 / \sqrt{d}` for d columns, as entries of an atom are of
        the order :math:`1 / \sqrt{d}`; with more than four times as many components n as
        samples B in a batch :math:`\sqrt{4 B / n}` of that, as long as the steps of the `fit`
        times the learning rate are no less than :math:`10 / \sqrt{d}`.
    early_stopping : bool or "auto", default="auto"
        Whether to hold out ``validation_fraction`` of the samples, from the scale and the initial
        atoms too, and keep the pass in which their objective was the smallest. "auto" does so
        where there are fewer than 64 samples for each atom, and makes all passes; True also stops
        when the objective has not improved by the fraction ``tol`` for ``n_iter_no_change``
        passes. Passes in which ``alpha`` still changes, or "topk" is still "relu", do not count.
        ``solver="dictionary_learning"`` has a criterion of its own, without held-out samples.
    validation_fraction : float, default=0.1
        Fraction of the samples that is held out; by "auto" no more than 2,048 or fewer than 10.
    tol : float, default=1e-3
        Relative improvement below which a pass counts as no change.
    n_iter_no_change : int, default=5
        Passes without improvement before ``early_stopping=True`` stops.
    warm_start : bool, default=False
        Whether `fit` starts from the atoms, encoder and intercept of the previous fit. Used by
        ``solver="autoencoder"``, for atoms and intercept by "alternating" and for the atoms by
        "dictionary_learning" and "lasso", whatever ``dict_init`` says.
    dict_init : array-like of shape (n_components, n_features), str or dictionary, default=None
        Initial atoms, scaled to unit norm; those that ``solver="lasso"`` keeps. From a
        :class:`Dictionary`, or a fitted estimator, training goes on, with its encoder. By name:

        - "exemplars": samples drawn at random, centred.
        - "random": directions drawn evenly from the sphere.
        - "pca", "ica": principal directions, and those along which the sources of
          :class:`~sklearn.decomposition.FastICA` act, each with both signs, as codes are
          non-negative: at most two for each column (of "ica": for each dimension of the data),
          which is what ``n_components="auto"`` takes.
        - "identity": the neurons (columns of X) themselves, likewise.
        - "nmf": atoms of :class:`~sklearn.decomposition.MiniBatchNMF`, for non-negative
          activations and ``fit_intercept=False``; "auto" takes one for each column.

        "pca", "ica" and "nmf" need the data in memory.
    shuffle : bool, default=True
        Whether to shuffle the samples before each pass.
    sparse_output : bool, default=False
        Whether `transform` returns a CSR matrix (a sparse CSR tensor for tensors). It is built
        block by block, so that the dense codes never exist whole.
    device : str, default="auto"
        "auto" (CUDA if there is one, else the CPU) or a device name of torch, but not Apple's
        "mps", which has no float64. Fitted attributes are ndarrays whatever the device.
    random_state : int, RandomState instance or None, default=None
        For initial atoms, shuffling, held-out samples and resampling. An int gives identical
        results on the same machine.
    verbose : int, default=0
        1 prints a line for each pass: objective, L0, explained variance, silent features, rows per
        second, time left. See :doc:`/user_guide/callbacks`, for progress bars too.

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
        Pre-activations that are not larger count as zero. Only of architectures with thresholds.
    n_nonzero_coefs_ : int or None
        The number of non-zero entries used. Only of architectures that take one.
    codeword_norms_ : ndarray of shape (n_components,)
        Norm of each codeword, its code where it is the nearest. Only with ``solver="kmeans"``.
    codebook_sizes_ : ndarray of shape (n_codebooks,)
        Number of codewords of each codebook, in their order. Only with ``solver="kmeans"``.
    n_iter_ : int
        Passes over the data.
    n_steps_ : int
        Mini-batches seen.
    loss_curve_ : list of float
        Mean training objective of each pass, as each step had it. Empty for some solvers.
    validation_loss_curve_ : list of float
        Objective of the held-out samples after each pass. Only where samples were held out.
    validation_score_ : float
        Their `score`. Only where samples were held out, as the next two.
    validation_explained_variance_ : float
        Fraction of their variance that is explained.
    validation_l0_ : float
        Their mean L0: number of active features.
    train_explained_variance_ : float
        The same fraction for samples of the fit, 2,048 at most.
    train_l0_ : float
        Their mean L0.
    dictionary_ : Dictionary
        All of the above in one object, which codes tensors: see :class:`Dictionary`.
    feature_density_ : ndarray of shape (n_components,)
        Fraction of the samples counted by ``n_samples_seen_`` on which each feature is active.
    feature_magnitude_ : ndarray of shape (n_components,)
        Its mean magnitude where active, shrunk to that of all features by one observation. This
        and the next are of codes a step nearer to least squares, as in `score_samples`.
    noise_variance_ : float
        Mean squared residual, per column.
    variance_ : float
        Variance of the training data (of a stream: of its first portion), per column.
    n_samples_seen_ : int
        Samples behind densities, magnitudes and noise: 100,000 of the fit at most, evenly spread
        (20,000 if by sparse coding); of portions 1,024 each, or an eighth.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if they are strings.

    See Also
    --------
    skdict.feature_extraction.ActivationExtractor : Activations of a model, from texts.
    sklearn.decomposition.MiniBatchDictionaryLearning : The same objective without an encoder.

    Notes
    -----
    The computation runs in float32 if X is in single or half precision, else in float64, and
    returns that dtype; Lasso codes have a duality gap of at most 1e-4 of each sample's objective.
    Training of an autoencoder removes from the dictionary's gradient its component along each
    atom, renormalises atoms after each step, clips the gradient norm, and resamples duplicates and
    features that were silent between two checks, as in [1]_. What `score` needs is computed when
    it is first asked for, at the latest for a pickle; until then a fitted estimator keeps X. Of
    several processes that share out atoms and encoder of more than 4 GiB these are memory maps
    (:ref:`more_than_one_device`).

    References
    ----------
    .. [1] Bricken et al., "Towards Monosemanticity", Transformer Circuits Thread, 2023.
    .. [2] Gao et al., "Scaling and evaluating sparse autoencoders", ICLR 2025.
    .. [3] Bussmann et al., "BatchTopK Sparse Autoencoders", 2024.
    .. [4] Bussmann et al., "Matryoshka Sparse Autoencoders", ICML 2025.
    .. [5] Rajamanoharan et al., "Jumping Ahead", 2024.
    .. [6] Rajamanoharan et al., "Gated Sparse Autoencoders", NeurIPS 2024.
    .. [7] Mairal et al., "Online dictionary learning for sparse coding", ICML 2009.
    .. [8] Tamkin, Taufeeque and Goodman, "Codebook Features", ICML 2024.

    Examples
    --------
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> X, dictionary, code = make_superposition(
    ...     n_samples=5000, n_features=16, n_components=32, random_state=0
    ... )
    >>> sae = SparseAutoencoderDictionary(n_components=32, random_state=0).fit(X)
    >>> codes = sae.transform(X)
    >>> codes.shape, sae.inverse_transform(codes).shape
    ((5000, 32), (5000, 16))
    """

    _parameter_constraints: dict = {
        "n_components": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "architecture": [StrOptions(ARCHITECTURES.keys()), Architecture],  # as registered by then
        "n_nonzero_coefs": [None, Interval(Integral, 1, None, closed="left")],
        "solver": [StrOptions(SOLVERS.keys())],
        "transform_algorithm": [StrOptions(TRANSFORM_ALGORITHMS.keys())],
        "transform_alpha": [None, Interval(Real, 0, None, closed="left")],
        "transform_n_nonzero_coefs": [None, Interval(Integral, 1, None, closed="left")],
        "fit_intercept": ["boolean"],
        "resolution": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "early_stopping": ["boolean", StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "dict_init": DICT_INIT,
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
        resolution=0.03,
        max_iter=20,
        batch_size="auto",
        learning_rate_init="auto",
        early_stopping="auto",
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
        self.resolution = resolution
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

    @tells_the_others
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
        MemoryError
            If all rows are needed in memory, as by "kmeans", and do not fit.

        Warns
        -----
        UserWarning
            If a parameter has no effect, no feature is active, a few samples would decide the
            scale of all, or samples are learned by heart: held-out ones lose more than a quarter
            of the explained variance. If the codes are worse than none, a ConvergenceWarning.
        """
        previous, is_new = start_of(self)
        params = checked_params(self)
        rows = self._source(X, reset=is_new, min_samples=2)
        warn_of_unused(params, default_params(SparseAutoencoderDictionary))
        X = X.whole if isinstance(X, Source) else X  # a fold: only callbacks want it whole
        n_epochs = self.max_iter if SOLVERS[self.solver].in_epochs else 0
        context = self._init_callback_context(max_subtasks=n_epochs)
        reports = Reports(self, X, y, context, partial(coding_of, self))
        self._forget()  # callbacks get copies, to which attributes are added
        attributes_of = partial(attributes_after_fit, coding_of=partial(coding_of, self))
        with Processes(params, rows, callbacks_of(self)) as processes:
            found = fit(params, rows, previous, reports, attributes_of, processes)
        attributes = look(found, coding_of(self, found.dictionary))
        self._publish(attributes_of(found, params) | attributes)
        reports.end()
        return self

    @available_if(learns_from_streams)
    @tells_the_others
    @fit_context(prefer_skip_nested_validation=True)
    @plain_torch()
    def partial_fit(self, X, y=None):
        """Go on learning from one more portion of activations: one pass over it.

        After `fit` it goes on from what that has learned, else from nothing. The first call, or
        `fit`, fixes ``alpha_`` (if "auto") and the scale of the data, so let it be a few thousand
        samples that look like the rest; portions should be shuffled. Without a planned end the
        learning rate does not decay, so the attributes are an average, mostly over the last ninth
        of the steps. ``max_iter`` and ``early_stopping`` are not used.

        Parameters may change between calls, but what the dictionary began with, ``n_components``,
        ``fit_intercept``, ``dict_init`` and ``random_state``, only with a new `fit`. Another
        ``solver``, ``architecture`` or ``n_nonzero_coefs`` begins with a fresh optimiser.

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
        params, before = checked_params(self), Learned.by(self)
        solver = before.solver_for(params)
        min_samples = 2 if solver is None else 1
        rows = self._source(X, reset=not hasattr(self, "components_"), min_samples=min_samples)
        warn_of_unused(params, default_params(SparseAutoencoderDictionary))
        with Processes(params, rows) as processes:
            found = learn_portion(params, rows, before, solver, processes)
        coding = coding_of(self, found.dictionary)
        measured = judge(found, coding, is_over=False)
        self._publish(before.attributes_with(found, measured.statistics, params))
        if self.verbose:
            objectives = dict(zip(["objective"], found.counters["loss_curve_"], strict=False))
            print_progress(self, f"portion {self.n_iter_}", objectives, coding, rows)
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = begins_with_nmf(self.solver, self.dict_init)
        return tags
