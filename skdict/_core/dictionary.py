"""A fitted dictionary: what training leaves, and all that coding needs."""

from dataclasses import dataclass, field, replace
from functools import partial

import torch

from .coding import CODERS, Codebook, Encoder
from .kernels.tolerances import FEW_ROWS
from .tensors import Unchanged

# Prepared coders that are kept, each with its copy of the atoms or their Gram matrix.
N_KEPT_CODERS = 2


@dataclass(eq=False)
class Dictionary:
    """Atoms, intercept and encoder, in the units of the data.

    Parameters
    ----------
    components : tensor of shape (n_components, n_features)
        The atoms, unit rows.
    intercept : tensor of shape (n_features,)
        Subtracted before coding, added after decoding.
    encoder : Encoder, Codebook or None
        A way to code that came with the atoms.
    alpha : float or None
        The L1 coefficient of the fit.
    architecture : Architecture or None
        Of the autoencoder that it comes from.
    state : dict of str to tensor of shape (n_components,)
        What the architecture has learned beside the encoder, for training that goes on.
    """

    components: torch.Tensor
    intercept: torch.Tensor
    encoder: Encoder | Codebook | None = None
    alpha: float | None = None
    architecture: object = None
    state: dict = field(default_factory=dict)

    def __post_init__(self):
        self._prepared = {}

    def __getstate__(self):
        return {**vars(self), "_prepared": {}}  # made again where they are needed

    @property
    def shape(self):
        return tuple(self.components.shape)

    @property
    def is_sound(self):
        """Whether all numbers are finite, and not all atoms zero; waits for the device."""
        is_finite = all(bool(tensor.isfinite().all()) for tensor in self.tensors)
        return is_finite and bool(self.components.any())

    def to(self, dtype, device):
        """The same with all tensors in a dtype, on a device; itself where nothing changes."""
        tensors = *self.tensors, *self.state.values()
        if all(tensor.dtype == dtype and tensor.device == device for tensor in tensors):
            return self
        to = partial(self._to, dtype=dtype, device=device)
        return self._keep(("to", dtype, device), self.tensors, to)

    @torch.no_grad()
    def _to(self, **to):
        return replace(
            self,
            components=self.components.to(**to),
            intercept=self.intercept.to(**to),
            encoder=None if self.encoder is None else self.encoder.to(**to),
            state={name: tensor.to(**to) for name, tensor in self.state.items()},
        )

    def copy(self):
        """The same with tensors of its own, without gradient: training may go on."""
        return self._to(copy=True)

    def coder(self, name, n_rows=None, **options):
        """Function from rows (B, n_features) to their `SparseCodes`, prepared once.

        Parameters
        ----------
        name : str
            "encoder", or a name in `CODERS`.
        n_rows : int or None
            How many rows are coming. For few of them an encoder has nothing to prepare, and
            nothing has to be looked at.
        **options
            Of the coder: ``alpha``, ``n_nonzero_coefs``, ``positive``, ``tol``, ``max_iter``.

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
        """What the codes of x (B, n_features) leave over: x - b - z D."""
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
