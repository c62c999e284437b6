"""Products with codes at a support on CUDA devices, in Triton.

One program for each row of the codes (each column, for the transposed product), so that no two
write to the same place: results do not depend on the order in which programs run. Sums are in
float32, and in float64 for float64. TRITON_INTERPRET=1 runs the same kernels on the CPU.
"""

import torch
import triton
import triton.language as tl

# Entries and features that a program loads at a time.
BLOCK_ENTRIES = 16
BLOCK_FEATURES = 256


def weighted_sums(values, support, table):
    out = torch.empty(
        len(support.indptr) - 1, table.shape[1], dtype=table.dtype, device=table.device
    )
    grid = (len(out), triton.cdiv(table.shape[1], BLOCK_FEATURES))
    if len(out):
        _weighted_sums[grid](
            values, support.indptr, support.indices, table.contiguous(), out, table.shape[1],
            BLOCK_ENTRIES, BLOCK_FEATURES, _accumulator(table),
        )  # fmt: skip
    return out


def sampled_product(left, right, support):
    out = left.new_empty(len(support.indices))
    if len(out):
        _sampled_product[(len(left),)](
            left.contiguous(), right.contiguous(), support.indptr, support.indices, out,
            left.shape[1], BLOCK_ENTRIES, BLOCK_FEATURES, _accumulator(left),
        )  # fmt: skip
    return out


def _accumulator(tensor):
    return tl.float64 if tensor.dtype == torch.float64 else tl.float32


@triton.jit
def _weighted_sums(
    values, indptr, indices, table, out, n_features,
    BLOCK_ENTRIES: tl.constexpr, BLOCK_FEATURES: tl.constexpr, ACCUMULATOR: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    features = tl.program_id(1) * BLOCK_FEATURES + tl.arange(0, BLOCK_FEATURES)
    inside = features < n_features
    last = tl.load(indptr + row + 1)
    total = tl.zeros([BLOCK_FEATURES], dtype=ACCUMULATOR)
    for start in range(tl.load(indptr + row), last, BLOCK_ENTRIES):
        entries = start + tl.arange(0, BLOCK_ENTRIES)
        there = entries < last
        value = tl.load(values + entries, mask=there, other=0.0).to(ACCUMULATOR)
        index = tl.load(indices + entries, mask=there, other=0)
        atoms = tl.load(
            table + index[:, None] * n_features + features[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        ).to(ACCUMULATOR)
        total += tl.sum(value[:, None] * atoms, axis=0)
    tl.store(out + row * n_features + features, total, mask=inside)


@triton.jit
def _sampled_product(
    left, right, indptr, indices, out, n_features,
    BLOCK_ENTRIES: tl.constexpr, BLOCK_FEATURES: tl.constexpr, ACCUMULATOR: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    last = tl.load(indptr + row + 1)
    for start in range(tl.load(indptr + row), last, BLOCK_ENTRIES):
        entries = start + tl.arange(0, BLOCK_ENTRIES)
        there = entries < last
        index = tl.load(indices + entries, mask=there, other=0)
        total = tl.zeros([BLOCK_ENTRIES], dtype=ACCUMULATOR)
        for first in range(0, n_features, BLOCK_FEATURES):
            features = first + tl.arange(0, BLOCK_FEATURES)
            inside = features < n_features
            sample = tl.load(left + row * n_features + features, mask=inside, other=0.0)
            atoms = tl.load(
                right + index[:, None] * n_features + features[None, :],
                mask=there[:, None] & inside[None, :],
                other=0.0,
            )
            total += tl.sum(atoms.to(ACCUMULATOR) * sample.to(ACCUMULATOR)[None, :], axis=1)
        tl.store(out + entries, total, mask=there)
