"""The largest entries of each sample, where processes hold different atoms."""

import torch
import torch.nn.functional as F

from ..kernels import Support


def merge_candidates(support, keys, k, strategy):
    """Of the entries that each process has found, those among the k largest of a sample.

    Samples are dealt out over the processes. Each gets the candidates of its samples, finds the
    largest, and tells everyone which of theirs are kept: (R - 1) / R · B k (s + 1) bytes are sent
    by each, with s the size of a key.

    Parameters
    ----------
    support : Support of shape (B, n)
        At most k entries of each row, with the atoms of this process.
    keys : tensor of shape (nnz,)
        Of which the largest are kept.
    k : int
    strategy : Strategy

    Returns
    -------
    support : Support of shape (B, n)
    """
    ranks = strategy.features
    n_rows = support.shape[0]
    place = torch.arange(len(keys), device=keys.device) - support.indptr[support.rows]
    table = keys.new_full((n_rows, k), -torch.inf)
    table[support.rows, place] = keys
    candidates = ranks.dealt(table).movedim(0, 1)  # (b, R, k)
    largest = candidates.flatten(1).topk(k, dim=1, sorted=False).indices
    keep = torch.zeros(
        candidates.flatten(1).shape, dtype=torch.uint8, device=keys.device
    ).scatter_(1, largest, 1)
    keep = ranks.undealt(keep.view(candidates.shape).movedim(1, 0), n_rows)
    return entries_of(support, keep[support.rows, place] > 0)


def entries_of(support, keep):
    """The support of those entries that are kept: (nnz,), bool."""
    counts = torch.zeros(support.shape[0], dtype=torch.int64, device=keep.device)
    counts.index_add_(0, support.rows, keep.long())
    products = None if support.products is None else support.products[keep]
    indptr = F.pad(counts.cumsum(0), (1, 0))
    return Support(indptr, support.indices[keep], support.n_components, products)


def largest_of_groups(pre_activations, n_groups, strategy):
    """The largest entry of each group of atoms if it is positive, as `selection.group_maximum`.

    Parameters
    ----------
    pre_activations : tensor of shape (B, n)
        Of the atoms of this process.
    n_groups : int
        Of all atoms, contiguous; a group may lie in several processes.
    strategy : Strategy

    Returns
    -------
    codes : tensor of shape (B, n)
    """
    p = pre_activations
    groups = torch.arange(p.shape[1], device=p.device) + strategy.start
    groups = (groups * n_groups).div_(strategy.n_components, rounding_mode="floor").expand_as(p)
    best = p.new_zeros(len(p), n_groups).scatter_reduce_(1, groups, p, "amax")
    strategy.features.max_(best)
    return torch.where((p > 0) & (p == best.gather(1, groups)), p, 0)
