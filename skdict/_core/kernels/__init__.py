"""The operations of the numerical core: fast where a device has a body for them, plain elsewhere.

A code has few non-zeros among thousands of entries, and no gradient passes where it is zero. So
of a sparse autoencoder only the encoder's scan over all atoms (`select`) costs 2·B·d·n FLOPs; the
values (`encode_at`), the reconstruction (`decode`) and every gradient are computed at the support
alone. With ``support=None`` the same functions work on the dense (B, n) matrix, which pays while
codes are still dense.

`operations` states what each operation computes. `_dispatch.TABLE` says which module does it on
which device: Numba on the CPU (`cpu`), Triton on CUDA (`triton`), torch's own operators
(`bfloat16`, `fused`), or the plain reference (`reference`), by which the tests judge the others.

A new operation is a contract in `operations`, a function in `reference` and a row of the table. A
new body is a function with the operation's name in a file of its device and an entry of the row.
"""

from .differentiable import (
    decode,
    encode_at,
    half_squared_error,
    products_at,
    reconstruction_error,
)
from .operations import (
    add_at_,
    add_outer_products,
    add_sums_about_,
    encode,
    exceeding,
    lasso,
    linear,
    omp,
    products_are,
    sampled_product,
    select,
    transposed_product,
    unit_rows,
    update_in_turn,
    weighted_sums,
)
from .support import Support, csr_tensor

__all__ = [
    "Support",
    "add_at_",
    "add_outer_products",
    "add_sums_about_",
    "csr_tensor",
    "decode",
    "encode",
    "encode_at",
    "exceeding",
    "half_squared_error",
    "lasso",
    "linear",
    "omp",
    "products_are",
    "products_at",
    "reconstruction_error",
    "sampled_product",
    "select",
    "transposed_product",
    "unit_rows",
    "update_in_turn",
    "weighted_sums",
]
