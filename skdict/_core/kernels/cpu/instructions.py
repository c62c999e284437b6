"""What the CPU can multiply fast."""

from functools import cache

import torch


def cpu_has(instructions):
    """Whether the CPU has these, as torch names them; False where this torch does not say."""
    return getattr(torch.cpu, f"_is_{instructions}_supported", bool)()


@cache
def cpu_has_bfloat16():
    """Whether the CPU has bfloat16 dot products (AVX512-BF16 or AMX)."""
    return cpu_has("avx512_bf16") or cpu_has("amx_tile")
