"""The three operations of a sparse autoencoder: select, encode_at, decode.

A code has few non-zeros among thousands of entries, and no gradient passes where it is zero.
So only the encoder's scan over all atoms (`select`) costs 2·B·d·n FLOPs; the values, the
reconstruction and every gradient are computed at the support alone. With ``support=None`` the
same functions work on the dense (B, n) matrix, which pays while codes are still dense.

Shapes: x (B, d), weight W_enc (n, d), bias (n,), dictionary D (n, d).
"""

import importlib.util
import warnings
from functools import cache, cached_property, partial

import torch
import torch.nn.functional as F

# Pre-activations are formed for so many entries at a time.
BLOCK_ELEMENTS = 1 << 24
# And it is kept of so many at a time, in a byte each, whether they are positive.
MASK_ELEMENTS = 1 << 30


def csr_tensor(indptr, indices, values, shape, *, check_invariants=False):
    """A sparse CSR tensor of parts; whether these make one is known, or checked."""
    return torch.sparse_csr_tensor(
        indptr,
        indices,
        values,
        size=shape,
        dtype=values.dtype,
        device=values.device,
        check_invariants=check_invariants,
    )


# torch says once a process that CSR is in beta. It is made to say so here, where nobody listens:
# the filters of warnings belong to all threads, and are not to be changed while these compute.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    csr_tensor(
        torch.zeros(1, dtype=torch.int64, device="cpu"),
        torch.zeros(0, dtype=torch.int64, device="cpu"),
        torch.zeros(0, dtype=torch.float32, device="cpu"),
        (0, 1),
    )


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
        """CSC order, shared by the gradients of both weights: indptr (n + 1,), rows, order."""
        if self.indices.device.type == "cpu":
            from .cpu.select import transpose

            return transpose(self.indptr, self.indices, self.n_components)
        indices, order = torch.sort(self.indices, stable=True)
        # not by bincount, which makes the host wait
        components = torch.arange(self.n_components + 1, device=indices.device)
        return torch.searchsorted(indices, components), self.rows[order], order


@torch.no_grad()
def select(x, weight, bias, k=None):
    """Find where the codes of x can be non-zero.

    float32 is scanned in fewer bits where the device multiplies these several times faster.
    Without k that is bfloat16, with the bias raised by a bound on the rounding error: the support
    has a few entries too many, whose pre-activation is not positive, and never one too few (as
    long as products are summed in float32, as on the CPU; torch lets CUDA sum parts of them in
    bfloat16, where a pre-activation just above zero may be missed). With k the support is that of
    rounded pre-activations: from 8-bit integers where these are precise enough
    (`kernels_cpu.MAX_NOISE`), else from bfloat16; gradients are exact for it.

    Parameters
    ----------
    x : tensor of shape (B, d)
    weight : tensor of shape (n, d)
    bias : tensor of shape (n,)
    k : int or None
        Select the positive pre-activations, or only the k largest of each row among them.

    Returns
    -------
    support : Support
    """
    on_cpu = x.device.type == "cpu"
    if on_cpu:
        from .cpu import select as kernels_cpu  # Numba takes a moment to import
    found = None
    if x.dtype == torch.float32:
        if on_cpu and k is not None and cpu_has("vnni"):
            found = kernels_cpu.select_largest_in_8_bits(x, weight, bias, k)
        if found is None and (x.device.type == "cuda" or cpu_has_bfloat16()):
            x, weight, bias = _in_bfloat16(x, weight, bias, raised=k is None)
    if found is None:
        select_rows = kernels_cpu.select_rows if on_cpu else select_rows_plainly
        found = select_rows(x, weight, bias, k)
    counts, indices = found
    return Support(F.pad(counts.cumsum(0), (1, 0)), indices, len(weight))


