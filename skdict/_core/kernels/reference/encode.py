"""`operations.encode` from all pre-activations."""

from functools import partial

import torch
import torch.nn.functional as F

# Pre-activations are formed for so many entries at a time: 16 MiB in float32.
BLOCK_ELEMENTS = 1 << 22


def encode(weight, bias, n_largest, threshold, linear=F.linear):
    pre_activations = partial(linear, weight=weight, bias=bias)
    step = max(1, BLOCK_ELEMENTS // len(weight))
    return partial(_code, pre_activations, n_largest, threshold, step)


def _code(pre_activations, n_largest, threshold, step, centred):
    blocks = map(pre_activations, centred.split(step))
    parts = [_code_block(block, n_largest, threshold) for block in blocks]
    return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))


def _code_block(codes, n_largest, threshold):
    """Of the pre-activations (B, n) of a block, which are overwritten."""
    codes = codes.relu_() if threshold is None else torch.where(codes > threshold, codes, 0)
    if n_largest is None:
        active = codes != 0  # NaN too: it must not vanish
        return active.sum(dim=1), active.nonzero()[:, 1], codes[active]
    values, indices = codes.topk(n_largest, dim=1, sorted=False)
    indices, order = indices.sort(dim=1)
    values = values.gather(1, order)
    active = values != 0
    return active.sum(dim=1), indices[active], values[active]


def exceeding(weight, bias, linear=F.linear):
    pre_activations = partial(linear, weight=weight, bias=bias)
    step = max(1, BLOCK_ELEMENTS // len(weight))

    def search(centred, threshold):
        parts = []
        for block in centred.split(step):
            values = pre_activations(block)
            above = values > threshold
            parts.append((above.sum(dim=1), above.nonzero()[:, 1], values[above]))
        return tuple(map(torch.cat, zip(*parts, strict=True)))

    return search
