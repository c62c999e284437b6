"""`operations.select`, in the precision of the operands."""

import torch
import torch.nn.functional as F

# Pre-activations are formed for so many entries at a time: 64 MiB in float32.
BLOCK_ELEMENTS = 1 << 24


def select(x, weight, bias, k):
    """Counts (B,) and indices (nnz,) of the positive pre-activations, or of k among them."""
    counts, indices = [], []
    for block in x.split(max(1, BLOCK_ELEMENTS // len(weight))):
        pre_activations = F.linear(block, weight, bias)
        if k is None:
            columns = torch.arange(len(weight), device=x.device).expand_as(pre_activations)
        else:
            columns = pre_activations.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
            pre_activations = pre_activations.gather(1, columns)
        positive = pre_activations > 0
        counts.append(positive.sum(dim=1))
        indices.append(columns[positive])
    return torch.cat(counts), torch.cat(indices)