def _in_bfloat16(x, weight, bias, *, raised):
    """Operands of the scan, rounded; the bias raised, if so asked, by a bound on what that does.

    By Cauchy and Schwarz |x·w - x̃·w̃| <= ‖x - x̃‖ ‖w‖ + ‖x̃‖ ‖w - w̃‖, and summing d products in
    float32 adds at most d 2⁻²³ ‖x‖ ‖w‖ to that. Rounding the result does not change its sign.
    """
    low_x, low_weight = x.bfloat16(), weight.bfloat16()
    if raised:
        norm = partial(torch.linalg.vector_norm, dim=1)
        size, size_of_weight = norm(x).max(), norm(weight)
        error = (norm(x - low_x).max() + x.shape[1] * 2.0**-23 * size) * size_of_weight
        error += (1 + 2.0**-8) * size * norm(weight - low_weight)
        bias = bias + error
        bias += 2.0**-7 * bias.abs()  # what rounding it can take away
    return low_x, low_weight, bias.bfloat16()


def select_rows_plainly(x, weight, bias, k):
    """`kernels_cpu.select_rows` in torch's operators, for any device.

    The host has to know how many entries there are. It waits for that once, whatever the number
    of blocks, and for each `MASK_ELEMENTS` pre-activations.
    """
    counts, indices = [], []
    for rows in x.split(max(1, MASK_ELEMENTS // len(weight))):
        positive, columns = [], []
        for block in rows.split(max(1, BLOCK_ELEMENTS // len(weight))):
            pre_activations = F.linear(block, weight, bias)
            if k is not None:
                largest = pre_activations.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
                columns.append(largest)
                pre_activations = pre_activations.gather(1, largest)
            positive.append(pre_activations > 0)
        positive = torch.cat(positive)  # (B, n), or (B, k)
        if k is None:
            columns = torch.arange(len(weight), device=x.device).expand_as(positive)
        else:
            columns = torch.cat(columns)
        counts.append(positive.sum(dim=1))
        indices.append(columns[positive])  # waits
    return torch.cat(counts), torch.cat(indices)


@cache
def has_triton():
    """Whether Triton, which comes with torch's CUDA builds for Linux, is there."""
    return importlib.util.find_spec("triton") is not None


def cpu_has(instructions):
    """Whether the CPU has these, as torch names them; not where this torch does not say."""
    return getattr(torch.cpu, f"_is_{instructions}_supported", bool)()


@cache
def cpu_has_bfloat16():
    """Whether the CPU has bfloat16 dot products (AVX512-BF16 or AMX)."""
    return cpu_has("avx512_bf16") or cpu_has("amx_tile")


def encode_at(centred, weight, bias, intercept, support):
    """Pre-activations ``centred @ weight.T + bias``, at the support or (None) everywhere.

    Parameters
    ----------
    centred : tensor of shape (B, d)
        x - intercept, as data: no gradient.
    weight : tensor of shape (n, d)
    bias : tensor of shape (n,)
    intercept : tensor of shape (d,)
        What was subtracted. Its gradient is ``-weight.T @ Σ_rows dL/dp``, a matrix-vector
        product, so that dL/dx, a B×d×n product, is never formed.
    support : Support or None

    Returns
    -------
    pre_activations : tensor of shape (nnz,), or (B, n) without a support
        Differentiable in weight, bias and intercept.
    """
    return _EncodeAt.apply(centred, weight, bias, intercept, support)


def decode(values, support, dictionary):
    """Weighted sums of atoms, ``z @ dictionary``. Differentiable in values and dictionary.

    Returns
    -------
    reconstruction : tensor of shape (B, d)
    """
    return _Decode.apply(values, support, dictionary)


def half_squared_error(centred, intercept, decoded):
    """½‖centred - decoded‖², summed, and the residual itself.

    ``centred`` is x - intercept, as data; differentiable in intercept and decoded.

    Returns
    -------
    error : tensor, scalar
    residual : tensor of the shape of decoded
        Not differentiable.
    """
    return _HalfSquaredError.apply(centred, intercept, decoded)


def reconstruction_error(values, support, dictionary, centred, intercept):
    """`half_squared_error` of `decode`, in one: the gradient of all is the residual itself.

    Differentiable in values, dictionary and intercept.
    """
    return _ReconstructionError.apply(values, support, dictionary, centred, intercept)


class _EncodeAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx, centred, weight, bias, intercept, support):
        ctx.save_for_backward(centred, weight)
        ctx.support = support
        if support is None:
            return F.linear(centred, weight, bias)
        return sampled_product(centred, weight, support).add_(bias[support.indices])

    @staticmethod
    def backward(ctx, grad):
        centred, weight = ctx.saved_tensors
        grad_weight = transposed_product(grad, ctx.support, centred)
        if ctx.support is None:
            grad_bias = grad.sum(dim=0)
        else:
            grad_bias = add_at_(grad.new_zeros(len(weight)), ctx.support.indices, grad)
        return None, grad_weight, grad_bias, -(weight.T @ grad_bias), None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, support, dictionary):
        ctx.save_for_backward(values, dictionary)
        ctx.support = support
        return _weighted_sums(values, support, dictionary)

    @staticmethod
    def backward(ctx, grad_output):
        values, dictionary = ctx.saved_tensors
        grad_values = sampled_product(grad_output, dictionary, ctx.support)
        grad_dictionary = None
        if ctx.needs_input_grad[2]:
            grad_dictionary = transposed_product(values, ctx.support, grad_output)
        return grad_values, None, grad_dictionary


class _ReconstructionError(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, support, dictionary, centred, intercept):
        decoded = _weighted_sums(values, support, dictionary)
        residual = torch.sub(centred, decoded, out=decoded)
        ctx.save_for_backward(values, dictionary, residual)
        ctx.support = support
        ctx.mark_non_differentiable(residual)
        return 0.5 * torch.linalg.vector_norm(residual).square(), residual

    @staticmethod
    def backward(ctx, grad, _):
        values, dictionary, residual = ctx.saved_tensors
        grad_values = sampled_product(residual, dictionary, ctx.support).mul_(-grad)
        grad_dictionary = grad_intercept = None
        if ctx.needs_input_grad[2]:
            grad_dictionary = transposed_product(values * -grad, ctx.support, residual)
        if ctx.needs_input_grad[4]:
            grad_intercept = residual.sum(dim=0) * -grad
        return grad_values, None, grad_dictionary, None, grad_intercept


class _HalfSquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx, centred, intercept, decoded):
        residual = centred - decoded
        ctx.save_for_backward(residual)
        ctx.mark_non_differentiable(residual)
        return 0.5 * torch.linalg.vector_norm(residual).square(), residual

    @staticmethod
    def backward(ctx, grad, _):
        (residual,) = ctx.saved_tensors
        grad_decoded = residual * -grad
        return None, grad_decoded.sum(dim=tuple(range(residual.dim() - 1))), grad_decoded


def _weighted_sums(values, support, table):
    """``z @ table``: (B, d)."""
    if support is None:
        return values @ table
    if table.device.type == "cuda" and has_triton():
        from .triton.products import weighted_sums

        return weighted_sums(values, support.indptr, support.indices, table)
    return F.embedding_bag(
        support.indices,
        table,
        support.indptr,
        mode="sum",
        per_sample_weights=values,
        include_last_offset=True,
    )


def sampled_product(left, right, support):
    """Entries of ``left @ right.T`` at the support: (nnz,), or (B, n) without a support."""
    if support is None:
        return left @ right.T
    if left.device.type == "cuda" and has_triton():
        from .triton.products import products_at

        return products_at(left, right, support.indptr, support.indices)
    zeros = left.new_zeros(len(support.indices))
    pattern = csr_tensor(support.indptr, support.indices, zeros, support.shape)
    return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()


def add_at_(table, index, rows):
    """table[index] += rows for an index that repeats; in an order that is always the same."""
    if table.device.type == "cpu":
        return table.index_add_(0, index, rows)
    # on CUDA index_add_ adds in any order, and this sorts
    return table.index_put_((index,), rows, accumulate=True)


def transposed_product(values, support, table):
    """``z.T @ table`` for codes z, by their values at the support or everywhere: (n, d)."""
    if support is None:
        return values.T @ table
    indptr, rows, order = support.transposed
    transposed = Support(indptr, rows, len(table))
    return _weighted_sums(values[order], transposed, table)
