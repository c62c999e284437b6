"""A fitted dictionary: what training leaves, and all that coding needs."""

from dataclasses import dataclass, replace
from functools import partial

import torch

from .coding import CODERS, Codebook, Encoder
from .gradients import without_gradient
from .kernels import products_at
from .kernels.tolerances import FEW_ROWS
from .normalization import RowNormalization
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
    offset : tensor of shape (n_inputs,), default=None
        What is subtracted before the encoder instead of the intercept. Only of dictionaries of
        other libraries, as all that follows.
    norms : tensor of shape (n_components,), default=None
        What codes are multiplied by before the unit atoms add up.
    normalization : RowNormalization, default=None
        What is done to each row before all else.
    skip : tensor of shape (n_features, n_inputs), default=None
        A linear map of x that is added to its reconstruction.
    is_transcoder : bool, default=False
        Whether what is reconstructed is not x, but what a part of the model makes of it.

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
    offset: torch.Tensor | None = None
    norms: torch.Tensor | None = None
    normalization: RowNormalization | None = None
    skip: torch.Tensor | None = None
    is_transcoder: bool = False

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
    def n_inputs(self):
        """Number of columns of the rows that are coded; of all but transcoders n_features."""
        if isinstance(self.encoder, Encoder):
            return self.encoder.weight.shape[1]
        return self.components.shape[1]

    @property
    def atoms(self):
        """What codes are coefficients of: the components, times their norms."""
        if self.norms is None:
            return self.components
        make = partial(torch.mul, self.norms[:, None], self.components)
        return self._keep("atoms", [self.components, self.norms], make)

    @property
    def is_sound(self):
        """Whether all numbers are finite, and not all atoms zero; waits for the device."""
        is_finite = all(bool(tensor.isfinite().all()) for tensor in self.tensors)
        return is_finite and bool(self.components.any())

    @property
    def code_effects(self):
        """What a unit of each of `unit_codes` adds to a reconstruction: the unit atoms.

        None where rows are normalised: then that is another amount for each row.
        """
        return self.components if self.normalization is None else None

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

        others = ("intercept", "offset", "norms", "skip")
        tensors = {name: getattr(self, name) for name in others}
        return replace(
            self,
            components=components,
            encoder=None if self.encoder is None else self.encoder.mapped(move),
            state={name: move(tensor) for name, tensor in self.state.items()},
            **{name: None if part is None else move(part) for name, part in tensors.items()},
        )

    def copy(self):
        """The same with tensors of its own, in C order, without gradient: training may go on.

        Returns
        -------
        dictionary : Dictionary
        """
        return self._to(copy=True, memory_format=torch.contiguous_format)

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
        code, centre = self._coder(name, n_rows, options), self._centring(name)
        return lambda x, *start: code(centre(x), *start)

    def differentiable_coder(self, name, n_rows=None, **options):
        """As `coder`; values of the codes have derivatives by the rows, where these have any.

        Which features are active is taken as fixed, as everywhere but at the border. The encoder's
        codes and those by "threshold" are then linear in the (normalised) rows, and derivatives of
        any order pass, in forward mode too. Of all other codes to ask for one is an error.

        Parameters
        ----------
        name : str
            As in `coder`.
        n_rows : int, default=None
            As in `coder`.
        **options : dict
            As in `coder`.

        Returns
        -------
        code : callable
            From rows (B, n_features), in the dtype and on the device of the dictionary, to their
            :class:`~skdict.decomposition.SparseCodes`.
        """
        code, centre = self._coder(name, n_rows, options), self._centring(name)
        weight, factor = self._slopes(name)

        def differentiable(x):
            centred = centre(x)
            with torch.no_grad():
                codes = code(centred.detach())
            values, indices = codes.values, codes.support.indices
            if weight is None:
                return replace(codes, values=without_gradient(values, x, _no_slope(name)))
            if factor is not None:
                values = products_at(centred, weight, codes.support, values * factor[indices])
                return replace(codes, values=values / factor[indices])
            return replace(codes, values=products_at(centred, weight, codes.support, values))

        return differentiable

    def _slopes(self, name):
        """Weight (n, d) and factor (n,): a code grows by weight / factor times the centred row.

        The weight is None where there is no derivative, the factor where it is 1.
        """
        if name == "encoder":
            return getattr(self.encoder, "slopes", (None, None))
        if not getattr(CODERS[name], "linear", False):
            return None, None
        norms = self.norms
        return self.components, None if norms is None else torch.where(norms > 0, norms, 1)

    def _coder(self, name, n_rows, options):
        """Function from what `_centring` gives to codes, prepared once."""
        if name == "encoder" and self.encoder is not None:
            if n_rows is not None and n_rows < FEW_ROWS:
                return self.encoder
            return self._keep(name, self._of_encoder(), lambda: replace(self.encoder))
        if name not in CODERS:
            names = [*CODERS, *([] if self.encoder is None else ["encoder"])]
            raise ValueError(f"This dictionary has no coder {name!r}. Use one of {names}.")
        if self.is_transcoder:
            raise ValueError(
                f"The coder {name!r} finds what adds up to a row, but a transcoder's atoms add up "
                "to something else. Use its encoder."
            )
        # Lasso's Gram matrix depends on how torch multiplies
        precision = torch.get_float32_matmul_precision()
        key = name, precision, *sorted(options.items())
        atoms = self.components
        code = self._keep(key, [atoms], partial(CODERS[name], atoms, **options))
        return code if self.norms is None else partial(self._code_by_unit_atoms, code)

    def _centring(self, name):
        """Function from rows to what the coder is given."""
        if name != "encoder":
            return self.to_explain
        origin = self.intercept if self.offset is None else self.offset
        normalise = self.normalization
        if normalise is None:
            return lambda x: x - origin
        return lambda x: normalise(x)[0] - origin

    def to_explain(self, x):
        """What atoms have to add up to: what is left of rows without all else.

        Parameters
        ----------
        x : tensor of shape (B, n_features)

        Returns
        -------
        left : tensor of shape (B, n_features)
        """
        if self.normalization is not None:
            return self.normalization(x)[0] - self.intercept
        if self.skip is not None:
            x = x - x @ self.skip.T
        return x - self.intercept

    def _code_by_unit_atoms(self, code, centred, *start):
        """Codes that a coder finds with unit atoms, in the units that the atoms' norms give them.

        So an L1 coefficient means the same, and no atom is preferred for its norm.
        """
        start = [given * self.norms if given.dim() == 2 else given for given in start]  # or counts
        codes = code(centred, *start)
        norms = self.norms[codes.support.indices]
        codes.values = codes.values / torch.where(norms > 0, norms, 1)
        return codes

    def reconstruct(self, x, codes):
        """What codes of rows say of them: b + z D, in the rows' own units, and what skips them.

        Of a transcoder it is in the units of what it predicts, whatever is done to its input.

        Parameters
        ----------
        x : tensor of shape (B, n_inputs)
        codes : SparseCodes of shape (B, n_components)

        Returns
        -------
        reconstruction : tensor of shape (B, n_features)
        """
        found = self.intercept + codes.decode(self.atoms)
        if self.skip is not None:
            found = found + x @ self.skip.T
        if self.normalization is not None and not self.is_transcoder:
            _, mean, scale = self.normalization(x)
            found = found * scale + mean
        return found

    def scale_of(self, x):
        """What decoded codes of rows are multiplied by, where rows are normalised.

        Parameters
        ----------
        x : tensor of shape (B, n_inputs)

        Returns
        -------
        scale : tensor of shape (B, 1) or None
            None is 1.
        """
        return None if self.normalization is None else self.normalization(x)[2]

    def unit_codes(self, codes):
        """Codes as coefficients of unit atoms, which an L1 coefficient and statistics are of.

        Parameters
        ----------
        codes : SparseCodes of shape (B, n_components)

        Returns
        -------
        codes : SparseCodes of shape (B, n_components)
        """
        if self.norms is None:
            return codes
        return replace(codes, values=codes.values * self.norms[codes.support.indices])

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
        if self.is_transcoder:
            raise ValueError(
                "A transcoder does not reconstruct what it reads, so that there is nothing to "
                "compare. Use reconstruct, and compare with what the model makes there."
            )
        if self.skip is None and self.normalization is None:
            return x - self.intercept - codes.decode(self.atoms)
        return x - self.reconstruct(x, codes)

    def check_trains(self):
        """Refuse a dictionary from which training cannot go on.

        Raises
        ------
        ValueError
            If rows are normalised, or what is reconstructed is not what is read.
        """
        if self.is_transcoder or self.skip is not None or self.normalization is not None:
            what = "normalises each row" if self.normalization is not None else "is a transcoder"
            raise ValueError(
                f"This dictionary {what}, which none that is trained here does, so its training "
                "cannot go on. Take its atoms to begin with, dict_init=loaded.components_."
            )

    def to_train(self):
        """An equal dictionary of the kind that is trained: unit atoms whose codes add up to x.

        Norms and divisors are taken into the encoder, so that codes are in units of unit atoms.
        Where the largest entries are kept, they are then those that add most to the
        reconstruction, which may be others than before.

        Returns
        -------
        dictionary : Dictionary
            Itself, if it is of that kind.

        Raises
        ------
        ValueError
            If there is none: see `check_trains`.
        """
        self.check_trains()
        encoder = self.encoder
        factor = self.norms
        if isinstance(encoder, Encoder) and encoder.divisor is not None:
            factor = factor / encoder.divisor if factor is not None else 1 / encoder.divisor
        if factor is None and self.offset is None:
            return self
        bias = encoder.bias.double()
        if self.offset is not None:  # (x - o) W + c = (x - b) W + c + (b - o) W
            between = self.intercept.double() - self.offset.double()
            bias = bias + encoder.weight.double() @ between
        encoder = replace(encoder.scaled(factor, bias), divisor=None)
        state = self._state_with(encoder)
        return replace(self, encoder=encoder, state=state, offset=None, norms=None)

    def _state_with(self, encoder):
        """The architecture's state to go on training from with another encoder."""
        if self.architecture is None:
            return {}
        return self.architecture.unfold(encoder.bias, encoder.threshold)[1]

    def in_unit_codes(self):
        """The same with codes in units of unit atoms; those that are selected stay the same.

        Returns
        -------
        dictionary : Dictionary
            Itself, if codes are in these units.
        """
        encoder, norms = self.encoder, self.norms
        if norms is None:
            return self
        state = self.state
        if isinstance(encoder, Encoder) and encoder.n_largest is None:  # of each latent by itself
            encoder = encoder.scaled(norms, encoder.bias.double())
            state = self._state_with(encoder)
        elif isinstance(encoder, Encoder):
            divisor = 1 if encoder.divisor is None else encoder.divisor
            encoder = replace(encoder, divisor=divisor / torch.where(norms > 0, norms, 1))
        return replace(self, encoder=encoder, state=state, norms=None)

    @property
    def tensors(self):
        """All tensors that codes and reconstructions depend on."""
        extra = [part for part in (self.offset, self.norms, self.skip) if part is not None]
        return [self.components, self.intercept, *self._of_encoder(), *extra]

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


def _no_slope(name):
    """Why codes by a coder have no derivative here."""
    if name == "encoder":
        return "the codes are nearest codewords, which do not change with the activation."
    return (
        f"codes by {name!r} are found by a search. Set transform_algorithm='encoder' for a "
        "dictionary that has an encoder, or 'threshold'."
    )
