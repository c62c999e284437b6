"""Codes of a batch as their non-zero entries."""

from dataclasses import dataclass

import torch

from ..kernels import Support, csr_tensor, decode


@dataclass
class SparseCodes:
    """Codes of B activations in n components, row by row (CSR); dense only when asked.

    Parameters
    ----------
    support : Support
        Which entries are not zero.
    values : tensor of shape (nnz,)
        Their values. An explicit zero is allowed.
    gaps : tensor of shape (B,), float64, or None
        Duality gap of each code over its objective, where the coder certifies its codes.
    """

    support: Support
    values: torch.Tensor
    gaps: torch.Tensor | None = None

    @classmethod
    def of(cls, codes):
        """From dense codes (B, n)."""
        return cls(*Support.of(codes))

    def __len__(self):
        return self.support.shape[0]

    @property
    def shape(self):
        return self.support.shape

    @property
    def counts(self):
        """Number of non-zero entries of each row: (B,), int64. L0 is their mean."""
        return self.support.indptr.diff()

    def dense(self):
        """The codes as a matrix: (B, n)."""
        return self.support.dense(self.values)

    def to_csr(self):
        """The codes as a sparse CSR tensor; columns of a row may be in any order."""
        return csr_tensor(self.support.indptr, self.support.indices, self.values, self.shape)

    def decode(self, atoms):
        """Weighted sums of atoms (n, d), ``codes @ atoms``: (B, d)."""
        return decode(self.values, self.support, atoms)

    def column_sums(self):
        """Of each component, how often it is active and the sum of its |values|: (n,), float64."""
        n = self.shape[1]
        active = self.values != 0
        counts = torch.bincount(self.support.indices[active], minlength=n)
        sizes = self.values.double().abs()
        sums = torch.bincount(self.support.indices, weights=sizes, minlength=n)
        return counts.double(), sums
