"""What a coder is, and the registry of those that work on atoms alone."""

import copy

from ..registry import Registry

CODERS = Registry("coder")
register = CODERS.register


class Coder:
    """Finds codes of rows in given atoms. What depends on the atoms alone is prepared once.

    A subclass has `__call__`, and an ``__init__`` with these parameters if it prepares anything.

    Parameters
    ----------
    atoms : tensor of shape (n_components, n_features), float32 or float64
    alpha : float or None
        L1 coefficient, in the units of the rows.
    n_nonzero_coefs : int or None
        Number of non-zero entries, for coders that take it.
    positive : bool
        Whether codes are kept from being negative.
    tol : float
        Largest duality gap, as a fraction of a row's objective, for coders that certify codes.
    max_iter : int
    """

    # Whether transform asks for codes that may be negative.
    signed = False
    # Whether a code is linear in the row where it is active, and grows by its atom times the row.
    linear = False
    # Which of the two it uses, that a warning can tell what has no effect.
    uses = frozenset({"alpha", "n_nonzero_coefs"})

    def __init__(
        self, atoms, *, alpha=None, n_nonzero_coefs=None, positive=True, tol=1e-4, max_iter=1000
    ):
        self.atoms = atoms
        self.alpha = alpha
        self.n_nonzero_coefs = n_nonzero_coefs
        self.positive = positive
        self.tol = tol
        self.max_iter = max_iter

    def at(self, alpha):
        """The same with another L1 coefficient; what depends on the atoms alone is shared."""
        other = copy.copy(self)
        other.alpha = float(alpha)
        return other

    def __call__(self, centred, start=None):
        """Code rows from which the intercept has been subtracted.

        Parameters
        ----------
        centred : tensor of shape (B, n_features)
        start : tensor or None
            What the coder can begin from: codes (B, n_components) for "lasso", numbers of
            non-zero entries (B,) for "omp".

        Returns
        -------
        codes : SparseCodes
        """
        raise NotImplementedError


def check_in_range(values, algorithm):
    """Return the values of codes; raise if one is infinite or NaN, as overflow makes them."""
    if not values.isfinite().all():
        dtype = str(values.dtype).removeprefix("torch.")
        raise ValueError(
            f"Codes of algorithm={algorithm!r} are too large for {dtype}: X is too large for the "
            "norms of the atoms. Bring both to a common scale."
        )
    return values
