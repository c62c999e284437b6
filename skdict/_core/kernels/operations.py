"""The operations, each with its contract; `_dispatch.TABLE` has what carries them out.

Shapes: samples x (B, d), weight or dictionary (n, d), codes (B, n) with nnz non-zeros.
"""

import torch
import torch.nn.functional as F

from ._dispatch import body
from .support import Support


@torch.no_grad()
def select(x, weight, bias, k=None):
    """Find where the codes of x can be non-zero: 2·B·d·n FLOPs, most of a training step.

    float32 is scanned in fewer bits where the device multiplies these several times faster: in
    8-bit integers, else in bfloat16. Without k the scan has a bound on the rounding error. The
    support has a few entries too many, whose pre-activation is not positive, and never one too few
    (as long as products are summed in float32, as on the CPU; torch lets CUDA sum parts of them in
    bfloat16, where a pre-activation just above zero may be missed). With k the support is that of
    rounded pre-activations: from 8-bit integers where these are precise enough
    (`cpu.select.MAX_NOISE`), else from bfloat16; gradients are exact for it.

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
    counts, indices, *products = body("select", x.device)(x, weight, bias, k)
    return Support(F.pad(counts.cumsum(0), (1, 0)), indices, len(weight), *products)


def linear(x, weight, bias=None):
    """``x @ weight.T + bias``: (B, n), for tensors of one dtype; fast for few rows, too."""
    return body("linear", weight.device)(x, weight, bias)


def products_are(vector, weight, products, tol):
    """Whether ``weight @ vector`` (n,) is still as it was, within tol (n,); a NaN is not.

    Parameters
    ----------
    vector : tensor of shape (d,)
    weight : tensor of shape (n, d)
        Float32 or float64, and all of one dtype.
    products, tol : tensor of shape (n,)

    Returns
    -------
    are_equal : bool
    """
    return body("products_are", weight.device)(vector, weight, products, tol)


def weighted_sums(values, support, table):
    """``z @ table``: (B, d), for codes z by their values at the support, or dense without one."""
    if support is None:
        return values @ table
    return body("weighted_sums", table.device)(values, support, table)


def sampled_product(left, right, support):
    """Entries of ``left @ right.T`` at the support: (nnz,), or (B, n) without a support."""
    if support is None:
        return left @ right.T
    return body("sampled_product", left.device)(left, right, support)


def residual_products(target, values, support, table):
    """The residual ``target - z @ table``: (B, d), and `sampled_product` of it with the table."""
    if support is None:
        residual = target - values @ table
        return residual, residual @ table.T
    return body("residual_products", table.device)(target, values, support, table)


def transposed_product(values, support, table):
    """``z.T @ table``: (n, d), for codes z by their values at the support, or dense."""
    if support is None:
        return values.T @ table
    indptr, rows, order = support.transposed
    return weighted_sums(values[order], Support(indptr, rows, len(table)), table)


def add_at_(table, index, rows):
    """table[index] += rows, in place, for an index that repeats.

    Sums are taken in the same order every time, so the result is the same to the last bit.
    """
    return body("add_at_", table.device)(table, index, rows)


def add_sums_about_(total, squares, x, centre, least, most):
    """Σ (x - centre) over rows and ‖x - centre‖² of each, summed in float32.

    Returns
    -------
    is_added : bool
        Whether the largest of the squares is between ``least`` and ``most``, which it is not if
        anything is not finite. Otherwise nothing is added to ``total``.

    Parameters
    ----------
    total : tensor of shape (d,), float64
        To which the sum over rows is added.
    squares : tensor of shape (B,), float64
        Written to.
    x : tensor of shape (B, d), contiguous
        May be in half precision.
    centre : tensor of shape (d,), float32
    least, most : float
    """
    return body("add_sums_about_", x.device)(total, squares, x, centre, least, most)


def add_outer_products(matrix, support, values, weight):
    """matrix[:n, :n] += weight · zᵀz for codes z by their values at the support, in place."""
    body("add_outer_products", matrix.device)(matrix, support, values, weight)


def update_in_turn(atoms, missing, code_code, used):
    """Update the atoms of a block one after the other, in place: block coordinate descent.

    Each becomes D_j + (B_j - A_j D) / A_jj, scaled to norm 1, where D has the new values of the
    atoms before it.

    Parameters
    ----------
    atoms : tensor of shape (m, d)
    missing : tensor of shape (m, d)
        Rows of B - A D; overwritten.
    code_code : tensor of shape (m, m)
        A, of these atoms.
    used : tensor of shape (m,), bool
        Others stay as they are.
    """
    body("update_in_turn", atoms.device)(atoms, missing, code_code, used)


def encode(weight, bias, n_largest, threshold):
    """Prepare an encoder: z_j = p_j where p_j > θ_j, else 0, with p = centred @ weight.T + bias.

    Parameters
    ----------
    weight : tensor of shape (n, d)
    bias : tensor of shape (n,)
    n_largest : int or None
        Keep only so many of the largest entries of each row.
    threshold : tensor of shape (n,) or None
        θ ≥ 0; None is zero.

    Returns
    -------
    code : callable
        Takes centred samples (B, d). Returns counts (B,), indices (nnz,) and values (nnz,) of
        their codes.
    """
    return body("encode", weight.device)(weight, bias, n_largest, threshold)


def exceeding(weight, bias):
    """Prepare a search for entries p_j > t_j of p = centred @ weight.T + bias.

    Parameters
    ----------
    weight : tensor of shape (n, d)
    bias : tensor of shape (n,)

    Returns
    -------
    search : callable
        Takes centred samples (B, d), at least one, and thresholds t (n,) of any sign. Returns
        counts (B,), indices (nnz,) and values p (nnz,); indices ascend in each row.
    """
    return body("exceeding", weight.device)(weight, bias)


def unit_rows(x, alpha, of_atoms):
    """Scale the Lasso problems of some rows, so that rows have entries of about 1.

    Parameters
    ----------
    x : tensor of shape (B, d)
    alpha : float
        L1 coefficient for the rows and atoms as they were.
    of_atoms : float
        What atoms have been multiplied by, a power of two.

    Returns
    -------
    x : tensor of shape (B, d)
        Each row times a power of two.
    alpha : tensor of shape (B,), float64
        L1 coefficients of the scaled problems, at most `scaling.LARGEST`.
    of_codes : tensor of shape (B,), float64
        What codes of the scaled problems have to be multiplied by.
    """
    return body("unit_rows", x.device)(x, alpha, of_atoms)


def lasso(dictionary, *, dtype, least_alpha, positive, tol, max_iter):
    """Prepare a dictionary for Lasso codes: min ½‖x - z D‖² + α‖z‖₁ over z, or over z >= 0.

    Samples and atoms must have entries of about 1.

    Parameters
    ----------
    dictionary : tensor of shape (n, d), float32 or float64
    dtype : torch.dtype
        Of the codes.
    least_alpha : float
        α is raised to this fraction of a sample's largest correlation. The gap is that of the α
        given.
    positive : bool
        Whether codes must not be negative.
    tol : float
        Largest duality gap, as a fraction of the objective.
    max_iter : int
        How often atoms may enter the working set of a sample.

    Returns
    -------
    code : callable
        Takes samples (B, d), α of each (B,), what to multiply its codes by in the end (B,), and
        the Support and values (nnz,), float64, of codes to start from. Returns counts (B,),
        indices (nnz,) and values (nnz,) of the codes, and gaps (B,): duality gap over objective
        of the codes as they are returned, in float64, 0 where both are 0.
    """
    return body("lasso", dictionary.device)(
        dictionary,
        dtype=dtype,
        least_alpha=least_alpha,
        positive=positive,
        tol=tol,
        max_iter=max_iter,
    )


def omp(dictionary, weights, *, positive, rounding):
    """Prepare a dictionary for orthogonal matching pursuit.

    Parameters
    ----------
    dictionary : tensor of shape (n, d), float32 or float64
        Atoms of norms of about 1.
    weights : tensor of shape (n,), float64, or None
        What the correlation with an atom is multiplied by before atoms are compared; None if all
        weights are 1.
    positive : bool
        Whether codes must not be negative.
    rounding : float
        A correlation that is smaller, as a fraction of ‖x‖, counts as zero.

    Returns
    -------
    code : callable
        Takes samples (B, d), for each the number of atoms (B,), int64, and the ‖x - z D‖² (B,),
        float64, at either of which it ends. Returns counts (B,), indices (nnz,) and values
        (nnz,).
    """
    return body("omp", dictionary.device)(
        dictionary, weights, positive=positive, rounding=rounding
    )
