"""Which implementation of an operation runs on which device."""

import importlib.util
from functools import cache
from importlib import import_module

# Triton comes with torch's CUDA builds for Linux.
PRODUCTS_ON_CUDA = "triton.products" if importlib.util.find_spec("triton") else "fused"

# Operation, device -> module of the function that has the operation's name. A device without an
# entry takes the reference, which is plain torch and runs on any. Modules are imported when an
# operation is first called: Numba alone takes a second.
TABLE = {
    "select": {"any": "reference.select", "cpu": "cpu.select", "cuda": "bfloat16"},
    "encode": {"any": "reference.encode", "cpu": "cpu.encode"},
    "exceeding": {"any": "reference.encode", "cpu": "cpu.encode"},
    "linear": {"any": "reference.products", "cpu": "cpu.products"},
    "products_are": {"any": "reference.products", "cpu": "cpu.products"},
    "transpose": {"any": "reference.products", "cpu": "cpu.transpose"},
    "weighted_sums": {"any": "reference.products", "cpu": "fused", "cuda": PRODUCTS_ON_CUDA},
    "sampled_product": {
        "any": "reference.products",
        "cpu": "cpu.products",
        "cuda": PRODUCTS_ON_CUDA,
    },
    "residual_products": {
        "any": "reference.products",
        "cpu": "cpu.products",
        "cuda": "composed",
    },
    "add_at_": {"any": "reference.products", "cpu": "fused"},
    "add_outer_products": {"any": "reference.dict_learning", "cpu": "cpu.dict_learning"},
    "update_in_turn": {"any": "reference.dict_learning", "cpu": "cpu.dict_learning"},
    "unit_rows": {"any": "reference.lasso", "cpu": "cpu.lasso"},
    "lasso": {"any": "reference.lasso", "cpu": "cpu.lasso"},
    "omp": {"any": "reference.omp", "cpu": "cpu.omp"},
    "add_sums_about_": {"any": "reference.moments", "cpu": "cpu.moments"},
}


def body(operation, device):
    """The function that carries out an operation on tensors of a device."""
    modules = TABLE[operation]
    return getattr(_module(modules.get(device.type, modules["any"])), operation)


@cache
def _module(name):
    return import_module(f".{name}", __package__)
