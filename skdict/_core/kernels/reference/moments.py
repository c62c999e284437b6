"""Sums about a point in plain torch."""

import torch


def sums_about(x, centre):
    offset = x.float() - centre
    squares = torch.linalg.vector_norm(offset, dim=1).square()
    return offset.sum(dim=0).double(), squares.double()
