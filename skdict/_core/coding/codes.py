"""Codes of a batch as their non-zero entries."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..kernels import Support, add_at_, decode


@dataclass
class SparseCodes:
    """Codes of B activations in n components, row by row (CSR); dense only when asked.

    Parameters
    ----------
    support : Support
        Which entries are not zero: ``indptr`` (B + 1,) and ``indices`` (nnz,), int64.
    values : tensor of shape (nnz,)
        Their values. An explicit zero is allowed.
    gaps : tensor of shape (B,), float64, default=None
        Duality gap of each code over its objective, where the coder certifies its codes.

    Examples
    --------
    >>> import torch
    >>> from skdict.decomposition import SparseCodes
    >>> codes = SparseCodes.of(torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]]))
    >>> codes.counts
    tensor([1, 2])
    >>> codes.values
    tensor([2., 1., 3.])
    >>> codes.dense()
    tensor([[0., 2., 0.],
            [1., 0., 3.]])
    """

    support: Support
    values: torch.Tensor
    gaps: torch.Tensor | None = None

    @classmethod
    def of(cls, codes):
        """From dense codes (B, n).

        Parameters
        ----------
        codes : tensor of shape (B, n)

        Returns
        -------
        codes : SparseCodes of shape (B, n)
        """
        return cls(*Support.of(codes))

    def __len__(self):
        return self.support.shape[0]

    @property
    def shape(self):
        """(B, n)."""
        return self.support.shape

    @property
    def counts(self):
        """Number of non-zero entries of each row: (B,), int64. L0 is their mean."""
        return self.support.indptr.diff()

    def dense(self):
        """The codes as a matrix: (B, n).

        Returns
        -------
        codes : tensor of shape (B, n)
        """
        return self.support.dense(self.values)

    def write_to(self, out):
        """Write the entries into a matrix of zeros (B, n), on whatever device.

        Parameters
        ----------
        out : tensor of shape (B, n)
        """
        place = self.support.rows.to(out.device), self.support.indices.to(out.device)
        out[place] = self.values.to(out)

    def sorted(self):
        """The same codes, with ascending columns in each row and without zeros.

        Returns
        -------
        codes : SparseCodes of shape (B, n)
        """
        rows, columns, values = self.support.rows, self.support.indices, self.values
        if not values.all():
            kept = values != 0
            rows, columns, values = rows[kept], columns[kept], values[kept]
        key = rows * self.shape[1] + columns
        if (key.diff() < 0).any():
            order = key.argsort()
            rows, columns, values = rows[order], columns[order], values[order]
        if columns is self.support.indices:
            return self
        counts = torch.bincount(rows, minlength=len(self))
        support = Support(F.pad(counts.cumsum(0), (1, 0)), columns, self.shape[1])
        return SparseCodes(support, values, self.gaps)

    def decode(self, atoms):
        """Weighted sums of atoms (n, d), ``codes @ atoms``: (B, d).

        Parameters
        ----------
        atoms : tensor of shape (n, d)

        Returns
        -------
        sums : tensor of shape (B, d)
        """
        return decode(self.values, self.support, atoms)

    def l1_norms(self):
        """Sum of the absolute values of each row.

        Returns
        -------
        norms : tensor of shape (B,), float64
        """
        norms = torch.zeros(len(self), dtype=torch.float64, device=self.values.device)
        return add_at_(norms, self.support.rows, self.values.double().abs())

    def column_sums(self):
        """How often each component is active, and the sum of its absolute values.

        Returns
        -------
        counts, sums : tensor of shape (n,), float64
        """
        n = self.shape[1]
        active = self.values != 0
        counts = torch.bincount(self.support.indices[active], minlength=n)
        sizes = self.values.double().abs()
        sums = torch.bincount(self.support.indices, weights=sizes, minlength=n)
        return counts.double(), sums
