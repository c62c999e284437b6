"""Lasso problems of a few atoms each, many at a time: an active set of atoms for each."""

import torch

from ..tolerances import MAX_EXCHANGES, SLACK

# Correlations, or features of working sets, that are held at a time: 128 MiB in float64.
BATCH_ELEMENTS = 1 << 24
# A code that is this small, relative to its change, counts as zero.
ROUNDING = 1e-14
# Added to the diagonal, as a fraction of it, for atoms that depend on each other.
JITTER = 1e-12


def solve_working_sets(gram, first, codes, alpha, positive):
    """Minimise over the codes of working sets, by an active set for each (Lawson and Hanson).

    Where signs allow, the system at the support is solved exactly, and then the atom that violates
    optimality most joins the support. Otherwise the codes go as far as signs allow, and an atom
    whose code becomes zero leaves.

    Parameters
    ----------
    gram : tensor of shape (B, m, m), float64
    first : tensor of shape (B, m)
        Correlations of the atoms with the samples.
    codes : tensor of shape (B, m)
        To start from.
    alpha : tensor of shape (B,)
    positive : bool

    Returns
    -------
    codes : tensor of shape (B, m)
    """
    if positive:
        codes = codes.clamp_min(0)
    if codes.shape[1] == 0:
        return codes
    diagonal, alpha = gram.diagonal(dim1=1, dim2=2), alpha[:, None]
    sign = codes.sign()
    for _ in range(MAX_EXCHANGES * codes.shape[1]):
        active = sign != 0
        system = torch.where(active[:, :, None] & active[:, None], gram, 0)
        system = system + torch.diag_embed(torch.where(active, JITTER * diagonal, 1))
        factor = torch.linalg.cholesky_ex(system).L
        right = torch.where(active, first - alpha * sign, 0)
        target = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
        target = torch.where(torch.isfinite(target), target, codes)
        crosses = active & (target * sign <= 0)
        length = torch.where(crosses, codes / (codes - target), 1).nan_to_num(0)
        length = length.amin(dim=1, keepdim=True)
        codes = torch.where(length < 1, codes + length * (target - codes), target)
        leaves = crosses & (codes * sign <= ROUNDING * (codes - target).abs())
        codes = torch.where(leaves | ~active, 0, codes)
        sign = torch.where(leaves, 0, sign)

        correlation = first - (gram @ codes[:, :, None])[:, :, 0]
        size = correlation if positive else correlation.abs()
        size, entrant = torch.where((sign != 0) | (diagonal <= 0), 0, size).max(dim=1)
        joins = (size > (1 + SLACK) * alpha[:, 0]) & ~crosses.any(dim=1)
        rows = joins.nonzero()[:, 0]
        sign[rows, entrant[rows]] = correlation[rows, entrant[rows]].sign()
        if not (joins.any() | crosses.any()):  # waits for the device
            break
    return codes
