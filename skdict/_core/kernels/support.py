"""Where codes are non-zero."""

import warnings
from functools import cached_property

import torch
import torch.nn.functional as F

from ._dispatch import body


def csr_tensor(indptr, indices, values, shape, *, check_invariants=False):
    """A sparse CSR tensor from its parts, checked on request."""
    return torch.sparse_csr_tensor(
        indptr,
        indices,
        values,
        size=shape,
        dtype=values.dtype,
        device=values.device,
        check_invariants=check_invariants,
    )


# torch warns once per process that CSR tensors are in beta. Trigger that warning here and ignore
# it: filters of warnings are global, so they must not be changed while other threads compute.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    csr_tensor(
        torch.zeros(1, dtype=torch.int64, device="cpu"),
        torch.zeros(0, dtype=torch.int64, device="cpu"),
        torch.zeros(0, dtype=torch.float32, device="cpu"),
        (0, 1),
    )


class Support:
    """The non-zero entries of a matrix of codes (B, n), in CSR order and, on demand, in CSC order.

    Parameters
    ----------
    indptr : tensor of shape (B + 1,), int64
        The entries of row i are those from ``indptr[i]`` to ``indptr[i + 1]``.
    indices : tensor of shape (nnz,), int64
        The component of each entry; rows one after the other.
    n_components : int
        Number of components n.
    products : tensor of shape (nnz,), optional
        Where `select` has computed them in full precision: those of its samples and its weight.
    """

    def __init__(self, indptr, indices, n_components, products=None):
        self.indptr = indptr
        self.indices = indices
        self.n_components = n_components
        self.products = products

    @classmethod
    def of(cls, codes):
        """The support of dense codes (B, n) and their values there (nnz,)."""
        active = codes != 0
        indptr = F.pad(active.sum(dim=1).cumsum(0), (1, 0))
        return cls(indptr, active.nonzero()[:, 1], codes.shape[1]), codes[active]

    @property
    def shape(self):
        return len(self.indptr) - 1, self.n_components

    @cached_property
    def rows(self):
        """The row of each entry: (nnz,), int64."""
        if len(self.indptr) == 2:
            return torch.zeros_like(self.indices)
        rows = torch.arange(len(self.indptr) - 1, device=self.indices.device)
        return torch.repeat_interleave(rows, self.indptr.diff(), output_size=len(self.indices))

    def in_groups(self, ends):
        """The same entries with a row for each group of components.

        Parameters
        ----------
        ends : list of int
            Ends of the groups of consecutive components, ascending, the last n_components.

        Returns
        -------
        support : Support of B * n_groups rows
        """
        n_rows, n_groups = len(self.indptr) - 1, len(ends)
        row = self.rows * n_groups  # (nnz,), ascending, as are the components in each row
        for end in ends[:-1]:
            row = row + (self.indices >= end)
        rows = torch.arange(n_rows * n_groups + 1, device=row.device)
        return Support(torch.searchsorted(row, rows), self.indices, self.n_components)

    def dense(self, values):
        """The codes with these values (nnz,) at the support: (B, n_components)."""
        codes = values.new_zeros(self.shape)
        codes[self.rows, self.indices] = values
        return codes

    @cached_property
    def transposed(self):
        """CSC order: indptr (n + 1,), rows (nnz,) and, for each, its position in CSR (nnz,).

        Computed once, for the gradients of both weights.
        """
        return body("transpose", self.indices.device)(self)
