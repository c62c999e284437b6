"""What the Lasso and OMP share on the CPU: the Gram matrix, and pieces of rows for the cores."""

import numpy as np
import torch

from .products import linear
from .threads import map_on_cores

# Larger Gram matrices are not formed: 16,384 atoms in float32.
GRAM_BYTES = 1 << 30
# Correlations of a piece: 1 MiB in float32, in the cache of a core.
PIECE_ELEMENTS = 1 << 18


def gram_fits(dictionary):
    """Whether samples are coded one by one, on the Gram matrix."""
    return len(dictionary) ** 2 * dictionary.element_size() <= GRAM_BYTES


def product(left, right):
    """left @ right.T in their own precision, even where torch may use less for products."""
    if torch.get_float32_matmul_precision() == "highest":
        return linear(left, right)
    return (left.double() @ right.double().T).to(left.dtype)


def in_pieces(code, n_rows, n_components):
    """Arrays that code(slice of rows) returns for the pieces, one per core at a time, joined."""
    step = max(1, PIECE_ELEMENTS // n_components)
    pieces = [slice(i, min(i + step, n_rows)) for i in range(0, n_rows, step)]
    found = zip(*map_on_cores(code, pieces), strict=True)
    return tuple(
        torch.from_numpy(part[0] if len(part) == 1 else np.concatenate(part)) for part in found
    )
