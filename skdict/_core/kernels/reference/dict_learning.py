"""Sums and updates of online dictionary learning."""

import torch


def add_outer_products(matrix, support, values, weight):
    codes = support.dense(values)
    n = codes.shape[1]
    matrix[:n, :n].addmm_(codes.T, codes, alpha=weight)


def update_in_turn(atoms, missing, code_code, used):
    tiny = torch.finfo(atoms.dtype).tiny
    for j in used.nonzero()[:, 0].tolist():  # waits for the device
        new = atoms[j, None] + missing[j] / code_code[j, j]
        norm = torch.linalg.vector_norm(new, dim=1, keepdim=True)
        new = torch.where(norm > 0, new / norm.clamp_min(tiny), atoms[j])
        missing -= code_code[:, j, None] * (new - atoms[j])
        atoms[j] = new[0]
