"""A fitted dictionary: what training leaves, and all that coding needs."""

from dataclasses import dataclass, replace
from functools import partial

import torch

from .coding import CODERS, Codebook, Encoder
from .kernels.tolerances import FEW_ROWS
from .tensors import Unchanged

# Prepared coders that are kept, each with its copy of the atoms or their Gram matrix.
N_KEPT_CODERS = 2


@dataclass(eq=False)
class Dictionary:
    """What a fit has found, as torch tensors in the units of the data.

    It is the ``dictionary_`` of a fitted
    :class:`~skdict.decomposition.SparseAutoencoderDictionary`, on the memory of its fitted
    attributes. Where arrays, checks and blocks of an estimator would be in the way, as inside of
    a model, it codes a batch of rows on any device. It keeps what coders have prepared, and
    prepares them again when its tensors have been changed.

    Parameters
    ----------
    components : tensor of shape (n_components, n_features), float32 or float64
        The atoms, unit rows.
    intercept : tensor of shape (n_features,)
        Subtracted before coding, added after decoding.
    encoder : callable, default=None
        A way to code that came with the atoms: of an autoencoder or of codebooks.
    alpha : float, default=None
        The L1 coefficient of the fit.
    architecture : Architecture, default=None
        Of the autoencoder that it comes from.
    state : dict of str to tensor of shape (n_components,), default=None
        What the architecture has learned beside the encoder, for training that goes on. None is
        an empty dict.

    Examples
    --------
    Codes and reconstructions of a batch of activations, as tensors:

    >>> import torch
    >>> from skdict.datasets import make_superposition
    >>> from skdict.decomposition import SparseAutoencoderDictionary
    >>> X, _, _ = make_superposition(n_samples=1000, n_features=8, random_state=0)
    >>> sae = SparseAutoencoderDictionary(16, random_state=0).fit(X)
    >>> dictionary = sae.dictionary_.to(torch.float32, torch.device("cpu"))
    >>> x = torch.from_numpy(X[:5]).float()
    >>> codes = dictionary.coder("encoder")(x)
    >>> codes.dense().shape
    torch.Size([5, 16])
    >>> reconstruction = x - dictionary.residual(x, codes)

    Codes by another algorithm, with options of it:

    >>> codes = dictionary.coder("lasso", alpha=0.1)(x)
    >>> codes.counts.shape  # the L0 of each row
    torch.Size([5])
    """

    components: torch.Tensor
    intercept: torch.Tensor
    encoder: Encoder | Codebook | None = None
    alpha: float | None = None
    architecture: object = None
    state: dict | None = None

    def __post_init__(self):
        self.state = {} if self.state is None else self.state
        self._prepared = {}

    def __getstate__(self):
        return {**vars(self), "_prepared": {}}  # made again where they are needed

    @property
    def shape(self):
        """(n_components, n_features)."""
        return tuple(self.components.shape)

    @property
    def is_sound(self):
        """Whether all numbers are finite, and not all atoms zero; waits for the device."""
        is_finite = all(bool(tensor.isfinite().all()) for tensor in self.tensors)
        return is_finite and bool(self.components.any())

    def to(self, dtype, device):
        """The same with all tensors in a dtype, on a device; itself where nothing changes.

        Parameters
        ----------
        dtype : torch.dtype
            Float32 or float64.
        device : torch.device

        Returns
        -------
        dictionary : Dictionary
            Kept for the next call, until the tensors have been changed.
        """
        tensors = *self.tensors, *self.state.values()
        if all(tensor.dtype == dtype and tensor.device == device for tensor in tensors):
            return self
        to = partial(self._to, dtype=dtype, device=device)
        return self._keep(("to", dtype, device), self.tensors, to)

    @torch.no_grad()
    def _to(self, **to):
        components = self.components.to(**to)

        def move(tensor):  # a codebook's atoms are the components, and stay so
            return components if tensor is self.components else tensor.to(**to)

        return replace(
            self,
            components=components,
            intercept=move(self.intercept),
            encoder=None if self.encoder is None else self.encoder.mapped(move),
            state={name: move(tensor) for name, tensor in self.state.items()},
        )

    def copy(self):
        """The same with tensors of its own, without gradient: training may go on.

        Returns
        -------
        dictionary : Dictionary
        """
        return self._to(copy=True)

    def coder(self, name, n_rows=None, **options):
        """Function that codes rows, prepared once.

        Parameters
        ----------
        name : str
            "encoder", if there is one, or "lasso", "omp" or "threshold".
        n_rows : int, default=None
            How many rows are coming. For few of them an encoder has nothing to prepare, and
            nothing has to be looked at.
        **options : dict
            Of the coder: ``alpha``, ``n_nonzero_coefs``, ``positive``, ``tol``, ``max_iter``.

        Returns
        -------
        code : callable
            From rows (B, n_features), in the dtype and on the device of the dictionary, to their
            :class:`~skdict.decomposition.SparseCodes`.

        Raises
        ------
        ValueError
            If there is no such coder.
        """
        if name == "encoder" and self.encoder is not None:
            if n_rows is not None and n_rows < FEW_ROWS:
                code = self.encoder
            else:
                code = self._keep(name, self._of_encoder(), lambda: replace(self.encoder))
        elif name not in CODERS:
            names = [*CODERS, *([] if self.encoder is None else ["encoder"])]
            raise ValueError(f"This dictionary has no coder {name!r}. Use one of {names}.")
        else:
            # Lasso's Gram matrix depends on how torch multiplies
            precision = torch.get_float32_matmul_precision()
            key = name, precision, *sorted(options.items())
            make = partial(CODERS[name], self.components, **options)
            code = self._keep(key, [self.components], make)
        return lambda x, *start: code(x - self.intercept, *start)

    def residual(self, x, codes):
        """What codes leave over: x - b - z D.

        Parameters
        ----------
        x : tensor of shape (B, n_features)
        codes : SparseCodes of shape (B, n_components)

        Returns
        -------
        residual : tensor of shape (B, n_features)
        """
        return x - self.intercept - codes.decode(self.components)

    @property
    def tensors(self):
        """All tensors that codes and reconstructions depend on."""
        return [self.components, self.intercept, *self._of_encoder()]

    def _of_encoder(self):
        parts = () if self.encoder is None else vars(self.encoder).values()
        return [part for part in parts if torch.is_tensor(part)]

    def _keep(self, key, tensors, make):
        """What ``make()`` has made of tensors before, or makes now.

        A look at all of the tensors costs about as much as to code one row by an encoder.
        """
        unchanged, found = self._prepared.get(key, (None, None))
        if unchanged is None or not unchanged():
            unchanged, found = Unchanged(tensors), make()
            kept = list(self._prepared.items())[-(N_KEPT_CODERS - 1) :]
            # one assignment: other threads may read it
            self._prepared = {**dict(kept), key: (unchanged, found)}
        return found
