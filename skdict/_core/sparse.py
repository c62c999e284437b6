"""The three operations of a sparse autoencoder: select, encode_at, decode.

A code has few non-zeros among thousands of entries, and no gradient passes where it is zero.
So only the encoder's scan over all atoms (`select`) costs 2·B·d·n FLOPs; the values, the
reconstruction and every gradient are computed at the support alone. With ``support=None`` the
same functions work on the dense (B, n) matrix, which pays while codes are still dense.

Shapes: x (B, d), weight W_enc (n, d), bias (n,), dictionary D (n, d). x is data and gets no
gradient: the bias that the intercept adds to the pre-activations comes in through ``bias``
(`-W_enc @ b`, a matrix-vector product), so dL/dx, a B×d×n product, is never formed.
"""

import warnings
from functools import cache, cached_property

import torch
import torch.nn.functional as F

# `select` and dense encoding go through x in blocks of rows with about so many pre-activations:
# 4 MiB in float32, which stays in a core's cache between the product and the comparison.
BLOCK_ELEMENTS = 1 << 20

# Bound on what rounding to bfloat16 (unit roundoff 2⁻⁸) changes in x·w + b, as a fraction of
# ‖x‖‖w‖ + |b|: once for each operand and once for the product.
BFLOAT16_ERROR = 3 * 2.0**-8


class Support:
    """Where a matrix of codes is non-zero, in CSR and, on demand, in CSC order.

    Parameters
    ----------
    indptr : tensor of shape (B + 1,), int64
        The entries of row i are those from ``indptr[i]`` to ``indptr[i + 1]``.
    indices : tensor of shape (nnz,), int64
        The component of each entry; rows one after the other.
    n_components : int
        Number of components n.
    """

    def __init__(self, indptr, indices, n_components):
        self.indptr = indptr
        self.indices = indices
        self.n_components = n_components

    @property
    def shape(self):
        return len(self.indptr) - 1, self.n_components

    @cached_property
    def transposed(self):
        """CSC order, shared by the gradients of both weights: indptr (n + 1,), rows, order."""
        n_rows = len(self.indptr) - 1
        rows = torch.repeat_interleave(
            torch.arange(n_rows, device=self.indices.device),
            self.indptr.diff(),
            output_size=len(self.indices),
        )
        order = torch.argsort(self.indices, stable=True)
        counts = torch.bincount(self.indices, minlength=self.n_components)
        return F.pad(counts.cumsum(0), (1, 0)), rows[order], order


def row_blocks(n_rows, n_components):
    """Slices over the rows, each of about `BLOCK_ELEMENTS` pre-activations."""
    step = max(1, BLOCK_ELEMENTS // max(n_components, 1))
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


@torch.no_grad()
def select(x, weight, bias, active, *, with_margin=True):
    """Find where the codes of x can be non-zero.

    Where the processor multiplies in bfloat16 several times faster than in float32, the scan
    does so. With a margin the bias is raised by a bound on the rounding error: the support then
    has a few entries too many, whose exact value is zero, and never one too few. Without one
    the support is that of the rounded pre-activations; gradients are exact for it.

    Parameters
    ----------
    x : tensor of shape (B, d)
    weight : tensor of shape (n, d)
    bias : tensor of shape (n,)
    active : callable
        The architecture's rule: pre-activations (rows, n) to a boolean mask of that shape.
    with_margin : bool
        Needs a rule by which raising pre-activations turns entries on but never off.

    Returns
    -------
    support : Support
    """
    low_precision = x.dtype == torch.float32 and x.device.type == "cpu" and cpu_has_bfloat16()
    if low_precision:
        if with_margin:
            largest = torch.linalg.vector_norm(x, dim=1).max()
            norms = torch.linalg.vector_norm(weight, dim=1)
            bias = bias + BFLOAT16_ERROR * (largest * norms + bias.abs())
        x, weight, bias = x.bfloat16(), weight.bfloat16(), bias.bfloat16()
    counts, indices = [], []
    for block in row_blocks(len(x), len(weight)):
        mask = active(F.linear(x[block], weight, bias))
        counts.append(mask.sum(dim=1))
        indices.append(mask.nonzero()[:, 1])
    indptr = F.pad(torch.cat(counts).cumsum(0), (1, 0))
    return Support(indptr, torch.cat(indices), len(weight))


@cache
def cpu_has_bfloat16():
    """Whether the CPU has bfloat16 dot products (AVX512-BF16 or AMX)."""
    return any(
        getattr(torch.cpu, name, bool)()
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def encode_at(x, weight, bias, support):
    """Pre-activations ``x @ weight.T + bias``, at the support alone or (None) everywhere.

    Differentiable in weight and bias.

    Returns
    -------
    values : tensor of shape (nnz,), or (B, n) without a support
    """
    if support is None:
        return F.linear(x, weight, bias)
    return _EncodeAt.apply(x, weight, bias, support)


def decode(values, support, dictionary):
    """Weighted sums of atoms, ``z @ dictionary``. Differentiable in values and dictionary.

    Returns
    -------
    reconstruction : tensor of shape (B, d)
    """
    if support is None:
        return values @ dictionary
    return _Decode.apply(values, support, dictionary)


class _EncodeAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, support):
        ctx.save_for_backward(x)
        ctx.support = support
        return sampled_product(x, weight, support) + bias[support.indices]

    @staticmethod
    def backward(ctx, grad_values):
        (x,) = ctx.saved_tensors
        grad_weight = transposed_product(grad_values, ctx.support, x)
        grad_bias = torch.zeros(len(grad_weight), dtype=x.dtype, device=x.device)
        grad_bias.index_add_(0, ctx.support.indices, grad_values)
        return None, grad_weight, grad_bias, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, support, dictionary):
        ctx.save_for_backward(values, dictionary)
        ctx.support = support
        return F.embedding_bag(
            support.indices,
            dictionary,
            support.indptr,
            mode="sum",
            per_sample_weights=values,
            include_last_offset=True,
        )

    @staticmethod
    def backward(ctx, grad_output):
        values, dictionary = ctx.saved_tensors
        grad_values = sampled_product(grad_output, dictionary, ctx.support)
        return grad_values, None, transposed_product(values, ctx.support, grad_output)


def sampled_product(left, right, support):
    """Entries of ``left @ right.T`` at the support: (nnz,)."""
    with warnings.catch_warnings():  # torch says once a process that CSR is in beta
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            support.indptr,
            support.indices,
            torch.zeros(len(support.indices), dtype=left.dtype, device=left.device),
            size=support.shape,
            check_invariants=False,
        )
    return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()


def transposed_product(values, support, table):
    """``z.T @ table`` for codes z given by their values at the support: (n, d)."""
    indptr, rows, order = support.transposed
    return F.embedding_bag(
        rows,
        table,
        indptr,
        mode="sum",
        per_sample_weights=values[order],
        include_last_offset=True,
    )
