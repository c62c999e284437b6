"""A fitted dictionary: what training leaves, and all that coding needs."""

from dataclasses import dataclass

import torch

from .coding import CODERS, Codebook, Encoder

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
    """

    components: torch.Tensor
    intercept: torch.Tensor
    encoder: Encoder | Codebook | None = None
    alpha: float | None = None

    def __post_init__(self):
        self._prepared = {}

    def __getstate__(self):
        return {**vars(self), "_prepared": {}}  # made again where they are needed

    @property
    def shape(self):
        return tuple(self.components.shape)

    def to(self, dtype, device):
        """The same in another dtype or on another device; itself where nothing changes."""
        if self.components.dtype == dtype and self.components.device == device:
            return self
        return self._keep(("to", dtype, device), lambda: self._to(dtype=dtype, device=device))

    def _to(self, **to):
        encoder = None if self.encoder is None else self.encoder.to(**to)
        components, intercept = self.components.to(**to), self.intercept.to(**to)
        return Dictionary(components, intercept, encoder, self.alpha)

    def coder(self, name, **options):
        """Function from rows (B, n_features) to their `SparseCodes`, prepared once.

        Parameters
        ----------
        name : str
            "encoder", or a name in `CODERS`.
        **options
            Of the coder: ``alpha``, ``n_nonzero_coefs``, ``positive``, ``tol``, ``max_iter``.
        """
        if name == "encoder":
            code = self.encoder
        else:
            # Lasso's Gram matrix depends on how torch multiplies
            precision = torch.get_float32_matmul_precision()
            key = name, precision, *sorted(options.items())
            code = self._keep(key, lambda: CODERS[name](self.components, **options))
        return lambda x: code(x - self.intercept)

    def decode(self, codes):
        """Reconstruct activations from `SparseCodes`: (B, n_features)."""
        return codes.decode(self.components) + self.intercept

    def residual(self, x, codes):
        """What the codes of x (B, n_features) leave over: x - b - z D."""
        return x - self.intercept - codes.decode(self.components)

    def _keep(self, key, make):
        found = self._prepared.get(key)
        if found is None:
            found = make()
            kept = list(self._prepared.items())[-(N_KEPT_CODERS - 1) :]
            self._prepared = {**dict(kept), key: found}  # one assignment: threads may read it
        return found
