"""Which pre-activations are a code, where not only positive ones are: dense and plain.

Each takes pre-activations p (B, n), a threshold θ (n,) or None, and how many entries to keep, and
gives the codes (B, n).
"""

import torch


def largest_absolute(p, threshold, n_largest):
    """The entries with the largest absolute value, with their sign."""
    return _at(p, p.abs().topk(n_largest, dim=1, sorted=False).indices)


def signed(p, threshold, n_largest):
    """p where p > θ, or the largest entries, though they be negative."""
    if n_largest is not None:
        return _at(p, p.topk(n_largest, dim=1, sorted=False).indices)
    return torch.where(p > threshold, p, 0)


def group_maximum(p, threshold, n_largest):
    """The largest entry of each of ``n_largest`` contiguous groups, if it is positive.

    The sizes of the groups differ by one at most. Equal entries of a group are all kept.
    """
    n = p.shape[1]
    groups = torch.arange(n, device=p.device).mul_(n_largest).div_(n, rounding_mode="floor")
    groups = groups.expand_as(p)
    best = p.new_zeros(len(p), n_largest).scatter_reduce_(1, groups, p, "amax")
    return torch.where((p > 0) & (p == best.gather(1, groups)), p, 0)


def _at(p, indices):
    """p at these entries (B, k), and zero elsewhere."""
    return torch.zeros_like(p).scatter_(1, indices, p.gather(1, indices))


SELECTIONS = {"absolute": largest_absolute, "signed": signed, "groups": group_maximum}
