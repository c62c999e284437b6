"""The neurons in a feature's atom."""

import numpy as np
from sklearn.utils import gen_batches

from ....metrics._rows import BLOCK_SIZE

N_LISTED = 10


def gather(context):
    """The greatest entries of each atom in absolute value, and their share of its L1 norm.

    The shares of a zero atom are 0.
    """
    atoms = context.atoms
    if atoms is None:
        return {}
    n_atoms, n_neurons = len(context.columns), atoms.shape[1]
    n = min(N_LISTED, n_neurons)
    index = np.empty((n_atoms, n), dtype=np.int64)
    weight, share = np.empty((n_atoms, n)), np.empty((n_atoms, n))
    for rows in gen_batches(n_atoms, max(1, BLOCK_SIZE // n_neurons)):
        block = atoms[context.columns[rows]]
        size = abs(block)
        greatest = np.argpartition(-size, n - 1, axis=1)[:, :n]
        order = np.lexsort((greatest, -np.take_along_axis(size, greatest, axis=1)), axis=1)
        index[rows] = np.take_along_axis(greatest, order, axis=1)
        weight[rows] = np.take_along_axis(block, index[rows], axis=1)
        total = size.sum(axis=1, keepdims=True)
        share[rows] = abs(weight[rows]) / np.where(total > 0, total, 1)
    return {"index": index, "weight": weight, "share": share}
