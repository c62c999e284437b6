"""What a dictionary's codes have to beat: neurons, principal components, random atoms."""

import numpy as np
import torch
from scipy.sparse import csr_array, issparse, vstack
from sklearn.decomposition import PCA

from ..._core.torch_state import plain_torch
from ...metrics._rows import float64_block, row_blocks

N_PRINCIPAL = 100
PCA_ROWS = 50_000  # at most so many rows determine the principal components


def controls_of(X, selecting, n_components, l0, random_state):
    """Representations of the same samples, by name.

    Parameters
    ----------
    X : ndarray or csr_array of shape (n_samples, n_neurons)
    selecting : ndarray of int64
        The rows that principal components and the centre are taken from.
    n_components, l0 : int
        Number of random atoms, and of non-zero codes of them per sample.
    random_state : RandomState

    Returns
    -------
    matrices : dict of str to ndarray or csr_array
    """
    rows = np.sort(random_state.permutation(selecting)[:PCA_ROWS])
    sample = float64_block(X, rows)
    n_principal = min(N_PRINCIPAL, *sample.shape)
    pca = PCA(n_principal, svd_solver="covariance_eigh").fit(sample)
    atoms = random_state.normal(size=(n_components, X.shape[1])).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    principal = np.empty((X.shape[0], n_principal))
    codes = []
    for block in row_blocks(X):
        part = float64_block(X, block)
        principal[block] = pca.transform(part)
        codes += _greatest_projections(part - pca.mean_, atoms, l0)
    random = vstack(codes, format="csr")
    neurons = csr_array(X) if issparse(X) else X
    return {"neurons": neurons, "PCA": principal, "random atoms": random}


def _greatest_projections(X, atoms, l0):
    """Codes of X in random atoms: of each row its `l0` greatest projections, if positive."""
    X, atoms = torch.from_numpy(X.astype(np.float32)), torch.from_numpy(atoms)
    n_rows = max(1, 2**24 // len(atoms))
    for block in X.split(n_rows):
        with plain_torch():
            values, columns = (block @ atoms.T).topk(min(l0, len(atoms)), dim=1, sorted=False)
        indptr = np.arange(0, values.numel() + 1, values.shape[1])
        entries = values.clamp_min(0).double().numpy().ravel(), columns.numpy().ravel(), indptr
        codes = csr_array(entries, shape=(len(block), len(atoms)))
        codes.eliminate_zeros()
        codes.sort_indices()
        yield codes
