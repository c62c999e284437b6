"""Sums about a point in plain torch."""

import torch


def add_sums_about_(total, squares, x, centre, least, most):
    offset = x.float() - centre
    squares.copy_(torch.linalg.vector_norm(offset, dim=1).square())
    is_added = least < float(squares.max()) < most
    if is_added:
        total += offset.sum(dim=0)
    return is_added
