"""What an architecture of the sparse autoencoder is, and what all of them share."""

from typing import NamedTuple

import torch

from ...distributed.cut import largest_cut
from ...distributed.gradients import error_of_sum
from ...distributed.strategy import ALONE, Strategy
from ...kernels import Support, decode, reconstruction_error
from ...parameters import Parameterized, is_count

# How many numbers of non-zero entries a search begins with.
N_COUNTS = 8


class Target(NamedTuple):
    """What the codes of a batch have to reconstruct, and from which atoms.

    Parameters
    ----------
    centred : tensor of shape (B, n_features)
        x - b, as data: no gradient flows through it.
    support : Support or None
        Where the codes may differ from zero; with None they are dense.
    dictionary : tensor of shape (n_components, n_features)
    intercept : tensor of shape (n_features,)
        b. ``centred`` does not depend on it for autograd; the error's gradient does.
    strategy : Strategy
        Says whether these are all atoms, or those of one of several processes.
    """

    centred: torch.Tensor
    support: Support | None
    dictionary: torch.Tensor
    intercept: torch.Tensor
    strategy: Strategy = ALONE


class SparsityGrid(NamedTuple):
    """Where a search for the best value of a parameter begins, and how far it may go.

    Parameters
    ----------
    values : sequence of float or int
        To begin with: from the one that gives the densest codes to the one that gives the
        sparsest.
    factor : float
        About what a value is multiplied by to get the next sparser one.
    densest, sparsest : float or int
        Values beyond which the search must not go.
    """

    values: tuple
    factor: float
    densest: float
    sparsest: float

    @classmethod
    def of_counts(cls, n_features, n_components):
        """Of numbers of non-zero entries of a code, down to 1: about √2 apart.

        It begins at an eighth of the features: features in real data are sparser than that, and
        the denser a code the longer it takes. Of few features it begins at 16, or half of them.

        Parameters
        ----------
        n_features, n_components : int

        Returns
        -------
        grid : SparsityGrid
        """
        most = min(n_features, n_components)
        first = max(1, min(most, max(n_features // 8, min(n_features // 2, 16))))
        values = {max(1, round(first / 2 ** (i / 2))) for i in range(N_COUNTS)}
        return cls(tuple(sorted(values, reverse=True)), 0.5**0.5, most, 1)

    def beyond(self, value, *, sparser):
        """The value after an edge of a grid, or None where the edge is the last there may be.

        Parameters
        ----------
        value : float or int
            The one at the edge.
        sparser : bool
            Whether the edge is the one with the sparsest codes.

        Returns
        -------
        following : float, int or None
        """
        factor, last = self.factor, self.sparsest
        if not sparser:
            factor, last = 1 / factor, self.densest
        following = value * factor
        if isinstance(value, int):
            step = 1 if factor > 1 else -1
            following = value + step * max(1, abs(round(following) - value))
        following = min(following, last) if factor > 1 else max(following, last)
        return None if following == value else following


class Architecture(Parameterized):
    """Base of the architectures: codes max(0, p) and no penalty.

    An architecture says which pre-activations p = (x - b) W_encᵀ + b_enc are active, what code
    they give, and what the objective adds to the squared error. The encoder, the dictionary, the
    optimiser and resampling are shared. It gets tensors and gives tensors: it never sees the
    autoencoder or the training. Subclass it, override what differs, and give it a name with
    `register`.

    An instance holds hyper-parameters alone, and training does not change it. What is learned for
    each component beside encoder and atom is its *state*: a dict by name of tensors of shape
    (n_components,), which `initial_state` creates and every other method gets. All of it gets
    gradients but the running statistics, which `update_running_stats` changes.

    During training pre-activations come in one of two forms, whichever is faster for the batch at
    hand: a flat tensor (nnz,) of the entries at the support, with the state gathered to the same
    shape, or a dense matrix (B, n_components), with the state as it is. Element-wise code serves
    both.

    After training the encoder is folded: `fold` turns encoder and state into a weight, a bias and
    a threshold θ (n_components,), with which codes are z = p where p > θ, else 0; of these only
    the `n_largest` of each sample, if that is not None.

    Several processes can train an architecture that says so by ``distributed = True``, because all
    of its methods treat each entry of a code by itself.

    An architecture with a parameter ``k`` takes the estimator's ``n_nonzero_coefs`` where ``k`` is
    None. What makes codes sparse, ``k`` or ``alpha`` or another parameter, is said by `sparsity`,
    and :class:`~skdict.decomposition.SparseAutoencoderDictionaryCV` chooses it.

    Examples
    --------
    Codes under a penalty that spares large ones, Σ_j log(1 + z_j / s):

    >>> import torch
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> from skdict.decomposition.architectures import Architecture
    >>> class LogPenalty(Architecture):
    ...     def __init__(self, s=1.0):
    ...         self.s = s
    ...
    ...     def validate(self):
    ...         self.require("s", self.s > 0, "a float above 0")
    ...
    ...     def penalty(self, pre_activations, values, state, alpha):
    ...         return alpha * self.s * torch.log1p(values / self.s).sum()
    >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
    >>> sae = SparseAutoencoderDictionary(16, architecture=LogPenalty(s=0.5), random_state=0)
    >>> sae.fit(X).transform(X).shape
    (1000, 16)
    """

    # Names in the state of what `update_running_stats` changes, and no gradient.
    running_stats = ()
    # Those of them that are measured on codes, and do not steer the training: of the averaged
    # parameters of a stream they are measured once more.
    measured_stats = ()
    # Fraction of the steps of a fit from scratch that train `first_variant` instead. While every
    # feature that fires gets a gradient, few die.
    first_variant_until = 0.0
    # After training, keep only so many of the largest entries of each code; None keeps all.
    n_largest = None
    # Which pre-activations may be a code, in use: see `coding.Encoder`. In training it is for
    # `values` to say.
    selection = "positive"
    # Whether several processes can train it, each of which sees some of the samples or of the
    # features. Those of skdict can; one of your own says so if all of its methods treat each entry
    # of a code by itself.
    distributed = False

    def complete(self, n_components, default_k):
        """Set a ``k`` that was left open, and check it against the number of components.

        Parameters
        ----------
        n_components : int
        default_k : int
            What it is where neither the estimator nor the architecture says.

        Raises
        ------
        ValueError
            If k is larger than the number of components.
        """
        if "k" not in self.get_params():
            return
        self.k = default_k if self.k is None else self.k
        if self.k is not None and self.k > n_components:
            raise ValueError(
                f"n_nonzero_coefs={self.k} is larger than the number of components, "
                f"{n_components}. Use fewer (it is the k of {self!r}), or raise n_components."
            )

    def _require_k(self):
        self.require("k", self.k is None or is_count(self.k), "None or an int of at least 1")

    # -- what a search chooses -------------------------------------------------------------

    @property
    def sparsity(self):
        """Names of the parameters that can set how sparse codes are, the one to choose first.

        "alpha" is the estimator's, and any other a parameter of the architecture. The first that
        is not None has the effect, and the others have none. By default "k" where there is such a
        parameter, else "alpha".

        Returns
        -------
        names : tuple of str
        """
        return ("k",) if "k" in self.get_params() else ("alpha",)

    def sparsity_grid(self, name, n_features, n_components):
        """Values to begin a search with, for one of the names in `sparsity` but "alpha".

        Parameters
        ----------
        name : str
        n_features, n_components : int

        Returns
        -------
        grid : SparsityGrid
        """
        if name == "k":
            return SparsityGrid.of_counts(n_features, n_components)
        raise NotImplementedError(
            f"{type(self).__name__} says that {name!r} sets how sparse its codes are, but has no "
            "values to try: override sparsity_grid."
        )

    @property
    def sparse_by(self):
        """The name in `sparsity` that has the effect."""
        known = (n for n in self.sparsity if n == "alpha" or getattr(self, n) is not None)
        return next(known, self.sparsity[0])

    # -- training --------------------------------------------------------------------------

    def first_variant(self):
        """The architecture that a fit from scratch begins with.

        Returns
        -------
        architecture : Architecture
            Its state has the names that it needs of this one's.
        """
        return self

    def variant_at(self, progress):
        """The architecture that a step trains: the instance itself, or its first variant.

        Parameters
        ----------
        progress : float
            Fraction of the steps that are done after this one, above 0 and at most 1.

        Returns
        -------
        architecture : Architecture
        """
        return self if progress > self.first_variant_until else self.first_variant()

    def initial_state(self, zeros):
        """The state at the start of training.

        Parameters
        ----------
        zeros : tensor of shape (n_components,)
            Of the dtype and on the device that the state has to have.

        Returns
        -------
        state : dict of str to tensor of shape (n_components,)
            New tensors.
        """
        return {}

    def select(self, scan, state, n_rows):
        """Where the codes of a batch may differ from zero. No gradient passes.

        Parameters
        ----------
        scan : callable
            ``scan(offset=0.0, k=None)`` gives the support where p > offset, a float or a tensor
            of shape (n_components,), or of these the k largest of each sample. With a
            ``selection`` as that of the class it gives the support of that, by dense products.
        state : dict of str to tensor of shape (n_components,)
        n_rows : int
            B, the number of samples in the batch.

        Returns
        -------
        support : Support
        """
        return scan()

    def values(self, pre_activations, state, n_rows):
        """The codes, differentiable.

        Parameters
        ----------
        pre_activations : tensor of shape (nnz,) or (B, n_components)
        state : dict of str to tensor of shape (nnz,) or (n_components,)
        n_rows : int
            B.

        Returns
        -------
        values : tensor, shaped as the pre-activations
        """
        return torch.relu(pre_activations)

    def error(self, values, target):
        """Squared error of the reconstruction, halved and summed over the batch.

        Parameters
        ----------
        values : tensor of shape (nnz,) or (B, n_components)
            Codes.
        target : Target
            What they have to reconstruct, and from which atoms.

        Returns
        -------
        error : tensor, scalar
        residual : tensor of shape (B, n_features)
            x - b - z D. No gradient.
        """
        centred, support, dictionary, intercept, strategy = target
        if strategy.shards_atoms:
            decoded = decode(values, support, dictionary)
            return error_of_sum(decoded, centred, intercept, strategy.features)
        return reconstruction_error(values, support, dictionary, centred, intercept)

    def penalty(self, pre_activations, values, state, alpha):
        """What the objective adds to the squared error, summed over the batch.

        Parameters
        ----------
        pre_activations, values : tensor of shape (nnz,) or (B, n_components)
        state : dict of str to tensor of shape (nnz,) or (n_components,)
        alpha : float
            In the units of training, and rising at its beginning.

        Returns
        -------
        penalty : tensor, scalar, or float
        """
        return 0.0

    def objective(self, pre_activations, state, alpha, target):
        """Error plus penalty.

        Parameters
        ----------
        pre_activations : tensor of shape (nnz,) or (B, n_components)
        state : dict of str to tensor of shape (nnz,) or (n_components,)
        alpha : float
        target : Target

        Returns
        -------
        objective : tensor, scalar
        values : tensor, shaped as the pre-activations
            The codes.
        residual : tensor of shape (B, n_features)
        """
        values = self.values(pre_activations, state, len(target.centred))
        error, residual = self.error(values, target)
        return error + self.penalty(pre_activations, values, state, alpha), values, residual

    def update_running_stats(self, values, state, n_rows):
        """Update the `running_stats` in place after a step; called only if there are any.

        Parameters
        ----------
        values : tensor of shape (m,)
            All codes of the batch that are positive, and some that are zero. To drop these, the
            host would have to wait for a GPU that counts them.
        state : dict of str to tensor of shape (n_components,)
        n_rows : int
            B.
        """

    def rescale(self, state, rows, factor):
        """Rescale the state in place, where resampling has rescaled rows of the encoder.

        Parameters
        ----------
        state : dict of str to tensor of shape (n_components,)
        rows : tensor of shape (m,), int64
            Numbers of the components.
        factor : tensor of shape (m,)
            What their encoders, and so their pre-activations, have been multiplied by.
        """

    # -- the units of the data, and the end of training ------------------------------------

    def in_units(self, state, factor):
        """The state that gives ``factor`` times the codes for ``factor`` times all p.

        Parameters
        ----------
        state : dict of str to tensor of shape (n_components,)
        factor : float

        Returns
        -------
        state : dict of str to tensor of shape (n_components,)
        """
        return state

    def calibrated(self, state, pre_activations):
        """The state to use after a training that ended while it trained the first variant.

        Parameters
        ----------
        state : dict of str to tensor of shape (n_components,)
        pre_activations : tensor of shape (B, n_components)
            Of samples from the training data.

        Returns
        -------
        state : dict of str to tensor of shape (n_components,)
        """
        return state

    def fold(self, weight, bias, state):
        """Encoder and threshold for use after training.

        Parameters
        ----------
        weight : tensor of shape (n_components, n_features)
        bias : tensor of shape (n_components,)
        state : dict of str to tensor of shape (n_components,)

        Returns
        -------
        weight : tensor of shape (n_components, n_features)
        bias : tensor of shape (n_components,)
        threshold : tensor of shape (n_components,) or None
            At least 0; None is 0.
        """
        return weight, bias, None

    def undo_fold(self, weight, bias, state):
        """The encoder that `fold` gave, as it was before.

        Parameters
        ----------
        weight : tensor of shape (n_components, n_features)
        bias : tensor of shape (n_components,)
        state : dict of str to tensor of shape (n_components,)
            The one that it was folded with.

        Returns
        -------
        weight : tensor of shape (n_components, n_features)
        bias : tensor of shape (n_components,)
        """
        return weight, bias

    def unfold(self, bias, threshold):
        """Bias and state to go on training from the folded encoder of another architecture.

        Parameters
        ----------
        bias : tensor of shape (n_components,)
        threshold : tensor of shape (n_components,) or None

        Returns
        -------
        bias : tensor of shape (n_components,)
        state : dict of str to tensor of shape (n_components,)
        """
        return bias, self.initial_state(torch.zeros_like(bias))


def threshold_of(pre_activations, k):
    """What the k B largest positive pre-activations of B samples, and no others, exceed."""
    cut = largest_cut(torch.relu(pre_activations), k * len(pre_activations))
    return 0.0 if cut is None else float(cut)


def keep_largest(pre_activations, k):
    """max(0, p) where p is among the k largest of its row, else 0: (B, n_components)."""
    largest = pre_activations.detach().topk(k, dim=1, sorted=False).indices
    mask = torch.zeros_like(pre_activations, dtype=torch.bool).scatter_(1, largest, True)
    return torch.where(mask, torch.relu(pre_activations), 0)
