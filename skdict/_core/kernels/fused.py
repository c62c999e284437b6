"""Bodies that are one operator of torch: on the CPU, and on CUDA where there is no Triton."""

import torch
import torch.nn.functional as F

from .support import csr_tensor


def weighted_sums(values, support, table):
    return F.embedding_bag(
        support.indices,
        table,
        support.indptr,
        mode="sum",
        per_sample_weights=values,
        include_last_offset=True,
    )


def sampled_product(left, right, support):
    zeros = left.new_zeros(len(support.indices))
    pattern = csr_tensor(support.indptr, support.indices, zeros, support.shape)
    return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()


def add_at_(table, index, rows):
    return table.index_add_(0, index, rows)  # on the CPU only: CUDA adds in any order
