"""Products of numbers of any size, computed on others of about 1.

What is multiplied by a power of two keeps all its digits, and so does what is computed from it.
"""

import torch


def unit_factors(size):
    """Powers of two that bring sizes (..., >= 0) to about 1."""
    tiny = torch.finfo(size.dtype).tiny
    size = torch.where(size > 0, size, 1).clamp(tiny, 1 / tiny)
    return torch.frexp(size).mantissa / size


def scaled(number, left, right):
    """A number times two factors, whose product alone need not be in range."""
    return number * torch.maximum(left, right) * torch.minimum(left, right)
