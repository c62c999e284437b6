"""Numbers of any size are scaled to about 1 by powers of two, which changes no digit."""

import torch

# For samples and atoms with entries of about 1: with a larger alpha all codes are zero, and larger
# codes are not used to start from.
LARGEST = 1e30


def unit_factors(size):
    """Powers of two that bring sizes (..., >= 0) to about 1."""
    tiny = torch.finfo(size.dtype).tiny
    size = torch.where(size > 0, size, 1).clamp(tiny, 1 / tiny)
    return torch.frexp(size).mantissa / size


def scaled(number, left, right):
    """A number times two factors whose product alone may overflow or underflow."""
    return number * torch.maximum(left, right) * torch.minimum(left, right)
