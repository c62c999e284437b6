"""How an estimator finds codes: which coder, with which parameters."""

import math
from collections import ChainMap
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from .._core.coding import CODERS, SparseCodes
from .._core.dictionary import Dictionary
from .._core.kernels.cpu.threads import threads_for, work_of_product
from .._core.solvers.base import default_n_nonzero
from .._core.torch_state import differentiable_torch
from ._sparse_coding import warn_of_gaps

# Names of coders, as registered by then, with those that a dictionary decides.
TRANSFORM_ALGORITHMS = ChainMap(CODERS, dict.fromkeys(["auto", "encoder"]))
# Largest duality gap of Lasso codes, as a fraction of a sample's objective.
LASSO_TOL = 1e-4
# To find the largest entries takes the time of about so many multiplications for each entry.
WORK_OF_SELECTION = 1024


@dataclass(frozen=True)
class Coding:
    """A way to find codes in a dictionary.

    Parameters
    ----------
    dictionary : Dictionary
        In the units of the data.
    name : str
        "encoder", or a name in `CODERS`.
    options : dict
        Of the coder.
    """

    dictionary: Dictionary
    name: str
    options: dict = field(default_factory=dict)

    @classmethod
    def of(cls, dictionary, algorithm="auto", *, alpha=None, n_nonzero_coefs=None):
        """As an estimator's ``transform_`` parameters say."""
        if algorithm == "auto":
            algorithm = "lasso" if dictionary.encoder is None else "encoder"
        if algorithm == "encoder":
            return cls(dictionary, algorithm)
        n_components, n_features = dictionary.shape
        alpha = dictionary.alpha if alpha is None else alpha
        if alpha is None and algorithm in CODERS and "alpha" in CODERS[algorithm].uses:
            raise ValueError(
                f"transform_algorithm={algorithm!r} needs an L1 coefficient, and this dictionary "
                "was loaded without one. Set transform_alpha, or call calibrate(X)."
            )
        options = {
            "alpha": alpha,
            "n_nonzero_coefs": n_nonzero_coefs or default_n_nonzero(n_features, n_components),
            "positive": not CODERS[algorithm].signed,
            "tol": LASSO_TOL,
        }
        return cls(dictionary, algorithm, options)

    @property
    def signed(self):
        """Whether codes may be negative."""
        if self.name == "encoder":
            return getattr(self.dictionary.encoder, "signed", False)
        return CODERS[self.name].signed

    @property
    def width(self):
        """Most entries that are held for a row while it is coded; `Source.blocks` goes by it."""
        if self.name == "encoder":
            return self.dictionary.encoder.width
        return len(self.dictionary.components)

    @contextmanager
    def coder(self, rows, *, warns=True):
        """Function from rows (B, n_features) of these to SparseCodes.

        At the end one warning tells of all codes that are further from the optimum than wanted.
        """
        dictionary = self.dictionary.to(rows.dtype, rows.device)
        code = dictionary.coder(self.name, len(rows), **self.options)
        gaps = []

        def remember(x, *start):
            codes = code(x, *start)
            self._check(codes, len(x))
            if codes.gaps is not None:
                gaps.append(codes.gaps)
            return codes

        with torch.no_grad():
            yield remember
        if warns:
            warn_of_gaps(gaps, LASSO_TOL)

    @contextmanager
    def coded(self, rows, *, warns=True):
        """Iterator over blocks of rows (B, n_features), their SparseCodes and what these leave."""
        dictionary = self.dictionary.to(rows.dtype, rows.device)
        with self.threads(rows), self.coder(rows, warns=warns) as code:

            def blocks():
                for _, x in rows.blocks(self.width):
                    codes = code(x)
                    yield x, codes, dictionary.residual(x, codes)

            yield blocks()

    @differentiable_torch()
    def on_tensors(self, x):
        """Codes of a batch (B, n_features) on its device, with derivatives by it.

        x is float32 or float64; see `Dictionary.differentiable_coder`.
        """
        dictionary = self.dictionary.to(x.dtype, x.device)
        n_components, n_features = dictionary.shape
        width = max(n_features, WORK_OF_SELECTION)
        with threads_for(work_of_product(len(x), width, n_components)):
            codes = dictionary.differentiable_coder(self.name, len(x), **self.options)(x)
        self._check(codes, len(x))
        if codes.gaps is not None:
            warn_of_gaps([codes.gaps], LASSO_TOL)
        return codes

    def _check(self, codes, n_rows):
        """Refuse what is no matrix of codes: coders may come from outside the package."""
        shape = n_rows, len(self.dictionary.components)
        if not isinstance(codes, SparseCodes) or tuple(codes.shape) != shape:
            found = getattr(codes, "shape", "none")
            raise TypeError(
                f"The coder {self.name!r} must return SparseCodes of shape {shape}, but returned "
                f"a {type(codes).__name__} of shape {found}."
            )

    def threads(self, rows, n_rows=None):
        """Context in which rows are coded block by block."""
        n_components, n_features = self.dictionary.shape
        n_rows = min(len(rows), rows.block_size(self.width) if n_rows is None else n_rows)
        width = max(n_features, WORK_OF_SELECTION)
        work = work_of_product(n_rows, width, n_components)
        return threads_for(work, math.ceil(len(rows) / n_rows))
