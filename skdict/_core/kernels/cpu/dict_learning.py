"""Sums and updates of online dictionary learning on the CPU."""

import numpy as np

from .compile import compiled


def add_outer_products(matrix, support, values, weight):
    tensors = matrix, support.indptr, support.indices, values
    _add_outer_products(*(tensor.numpy() for tensor in tensors), weight)


def update_in_turn(*tensors):
    _update_in_turn(*(tensor.numpy() for tensor in tensors))


@compiled()
def _add_outer_products(matrix, indptr, indices, values, weight):
    for i in range(len(indptr) - 1):
        for entry in range(indptr[i], indptr[i + 1]):
            row, value = matrix[indices[entry]], values[entry] * values.dtype.type(weight)
            for other in range(indptr[i], indptr[i + 1]):
                row[indices[other]] += value * values[other]


@compiled(error_model="numpy", fastmath={"reassoc", "contract"})
def _update_in_turn(atoms, missing, code_code, used):
    n, d = atoms.shape
    new = np.empty(d, atoms.dtype)
    for j in range(n):
        if not used[j]:
            continue
        square = 0.0
        for i in range(d):
            new[i] = atoms[j, i] + missing[j, i] / code_code[j, j]
            square += np.float64(new[i]) * new[i]
        if square == 0:
            continue
        scale = atoms.dtype.type(1 / np.sqrt(square))
        for i in range(d):
            new[i] *= scale
        for k in range(j + 1, n):
            weight = code_code[k, j]
            if weight != 0:
                for i in range(d):
                    missing[k, i] -= weight * (new[i] - atoms[j, i])
        atoms[j] = new
